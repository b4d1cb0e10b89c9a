//! HTTP+SSE of MCP 2024-11-05: one GET stream, whose first event names where to POST. That name is
//! where a credential would follow it, so it may only lead home.

use serde_json::json;

use crate::support::agent::Piece;
use crate::support::answer::{Framing, Stream};
use crate::support::refusal::{Form, Refusal};
use crate::support::secrets::contains;
use crate::support::{
    Agent, Answer, Binding, Capture, Message, Protocol, Sidecar, assert_refusal, rpc, sentinel, unique_secret,
};

const PROTOCOLS: [Protocol; 3] = [Protocol::Plain, Protocol::Tls, Protocol::H2];

/// A binding of the old transport alone, to `/old/sse`.
fn legacy(name: &str, capture: &Capture) -> Binding {
    let binding = Binding::new(name).to(capture).url(&capture.url(&format!("/{name}/sse")));
    binding.set("/server/transports", json!(["SSE"]))
}

async fn scene(protocol: Protocol, secret: &str) -> (Capture, Sidecar) {
    let capture = Capture::start(protocol).await;
    let sidecar = Sidecar::for_research().binding(legacy("old", &capture).token(secret)).start().await;
    (capture, sidecar)
}

/// Opens the stream of `old`; no event has been sent.
async fn open(capture: &Capture, sidecar: &Sidecar) -> (Stream, Agent) {
    open_as(capture, sidecar, Message::get("old")).await
}

async fn open_as(capture: &Capture, sidecar: &Sidecar, message: Message) -> (Stream, Agent) {
    let (stream, answer) = Answer::events();
    capture.next(answer);
    let mut agent = sidecar.agent().await;
    let head = agent.open(message).await;
    assert!(head.first_line.contains(" 200 "), "{}", head.first_line);
    (stream, agent)
}

/// Sends an `endpoint` event and returns the path that the agent is given for it.
async fn endpoint(stream: &Stream, agent: &mut Agent, place: &str) -> String {
    stream.send(format!("event: endpoint\ndata: {place}\n\n"));
    let event = agent.until("\n\n").await;
    let path =
        event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_else(|| panic!("no data in {event:?}"));
    assert!(path.starts_with("/old/.sse/"), "{event:?}");
    path.to_owned()
}

/// T1, T2: GET and POST of the old transport carry exactly one credential each, none of the agent's
/// own, and the POST goes where the stream said.
#[tokio::test]
async fn both_legs_carry_exactly_one_credential() {
    for protocol in PROTOCOLS {
        let (secret, own) = (unique_secret(), sentinel());
        let (capture, sidecar) = scene(protocol, &secret).await;
        let with_own =
            |message: Message| message.header("Authorization", &own).header("Cookie", &own).header("X-Api-Key", &own);
        let absolute = capture.url("/messages?s=4");
        let (stream, mut agent) = open_as(&capture, &sidecar, with_own(Message::get("old"))).await;
        for (place, target) in [
            ("/messages?session_id=1&x=%2F", "/messages?session_id=1&x=%2F"),
            ("messages?s=2", "/old/messages?s=2"),
            ("/messages", "/messages"),
            (absolute.as_str(), "/messages?s=4"),
        ] {
            let path = endpoint(&stream, &mut agent, place).await;
            let number = capture.requests().len();
            capture.next(Answer::full(202, &[], "Accepted"));
            let response = sidecar.ask(with_own(Message::post("old", rpc::call(7, "search")).target(&path))).await;
            assert_eq!((response.status, response.reason()), (202, None), "{}", response.text());
            let request = capture.request(number).await;
            assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", target), "{protocol:?}");
            stream.event(&format!("answer {number}"));
            agent.until(&format!("data: answer {number}\n\n")).await;
        }
        let requests = capture.requests();
        assert_eq!((requests.len(), requests[0].target.as_str()), (5, "/old/sse"));
        for request in requests {
            assert_eq!(
                request.values("authorization"),
                [format!("Bearer {secret}")],
                "{protocol:?} {}",
                request.method
            );
        }
        assert!(!contains(&capture.bytes(), own.as_bytes()), "{protocol:?}");
    }
}

/// T9: an endpoint at another origin, in any dress, ends the stream; the agent is given no path,
/// and the other place sees nothing.
#[tokio::test]
async fn a_foreign_endpoint_ends_the_stream() {
    for protocol in [Protocol::Tls, Protocol::H2] {
        let elsewhere = Capture::start(protocol).await;
        let (capture, sidecar) = scene(protocol, &unique_secret()).await;
        let (own, other) = (capture.port(), elsewhere.port());
        let places = [
            elsewhere.url("/m"),
            format!("//localhost:{other}/m"),
            format!("http://localhost:{own}/m"),
            format!("https://127.0.0.1:{own}/m"),
            format!("https://localhost:{own}@localhost:{other}/m"),
            format!("https://user:pw@localhost:{own}/m"),
            format!("https://localhost:{own}.evil.example/m"),
            format!("/\\localhost:{other}/m"),
            "/../m".to_owned(),
            "/a/%2e%2e/m".to_owned(),
            "/m\ndata: /n".to_owned(),
        ];
        for (number, place) in places.iter().enumerate() {
            let (stream, mut agent) = open(&capture, &sidecar).await;
            stream.send(format!(": hello\n\nevent: endpoint\ndata: {place}\n\ndata: after\n\n"));
            let mut seen = Vec::new();
            let end = loop {
                match agent.piece().await {
                    Piece::Data(bytes) => seen.extend_from_slice(&bytes),
                    end => break end,
                }
            };
            let seen = String::from_utf8_lossy(&seen).into_owned();
            assert_eq!(end, Piece::Broken, "{place}: {seen:?}");
            assert!(
                !seen.contains(".sse") && !seen.contains("endpoint") && !seen.contains("after"),
                "{place}: {seen:?}"
            );
            capture.abandoned(number).await;
            let line = sidecar.next_access("the stream", |line| line["http"] == "GET").await;
            assert_eq!(line["outcome"], "bad_stream", "{place}: {line}");
        }
        elsewhere.assert_untouched();
        assert_eq!(capture.requests().len(), places.len(), "nothing was posted");
    }
}

/// The event may come in any pieces and with any line ends, also in a body with a length; what
/// surrounds it passes as it is.
#[tokio::test]
async fn the_endpoint_event_is_found_in_any_pieces() {
    let (capture, sidecar) = scene(Protocol::Plain, &unique_secret()).await;
    for end in ["\n", "\r\n"] {
        let text = format!(": hi{end}{end}event: endpoint{end}data: /messages?s=1{end}{end}data: caf\u{e9}{end}{end}");
        for size in [1, 3, 1000] {
            for framing in [Framing::Chunked, Framing::Length(text.len()), Framing::UntilClose] {
                let (stream, answer) = Answer::stream(&[("Content-Type", "text/event-stream; charset=utf-8")], framing);
                capture.next(answer);
                let mut agent = sidecar.agent().await;
                agent.open(Message::get("old")).await;
                text.as_bytes().chunks(size).for_each(|piece| stream.send(piece.to_vec()));
                let seen = agent.until("caf\u{e9}").await;
                assert!(seen.starts_with(&format!(": hi{end}{end}")), "{seen:?}");
                assert!(
                    seen.contains("data: /old/.sse/") && !seen.contains("/messages"),
                    "{framing:?} {size}: {seen:?}"
                );
                stream.finish();
                assert_eq!(agent.drained().await, Piece::End, "{framing:?} {size}");
            }
        }
    }
}

/// An event that is longer than any endpoint is passed on before its end is there: what an upstream
/// may let us hold for each of its streams is little.
#[tokio::test]
async fn a_long_event_is_not_collected() {
    const LONG: usize = 4 << 20;
    let (capture, sidecar) = scene(Protocol::Tls, &unique_secret()).await;
    let (stream, mut agent) = open(&capture, &sidecar).await;
    stream.send(format!("data: {}", "x".repeat(LONG)));
    let mut seen = 0;
    while seen < LONG - 128 * 1024 {
        match agent.piece().await {
            Piece::Data(bytes) => seen += bytes.len(),
            end => panic!("{end:?} after {seen} bytes"),
        }
    }
    stream.send("\nid: 1\n\n");
    agent.until("\nid: 1\n\n").await;
    let path = endpoint(&stream, &mut agent, "/messages?s=1").await;
    sidecar.ask(Message::post("old", rpc::list(7)).target(&path)).await.assert_ok();
    // Too late to name an endpoint: the agent never sees such an event.
    stream.send(format!("data: {}\nevent: endpoint\n\n", "x".repeat(LONG)));
    let mut seen = Vec::new();
    while let Piece::Data(bytes) = agent.piece().await {
        seen.extend_from_slice(&bytes);
    }
    assert!(!contains(&seen, b"\n") && !contains(&seen, b"endpoint"));
    let line = sidecar.next_access("the stream", |line| line["http"] == "GET").await;
    assert_eq!(line["outcome"], "bad_stream", "{line}");
}

/// T6 for the old transport: a path is worth something only while its own stream is open, and only
/// at its own server. Nothing else reaches an upstream.
#[tokio::test]
async fn a_path_of_another_or_closed_stream_is_foreign() {
    let (capture, other) = (Capture::start(Protocol::Tls).await, Capture::start(Protocol::Tls).await);
    let sidecar = Sidecar::for_research()
        .binding(legacy("old", &capture).token(unique_secret()))
        .binding(legacy("other", &other).token(unique_secret()))
        .start()
        .await;
    let (stream, mut agent) = open(&capture, &sidecar).await;
    let first = endpoint(&stream, &mut agent, "/messages?s=1").await;
    let second = endpoint(&stream, &mut agent, "/messages?s=2").await;
    assert_ne!(first, second);
    let stolen = second.replace("/old/", "/other/");
    let guessed = format!("/old/.sse/{}", "0".repeat(32));
    for (server, path) in [("old", &first), ("other", &stolen), ("old", &guessed)] {
        let refusal = Refusal { reason: "session_foreign", server, form: Form::Rpc("7") };
        let message = Message::post(server, rpc::list(7)).target(path).bytes("127.0.0.1");
        assert_refusal(&sidecar, &message, refusal).await;
    }
    let get = Message::get("old").target(&second).bytes("127.0.0.1");
    assert_refusal(&sidecar, &get, Refusal { reason: "not_mcp", server: "old", form: Form::Text }).await;
    drop(agent);
    capture.abandoned(0).await;
    sidecar.next_access("the stream's end", |line| line["outcome"] == "client_closed").await;
    let refusal = Refusal { reason: "session_foreign", server: "old", form: Form::Rpc("7") };
    assert_refusal(&sidecar, &Message::post("old", rpc::list(7)).target(&second).bytes("127.0.0.1"), refusal).await;
    assert_eq!(capture.requests().len(), 1, "only the stream itself went out");
    other.assert_untouched();
}

/// T13 for the old transport: the rules of the binding hold on the POST path as well.
#[tokio::test]
async fn policy_holds_on_the_post_path() {
    let capture = Capture::start(Protocol::Tls).await;
    let binding = legacy("old", &capture).token(unique_secret()).set("/tools", json!({"allow": ["search"]}));
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    let (stream, mut agent) = open(&capture, &sidecar).await;
    let path = endpoint(&stream, &mut agent, "/messages?s=1").await;
    let post = |body: String| Message::post("old", body).target(&path);
    let refusal = |reason, form| Refusal { reason, server: "old", form };
    let denied = post(rpc::call(7, "delete")).bytes("127.0.0.1");
    assert_refusal(&sidecar, &denied, refusal("tool_denied", Form::Rpc("7"))).await;
    let twice = post(r#"{"jsonrpc":"2.0","id":7,"method":"a","method":"b"}"#.to_owned()).bytes("127.0.0.1");
    assert_refusal(&sidecar, &twice, refusal("bad_json_rpc", Form::Rpc("7"))).await;
    let plain = Message::new("POST", &path).header("Content-Type", "text/plain").body("x").bytes("127.0.0.1");
    assert_refusal(&sidecar, &plain, refusal("not_mcp", Form::Text)).await;
    assert_eq!(capture.requests().len(), 1, "only the stream itself went out");
    sidecar.ask(post(rpc::call(7, "search"))).await.assert_ok();
}

/// SDKs speak newer revisions over the old transport too, and it has no mirrored headers. One that
/// comes all the same must not lie.
#[tokio::test]
async fn a_newer_revision_needs_no_mirrored_headers() {
    let (capture, sidecar) = scene(Protocol::Tls, &unique_secret()).await;
    let (stream, mut agent) = open(&capture, &sidecar).await;
    let path = endpoint(&stream, &mut agent, "/messages?s=1").await;
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "search", "_meta": meta}});
    let post = || Message::post("old", call.to_string()).target(&path);
    sidecar.ask(post()).await.assert_ok();
    assert_eq!(capture.request(1).await.body, call.to_string().as_bytes());
    let refusal = Refusal { reason: "header_mismatch", server: "old", form: Form::Rpc("7") };
    let lies = [("Mcp-Method", "tools/list"), ("Mcp-Name", "delete"), ("MCP-Protocol-Version", "2025-11-25")];
    for (name, value) in lies {
        assert_refusal(&sidecar, &post().header(name, value).bytes("127.0.0.1"), refusal).await;
    }
    assert_eq!(capture.requests().len(), 2, "no lie went out");
}

/// A binding of the new transport alone has no such paths, and `mcp.json` tells the two apart.
#[tokio::test]
async fn the_transports_of_a_binding_count() {
    let capture = Capture::start(Protocol::Tls).await;
    let sidecar = Sidecar::for_research()
        .binding(legacy("old", &capture).token(unique_secret()))
        .binding(Binding::new("new").to(&capture).token(unique_secret()))
        .config("public", json!({"directory": "./public"}))
        .start()
        .await;
    let refusal = Refusal { reason: "path_outside_binding", server: "new", form: Form::Rpc("7") };
    let message = Message::post("new", rpc::list(7)).target("/new/.sse/00").bytes("127.0.0.1");
    assert_refusal(&sidecar, &message, refusal).await;
    capture.assert_untouched();
    let text = std::fs::read(sidecar.files().path("public/mcp.json")).expect("mcp.json is there");
    let document: serde_json::Value = serde_json::from_slice(&text).expect("mcp.json is JSON");
    assert_eq!(document["mcpServers"]["old"]["type"], "sse");
    assert_eq!(document["mcpServers"]["new"]["type"], "http");
}
