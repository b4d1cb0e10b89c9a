//! The rights of manifests/base/rbac-status.yaml: enough, and each of them needed.

use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use super::events::events;
use super::stage::{Replica, Stage, said};
use super::{GOOD, lacking};
use crate::suite::secrets;
use crate::support::pod::account;
use crate::support::rights::{Right, install, kubeconfig, rights};

const MANIFEST: &str = "rbac-status.yaml";

fn right(resource: &str, verb: &str) -> Right {
    Right { role: "postern-broker-status".into(), resource: resource.into(), verb: verb.into() }
}

/// A binding that can be served, and a replica with the rights of the manifest but for one.
async fn with_rights(without: Option<&Right>) -> (Stage, Replica) {
    let mut stage = Stage::new("rights").await;
    stage.secret("secret", &json!({"token": secrets::unique_secret()}), "git.example", None);
    stage.bind("git", |_| ());
    account(stage.server, &stage.namespace, "postern-broker");
    install(stage.server, MANIFEST, &stage.namespace, without);
    let text = kubeconfig(stage.server, &stage.namespace, "postern-broker", stage.server.url());
    let read = Kubeconfig::from_yaml(&text).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
    let mut config = config.expect("the kubeconfig is whole");
    config.default_retry = false;
    let replica = stage.replica_as("a", kube::Client::try_from(config).expect("a client"));
    (stage, replica)
}

/// Each right of the manifest has its test below.
#[test]
fn these_are_the_rights() {
    let expected = [
        right("credentialbindings/status", "patch"),
        right("subjectaccessreviews", "create"),
        right("events", "create"),
        right("events", "patch"),
        right("leases", "get"),
        right("leases", "patch"),
    ];
    assert_eq!(rights(MANIFEST), expected);
}

/// Takes the Secret away and gives it back: what is told then was told before.
async fn again(stage: &mut Stage, good: &[&str], bad: &[&str]) {
    for _ in 0..2 {
        stage.server.kubectl(&["delete", "secret", "secret", "--namespace", &stage.namespace]);
        stage.until_said("git", bad).await;
        stage.secret("secret", &json!({"token": secrets::unique_secret()}), "git.example", None);
        stage.until_said("git", good).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_the_manifest_are_enough() {
    let (mut stage, replica) = with_rights(None).await;
    stage.until_said("git", &GOOD).await;
    again(&mut stage, &GOOD, &lacking("SecretNotFound").each_ref().map(String::as_str)).await;
    stage
        .until("the Events are counted", |stage| match events(stage, "git").get("Normal Programmed") {
            Some(3) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    replica.stop().await;
    assert_eq!(stage.holder(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_the_lease_nobody_leads() {
    for verb in ["get", "patch"] {
        let (mut stage, replica) = with_rights(Some(&right("leases", verb))).await;
        // Two rounds of its candidacy: it would lead after the first.
        let holder = stage.holder();
        let other = stage.replica("other");
        stage.until_said("git", &GOOD).await;
        assert!(holder.is_empty() && !replica.leads() && replica.writes("written") == 0, "without {verb}");
        assert!(other.leads() && stage.holder().starts_with("other_"), "without {verb}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_the_status_nothing_is_told() {
    let (mut stage, replica) = with_rights(Some(&right("credentialbindings/status", "patch"))).await;
    let failed = |replica: &Replica| if replica.writes("failed") > 1 { Ok(()) } else { Err(String::new()) };
    stage.until("it was tried, and tried again", |_| failed(&replica)).await;
    assert_eq!(said(&stage.binding("git")), [""; 0]);
    assert_eq!(replica.writes("written"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_ask_it_is_told_that_nobody_could() {
    let (mut stage, _replica) = with_rights(Some(&right("subjectaccessreviews", "create"))).await;
    let unknown = [GOOD[0], GOOD[1], GOOD[2], "Isolated Unknown NotReviewed"];
    let binding = stage.until_said("git", &unknown).await;
    let message = "whether a service account may read Secret secret could not be asked";
    assert_eq!(binding["status"]["conditions"][3]["message"], message);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_rights_to_events_the_status_is_told_all_the_same() {
    let bad = lacking("SecretNotFound");
    let bad = bad.each_ref().map(String::as_str);
    let (mut stage, _replica) = with_rights(Some(&right("events", "create"))).await;
    again(&mut stage, &GOOD, &bad).await;
    assert!(events(&stage, "git").is_empty());
    // Each one is there, and none is counted.
    let (mut stage, _replica) = with_rights(Some(&right("events", "patch"))).await;
    again(&mut stage, &GOOD, &bad).await;
    let seen = events(&stage, "git");
    assert!(seen.len() >= 2 && seen.values().all(|count| *count == 1), "{seen:?}");
}
