//! The instruments themselves: an agent that talks straight to an upstream, without a sidecar.
//! What these tests find here, the others would find if the sidecar did it.

use std::net::SocketAddr;

use crate::support::agent::Piece;
use crate::support::answer::{End, Framing};
use crate::support::output::Metrics;
use crate::support::secrets::{find_leak, forms};
use crate::support::{Agent, Answer, Capture, Message, Protocol, awkward_secret, repeated, rpc, unique_secret};

async fn connect(capture: &Capture) -> Agent {
    Agent::connect(SocketAddr::from(([127, 0, 0, 1], capture.port()))).await
}

/// The capture keeps duplicates, case, order, bodies and trailers, and every byte.
#[tokio::test]
async fn a_capture_keeps_what_it_is_sent() {
    let capture = Capture::start(Protocol::Plain).await;
    let message = Message::post("github", rpc::list(1)).header("X-A", "1").header("x-a", "2");
    let mut agent = connect(&capture).await;
    let bytes = message.chunked("h", 5, "X-Trailer: t\r\n");
    agent.send(&bytes).await;
    agent.response().await.assert_ok();
    agent.ask(message).await.assert_ok();
    let request = capture.request(0).await;
    assert_eq!(request.values("x-a"), ["1", "2"]);
    assert_eq!(request.body, rpc::list(1).as_bytes());
    assert_eq!(request.trailers, [("X-Trailer".to_owned(), "t".to_owned())]);
    assert_eq!((capture.connections(), capture.requests().len()), (1, 2));
    assert!(capture.bytes().starts_with(&bytes));
    drop(agent);
    capture.closed(0).await;
}

/// An agent tells a whole body from a broken one, in every framing.
#[tokio::test]
async fn an_agent_tells_an_end_from_a_break() {
    for (framing, end, expected) in [
        (Framing::Chunked, None, Piece::End),
        (Framing::Length(9), None, Piece::End),
        (Framing::UntilClose, None, Piece::End),
        (Framing::Chunked, Some(End::Close), Piece::Broken),
        (Framing::Chunked, Some(End::Reset), Piece::Broken),
        (Framing::Length(10), Some(End::Close), Piece::Broken),
    ] {
        let capture = Capture::start(Protocol::Plain).await;
        let (stream, answer) = Answer::stream(&[], framing);
        capture.next(answer);
        let mut agent = connect(&capture).await;
        agent.open(Message::get("github")).await;
        stream.event("x");
        agent.until("data: x\n\n").await;
        match end {
            Some(end) => stream.end(end),
            None => stream.finish(),
        }
        assert_eq!(agent.drained().await, expected, "{framing:?} {end:?}");
    }
}

/// A peer that leaves is noticed before and within an answer.
#[tokio::test]
async fn a_capture_notices_a_peer_that_leaves() {
    let capture = Capture::start(Protocol::Plain).await;
    capture.next(Answer::Never);
    let mut agent = connect(&capture).await;
    agent.send(&Message::get("github").bytes("h")).await;
    capture.request(0).await;
    drop(agent);
    capture.abandoned(0).await;
    let (stream, answer) = Answer::events();
    capture.next(answer);
    let mut agent = connect(&capture).await;
    agent.open(Message::get("github")).await;
    assert!(!stream.is_over());
    drop(agent);
    capture.closed(1).await;
    repeated("the stream's end", async || {
        tokio::task::yield_now().await;
        stream.is_over().then_some(())
    })
    .await;
    assert!(capture.requests()[1].abandoned);
}

/// A leaked secret is found in each form, also inside a longer base64 text at any alignment.
#[test]
fn a_leak_is_found_in_every_form() {
    for secret in [unique_secret(), awkward_secret()] {
        let secrets = [secret.clone()];
        for form in forms(&secret) {
            assert!(find_leak(format!("...{form}...").as_bytes(), &secrets).is_some(), "{form}");
        }
        for before in ["", "a", "ab", "abc"] {
            let text =
                base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{before}{secret}:z"));
            assert!(find_leak(text.as_bytes(), &secrets).is_some(), "{before}");
        }
        assert_eq!(find_leak(awkward_secret().as_bytes(), &secrets), None);
    }
}

/// Samples are summed over exactly the series that carry the labels.
#[test]
fn metrics_are_read_by_name_and_labels() {
    let text = "# HELP a b\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab{x=\"1\"} 5\nc 6\n";
    let metrics = Metrics::new(text.to_owned());
    assert_eq!(metrics.sum("a", &[("x", "1")]), 7.0);
    assert_eq!(metrics.sum("a", &[("y", "2"), ("x", "1")]), 3.0);
    assert_eq!(metrics.sum("a", &[("x", "2")]), 0.0);
    assert_eq!(metrics.sum("c", &[]), 6.0);
    assert_eq!(metrics.series().len(), 4);
}
