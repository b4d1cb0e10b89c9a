//! What the sidecar asks about its own capture: where a connection was going, and whether any are
//! captured at all.
//!
//! The sidecar's own connections are not captured, but for those to one address and port, which are
//! of everybody ([`super::rules::PROBE_V4`]). It connects there before it says that it has started, and
//! must arrive at its own listener. Not at one of somebody else who has taken the port, on
//! the other family for instance: so the listener shows that it has the same key, for this connection
//! alone. It signs what it is asked together with both ends of the connection as it sees them, so that
//! an answer that was got from it on another connection proves nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{self, SystemRandom};
use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::rules::{PROBE_V4, PROBE_V6};
use crate::api::env::REDIRECT_PORT;

/// How long each step may take: nothing of it leaves the pod.
const PATIENCE: Duration = Duration::from_secs(5);
const QUESTION: usize = 32;
const ANSWER: usize = 32;

/// Where a connection was going before it was redirected to us. `None` if it came here by itself.
///
/// For reports only: the agent chooses it, and no decision may rest on it.
///
/// # Errors
/// The socket's own, as when it is gone.
pub fn original_destination(socket: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let here = socket.local_addr()?;
    let original = match here {
        SocketAddr::V4(_) => sockopt::ip_original_dst(socket.as_fd()).map(SocketAddr::V4),
        SocketAddr::V6(_) => sockopt::ipv6_original_dst(socket.as_fd()).map(SocketAddr::V6),
    };
    match original {
        Ok(original) => Ok(Some(original).filter(|original| *original != here)),
        // Not tracked, so not redirected either.
        Err(Errno::NOENT | Errno::NOPROTOOPT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether a connection with this original destination is a self-test: then [`Probe::answer`] it.
pub fn is_probe(original: SocketAddr) -> bool {
    original.port() == REDIRECT_PORT && (original.ip() == PROBE_V4 || original.ip() == PROBE_V6)
}

/// The families of which connections are captured; of the other one the pod has no route out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are their names")]
pub struct Captured {
    pub v4: bool,
    pub v6: bool,
}

/// Why it is not certain that the pod's connections are captured.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The rules are not there.
    #[error(
        "connections of this pod are not captured ({address}: {error}): init container postern-init must have run `postern init-net` in this pod before, and nothing may have removed its table since (`nft list table inet postern`)"
    )]
    NotCaptured {
        /// Where to.
        address: SocketAddr,
        /// What happened.
        error: io::Error,
    },
    /// Another process listens where captured connections go.
    #[error(
        "connections of this pod go to a process that is not this sidecar (loopback port {REDIRECT_PORT}, {address}): find out which container listens there, and give it another port"
    )]
    Foreign {
        /// Where to.
        address: SocketAddr,
    },
    /// What is not captured is not refused.
    #[error(
        "packets that are not captured may leave this pod ({address} over UDP: {outcome}): init container postern-init must have run `postern init-net` in this pod before, and nothing may have changed its table since (`nft list table inet postern`)"
    )]
    NotGuarded {
        /// Where to.
        address: SocketAddr,
        /// What happened.
        outcome: String,
    },
    /// There is nothing to test with.
    #[error(
        "this pod has no route out, neither for IPv4 nor for IPv6, so that nothing shows whether its connections are captured: its network is not there yet, or has no default route"
    )]
    NoRoute,
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// What the listener and the self-test of one process share.
pub struct Probe {
    key: hmac::Key,
}

impl Probe {
    /// One for this start.
    ///
    /// # Errors
    /// [`ProbeError::NoRandomness`].
    pub fn new() -> Result<Self, ProbeError> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        key.map(|key| Self { key }).map_err(|_| ProbeError::NoRandomness)
    }

    /// The listener's part. The connection is then at its end; who asked may be anybody.
    ///
    /// # Errors
    /// The connection's own: there is nothing to do about them.
    pub async fn answer(&self, mut socket: TcpStream, original: SocketAddr) -> io::Result<()> {
        let asker = socket.peer_addr()?;
        let mut question = [0; QUESTION];
        timeout(PATIENCE, socket.read_exact(&mut question)).await??;
        let signed = self.sign(&question, asker, original);
        timeout(PATIENCE, socket.write_all(signed.as_ref())).await?
    }

    /// Tests the capture of both families. The listeners must be accepting by now.
    ///
    /// # Errors
    /// What is wrong, and the fix. Until it succeeds, the sidecar must not say that it has started.
    pub async fn test(&self) -> Result<Captured, ProbeError> {
        let captured =
            Captured { v4: self.test_family(PROBE_V4.into()).await?, v6: self.test_family(PROBE_V6.into()).await? };
        if captured.v4 || captured.v6 { Ok(captured) } else { Err(ProbeError::NoRoute) }
    }

    /// `false` where the pod has no route for this family.
    async fn test_family(&self, address: IpAddr) -> Result<bool, ProbeError> {
        let address = SocketAddr::new(address, REDIRECT_PORT);
        let not_captured = |error| ProbeError::NotCaptured { address, error };
        if !has_route(address).await.map_err(not_captured)? {
            return Ok(false);
        }
        let connected = timeout(PATIENCE, TcpStream::connect(address)).await;
        let mut socket = connected.map_err(io::Error::from).flatten().map_err(not_captured)?;
        let asker = socket.local_addr().map_err(not_captured)?;
        let mut question = [0; QUESTION];
        rand::fill(&mut question).map_err(|_| ProbeError::NoRandomness)?;
        let mut answer = [0; ANSWER];
        let exchange = async {
            socket.write_all(&question).await?;
            socket.read_exact(&mut answer).await
        };
        let proven = matches!(timeout(PATIENCE, exchange).await, Ok(Ok(_)))
            && hmac::verify(&self.key, &signed_bytes(&question, asker, address), &answer).is_ok();
        if !proven {
            return Err(ProbeError::Foreign { address });
        }
        guarded(address).await.map(|()| true)
    }

    fn sign(&self, question: &[u8; QUESTION], asker: SocketAddr, original: SocketAddr) -> hmac::Tag {
        hmac::sign(&self.key, &signed_bytes(question, asker, original))
    }
}

fn signed_bytes(question: &[u8; QUESTION], asker: SocketAddr, original: SocketAddr) -> Vec<u8> {
    let end = |address: SocketAddr| {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        [ip.octets().as_slice(), &address.port().to_be_bytes()].concat()
    };
    [question.as_slice(), &end(asker), &end(original)].concat()
}

/// UDP to the same address is refused to everybody, also by the guard's rule for it.
async fn guarded(address: SocketAddr) -> Result<(), ProbeError> {
    let send = async { datagrams(address).await?.send_to(&[0], address).await };
    let outcome = match timeout(PATIENCE, send).await.map_err(io::Error::from).flatten() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => error.to_string(),
        Ok(_) => "it was sent".into(),
    };
    Err(ProbeError::NotGuarded { address, outcome })
}

/// Whether the kernel knows a way there. To connect UDP asks it, and sends nothing that somebody else could
/// answer: an error of a router's would look the same as none of ours.
async fn has_route(address: SocketAddr) -> io::Result<bool> {
    const NONE: [Errno; 4] = [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT];
    let connect = async { datagrams(address).await?.connect(address).await };
    match connect.await {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error().is_some_and(|code| NONE.contains(&Errno::from_raw_os_error(code))) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn datagrams(towards: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if towards.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).await
}
