//! The decision: whatever path is asked for, what goes out stays inside the binding of the server
//! that the path names.
//!
//! The input is a method and a target, then header lines. What a call of that method needs and the
//! input does not say is added, so that the path is what decides.

use std::collections::HashSet;
use std::sync::LazyLock;

use percent_encoding::percent_decode;
use postern::core::capture::Way;
use postern::core::decide::{Ask, Decision, decide};
use postern::core::message;
use postern::core::request::{self, Head};
use postern::core::routes::{Route, Routes};
use postern::core::sse;

use super::bindings::binding;

const BEARER: &str = "credential: {type: Bearer, secretRef: {name: s, key: t}}";
/// The one open event stream.
const OPAQUE: &str = "0123456789abcdef";
const STREAM_TARGET: &str = "/messages?session=1";

static ROUTES: LazyLock<Routes> = LazyLock::new(|| {
    let servers = [
        ("exact", "url: 'https://exact.example/mcp'"),
        ("whole", "url: 'https://whole.example/', subpaths: true"),
        ("tree", "url: 'https://tree.example/base/mcp/', subpaths: true"),
        ("old", "url: 'https://old.example/sse', subpaths: true, transports: [SSE, StreamableHTTP]"),
    ];
    let routes = servers.map(|(name, server)| Route { binding: binding(name, server, BEARER).into(), revision: 1 });
    let (routes, conflicts) = Routes::build(routes, HashSet::new());
    assert_eq!(conflicts, []);
    routes
});

pub fn check(data: &[u8]) -> &'static str {
    let Some(head) = head(data) else { return "malformed" };
    let path = &head.target.path;
    let body = message::parse(br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    let stream_target =
        sse::parts(path).filter(|(server, opaque)| (*server, *opaque) == ("old", OPAQUE)).map(|_| STREAM_TARGET);
    let way = &Way::Endpoint;
    let ask = Ask { way, interception: None, head: &head, body: Some(&body), stream_target, session_givers: &[] };
    let plan = match decide(&ROUTES, &ask) {
        Decision::Forward(plan) => plan,
        Decision::NotFound => return "local",
        Decision::Refuse(_) => return "refused",
    };

    let server = &plan.route.binding.server;
    assert_eq!(path.split('/').nth(1), Some(server.name.as_str()), "another server's binding");
    assert_is_local(&head);
    if plan.target == STREAM_TARGET {
        assert_eq!((path.as_str(), head.method.as_str()), (&*format!("/old/.sse/{OPAQUE}"), "POST"));
        return "forwarded";
    }
    let (target, query) = (plan.target.path(), plan.target.query().unwrap_or_default());
    if !server.subpaths {
        assert_eq!(target, server.url.path(), "an exact path is not the agent's to change");
    }
    for reading in readings(target) {
        let inside = is_inside(&reading, server.url.path());
        assert!(inside, "{path} went out as {target}, which some server reads as {reading}");
        assert!(!is_discovery(&reading), "{path} asks for a login, to who reads it as {reading}");
    }
    for name in query.split(['&', ';']).map(|pair| pair.split('=').next().unwrap_or_default()) {
        let name = percent_decode(name.as_bytes()).decode_utf8_lossy().trim().to_lowercase();
        assert_ne!(name, "access_token", "a token of the agent in the query {query}");
    }
    "forwarded"
}

/// The head that the input's lines make, with what a call needs besides.
fn head(data: &[u8]) -> Option<Head> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let mut text = [first, b" HTTP/1.1\r\n"].concat();
    for line in lines.filter(|line| !line.is_empty()) {
        text.extend([line, b"\r\n"].concat());
    }
    let needed: &[(&str, &str)] = match first.split(|byte| *byte == b' ').next()? {
        b"POST" => &[("content-type", "application/json")],
        b"GET" => &[("accept", "text/event-stream")],
        b"DELETE" => &[("mcp-session-id", "s")],
        _ => &[],
    };
    for (name, value) in [("host", "127.0.0.1:15101")].iter().chain(needed) {
        let given = |line: &[u8]| line.to_ascii_lowercase().starts_with(format!("{name}:").as_bytes());
        if !text.split(|byte| *byte == b'\n').any(given) {
            text.extend(format!("{name}: {value}\r\n").bytes());
        }
    }
    text.extend(b"\r\n");
    request::parse(&text).ok()
}

/// No page of the web, whose name was made to lead here, may call.
fn assert_is_local(head: &Head) {
    let authorities = head.target.authority.iter().map(|(_, authority)| authority.clone());
    let value = |name: &str| {
        let field = head.headers.iter().find(|field| field.name() == name.as_bytes());
        field.map(|field| String::from_utf8_lossy(field.value()).into_owned())
    };
    let origin = value("origin").map(|origin| origin.split_once("://").map_or(origin.clone(), |(_, rest)| rest.into()));
    for authority in authorities.chain(value("host")).chain(origin) {
        let host =
            authority.rsplit_once(':').filter(|_| !authority.ends_with(']')).map_or(&*authority, |(host, _)| host);
        let loopback = host.eq_ignore_ascii_case("localhost")
            || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
            || host == "[::1]"
            || host.starts_with('[') && host.trim_matches(['[', ']']).parse() == Ok(std::net::Ipv6Addr::LOCALHOST);
        assert!(loopback, "{authority} is not this machine");
    }
}

/// The path as servers of all kinds read it: escapes undone up to three times, backslashes as
/// slashes, parameters cut off or not; then without dot segments and empty ones.
fn readings(path: &str) -> Vec<String> {
    let mut readings = Vec::new();
    let mut text = path.as_bytes().to_vec();
    for _ in 0..3 {
        for cut in [false, true] {
            readings.push(plain(&text, cut));
        }
        text = percent_decode(&text).collect();
    }
    readings
}

fn plain(path: &[u8], cut: bool) -> String {
    let path = String::from_utf8_lossy(path).replace('\\', "/");
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        let segment = if cut { segment.split(';').next().unwrap_or_default() } else { segment };
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

fn is_inside(reading: &str, base: &str) -> bool {
    let base = base.trim_end_matches('/');
    reading.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The metadata from which MCP clients begin a login, wherever a server has it.
fn is_discovery(reading: &str) -> bool {
    ["/.well-known/oauth-", "/.well-known/openid-configuration"].iter().any(|part| reading.contains(part))
}
