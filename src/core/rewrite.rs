//! Header sets, made anew: nothing of the agent's goes out, and nothing of the upstream's comes
//! back, unless it is named here.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::binding::{Binding, Server, is_forwarded, looks_like_credential};
use super::mask::Mask;
use super::routes::below;
use super::upstream::UpstreamUrl;

/// What the agent takes a server for, and so what it may be told about paths and cookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// For a path of the endpoint: `/<server>` stands for its URL.
    AtEndpoint,
    /// For itself.
    AsItself,
}

impl Seen {
    /// The path by which the agent calls what lies `rest` below the server's own path.
    fn path(self, server: &Server, rest: &str) -> String {
        match (self, rest) {
            (Self::AtEndpoint, rest) => format!("/{}{rest}", server.name),
            (Self::AsItself, "") => server.url.path().to_owned(),
            (Self::AsItself, rest) => format!("{}{rest}", server.url.path().trim_end_matches('/')),
        }
    }
}

/// The credential to place: which header, which value.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'a> {
    /// The binding's header.
    pub header: &'a HeaderName,
    /// Its value, marked sensitive.
    pub value: &'a HeaderValue,
}

/// The header set of the upstream request: allow-listed fields of the agent, then exactly one
/// credential. `Host` and the framing fields are the sender's to add.
pub fn to_upstream(agent: &HeaderMap, binding: &Binding, credential: Placement<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    for (name, value) in agent {
        let framing = name == header::CONTENT_LENGTH;
        let passes = is_forwarded(name.as_str()) || binding.pass_headers.contains(name);
        if passes && !framing && name != credential.header {
            headers.append(name, value.clone());
        }
    }
    // What cannot be read cannot be checked for an echo of the credential.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(cookies) = allowed_cookies(agent, binding) {
        headers.insert(header::COOKIE, cookies);
    }
    headers.insert(credential.header.clone(), credential.value.clone());
    headers
}

/// Whether a credential of the agent's own is left behind: a header, or a cookie that may not pass.
pub fn strips_token(agent: &HeaderMap, binding: &Binding) -> bool {
    let is_token = |name: &HeaderName| name == binding.credential.header || looks_like_credential(name.as_str());
    let loses_a_cookie =
        |line: &HeaderValue| line.to_str().map_or(true, |line| pairs(line).any(|pair| !is_passed(pair, binding)));
    agent.keys().any(|name| name != header::COOKIE && is_token(name))
        || agent.get_all(header::COOKIE).iter().any(loses_a_cookie)
}

/// The agent's query without `access_token` (RFC 6750 section 2.3), and whether there was one.
pub fn query(query: Option<&str>) -> (Option<Cow<'_, str>>, bool) {
    let Some(query) = query else { return (None, false) };
    // Some servers take `;` for `&`.
    if !query.split(['&', ';']).any(is_access_token) {
        return (Some(Cow::Borrowed(query)), false);
    }
    let without = |pair: &str| {
        let kept: Vec<&str> = pair.split(';').filter(|parameter| !is_access_token(parameter)).collect();
        (!kept.is_empty()).then(|| kept.join(";"))
    };
    let kept: Vec<String> = query.split('&').filter_map(without).collect();
    ((!kept.is_empty()).then(|| Cow::Owned(kept.join("&"))), true)
}

/// Whether a server could take a parameter for `access_token`: however it is encoded, in any case,
/// and with any separator (PHP reads `access.token` so, others know `accessToken`).
fn is_access_token(parameter: &str) -> bool {
    let name = percent_decode_str(parameter.split('=').next().unwrap_or_default());
    let letters = name.take_while(|byte| *byte != b'[').filter(u8::is_ascii_alphanumeric);
    letters.map(|byte| byte.to_ascii_lowercase()).eq(*b"accesstoken")
}

fn allowed_cookies(agent: &HeaderMap, binding: &Binding) -> Option<HeaderValue> {
    if binding.pass_cookies.is_empty() {
        return None;
    }
    let lines = agent.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let passed: Vec<&str> = lines.flat_map(pairs).filter(|pair| is_passed(pair, binding)).collect();
    (!passed.is_empty()).then(|| HeaderValue::from_str(&passed.join("; ")).ok()).flatten()
}

/// The cookies of one line.
fn pairs(line: &str) -> impl Iterator<Item = &str> {
    line.split(';').map(str::trim).filter(|pair| !pair.is_empty())
}

/// Whether `name=value` is a cookie that goes both ways.
fn is_passed(pair: &str, binding: &Binding) -> bool {
    pair.split_once('=').is_some_and(|(name, _)| binding.pass_cookies.iter().any(|passed| passed == name))
}

/// Response fields that never reach the agent: they belong to one connection, or would steer the
/// agent to another place or to a login.
fn is_dropped(name: &HeaderName) -> bool {
    const NAMES: [&str; 21] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "www-authenticate",
        "optional-www-authenticate",
        "authentication-control",
        "proxy-authenticate",
        "authentication-info",
        "proxy-authentication-info",
        "set-cookie",
        "set-cookie2",
        "alt-svc",
        "refresh",
        "link",
        "content-location",
        "strict-transport-security",
        "postern-reason",
    ];
    NAMES.contains(&name.as_str()) || name == header::LOCATION || name == header::CONTENT_LENGTH
}

/// The header set of the agent's response, and how many values in it were masked. The framing
/// fields are the writer's to add.
pub fn to_agent(
    upstream: &HeaderMap,
    binding: &Binding,
    (request_target, seen): (&str, Seen),
    mask: &Mask,
) -> (HeaderMap, u64) {
    let mut masked = 0;
    let mut hide = |value: &mut HeaderValue| {
        if let Some(clean) = mask.header(value) {
            *value = clean;
            masked += 1;
        }
    };
    // Before it is read: a host is put in lower case, where the value would not be known again.
    let mut location = upstream.get(header::LOCATION).cloned();
    location.iter_mut().for_each(&mut hide);
    let location =
        location.and_then(|location| rewritten_location(location.to_str().ok()?, binding, request_target, seen));
    let mut headers = passed_on(upstream, binding, seen);
    headers.values_mut().for_each(&mut hide);
    if let Some(Ok(location)) = location.as_deref().map(HeaderValue::from_str) {
        headers.insert(header::LOCATION, location);
    }
    // A name cannot be overwritten: it would be another field.
    let telling: Vec<HeaderName> = headers.keys().filter(|name| mask.is_in_name(name)).cloned().collect();
    for name in telling {
        headers.remove(name);
        masked += 1;
    }
    (headers, masked)
}

fn passed_on(upstream: &HeaderMap, binding: &Binding, seen: Seen) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(upstream.len());
    for (name, value) in upstream {
        if !is_dropped(name) {
            headers.append(name, value.clone());
        }
    }
    for cookie in upstream.get_all(header::SET_COOKIE).iter().filter_map(|c| c.to_str().ok()) {
        let pair = cookie.split(';').next().unwrap_or_default().trim();
        // Domain, Path and Secure speak of the upstream's origin; the agent's may be another.
        if is_passed(pair, binding)
            && let Ok(cookie) = HeaderValue::from_str(&format!("{pair}; Path={}", seen.path(&binding.server, "")))
        {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
    headers
}

/// `Location` as the agent may see it: a place that the binding covers becomes the path by which
/// the agent calls it; any other loses user, query and fragment, where credentials travel; one that cannot be
/// read is dropped.
fn rewritten_location(location: &str, binding: &Binding, request_target: &str, seen: Seen) -> Option<String> {
    let (place, query) = split_query(location);
    let url = absolute(place, &binding.server.url, request_target)?;
    let server = &binding.server;
    let rest = below(server.url.path(), url.path()).filter(|rest| rest.is_empty() || server.subpaths);
    match rest.filter(|_| server.url.same_origin(&url)) {
        Some(rest) => {
            let query = self::query(query).0.map(|q| format!("?{q}")).unwrap_or_default();
            Some(format!("{}{query}", seen.path(server, rest)))
        }
        None => Some(url.to_string()),
    }
}

fn split_query(reference: &str) -> (&str, Option<&str>) {
    let reference = reference.split('#').next().unwrap_or_default();
    reference.split_once('?').map_or((reference, None), |(place, query)| (place, Some(query)))
}

/// Resolves a reference (RFC 3986 section 5) as far as redirects use it.
fn absolute(place: &str, base: &UpstreamUrl, request_target: &str) -> Option<UpstreamUrl> {
    let origin = |rest: &str| format!("{}://{}{rest}", base.scheme.as_str(), base.authority());
    let text = if let Some((scheme, rest)) = place.split_once("://") {
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let authority = authority.rsplit('@').next().unwrap_or_default();
        format!("{scheme}://{authority}{path}")
    } else if place.starts_with("//") {
        format!("{}:{place}", base.scheme.as_str())
    } else if place.starts_with('/') {
        origin(place)
    } else if place.contains(':') {
        return None;
    } else {
        let path = request_target.split('?').next().unwrap_or_default();
        let directory = path.rfind('/').and_then(|slash| path.get(..=slash)).unwrap_or("/");
        origin(&format!("{directory}{place}"))
    };
    UpstreamUrl::parse(&text).ok()
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
