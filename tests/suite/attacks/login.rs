//! Attack 28: an upstream that wants the agent to log in somewhere, and an agent that looks for a
//! place to. Neither finds the other: Postern has the credential, and there is nothing to log in to.

use serde_json::json;

use crate::support::answer::End;
use crate::support::secrets::contains;
use crate::support::{Answer, Binding, Capture, Message, Protocol, Sidecar, rpc, unique_secret};

use super::{PROTOCOLS, scene};

/// Where a hostile upstream sends its clients.
const ELSEWHERE: &str = "as.example.test";

/// Paths under which servers answer OAuth discovery, registration and login, as sent to a binding
/// that covers its whole origin; in the spellings that one server or another takes for them.
const LOGIN_PATHS: [&str; 26] = [
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-protected-resource/github",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
    "/.well-known/openid-configuration/",
    "/.Well-Known/OAuth-Authorization-Server",
    "/%2ewell-known/oauth-protected-resource",
    "/github/.well-known/oauth-protected-resource",
    "/github/.well-known/oauth-authorization-server/",
    "/github/.WELL-KNOWN/OPENID-CONFIGURATION",
    "/github/%2Ewell-known/oauth-authorization-server",
    "/github/.well-known/%6Fauth-authorization-server",
    "/github/.well%2Dknown/oauth-protected-resource?x=1",
    "/github/.well-known;v=1/oauth-protected-resource;v=1",
    "/github/tenant/.well-known/oauth-authorization-server/github",
    "/github/.well-known/x/.well-known/openid-configuration",
    "/register",
    "/register/",
    "/Register",
    "/%72egister",
    "/token",
    "/authorize?response_type=code",
    "/github/register",
    "/github/Token/",
    "/github/%61uthorize",
    "/github/register;v=1",
];

/// Whatever the spelling and the method, they are answered 404 from here; also where the binding
/// covers every path of its origin. Other paths of that binding pass: it is the name that counts.
#[tokio::test]
async fn no_spelling_of_a_login_path_reaches_an_upstream() {
    let capture = Capture::start(Protocol::Tls).await;
    let binding = Binding::new("github").to(&capture).url(&capture.url("/")).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding.set("/server/subpaths", json!(true))).start().await;
    for path in LOGIN_PATHS {
        for message in [
            Message::get("github"),
            Message::new("GET", "").header("Accept", "application/json"),
            Message::post("github", rpc::request(1, "register", json!({"redirect_uris": ["http://localhost"]}))),
            Message::new("OPTIONS", ""),
        ] {
            let response = sidecar.ask(message.target(path)).await;
            assert_eq!((response.status, response.reason()), (404, None), "{path}: {}", response.text());
            assert!(response.text().starts_with("postern: "), "{path}: {}", response.text());
            assert_eq!(response.header("www-authenticate"), None);
        }
    }
    capture.assert_untouched();
    for (path, target) in [
        ("/github/registry", "/registry"),
        ("/github/.well-known/mcp", "/.well-known/mcp"),
        ("/github/a/token", "/a/token"),
    ] {
        let number = capture.count();
        sidecar.ask(Message::post("github", rpc::list(1)).target(path)).await.assert_ok();
        assert_eq!(capture.request(number).await.target, target);
    }
}

/// The header lines with which an answer can send a client into a login, or to another place.
fn steering() -> Vec<(&'static str, String)> {
    let challenge = format!("Bearer resource_metadata=\"https://{ELSEWHERE}/.well-known/oauth-protected-resource\"");
    vec![
        ("WWW-Authenticate", challenge.clone()),
        ("www-authenticate", format!("Basic realm=\"{ELSEWHERE}\"")),
        ("WWW-AUTHENTICATE", challenge.clone()),
        ("Optional-WWW-Authenticate", challenge.clone()),
        ("Proxy-Authenticate", challenge),
        ("Authentication-Info", ELSEWHERE.to_owned()),
        ("Proxy-Authentication-Info", ELSEWHERE.to_owned()),
        ("Authentication-Control", format!("Basic location-when-logout=\"https://{ELSEWHERE}/\"")),
        ("Link", format!("<https://{ELSEWHERE}/authorize>; rel=\"authorization_endpoint\"")),
        ("Refresh", format!("0; url=https://{ELSEWHERE}/authorize")),
        ("Content-Location", format!("https://{ELSEWHERE}/")),
        ("Alt-Svc", format!("h2=\"{ELSEWHERE}:443\"")),
        ("Set-Cookie", format!("login=https://{ELSEWHERE}/; Domain={ELSEWHERE}")),
        ("set-cookie2", format!("login={ELSEWHERE}")),
    ]
}

/// No answer of any status, to any kind of request, carries a word of a challenge, cookie or pointer
/// to the agent; and none is ever a 401 or 407.
#[tokio::test]
async fn no_answer_sends_the_agent_to_a_login() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let lines = steering();
        let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for status in [200, 202, 204, 302, 400, 401, 402, 403, 404, 407, 419, 500, 511] {
            for message in
                [Message::post("github", rpc::call(1, "x")), Message::get("github"), Message::delete("github", "s")]
            {
                // What cannot be a body of this status would be the next answer.
                let body = if status == 204 { "" } else { "{}" };
                capture.next(Answer::full(status, &lines, body));
                let response = sidecar.ask(message).await;
                let head = String::from_utf8_lossy(&response.head.raw).into_owned();
                assert!(!head.contains(ELSEWHERE), "{protocol:?} {status}: {head}");
                assert!(!matches!(response.status, 401 | 407), "{head}");
                let expected = if status < 300 { None } else { Some("upstream_auth_rejected") };
                assert_eq!(response.reason(), expected, "{protocol:?} {status}: {head}");
            }
        }
    }
}

/// The words of a 401 stay outside with its headers; also where it comes without a challenge, or
/// says it in a body that a client would read.
#[tokio::test]
async fn the_body_of_a_rejection_stays_outside() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let said = format!(r#"{{"error":"login_required","authorization_uri":"https://{ELSEWHERE}/authorize"}}"#);
        for (status, lines) in [(401, &[][..]), (407, &[]), (401, &[("Content-Type", "text/event-stream")])] {
            capture.next(Answer::full(status, lines, said.clone()));
            let response = sidecar.post("github", rpc::call(1, "x")).await;
            response.assert_refused("upstream_auth_rejected");
            assert!(!contains(&response.body, ELSEWHERE.as_bytes()), "{}", response.text());
        }
    }
}

/// Interim answers and trailers are headers too, which some clients read.
#[tokio::test]
async fn interim_answers_and_trailers_carry_no_challenge() {
    let (capture, sidecar) = scene(Protocol::Tls, |binding| binding.token(unique_secret())).await;
    let lines: String = steering().iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let interim = format!("HTTP/1.1 103 Early Hints\r\n{lines}\r\n");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTrailer: WWW-Authenticate\r\n";
    let answer = format!("{interim}{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n{lines}\r\n");
    for _ in 0..2 {
        capture.next(Answer::Raw(answer.clone().into_bytes(), End::KeepOpen));
        let mut agent = sidecar.agent().await;
        agent.send(&Message::post("github", rpc::list(1)).header("Connection", "close").bytes("127.0.0.1")).await;
        // Every byte to the end of the connection: nothing is parsed away.
        let seen = agent.closed().await;
        assert!(contains(&seen, b"{}"), "{}", seen.escape_ascii());
        assert!(!contains(&seen, ELSEWHERE.as_bytes()), "{}", seen.escape_ascii());
        assert!(seen.starts_with(b"HTTP/1.1 200 "), "{}", seen.escape_ascii());
    }
}
