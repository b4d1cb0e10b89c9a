//! The broker: tells each pod's sidecar what its service account has, and nobody anything else.
//!
//! ```text
//! listener -> connection (TLS 1.3) -> admit: token -> API server -> identity
//!                                        |
//!                                        v
//! views (from the index) ------------> stream, one for each sidecar
//! ```
//! The account whose view a stream shows comes from the review of its token alone.

mod admit;
mod certificate;
mod connection;
mod encoding;
mod identity;
mod limits;
mod refusal;
mod review;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use self::admit::Admit;
pub use self::admit::{Admission, Clock};
pub use self::certificate::{
    AuthoritySettings, CertificateError, CertificateFiles, CertificateKeeper, CertificateSource,
};
use self::encoding::Encodings;
pub use self::identity::Identity;
pub use self::limits::Rate;
pub use self::refusal::Refusal;
pub(super) use self::review::kind;
pub use self::review::{NoAnswer, Review, Reviewing, Token};
use super::heard::Heard;
use super::views::Views;
use crate::runtime::drain::Drain;
use crate::runtime::task;
use crate::telemetry::session::SessionLog;
use crate::tls::server::{self, ServerCertificate, Versions};

/// The broker's settings.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections at once.
    pub connections: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// Who may come how often.
    pub admission: Admission,
    /// Of streams.
    pub times: Times,
}

/// The times of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Something is sent at least this often.
    pub heartbeat: Duration,
    /// How long a stream may last.
    pub life: Duration,
    /// How long before its end a sidecar is told to open another one.
    pub overlap: Duration,
    /// How long after a snapshot the next one may follow; what changes meanwhile is one change.
    pub settle: Duration,
    /// How long a reader may not read.
    pub stall: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(10),
            life: Duration::from_secs(600),
            overlap: Duration::from_secs(10),
            settle: Duration::from_millis(100),
            stall: Duration::from_secs(30),
        }
    }
}

/// What the broker is made of.
pub struct Parts {
    /// What each account has.
    pub views: Views,
    /// Whose views are those of the cluster as it is.
    pub heard: watch::Receiver<Heard>,
    /// Who asks the API server.
    pub review: Arc<dyn Review>,
    /// What is shown to sidecars.
    pub certificate: Arc<ServerCertificate>,
    /// Where sessions report to.
    pub log: Arc<SessionLog>,
    /// The time of day, for the end of tokens.
    pub clock: Clock,
}

/// What every connection needs.
struct Shared {
    settings: BrokerSettings,
    acceptor: TlsAcceptor,
    admit: Admit,
    views: Views,
    heard: watch::Receiver<Heard>,
    encodings: Arc<Encodings>,
    log: Arc<SessionLog>,
    drain: Drain,
}

/// A broker with its socket bound.
pub struct Broker {
    /// Where it listens.
    pub address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// Views that nobody has and nobody listens to are forgotten this often.
const TIDY: Duration = Duration::from_secs(60);

impl Broker {
    /// Binds the socket. Nothing is accepted before [`run`](Self::run).
    pub async fn bind(settings: BrokerSettings, parts: Parts, drain: Drain) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.address).await?;
        let tls = server::settings(parts.certificate, Versions::Newest, &[b"h2", b"http/1.1"]);
        let shared = Arc::new(Shared {
            acceptor: TlsAcceptor::from(tls.map_err(io::Error::other)?),
            admit: Admit::new(settings.admission, parts.review, parts.clock),
            views: parts.views,
            heard: parts.heard,
            encodings: Arc::default(),
            log: parts.log,
            drain,
            settings,
        });
        Ok(Self { address: listener.local_addr()?, listener, shared })
    }

    /// Accepts until dropped.
    pub async fn run(self) {
        let Self { listener, shared, .. } = self;
        let slots = Arc::new(Semaphore::new(shared.settings.connections));
        let mut tidy = tokio::time::interval(TIDY);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = tidy.tick() => {
                    shared.views.tidy();
                    continue;
                }
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: wait for one instead of spinning.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                shared.log.metrics.refused(Refusal::TooManyConnections.as_str());
                continue;
            };
            let shared = Arc::clone(&shared);
            task::spawn(async move {
                let counted = Counted::new(&shared.log);
                connection::serve(socket, peer.ip().to_canonical(), shared).await;
                drop((counted, slot));
            });
        }
    }
}

/// Counts an open connection for as long as it lives.
struct Counted(Arc<SessionLog>);

impl Counted {
    fn new(log: &Arc<SessionLog>) -> Self {
        log.metrics.connection(1);
        Self(Arc::clone(log))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.connection(-1);
    }
}
