//! The Events of a binding.

use std::collections::BTreeMap;

use serde_json::json;

use super::stage::Stage;
use super::{GOOD, lacking, served};
use crate::suite::secrets;

/// The Events of a binding, each `type reason` with how often it was seen.
pub fn events(stage: &Stage, name: &str) -> BTreeMap<String, u64> {
    let field = format!("--field-selector=regarding.name={name},regarding.kind=CredentialBinding");
    let list = stage.server.get(&["events.v1.events.k8s.io", "--namespace", &stage.namespace, &field]);
    let mut seen = BTreeMap::new();
    for event in list["items"].as_array().expect("a list") {
        let word = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(word("reportingController"), "postern.dev/broker");
        let count = event["series"]["count"].as_u64().unwrap_or(1);
        assert!(seen.insert(format!("{} {}", word("type"), word("reason")), count).is_none(), "{list}");
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_is_told_as_an_event_and_counted_when_it_happens_again() {
    let mut stage = Stage::new("events").await;
    let _replica = stage.replica("a");
    served(&mut stage, "git").await;
    let good = json!({"token": secrets::unique_secret()});
    for _ in 0..2 {
        stage.server.kubectl(&["delete", "secret", "secret", "--namespace", &stage.namespace]);
        stage.until_said("git", &lacking("SecretNotFound").each_ref().map(String::as_str)).await;
        stage.secret("secret", &good, "git.example", None);
        stage.until_said("git", &GOOD).await;
    }
    let expected = [("Normal Programmed", 3), ("Normal Resolved", 2), ("Warning SecretNotFound", 2)];
    let expected: BTreeMap<String, u64> = expected.map(|(event, count)| (event.to_owned(), count)).into();
    stage
        .until("all Events are there", |stage| {
            let seen = events(stage, "git");
            if seen == expected { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    let described = stage.server.kubectl(&["describe", "credb", "git", "--namespace", &stage.namespace]).stdout;
    let described = String::from_utf8(described).expect("UTF-8");
    let event = |line: &str| line.contains("Warning") && line.contains("Secret secret does not exist");
    assert!(described.lines().any(event), "{described}");
}
