//! Shutdown: nothing new, what runs may finish, and after the grace nothing is left.

use serde_json::json;

use crate::support::agent::Piece;
use crate::support::refusal::{Form, Refusal};
use crate::support::{Agent, Answer, Binding, Capture, Message, Protocol, Sidecar, rpc, unique_secret};

async fn scene(protocol: Protocol, grace: &str) -> (Capture, Sidecar) {
    let capture = Capture::start(protocol).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).config("shutdownGrace", json!(grace)).start().await;
    (capture, sidecar)
}

/// SIGTERM: new calls are refused as `draining`, on new connections and kept ones; the call under
/// way gets its answer; then the process ends with 0.
#[tokio::test]
async fn a_call_under_way_finishes_and_new_ones_are_refused() {
    for protocol in [Protocol::Plain, Protocol::H2] {
        let (capture, sidecar) = scene(protocol, "1h").await;
        let (give, answer) = Answer::later();
        capture.next(answer);
        let mut held: Agent = sidecar.agent().await;
        held.send(&Message::post("github", rpc::call("held", "slow")).bytes("127.0.0.1")).await;
        let request = capture.request(0).await;
        sidecar.terminate();
        let refusal = Refusal { reason: "draining", server: "", form: Form::Rpc("7") };
        refusal.assert_answer(&sidecar.until_refused("github").await);
        let line = sidecar.next_access("draining", |line| line["reason"] == "draining").await;
        assert_eq!((line["outcome"].as_str(), line["status"].as_u64()), (Some("refused"), Some(503)), "{line}");
        assert!(sidecar.metric("postern_refusals_total", &[("reason", "draining")]).await >= 1.0);
        let before = capture.count();
        sidecar.post("github", rpc::list(8)).await.assert_refused("draining");
        assert_eq!(capture.count(), before, "nothing new goes out");
        assert!(give.send(Answer::result(&request)).is_ok(), "the upstream still waits");
        held.response().await.assert_ok();
        assert_eq!(sidecar.exit().await.code(), Some(0), "{protocol:?}");
        let lines = sidecar.access_lines();
        assert!(lines.iter().any(|line| line["rpc_id"] == "\"held\"" && line["outcome"] == "ok"), "{lines:?}");
    }
}

/// A stream has no end of its own: it goes on in the grace, and ends with it.
#[tokio::test]
async fn a_stream_ends_at_the_grace() {
    let (capture, sidecar) = scene(Protocol::Tls, "1s").await;
    let (stream, answer) = Answer::events();
    capture.next(answer);
    let mut agent = sidecar.agent().await;
    agent.open(Message::get("github")).await;
    stream.event("before");
    agent.until("data: before\n\n").await;
    sidecar.terminate();
    agent.drained().await;
    capture.abandoned(0).await;
    assert_eq!(sidecar.exit().await.code(), Some(0));
    let lines = sidecar.access_lines();
    assert!(lines.iter().any(|line| line["http"] == "GET" && line["outcome"] == "drained"), "{lines:?}");
}

/// In the grace a stream is a stream: events pass until it ends by itself, and that ends the drain.
#[tokio::test]
async fn a_stream_that_ends_in_the_grace_ends_the_drain() {
    let (capture, sidecar) = scene(Protocol::Tls, "1h").await;
    let (stream, answer) = Answer::events();
    capture.next(answer);
    let mut agent = sidecar.agent().await;
    agent.open(Message::get("github")).await;
    sidecar.terminate();
    sidecar.until_refused("github").await.assert_refused("draining");
    stream.event("in the grace");
    agent.until("data: in the grace\n\n").await;
    stream.finish();
    assert_eq!(agent.drained().await, Piece::End);
    assert_eq!(sidecar.exit().await.code(), Some(0));
}

/// With nothing under way the end is immediate, also with idle connections on both sides.
#[tokio::test]
async fn an_idle_sidecar_ends_at_once() {
    for signal in ["TERM", "INT"] {
        let (capture, sidecar) = scene(Protocol::Tls, "1h").await;
        let mut idle = sidecar.agent().await;
        idle.ask(Message::post("github", rpc::list(1))).await.assert_ok();
        let mut silent = sidecar.agent().await;
        sidecar.signal(signal);
        assert_eq!(sidecar.exit().await.code(), Some(0), "SIG{signal}");
        assert!(idle.closed().await.is_empty());
        silent.closed().await;
        capture.closed(0).await;
    }
}

/// A second signal does not wait for the grace.
#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let (capture, sidecar) = scene(Protocol::Tls, "1h").await;
    let (_stream, answer) = Answer::events();
    capture.next(answer);
    let mut agent = sidecar.agent().await;
    agent.open(Message::get("github")).await;
    sidecar.terminate();
    sidecar.until_refused("github").await.assert_refused("draining");
    sidecar.terminate();
    assert_eq!(sidecar.exit().await.code(), Some(0));
    agent.drained().await;
    capture.abandoned(0).await;
}
