//! The decision: routes + head + body -> a plan, or a reason. No I/O, and no credential yet:
//! a refused call never touches one.

use std::sync::Arc;

use http::Method;
use http::uri::PathAndQuery;

use super::binding::Binding;
use super::capture::{self, Interception, Way};
use super::fields::{Fields, Known, ascii};
use super::mcp;
use super::message::{Body, BodyFault, Kind, Message};
use super::name::ServerName;
use super::path;
use super::reason::Reason;
use super::request::{Framing, Head, HeadFault};
use super::rewrite::{self, Seen};
use super::routes::{Lookup, Route, Routes, below};
use super::sse;
use super::upstream::split_authority;

/// What is asked.
#[derive(Debug)]
pub struct Ask<'a> {
    /// By which way it came in.
    pub way: &'a Way,
    /// What this sidecar stands in for, if it does.
    pub interception: Option<&'a Interception>,
    /// The head.
    pub head: &'a Head,
    /// The body of a POST, read.
    pub body: Option<&'a Result<Body<'a>, BodyFault>>,
    /// The upstream target of the open stream that the path names (`/<server>/.sse/<opaque>`).
    pub stream_target: Option<&'a str>,
    /// The servers that gave out the session id in the head, as far as they are remembered.
    pub session_givers: &'a [ServerName],
}

/// What is to be done.
#[derive(Debug)]
pub enum Decision {
    /// Lease the credential and send.
    Forward(Plan),
    /// An OAuth discovery path: 404, from here.
    NotFound,
    /// Refuse.
    Refuse(Refusal),
}

/// A call that may go out.
#[derive(Debug)]
pub struct Plan {
    /// By which binding.
    pub route: Arc<Route>,
    /// The upstream's path and query.
    pub target: PathAndQuery,
    /// Whether a token in the query was dropped.
    pub stripped_query: bool,
    /// What the agent takes the server for.
    pub seen: Seen,
}

/// Why a call may not go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// The server meant, once known to be one of ours.
    pub server: Option<ServerName>,
    /// Fixed text for the log and the message: which rule.
    pub detail: Option<String>,
}

impl Refusal {
    /// A refusal before any server is known.
    pub fn new(reason: Reason) -> Self {
        Self { reason, server: None, detail: None }
    }

    /// With the rule that was broken.
    pub fn because(reason: Reason, detail: impl ToString) -> Self {
        Self { reason, server: None, detail: Some(detail.to_string()) }
    }

    /// With the server.
    #[must_use]
    pub fn at(mut self, server: &ServerName) -> Self {
        self.server = Some(server.clone());
        self
    }
}

impl From<HeadFault> for Refusal {
    fn from(fault: HeadFault) -> Self {
        match fault {
            HeadFault::NotHttp => Self::new(Reason::NotHttp),
            HeadFault::Malformed(detail) => Self::because(Reason::MalformedHead, detail),
            HeadFault::TooLarge => Self::new(Reason::HeadTooLarge),
            HeadFault::Tunnel => Self::new(Reason::TunnelForbidden),
            HeadFault::Disagrees => Self::because(Reason::AuthorityMismatch, fault),
        }
    }
}

/// Decides one request.
pub fn decide(routes: &Routes, ask: &Ask<'_>) -> Decision {
    match plan(routes, ask) {
        Ok(Some(plan)) => Decision::Forward(plan),
        Ok(None) => Decision::NotFound,
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// The server that is meant, and what the path has beyond its own.
struct Meant<'a> {
    route: Arc<Route>,
    rest: &'a str,
}

fn plan(routes: &Routes, ask: &Ask<'_>) -> Result<Option<Plan>, Refusal> {
    let head = ask.head;
    let (meant, seen) = match ask.way {
        Way::Endpoint => (by_name(routes, head)?, Seen::AtEndpoint),
        Way::Proxy | Way::Direct(_) => (by_place(routes, ask)?, Seen::AsItself),
    };
    let Some(Meant { route, rest }) = meant else { return Ok(None) };
    let binding = &route.binding;
    let name = &binding.server.name;
    let own = own_target(ask, binding, rest).map_err(|refusal| refusal.at(name))?;
    only_mcp(head).and_then(|()| body_rules(ask, binding, &own)).map_err(|refusal| refusal.at(name))?;
    if !ask.session_givers.is_empty() && !ask.session_givers.contains(name) {
        return Err(Refusal::new(Reason::SessionForeign).at(name));
    }
    let (query, stripped_query) = rewrite::query(head.target.query.as_deref());
    let target = match (own, query) {
        // Named by the upstream itself, its query included.
        (Own::Stream(target), _) => PathAndQuery::try_from(target),
        (Own::Base, None) => Ok(binding.server.url.target().clone()),
        (Own::Base, Some(query)) => PathAndQuery::try_from(format!("{}?{query}", binding.server.url.path())),
        (Own::Below(path), None) => PathAndQuery::try_from(path),
        (Own::Below(path), Some(query)) => PathAndQuery::try_from(format!("{path}?{query}")),
    };
    let unsendable = |_| Refusal::because(Reason::MalformedHead, "the target cannot be sent on").at(name);
    let target = target.map_err(unsendable)?;
    Ok(Some(Plan { route, target, stripped_query, seen }))
}

/// At the endpoint; `None` is an OAuth discovery path.
fn by_name<'a>(routes: &Routes, head: &'a Head) -> Result<Option<Meant<'a>>, Refusal> {
    local_names(head)?;
    check_path(head)?;
    if is_discovery(&head.target.path) {
        return Ok(None);
    }
    let (segment, rest) = first_segment(&head.target.path);
    let found = routes.find(segment);
    if let Some(bar) = routes.bar() {
        return Err(match found {
            Lookup::Route(route) => bar.clone().at(&route.binding.server.name),
            Lookup::Gone(_) | Lookup::Unknown => bar.clone(),
        });
    }
    match found {
        Lookup::Route(route) => Ok(Some(Meant { route: Arc::clone(route), rest })),
        Lookup::Gone(name) => Err(Refusal::new(Reason::CredentialRevoked).at(name)),
        Lookup::Unknown => Err(unbound(routes)),
    }
}

/// Where the agent believes to speak to the server itself; `None` is an OAuth discovery path.
fn by_place<'a>(routes: &Routes, ask: &Ask<'a>) -> Result<Option<Meant<'a>>, Refusal> {
    let origin = capture::origin(ask.head, ask.way)?;
    capture::own_origin(ask.head, &origin.place.host)?;
    check_path(ask.head)?;
    if let Some(bar) = routes.bar() {
        return Err(bar.clone());
    }
    let path = ask.head.target.path.as_str();
    let here: Vec<_> = routes.iter().filter(|route| origin.means(&route.binding.server.url)).collect();
    if here.is_empty() {
        return Err(nobody_there(routes, ask, &origin));
    }
    if is_discovery(path) {
        return Ok(None);
    }
    // A path that we gave out ourselves, as the place to post to for an open stream.
    if let Some((server, _)) = sse::parts(path)
        && let Some(route) = here.iter().find(|route| route.binding.server.name.as_str() == server)
    {
        return Ok(Some(Meant { route: Arc::clone(route), rest: first_segment(path).1 }));
    }
    let covered = here.iter().find_map(|route| {
        let server = &route.binding.server;
        let rest = below(server.url.path(), path).filter(|rest| rest.is_empty() || server.subpaths)?;
        Some(Meant { route: Arc::clone(route), rest })
    });
    covered.map(Some).ok_or_else(|| {
        let outside = Refusal::new(Reason::PathOutsideBinding);
        match here.as_slice() {
            [only] => outside.at(&only.binding.server.name),
            _ => outside,
        }
    })
}

fn nobody_there(routes: &Routes, ask: &Ask<'_>, origin: &capture::Origin) -> Refusal {
    let host = &origin.place.host;
    if routes.iter().any(|route| route.binding.server.url.host == *host) {
        return Refusal::because(Reason::PathOutsideBinding, "the host is bound with another scheme or port");
    }
    if ask.interception.is_some_and(|interception| interception.was_bound(host)) {
        return Refusal::because(Reason::CredentialRevoked, host);
    }
    Refusal::because(Reason::UnboundHost, host)
}

fn check_path(head: &Head) -> Result<(), Refusal> {
    path::check(&head.target.path).map_err(|fault| Refusal::because(Reason::MalformedHead, fault))
}

/// Names the servers there are: they stand in mcp.json anyway, and a wrong name is a common slip.
fn unbound(routes: &Routes) -> Refusal {
    let mut names: Vec<_> = routes.iter().map(|route| route.binding.server.name.as_str()).collect();
    names.sort_unstable();
    let bound = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Refusal::because(Reason::UnboundServer, format!("servers bound to this caller: {bound}"))
}

/// The listener is an ambient authority on loopback: a web page that rebinds its name to
/// 127.0.0.1 must not use it (MCP 2025-11-25, DNS rebinding).
fn local_names(head: &Head) -> Result<(), Refusal> {
    let host = head.headers.text(Known::Host).unwrap_or_default();
    let agrees = head.target.authority.as_ref().is_none_or(|(_, authority)| authority.eq_ignore_ascii_case(host));
    let own = split_authority(host).map(|(host, _)| host).filter(|host| agrees && capture::is_loopback(host));
    match own {
        Some(own) => capture::own_origin(head, &own),
        None => Err(Refusal::because(Reason::AuthorityMismatch, "Host is not this machine's loopback")),
    }
}

fn first_segment(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.find('/').map_or((path, ""), |slash| path.split_at(slash))
}

/// OAuth paths an MCP client may try on its own, at the root or below a server (RFC 8414, RFC
/// 9728, MCP 2025-03-26 fallbacks), as the most lenient server would read them. Forwarded, they
/// would start a login the agent must not have.
fn is_discovery(path: &str) -> bool {
    let is_metadata = |segment: &str| begins_with(segment, "oauth-") || begins_with(segment, "openid-");
    let (mut below_well_known, mut named, mut last) = (false, 0, None);
    for segment in path.split('/').skip(1).map(path::plain) {
        if below_well_known && is_metadata(&segment) {
            return true;
        }
        below_well_known = segment.eq_ignore_ascii_case(".well-known");
        if !segment.is_empty() {
            named += 1;
            last = Some(segment);
        }
    }
    named <= 2 && last.is_some_and(|last| is_oauth_endpoint(&last))
}

fn is_oauth_endpoint(segment: &str) -> bool {
    ["register", "token", "authorize"].iter().any(|name| segment.eq_ignore_ascii_case(name))
}

fn begins_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

enum Own<'a> {
    /// The server's own path.
    Base,
    /// A path below it.
    Below(String),
    Stream(&'a str),
}

fn own_target<'a>(ask: &Ask<'a>, binding: &Binding, rest: &str) -> Result<Own<'a>, Refusal> {
    if binding.server.transports.sse && rest.trim_start_matches('/').starts_with(sse::SEGMENT) {
        let closed = || Refusal::because(Reason::SessionForeign, "that event stream is not open");
        return match ask.head.method {
            Method::POST => ask.stream_target.map(Own::Stream).ok_or_else(closed),
            _ => Err(Refusal::new(Reason::NotMcp)),
        };
    }
    match rest {
        "" | "/" => Ok(Own::Base),
        _ if binding.server.subpaths => {
            Ok(Own::Below(format!("{}{rest}", binding.server.url.path().trim_end_matches('/'))))
        }
        _ => Err(Refusal::new(Reason::PathOutsideBinding)),
    }
}

/// Design rule "only MCP": POST of JSON, GET of an event stream, DELETE of a session.
fn only_mcp(head: &Head) -> Result<(), Refusal> {
    let headers = &head.headers;
    for name in [Known::ContentType, Known::McpSessionId] {
        if headers.all(name).count() > 1 {
            let name = String::from_utf8_lossy(name.as_bytes());
            return Err(Refusal::because(Reason::MalformedHead, format!("{name} more than once")));
        }
    }
    let no_body = head.framing == Framing::Length(0);
    let fits = match head.method {
        Method::POST => is_json(headers)?,
        Method::GET => no_body && accepts_events(headers),
        Method::DELETE => no_body && headers.contains(Known::McpSessionId),
        _ => false,
    };
    if fits { Ok(()) } else { Err(Refusal::new(Reason::NotMcp)) }
}

fn is_json(headers: &Fields) -> Result<bool, Refusal> {
    if headers.all(Known::ContentEncoding).any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::because(Reason::BadJsonRpc, "the body has a Content-Encoding"));
    }
    let Some(value) = headers.get(Known::ContentType).filter(|value| value.is_ascii()) else { return Ok(false) };
    let mut parts = value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    if !parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/json")) {
        return Ok(false);
    }
    let other_charset = |part: &[u8]| {
        let charset = String::from_utf8_lossy(part).to_ascii_lowercase();
        charset.strip_prefix("charset=").is_some_and(|c| !matches!(c.trim_matches('"'), "utf-8" | "utf8"))
    };
    if parts.any(other_charset) {
        return Err(Refusal::because(Reason::BadJsonRpc, "the charset is not utf-8"));
    }
    Ok(true)
}

fn accepts_events(headers: &Fields) -> bool {
    headers.all(Known::Accept).filter_map(ascii).flat_map(|v| v.split(',')).any(|range| {
        let kind = range.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

fn body_rules(ask: &Ask<'_>, binding: &Binding, own: &Own<'_>) -> Result<(), Refusal> {
    let rules = |message| message_rules(&ask.head.headers, binding, own, message);
    match ask.body {
        None => Ok(()),
        Some(Err(fault)) => Err(Refusal::because(Reason::BadJsonRpc, fault)),
        Some(Ok(Body::One(message))) => rules(message),
        Some(Ok(Body::Batch(messages))) => {
            if !binding.allow_batch || messages.is_empty() {
                return Err(Refusal::because(Reason::BadJsonRpc, BodyFault::Batch));
            }
            messages.iter().try_for_each(rules)
        }
    }
}

fn message_rules(headers: &Fields, binding: &Binding, own: &Own<'_>, message: &Message<'_>) -> Result<(), Refusal> {
    if let Some(fault) = message.fault {
        return Err(Refusal::because(Reason::BadJsonRpc, fault));
    }
    let demanded = !matches!(own, Own::Stream(_));
    mcp::check_mirrors(headers, message, demanded)
        .map_err(|mismatch| Refusal::because(Reason::HeaderMismatch, mismatch))?;
    let calls_tool = message.kind != Some(Kind::Response) && message.method.as_deref() == Some("tools/call");
    let allowed = || message.params.name.as_deref().is_some_and(|tool| binding.tools.allows(tool));
    if calls_tool && !binding.tools.is_open() && !allowed() {
        return Err(Refusal::new(Reason::ToolDenied));
    }
    Ok(())
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
