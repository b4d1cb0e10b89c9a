//! What comes back: nothing that would send the agent, or the credential, somewhere else.

use crate::support::{Answer, Binding, Capture, Message, Protocol, Sidecar, rpc, unique_secret};

use super::{PROTOCOLS, scene};

/// T7: 401 gives 502 with exactly one upstream request and no challenge; 407 and challenges in
/// other answers neither.
#[tokio::test]
async fn challenges_never_reach_the_agent() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let challenge = r#"Bearer error="insufficient_scope", scope="admin""#;
        let rows = [
            (Answer::unauthorized(), Some("upstream_auth_rejected")),
            (Answer::full(401, &[], ""), Some("upstream_auth_rejected")),
            (Answer::full(403, &[("WWW-Authenticate", challenge)], "no"), Some("upstream_auth_rejected")),
            (Answer::full(407, &[("Proxy-Authenticate", "Basic")], "no"), Some("upstream_auth_rejected")),
        ];
        for (number, (answer, reason)) in rows.into_iter().enumerate() {
            capture.next(answer);
            let response = sidecar.post("github", rpc::list(1)).await;
            assert_eq!(
                (response.status, response.reason()),
                (502, reason),
                "{protocol:?} {number}: {}",
                response.text()
            );
            assert_eq!(response.header("www-authenticate"), None);
            assert_eq!(response.header("proxy-authenticate"), None);
            assert_eq!(capture.requests().len(), number + 1, "not sent again");
        }
    }
}

/// T7: a plain 403, an error in a 200 and a server's own failure are the upstream's answer: they
/// pass as they are, and nothing is sent twice.
#[tokio::test]
async fn other_failures_pass_as_they_are() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"boom"}}"#;
        for (number, status) in [403, 200, 400, 404, 405, 429, 500, 502, 503].into_iter().enumerate() {
            capture.next(Answer::full(status, &[("Content-Type", "application/json"), ("X-Kept", "yes")], error));
            let response = sidecar.post("github", rpc::list(1)).await;
            assert_eq!((response.status, response.reason()), (status, None), "{protocol:?}");
            assert_eq!(response.text(), error);
            assert_eq!(response.header("content-type"), Some("application/json"));
            assert_eq!(capture.requests().len(), number + 1, "not sent again");
        }
    }
}

/// Headers that would steer a client elsewhere, or set its state, stay outside.
#[tokio::test]
async fn steering_headers_are_dropped() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let steering = [
            ("WWW-Authenticate", "Bearer resource_metadata=\"https://as.example.test\""),
            ("Set-Cookie", "session=1"),
            ("Alt-Svc", "h3=\":443\""),
            ("Refresh", "0; url=https://evil.example"),
            ("Authentication-Info", "x"),
        ];
        let lines = [&steering[..], &[("Mcp-Session-Id", "s-1"), ("X-Kept", "a")][..]].concat();
        capture.next(Answer::full(200, &lines, "{}"));
        let response = sidecar.post("github", rpc::list(1)).await;
        response.assert_ok();
        for (name, _) in steering {
            assert_eq!(response.header(name), None, "{protocol:?}");
        }
        assert_eq!(response.header("mcp-session-id"), Some("s-1"));
        assert_eq!(response.header("x-kept"), Some("a"));
    }
}

/// T8: redirects are never followed, whatever their status and wherever they point. One back to
/// the same server is rewritten to this endpoint; any other passes without what may carry a
/// credential.
#[tokio::test]
async fn redirects_are_never_followed() {
    for protocol in PROTOCOLS {
        let elsewhere = Capture::start(protocol).await;
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let scheme = if protocol == Protocol::Plain { "http" } else { "https" };
        let other_scheme = if protocol == Protocol::Plain { "https" } else { "http" };
        let same = format!("{scheme}://localhost:{}", capture.port());
        let rows = [
            (format!("{same}/mcp"), Some("/github")),
            (format!("{same}/mcp/"), Some("/github")),
            ("/mcp?next=1".to_owned(), Some("/github?next=1")),
            (format!("{same}/login"), None),
            (format!("{same}/mcp/below"), None),
            (format!("{scheme}://127.0.0.1:{}/mcp", capture.port()), None),
            (format!("{other_scheme}://localhost:{}/mcp", capture.port()), None),
            (elsewhere.url("/mcp"), None),
            (format!("//localhost:{}/mcp", elsewhere.port()), None),
            ("https://user:pw@evil.example/x?token=t#f".to_owned(), None),
            ("javascript:alert(1)".to_owned(), None),
        ];
        for status in [301, 302, 303, 307, 308] {
            for (location, rewritten) in &rows {
                let number = capture.requests().len();
                capture.next(Answer::redirect(status, location));
                let response = sidecar.post("github", rpc::list(1)).await;
                assert_eq!((response.status, response.reason()), (status, None), "{location}");
                let seen = response.header("location");
                match rewritten {
                    Some(expected) => assert_eq!(seen, Some(*expected), "{location}"),
                    None => assert!(!seen.is_some_and(carries_credentials), "{location} -> {seen:?}"),
                }
                assert_eq!(capture.requests().len(), number + 1, "not followed");
            }
        }
        elsewhere.assert_untouched();
    }
}

fn carries_credentials(location: &str) -> bool {
    location.contains(['@', '?', '#']) || location.starts_with("/github")
}

/// What an upstream says of itself cannot pass for Postern's own word.
#[tokio::test]
async fn an_upstream_cannot_speak_for_postern() {
    let (capture, sidecar) = scene(Protocol::Tls, |binding| binding.token(unique_secret())).await;
    capture.next(Answer::full(200, &[("Postern-Reason", "unbound_server")], "{}"));
    let response = sidecar.post("github", rpc::list(1)).await;
    assert_eq!(response.reason(), None);
}

/// Sessions: the id an upstream gives out comes back to it unchanged, and is logged as a hash only.
#[tokio::test]
async fn session_ids_pass_and_are_logged_hashed() {
    let capture = Capture::start(Protocol::Tls).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    let session = unique_secret();
    let given = session.clone();
    capture.always(move |request| Answer::session(request, &given));
    let response = sidecar.post("github", rpc::initialize(1)).await;
    assert_eq!(response.header("mcp-session-id"), Some(session.as_str()));
    sidecar.ask(Message::post("github", rpc::list(2)).header("Mcp-Session-Id", &session)).await.assert_ok();
    assert_eq!(capture.request(1).await.values("mcp-session-id"), [session.as_str()]);
    let line = sidecar.next_access("the second call", |line| line["method"] == "tools/list").await;
    assert!(line["session"].is_string(), "{line}");
    let written = format!("{}{:?}", sidecar.diagnostics(), sidecar.access_lines());
    assert!(!written.contains(&session), "a session id is a secret");
}
