//! What goes out: exactly one credential, the agent's own never, the body byte for byte.

mod answers;
mod headers;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::secrets::contains;
use crate::support::{
    Answer, Binding, Capture, Message, Protocol, Sidecar, awkward_secret, rpc, sentinel, unique_secret,
};

/// Every way in which an upstream is spoken to.
const PROTOCOLS: [Protocol; 3] = [Protocol::Plain, Protocol::Tls, Protocol::H2];

/// One upstream of this kind and a sidecar bound to it as `github`.
async fn scene(protocol: Protocol, binding: impl FnOnce(Binding) -> Binding) -> (Capture, Sidecar) {
    let capture = Capture::start(protocol).await;
    let binding = binding(Binding::new("github").to(&capture));
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    (capture, sidecar)
}

/// One of each exchange that MCP has, of both eras.
fn every_exchange() -> Vec<Message> {
    let modern = json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}});
    let modern = |method: &str| {
        Message::post("github", rpc::request(1, method, modern.clone()))
            .header("MCP-Protocol-Version", "2026-07-28")
            .header("Mcp-Method", method)
    };
    let post = |body: String| Message::post("github", body);
    let session =
        |message: Message| message.header("Mcp-Session-Id", "s-1").header("MCP-Protocol-Version", "2025-11-25");
    vec![
        post(rpc::initialize(1)),
        session(post(rpc::notification("notifications/initialized"))),
        session(post(rpc::list(2))),
        session(post(rpc::call("three", "search"))),
        session(post(r#"{"jsonrpc":"2.0","id":"srv-1","result":{}}"#.to_owned())),
        session(Message::get("github")),
        session(Message::get("github")).header("Last-Event-ID", "e-9"),
        modern("server/discover"),
        modern("subscriptions/listen"),
        Message::delete("github", "s-1"),
    ]
}

/// T1: each kind of exchange carries exactly one credential line, with the right value, over
/// plaintext, TLS and HTTP/2, to the upstream's own authority.
#[tokio::test]
async fn every_exchange_carries_exactly_one_credential() {
    for protocol in PROTOCOLS {
        let secret = awkward_secret();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        let exchanges = every_exchange();
        for (number, message) in exchanges.iter().enumerate() {
            let response = sidecar.ask(message.clone()).await;
            assert_eq!(response.reason(), None, "{protocol:?} {number}: {}", response.text());
            let request = capture.request(number).await;
            assert_eq!(request.values("authorization"), [format!("Bearer {secret}")], "{protocol:?} {number}");
            assert_eq!(request.authority, format!("localhost:{}", capture.port()));
            assert_eq!(request.target, "/mcp");
            let hosts = if protocol == Protocol::H2 { 0 } else { 1 };
            assert_eq!(request.values("host").len(), hosts, "{protocol:?} {number}");
        }
        // And by the bytes themselves: one value per request, nowhere else.
        let bytes = capture.bytes();
        let values = memchr::memmem::find_iter(&bytes, secret.as_bytes()).count();
        assert_eq!(values, exchanges.len(), "{protocol:?}");
        assert_eq!(capture.requests().len(), exchanges.len(), "one request each");
    }
}

/// T3: a credential in another header. What the agent sends under that name, or as Authorization,
/// is gone in any case and any number.
#[tokio::test]
async fn a_credential_may_go_into_another_header() {
    for protocol in PROTOCOLS {
        let (secret, own) = (unique_secret(), sentinel());
        let (capture, sidecar) = scene(protocol, |b| b.token(&secret).header("X-Api-Key", "key={token};v=1")).await;
        let message = Message::post("github", rpc::list(1))
            .header("X-Api-Key", &own)
            .header("x-api-key", &own)
            .header("X-API-KEY", &own)
            .header("X_Api_Key", &own)
            .header("Authorization", &format!("Bearer {own}"));
        sidecar.ask(message).await.assert_ok();
        let request = capture.request(0).await;
        assert_eq!(request.values("x-api-key"), [format!("key={secret};v=1")]);
        assert!(request.values("authorization").is_empty());
        assert!(!contains(&capture.bytes(), own.as_bytes()), "{protocol:?}");
    }
}

/// Basic (RFC 7617): base64 of `user:password`, on one line.
#[tokio::test]
async fn a_basic_credential_is_built_from_two_keys() {
    for protocol in PROTOCOLS {
        let password = awkward_secret();
        let (capture, sidecar) = scene(protocol, |binding| binding.basic("robot", &password)).await;
        sidecar.post("github", rpc::list(1)).await.assert_ok();
        let expected = format!("Basic {}", STANDARD.encode(format!("robot:{password}")));
        assert_eq!(capture.request(0).await.values("authorization"), [expected]);
    }
}

/// T2 and attack 4: the agent's own tokens, wherever it puts them: not one byte of them goes out,
/// nor into any output of the sidecar; and each such call is counted.
#[tokio::test]
async fn the_agents_own_tokens_never_go_out() {
    for protocol in PROTOCOLS {
        let own = sentinel();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let bearer = format!("Bearer {own}");
        let names = [
            "Authorization",
            "AUTHORIZATION",
            "authorization",
            "Proxy-Authorization",
            "Cookie",
            "Cookie2",
            "X-Api-Key",
            "Api-Key",
            "X-Auth-Token",
            "X-Amz-Security-Token",
            "DPoP",
            "Private-Token",
            "X-Authorization",
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-User",
            "X-User",
            "X-Real-IP",
            "X-Original-URL",
            "Impersonate-User",
            "Via",
            "Referer",
            "From",
            "X-Github-Token",
        ];
        let message = names.iter().fold(Message::post("github", rpc::list(1)), |m, name| m.header(name, &bearer));
        let message =
            message.target(&format!("/github?a=1&access_token={own}&ACCESS_TOKEN={own}&access%5ftoken={own}&b=2"));
        let trailers = format!("Authorization: {bearer}\r\nX-Api-Key: {own}\r\nX-Other: {own}\r\n");
        let mut agent = sidecar.agent().await;
        agent.send(&message.chunked("127.0.0.1", 16, &trailers)).await;
        agent.response().await.assert_ok();
        agent.ask(message).await.assert_ok();
        for number in 0..2 {
            let request = capture.request(number).await;
            assert_eq!(request.target, "/mcp?a=1&b=2");
            assert_eq!(request.values("authorization").len(), 1);
            assert!(request.trailers.is_empty(), "{:?}", request.trailers);
        }
        assert!(!contains(&capture.bytes(), own.as_bytes()), "{protocol:?}: an own token went out");
        let line = sidecar.next_access("the call", |line| line["http"] == "POST").await;
        assert!(!line.to_string().contains(&own), "{line}");
        assert!(!sidecar.diagnostics().contains(&own), "an own token is in the log");
        assert_eq!(sidecar.metric("postern_agent_tokens_stripped_total", &[("server", "github")]).await, 2.0);
    }
}

/// A call without a token of the agent's own counts as none stripped.
#[tokio::test]
async fn a_clean_call_is_not_counted_as_stripped() {
    let (_capture, sidecar) = scene(Protocol::Plain, |binding| binding.token(unique_secret())).await;
    sidecar.post("github", rpc::list(1)).await.assert_ok();
    assert_eq!(sidecar.metric("postern_agent_tokens_stripped_total", &[]).await, 0.0);
}

/// T3: `Connection` names headers to be dropped; it must not drop ours.
#[tokio::test]
async fn connection_cannot_name_the_credential_away() {
    for protocol in PROTOCOLS {
        let secret = unique_secret();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        for value in ["authorization", "close, Authorization", "Authorization, host, content-length, accept"] {
            let number = capture.requests().len();
            sidecar.ask(Message::post("github", rpc::list(1)).header("Connection", value)).await.assert_ok();
            let request = capture.request(number).await;
            assert_eq!(request.values("authorization"), [format!("Bearer {secret}")]);
            assert!(!request.values("connection").iter().any(|value| value.to_lowercase().contains("authorization")));
            assert_eq!(request.body, rpc::list(1).as_bytes());
        }
    }
}

/// T14 as far as a file source has it: identity comes from the configuration. A header that claims
/// another one neither opens that one's bindings nor goes out.
#[tokio::test]
async fn a_claimed_identity_changes_nothing() {
    let capture = Capture::start(Protocol::Plain).await;
    let url = |name: &str| capture.url(&format!("/{name}"));
    let other_account = Binding::new("billing").to(&capture).url(&url("billing")).token(unique_secret());
    let other_account = other_account.set("/serviceAccounts", json!(["billing-agent"]));
    let mine = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(other_account).binding(mine).start().await;
    let claim = "system:serviceaccount:research:billing-agent";
    for name in ["X-User", "X-Forwarded-User", "Impersonate-User", "X-Remote-User", "X-Postern-Caller", "Authorization"]
    {
        sidecar.ask(Message::post("billing", rpc::list(1)).header(name, claim)).await.assert_refused("unbound_server");
        sidecar.ask(Message::post("github", rpc::list(1)).header(name, claim)).await.assert_ok();
    }
    assert!(capture.requests().iter().all(|request| request.target == "/mcp"));
    assert!(!contains(&capture.bytes(), claim.as_bytes()));
}

/// T27: bodies pass byte for byte: white space, escapes, number forms, order of keys, however they
/// were framed.
#[tokio::test]
async fn body_bytes_pass_unchanged() {
    let bodies = [
        "{ \"jsonrpc\" :\t\"2.0\",\r\n \"method\":\"tools/list\" , \"id\": 10 , \"x\": 1 }".to_owned(),
        r#"{"params":{"arguments":{"é":"\u00e9\/","n":1.0e+10,"z":-0,"big":12345678901234567890},"name":"a"},"method":"tools/call","id":"\u0061","jsonrpc":"2.0"}"#.to_owned(),
        format!("\n\n{}\n\n", rpc::list(1)),
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"pad":"{}"}}}}"#, "\u{1F600}é".repeat(100_000)),
    ];
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        for body in &bodies {
            let number = capture.requests().len();
            let message = Message::post("github", body.as_str());
            sidecar.ask(message.clone()).await.assert_ok();
            let mut agent = sidecar.agent().await;
            agent.send(&message.chunked("127.0.0.1", 1000, "")).await;
            agent.response().await.assert_ok();
            for request in [capture.request(number).await, capture.request(number + 1).await] {
                assert!(request.body == body.as_bytes(), "{protocol:?}: the body differs");
                assert!(request.values("content-encoding").is_empty());
            }
        }
    }
}

/// T27: the headers of both MCP eras pass as they are; `Mcp-Param-*` too, which are never logged.
#[tokio::test]
async fn mcp_headers_pass_unchanged() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        let call = rpc::request(1, "tools/call", json!({"name": "s\u{e9}arch", "_meta": meta}));
        let private = sentinel();
        let lines = [
            ("MCP-Protocol-Version", "2026-07-28"),
            ("Mcp-Method", "tools/call"),
            ("Mcp-Name", "=?base64?c8OpYXJjaA==?="),
            ("Mcp-Param-Region", private.as_str()),
            ("Mcp-Param-Odd", "a=b; \"c\" , d"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "x=1,y=2"),
            ("baggage", "k=v"),
            ("User-Agent", "suite/1 (x; y)"),
            ("Origin", "http://localhost:6274"),
        ];
        let message = lines.iter().fold(Message::post("github", call), |m, (name, value)| m.header(name, value));
        sidecar.ask(message).await.assert_ok();
        let request = capture.request(0).await;
        for (name, value) in lines {
            assert_eq!(request.values(name), [value], "{protocol:?} {name}");
        }
        let line = sidecar.next_access("the call", |line| line["http"] == "POST").await;
        assert!(!line.to_string().contains(&private) && !sidecar.diagnostics().contains(&private));
        assert_eq!(line["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    }
}

/// `subpaths: true`: the path below the server is the path below the url, query included.
#[tokio::test]
async fn subpaths_are_mapped_below_the_url() {
    let (capture, sidecar) =
        scene(Protocol::Tls, |b| b.token(unique_secret()).set("/server/subpaths", json!(true))).await;
    let rows = [
        ("/github", "/mcp"),
        ("/github/", "/mcp"),
        ("/github/a/b", "/mcp/a/b"),
        ("/github/a/?x=%2F..%2F&y", "/mcp/a/?x=%2F..%2F&y"),
        ("/github?x=1", "/mcp?x=1"),
    ];
    for (number, (sent, expected)) in rows.into_iter().enumerate() {
        sidecar.ask(Message::post("github", rpc::list(1)).target(sent)).await.assert_ok();
        assert_eq!(capture.request(number).await.target, expected);
    }
}

/// The upstream is asked for an answer that can be read as it is.
#[tokio::test]
async fn compressed_answers_are_not_asked_for() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        capture.next(Answer::full(200, &[("Content-Type", "application/json")], "{}"));
        sidecar
            .ask(Message::post("github", rpc::list(1)).header("Accept-Encoding", "gzip, br, zstd"))
            .await
            .assert_ok();
        assert_eq!(capture.request(0).await.values("accept-encoding"), ["identity"]);
    }
}
