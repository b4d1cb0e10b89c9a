//! Attacks 1, 3, 7, 10, 25 and 29: what an agent or an upstream says to have the credential go
//! somewhere else, go out again, be another one, or pass by the rules.

use std::net::SocketAddr;

use serde_json::json;

use crate::support::answer::End;
use crate::support::secrets::{assert_none_in, contains};
use crate::support::{
    Agent, Answer, Binding, Capture, Message, Protocol, Sidecar, repeated, rpc, sentinel, unique_secret,
};

use super::{PROTOCOLS, scene};

/// Attack 1: the upstream is the binding's, whatever names another place in head, target or body.
/// Names that are no loopback are refused; loopback with another port passes, and leads nowhere else.
#[tokio::test]
async fn nothing_in_a_request_moves_a_call() {
    for protocol in PROTOCOLS {
        let evil = Capture::start(protocol).await;
        let secret = unique_secret();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        let other = format!("localhost:{}", evil.port());
        let named = evil.url("/mcp");
        let call = || Message::post("github", rpc::request(1, "tools/call", json!({"name": "x", "url": named})));
        let hints = [
            "X-Forwarded-Host",
            "X-Forwarded-Server",
            "X-Host",
            "X-Original-Host",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-Real-Host",
            "Destination",
            "Forwarded",
            "X-Envoy-Original-Dst-Host",
            "X-Upstream",
            "Referer",
        ];
        let mut calls: Vec<Message> =
            hints.iter().flat_map(|name| [call().header(name, &other), call().header(name, &named)]).collect();
        calls.extend([
            call().host(&other),
            call().host(&format!("127.0.0.1:{}", evil.port())),
            call().host(&other).target(&format!("http://{other}/github")),
            call().host(&other).target(&format!("https://{other}/github")),
            call().target(&format!("/github?url={named}&host={other}")),
            call().header("Origin", &format!("http://{other}")),
        ]);
        for (number, message) in calls.into_iter().enumerate() {
            sidecar.ask(message).await.assert_ok();
            let request = capture.request(number).await;
            assert_eq!(request.authority, format!("localhost:{}", capture.port()), "{protocol:?} {number}");
            assert_eq!(request.values("authorization"), [format!("Bearer {secret}")]);
        }
        let names = capture.seen().read(|seen| seen.connections.iter().filter_map(|c| c.server_name.clone()).collect());
        let names: Vec<String> = names;
        assert!(names.iter().all(|name| name == "localhost"), "{names:?}");
        for host in [
            format!("localhost:{}@evil.example", capture.port()),
            format!("localhost,{other}"),
            format!("localhost {other}"),
            "localhost#evil.example".to_owned(),
            "localhost.".to_owned(),
            "[::ffff:127.0.0.1].evil.example".to_owned(),
            "0.0.0.0".to_owned(),
            String::new(),
        ] {
            let response = sidecar.ask(call().host(&host)).await;
            assert_eq!(response.reason(), Some("authority_mismatch"), "{host:?}");
        }
        evil.assert_untouched();
    }
}

/// Attack 3: an agent that follows every redirect with all it has, from its server to a hostile one and
/// back: the hostile one is shown nothing but what the agent knows, and what comes back is a new call.
#[tokio::test]
async fn a_chain_of_redirects_carries_nothing_along() {
    for (protocol, status) in PROTOCOLS.into_iter().zip([307, 308, 302]) {
        let evil = Capture::start(Protocol::Plain).await;
        let secret = unique_secret();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        let body = rpc::call(1, "x");
        capture.next(Answer::redirect(status, &format!("http://user:pw@localhost:{}/steal?t={secret}", evil.port())));
        let response = sidecar.post("github", body.as_str()).await;
        assert_eq!((response.status, response.reason()), (status, None));
        let place = response.header("location").expect("a foreign place passes").to_owned();
        assert_eq!(place, format!("http://localhost:{}/steal", evil.port()));
        evil.next(Answer::redirect(status, &format!("http://{}/github?from=evil", sidecar.endpoint())));
        let at_evil = SocketAddr::from(([127, 0, 0, 1], evil.port()));
        let back = Agent::connect(at_evil).await.ask(Message::post("steal", body.as_str())).await;
        assert_none_in("what the hostile server saw", &evil.bytes());
        let back = back.header("location").expect("it redirects").to_owned();
        let target = back.split_once(&sidecar.endpoint().to_string()).expect("back to the endpoint").1;
        sidecar.ask(Message::post("github", body.as_str()).target(target)).await.assert_ok();
        let values: Vec<_> =
            capture.requests().iter().map(|request| request.values("authorization").join("|")).collect();
        assert_eq!(values, [format!("Bearer {secret}"), format!("Bearer {secret}")], "{protocol:?}");
        assert_eq!(evil.count(), 1, "only the agent went there");
    }
}

/// Attack 3: places that one parser reads as home and another as elsewhere, in answers to every kind of
/// request: nobody goes there, and what the agent is told is either a place of ours, or plain.
#[tokio::test]
async fn ambiguous_redirects_lead_nowhere() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let home = format!("localhost:{}", capture.port());
        let scheme = if protocol == Protocol::Plain { "http" } else { "https" };
        let evil = Capture::start(protocol).await;
        let away = format!("localhost:{}", evil.port());
        let places = [
            format!("{scheme}://{home}@{away}/mcp"),
            format!("{scheme}://{home}\\@{away}/mcp"),
            format!("{scheme}://{home}%2f@{away}/mcp"),
            format!("{scheme}://{away}\\.{home}/mcp"),
            format!("{scheme}://{home}.evil.example/mcp"),
            format!("{scheme}:///{away}/mcp"),
            format!("{scheme}:{away}/mcp"),
            format!("{scheme}:/{away}/mcp"),
            format!("///{away}/mcp"),
            format!("/\\{away}/mcp"),
            format!("\\\\{away}\\mcp"),
            format!("{scheme}://{home}//{away}/mcp"),
            format!("{scheme}://{home}/mcp/../admin"),
            format!("{scheme}://{home}/%2e%2e/admin"),
            format!("{scheme}://{home}/mcp%2f..%2fadmin"),
            format!("{scheme}://{home}/mcp\t/x"),
            "//".to_owned(),
            "http://[::1".to_owned(),
            "data:text/html,x".to_owned(),
        ];
        for (number, place) in places.iter().enumerate() {
            let message = match number % 3 {
                0 => Message::post("github", rpc::list(1)),
                1 => Message::get("github"),
                _ => Message::delete("github", "s"),
            };
            // Twice, since some take the first and some the last.
            let lines = [("Location", place.as_str()), ("Location", "//evil.example/mcp")];
            capture.next(Answer::full(307, &lines, ""));
            let response = sidecar.ask(message).await;
            assert_eq!((response.status, response.reason()), (307, None), "{place}");
            let told: Vec<&str> = response
                .head
                .headers
                .iter()
                .filter(|(name, _)| name == "location")
                .map(|(_, value)| &**value)
                .collect();
            let plain = |told: &&str| !told.contains(['@', '?', '#', '\\', '\t']) && !told.starts_with('/');
            assert!(told.len() <= 1 && told.iter().all(plain), "{protocol:?} {place} -> {told:?}");
        }
        assert_eq!(capture.count(), places.len());
        evil.assert_untouched();
    }
}

/// Attack 7: an upstream that switches protocols unasked gets no tunnel: the agent is told, what comes
/// behind is nobody's, and the connection is not used again.
#[tokio::test]
async fn an_upstream_cannot_switch_protocols() {
    for protocol in [Protocol::Plain, Protocol::Tls] {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        for (number, kind) in ["websocket", "h2c", "TLS/1.2", "connect-udp"].into_iter().enumerate() {
            let switch =
                format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {kind}\r\n\r\nTUNNEL");
            let message = if number % 2 == 0 { Message::get("github") } else { Message::post("github", rpc::list(1)) };
            capture.next(Answer::Raw(switch.into_bytes(), End::KeepOpen));
            let mut agent = sidecar.agent().await;
            let response = agent.ask(message.header("Connection", "keep-alive")).await;
            response.assert_refused("upstream_unreachable");
            assert_eq!(response.header("upgrade"), None);
            agent.send(b"TUNNEL?\r\n\r\n").await;
            let after = agent.closed().await;
            assert!(!contains(&after, b"TUNNEL") || contains(&after, b"not_http"), "{}", after.escape_ascii());
            assert!(!contains(&capture.bytes(), b"TUNNEL?"), "{kind}");
            capture.closed(number).await;
        }
    }
}

/// Attack 7: an offer of HTTP/2 in clear text, as some clients make it on every request, is ignored,
/// and no word of it goes on.
#[tokio::test]
async fn an_offer_to_upgrade_stays_here() {
    for protocol in [Protocol::Plain, Protocol::Tls] {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let message = Message::post("github", rpc::list(1))
            .header("Connection", "Upgrade, HTTP2-Settings")
            .header("Upgrade", "h2c")
            .header("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA")
            .header("Keep-Alive", "timeout=1000")
            .header("Proxy-Connection", "keep-alive");
        sidecar.ask(message).await.assert_ok();
        let wire = capture.bytes().to_ascii_lowercase();
        for word in [&b"upgrade"[..], b"http2-settings", b"h2c", b"keep-alive", b"proxy-connection"] {
            assert!(!contains(&wire, word), "{protocol:?}: {}", wire.escape_ascii());
        }
    }
}

/// Attack 10: what passed once on a connection does not pass for the next request. One kept agent
/// connection, on which every request is decided anew: by server, by policy, by what is withdrawn.
#[tokio::test]
async fn each_request_of_a_kept_connection_is_decided_anew() {
    for protocol in PROTOCOLS {
        let capture = Capture::start(protocol).await;
        let url = |name: &str| capture.url(&format!("/{name}"));
        let bind = |name: &str| Binding::new(name).to(&capture).url(&url(name)).token(unique_secret());
        let (one, two) = (bind("one"), bind("two"));
        let sidecar = Sidecar::for_research().binding(one.clone()).binding(two).start().await;
        let mut agent = sidecar.agent().await;
        let call = |server: &str| Message::post(server, rpc::call(7, "rm"));
        agent.ask(call("one")).await.assert_ok();
        agent.ask(call("two")).await.assert_ok();
        agent.ask(call("none")).await.assert_refused("unbound_server");
        let values: Vec<_> =
            capture.requests().iter().map(|request| request.values("authorization").join("|")).collect();
        assert!(values[0] != values[1], "each server its own");
        // The same pipelined: the first waits at the upstream, the second is decided after it.
        let (give, answer) = Answer::later();
        capture.next(answer);
        agent.send(&[call("one").bytes("127.0.0.1"), call("one").bytes("127.0.0.1")].concat()).await;
        let held = capture.request(2).await;
        sidecar.files().document(&one.clone().set("/tools", json!({"deny": ["rm"]})));
        repeated("the new policy", async || {
            (sidecar.ask(call("one")).await.reason() == Some("tool_denied")).then_some(())
        })
        .await;
        let before = capture.count();
        assert!(give.send(Answer::result(&held)).is_ok(), "the upstream still waits");
        agent.response().await.assert_ok();
        agent.response().await.assert_refused("tool_denied");
        agent.ask(Message::post("one", rpc::call(7, "search"))).await.assert_ok();
        sidecar.files().delete_secret("one-secret");
        sidecar.until_refused("one").await;
        agent.ask(Message::post("one", rpc::list(7))).await.assert_refused("credential_revoked");
        agent.ask(call("two")).await.assert_ok();
        let denied = capture.requests()[before..].iter().filter(|request| request.target == "/one").count();
        let lists = capture.requests()[before..].iter().filter(|request| contains(&request.body, b"rm")).count();
        assert!(denied >= 1 && lists == 1, "only the call to `two` was an `rm`");
        // What was opened with the withdrawn credential is closed towards the upstream.
        capture.closed(held.connection).await;
    }
}

/// Attack 25: a binding without its own credential is refused, though there are others: of another
/// binding, of the same name in another place, a default, the agent's own, one in the environment.
#[tokio::test]
async fn no_other_credential_stands_in() {
    let own = sentinel();
    for protocol in PROTOCOLS {
        let capture = Capture::start(protocol).await;
        let url = |name: &str| capture.url(&format!("/{name}"));
        let bind = |name: &str| Binding::new(name).to(&capture).url(&url(name));
        let basic =
            bind("basic").basic("robot", &unique_secret()).set("/credential/secretRef/passwordKey", json!("none"));
        let builder = Sidecar::for_research()
            .binding(bind("served").token(unique_secret()))
            .binding(bind("absent"))
            .binding(bind("empty").token(""))
            .binding(bind("key").token(unique_secret()).set("/credential/secretRef/key", json!("Token")))
            .binding(basic)
            .environment("TOKEN", &own)
            .environment("MCP_TOKEN", &own);
        let sidecar = builder.start().await;
        for name in ["default", "absent", "absent-secret.bak", "postern", "research"] {
            sidecar.files().overwrite_secret(name, "token", unique_secret().as_bytes());
        }
        sidecar.files().overwrite_secret("absent-secret/nested", "token", unique_secret().as_bytes());
        sidecar.post("served", rpc::list(1)).await.assert_ok();
        for (server, reason) in [
            ("absent", "no_credential"),
            ("empty", "credential_invalid"),
            ("key", "no_credential"),
            ("basic", "no_credential"),
            ("unheard-of", "unbound_server"),
        ] {
            for message in [
                Message::post(server, rpc::call(1, "x")),
                Message::post(server, rpc::initialize(1)),
                Message::get(server),
                Message::delete(server, "s"),
            ] {
                let with_own = message.header("Authorization", &format!("Bearer {own}")).header("X-Api-Key", &own);
                sidecar.ask(with_own).await.assert_refused(reason);
            }
        }
        assert_eq!(capture.count(), 1, "{protocol:?}: nothing but the call that was served");
        assert!(!contains(&capture.bytes(), own.as_bytes()));
    }
}

/// Attack 25 at the upstream: one that refuses the bound credential is not tried with another one, nor
/// with none.
#[tokio::test]
async fn a_rejected_credential_is_not_replaced_by_another() {
    for protocol in PROTOCOLS {
        let capture = Capture::start(protocol).await;
        let (mine, other) = (unique_secret(), unique_secret());
        let bind = |name: &str| Binding::new(name).to(&capture).url(&capture.url(&format!("/{name}")));
        let sidecar =
            Sidecar::for_research().binding(bind("a").token(&mine)).binding(bind("b").token(&other)).start().await;
        sidecar.post("b", rpc::list(1)).await.assert_ok();
        capture.always(|_| Answer::unauthorized());
        for message in [Message::post("a", rpc::call(1, "x")), Message::get("a"), Message::delete("a", "s")] {
            sidecar.ask(message.header("Authorization", "Bearer own")).await.assert_refused("upstream_auth_rejected");
        }
        let tries: Vec<_> =
            capture.requests()[1..].iter().map(|request| request.values("authorization").join("|")).collect();
        assert_eq!(tries, vec![format!("Bearer {mine}"); 3], "{protocol:?}");
    }
}

/// Attack 29: while values change again and again under an upstream that refuses them all, each call
/// goes out at most twice, and the second time with another value; then the agent is told.
#[tokio::test]
async fn a_storm_of_rejections_repeats_no_call_twice() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        capture.always(|_| Answer::unauthorized());
        for number in 0..20 {
            sidecar.files().replace_secret("github-secret", "token", unique_secret().as_bytes());
            let calls = (0..5).map(|n| sidecar.post("github", rpc::call(number * 5 + n, "pay")));
            for response in futures_util::future::join_all(calls).await {
                response.assert_refused("upstream_auth_rejected");
            }
        }
        let requests = capture.requests();
        for number in 0..100 {
            let tries = requests.iter().filter(|request| request.rpc_id() == Some(number.to_string()));
            let values: Vec<_> = tries.map(|request| request.values("authorization").join("|")).collect();
            assert!(matches!(values.len(), 1 | 2), "{protocol:?}: call {number} went out {} times", values.len());
            assert!(values.len() < 2 || values[0] != values[1], "{protocol:?}: the second try is another value");
        }
    }
}

/// Attack 29: statuses that HTTP clients take as an invitation to try again are answers here, also when
/// the value has changed since the call went out.
#[tokio::test]
async fn only_a_401_is_tried_again() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        for status in [307, 403, 407, 408, 409, 419, 421, 425, 429, 500, 502, 503, 504] {
            let (give, answer) = Answer::later();
            capture.next(answer);
            let mut agent = sidecar.agent().await;
            let body = rpc::call(format!("held-{status}"), "pay");
            let number = capture.count();
            agent.send(&Message::post("github", body.as_str()).bytes("127.0.0.1")).await;
            capture.request(number).await;
            let fresh = format!("Bearer {}", unique_secret());
            sidecar.files().replace_secret("github-secret", "token", &fresh.as_bytes()["Bearer ".len()..]);
            repeated("the new value at the upstream", async || {
                let number = capture.count();
                sidecar.post("github", rpc::list(1)).await.assert_ok();
                (capture.request(number).await.values("authorization") == [fresh.as_str()]).then_some(())
            })
            .await;
            let lines = [("Retry-After", "0"), ("Location", "/mcp"), ("Connection", "close")];
            let lines = if protocol == Protocol::H2 { &lines[..2] } else { &lines[..] };
            assert!(give.send(Answer::full(status, lines, "again")).is_ok(), "the upstream still waits");
            let response = agent.response().await;
            assert_eq!(response.status, if status == 407 { 502 } else { status }, "{protocol:?}");
            let tries = capture.requests().iter().filter(|request| request.body == body.as_bytes()).count();
            assert_eq!(tries, 1, "{protocol:?} {status}");
        }
    }
}
