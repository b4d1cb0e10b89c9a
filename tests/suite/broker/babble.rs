//! What a broker may say that this sidecar does not know, and what it may not say at all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::babbler::{Babbler, Event, Script};
use crate::support::{Binding, Capture, Protocol, Sidecar, repeated, unique_secret};

/// A snapshot with one binding, as a broker writes it.
fn snapshot(binding: &Binding, value: &str) -> Value {
    let document: Value = serde_json::from_str(&binding.json()).expect("a document is JSON");
    json!({"v": 1, "type": "snapshot", "items": [{
        "document": document, "value": STANDARD.encode(value), "version": "7", "caBundle": binding.ca().expect("the upstream speaks TLS").1,
    }]})
}

fn line(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

async fn sidecar_of(babbler: &Babbler) -> Sidecar {
    let broker = json!({"broker": {"url": babbler.url(), "caFile": "broker-ca.pem", "tokenFile": "token"}});
    let builder = Sidecar::for_research().config("source", broker).file("broker-ca.pem", babbler.ca());
    builder.file("token", unique_secret()).start().await
}

/// Fields and messages of later versions are passed over, and lines may come in any pieces.
#[tokio::test]
async fn what_is_newer_is_passed_over() {
    let capture = Capture::start(Protocol::Tls).await;
    let secret = unique_secret();
    let mut whole = snapshot(&Binding::new("github").to(&capture), &secret);
    whole["later"] = json!({"a": [1]});
    whole["items"][0]["later"] = json!(true);
    let hello = line(&json!({"v": 1, "type": "hello", "heartbeatMs": 60_000, "lifeMs": 600_000, "later": 1}));
    let later = line(&json!({"v": 1, "type": "later", "items": "none"}));
    let text = [hello, later, line(&whole)].concat();
    let babbler = Babbler::start(vec![text.chunks(7).map(<[u8]>::to_vec).collect()]).await;
    let sidecar = sidecar_of(&babbler).await;
    sidecar.until_served("github", &["source_not_ready"]).await;
    assert_eq!(capture.request(0).await.values("authorization"), [format!("Bearer {secret}")]);
}

/// What is no stream of ours ends the stream, quotes nothing of itself, and is tried again.
#[tokio::test]
async fn what_cannot_be_read_is_no_snapshot() {
    let capture = Capture::start(Protocol::Tls).await;
    let (secret, binding) = (unique_secret(), Binding::new("github").to(&capture));
    let mut newer = snapshot(&binding, &secret);
    newer["v"] = json!(2);
    let mut unusable = snapshot(&binding, &secret);
    unusable["items"][0]["value"] = json!(STANDARD.encode(format!("{secret}\n")));
    let mut both = snapshot(&binding, &secret);
    both["items"][0]["gap"] = json!({"cause": "absent", "text": ""});
    let good = line(&snapshot(&binding, &secret));
    let scripts: Vec<Script> = vec![
        vec![secret.clone().into_bytes(), b"\n".to_vec()],
        vec![line(&newer)],
        vec![line(&unusable)],
        vec![line(&both)],
        // A line without an end.
        vec![vec![b'x'; 1 << 20]; 9],
        vec![good],
    ];
    let count = scripts.len();
    let babbler = Babbler::start(scripts).await;
    let sidecar = sidecar_of(&babbler).await;
    babbler.asked(count).await;
    sidecar.until_served("github", &["source_not_ready"]).await;
    let faults = sidecar.metric("postern_source_connects_total", &[("result", "protocol")]).await;
    assert_eq!(faults, (count - 1) as f64);
    let said = sidecar.diagnostics();
    assert!(!said.contains(&secret[..8]), "{said}");
    assert_eq!(capture.count(), 1);
}

/// A stream that falls silent after its snapshot is given up; what it told is used meanwhile.
#[tokio::test]
async fn silence_is_noticed() {
    let capture = Capture::start(Protocol::Tls).await;
    let (old, fresh) = (unique_secret(), unique_secret());
    let binding = Binding::new("github").to(&capture);
    let hello = |heartbeat: u64| line(&json!({"v": 1, "type": "hello", "heartbeatMs": heartbeat, "lifeMs": 600_000}));
    let scripts =
        vec![vec![hello(200), line(&snapshot(&binding, &old))], vec![hello(60_000), line(&snapshot(&binding, &fresh))]];
    let babbler = Babbler::start(scripts).await;
    let sidecar = sidecar_of(&babbler).await;
    sidecar.until_served("github", &["source_not_ready"]).await;
    sidecar.diagnostic("nothing was heard of the broker").await;
    babbler.asked(2).await;
    repeated("the value of the second stream", async || {
        let number = capture.count();
        sidecar.post("github", crate::support::rpc::list(number)).await.assert_ok();
        let carried = capture.request(number).await.values("authorization").join("|");
        (carried == format!("Bearer {fresh}")).then_some(())
    })
    .await;
}

/// Before a stream ends there is another one, whose snapshot is in force; only then is the old one
/// let go. The same on a goodbye.
#[tokio::test]
async fn the_next_stream_is_there_before_the_last_one_goes() {
    let capture = Capture::start(Protocol::Tls).await;
    let snapshot = line(&snapshot(&Binding::new("github").to(&capture), &unique_secret()));
    let hello = |life: u64| line(&json!({"v": 1, "type": "hello", "heartbeatMs": 60_000, "lifeMs": life}));
    let goodbye = line(&json!({"v": 1, "type": "goodbye"}));
    let babbler = Babbler::start(vec![
        vec![hello(500), snapshot.clone()],
        vec![hello(600_000), snapshot.clone(), goodbye],
        vec![hello(600_000), snapshot],
    ])
    .await;
    let sidecar = sidecar_of(&babbler).await;
    for (last, next) in [(0, 1), (1, 2)] {
        let before = babbler.until(Event::Left(last)).await;
        assert!(before.contains(&Event::Asked(next)), "{before:?}");
    }
    sidecar.until_served("github", &["source_not_ready"]).await;
    let said = sidecar.diagnostics();
    assert!(!said.contains("the broker is not heard"), "{said}");
}
