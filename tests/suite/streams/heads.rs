//! What an upstream says of its answer: where the body ends, whether it takes the request, what may follow.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::support::answer::{End, Framing};
use crate::support::{Answer, Binding, Message, Protocol, Sidecar, rpc, unique_secret, within};

use super::scene;

const JSON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

/// Of two ends for one body one is taken, and nothing that follows on that connection is believed.
#[tokio::test]
async fn a_connection_with_two_ends_for_a_body_is_not_used_again() {
    let both = format!("{JSON}Content-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n");
    let old = format!("{}Content-Length: 2\r\nConnection: keep-alive\r\n\r\n{{}}", JSON.replace("1.1", "1.0"));
    let close = format!("{JSON}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}");
    let trusted = format!("{JSON}Content-Length: 2, 2\r\n\r\n{{}}");
    for (text, connections) in [(both, 2), (old, 2), (close, 2), (trusted, 1)] {
        let (capture, sidecar) = scene(Protocol::Plain).await;
        let mut agent = sidecar.agent().await;
        capture.next(Answer::Raw(text.clone().into_bytes(), End::KeepOpen));
        let response = agent.ask(Message::post("github", rpc::list(1))).await;
        response.assert_ok();
        assert_eq!(response.text(), "{}", "{text}");
        agent.ask(Message::post("github", rpc::list(2))).await.assert_ok();
        assert_eq!(capture.connections(), connections, "{text}");
    }
}

/// Heads that are no heads, or never end, are given up; the agent gets nothing of them.
#[tokio::test]
async fn a_head_that_cannot_be_read_is_refused() {
    let fields = format!("{JSON}{}Content-Length: 2\r\n\r\n{{}}", "a: b\r\n".repeat(101));
    let endless = format!("{JSON}a: {}", "b".repeat(80 * 1024));
    for text in [
        fields,
        endless,
        format!("{JSON}Content-Length: -2\r\n\r\n{{}}"),
        format!("{JSON}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n").replace("1.1", "1.0"),
        format!("{JSON}Folded: a\r\n b\r\nContent-Length: 2\r\n\r\n{{}}"),
        format!("\r\n\r\n{JSON}Content-Length: 2\r\n\r\n{{}}"),
        "HTTP/2 200\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
        "HTTP/1.1 099 No\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
    ] {
        let (capture, sidecar) = scene(Protocol::Plain).await;
        capture.next(Answer::Raw(text.clone().into_bytes(), End::KeepOpen));
        sidecar.post("github", rpc::list(1)).await.assert_refused("upstream_unreachable");
        assert_eq!(capture.count(), 1, "{text}");
        sidecar.post("github", rpc::list(2)).await.assert_ok();
        assert_eq!(capture.connections(), 2, "{text}");
    }
}

/// A server that refuses a request before it has read all of it is heard, though the rest can never be sent.
#[tokio::test]
async fn a_refusal_before_the_body_is_through_arrives() {
    // A reader that does not read, and for which the kernel takes little: the body cannot go out.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let upstream = socket.listen(8).unwrap();
    let url = format!("http://{}/mcp", upstream.local_addr().unwrap());
    let binding = Binding::new("github").url(&url).set("/server/allowPlaintext", true.into()).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    let mut agent = sidecar.agent().await;
    let body =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{"x":"{}"}}}}"#, "x".repeat(3 << 20));
    agent.send(&Message::post("github", body).bytes("127.0.0.1")).await;
    let (mut socket, _) = within("the connection", upstream.accept()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the head", socket.read_u8()).await.unwrap());
    }
    socket.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!").await.unwrap();
    let response = within("the refusal", agent.response()).await;
    assert_eq!((response.status, response.text().as_str(), response.reason()), (413, "no!", None));
    // Not used again: what it would read next is the rest of the body.
    agent.send(&Message::post("github", rpc::list(2)).bytes("127.0.0.1")).await;
    let again = tokio::time::timeout(Duration::from_secs(10), upstream.accept()).await;
    assert!(again.is_ok(), "the next call has a connection of its own");
}

/// The body's pieces may come in any cut: with the head, byte by byte, or with what follows it.
#[tokio::test]
async fn an_answer_may_come_in_any_pieces() {
    let chunked = format!("{JSON}Transfer-Encoding: chunked\r\n\r\n3;x=y\r\n{{\"a\r\n4\r\n\":1}}\r\n0\r\nX: y\r\n\r\n");
    let sized = format!("{JSON}Content-Length: 7\r\n\r\n{{\"a\":1}}");
    for text in [chunked, sized] {
        let (capture, sidecar) = scene(Protocol::Tls).await;
        let mut agent = sidecar.agent().await;
        for size in [1, 2, 7, 1000] {
            let pieces = text.as_bytes().chunks(size).map(bytes::Bytes::copy_from_slice).collect();
            capture.next(Answer::Pieces(pieces, End::KeepOpen));
            let response = agent.ask(Message::post("github", rpc::list(1))).await;
            response.assert_ok();
            assert_eq!(response.text(), r#"{"a":1}"#, "{size}: {text}");
        }
        assert_eq!(capture.connections(), 1, "{text}");
    }
}

/// A long answer arrives as it was sent, whatever its framing: more than is read or written at once.
#[tokio::test]
async fn a_long_answer_is_the_same_at_both_ends() {
    let body: String = (0..300_000).map(|number| format!("{number},")).collect();
    for framing in [Framing::Chunked, Framing::Length(body.len()), Framing::UntilClose] {
        let (capture, sidecar) = scene(Protocol::Tls).await;
        let (stream, answer) = Answer::stream(&[("Content-Type", "application/json")], framing);
        capture.next(answer);
        for piece in body.as_bytes().chunks(100_003) {
            stream.send(piece.to_vec());
        }
        stream.finish();
        let response = sidecar.post("github", rpc::list(1)).await;
        response.assert_ok();
        assert!(response.text() == body, "{framing:?}: {} bytes", response.text().len());
    }
}
