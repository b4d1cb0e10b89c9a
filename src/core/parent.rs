//! The parent proxy: where a network lets nothing out but through a proxy of its own.

use std::net::IpAddr;

use super::upstream::{Host, Scheme, UpstreamUrl};

/// A proxy that TLS connections to upstreams are tunnelled through, and who is exempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentProxy {
    /// The proxy itself.
    pub host: Host,
    /// Its port.
    pub port: u16,
    exempt: Vec<Exempt>,
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exempt {
    All,
    /// The name and everything below it.
    Name(String),
    Network(IpAddr, u8),
}

impl ParentProxy {
    /// The expected form, for error texts.
    pub const EXPECTED: &'static str =
        "the URL of an http proxy, such as http://proxy.example:3128, without user and password";

    /// Reads the values of `HTTPS_PROXY` and `NO_PROXY`. Entries of the latter that mean nothing
    /// are ignored, as every client does.
    pub fn parse(url: &str, no_proxy: &str) -> Option<Self> {
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let url =
            UpstreamUrl::parse(&with_scheme).ok().filter(|url| url.scheme == Scheme::Http && url.path() == "/")?;
        let exempt = no_proxy.split([',', ' ']).filter_map(|entry| Exempt::parse(entry.trim())).collect();
        Some(Self { host: url.host, port: url.port, exempt })
    }

    /// Whether connections to `host` go through the proxy.
    pub fn serves(&self, host: &Host) -> bool {
        // What is on this machine is not behind any proxy: it would connect to itself.
        let local = match host {
            Host::Name(name) => &**name == "localhost" || name.ends_with(".localhost"),
            Host::Address(address) => address.is_loopback(),
        };
        !local && !self.exempt.iter().any(|exempt| exempt.covers(host))
    }
}

impl Exempt {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some((network, bits)) = entry.split_once('/') {
            let network: IpAddr = network.parse().ok()?;
            let most = if network.is_ipv4() { 32 } else { 128 };
            return bits.parse().ok().filter(|bits| *bits <= most).map(|bits| Self::Network(network, bits));
        }
        if let Ok(address) = entry.parse::<IpAddr>() {
            return Some(Self::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let name = entry.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
        (!name.is_empty()).then_some(Self::Name(name))
    }

    fn covers(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::All, _) => true,
            (Self::Name(suffix), Host::Name(name)) => {
                name.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            (Self::Network(network, bits), Host::Address(address)) => same_network(*network, *address, *bits),
            _ => false,
        }
    }
}

fn same_network(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let (a, b, width) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a)), u128::from(u32::from(b)), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
        _ => return false,
    };
    let shift = u32::from(width - bits);
    a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_plain_http_urls() {
        let place = |url| ParentProxy::parse(url, "").map(|proxy| format!("{}:{}", proxy.host, proxy.port));
        assert_eq!(place("http://proxy.example:3128").as_deref(), Some("proxy.example:3128"));
        assert_eq!(place("http://proxy.example/").as_deref(), Some("proxy.example:80"));
        assert_eq!(place("10.0.0.1:8080").as_deref(), Some("10.0.0.1:8080"));
        for bad in ["", "https://p:1", "socks5://p:1", "http://u:p@p:1", "http://p:1/x", "http://p:0"] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_proxy_exempts_names_and_networks() {
        let proxy =
            ParentProxy::parse("http://p:1", ".svc, *.corp.example,10.0.0.0/8,192.168.1.1,fd00::/8, ,bad/x").unwrap();
        let rows = [
            ("api.example.com", true),
            ("localhost", false),
            ("notlocalhost", true),
            ("a.localhost", false),
            ("127.0.0.2", false),
            ("[::1]", false),
            ("mcp.tools.svc", false),
            ("svc", false),
            ("corp.example", false),
            ("a.corp.example", false),
            ("xcorp.example", true),
            ("10.9.8.7", false),
            ("11.0.0.1", true),
            ("192.168.1.1", false),
            ("192.168.1.2", true),
            ("[fd12::1]", false),
            ("[2001:db8::1]", true),
        ];
        for (host, expected) in rows {
            assert_eq!(proxy.serves(&Host::parse(host).unwrap()), expected, "{host}");
        }
        assert!(!ParentProxy::parse("http://p:1", "*").unwrap().serves(&Host::parse("x").unwrap()));
    }
}
