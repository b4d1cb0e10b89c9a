//! From a host to its addresses, by our own resolution.
//!
//! `/etc/hosts` is never read: in a pod the agent can write it. Names are taken as they stand,
//! without search domains, so that nobody's search list decides where a credential goes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use crate::core::upstream::Host;

/// Resolves.
pub struct Resolver(TokioResolver);

/// Why a name has no address, in words.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be resolved: {why}")]
pub struct Unresolved {
    name: String,
    why: String,
}

impl Resolver {
    /// Asks these DNS servers; none takes the system's, read now.
    pub fn new(servers: &[SocketAddr]) -> io::Result<Self> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(io::Error::other)?
        } else {
            let servers = servers.iter().map(|server| {
                let at = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                NameServerConfig::new(server.ip(), true, vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())])
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = Duration::from_secs(2);
        builder.build().map(Self).map_err(io::Error::other)
    }

    /// Every address of the host.
    pub async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, Unresolved> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            // RFC 6761: localhost is loopback, whatever a resolver says.
            Host::Name(name) if &**name == "localhost" || name.ends_with(".localhost") => {
                return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
            }
            Host::Name(name) => name,
        };
        let found = self.0.lookup_ip(format!("{name}.")).await;
        let found = found.map_err(|error| Unresolved { name: name.to_string(), why: error.to_string() })?;
        Ok(found.iter().collect())
    }
}
