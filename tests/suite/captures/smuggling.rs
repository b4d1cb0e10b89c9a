//! Requests inside requests, on the ways of the captures (field row 6): HTTP/1.1 inside TLS and by the
//! whole URL, and HTTP/2, whose lines become those of HTTP/1.1 upstream.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{NAME, OTHER, Scene};
use crate::support::insider::{Trust, connect, post, redirected};
use crate::support::observed::within;
use crate::support::{Agent, Protocol, rpc};

/// Two framings, two hosts, folded lines and bare line ends: one refusal, and what follows is never read.
#[tokio::test]
async fn ambiguous_heads_are_refused_on_every_way() {
    for kind in ["proxy", "redirect"] {
        let scene = Scene::start(kind, Protocol::Tls).await;
        let place = scene.place();
        let target = if kind == "proxy" { format!("http://{place}/mcp") } else { "/mcp".to_owned() };
        let smuggled = format!("POST {target} HTTP/1.1\r\nHost: {place}\r\nContent-Length: 2\r\n\r\n{{}}");
        for lines in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: +5\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "X-Folded: a\r\n b\r\nContent-Length: 0\r\n",
            "X-Bare: a\nContent-Length: 0\r\n",
            "X-Space : a\r\nContent-Length: 0\r\n",
            "X-Nul: \0\r\nContent-Length: 0\r\n",
            "Host: other.example.test\r\nContent-Length: 0\r\n",
        ] {
            let head = format!("POST {target} HTTP/1.1\r\nHost: {place}\r\nContent-Type: application/json\r\n");
            let bytes = format!("{head}{lines}\r\n0\r\n\r\n{smuggled}");
            let mut agent = match kind {
                "proxy" => Agent::connect(scene.sidecar.captured()).await,
                _ => redirected(&scene.sidecar, NAME, scene.capture.port()).await,
            };
            agent.send(bytes.as_bytes()).await;
            agent.response().await.assert_refused("malformed_head");
            assert!(agent.closed().await.is_empty(), "closed after the refusal: {lines:?}");
        }
        scene.capture.assert_untouched();
    }
}

type Fields<'a> = &'a [(&'a str, &'a str)];

const CALL: [(&str, &str); 3] = [(":method", "POST"), (":scheme", "https"), (":path", "/mcp")];

/// HEADERS of stream 1, each field a literal that nobody checks before it is sent, and one DATA frame.
fn call(fields: Fields<'_>, body: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = payload.len().to_be_bytes();
        [&length[5..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    [preface, frame(4, 0, 0, &[]), frame(1, 4, 1, &block), frame(0, 1, 1, body.as_bytes())].concat()
}

/// What HTTP/2 allows in its frames and HTTP/1.1 would read as more than one line, or as another
/// framing: no byte of it reaches the server, whose side is HTTP/1.1.
#[tokio::test]
async fn no_field_of_http2_becomes_a_line_of_its_own() {
    let scene = Scene::start("redirect", Protocol::Tls).await;
    let place = scene.place();
    let body = rpc::list(1);
    let foreign = format!("{OTHER}:{}", scene.capture.port());
    let json = ("content-type", "application/json");
    let with = |more: &[(&'static str, &str)]| -> Vec<(String, String)> {
        let fields = [&CALL[..], &[(":authority", place.as_str()), json]].concat();
        fields.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let rows = [
        with(&[("x", "a\r\nAuthorization: Bearer own")]),
        with(&[("x\r\nauthorization", "Bearer own")]),
        with(&[("x: y\r\nz", "1")]),
        with(&[("mcp-session-id", "a\nb")]),
        with(&[("mcp-session-id", "a\0b")]),
        with(&[("X-Upper", "1")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("connection", "x")]),
        with(&[("content-length", "3")]),
        with(&[("content-length", "1"), ("content-length", "2")]),
        with(&[(":path", "/other")]),
        with(&[("host", &foreign)]),
        with(&[(":authority", &foreign)]),
        swapped(with(&[]), ":path", "/mcp HTTP/1.1\r\nHost: x\r\n\r\n"),
        swapped(with(&[]), ":path", "*"),
        swapped(with(&[]), ":path", ""),
        swapped(with(&[]), ":path", "mcp"),
        swapped(with(&[]), ":path", "https://other.example.test/mcp"),
        swapped(with(&[]), ":method", "POST /x HTTP/1.1\r\nA:"),
        swapped(with(&[]), ":method", "CONNECT"),
        swapped(with(&[]), ":scheme", "http"),
        swapped(with(&[]), ":authority", "a@b"),
        swapped(with(&[]), ":authority", ""),
    ];
    let trust = Trust::in_pod(&scene.sidecar).offering(&["h2"]);
    for row in &rows {
        let fields: Vec<(&str, &str)> = row.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut stream = trust.shake(connect(&scene.sidecar).await, NAME).await.expect("believed");
        stream.write_all(&call(&fields, &body)).await.expect("a fresh connection");
        assert_ne!(status(&mut stream).await, Some(*b"200"), "{fields:?}");
        scene.capture.assert_untouched();
    }
    // The same frames without a fault are a call.
    let good = with(&[]);
    let fields: Vec<(&str, &str)> = good.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut stream = trust.shake(connect(&scene.sidecar).await, NAME).await.expect("believed");
    stream.write_all(&call(&fields, &body)).await.expect("a fresh connection");
    assert_eq!(status(&mut stream).await, Some(*b"200"));
    scene.assert_served_once();
}

fn swapped(fields: Vec<(String, String)>, name: &str, value: &str) -> Vec<(String, String)> {
    fields.into_iter().map(|(n, v)| if n == name { (n, value.to_owned()) } else { (n, v) }).collect()
}

/// The status that stream 1 gets; `None` if it is reset, or the connection ends.
async fn status(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<[u8; 3]> {
    loop {
        let mut head = [0; 9];
        within("a frame", stream.read_exact(&mut head)).await.ok()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        within("its payload", stream.read_exact(&mut payload)).await.ok()?;
        match head[3] {
            // HEADERS: the first field is the status, mostly from the static table (RFC 7541 appendix A).
            1 => {
                return Some(match payload[0] {
                    0x88 => *b"200",
                    0x8c => *b"400",
                    _ => *b"4xx",
                });
            }
            // RST_STREAM, GOAWAY.
            3 | 7 => return None,
            _ => {}
        }
    }
}

/// A body that holds a request stays a body.
#[tokio::test]
async fn a_request_inside_a_body_stays_a_body() {
    let scene = Scene::start("redirect", Protocol::Tls).await;
    let mut agent = redirected(&scene.sidecar, NAME, scene.capture.port()).await;
    let inner = format!("POST /mcp HTTP/1.1\\r\\nHost: {OTHER}\\r\\n\\r\\n");
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{inner}"}}}}"#);
    agent.ask(post(body)).await.assert_ok();
    assert_eq!(scene.capture.count(), 1);
}
