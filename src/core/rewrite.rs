//! Header sets, made anew: nothing of the agent's goes out, and nothing of the upstream's comes
//! back, unless it is named here.

use std::borrow::Cow;
use std::sync::LazyLock;

use http::header::{self, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::binding::{Binding, Server, is_forwarded, looks_like_credential};
use super::fields::{Field, FieldLines, Fields, Known, ascii};
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

/// The fields of the agent that go out, and whether a credential of its own is left behind: a header, or a cookie
/// that may not pass. The credential, `Host` and the framing fields are the sender's to add; none is among these.
pub fn to_upstream(agent: &Fields, binding: &Binding) -> (FieldLines, bool) {
    let mut lines = FieldLines::with_capacity(agent.size() + 64);
    let mut stripped = false;
    let credential = binding.credential.header.as_str().as_bytes();
    for field in agent.iter() {
        let name = field.name();
        let nature = Nature::of(field);
        if field.known() == Some(Known::Cookie) {
            stripped |= loses_a_cookie(field.value(), binding);
        } else if name == credential {
            stripped = true;
        } else if nature.is_forwarded || binding.pass_headers.iter().any(|passed| passed.as_str().as_bytes() == name) {
            if field.known() != Some(Known::ContentLength) {
                lines.push(field);
            }
        } else {
            stripped |= nature.is_credential;
        }
    }
    // What cannot be read cannot be checked for an echo of the credential.
    lines.push(Field::new(&header::ACCEPT_ENCODING, &HeaderValue::from_static("identity")));
    if let Some(cookies) = allowed_cookies(agent, binding) {
        lines.push(Field::new(&header::COOKIE, &cookies));
    }
    (lines, stripped)
}

/// What a field of the agent's is by its name.
#[derive(Clone, Copy)]
struct Nature {
    is_forwarded: bool,
    is_credential: bool,
}

/// Of the names that are met in nearly every call, found out once.
static NATURES: LazyLock<Vec<Nature>> =
    LazyLock::new(|| Known::ALL.iter().map(|known| Nature::of_name(known.as_bytes())).collect());

impl Nature {
    fn of(field: Field<'_>) -> Self {
        let known = field.known().and_then(|known| NATURES.get(known as usize));
        known.copied().unwrap_or_else(|| Self::of_name(field.name()))
    }

    fn of_name(name: &[u8]) -> Self {
        Self { is_forwarded: is_forwarded(name), is_credential: looks_like_credential(name) }
    }
}

fn loses_a_cookie(line: &[u8], binding: &Binding) -> bool {
    ascii(line).is_none_or(|line| pairs(line).any(|pair| !is_passed(pair, binding)))
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

fn allowed_cookies(agent: &Fields, binding: &Binding) -> Option<HeaderValue> {
    if binding.pass_cookies.is_empty() {
        return None;
    }
    let lines = agent.all(Known::Cookie).filter_map(ascii);
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

/// Response fields that never reach the agent as they are: they belong to one connection, or would steer the
/// agent to another place or to a login.
fn is_dropped(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"keep-alive"
            | b"proxy-connection"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
            | b"www-authenticate"
            | b"optional-www-authenticate"
            | b"authentication-control"
            | b"proxy-authenticate"
            | b"authentication-info"
            | b"proxy-authentication-info"
            | b"set-cookie2"
            | b"alt-svc"
            | b"refresh"
            | b"link"
            | b"content-location"
            | b"strict-transport-security"
            | b"postern-reason"
            | b"set-cookie"
            | b"location"
            | b"content-length"
    )
}

/// The fields of the agent's response, and how many of them were masked. The framing fields are the writer's to add.
pub fn to_agent(
    upstream: &Fields,
    binding: &Binding,
    (request_target, seen): (&str, Seen),
    mask: &Mask,
) -> (FieldLines, u64) {
    let mut passed = Passed { lines: FieldLines::with_capacity(upstream.size() + 64), mask, masked: 0 };
    for field in upstream.iter().filter(|field| !is_dropped(field.name())) {
        passed.push(field);
    }
    for cookie in upstream.all(Known::SetCookie).filter_map(ascii) {
        let pair = cookie.split(';').next().unwrap_or_default().trim();
        // Domain, Path and Secure speak of the upstream's origin; the agent's may be another.
        if is_passed(pair, binding)
            && let Ok(cookie) = HeaderValue::from_str(&format!("{pair}; Path={}", seen.path(&binding.server, "")))
        {
            passed.push(Field::new(&header::SET_COOKIE, &cookie));
        }
    }
    if let Some(location) = upstream.get(Known::Location) {
        // Before it is read: a host is put in lower case, where the value would not be known again.
        let clean = passed.clean(location);
        let location = ascii(clean.as_ref().map_or(location, HeaderValue::as_bytes));
        let rewritten = location.and_then(|location| rewritten_location(location, binding, request_target, seen));
        if let Some(Ok(location)) = rewritten.as_deref().map(HeaderValue::from_str) {
            passed.lines.push(Field::new(&header::LOCATION, &location));
        }
    }
    (passed.lines, passed.masked)
}

/// What reaches the agent, without an echo of the credential.
struct Passed<'a> {
    lines: FieldLines,
    mask: &'a Mask,
    masked: u64,
}

impl Passed<'_> {
    fn push(&mut self, field: Field<'_>) {
        if self.mask.is_in_name(field.name()) {
            // A name cannot be overwritten: it would be another field.
            self.masked += 1;
            return;
        }
        match self.clean(field.value()) {
            Some(clean) => self.lines.push(field.with(&clean)),
            None => self.lines.push(field),
        }
    }

    fn clean(&mut self, value: &[u8]) -> Option<HeaderValue> {
        let clean = self.mask.header(value);
        self.masked += u64::from(clean.is_some());
        clean
    }
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
            // A blank that stood before a fragment, or before a parameter that is gone, would end the value.
            Some(format!("{}{query}", seen.path(server, rest)).trim_ascii_end().to_owned())
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
