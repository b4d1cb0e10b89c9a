//! Where a binding's server is: an absolute URL with nothing hidden in it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::uri::PathAndQuery;

use super::fields::decimal;
use super::path;

/// How the upstream is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// TLS, verified.
    Https,
    /// Plaintext, only with the binding's consent.
    Http,
}

impl Scheme {
    /// Reads a scheme of HTTP, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Https, Self::Http].into_iter().find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }

    /// The scheme as it stands in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    /// The port where a URL has none.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

/// A host: a DNS name in lower case, or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// To be resolved.
    Name(Arc<str>),
    /// Written as an address; checked like a resolved one.
    Address(IpAddr),
}

impl Host {
    /// Reads the host of a URL or `Host` field, without its port.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            return inner.strip_suffix(']')?.parse().ok().map(|v6| Self::Address(IpAddr::V6(v6)));
        }
        if let Some(v4) = v4(text) {
            return Some(Self::Address(IpAddr::V4(v4)));
        }
        let lower = || match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => text.to_ascii_lowercase().into(),
            false => text.into(),
        };
        is_host_name(text).then(|| Self::Name(lower()))
    }
}

/// An address as the standard library reads one: four decimal numbers without leading zeros. By our
/// own hand, since every call has a `Host` field and that reader takes longer.
fn v4(text: &str) -> Option<Ipv4Addr> {
    let mut numbers = text.as_bytes().split(|byte| *byte == b'.');
    let mut octets = [0; 4];
    for octet in &mut octets {
        *octet = match numbers.next()? {
            [b'0'] => 0,
            [b'0', ..] => return None,
            digits => decimal(digits)?.try_into().ok()?,
        };
    }
    numbers.next().is_none().then(|| octets.into())
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

/// Letters, digits, `-` and `_` in labels joined by dots. A last label that is a number is
/// refused: some resolvers read `127.1` or `0x7f.1` as an address.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &[u8]| {
        let allowed = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'A'..=b'Z');
        let hyphen = label.first() == Some(&b'-') || label.last() == Some(&b'-');
        !label.is_empty() && label.len() <= 63 && label.iter().all(allowed) && !hyphen
    };
    let mut last: &[u8] = b"";
    let labels = text.as_bytes().split(|b| *b == b'.').all(|label| {
        last = label;
        is_label(label)
    });
    let numeric = last.iter().all(u8::is_ascii_digit) || matches!(last, [b'0', b'x' | b'X', ..]);
    text.len() <= 253 && labels && !numeric
}

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Name or address.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Splits `host[:port]`; the port is decimal, 1 to 65535.
pub fn split_authority(text: &str) -> Option<(Host, Option<u16>)> {
    let from = match text.strip_prefix('[') {
        Some(_) => text.rfind(']').unwrap_or_default(),
        None => 0,
    };
    let colon = text.bytes().skip(from).position(|byte| byte == b':');
    let Some(colon) = colon.map(|at| at + from) else { return Host::parse(text).map(|host| (host, None)) };
    let (host, port) = (text.get(..colon)?, text.get(colon + 1..)?);
    let port = decimal(port.as_bytes()).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
    Host::parse(host).map(|host| (host, Some(port)))
}

/// The URL of an upstream MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// TLS or plaintext.
    pub scheme: Scheme,
    /// Name or address.
    pub host: Host,
    /// The port, the scheme's own if the URL has none.
    pub port: u16,
    /// Without a query.
    target: PathAndQuery,
}

/// Why a text is not an upstream URL. `Display` gives the expected form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// `stdio:` or a command line.
    #[error("an https URL: stdio servers cannot be served (run the server behind Streamable HTTP)")]
    Stdio,
    /// `file:`, `unix:`, `ws:` and the like, or none.
    #[error("an https URL (http only with allowPlaintext: true); file:, unix:, ws: and other schemes cannot be served")]
    Scheme,
    /// `user:password@`.
    #[error("a URL without user or password; the credential belongs in a Secret")]
    UserInfo,
    /// `?query` or `#fragment`.
    #[error("a URL without query and fragment")]
    QueryOrFragment,
    /// No host, or one that is neither a DNS name nor an address, or a bad port.
    #[error("a URL with a DNS name or an IP address, and a port of 1 to 65535 if any")]
    Authority,
    /// A path that could be read as another one.
    #[error("a URL whose path has no dot segments, empty segments or encoded slashes")]
    Path,
}

impl UpstreamUrl {
    /// Reads an absolute `https://` or `http://` URL.
    pub fn parse(text: &str) -> Result<Self, UrlFault> {
        let (scheme, rest) = text.split_once("://").map_or((text, None), |(s, r)| (s, Some(r)));
        let scheme = match (scheme.to_ascii_lowercase().as_str(), rest) {
            (other, Some(_)) if let Some(scheme) = Scheme::parse(other) => scheme,
            (other, _) if other == "stdio" || other.starts_with("stdio:") => return Err(UrlFault::Stdio),
            _ => return Err(UrlFault::Scheme),
        };
        let rest = rest.unwrap_or_default();
        if rest.contains(['?', '#']) {
            return Err(UrlFault::QueryOrFragment);
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        if authority.contains('@') {
            return Err(UrlFault::UserInfo);
        }
        let (host, port) = split_authority(authority).ok_or(UrlFault::Authority)?;
        path::check(path).map_err(|_| UrlFault::Path)?;
        let target = PathAndQuery::try_from(path).map_err(|_| UrlFault::Path)?;
        Ok(Self { scheme, host, port: port.unwrap_or(scheme.default_port()), target })
    }

    /// Where to connect to.
    pub fn place(&self) -> Place {
        Place { host: self.host.clone(), port: self.port }
    }

    /// The path, beginning with `/`.
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// The path as a request asks for it.
    pub fn target(&self) -> &PathAndQuery {
        &self.target
    }

    /// What goes into the `Host` field: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Scheme, host and port are the same: what a browser calls the same origin.
    pub fn same_origin(&self, other: &Self) -> bool {
        (self.scheme, &self.host, self.port) == (other.scheme, &other.host, other.port)
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority(), self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_parse_to_one_meaning() {
        let rows = [
            ("https://api.example.com/mcp/", "https://api.example.com/mcp/"),
            ("HTTPS://API.Example.com", "https://api.example.com/"),
            ("https://api.example.com:443/x", "https://api.example.com/x"),
            ("http://10.0.0.1:8080/mcp", "http://10.0.0.1:8080/mcp"),
            ("https://[2001:db8::1]:8443/mcp", "https://[2001:db8::1]:8443/mcp"),
        ];
        for (text, expected) in rows {
            assert_eq!(UpstreamUrl::parse(text).map(|u| u.to_string()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_urls_are_refused_with_their_fault() {
        let rows = [
            ("stdio:npx server", UrlFault::Stdio),
            ("stdio", UrlFault::Stdio),
            ("stdio://x", UrlFault::Stdio),
            ("npx -y server", UrlFault::Scheme),
            ("file:///etc/passwd", UrlFault::Scheme),
            ("unix:/run/x.sock", UrlFault::Scheme),
            ("ws://h/mcp", UrlFault::Scheme),
            ("https:/h", UrlFault::Scheme),
            ("https://u:p@h/", UrlFault::UserInfo),
            ("https://h/?token=x", UrlFault::QueryOrFragment),
            ("https://h/#x", UrlFault::QueryOrFragment),
            ("https:///x", UrlFault::Authority),
            ("https://h:0/", UrlFault::Authority),
            ("https://h:99999/", UrlFault::Authority),
            ("https://127.1/", UrlFault::Authority),
            ("https://0x7f.0x1/", UrlFault::Authority),
            ("https://h\\@evil/", UrlFault::UserInfo),
            ("https://h h/", UrlFault::Authority),
            ("https://h/a/../b", UrlFault::Path),
            ("https://h/a%2fb", UrlFault::Path),
        ];
        for (text, expected) in rows {
            assert_eq!(UpstreamUrl::parse(text), Err(expected), "{text}");
        }
    }

    /// The same as [`split_authority`], word by word, and addresses by the standard library.
    fn split_slowly(text: &str) -> Option<(Host, Option<u16>)> {
        let bracket = text.rfind(']').filter(|_| text.starts_with('[')).unwrap_or(0);
        let (inner, rest) = text.split_at(bracket);
        let (host, port) = match rest.split_once(':') {
            Some((rest, port)) => (format!("{inner}{rest}"), Some(port)),
            None => (text.to_owned(), None),
        };
        let port = match port {
            Some(port) if port.is_empty() || !port.chars().all(|c| c.is_ascii_digit()) => return None,
            Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
            None => None,
        };
        let host = if let Some(inner) = host.strip_prefix('[') {
            Host::Address(IpAddr::V6(inner.strip_suffix(']')?.parse().ok()?))
        } else if let Ok(v4) = host.parse() {
            Host::Address(IpAddr::V4(v4))
        } else {
            let labels: Vec<&str> = host.split('.').collect();
            let is_label = |label: &&str| {
                let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                (1..=63).contains(&label.len()) && label.chars().all(allowed) && label.trim_matches('-') == *label
            };
            let last = labels.last()?.to_lowercase();
            if host.len() > 253
                || !labels.iter().all(is_label)
                || last.starts_with("0x")
                || last.chars().all(|c| c.is_ascii_digit())
            {
                return None;
            }
            Host::Name(host.to_lowercase().into())
        };
        Some((host, port))
    }

    const PIECES: [&str; 36] = [
        "0",
        "00",
        "1",
        "9",
        "10",
        "127",
        "255",
        "256",
        "260",
        "0255",
        "65535",
        "65536",
        "99999",
        ".",
        ".",
        ".",
        ":",
        "[",
        "]",
        "::1",
        "2001:db8::1",
        "0x",
        "0X7f",
        "a",
        "Z",
        "api",
        "-",
        "_",
        "+",
        " ",
        "/",
        "@",
        "\u{e9}",
        "127.0.0.1",
        "10.0.0.1:80",
        "[::1]",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8192))]

        #[test]
        fn authorities_are_split_as_the_standard_library_would(pieces in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..8)) {
            let text = pieces.concat();
            prop_assert_eq!(split_authority(&text), split_slowly(&text), "{:?}", text);
        }

        #[test]
        fn dotted_numbers_are_addresses_where_the_standard_library_says_so(text in "[0-2]?[0-9]{0,2}([.][0-2]?[0-9]{0,2}){2,4}(:[0-9]{1,6})?") {
            prop_assert_eq!(split_authority(&text), split_slowly(&text), "{:?}", text);
        }

        #[test]
        fn names_are_as_long_as_they_may_be(labels in proptest::collection::vec(prop_oneof![1usize..5, 60usize..66], 1..6)) {
            let text = labels.iter().map(|length| "a".repeat(*length)).collect::<Vec<_>>().join(".");
            prop_assert_eq!(split_authority(&text), split_slowly(&text), "{:?}", text);
        }
    }
}
