//! Requests of the wrong shape: refused by head or body, before a credential is touched.

use crate::support::refusal::{Form, Refusal};
use serde_json::json;

use crate::support::{Binding, Capture, Message, Protocol, Sidecar, assert_refusal, rpc as body};

use super::{rpc, scene, text};

const LIST: &str = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list"}"#;

/// The server, with any id a client may use echoed byte for byte (field/mcp.md: an SDK that does
/// not find its id tears the session down).
#[tokio::test]
async fn an_unbound_server_is_refused_with_the_callers_id_verbatim() {
    let (capture, sidecar) = scene().await;
    for id in ["7", "-1", "12345678901234567890", r#""a""#, r#""\u0041\"\\ é\n""#, r#""""#] {
        let body = format!(r#"{{"jsonrpc":"2.0","method":"tools/list", "id" : {id} }}"#);
        let message = Message::post("nobody", body).bytes("127.0.0.1");
        let refusal = Refusal { reason: "unbound_server", server: "", form: Form::Rpc(id) };
        assert_refusal(&sidecar, &message, refusal).await;
    }
    for message in [
        Message::post("nobody", body::notification("notifications/initialized")),
        Message::post("git%68ub", body::notification("notifications/initialized")),
        Message::post("GITHUB", body::notification("notifications/initialized")),
        Message::get("nobody"),
        Message::delete("nobody", "s"),
        Message::get("").target("/"),
    ] {
        assert_refusal(&sidecar, &message.bytes("127.0.0.1"), text("unbound_server")).await;
    }
    capture.assert_untouched();
}

/// Only MCP passes: POST of JSON, GET of events, DELETE of a session (attack 7: TRACE and friends).
#[tokio::test]
async fn what_is_not_mcp_is_refused() {
    let (capture, sidecar) = scene().await;
    let refusal = Refusal { server: "github", ..text("not_mcp") };
    let json = |method: &str| Message::new(method, "/github").header("Content-Type", "application/json").body(LIST);
    let plain = |kind: &str| Message::new("POST", "/github").header("Content-Type", kind).body("not an rpc body");
    for message in [
        Message::new("GET", "/github"),
        Message::new("GET", "/github").header("Accept", "application/json"),
        Message::get("github").body("x"),
        Message::new("DELETE", "/github"),
        Message::delete("github", "s").body("x"),
        Message::new("HEAD", "/github").header("Accept", "text/event-stream"),
        Message::new("OPTIONS", "/github"),
        Message::new("TRACE", "/github"),
        Message::new("PROPFIND", "/github").header("Accept", "text/event-stream"),
        Message::new("get", "/github").header("Accept", "text/event-stream"),
        json("PUT"),
        json("PATCH"),
        plain("text/plain"),
        plain("application/x-www-form-urlencoded"),
        plain("multipart/form-data; boundary=x"),
        plain("application/jsonp"),
        Message::new("POST", "/github").body("not an rpc body"),
    ] {
        let head_only = message.bytes("h").starts_with(b"HEAD");
        if head_only {
            // The answer to a HEAD has no body to assert; the reason still stands in its head.
            let mut agent = sidecar.agent().await;
            let head = agent.open(message).await;
            assert_eq!(head.value("postern-reason"), Some("not_mcp"));
            continue;
        }
        assert_refusal(&sidecar, &message.bytes("127.0.0.1"), refusal).await;
    }
    capture.assert_untouched();
}

/// Bytes that are no HTTP/1.1 at all: TLS, HTTP/2, JSON lines (stdio over TCP), other protocols.
#[tokio::test]
async fn what_is_not_http_is_refused_and_closed() {
    let (capture, sidecar) = scene().await;
    let hello = [b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03".to_vec(), vec![0; 193]].concat();
    let rows: [&[u8]; 6] = [
        &hello,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}\n",
        b"\x05\x01\x00",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"EHLO\r\n\r\n",
    ];
    for bytes in rows {
        assert_refusal(&sidecar, bytes, text("not_http")).await;
        let mut agent = sidecar.agent().await;
        agent.send(bytes).await;
        agent.response().await;
        assert!(agent.closed().await.is_empty(), "nothing follows the refusal");
    }
    capture.assert_untouched();
}

/// CONNECT and upgrades would be tunnels past every rule (attack 7).
#[tokio::test]
async fn tunnels_are_refused() {
    let (capture, sidecar) = scene().await;
    let target = format!("localhost:{}", capture.port());
    let upgrade = |kind: &str| Message::get("github").header("Connection", "Upgrade").header("Upgrade", kind);
    for message in [
        Message::new("CONNECT", &target).host(&target),
        Message::new("CONNECT", "github").host("github"),
        upgrade("websocket").header("Sec-WebSocket-Version", "13"),
        upgrade("TLS/1.2"),
        upgrade("connect-udp"),
        upgrade("h2c, websocket"),
    ] {
        assert_refusal(&sidecar, &message.bytes("127.0.0.1"), text("tunnel_forbidden")).await;
    }
    capture.assert_untouched();
}

/// A binding without `subpaths` is exactly its url.
#[tokio::test]
async fn a_path_below_an_exact_binding_is_refused() {
    let (capture, sidecar) = scene().await;
    for path in ["/github/x", "/github/mcp", "/github/x/", "/github/x;y", "/github/%20"] {
        let message = Message::post("github", LIST).target(path).bytes("127.0.0.1");
        assert_refusal(&sidecar, &message, rpc("path_outside_binding", "7")).await;
    }
    capture.assert_untouched();
}

/// The listener is an ambient authority: a web page that rebinds its name must not use it
/// (attacks 1 and 8), whatever form the foreign name takes.
#[tokio::test]
async fn a_foreign_host_or_origin_is_refused() {
    let (capture, sidecar) = scene().await;
    let post = || Message::post("github", LIST);
    let hosts =
        ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[::2]"];
    for host in hosts {
        let refusal = Refusal { server: "", ..rpc("authority_mismatch", "7") };
        assert_refusal(&sidecar, &post().bytes(host), refusal).await;
    }
    for target in ["http://evil.example/github", "https://localhost:1/github", "http://127.0.0.2/github"] {
        let refusal = Refusal { server: "", ..rpc("authority_mismatch", "7") };
        assert_refusal(&sidecar, &post().target(target).bytes("127.0.0.1"), refusal).await;
    }
    for origin in
        ["https://evil.example", "null", "http://127.0.0.1.evil.example", "file://", "http://localhost@evil.example"]
    {
        let refusal = Refusal { server: "", ..rpc("origin_forbidden", "7") };
        assert_refusal(&sidecar, &post().header("Origin", origin).bytes("127.0.0.1"), refusal).await;
    }
    let two = post().header("Origin", "http://localhost").header("Origin", "https://evil.example").bytes("127.0.0.1");
    assert_refusal(&sidecar, &two, Refusal { server: "", ..rpc("origin_forbidden", "7") }).await;
    capture.assert_untouched();
}

/// The counterpart of the test above: every loopback name passes, so it proves more than "no".
#[tokio::test]
async fn loopback_hosts_and_origins_pass() {
    let (capture, sidecar) = scene().await;
    for host in ["127.0.0.1", "localhost", "LOCALHOST:80", "[::1]:15101", "127.0.0.1:1"] {
        let message = Message::post("github", LIST).host(host).header("Origin", "http://localhost:6274");
        sidecar.ask(message).await.assert_ok();
    }
    let absolute = Message::post("github", LIST).host("localhost:15101").target("http://localhost:15101/github");
    sidecar.ask(absolute).await.assert_ok();
    assert_eq!(capture.requests().len(), 6);
}

/// MCP 2026-07-28: the headers that mirror the body must say what it says (-32020).
#[tokio::test]
async fn mirrored_headers_that_lie_are_refused() {
    let (capture, sidecar) = scene().await;
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
    let call = format!(r#"{{"jsonrpc":"2.0","id":"n","method":"tools/call","params":{{"name":"a",{meta}}}}}"#);
    let rows: [&[(&str, &str)]; 6] = [
        &[("Mcp-Method", "tools/list"), ("Mcp-Name", "a")],
        &[("Mcp-Method", "tools/call"), ("Mcp-Name", "b")],
        &[("Mcp-Method", "tools/call")],
        &[("Mcp-Name", "a")],
        &[],
        &[("Mcp-Method", "tools/call"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "a")],
    ];
    for lines in rows {
        let message = Message::post("github", call.as_str()).header("MCP-Protocol-Version", "2026-07-28");
        let message = lines.iter().fold(message, |message, (name, value)| message.header(name, value));
        assert_refusal(&sidecar, &message.bytes("127.0.0.1"), rpc("header_mismatch", r#""n""#)).await;
    }
    let other_version = Message::post("github", call.as_str())
        .header("MCP-Protocol-Version", "2025-11-25")
        .header("Mcp-Method", "tools/call")
        .header("Mcp-Name", "a");
    assert_refusal(&sidecar, &other_version.bytes("127.0.0.1"), rpc("header_mismatch", r#""n""#)).await;
    capture.assert_untouched();
}

/// Bodies that two parsers could read differently, and bodies that are no message. Those whose id
/// is certain get it back.
#[tokio::test]
async fn ambiguous_bodies_are_refused() {
    let (capture, sidecar) = scene().await;
    let with_id = [
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","m\u0065thod":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","Method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","name":"b"}}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","NAME":"b"}}"#,
        r#"{"jsonrpc":"1.0","id":7,"method":"tools/list"}"#,
        r#"{"id":7,"method":"tools/list"}"#,
    ];
    for body in with_id {
        let message = Message::post("github", body).bytes("127.0.0.1");
        assert_refusal(&sidecar, &message, rpc("bad_json_rpc", "7")).await;
    }
    let without: [&[u8]; 11] = [
        br#"{"jsonrpc":"2.0","id":7}"#,
        b"",
        b"{",
        b"null",
        b"7",
        b"[]",
        br#"[{"jsonrpc":"2.0","id":7,"method":"tools/list"}]"#,
        br#"{"jsonrpc":"2.0","id":7,"method":"tools/list"} x"#,
        b"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/\xff\"}",
        b"\xef\xbb\xbf{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/list\"}",
        br#"{"jsonrpc":"2.0","id":null,"method":"tools/list"}"#,
    ];
    let refusal = Refusal { server: "github", ..text("bad_json_rpc") };
    for body in without {
        let message = Message::post("github", body).bytes("127.0.0.1");
        assert_refusal(&sidecar, &message, refusal).await;
    }
    let encoded = Message::post("github", LIST).header("Content-Encoding", "gzip").bytes("127.0.0.1");
    assert_refusal(&sidecar, &encoded, rpc("bad_json_rpc", "7")).await;
    capture.assert_untouched();
}

/// A body nested a hundred thousand deep costs nobody their stack: it passes or is refused, and the
/// next call is served.
#[tokio::test]
async fn deep_nesting_is_survived() {
    let (_capture, sidecar) = scene().await;
    let arrays = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    for nest in [arrays, objects] {
        for place in ["params", "x", "result", "id", "method"] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/list","{place}":{nest}}}"#);
            let response = sidecar.post("github", body).await;
            assert!(matches!(response.reason(), None | Some("bad_json_rpc")), "{place}: {}", response.text());
            sidecar.post("github", LIST).await.assert_ok();
        }
    }
}

/// `refusalStatus: 200`, for clients that tear a session down on any 4xx: JSON-RPC errors of the 403
/// family come with 200. What is no JSON-RPC request keeps its status: it must not look like success.
#[tokio::test]
async fn refusal_status_200_softens_json_rpc_errors_alone() {
    let capture = Capture::start(Protocol::Tls).await;
    let binding = Binding::new("github").to(&capture);
    let sidecar = Sidecar::for_research().binding(binding).config("refusalStatus", json!(200)).start().await;
    for (message, reason, status) in [
        (Message::post("nobody", LIST), "unbound_server", 200),
        (Message::post("github", LIST), "no_credential", 200),
        (Message::post("github", LIST).target("/github/x"), "path_outside_binding", 200),
        (Message::post("nobody", body::notification("notifications/initialized")), "unbound_server", 403),
        (Message::get("github"), "no_credential", 403),
        (Message::new("PUT", "/github"), "not_mcp", 403),
        (Message::post("github", LIST).host("evil.example"), "authority_mismatch", 421),
        (Message::post("github", "[]"), "bad_json_rpc", 400),
    ] {
        let response = sidecar.ask(message).await;
        response.assert_refused(reason);
        assert_eq!(response.status, status, "{reason}: {}", response.text());
        if status == 200 {
            assert_eq!(response.json()["error"]["data"]["reason"], reason);
            assert_eq!(response.json()["id"], 7);
        }
        let line = sidecar.next_access(reason, |line| line["reason"] == reason).await;
        assert_eq!(
            (line["outcome"].as_str(), line["status"].as_u64()),
            (Some("refused"), Some(status.into())),
            "{line}"
        );
    }
    capture.assert_untouched();
}

/// OAuth discovery would start a login that the agent must not have: 404 from here (attack 28).
#[tokio::test]
async fn discovery_paths_are_answered_locally() {
    let (capture, sidecar) = scene().await;
    for path in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/github",
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-authorization-server/github",
        "/.well-known/openid-configuration",
        "/github/.well-known/openid-configuration",
        "/authorize",
    ] {
        let response = sidecar.ask(Message::new("GET", path)).await;
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(response.header("www-authenticate"), None);
    }
    for path in ["/register", "/token"] {
        let response = sidecar.ask(Message::post("", "{}").target(path)).await;
        assert_eq!(response.status, 404, "{path}");
    }
    capture.assert_untouched();
}
