//! The head of an agent's request, read strictly.
//!
//! What RFC 9112 forbids is refused, and so is what it allows but two parsers have been seen to
//! read differently: no repair, no guess. Everything that passes here is later written anew, so
//! nothing of these bytes reaches an upstream by accident.

use std::ops::Range;
use std::sync::LazyLock;

use http::Method;
use memchr::memmem::Finder;

use super::fields::{FieldFault, Fields, Known, decimal, is_token};
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
    pub headers: Fields,
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

static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Finds the end of the head in `buffer`: the offset behind the empty line, `None` if it has not
/// come yet. `from` is where the last look ended (0 at first).
pub fn find_end(buffer: &[u8], from: usize, max: usize) -> Result<Option<usize>, HeadFault> {
    if buffer.first().is_some_and(|b| !is_token(*b)) || buffer.starts_with(b"PRI * HTTP/2") {
        return Err(HeadFault::NotHttp);
    }
    let start = from.saturating_sub(3);
    let end = END.find(buffer.get(start..).unwrap_or_default()).map(|at| start + at + 4);
    check_lines(buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default(), start)?;
    match end {
        Some(end) if end <= max => Ok(Some(end)),
        None if buffer.len() < max => Ok(None),
        _ => Err(HeadFault::TooLarge),
    }
}

/// Looks at the lines that end behind `from`.
fn check_lines(head: &[u8], from: usize) -> Result<(), HeadFault> {
    let bare = Err(Malformed("a line ends without CR"));
    let first = memchr::memchr(b'\n', head).filter(|end| *end >= from);
    if let Some(line) = first.and_then(|end| head.get(..end)) {
        if !line.ends_with(b"\r") {
            return bare;
        }
        // Other protocols begin with a line too, and may then wait for an answer.
        if !names_http(line) {
            return Err(HeadFault::NotHttp);
        }
    }
    let lines = head.get(from.saturating_sub(1)..).unwrap_or_default();
    let pairs = lines.iter().zip(lines.get(1..).unwrap_or_default());
    // All are looked at, many at once: a search would stop at each line.
    let is_bare = pairs.fold(false, |any, (before, byte)| any | ((*byte == b'\n') & (*before != b'\r')));
    if is_bare { bare } else { Ok(()) }
}

fn names_http(line: &[u8]) -> bool {
    line.ends_with(b" HTTP/1.1\r")
        || memchr::memchr_iter(b' ', line).any(|at| line.get(at..).is_some_and(|rest| rest.starts_with(b" HTTP/")))
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
    let mut lines = Lines { text, at: Some(0) };
    let (method, target) = request_line(lines.next().and_then(|line| text.get(line)).unwrap_or_default())?;
    let headers = fields(lines)?;
    if headers.all(Known::Host).count() != 1 {
        return Err(Malformed("Host must be there exactly once"));
    }
    if method == Method::CONNECT {
        return if tunnels { tunnel(target, &headers).map(Asked::Tunnel) } else { Err(HeadFault::Tunnel) };
    }
    if headers.all(Known::Upgrade).any(|value| !value.eq_ignore_ascii_case(b"h2c")) {
        return Err(HeadFault::Tunnel);
    }
    let framing = framing(&headers)?;
    Ok(Asked::Request(Head { method, target: parse_target(target)?, headers, framing }))
}

/// RFC 9110 section 9.3.6: the target is host and port, and nothing comes with it. A Host that says
/// something else would be believed by one of two readers.
fn tunnel(target: &[u8], headers: &Fields) -> Result<Place, HeadFault> {
    if headers.contains(Known::ContentLength) || headers.contains(Known::TransferEncoding) {
        return Err(Malformed("CONNECT with a body"));
    }
    let place = |bytes: &[u8]| {
        let (host, port) = split_authority(std::str::from_utf8(bytes).ok()?)?;
        Some((host, port))
    };
    let Some((host, Some(port))) = place(target) else { return Err(Malformed("CONNECT asks for no host:port")) };
    let named = headers.get(Known::Host).and_then(place);
    // Go and curl send the port, some clients leave it out.
    if !named.is_some_and(|(name, at)| name == host && at.is_none_or(|at| at == port)) {
        return Err(HeadFault::Disagrees);
    }
    Ok(Place { host, port })
}

/// The lines of a head, split at CRLF: where they stand. A CR or LF left inside a line is caught by its reader.
struct Lines<'a> {
    text: &'a [u8],
    at: Option<usize>,
}

impl Iterator for Lines<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let from = self.at?;
        let rest = self.text.get(from..)?;
        let ends = |at: &usize| rest.get(..*at).is_some_and(|line| line.ends_with(b"\r"));
        let end = memchr::memchr_iter(b'\n', rest).find(ends);
        self.at = end.map(|end| from + end + 1);
        Some(from..from + end.map_or(rest.len(), |end| end - 1))
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

fn fields(lines: Lines<'_>) -> Result<Fields, HeadFault> {
    let text = lines.text;
    match lines.at.and_then(|from| Fields::read_plain(text, from, MAX_FIELDS)) {
        Some(fields) => Ok(fields),
        None => any_fields(lines),
    }
}

fn any_fields(lines: Lines<'_>) -> Result<Fields, HeadFault> {
    let text = lines.text;
    // The one copy of them.
    let mut fields = Fields::within(text.to_vec());
    for place in lines {
        if fields.len() == MAX_FIELDS {
            return Err(HeadFault::TooLarge);
        }
        let line = text.get(place.clone()).unwrap_or_default();
        if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
            return Err(Malformed("a folded header line"));
        }
        let colon = line.iter().position(|b| *b == b':').ok_or(Malformed("a header line without colon"))?;
        let value = without_blanks(line, colon + 1);
        let at = |offset: usize| place.start + offset;
        fields.add(at(0)..at(colon), at(value.start)..at(value.end)).map_err(|fault| match fault {
            FieldFault::Name => Malformed("a header name is not a token"),
            FieldFault::Value => Malformed("a control character in a header value"),
        })?;
    }
    Ok(fields)
}

/// What stands behind `from`, without the blanks and tabs around it, and nothing else: a CR or form feed there is no
/// white space to everybody (RFC 9110 section 5.5).
fn without_blanks(line: &[u8], from: usize) -> Range<usize> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = line.get(from..).unwrap_or_default();
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    from + start..from + end
}

/// RFC 9112 section 6: one framing field, one way to read it.
fn framing(headers: &Fields) -> Result<Framing, HeadFault> {
    let mut lengths = headers.all(Known::ContentLength);
    let mut codings = headers.all(Known::TransferEncoding);
    match (lengths.next(), lengths.next(), codings.next(), codings.next()) {
        (None, None, None, None) => Ok(Framing::Length(0)),
        (Some(length), None, None, None) => decimal(length)
            .filter(|_| length.len() <= 18)
            .map(Framing::Length)
            .ok_or(Malformed("Content-Length is not a plain number")),
        (None, None, Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
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
        _ if text.starts_with('/') || text == "*" => (None, text),
        Some((scheme, rest)) if let Some(scheme) = Scheme::parse(scheme) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            (Some((scheme, authority.to_owned())), rest)
        }
        _ => return Err(Malformed("the target is neither a path nor an http URL")),
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (rest, None),
    };
    let path = if path.is_empty() { "/" } else { path };
    Ok(Target { authority, path: path.to_owned(), query })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
