//! From a URL to a socket: our own resolution, every address checked, that one dialled.
//!
//! How names are resolved: `runtime::resolve`.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::core::address::{self, AddressFault};
use crate::core::decide::Refusal;
use crate::core::parent::ParentProxy;
use crate::core::reason::Reason;
use crate::core::upstream::{Host, Place, UpstreamUrl};
use crate::runtime::resolve::Resolver;
use crate::tls::stream::{self, ClientStream};

/// How upstreams are reached.
#[derive(Debug, Clone)]
pub struct DialSettings {
    /// Whether loopback and this machine's own addresses may be dialled.
    pub allow_loopback: bool,
    /// A proxy that TLS connections go through.
    pub parent: Option<ParentProxy>,
    /// DNS servers; empty takes the system's.
    pub resolvers: Vec<SocketAddr>,
    /// For one connection, from resolution to the end of the TLS handshake.
    pub connect_timeout: Duration,
}

/// Dials.
pub struct Dialer {
    settings: DialSettings,
    resolver: Resolver,
}

impl Dialer {
    /// Reads the system's resolvers if none are given.
    pub fn new(settings: DialSettings) -> io::Result<Self> {
        Ok(Self { resolver: Resolver::new(&settings.resolvers)?, settings })
    }

    /// Connects in clear text.
    pub async fn plain(&self, url: &UpstreamUrl) -> Result<TcpStream, Refusal> {
        self.in_time(self.connect(&url.place())).await
    }

    /// Connects for somebody else, who speaks for himself.
    pub async fn passage(&self, place: &Place) -> Result<TcpStream, Refusal> {
        self.in_time(self.way_to(place)).await
    }

    /// Through the parent proxy, where that is the way.
    async fn way_to(&self, place: &Place) -> Result<TcpStream, Refusal> {
        match self.settings.parent.as_ref().filter(|parent| parent.serves(&place.host)) {
            Some(parent) => self.tunnel(parent, place).await,
            None => self.connect(place).await,
        }
    }

    /// Connects and shakes hands; the certificate is verified for `name`.
    pub async fn tls(
        &self,
        url: &UpstreamUrl,
        name: ServerName<'static>,
        config: Arc<ClientConfig>,
    ) -> Result<ClientStream<TcpStream>, Refusal> {
        let connect = async {
            let socket = self.way_to(&url.place()).await?;
            let shaken = stream::connect(config, name, socket).await;
            shaken.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(tls) => Refusal::because(Reason::UpstreamTls, tls),
                None => Refusal::because(Reason::UpstreamUnreachable, format!("TLS handshake: {}", error.kind())),
            })
        };
        self.in_time(connect).await
    }

    async fn in_time<T>(&self, connect: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let late = |_| Refusal::because(Reason::UpstreamTimeout, "connectTimeout");
        tokio::time::timeout(self.settings.connect_timeout, connect).await.map_err(late)?
    }

    /// A tunnel through the parent proxy (RFC 9110 section 9.3.6). The proxy resolves the name,
    /// so that only an address in the URL can be checked here; TLS inside still proves the server.
    async fn tunnel(&self, parent: &ParentProxy, place: &Place) -> Result<TcpStream, Refusal> {
        if let Host::Address(address) = &place.host {
            self.permit(*address)?;
        }
        let proxy = self.addresses(&parent.host).await?;
        let mut socket = dial_first(proxy, parent.port).await?;
        let ask = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n");
        let broken =
            |error: io::Error| Refusal::because(Reason::UpstreamUnreachable, format!("parent proxy: {}", error.kind()));
        socket.write_all(ask.as_bytes()).await.map_err(broken)?;
        let status = tunnel_status(&mut socket).await.map_err(broken)?;
        if status.starts_with(b"HTTP/1.1 2") || status.starts_with(b"HTTP/1.0 2") {
            return Ok(socket);
        }
        Err(Refusal::because(Reason::UpstreamUnreachable, "the parent proxy refused the tunnel"))
    }

    async fn connect(&self, place: &Place) -> Result<TcpStream, Refusal> {
        let addresses = self.addresses(&place.host).await?;
        for address in &addresses {
            self.permit(*address)?;
        }
        dial_first(addresses, place.port).await
    }

    fn permit(&self, address: IpAddr) -> Result<(), Refusal> {
        let fault = match address::check(address) {
            Err(fault) => fault,
            Ok(()) => match is_own(address) {
                Ok(false) => return Ok(()),
                Ok(true) => AddressFault::Own,
                Err(error) => {
                    let detail = format!("{address} cannot be told from an own address: {}", error.kind());
                    return Err(Refusal::because(Reason::UpstreamUnreachable, detail));
                }
            },
        };
        if fault.is_local() && self.settings.allow_loopback {
            return Ok(());
        }
        Err(Refusal::because(Reason::AddressForbidden, format!("{address}: {fault}")))
    }

    async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, Refusal> {
        let found = self.resolver.addresses(host).await;
        found.map_err(|error| Refusal::because(Reason::UpstreamUnreachable, error))
    }
}

/// Connects to the first address that answers.
async fn dial_first(addresses: Vec<IpAddr>, port: u16) -> Result<TcpStream, Refusal> {
    let mut last = Refusal::because(Reason::UpstreamUnreachable, "the name has no address");
    for address in addresses {
        match TcpStream::connect((address, port)).await {
            Ok(socket) => {
                // Without it, small events wait for the other side's acknowledgement.
                let _best_effort = socket.set_nodelay(true);
                return Ok(socket);
            }
            Err(error) => {
                let detail = format!("{address} port {port}: {}", error.kind());
                last = Refusal::because(Reason::UpstreamUnreachable, detail);
            }
        }
    }
    Err(last)
}

/// Reads the answer to CONNECT up to its empty line, byte by byte: what follows is TLS.
async fn tunnel_status(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == 8 * 1024 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(socket.read_u8().await?);
    }
    Ok(head)
}

/// Whether an address is this machine's: only then can a socket be bound to it. In a pod it is
/// the agent's as well.
fn is_own(address: IpAddr) -> io::Result<bool> {
    took(UdpSocket::bind((address.to_canonical(), 0)))
}

/// What an attempt to bind says. Whatever else went wrong (an agent can use up our file descriptors)
/// says nothing, and must not pass for a no.
fn took(bound: io::Result<UdpSocket>) -> io::Result<bool> {
    match bound {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(false),
        // No such kind of address on this machine: it cannot be dialled either.
        Err(error) if error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn only_a_plain_no_is_a_no() {
        let says = |errno: Errno| took(Err(errno.into())).ok();
        assert_eq!((says(Errno::ADDRNOTAVAIL), says(Errno::AFNOSUPPORT)), (Some(false), Some(false)));
        for unclear in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ACCESS, Errno::PERM] {
            assert_eq!(says(unclear), None, "{unclear:?}");
        }
        assert!(is_own(Ipv4Addr::LOCALHOST.into()).unwrap());
        assert!(!is_own(Ipv4Addr::new(192, 0, 2, 1).into()).unwrap());
    }
}
