//! Which of several replicas writes.

use std::time::Duration;

use jiff::Timestamp;
use postern::control::status::{LEASE, LeaseTimes};
use serde_json::json;

use super::stage::{Stage, TIMES};
use super::{lacking, served};

/// A time in the Lease.
fn time(stage: &Stage, field: &str) -> Timestamp {
    let lease = stage.server.get(&["lease", LEASE, "--namespace", &stage.namespace]);
    lease["spec"][field].as_str().and_then(|time| time.parse().ok()).unwrap_or_else(|| panic!("no {field} in {lease}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_writes_and_another_takes_over() {
    let mut stage = Stage::new("leader").await;
    let first = stage.replica("first");
    stage.until("it leads", |_| if first.leads() { Ok(()) } else { Err(String::new()) }).await;
    let second = stage.replica("second");
    served(&mut stage, "git").await;
    assert!(!second.leads() && second.writes("written") == 0 && second.ready(&stage.id("git")).is_none());
    assert!(stage.holder().starts_with("first_"), "{}", stage.holder());

    // A node fails. Nobody is told; the Lease runs out.
    first.kill();
    let renewed = time(&stage, "renewTime");
    stage.until("the other leads", |_| if second.leads() { Ok(()) } else { Err(String::new()) }).await;
    // Not before it has seen it unchanged for the whole of its life.
    let waited = renewed.duration_until(time(&stage, "acquireTime")).unsigned_abs();
    assert!(waited >= TIMES.life, "{waited:?}");
    assert!(stage.holder().starts_with("second_"), "{}", stage.holder());
    stage.secret("secret", &json!({"other": "v"}), "git.example", None);
    stage.server.kubectl(&[
        "patch",
        "secret",
        "secret",
        "--namespace",
        &stage.namespace,
        "--type=json",
        "--patch",
        r#"[{"op": "remove", "path": "/data/token"}]"#,
    ]);
    stage.until_said("git", &lacking("KeyNotFound").each_ref().map(String::as_str)).await;
    assert!(second.writes("written") > 0);

    // A shutdown releases it, and the next one need not wait until it has run out.
    let transitions = |stage: &Stage| {
        let lease = stage.server.get(&["lease", LEASE, "--namespace", &stage.namespace]);
        lease["spec"]["leaseTransitions"].clone()
    };
    assert_eq!(transitions(&stage), 2);
    second.stop().await;
    assert_eq!(stage.holder(), "");
    let third = stage.replica("third");
    stage.until("the next one leads", |_| if third.leads() { Ok(()) } else { Err(String::new()) }).await;
    assert_eq!(transitions(&stage), 3);
}

/// It believes in itself for five minutes, and stops at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_lease_was_taken_writes_no_more() {
    let mut stage = Stage::new("taken").await;
    stage.times = LeaseTimes { life: Duration::from_secs(600), belief: Duration::from_secs(300), ..TIMES };
    let replica = stage.replica("a");
    served(&mut stage, "git").await;
    let patch = r#"{"spec": {"holderIdentity": "another"}}"#;
    let lease = ["patch", "lease", LEASE, "--namespace", &stage.namespace, "--type=merge", "--patch", patch];
    stage.server.kubectl(&lease);
    stage.until("it does not lead", |_| if replica.leads() { Err(String::new()) } else { Ok(()) }).await;
    assert_eq!(replica.ready(&stage.id("git")), None, "what it said of bindings is for the next one to say");
    assert_eq!(stage.holder(), "another");
}
