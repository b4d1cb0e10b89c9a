//! Each reason that the source brings about, from the outside: the answer, one count, one line, and
//! not a byte at the upstream.

use postern::core::wire::Cause;
use serde_json::json;

use crate::support::broker::Setup;
use crate::support::refusal::{Form, Refusal};
use crate::support::{
    Binding, Broker, Capture, Message, Protocol, Sidecar, assert_refusal, repeated, rpc, unique_secret,
};

fn refusal<'a>(reason: &'a str, server: &'a str) -> Refusal<'a> {
    Refusal { reason, server, form: Form::Rpc("7") }
}

fn call(server: &str) -> Vec<u8> {
    Message::post(server, rpc::list(7)).bytes("127.0.0.1")
}

/// Until the broker has answered there is nothing to decide by. The pod waits: `/started` says no,
/// `/ready` yes.
#[tokio::test]
async fn before_the_first_snapshot_the_source_is_not_ready() {
    let capture = Capture::start(Protocol::Tls).await;
    let broker = Setup { synced: false, ..Setup::default() }.start().await;
    broker.give(vec![broker.item(&Binding::new("github").to(&capture).token(unique_secret()))]);
    let sidecar = Sidecar::for_research().with_broker(&broker).start().await;
    assert_refusal(&sidecar, &call("github"), refusal("source_not_ready", "")).await;
    assert_eq!(sidecar.admin("/started").await.status, 503);
    assert_eq!(sidecar.admin("/ready").await.status, 200);
    broker.until("postern_broker_refusals_total", &[("reason", "source_not_ready")], 2.0).await;
    capture.assert_untouched();
    broker.synced(true);
    sidecar.until_served("github", &["source_not_ready"]).await;
    assert_eq!(sidecar.admin("/started").await.status, 200);
}

/// Nothing bound is an answer too: the pod starts, and a later binding needs no restart.
#[tokio::test]
async fn an_empty_snapshot_starts_the_pod() {
    let capture = Capture::start(Protocol::Tls).await;
    let broker = Broker::start().await;
    let sidecar = Sidecar::for_research().with_broker(&broker).start().await;
    repeated("/started to say yes", async || (sidecar.admin("/started").await.status == 200).then_some(())).await;
    assert_refusal(&sidecar, &call("github"), refusal("unbound_server", "")).await;
    broker.give(vec![broker.item(&Binding::new("github").to(&capture).token(unique_secret()))]);
    sidecar.until_served("github", &["unbound_server"]).await;
}

/// A token that the broker does not take, or none at all: nobody knows who calls.
#[tokio::test]
async fn a_caller_without_an_accepted_token_is_unidentified() {
    let capture = Capture::start(Protocol::Tls).await;
    let broker = Broker::start().await;
    broker.give(vec![broker.item(&Binding::new("github").to(&capture).token(unique_secret()))]);
    let stranger = Sidecar::for_research().with_broker(&broker).file("token", "not.a.token".into()).start().await;
    let nobody = Sidecar::for_research().with_broker(&broker).broker_field("tokenFile", json!("none")).start().await;
    for sidecar in [&stranger, &nobody] {
        repeated("the token to be refused", async || {
            (sidecar.post("github", rpc::list(1)).await.reason() == Some("unidentified_caller")).then_some(())
        })
        .await;
        assert_refusal(sidecar, &call("github"), refusal("unidentified_caller", "")).await;
        assert_eq!(sidecar.admin("/started").await.status, 503);
    }
    assert!(stranger.metric("postern_source_connects_total", &[("result", "rejected")]).await >= 1.0);
    assert!(nobody.metric("postern_source_connects_total", &[("result", "token_file")]).await >= 1.0);
    capture.assert_untouched();
    // Once the kubelet has put a good one there, it is read.
    stranger.files().write("token", broker.token());
    stranger.until_served("github", &["unidentified_caller"]).await;
}

/// What the broker says of a Secret reaches the agent's operator in the same words.
#[tokio::test]
async fn what_the_broker_withholds_is_refused_by_its_cause() {
    let capture = Capture::start(Protocol::Tls).await;
    let broker = Broker::start().await;
    let binding = |name: &str| Binding::new(name).to(&capture).url(&capture.url(&format!("/{name}")));
    let rows = [
        ("absent", Cause::Absent, "no_credential"),
        ("invalid", Cause::Invalid, "credential_invalid"),
        ("unwilling", Cause::NotConsented, "not_consented"),
        ("ungranted", Cause::NotGranted, "no_credential"),
        ("newer", Cause::Other, "no_credential"),
    ];
    let text = "Secret s/token: what the broker says";
    let gaps = rows.iter().map(|(name, cause, _)| broker.gap(&binding(name), *cause, text));
    broker.give(gaps.collect());
    let sidecar = Sidecar::for_research().with_broker(&broker).start().await;
    repeated("the snapshot", async || (sidecar.admin("/started").await.status == 200).then_some(())).await;
    for (server, _, reason) in rows {
        let message = Message::post(server, rpc::list(7)).bytes("127.0.0.1");
        let answer = assert_refusal(&sidecar, &message, refusal(reason, server)).await;
        assert!(!answer.text().contains("what the broker says"), "the detail is for the log: {}", answer.text());
    }
    let lines = sidecar.access_lines();
    let told = lines.iter().filter(|line| line["detail"].as_str().is_some_and(|detail| detail.contains(text)));
    assert_eq!(told.count(), rows.len());
    capture.assert_untouched();
}

/// Another container that could read along gets nothing to read.
#[tokio::test]
async fn plaintext_is_only_for_hardened_pods() {
    let plain = Capture::start(Protocol::Plain).await;
    let broker = Broker::start().await;
    broker.give(vec![broker.item(&Binding::new("github").to(&plain).token(unique_secret()))]);
    let weak = Sidecar::for_research().with_broker(&broker).start().await;
    repeated("the snapshot", async || (weak.admin("/started").await.status == 200).then_some(())).await;
    assert_refusal(&weak, &call("github"), refusal("pod_too_weak", "github")).await;
    plain.assert_untouched();
    let hardened = Sidecar::for_research().with_broker(&broker).broker_field("podHardened", json!(true)).start().await;
    hardened.until_served("github", &["source_not_ready"]).await;
}

/// A document that a newer broker sends and this sidecar does not understand is refused, and no
/// other suffers from it.
#[tokio::test]
async fn a_document_from_the_future_is_not_served() {
    let capture = Capture::start(Protocol::Tls).await;
    let broker = Broker::start().await;
    let future = Binding::new("future").to(&capture).url(&capture.url("/future")).token(unique_secret());
    let future = future.set("/onlyOnSundays", json!(true));
    let github = Binding::new("github").to(&capture).token(unique_secret());
    broker.give(vec![broker.item(&future), broker.item(&github)]);
    let sidecar = Sidecar::for_research().with_broker(&broker).start().await;
    sidecar.until_served("github", &["source_not_ready"]).await;
    assert_refusal(&sidecar, &call("future"), refusal("unbound_server", "")).await;
    sidecar.diagnostic("onlyOnSundays").await;
    assert_eq!(sidecar.metric("postern_source_problems", &[]).await, 1.0);
    assert_eq!(capture.requests().iter().filter(|request| request.target != "/mcp").count(), 0);
}
