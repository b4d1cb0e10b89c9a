//! Attacks 20 and 21: what an agent or an upstream chooses is not written down, or cannot be told
//! from what Postern says, or makes no new series.

use serde_json::json;

use crate::support::answer::End;
use crate::support::{Answer, Binding, Capture, Message, Protocol, Sidecar, rpc, sentinel, unique_secret};

use super::{PROTOCOLS, scene};

/// A head and body with a private word wherever a call can carry one.
fn telling(target: &str, private: &str, body: String) -> Message {
    Message::post("", body)
        .target(target)
        .header("Authorization", &format!("Bearer {private}"))
        .header("Cookie", &format!("a={private}"))
        .header("User-Agent", &format!("agent/{private}"))
        .header("Mcp-Session-Id", private)
        .header("Mcp-Param-Region", private)
        .header(&format!("Mcp-Param-{private}"), "x")
        .header("Last-Event-ID", private)
        .header("baggage", &format!("k={private}"))
        .header("tracestate", &format!("k={private}"))
        .header("X-Other", private)
}

/// Calls to send, with the reason for which each is refused. Only the last two concern servers other
/// than `github`.
fn calls(private: &str) -> Vec<(String, String, Option<&'static str>)> {
    let call =
        rpc::request(7, "tools/call", json!({"name": "search", "arguments": {"q": private, (private): private}}));
    let denied = rpc::request(7, "tools/call", json!({"name": "rm", "arguments": {"q": private}}));
    let unknown = rpc::request(7, &format!("x/{private}"), json!({}));
    let twice =
        format!(r#"{{"jsonrpc":"2.0","id":7,"method":"x","{private}":1,"{private}":2,"params":{{"q":"{private}"}}}}"#);
    let rows = [
        ("/github".to_owned(), call.clone(), None),
        ("/github".to_owned(), unknown, None),
        ("/github".to_owned(), denied, Some("tool_denied")),
        ("/github".to_owned(), twice, Some("bad_json_rpc")),
        ("/github".to_owned(), format!("{{{private}"), Some("bad_json_rpc")),
        ("/github".to_owned(), format!("[{call}]"), Some("bad_json_rpc")),
        (format!("/github/{private}"), call.clone(), Some("path_outside_binding")),
        (format!("/{private}"), call.clone(), Some("unbound_server")),
        (format!("/github/../{private}"), call.clone(), Some("malformed_head")),
        (format!("http://{private}.example/github"), call.clone(), Some("authority_mismatch")),
        ("/gone".to_owned(), call.clone(), Some("upstream_unreachable")),
        ("/bare".to_owned(), call, Some("no_credential")),
    ];
    let query = |path: String| format!("{path}?q={private}&{private}={private}&access_token={private}");
    rows.into_iter().map(|(path, body, reason)| (query(path), body, reason)).collect()
}

/// Attack 20: queries, paths, arguments, header names and values stand in no output, at trace level,
/// whether the call passes, is refused for one reason or another, or fails at the upstream.
#[tokio::test]
async fn nothing_private_of_a_call_is_written_down() {
    for protocol in PROTOCOLS {
        let (capture, gone) = (Capture::start(protocol).await, Capture::start(Protocol::Tls).await);
        gone.stop();
        let sidecar = Sidecar::for_research()
            .binding(Binding::new("github").to(&capture).token(unique_secret()).set("/tools", json!({"deny": ["rm"]})))
            .binding(Binding::new("gone").to(&gone).token(unique_secret()))
            .binding(Binding::new("bare").to(&capture).url(&capture.url("/bare")))
            .start()
            .await;
        let private = sentinel();
        for (target, body, reason) in calls(&private) {
            let response = sidecar.ask(telling(&target, &private, body)).await;
            assert_eq!(response.reason(), reason, "{protocol:?} {target}: {}", response.text());
            sidecar.next_access("the exchange", |_| true).await;
        }
        let (target, body, _) = calls(&private).remove(0);
        for (answer, reason) in [
            (Answer::unauthorized(), Some("upstream_auth_rejected")),
            (Answer::full(200, &[("Content-Encoding", "gzip")], private.clone()), Some("unscannable_response")),
            (Answer::full(500, &[("X-Echo", &private)], private.clone()), None),
            (Answer::redirect(302, &format!("https://{private}.example/{private}")), None),
        ] {
            capture.next(answer);
            let response = sidecar.ask(telling(&target, &private, body.clone())).await;
            assert_eq!(response.reason(), reason, "{protocol:?}: {}", response.text());
            sidecar.next_access("the exchange", |_| true).await;
        }
        let raw = format!("POST /github HTTP/1.1\r\nHost: 127.0.0.1\r\n{private}\r\n\r\n");
        let mut agent = sidecar.agent().await;
        agent.send(raw.as_bytes()).await;
        agent.response().await.assert_refused("malformed_head");
        sidecar.next_access("the exchange", |_| true).await;
        assert_unwritten(&sidecar, &private).await;
    }
}

async fn assert_unwritten(sidecar: &Sidecar, private: &str) {
    let metrics = sidecar.metrics().await;
    for (place, text) in
        [("stdout", sidecar.output()), ("stderr", sidecar.diagnostics()), ("metrics", metrics.text().to_owned())]
    {
        let text = text.to_ascii_lowercase();
        let at = text.find(&private.to_ascii_lowercase()).map(|at| &text[at.saturating_sub(200)..at + 20]);
        assert_eq!(at, None, "a private word stands on {place}");
    }
}

/// Texts that would end a line, begin another record, or move what a reader of the log sees.
const BAIT: [&str; 12] = [
    "a\nb",
    "a\r\n{\"time\":\"2026-01-01T00:00:00Z\",\"outcome\":\"ok\",\"status\":200}",
    "a\",\"outcome\":\"ok\",\"server\":\"other",
    "a\\",
    "\u{1b}[2J\u{1b}[1;31mFAKE",
    "\u{1b}]0;title\u{7}",
    "\u{9b}2J",
    "\u{8}\u{8}\u{8}\u{7f}",
    "\u{2028}{\"outcome\":\"ok\"}\u{2029}",
    "\u{202e}ko\u{2066}",
    "\u{feff}\u{0}\u{85}",
    "\u{1f600}é",
];

/// Attack 20, the other way round: an agent writes into the log what it likes, in the fields that are
/// its own to choose. Each exchange stays one line of printable ASCII, whose fields are what was sent.
#[tokio::test]
async fn the_log_cannot_be_forged() {
    let (_capture, sidecar) = scene(Protocol::Plain, |binding| binding.token(unique_secret())).await;
    for bait in BAIT {
        // Both as JSON escapes and as the characters themselves, where JSON allows that.
        let escaped = rpc::call(bait, bait);
        let quoted = serde_json::to_string(bait).expect("a string is JSON");
        let literal =
            format!(r#"{{"jsonrpc":"2.0","id":{quoted},"method":"tools/call","params":{{"name":{quoted}}}}}"#);
        for body in [escaped, literal] {
            for message in [Message::post("github", body.as_str()), Message::post("nobody", body.as_str())] {
                let response = sidecar.ask(message.header("traceparent", "00-\u{9b}-x")).await;
                assert!(matches!(response.reason(), None | Some("unbound_server")), "{}", response.text());
                let line = sidecar.next_access("the call", |_| true).await;
                assert_eq!(line["tool"], bait, "{line}");
                let id: String = serde_json::from_str(line["rpc_id"].as_str().expect("a text")).expect("JSON");
                assert_eq!(id, bait);
                assert!(matches!(line["outcome"].as_str(), Some("ok" | "refused")), "{line}");
            }
        }
    }
    for method in ["G'`|~^$&!#%+*", &"M".repeat(1000)] {
        sidecar.ask(Message::new(method, "/github").header("traceparent", &"t".repeat(1000))).await;
        let line = sidecar.next_access("the odd method", |_| true).await;
        for field in ["http", "traceparent"] {
            assert!(line[field].as_str().is_some_and(|text| text.chars().count() <= 129), "{line}");
        }
    }
    let long = "n".repeat(100_000);
    sidecar.post("github", rpc::call(1, &long)).await.assert_ok();
    let line = sidecar.next_access("the long name", |_| true).await;
    assert!(line.to_string().len() < 2000, "{line}");
    sidecar.terminate();
    assert_eq!(sidecar.exit().await.code(), Some(0));
    let output = sidecar.output();
    let exchanges = BAIT.len() * 4 + 3;
    assert_eq!(output.lines().count(), exchanges);
    let foreign = output.chars().find(|c| !matches!(c, ' '..='~' | '\n'));
    assert_eq!(foreign, None, "printable ASCII and line feeds, nothing else");
    assert!(!sidecar.diagnostics().contains("FAKE"));
}

/// Attack 21 from the other side: what an upstream chooses makes no series either.
#[tokio::test]
async fn a_hostile_upstream_makes_no_series() {
    let (capture, sidecar) = scene(Protocol::Plain, |binding| binding.token(unique_secret())).await;
    let answer = |number: usize, status: u16, kind: &str| {
        let lines = format!("X-N{number}: {number}\r\nMcp-Session-Id: s{number}\r\nContent-Type: {kind}\r\n");
        let text = format!("HTTP/1.1 {status} N{number}\r\n{lines}Content-Length: 2\r\n\r\n{{}}");
        Answer::Raw(text.into_bytes(), End::KeepOpen)
    };
    let ask = async |number: usize, status: u16, kind: &str| {
        capture.next(answer(number, status, kind));
        sidecar.post("github", rpc::list(number)).await;
        sidecar.next_access("the exchange", |_| true).await;
    };
    // One of each kind that there is: an answer, an error, a stream of each, a challenge.
    for (number, status) in [200, 500, 401].into_iter().enumerate() {
        ask(number, status, "application/json").await;
        ask(number, status, "text/event-stream").await;
    }
    let series = async || {
        let metrics = sidecar.metrics().await;
        let mut series: Vec<String> = metrics.series().into_iter().map(str::to_owned).collect();
        series.sort();
        series
    };
    let before = series().await;
    assert!(before.iter().any(|series| series.contains("upstream_error")), "{before:?}");
    for (number, status) in
        [201, 218, 299, 300, 399, 402, 418, 451, 499, 520, 599, 600, 799, 999].into_iter().enumerate()
    {
        ask(number + 10, status, "application/json").await;
        ask(number + 100, status, "text/event-stream").await;
        ask(number + 200, status, &format!("application/x-{number}\"}} 1")).await;
    }
    assert_eq!(before, series().await);
}
