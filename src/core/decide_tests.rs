//! The decision as a table: from a request to a reason or an upstream target.

use std::collections::HashSet;

use super::super::message;
use super::super::request;
use super::super::routes::Route;
use super::super::sse;
use super::super::upstream::Scheme;
use super::*;
use crate::api::document::read_bindings;

const BINDINGS: &str = "\
apiVersion: postern.dev/v1alpha1
kind: CredentialBinding
metadata: {name: a, namespace: ns}
spec:
  serviceAccounts: [sa]
  server: {name: exact, url: https://h.example/mcp/}
  credential: {type: Bearer, secretRef: {name: s, key: t}}
  tools: {allow: ['search_*'], deny: [search_all]}
---
apiVersion: postern.dev/v1alpha1
kind: CredentialBinding
metadata: {name: b, namespace: ns}
spec:
  serviceAccounts: [sa]
  server: {name: below, url: https://i.example/api, subpaths: true}
  credential: {type: Bearer, secretRef: {name: s, key: t}}
  allowBatch: true
---
apiVersion: postern.dev/v1alpha1
kind: CredentialBinding
metadata: {name: c, namespace: ns}
spec:
  serviceAccounts: [sa]
  server: {name: legacy, url: https://l.example/sse, transports: [SSE]}
  credential: {type: Bearer, secretRef: {name: s, key: t}}
";

/// Another host was bound when the sidecar started.
fn was_bound() -> Routes {
    let (bindings, _) = read_bindings("x", &BINDINGS.replace("h.example", "was.example"));
    Routes::build(bindings.into_iter().map(|b| Route { binding: Arc::new(b.binding), revision: 1 }), HashSet::new()).0
}

fn routes() -> Routes {
    let (bindings, problems) = read_bindings("x", BINDINGS);
    assert_eq!(problems, []);
    let routes = bindings.into_iter().map(|b| Route { binding: Arc::new(b.binding), revision: 1 });
    Routes::build(routes, HashSet::from([ServerName::parse("old").unwrap()])).0
}

fn outcome(head: &str, body: &str, givers: &[&str]) -> String {
    outcome_with(&routes(), head, body, givers)
}

fn outcome_by(way: &Way, head: &str) -> String {
    told(&routes(), way, head, LIST, &[])
}

fn outcome_with(routes: &Routes, head: &str, body: &str, givers: &[&str]) -> String {
    told(routes, &Way::Endpoint, head, body, givers)
}

fn told(routes: &Routes, way: &Way, head: &str, body: &str, givers: &[&str]) -> String {
    let interception = Interception::new(&was_bound(), Vec::new());
    let head = request::parse(format!("{}\r\n\r\n", head.replace('\n', "\r\n")).as_bytes()).unwrap();
    let body = (head.method == Method::POST).then(|| message::parse(body.as_bytes()));
    let givers: Vec<_> = givers.iter().map(|name| ServerName::parse(name).unwrap()).collect();
    match decide(
        routes,
        &Ask {
            way,
            interception: Some(&interception),
            head: &head,
            body: body.as_ref(),
            session_givers: &givers,
            stream_target: sse::parts(&head.target.path).and_then(|(_, opaque)| (opaque == "open").then_some("/m?s=1")),
        },
    ) {
        Decision::Forward(plan) => format!("{} {}", plan.route.binding.server.name, plan.target),
        Decision::NotFound => "not found".into(),
        Decision::Refuse(refusal) => refusal.reason.to_string(),
    }
}

const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;

#[test]
fn heads_decide() {
    let rows = [
        ("POST /exact", "", "exact /mcp/"),
        ("POST /exact/", "", "exact /mcp/"),
        ("POST /exact?a=b&access_token=x", "", "exact /mcp/?a=b"),
        ("POST /exact/x", "", "path_outside_binding"),
        ("POST /below", "", "below /api"),
        ("POST /below/x/y?q", "", "below /api/x/y?q"),
        ("POST /below/../exact", "", "malformed_head"),
        ("POST /below/%2e%2e/x", "", "malformed_head"),
        ("POST /below/a%2fb", "", "malformed_head"),
        ("POST //exact", "", "malformed_head"),
        ("POST /unknown", "", "unbound_server"),
        ("POST /old", "", "credential_revoked"),
        ("POST /", "", "unbound_server"),
        ("POST /EXACT", "", "unbound_server"),
        ("GET /legacy", "\nAccept: text/event-stream", "legacy /sse"),
        ("POST /legacy/.sse/open", "", "legacy /m?s=1"),
        ("POST /legacy/.sse/open?a=b", "", "legacy /m?s=1"),
        ("POST /legacy/.sse/closed", "", "session_foreign"),
        ("GET /legacy/.sse/open", "\nAccept: text/event-stream", "not_mcp"),
        ("POST /exact/.sse/open", "", "path_outside_binding"),
        ("PUT /exact", "", "not_mcp"),
        ("OPTIONS /exact", "", "not_mcp"),
        ("GET /exact", "", "not_mcp"),
        ("GET /exact", "\nAccept: text/html, */*", "not_mcp"),
        ("GET /exact", "\nAccept: application/json, text/event-stream;q=0.5", "exact /mcp/"),
        ("GET /exact", "\nAccept: text/event-stream\nContent-Length: 3", "not_mcp"),
        ("DELETE /exact", "", "not_mcp"),
        ("DELETE /exact", "\nMcp-Session-Id: x", "exact /mcp/"),
        ("POST /exact", "\nMcp-Session-Id: x\nMcp-Session-Id: y", "malformed_head"),
        ("POST /exact", "\nOrigin: http://localhost:3000", "exact /mcp/"),
        ("POST /exact", "\nOrigin: https://evil.example", "origin_forbidden"),
        ("POST /exact", "\nOrigin: null", "origin_forbidden"),
        ("POST /exact", "\nOrigin: http://localhost.evil.example", "origin_forbidden"),
        ("GET /.well-known/oauth-protected-resource", "", "not found"),
        ("GET /.well-known/oauth-protected-resource/exact", "", "not found"),
        ("GET /.well-known/openid-configuration", "", "not found"),
        ("GET /exact/.well-known/oauth-authorization-server", "", "not found"),
        ("GET /below/x/.well-known/oauth-authorization-server", "", "not found"),
        ("GET /below/.well%2dknown/o%61uth-authorization-server", "", "not found"),
        ("GET /below/.well-known/a/.well-known/oauth-authorization-server", "", "not found"),
        ("GET /below/.well-known;x/oauth-authorization-server", "", "not found"),
        ("POST /below/%2e%2e;x/a", "", "malformed_head"),
        ("POST /register", "", "not found"),
        ("POST /token/", "", "not found"),
        ("GET /authorize", "", "not found"),
        ("POST /Register/", "", "not found"),
        ("POST /%74oken", "", "not found"),
        ("POST /below/register", "", "not found"),
        ("POST /below/register/x", "", "below /api/register/x"),
        ("POST /below/x/register", "", "below /api/x/register"),
        ("GET /below/.Well-Known/OAuth-Authorization-Server", "", "not found"),
        ("GET /below/%2ewell-known/oauth-protected-resource/", "", "not found"),
        ("GET /below/.well%2dknown/%6fauth-protected-resource", "", "not found"),
        ("GET /below/.well-known;a=b/openid-configuration;c", "", "not found"),
        ("GET /below/.well-known/x/.well-known/oauth-x", "", "not found"),
        ("POST /below/.well-known/mcp", "", "below /api/.well-known/mcp"),
    ];
    for (line, more, expected) in rows {
        let json = if line.starts_with("POST") { "\nContent-Type: application/json" } else { "" };
        let head = format!("{line} HTTP/1.1\nHost: 127.0.0.1:15101{json}{more}");
        assert_eq!(outcome(&head, LIST, &[]), expected, "{head}");
    }
}

#[test]
fn the_host_is_this_machine() {
    let rows = [
        ("/exact", "localhost", "exact /mcp/"),
        ("/exact", "LOCALHOST:15101", "exact /mcp/"),
        ("/exact", "[::1]:15101", "exact /mcp/"),
        ("http://127.0.0.1:1/exact", "127.0.0.1:1", "exact /mcp/"),
        ("/exact", "h.example", "authority_mismatch"),
        ("/exact", "localhost.h.example", "authority_mismatch"),
        ("/exact", "127.0.0.1.h.example", "authority_mismatch"),
        ("/exact", "10.0.0.1", "authority_mismatch"),
        ("/exact", "", "authority_mismatch"),
        ("/exact", "a@localhost", "authority_mismatch"),
        ("http://h.example/exact", "127.0.0.1", "authority_mismatch"),
        ("http://127.0.0.1:1/exact", "127.0.0.1:2", "authority_mismatch"),
    ];
    for (target, host, expected) in rows {
        let head = format!("POST {target} HTTP/1.1\nHost: {host}\nContent-Type: application/json");
        assert_eq!(outcome(&head, LIST, &[]), expected, "{head}");
    }
}

#[test]
fn bodies_decide() {
    let call = |tool: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
    let rows = [
        ("exact", "application/json", LIST.to_owned(), "exact /mcp/"),
        ("exact", "application/json; charset=UTF-8", LIST.to_owned(), "exact /mcp/"),
        ("exact", "application/json; charset=utf-16", LIST.to_owned(), "bad_json_rpc"),
        ("exact", "application/json\nContent-Encoding: gzip", LIST.to_owned(), "bad_json_rpc"),
        ("exact", "text/plain", LIST.to_owned(), "not_mcp"),
        ("exact", "application/jsonx", LIST.to_owned(), "not_mcp"),
        ("exact", "application/json\nContent-Type: application/json", LIST.to_owned(), "malformed_head"),
        ("exact", "application/json", String::new(), "bad_json_rpc"),
        ("exact", "application/json", format!("[{LIST}]"), "bad_json_rpc"),
        ("below", "application/json", format!("[{LIST}]"), "below /api"),
        ("below", "application/json", "[]".to_owned(), "bad_json_rpc"),
        ("below", "application/json", format!("[{LIST},{{}}]"), "bad_json_rpc"),
        ("exact", "application/json", call("search_code"), "exact /mcp/"),
        ("exact", "application/json", call("search_all"), "tool_denied"),
        ("exact", "application/json", call("delete"), "tool_denied"),
        ("exact", "application/json", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#.to_owned(), "tool_denied"),
        (
            "exact",
            "application/json",
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"delete"}}"#.to_owned(),
            "tool_denied",
        ),
        ("below", "application/json", call("delete"), "below /api"),
        ("exact", "application/json\nMcp-Method: tools/list", call("search_code"), "header_mismatch"),
    ];
    for (server, kind, body, expected) in rows {
        let head = format!("POST /{server} HTTP/1.1\nHost: localhost\nContent-Type: {kind}");
        assert_eq!(outcome(&head, &body, &[]), expected, "{kind} {body}");
    }
}

#[test]
fn a_session_stays_with_its_server() {
    let head = "POST /exact HTTP/1.1\nHost: localhost\nContent-Type: application/json\nMcp-Session-Id: s";
    for (givers, expected) in [
        (&[][..], "exact /mcp/"),
        (&["exact"], "exact /mcp/"),
        (&["below", "exact"], "exact /mcp/"),
        (&["below"], "session_foreign"),
    ] {
        assert_eq!(outcome(head, LIST, givers), expected);
    }
}

/// A bar refuses every name, bound or not, but neither hides what is wrong with the request nor
/// sends a client into a login.
#[test]
fn a_bar_refuses_whatever_the_name() {
    let barred = routes().barred(Refusal::new(Reason::CredentialStale));
    let call = |target: &str, host: &str| {
        let head = format!("POST {target} HTTP/1.1\nHost: {host}\nContent-Type: application/json\nContent-Length: 47");
        outcome_with(&barred, &head, LIST, &[])
    };
    for target in ["/exact", "/below/x", "/old", "/unknown", "/exact/outside", "/_"] {
        assert_eq!(call(target, "localhost"), "credential_stale", "{target}");
    }
    assert_eq!(call("/exact", "h.example"), "authority_mismatch");
    assert_eq!(call("/.well-known/oauth-authorization-server", "localhost"), "not found");
    let server = |target| match plan(
        &barred,
        &Ask {
            way: &Way::Endpoint,
            interception: None,
            head: &head(target),
            body: None,
            stream_target: None,
            session_givers: &[],
        },
    ) {
        Err(refusal) => refusal.server.map(|name| name.to_string()),
        Ok(_) => panic!("{target} passes"),
    };
    assert_eq!((server("/exact").as_deref(), server("/unknown")), (Some("exact"), None));
}

fn head(target: &str) -> Head {
    request::parse(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap()
}

#[test]
fn the_place_decides_where_the_agent_believes_to_be_there() {
    let direct = |scheme, host: &str, port| {
        let host = (!host.is_empty()).then(|| super::super::upstream::Host::parse(host).unwrap());
        Way::Direct(capture::Direct { scheme, host, port, original: None })
    };
    let (tls, clear) = (direct(Scheme::Https, "h.example", None), direct(Scheme::Http, "", None));
    let tunnel = direct(Scheme::Https, "h.example", Some(443));
    let rows = [
        (&tls, "POST /mcp/", "h.example", "exact /mcp/"),
        (&tls, "POST /mcp", "h.example:443", "exact /mcp/"),
        (&tls, "POST /mcp?a=b&access_token=x", "h.example", "exact /mcp/?a=b"),
        (&tls, "POST /mcp/x", "h.example", "path_outside_binding"),
        (&tls, "POST /exact", "h.example", "path_outside_binding"),
        (&tls, "POST /mcp/../mcp", "h.example", "malformed_head"),
        (&tls, "POST /mcp", "h.example:8443", "path_outside_binding"),
        (&tls, "POST /mcp", "i.example", "authority_mismatch"),
        (&tls, "POST https://h.example/mcp", "h.example", "exact /mcp/"),
        (&tls, "GET /.well-known/oauth-protected-resource", "h.example", "not found"),
        (&tls, "POST /register", "h.example", "not found"),
        (&tls, "OPTIONS /mcp", "h.example", "not_mcp"),
        (&tunnel, "POST /mcp", "h.example", "exact /mcp/"),
        (&tunnel, "POST /mcp", "h.example:444", "authority_mismatch"),
        (&clear, "POST /mcp", "h.example", "exact /mcp/"),
        (&clear, "POST /api/x/y?q", "i.example", "below /api/x/y?q"),
        (&clear, "POST /api", "i.example:443", "below /api"),
        (&clear, "POST /api", "i.example:8080", "path_outside_binding"),
        (&clear, "POST /mcp", "was.example", "credential_revoked"),
        (&clear, "POST /mcp", "other.example", "unbound_host"),
        (&clear, "GET /.well-known/oauth-protected-resource", "other.example", "unbound_host"),
        (&clear, "POST /legacy/.sse/open", "l.example", "legacy /m?s=1"),
        (&clear, "POST /legacy/.sse/closed", "l.example", "session_foreign"),
        (&clear, "POST /legacy/.sse/open", "h.example", "path_outside_binding"),
        (&Way::Proxy, "POST http://h.example/mcp", "h.example", "exact /mcp/"),
        (&Way::Proxy, "POST https://h.example/mcp", "h.example", "exact /mcp/"),
        (&Way::Proxy, "POST http://other.example/mcp", "other.example", "unbound_host"),
        (&Way::Proxy, "POST /mcp", "h.example", "authority_mismatch"),
        (&Way::Proxy, "POST http://h.example/mcp", "other.example", "authority_mismatch"),
    ];
    for (way, line, host, expected) in rows {
        let get = if line.starts_with("GET") { "\nAccept: text/event-stream" } else { "" };
        let post = "\nContent-Type: application/json\nContent-Length: 47";
        let rest = if line.starts_with("POST") { post } else { get };
        let head = format!("{line} HTTP/1.1\nHost: {host}{rest}");
        assert_eq!(outcome_by(way, &head), expected, "{way:?} {line} {host}");
    }
    let page = |origin: &str| {
        let head = format!(
            "POST /mcp HTTP/1.1\nHost: h.example\nOrigin: {origin}\nContent-Type: application/json\nContent-Length: 47"
        );
        outcome_by(&tls, &head)
    };
    assert_eq!(page("https://h.example"), "exact /mcp/");
    assert_eq!(page("http://localhost:3000"), "exact /mcp/");
    assert_eq!(page("https://evil.example"), "origin_forbidden");
}
