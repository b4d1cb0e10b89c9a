//! Attacks 4 to 6: tokens of the agent's own in odd places and spellings, values and documents that
//! would break out of a header line, and bytes that another parser would read otherwise. What counts
//! is what stands on the upstream's wire.

use serde_json::json;

use crate::support::answer::End;
use crate::support::files::{Files, Layout};
use crate::support::output::Lines;
use crate::support::secrets::contains;
use crate::support::sidecar::Process;
use crate::support::{Answer, Binding, Capture, Message, Protocol, Sidecar, rpc, sentinel, unique_secret};

use super::{PROTOCOLS, scene};

/// Names under which one server or another looks for a credential, or for who is calling.
const NAMES: [&str; 22] = [
    "Authorization",
    "aUTHORIZATION",
    "Authorization_",
    "HTTP_AUTHORIZATION",
    "Proxy_Authorization",
    "X-Original-Authorization",
    "X-Forwarded-Authorization",
    "X-Forwarded-Access-Token",
    "X_Api_Key",
    "X-API-KEY",
    "x-goog-api-key",
    "Ocp-Apim-Subscription-Key",
    "X-Amz-Security-Token",
    "X-Vault-Token",
    "X-CSRF-Token",
    "Cookie",
    "COOKIE",
    "Client-Cert",
    "X-SSL-Client-Cert",
    "X-Auth-Request-User",
    "X-HTTP-Method-Override",
    "X-Postern-Token",
];

/// Each name twice, once more behind every `Connection` that names it (a hop-by-hop header that an
/// intermediary would strip, ours with it), with white space around the value and in the chunked
/// body's trailers: not a byte of it goes out, and the bound credential always does.
#[tokio::test]
async fn own_tokens_under_any_name_stay_here() {
    for protocol in PROTOCOLS {
        let (own, secret) = (sentinel(), unique_secret());
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        let mut agent = sidecar.agent().await;
        for (number, name) in NAMES.into_iter().enumerate() {
            let message = Message::post("github", rpc::list(1))
                .header(name, &own)
                .header("Connection", &format!("keep-alive, {name}, authorization"))
                .header(name, &format!("  \t Bearer {own} \t"))
                .header("TE", "trailers")
                .header("Trailer", name);
            agent.send(&message.chunked("127.0.0.1", 7, &format!("{name}: {own}\r\n"))).await;
            agent.response().await.assert_ok();
            let request = capture.request(number).await;
            assert_eq!(request.values("authorization"), [format!("Bearer {secret}")], "{protocol:?} {name}");
            assert!(request.trailers.is_empty(), "{name}: {:?}", request.trailers);
            for framing in ["te", "trailer", "keep-alive", "upgrade"] {
                assert!(request.values(framing).is_empty(), "{protocol:?} {name}: {framing}");
            }
        }
        assert!(!contains(&capture.bytes(), own.as_bytes()), "{protocol:?}");
    }
}

/// White space between name and colon, or before the name, would make another header of it for some
/// parsers: such a head is refused whole.
#[tokio::test]
async fn own_tokens_in_malformed_lines_are_refused() {
    let (capture, sidecar) = scene(Protocol::Plain, |binding| binding.token(unique_secret())).await;
    let own = sentinel();
    for line in [
        format!("Authorization : Bearer {own}"),
        format!("Authorization\t: Bearer {own}"),
        format!(" Authorization: Bearer {own}"),
        format!("X-A: b\r\n Authorization: Bearer {own}"),
        format!("X-A: b\rAuthorization: Bearer {own}"),
        format!("X-A: b\nAuthorization: Bearer {own}"),
        format!("X-A: b\0\r\nAuthorization\0: Bearer {own}"),
        format!("Authorization: Bearer {own}\x0b"),
        format!("\u{ff21}uthorization: Bearer {own}"),
    ] {
        let body = rpc::list(1);
        let lines = format!("{line}\r\nContent-Length: {}\r\n", body.len());
        let mut agent = sidecar.agent().await;
        agent.send(&[&Message::post("github", "").head_with("127.0.0.1", &lines), body.as_bytes()].concat()).await;
        agent.response().await.assert_refused("malformed_head");
    }
    capture.assert_untouched();
}

/// A token in the query, however its name is written: gone, and the rest of the query as it was.
#[tokio::test]
async fn own_tokens_in_the_query_stay_here() {
    for protocol in PROTOCOLS {
        let own = sentinel();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        for (number, name) in [
            "access_token",
            "Access_Token",
            "%61ccess%5Ftoken",
            "%41CCESS_TOKEN",
            "accessToken",
            "access-token",
            "access.token",
            "access+token",
            "%20access_token",
            "access_token[]",
            "access_token%5b0%5d",
        ]
        .into_iter()
        .enumerate()
        {
            let query = format!("a=1;{name}={own}&{name}={own}&b=%26{name}%3D2;c&{name}={own};{name}={own}");
            sidecar.ask(Message::post("github", rpc::list(1)).target(&format!("/github?{query}"))).await.assert_ok();
            let target = capture.request(number).await.target;
            assert_eq!(target, format!("/mcp?a=1&b=%26{name}%3D2;c"), "{protocol:?}");
        }
        assert!(!contains(&capture.bytes(), own.as_bytes()), "{protocol:?}");
        assert_eq!(sidecar.metric("postern_agent_tokens_stripped_total", &[("server", "github")]).await, 11.0);
    }
}

/// Cookies go only where `passCookies` says so: no list, no cookie, whatever it is called.
#[tokio::test]
async fn cookies_stay_here() {
    for protocol in PROTOCOLS {
        let own = sentinel();
        let only_lb = |binding: Binding| binding.token(unique_secret()).set("/passCookies", json!(["lb"]));
        let (capture, sidecar) = scene(protocol, only_lb).await;
        for (number, (cookies, expected)) in [
            (format!("session={own}"), None),
            (format!("lb={own}x; lb=1"), Some(format!("lb={own}x; lb=1"))),
            (format!("\"lb=1; session={own}\""), None),
            (format!("Lb={own};LB={own};lb ={own};$lb={own}"), None),
            (format!("session={own},lb={own}"), None),
        ]
        .into_iter()
        .enumerate()
        {
            sidecar.ask(Message::post("github", rpc::list(1)).header("Cookie", &cookies)).await.assert_ok();
            let request = capture.request(number).await;
            assert_eq!(request.values("cookie"), Vec::from_iter(expected.as_deref()), "{protocol:?} {cookies}");
        }
    }
}

/// Attack 5: a value that breaks out of its line is no credential, nor is one that only becomes so
/// when it is rotated in; both halves of a Basic pair are looked at.
#[tokio::test]
async fn no_value_breaks_out_of_its_header() {
    let break_out = |at: &str| format!("{}{at}X-Evil: 1", unique_secret());
    for at in ["\r\n", "\n", "\r", "\0", "\u{b}", "\u{85}", "\u{2028}"] {
        let capture = Capture::start(Protocol::Plain).await;
        let url = |name: &str| capture.url(&format!("/{name}"));
        let bind = |name: &str| Binding::new(name).to(&capture).url(&url(name));
        let sidecar = Sidecar::for_research()
            .binding(bind("bearer").token(break_out(at)))
            .binding(bind("header").token(break_out(at)).header("X-Key", "{token}"))
            .binding(bind("password").basic("robot", &break_out(at)))
            .binding(bind("user").basic(&break_out(at).replace(':', ""), &unique_secret()))
            .binding(bind("later").token(unique_secret()))
            .start()
            .await;
        for server in ["bearer", "header", "password", "user"] {
            sidecar.post(server, rpc::list(1)).await.assert_refused("credential_invalid");
        }
        capture.assert_untouched();
        sidecar.files().replace_secret("later-secret", "token", break_out(at).as_bytes());
        // A call that was under way is told `credential_revoked`.
        sidecar.until_refused("later").await;
        sidecar.post("later", rpc::list(1)).await.assert_refused("credential_invalid");
        assert!(!contains(&capture.bytes(), b"X-Evil"), "{at:?}");
    }
}

/// Attack 5, in documents: names, formats, URLs and lists that would add a line to a head are faults
/// at start, told with their place; nothing listens.
#[tokio::test]
async fn no_document_breaks_out_of_a_header() {
    let rows = [
        ("/credential/header", json!({"name": "X-Key\r\nX-Evil", "format": "{token}"}), "spec.credential.header.name"),
        ("/credential/header", json!({"name": "X-Key:", "format": "{token}"}), "spec.credential.header.name"),
        ("/credential/header", json!({"name": "X-Key\0", "format": "{token}"}), "spec.credential.header.name"),
        ("/credential/header", json!({"name": "X-Key", "format": "{token}\r\nX-Evil: 1"}), "header.format"),
        ("/credential/header", json!({"name": "X-Key", "format": "a\n{token}"}), "header.format"),
        (
            "/credential/header",
            json!({"name": "Transfer-Encoding", "format": "{token}"}),
            "spec.credential.header.name",
        ),
        ("/credential/header", json!({"name": "content-length", "format": "{token}"}), "spec.credential.header.name"),
        ("/credential/header", json!({"name": "Mcp-Session-Id", "format": "{token}"}), "spec.credential.header.name"),
        ("/server/url", json!("https://a.example/x\r\nX-Evil: 1"), "spec.server.url"),
        ("/server/url", json!("https://a.example\r\nX-Evil: 1/"), "spec.server.url"),
        ("/server/url", json!("https://a.example/ HTTP/1.1"), "spec.server.url"),
        ("/server/name", json!("a\r\nb"), "spec.server.name"),
        ("/server/tls", json!({"serverName": "a.example\r\nb"}), "spec.server.tls.serverName"),
        ("/passHeaders", json!(["X-A\r\nX-Evil"]), "spec.passHeaders"),
        ("/passHeaders", json!(["Transfer-Encoding"]), "spec.passHeaders"),
        ("/passHeaders", json!(["Authorization"]), "spec.passHeaders"),
        ("/passCookies", json!(["lb\r\nX-Evil"]), "spec.passCookies"),
        ("/passCookies", json!(["lb; session"]), "spec.passCookies"),
    ];
    let files = Files::new(Layout::Files);
    files.write(
        "postern.yaml",
        "caller: {namespace: research, serviceAccount: research-agent}\nsource: {file: {directory: ./bindings}}\n\
         endpoint: {port: 0}\nadmin: {address: 127.0.0.1, port: 0}\n",
    );
    for (number, (pointer, value, _)) in rows.iter().enumerate() {
        let binding = Binding::new(&format!("b{number}")).url(&format!("https://b{number}.example/mcp"));
        let binding = binding.header("X-Key", "{token}").set(pointer, value.clone());
        files.document(&binding);
    }
    let process = Process::start(&files);
    assert_eq!(process.exit().await.code(), Some(2));
    let told = process.stderr.read(Lines::text);
    assert!(!told.contains("listening"), "{told}");
    for (number, (_, value, path)) in rows.iter().enumerate() {
        let file = format!("/b{number}.yaml:");
        assert!(told.lines().any(|line| line.contains(&file) && line.contains(path)), "{path} {value} in\n{told}");
    }
}

/// Attack 6, seen from the upstream's wire: bodies that look like requests are bodies there too, in
/// one request with one framing, whatever framing they came in.
#[tokio::test]
async fn a_request_inside_a_body_stays_a_body() {
    let capture = Capture::start(Protocol::Plain).await;
    let (secret, own) = (unique_secret(), sentinel());
    let sidecar = Sidecar::for_research().binding(Binding::new("github").to(&capture).token(&secret)).start().await;
    let inner = format!("0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {own}\r\n\r\n");
    let body = rpc::request(1, "tools/call", json!({"name": "x", "arguments": {"q": inner}}));
    // Also as it is, outside of any JSON escape: white space is free there.
    let loose = body.replace(",\"", ",\r\n\r\n \"");
    let mut agent = sidecar.agent().await;
    for (number, body) in [&body, &loose].into_iter().enumerate() {
        for size in [1, 5, 4096] {
            let message = Message::post("github", body.as_str());
            agent.send(&message.chunked("127.0.0.1", size, "X-T: GET /admin HTTP/1.1\r\n")).await;
            agent.response().await.assert_ok();
        }
        agent.ask(Message::post("github", body.as_str())).await.assert_ok();
        assert_eq!(capture.count(), (number + 1) * 4);
    }
    for request in capture.requests() {
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/mcp"));
        assert_eq!(request.values("content-length").len() + request.values("transfer-encoding").len(), 1);
        assert_eq!(request.values("host").len(), 1);
    }
    assert_eq!(capture.connections(), 1, "else a second request would have hidden on another connection");
}

/// The other way round: two answers to one request, or bytes behind an answer, are never the answer
/// to the next one.
#[tokio::test]
async fn an_answer_nobody_asked_for_reaches_nobody() {
    for protocol in [Protocol::Plain, Protocol::Tls] {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let answer = |text: &str| {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
            format!("{head}Content-Length: {}\r\n\r\n{text}", text.len())
        };
        // One that is taken with a read of 16 KiB to its last byte: TLS has what is behind it, and the socket nothing.
        let full = "x".repeat(16 * 1024 - answer(&"x".repeat(10_000)).len() + 10_000);
        let behinds = [answer("evil"), "evil".to_owned(), "\r\n\r\nevil".to_owned()];
        for (asked, behind) in ["asked", &full].into_iter().flat_map(|asked| behinds.iter().map(move |b| (asked, b))) {
            let mut agent = sidecar.agent().await;
            capture.next(Answer::Raw(format!("{}{behind}", answer(asked)).into_bytes(), End::KeepOpen));
            let response = agent.ask(Message::post("github", rpc::list(1))).await;
            assert_eq!((response.status, response.text().as_str()), (200, asked), "{behind:?}");
            let response = agent.ask(Message::post("github", rpc::list("next"))).await;
            response.assert_ok();
            assert_eq!(response.json()["id"], "next", "{behind:?}");
        }
    }
}
