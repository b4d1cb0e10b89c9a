//! Attack 19, where tests/suite/echo.rs does not look: every place of an answer that an upstream can
//! write the credential to. Asserted on every byte the agent's connection was given.

use serde_json::json;

use crate::support::answer::{End, Framing};
use crate::support::refusal::{Form, Refusal};
use crate::support::secrets::find_leak;
use crate::support::{Answer, Binding, Capture, Message, Protocol, Sidecar, assert_refusal, rpc, unique_secret};

use super::{PROTOCOLS, scene};

/// Fails if the value stands in these bytes, in any form, or spelled in another case.
fn assert_nowhere(secret: &str, seen: &[u8], what: &str) {
    let shown = seen.escape_ascii().to_string();
    assert_eq!(find_leak(seen, &[secret.to_owned()]), None, "{what}: {shown}");
    let lower = [secret.to_ascii_lowercase()];
    assert_eq!(find_leak(&seen.to_ascii_lowercase(), &lower), None, "{what}: {shown}");
}

/// Sends one call on a connection of its own; every byte that came, up to its end.
async fn every_byte(sidecar: &Sidecar, message: Message) -> Vec<u8> {
    let mut agent = sidecar.agent().await;
    agent.send(&message.header("Connection", "close").bytes("127.0.0.1")).await;
    agent.closed().await
}

/// In HTTP/1.1's own lines: the status text, names and values of headers, interim answers, chunk
/// extensions, trailers.
#[tokio::test]
async fn no_line_of_an_answer_carries_an_echo() {
    for protocol in [Protocol::Plain, Protocol::Tls] {
        let secret = unique_secret();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        let plain = "Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nok";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
        for answer in [
            format!("HTTP/1.1 200 {secret}\r\n{plain}"),
            format!("HTTP/1.1 500 Bearer {secret}\r\n{plain}"),
            format!("HTTP/1.1 200 OK\r\n{secret}: x\r\n{plain}"),
            format!("HTTP/1.1 200 OK\r\nX-{secret}-Seen: yes\r\n{plain}"),
            format!("HTTP/1.1 200 OK\r\nX-Seen: {secret}\r\nx-seen: again {secret}\r\n{plain}"),
            format!("HTTP/1.1 200 OK\r\nAccess-Control-Expose-Headers: authorization={secret}\r\n{plain}"),
            format!("HTTP/1.1 200 OK\r\nServer: x {secret}\r\nETag: \"{secret}\"\r\nDate: {secret}\r\n{plain}"),
            format!("HTTP/1.1 200 OK\r\nMcp-Session-Id: {secret}\r\n{plain}"),
            format!("HTTP/1.1 103 {secret}\r\nLink: <{secret}>\r\nX-Seen: {secret}\r\n\r\nHTTP/1.1 200 OK\r\n{plain}"),
            format!(
                "{chunked}Trailer: X-Seen\r\n\r\n2;seen={secret}\r\nok\r\n0;seen={secret}\r\nX-Seen: {secret}\r\n\r\n"
            ),
            format!("HTTP/1.1 302 Found\r\nLocation: /mcp?t={secret}\r\n{plain}"),
            format!("HTTP/1.1 307 Found\r\nLocation: https://{secret}.example.test/{secret}#{secret}\r\n{plain}"),
            format!("HTTP/1.1 201 Created\r\nLocation: https://u:{secret}@localhost:{}/mcp\r\n{plain}", capture.port()),
        ] {
            capture.next(Answer::Raw(answer.clone().into_bytes(), End::KeepOpen));
            let seen = every_byte(&sidecar, Message::post("github", rpc::list(1))).await;
            // A value that begins with k holds the second letter back for a moment.
            let ends = [&b"ok"[..], b"ok\r\n0\r\n\r\n", b"o\r\n1\r\nk\r\n0\r\n\r\n"];
            assert!(ends.iter().any(|end| seen.ends_with(end)), "{}", seen.escape_ascii());
            assert_nowhere(&secret, &seen, &answer);
        }
    }
}

/// The name of a header, over HTTP/2 as well: the field is gone, its neighbours are not, and it counts.
#[tokio::test]
async fn a_header_named_like_the_value_is_dropped() {
    for protocol in PROTOCOLS {
        let secret = unique_secret();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        let name = format!("x-{secret}").to_ascii_lowercase();
        capture.next(Answer::full(200, &[(&name, "1"), ("X-Kept", "2"), (&name, "3")], "{}"));
        let seen = every_byte(&sidecar, Message::post("github", rpc::list(1))).await;
        assert_nowhere(&secret, &seen, "a header's name");
        assert!(String::from_utf8_lossy(&seen).contains("x-kept: 2\r\n"), "{}", seen.escape_ascii());
        sidecar.next_access("the masked answer", |line| line["masked"] == 2).await;
        assert_eq!(sidecar.metric("postern_echo_masks_total", &[("server", "github")]).await, 2.0);
    }
}

/// A cookie that may pass is masked like any other value.
#[tokio::test]
async fn a_passed_cookie_carries_no_echo() {
    for protocol in PROTOCOLS {
        let secret = unique_secret();
        let with_lb = |binding: Binding| binding.token(&secret).set("/passCookies", json!(["lb"]));
        let (capture, sidecar) = scene(protocol, with_lb).await;
        capture.next(Answer::full(200, &[("Set-Cookie", &format!("lb=node-{secret}; Path=/{secret}"))], "{}"));
        let seen = every_byte(&sidecar, Message::post("github", rpc::list(1))).await;
        assert_nowhere(&secret, &seen, "a cookie");
        assert!(String::from_utf8_lossy(&seen).contains("lb=node-*"), "{}", seen.escape_ascii());
    }
}

/// Bodies of every status and type, however framed: errors as JSON-RPC, HTML and text, binary ones,
/// ones that say they are in another charset.
#[tokio::test]
async fn no_body_carries_an_echo() {
    for protocol in PROTOCOLS {
        let secret = unique_secret();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        for status in [200, 201, 202, 203, 206, 301, 400, 403, 404, 405, 409, 415, 422, 429, 500, 502, 503, 504, 599] {
            for kind in ["application/json", "text/html; charset=utf-16", "application/octet-stream", "image/png", ""] {
                let error =
                    json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": secret, "data": [secret]}});
                let body = format!("\0\u{ff}{error}{secret}");
                capture.next(Answer::full(status, &[("Content-Type", kind)], body.clone()));
                let seen = every_byte(&sidecar, Message::post("github", rpc::list(1))).await;
                assert_nowhere(&secret, &seen, &format!("{protocol:?} {status} {kind}"));
                let expected = body.replace(&secret, &"*".repeat(secret.len()));
                assert!(seen.ends_with(expected.as_bytes()), "{status}: nothing else changes: {}", seen.escape_ascii());
            }
        }
    }
}

/// Every field of a server-sent event, in answers to GET and POST, in pieces that end in the middle
/// of the value; the value may be all there is of a line, or follow another one directly.
#[tokio::test]
async fn no_event_carries_an_echo() {
    for protocol in PROTOCOLS {
        let secret = unique_secret();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        let events = [
            format!("data: {secret}\n\n"),
            format!(": {secret}\n\n"),
            format!("id: {secret}\nretry: {secret}\nevent: {secret}\ndata: x\n\n"),
            format!("{secret}: x\r\n{secret}\r\n\r\n"),
            format!("data: {secret}{secret}\rdata:{secret}\r\r"),
        ]
        .concat();
        let expected = events.replace(&secret, &"*".repeat(secret.len()));
        for message in [Message::get("github"), Message::post("github", rpc::call(1, "x"))] {
            for size in [1, 13, 39, 40, 41, 4096] {
                for framing in [Framing::Chunked, Framing::Length(events.len()), Framing::UntilClose] {
                    let (stream, answer) = Answer::stream(&[("Content-Type", "text/event-stream")], framing);
                    capture.next(answer);
                    events.as_bytes().chunks(size).for_each(|piece| stream.send(piece.to_vec()));
                    stream.finish();
                    let response = sidecar.ask(message.clone()).await;
                    assert_eq!((response.text(), response.whole), (expected.clone(), true), "{protocol:?} {size}");
                }
            }
        }
    }
}

/// A stream that breaks off inside the value gives what came of it to nobody: what is held back as a
/// possible beginning is not flushed by the end.
#[tokio::test]
async fn a_break_inside_the_value_tells_no_more_than_its_beginning() {
    let secret = unique_secret();
    let (capture, sidecar) = scene(Protocol::Tls, |binding| binding.token(&secret)).await;
    for end in [End::Close, End::Cut, End::Reset] {
        let (stream, answer) = Answer::events();
        capture.next(answer);
        let mut agent = sidecar.agent().await;
        agent.open(Message::get("github")).await;
        stream.event("before");
        agent.until("before\n\n").await;
        stream.send(format!("data: {}", &secret[..39]));
        stream.end(end);
        let seen = agent.closed().await;
        assert!(!seen.windows(8).any(|part| part == &secret.as_bytes()[..8]), "{end:?}: {}", seen.escape_ascii());
    }
}

/// A body that cannot be read is refused, by whichever header and spelling it says so; HTTP/1.1 can
/// compress the transfer as well as the content.
#[tokio::test]
async fn no_compressed_answer_passes() {
    let refusal = Refusal { reason: "unscannable_response", server: "github", form: Form::Rpc("7") };
    let ask = Message::post("github", rpc::list(7)).bytes("127.0.0.1");
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        for (status, codings) in [
            (200, &["gzip"][..]),
            (200, &["x-gzip"]),
            (200, &["deflate"]),
            (200, &["zstd"]),
            (200, &["identity", "br"]),
            (200, &["br", "identity"]),
            (200, &["identity,gzip"]),
            (200, &["aws-chunked"]),
            (200, &["unheard-of"]),
            (403, &["gzip"]),
            (500, &["gzip"]),
            (302, &["gzip"]),
        ] {
            let lines: Vec<(&str, &str)> = codings.iter().map(|coding| ("Content-Encoding", *coding)).collect();
            capture.next(Answer::full(status, &lines, "\u{1f}\u{8b}compressed"));
            assert_refusal(&sidecar, &ask, refusal).await;
        }
    }
    let (capture, sidecar) = scene(Protocol::Plain, |binding| binding.token(unique_secret())).await;
    for coding in ["gzip, chunked", "x-gzip,chunked", "deflate\r\nTransfer-Encoding: chunked", "gzip, deflate, chunked"]
    {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n3\r\n\x1fab\r\n0\r\n\r\n");
        capture.next(Answer::Raw(answer.into_bytes(), End::Close));
        let response = sidecar.post("github", rpc::list(7)).await;
        let reason = response.reason();
        assert!(matches!(reason, Some("unscannable_response" | "upstream_unreachable")), "{coding}: {response:?}");
    }
}

/// The `endpoint` event of the old transport names a place; the agent is given a name of ours for it,
/// also where the place holds the value. Posts find their way all the same.
#[tokio::test]
async fn no_endpoint_event_carries_an_echo() {
    let secret = unique_secret();
    let capture = Capture::start(Protocol::Tls).await;
    let binding = Binding::new("github").to(&capture).token(&secret).set("/server/transports", json!(["SSE"]));
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    let (stream, answer) = Answer::events();
    capture.next(answer);
    let mut agent = sidecar.agent().await;
    agent.open(Message::get("github")).await;
    stream.send(format!("event: endpoint\ndata: /messages?s=1&name={secret}\n\n"));
    let event = agent.until("\n\n").await;
    assert_nowhere(&secret, event.as_bytes(), "the endpoint event");
}
