//! What operators see: probes, metrics that cannot be flooded, one access line per exchange.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{Answer, Binding, Capture, Message, Protocol, Sidecar, rpc, unique_secret};

async fn scene() -> (Capture, Sidecar) {
    let capture = Capture::start(Protocol::Tls).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret()).set("/tools", json!({"deny": ["rm"]}));
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    (capture, sidecar)
}

/// Probes answer by themselves, never by the health of an upstream; nothing else is served there.
#[tokio::test]
async fn probes_answer_and_show_nothing_else() {
    let (capture, sidecar) = scene().await;
    capture.stop();
    for path in ["/started", "/ready", "/live"] {
        let response = sidecar.admin(path).await;
        assert_eq!(response.status, 200, "{path}");
    }
    for path in ["/", "/github", "/debug", "/config", "/env", "/debug/pprof", "/metrics/../config", "/quit"] {
        assert_eq!(sidecar.admin(path).await.status, 404, "{path}");
    }
    // And the endpoint does not serve the admin's pages (T21).
    for path in ["/metrics", "/ready", "/live", "/started"] {
        sidecar.ask(Message::get("").target(path)).await.assert_refused("unbound_server");
    }
}

/// The scrape is the Prometheus text format, and holds the families of the interface.
#[tokio::test]
async fn metrics_hold_the_promised_families() {
    let (_capture, sidecar) = scene().await;
    sidecar.post("github", rpc::list(1)).await.assert_ok();
    sidecar.post("nobody", rpc::list(1)).await.assert_refused("unbound_server");
    sidecar.next_access("the call", |line| line["outcome"] == "ok").await;
    let response = sidecar.admin("/metrics").await;
    assert!(response.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")));
    let metrics = sidecar.metrics().await;
    let outcome = [("server", "github"), ("method", "tools/list"), ("outcome", "ok")];
    assert_eq!(metrics.sum("postern_requests_total", &outcome), 1.0, "{}", metrics.text());
    assert_eq!(metrics.sum("postern_time_to_headers_seconds_count", &[("server", "github")]), 1.0);
    assert_eq!(metrics.sum("postern_refusals_total", &[("server", ""), ("reason", "unbound_server")]), 1.0);
    assert_eq!(metrics.sum("postern_credential_generation", &[("server", "github")]), 1.0);
    assert_eq!(metrics.sum("postern_upstream_connections", &[("server", "github")]), 1.0);
    let families: BTreeSet<&str> = metrics.series().iter().filter_map(|series| series.split('{').next()).collect();
    for family in ["postern_build_info", "postern_credential_age_seconds", "postern_agent_connections"] {
        assert!(families.contains(family), "{family} in {families:?}");
    }
}

/// The access line of a call: who, what, how it went; no value, query or argument.
#[tokio::test]
async fn the_access_line_tells_what_happened() {
    let (capture, sidecar) = scene().await;
    capture.next(Answer::full(
        200,
        &[("Content-Type", "application/json")],
        r#"{"jsonrpc":"2.0","id":"r-1","result":{}}"#,
    ));
    let arguments = unique_secret();
    let body = rpc::request("r-1", "tools/call", json!({"name": "search", "arguments": {"q": arguments}}));
    let message = Message::post("github", body.as_str())
        .target(&format!("/github?q={arguments}"))
        .header("Mcp-Session-Id", &arguments);
    sidecar.ask(message).await.assert_ok();
    let line = sidecar.next_access("the call", |_| true).await;
    let expected = json!({
        "caller": {"namespace": "research", "serviceAccount": "research-agent"},
        "server": "github",
        "http": "POST",
        "protocol": "HTTP/1.1",
        "method": "tools/call",
        "tool": "search",
        "rpc_id": "\"r-1\"",
        "status": 200,
        "outcome": "ok",
        "bytes_in": body.len(),
        "bytes_out": 40,
        "secret": "github-secret",
        "generation": 1,
    });
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&line[field], value, "{field} in {line}");
    }
    for field in ["time", "headers_ms", "duration_ms", "session"] {
        assert!(!line[field].is_null(), "{field} in {line}");
    }
    let written = format!("{line}{}", sidecar.diagnostics());
    assert!(!written.contains(&arguments), "an argument, query or session id is in a log");
}

/// One line per exchange, refused ones too, and nothing else on standard output.
#[tokio::test]
async fn each_exchange_has_exactly_one_line() {
    let (_capture, sidecar) = scene().await;
    for number in 0..10 {
        sidecar.post("github", rpc::list(number)).await.assert_ok();
        sidecar.post("nobody", rpc::list(number)).await.assert_refused("unbound_server");
        sidecar.post("github", rpc::call(number, "rm")).await.assert_refused("tool_denied");
    }
    sidecar.terminate();
    assert_eq!(sidecar.exit().await.code(), Some(0));
    let lines = sidecar.access_lines();
    assert_eq!(lines.len(), 30, "{lines:?}");
    assert!(lines.iter().all(|line| line["duration_ms"].is_number()));
}

/// T21, attack 21: what an agent sends never becomes a label: 200 hostile requests add no series
/// beyond those that one of each kind makes.
#[tokio::test]
async fn hostile_names_never_become_labels() {
    let (_capture, sidecar) = scene().await;
    let hostile = |n: usize| {
        let bait = format!("bait{n}\\\"}} 1\\n{}", unique_secret());
        let method = format!("x/{n}{}", unique_secret());
        [
            Message::post("github", rpc::call(n, &bait)),
            Message::post("github", rpc::request(n, &method, json!({"name": bait}))),
            Message::post(&format!("s{n}"), rpc::list(n)),
            Message::new(&format!("M{n}"), "/github"),
            Message::get("github").target(&format!("/github/{n}")),
            Message::post("github", rpc::list(n)).host(&format!("h{n}.example")),
            Message::post("github", rpc::list(n)).header("Origin", &format!("http://o{n}.example")),
            Message::post("github", rpc::call(n, "rm")).header("User-Agent", &format!("u{n}")),
            Message::post("github", rpc::list(n)).header("MCP-Protocol-Version", &format!("v{n}")),
            Message::delete("github", &format!("session{n}")),
        ]
    };
    let ask_all = |n: usize| {
        let sidecar = &sidecar;
        async move {
            let messages = hostile(n);
            let count = messages.len();
            for message in messages {
                sidecar.ask(message).await;
            }
            // An exchange is counted when it is over, which may be after its answer was read.
            for _ in 0..count {
                sidecar.next_access("the exchange", |_| true).await;
            }
        }
    };
    ask_all(0).await;
    let before: Vec<String> = series(&sidecar).await;
    for number in 1..=20 {
        ask_all(number).await;
    }
    let after = series(&sidecar).await;
    assert_eq!(before, after);
    assert!(!after.iter().any(|series| series.contains("bait")));
}

async fn series(sidecar: &Sidecar) -> Vec<String> {
    let metrics = sidecar.metrics().await;
    let mut series: Vec<String> = metrics.series().into_iter().map(str::to_owned).collect();
    series.sort();
    series
}

/// `public.directory`: mcp.json names every server at this endpoint, and nothing secret.
#[tokio::test]
async fn mcp_json_names_the_servers() {
    let capture = Capture::start(Protocol::Tls).await;
    let secret = unique_secret();
    let binding = Binding::new("github").to(&capture).token(&secret);
    let sidecar =
        Sidecar::for_research().binding(binding).config("public", json!({"directory": "./public"})).start().await;
    let file = sidecar.files().path("public/mcp.json");
    let text = std::fs::read_to_string(&file).expect("mcp.json is written before it listens");
    let mode = std::fs::metadata(&file).expect("mcp.json is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "the agent is another user, and only reads");
    let document: serde_json::Value = serde_json::from_str(&text).expect("mcp.json is JSON");
    let url = document["mcpServers"]["github"]["url"].as_str().expect("a url");
    assert_eq!(url, format!("http://127.0.0.1:{}/github", sidecar.endpoint().port()));
    assert!(document["mcpServers"]["github"]["type"].is_string());
    assert!(!text.contains(&secret) && !text.contains("Authorization") && !text.contains("headers"), "{text}");
}

/// The endpoint listens on loopback only.
#[tokio::test]
async fn the_endpoint_is_loopback() {
    let (_capture, sidecar) = scene().await;
    assert!(sidecar.endpoint().ip().is_loopback());
    let port = sidecar.endpoint().port();
    let listeners = std::fs::read_to_string(format!("/proc/{}/net/tcp", sidecar.pid())).expect("procfs is there");
    let suffix = format!(":{port:04X}");
    let listening = listeners.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
        (local.ends_with(&suffix) && state == "0A").then(|| local.to_owned())
    });
    assert_eq!(listening.collect::<Vec<_>>(), [format!("0100007F{suffix}")]);
}
