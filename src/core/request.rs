//! The head of an agent's request, read strictly.
//!
//! What RFC 9112 forbids is refused, and so is what it allows but two parsers have been seen to
//! read differently: no repair, no guess. Everything that passes here is later written anew, so
//! nothing of these bytes reaches an upstream by accident.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::mcp;
use super::upstream::{Place, Scheme, split_authority};

/// The most fields a head may have.
pub const MAX_FIELDS: usize = 100;

/// A request head.
#[derive(Debug)]
pub struct Head {
    /// The method; never CONNECT.
    pub method: Method,
    /// The target.
    pub target: Target,
    /// The fields; `Host` is there exactly once.
    pub headers: HeaderMap,
    /// How the body is framed.
    pub framing: Framing,
}

/// What is asked for.
#[derive(Debug)]
pub enum Asked {
    /// A request.
    Request(Head),
    /// A tunnel (RFC 9110 section 9.3.6).
    Tunnel(Place),
}

/// A request target in origin-form or absolute-form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Scheme and `host:port` of the absolute-form.
    pub authority: Option<(Scheme, String)>,
    /// The path as sent.
    pub path: String,
    /// What follows `?`.
    pub query: Option<String>,
}

/// How long the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes (0 where no framing field is there).
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// TLS, HTTP/2, bare JSON.
    #[error("the bytes are not HTTP/1.1")]
    NotHttp,
    /// The text says what.
    #[error("{0}")]
    Malformed(&'static str),
    /// Too many bytes or fields.
    #[error("the head is too large")]
    TooLarge,
    /// CONNECT, or an upgrade to anything but h2c (which may be, and is, ignored).
    #[error("a tunnel or upgrade was asked for")]
    Tunnel,
    /// Host names another place than CONNECT.
    #[error("Host and the target of CONNECT disagree")]
    Disagrees,
}

use HeadFault::Malformed;

/// Finds the end of the head in `buffer`: the offset behind the empty line, `None` if it has not
/// come yet. `from` is where the last look ended (0 at first).
pub fn find_end(buffer: &[u8], from: usize, max: usize) -> Result<Option<usize>, HeadFault> {
    if buffer.first().is_some_and(|b| !is_token(*b)) || buffer.starts_with(b"PRI * HTTP/2") {
        return Err(HeadFault::NotHttp);
    }
    let start = from.saturating_sub(3);
    let mut named = buffer.get(..start).is_some_and(|seen| seen.contains(&b'\n'));
    for at in memchr::memchr_iter(b'\n', buffer.get(start..).unwrap_or_default()).map(|at| at + start) {
        if at == 0 || buffer.get(at - 1) != Some(&b'\r') {
            return Err(Malformed("a line ends without CR"));
        }
        // Other protocols begin with a line too, and may then wait for an answer.
        if !named && !buffer.get(..at).is_some_and(names_http) {
            return Err(HeadFault::NotHttp);
        }
        named = true;
        if at >= 3 && buffer.get(at - 3) == Some(&b'\r') && buffer.get(at - 2) == Some(&b'\n') {
            return if at + 1 > max { Err(HeadFault::TooLarge) } else { Ok(Some(at + 1)) };
        }
    }
    if buffer.len() >= max { Err(HeadFault::TooLarge) } else { Ok(None) }
}

fn names_http(line: &[u8]) -> bool {
    memchr::memchr_iter(b' ', line).any(|at| line.get(at..).is_some_and(|rest| rest.starts_with(b" HTTP/")))
}

/// Reads a whole head, the empty line included. A tunnel is a fault.
pub fn parse(head: &[u8]) -> Result<Head, HeadFault> {
    match read(head, false)? {
        Asked::Request(head) => Ok(head),
        Asked::Tunnel(_) => Err(HeadFault::Tunnel),
    }
}

/// Reads a whole head that is sent to a proxy: CONNECT is one of the requests there.
pub fn parse_for_proxy(head: &[u8]) -> Result<Asked, HeadFault> {
    read(head, true)
}

fn read(head: &[u8], tunnels: bool) -> Result<Asked, HeadFault> {
    let text = head.strip_suffix(b"\r\n\r\n").ok_or(Malformed("the head has no end"))?;
    if memchr::memchr(0, text).is_some() {
        return Err(Malformed("a NUL byte in the head"));
    }
    // The one copy: all values are parts of it.
    let text = Bytes::copy_from_slice(text);
    let mut lines = Lines(Some(&text));
    let (method, target) = request_line(lines.next().unwrap_or_default())?;
    let headers = fields(lines, &text)?;
    if headers.get_all(HOST).iter().count() != 1 {
        return Err(Malformed("Host must be there exactly once"));
    }
    if method == Method::CONNECT {
        return if tunnels { tunnel(target, &headers).map(Asked::Tunnel) } else { Err(HeadFault::Tunnel) };
    }
    let foreign = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"h2c");
    if headers.get_all(UPGRADE).iter().any(foreign) {
        return Err(HeadFault::Tunnel);
    }
    let framing = framing(&headers)?;
    Ok(Asked::Request(Head { method, target: parse_target(target)?, headers, framing }))
}

/// RFC 9110 section 9.3.6: the target is host and port, and nothing comes with it. A Host that says
/// something else would be believed by one of two readers.
fn tunnel(target: &[u8], headers: &HeaderMap) -> Result<Place, HeadFault> {
    if headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Malformed("CONNECT with a body"));
    }
    let place = |bytes: &[u8]| {
        let (host, port) = split_authority(std::str::from_utf8(bytes).ok()?)?;
        Some((host, port))
    };
    let Some((host, Some(port))) = place(target) else { return Err(Malformed("CONNECT asks for no host:port")) };
    let named = headers.get(HOST).and_then(|value| place(value.as_bytes()));
    // Go and curl send the port, some clients leave it out.
    if !named.is_some_and(|(name, at)| name == host && at.is_none_or(|at| at == port)) {
        return Err(HeadFault::Disagrees);
    }
    Ok(Place { host, port })
}

/// The lines of a head, split at CRLF. A CR or LF left inside a line is caught by its reader.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let ends = |at: &usize| rest.get(..*at).is_some_and(|line| line.ends_with(b"\r"));
        let Some(end) = memchr::memchr_iter(b'\n', rest).find(ends) else { return self.0.take() };
        self.0 = rest.get(end + 1..);
        rest.get(..end - 1)
    }
}

fn request_line(line: &[u8]) -> Result<(Method, &[u8]), HeadFault> {
    let mut parts = line.split(|b| *b == b' ');
    let (method, target, version) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(method), Some(target), Some(version), None) => (method, target, version),
        (Some(_), None, ..) => return Err(HeadFault::NotHttp),
        _ => return Err(Malformed("the request line is not METHOD SP target SP HTTP/1.1")),
    };
    if version != b"HTTP/1.1" {
        let http = version.starts_with(b"HTTP/");
        return Err(if http { Malformed("the version is not HTTP/1.1") } else { HeadFault::NotHttp });
    }
    let method = Method::from_bytes(method).map_err(|_| Malformed("the method is not a token"))?;
    Ok((method, target))
}

/// Reads the fields. The values are parts of `text`, in which the lines are.
fn fields(lines: Lines<'_>, text: &Bytes) -> Result<HeaderMap, HeadFault> {
    let mut headers = HeaderMap::with_capacity(24);
    for line in lines {
        if headers.len() == MAX_FIELDS {
            return Err(HeadFault::TooLarge);
        }
        if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
            return Err(Malformed("a folded header line"));
        }
        let colon = memchr::memchr(b':', line).ok_or(Malformed("a header line without colon"))?;
        let (name, value) = line.split_at(colon);
        let name = field_name(name).ok_or(Malformed("a header name is not a token"))?;
        let value = text.slice_ref(without_blanks(value.get(1..).unwrap_or_default()));
        // Takes no control character but the tab.
        let value = HeaderValue::from_maybe_shared(value);
        headers.append(name, value.map_err(|_| Malformed("a control character in a header value"))?);
    }
    Ok(headers)
}

/// Those of MCP are known: they take no memory of their own.
fn field_name(name: &[u8]) -> Option<HeaderName> {
    let known = mcp::HEADERS.iter().find(|known| known.as_str().as_bytes().eq_ignore_ascii_case(name));
    known.cloned().or_else(|| HeaderName::from_bytes(name).ok())
}

/// Without the blanks and tabs around it, and nothing else: a CR or form feed there is no white space
/// to everybody (RFC 9110 section 5.5).
fn without_blanks(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

/// RFC 9112 section 6: one framing field, one way to read it.
fn framing(headers: &HeaderMap) -> Result<Framing, HeadFault> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (lengths.next(), lengths.next(), codings.next(), codings.next()) {
        (None, None, None, None) => Ok(Framing::Length(0)),
        (Some(length), None, None, None) => {
            let digits = length.as_bytes();
            let plain = !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
            let length = plain.then(|| length.to_str().ok()?.parse().ok()).flatten();
            length.map(Framing::Length).ok_or(Malformed("Content-Length is not a plain number"))
        }
        (None, None, Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, None, Some(_), _) => Err(Malformed("Transfer-Encoding is not exactly chunked")),
        (Some(_), _, Some(_), _) => Err(Malformed("Content-Length together with Transfer-Encoding")),
        _ => Err(Malformed("Content-Length more than once")),
    }
}

fn parse_target(target: &[u8]) -> Result<Target, HeadFault> {
    let visible = target.iter().all(u8::is_ascii_graphic);
    let text =
        std::str::from_utf8(target).ok().filter(|_| visible).ok_or(Malformed("the target is not visible ASCII"))?;
    if text.contains('#') {
        return Err(Malformed("a fragment in the target"));
    }
    let (authority, rest) = match text.split_once("://") {
        Some((scheme, rest)) if let Some(scheme) = Scheme::parse(scheme) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            (Some((scheme, authority.to_owned())), rest)
        }
        _ if text.starts_with('/') || text == "*" => (None, text),
        _ => return Err(Malformed("the target is neither a path nor an http URL")),
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (rest, None),
    };
    let path = if path.is_empty() { "/" } else { path };
    Ok(Target { authority, path: path.to_owned(), query })
}

/// RFC 9110 `tchar`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
