//! Heads and bodies that two parsers could read differently (attack 6): refused, connection closed.

use crate::support::refusal::Refusal;
use crate::support::{Message, Sidecar, assert_refusal, rpc as body};

use super::{scene, text};

const SMUGGLED: &str =
    "POST /github HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// A head with these lines after Host, ended, and something that looks like a second request behind it.
fn with_lines(lines: &str) -> Vec<u8> {
    let head = "POST /github HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n";
    format!("{head}{lines}\r\n0\r\n\r\n{SMUGGLED}").into_bytes()
}

/// Asserts one `malformed_head`, and that the bytes behind it are never read as a request.
async fn assert_malformed(sidecar: &Sidecar, bytes: &[u8]) {
    let shown = bytes.escape_ascii().to_string();
    let mut agent = sidecar.agent().await;
    agent.send(bytes).await;
    let response = agent.response().await;
    assert_eq!((response.status, response.reason()), (400, Some("malformed_head")), "{shown}");
    assert!(agent.closed().await.is_empty(), "the connection is closed after the refusal: {shown}");
    let line = sidecar.next_access("malformed_head", |line| line["reason"] == "malformed_head").await;
    assert_eq!(line["status"], 400, "{shown}");
}

/// Two framings, two lengths, one length that is a list or no number, codings other than chunked.
#[tokio::test]
async fn ambiguous_framing_is_refused() {
    let (capture, sidecar) = scene().await;
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
    ] {
        assert_malformed(&sidecar, &with_lines(lines)).await;
    }
    // Well framed, but of two kinds, or of two sessions.
    for name in ["Content-Type", "Mcp-Session-Id"] {
        let message = Message::post("github", body::list(1)).header(name, "a").header(name, "b");
        sidecar.ask(message).await.assert_refused("malformed_head");
    }
    capture.assert_untouched();
}

/// Line ends, folds, control bytes, and names that some parsers trim.
#[tokio::test]
async fn ambiguous_lines_are_refused() {
    let (capture, sidecar) = scene().await;
    for lines in [
        "X-A: b\r\n c\r\n",
        "X-A: b\r\n\tc\r\n",
        " X-A: b\r\n",
        "X-A: b\rX-B: c\r\n",
        "X-A: b\nX-B: c\r\n",
        "X-A: b\0c\r\n",
        "X-A: b\x7fc\r\n",
        "X-A : b\r\n",
        "X-A\t: b\r\n",
        "X A: b\r\n",
        ": b\r\n",
        "X-A\r\n",
        "X-\u{e9}: b\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length : 5\r\n",
    ] {
        assert_malformed(&sidecar, &with_lines(lines)).await;
    }
    for head in [
        "POST /github HTTP/1.1\nHost: 127.0.0.1\n\n",
        "POST /github HTTP/1.1\r\nHost: 127.0.0.1\r\n\nX: y\r\n\r\n",
        "POST /github HTTP/1.1\rHost: 127.0.0.1\r\n\r\n",
    ] {
        assert_malformed(&sidecar, head.as_bytes()).await;
    }
    capture.assert_untouched();
}

/// No Host, two Hosts, and request lines that are not exactly METHOD SP target SP HTTP/1.1.
#[tokio::test]
async fn ambiguous_request_lines_and_hosts_are_refused() {
    let (capture, sidecar) = scene().await;
    let length = "Content-Length: 0\r\n";
    for head in [
        format!("POST /github HTTP/1.1\r\n{length}\r\n"),
        format!("POST /github HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n{length}\r\n"),
        format!("POST /github HTTP/1.1\r\nHost: 127.0.0.1\r\nhost: evil.example\r\n{length}\r\n"),
        format!("POST  /github HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n"),
        format!("POST /github  HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n"),
        format!("POST /git hub HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n"),
        format!("POST /github HTTP/1.0\r\nHost: 127.0.0.1\r\n{length}\r\n"),
        format!("POST /github HTTP/1.2\r\nHost: 127.0.0.1\r\n{length}\r\n"),
        format!("POST /github HTTP/2.0\r\nHost: 127.0.0.1\r\n{length}\r\n"),
        format!("POST /github#x HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n"),
        format!("POST github HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n"),
        format!("POST ftp://127.0.0.1/github HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n"),
        format!("POST /gith\u{fc}b HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n"),
    ] {
        assert_malformed(&sidecar, head.as_bytes()).await;
    }
    capture.assert_untouched();
}

/// Paths that a later parser could decode into another one.
#[tokio::test]
async fn ambiguous_paths_are_refused() {
    let (capture, sidecar) = scene().await;
    for path in [
        "/github/../admin",
        "/github/.",
        "/github/%2e%2e/admin",
        "/github/%2E./admin",
        "/github/..;/admin",
        "/github%2fadmin",
        "/github%2Fadmin",
        "/github/%5cadmin",
        "/github\\admin",
        "/github//admin",
        "//github",
        "/github/%252e%252e/admin",
        "/github/%00",
        "/github/%0d%0aX:y",
        "/github/%zz",
        "/github/%2",
    ] {
        let bytes = Message::post("github", body::list(1)).target(path).bytes("127.0.0.1");
        let mut agent = sidecar.agent().await;
        agent.send(&bytes).await;
        let response = agent.response().await;
        assert_eq!((response.status, response.reason()), (400, Some("malformed_head")), "{path}");
    }
    capture.assert_untouched();
}

/// Chunked bodies that break the grammar: no two readers may disagree on where the body ends.
#[tokio::test]
async fn ambiguous_chunks_are_refused() {
    let (capture, sidecar) = scene().await;
    for chunks in [
        "x\r\n",
        "-1\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        " 2\r\n{}\r\n0\r\n\r\n",
        "2 \r\n{}\r\n0\r\n\r\n",
        "2\n{}\r\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\r\n{}\n0\r\n\r\n",
        "1\r\n{}\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
        "2;\x00\r\n{}\r\n0\r\n\r\n",
        "2;a\nb\r\n{}\r\n0\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "\r\n",
    ] {
        let head = Message::post("github", "").head_with("127.0.0.1", "Transfer-Encoding: chunked\r\n");
        let bytes = [&head, chunks.as_bytes(), SMUGGLED.as_bytes()].concat();
        let mut agent = sidecar.agent().await;
        agent.send(&bytes).await;
        let response = agent.response().await;
        let shown = chunks.escape_default();
        assert_eq!(response.status, 400, "{shown}: {}", response.text());
        assert!(matches!(response.reason(), Some("malformed_head" | "bad_json_rpc")), "{shown}: {}", response.text());
        assert!(agent.closed().await.is_empty(), "nothing behind a broken body is read: {shown}");
    }
    capture.assert_untouched();
}

/// The same refusal with all its dues, once: answer, count and access line.
#[tokio::test]
async fn a_malformed_head_is_counted_and_explained() {
    let (capture, sidecar) = scene().await;
    let both = with_lines("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n");
    let response = assert_refusal(&sidecar, &both, text("malformed_head")).await;
    assert!(response.text().contains("Transfer-Encoding"), "it names the rule: {}", response.text());
    let dots = Message::get("github").target("/github/../x").bytes("127.0.0.1");
    assert_refusal(&sidecar, &dots, Refusal { server: "", ..text("malformed_head") }).await;
    capture.assert_untouched();
}

/// The corpus above fails for what is wrong with each row, not for what the rows share.
#[tokio::test]
async fn the_same_bytes_without_the_flaw_pass() {
    let (capture, sidecar) = scene().await;
    let message = Message::post("github", body::list(1));
    let mut agent = sidecar.agent().await;
    agent.send(&message.bytes("127.0.0.1")).await;
    agent.response().await.assert_ok();
    for size in [1, 7, 4096] {
        agent.send(&message.chunked("127.0.0.1", size, "")).await;
        agent.response().await.assert_ok();
        agent.send(&message.chunked("127.0.0.1", size, "X-Trailer: v\r\n")).await;
        agent.response().await.assert_ok();
    }
    assert_eq!(capture.requests().len(), 7);
    assert!(capture.requests().iter().all(|request| request.body == body::list(1).as_bytes()));
}
