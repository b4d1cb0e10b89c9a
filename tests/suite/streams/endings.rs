//! Whoever ends an exchange, the other side learns of it, and a break never looks like an end.

use crate::support::agent::Piece;
use crate::support::answer::{End, Framing};
use crate::support::{Answer, Message, Protocol, rpc};

use super::{PROTOCOLS, open, scene};

/// The agent leaves in the middle of a stream: the upstream sees it at once, without having to send.
#[tokio::test]
async fn an_agent_gone_mid_stream_is_gone_upstream() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol).await;
        for (number, message) in
            [Message::get("github"), Message::post("github", rpc::call(1, "search"))].into_iter().enumerate()
        {
            let (stream, mut agent) = open(&capture, &sidecar, message, Framing::Chunked).await;
            stream.event("x");
            agent.until("data: x\n\n").await;
            drop(agent);
            capture.abandoned(number).await;
            let line = sidecar.next_access("the stream", |_| true).await;
            assert_eq!(line["outcome"], "client_closed", "{protocol:?}: {line}");
        }
    }
}

/// The agent leaves before there is a head: this is how a 2026-07-28 client cancels (field/mcp.md).
#[tokio::test]
async fn an_agent_gone_before_the_head_is_gone_upstream() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol).await;
        capture.next(Answer::Never);
        let mut agent = sidecar.agent().await;
        agent.send(&Message::post("github", rpc::call(1, "slow")).bytes("127.0.0.1")).await;
        capture.request(0).await;
        drop(agent);
        capture.abandoned(0).await;
        let line = sidecar.next_access("the call", |_| true).await;
        assert_eq!(line["outcome"], "client_closed", "{protocol:?}: {line}");
        // The others are not disturbed.
        sidecar.post("github", rpc::list(2)).await.assert_ok();
    }
}

/// On HTTP/2 giving up one call resets one stream: its neighbour on the connection lives on.
#[tokio::test]
async fn giving_up_one_call_leaves_its_neighbour_alone() {
    let (capture, sidecar) = scene(Protocol::H2).await;
    let (kept, mut reader) = open(&capture, &sidecar, Message::get("github"), Framing::Chunked).await;
    let (_dropped, agent) = open(&capture, &sidecar, Message::get("github"), Framing::Chunked).await;
    drop(agent);
    capture.abandoned(1).await;
    kept.event("still here");
    reader.until("data: still here\n\n").await;
    assert!(!capture.requests()[0].abandoned);
}

/// The upstream breaks off: the agent must not take it for the end of the answer, whatever framing
/// hides it. A cut line (no close_notify) under a body that ends with the connection is a break too.
#[tokio::test]
async fn a_break_never_looks_like_an_end() {
    for (protocol, framing, end) in [
        (Protocol::Plain, Framing::Chunked, End::Close),
        (Protocol::Plain, Framing::Chunked, End::Reset),
        (Protocol::Plain, Framing::Length(1000), End::Close),
        (Protocol::Plain, Framing::Length(1000), End::Reset),
        (Protocol::Plain, Framing::UntilClose, End::Reset),
        (Protocol::Tls, Framing::Chunked, End::Close),
        (Protocol::Tls, Framing::Chunked, End::Cut),
        (Protocol::Tls, Framing::Length(1000), End::Close),
        (Protocol::Tls, Framing::Length(1000), End::Cut),
        (Protocol::Tls, Framing::UntilClose, End::Cut),
        (Protocol::Tls, Framing::UntilClose, End::Reset),
        (Protocol::H2, Framing::Chunked, End::Reset),
        (Protocol::H2, Framing::Length(1000), End::Reset),
    ] {
        let case = format!("{protocol:?} {framing:?} {end:?}");
        let (capture, sidecar) = scene(protocol).await;
        let (stream, mut agent) = open(&capture, &sidecar, Message::get("github"), framing).await;
        stream.event("x");
        agent.until("data: x\n\n").await;
        stream.end(end);
        assert_eq!(agent.drained().await, Piece::Broken, "{case}");
        assert!(agent.closed().await.is_empty(), "{case}: a broken answer ends its connection");
        let line = sidecar.next_access("the stream", |_| true).await;
        assert_eq!(line["outcome"], "upstream_gone", "{case}: {line}");
        assert_eq!(capture.requests().len(), 1, "{case}: nothing is fetched again");
    }
}

/// The counterpart: proper ends of every framing are ends.
#[tokio::test]
async fn a_proper_end_is_an_end() {
    for protocol in PROTOCOLS {
        for framing in [Framing::Chunked, Framing::Length(9), Framing::UntilClose] {
            let (capture, sidecar) = scene(protocol).await;
            let (stream, mut agent) = open(&capture, &sidecar, Message::get("github"), framing).await;
            stream.event("x");
            stream.finish();
            assert_eq!(agent.until("data: x\n\n").await, "data: x\n\n");
            assert_eq!(agent.drained().await, Piece::End, "{protocol:?} {framing:?}");
            let line = sidecar.next_access("the stream", |_| true).await;
            assert_eq!(line["outcome"], "ok", "{line}");
        }
    }
}

/// A chunk size that is none, or a chunk without its end: a break.
#[tokio::test]
async fn a_malformed_chunked_answer_is_a_break() {
    let (capture, sidecar) = scene(Protocol::Plain).await;
    for chunks in ["3\r\nabc\r\nzz\r\n", "3\r\nabcd\r\n0\r\n\r\n", "3\r\nabc\r\n-1\r\n", "3\r\nabc\r\n0\r\n"] {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        capture.next(Answer::Raw(format!("{head}{chunks}").into_bytes(), End::Close));
        let response = sidecar.post("github", rpc::list(1)).await;
        assert!(!response.whole || response.status == 502, "{chunks:?}: {response:?}");
    }
}

/// Interim answers of the upstream are its own business: the agent gets the final one only.
#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let (capture, sidecar) = scene(Protocol::Plain).await;
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
    let answer = format!("{interim}HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}");
    capture.next(Answer::Raw(answer.into_bytes(), End::KeepOpen));
    let mut agent = sidecar.agent().await;
    agent.send(&Message::post("github", rpc::list(1)).bytes("127.0.0.1")).await;
    loop {
        let head = agent.any_head().await;
        if !head.first_line.contains(" 1") || head.first_line.contains(" 200") {
            let response = agent.rest_of(head).await;
            response.assert_ok();
            assert_eq!(response.text(), "{}");
            return;
        }
    }
}
