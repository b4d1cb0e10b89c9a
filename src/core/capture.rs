//! The ways by which a call comes in, and what each of them tells about the place that is meant.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;

use super::decide::Refusal;
use super::fields::{Known, ascii};
use super::reason::Reason;
use super::request::Head;
use super::routes::Routes;
use super::upstream::{Host, Place, Scheme, UpstreamUrl, split_authority};

/// What a pod's agent reaches Postern by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Capture {
    /// By the URLs in `mcp.json`.
    #[default]
    Endpoint,
    /// By `HTTP_PROXY` and `HTTPS_PROXY` as well.
    Proxy,
    /// By whatever it connects to as well.
    Redirect,
}

impl Capture {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Endpoint, Self::Proxy, Self::Redirect];

    /// The word for it in configuration, annotations and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Proxy => "proxy",
            Self::Redirect => "redirect",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capture| capture.as_str() == text)
    }

    /// Whether agents call the servers' own URLs, and so meet the pod's CA.
    pub const fn intercepts(self) -> bool {
        matches!(self, Self::Proxy | Self::Redirect)
    }
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How one request came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// To the endpoint: the path's first segment names the server.
    Endpoint,
    /// To the proxy: the request line has the whole URL.
    Proxy,
    /// On a connection that the agent believes leads to the server itself.
    Direct(Direct),
}

/// What such a connection has told before its first request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    /// What the agent speaks on it.
    pub scheme: Scheme,
    /// From SNI or CONNECT; a request must not name another.
    pub host: Option<Host>,
    /// From CONNECT.
    pub port: Option<u16>,
    /// Where a redirected connection was going: for the log alone, since the agent chose it.
    pub original: Option<SocketAddr>,
}

impl Way {
    /// Which capture it belongs to, for the log.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Proxy | Self::Direct(Direct { port: Some(_), .. }) => "proxy",
            Self::Direct(_) => "redirect",
        }
    }

    /// Whether the agent speaks TLS to us.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Direct(Direct { scheme: Scheme::Https, .. }))
    }
}

/// A scheme and a place that a request means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// What the agent speaks.
    pub scheme: Scheme,
    /// Where it believes to be.
    pub place: Place,
}

impl Origin {
    /// Whether a call to here is one for the server at `url`. An agent may speak plain HTTP: between
    /// it and us is nothing but the pod's own loopback, and the server gets TLS all the same.
    pub fn means(&self, url: &UpstreamUrl) -> bool {
        let raised = self.scheme == Scheme::Http && url.scheme == Scheme::Https;
        let standard = self.place.port == Scheme::Http.default_port() && url.port == Scheme::Https.default_port();
        self.place.host == url.host
            && ((self.scheme == url.scheme && self.place.port == url.port)
                || (raised && (self.place.port == url.port || standard)))
    }
}

/// The origin that a request means: everything in it that names one has to agree.
pub fn origin(head: &Head, way: &Way) -> Result<Origin, Refusal> {
    let mismatch = |detail| Refusal::because(Reason::AuthorityMismatch, detail);
    let host = head.headers.text(Known::Host).and_then(split_authority);
    let (host, port) = host.ok_or_else(|| mismatch("Host is no host[:port]"))?;
    let spoken = match way {
        Way::Direct(direct) => direct.scheme,
        Way::Endpoint | Way::Proxy => Scheme::Http,
    };
    let scheme = match (&head.target.authority, way) {
        (Some((scheme, authority)), _) => {
            let named = split_authority(authority).ok_or_else(|| mismatch("the URL names no host[:port]"))?;
            let port_of = |port: Option<u16>| port.unwrap_or(scheme.default_port());
            if named.0 != host || port_of(named.1) != port_of(port) {
                return Err(mismatch("the URL and Host disagree"));
            }
            if *way != Way::Proxy && *scheme != spoken {
                return Err(mismatch("the URL's scheme is not the connection's"));
            }
            *scheme
        }
        (None, Way::Proxy) => return Err(mismatch("a proxy is asked with the whole URL")),
        (None, _) => spoken,
    };
    let port = port.unwrap_or(scheme.default_port());
    if let Way::Direct(Direct { host: known, port: at, .. }) = way {
        if known.as_ref().is_some_and(|known| *known != host) {
            return Err(mismatch("Host names another server than the connection"));
        }
        if at.is_some_and(|at| at != port) {
            return Err(mismatch("Host names another port than CONNECT"));
        }
    }
    Ok(Origin { scheme, place: Place { host, port } })
}

/// A web page of another origin must not use the credential through a browser in the pod.
pub fn own_origin(head: &Head, own: &Host) -> Result<(), Refusal> {
    let foreign = |origin: &[u8]| {
        let authority = ascii(origin).and_then(|o| o.strip_prefix("http://").or(o.strip_prefix("https://")));
        !authority.and_then(split_authority).is_some_and(|(host, _)| host == *own || is_loopback(&host))
    };
    if head.headers.all(Known::Origin).any(foreign) {
        return Err(Refusal::new(Reason::OriginForbidden));
    }
    Ok(())
}

/// Whether a host is this machine by its very name.
pub fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Name(name) => &**name == "localhost",
        Host::Address(address) => address.is_loopback(),
    }
}

/// Hosts that may be reached without a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// This one.
    Exact(Host),
    /// Every name below this one, itself not.
    Below(String),
}

impl HostPattern {
    /// What [`HostPattern::parse`] takes.
    pub const EXPECTED: &'static str = "a host name, an address, or *. before a name (no scheme, port or path)";

    /// Reads `host` or `*.suffix`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("*.") {
            None => Host::parse(text).map(Self::Exact),
            Some(suffix) => match Host::parse(suffix)? {
                Host::Name(name) => Some(Self::Below(format!(".{name}"))),
                Host::Address(_) => None,
            },
        }
    }

    /// Whether the host is one of them.
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Exact(exact), host) => exact == host,
            (Self::Below(suffix), Host::Name(name)) => name.len() > suffix.len() && name.ends_with(suffix),
            (Self::Below(_), Host::Address(_)) => false,
        }
    }

    /// Whether every host that `other` matches is matched by this one, too.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(host)) => self.matches(host),
            (Self::Below(suffix), Self::Below(longer)) => longer.ends_with(suffix.as_str()),
            (Self::Exact(_), Self::Below(_)) => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => write!(f, "{host}"),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// What a sidecar that stands in for servers was made for. It does not change afterwards: its
/// certificates are good for these hosts and no others.
#[derive(Debug)]
pub struct Interception {
    bound: HashSet<Host>,
    passthrough: Vec<HostPattern>,
}

/// What becomes of a connection to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// We are the server, and each request is decided for itself.
    Terminate,
    /// It is led to the host, without a credential, because this pattern lets it.
    Pass(HostPattern),
}

impl Interception {
    /// For the hosts of these routes.
    pub fn new(routes: &Routes, passthrough: Vec<HostPattern>) -> Self {
        Self { bound: routes.iter().map(|route| route.binding.server.url.host.clone()).collect(), passthrough }
    }

    /// The hosts that were bound when this was made.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.bound.iter()
    }

    /// Whether the host was bound when this was made.
    pub fn was_bound(&self, host: &Host) -> bool {
        self.bound.contains(host)
    }

    /// Decides about a TLS connection. A host that is bound, or was, is never led through.
    pub fn verdict(&self, routes: &Routes, host: &Host) -> Result<Verdict, Refusal> {
        if self.was_bound(host) {
            return Ok(Verdict::Terminate);
        }
        match routes.iter().find(|route| route.binding.server.url.host == *host) {
            Some(route) => Err(Refusal::new(Reason::RestartRequired).at(&route.binding.server.name)),
            None => self.unbound(host),
        }
    }

    /// Decides about a request in clear text, for which no certificate is needed.
    pub fn verdict_in_clear(&self, routes: &Routes, host: &Host) -> Result<Verdict, Refusal> {
        match self.verdict(routes, host) {
            Err(refusal) if refusal.reason == Reason::RestartRequired => Ok(Verdict::Terminate),
            other => other,
        }
    }

    fn unbound(&self, host: &Host) -> Result<Verdict, Refusal> {
        match self.passthrough.iter().find(|pattern| pattern.matches(host)) {
            Some(pattern) => Ok(Verdict::Pass(pattern.clone())),
            None => Err(Refusal::because(Reason::UnboundHost, host)),
        }
    }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
