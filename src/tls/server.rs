//! TLS as a server: a certificate that can be replaced while connections go on.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::authority::{Leaf, Validity};
use super::client::{TrustError, provider};

/// The certificate shown to the next client; there is none at first.
#[derive(Debug, Default)]
pub struct ServerCertificate(ArcSwapOption<Leaf>);

impl ServerCertificate {
    /// Shows this one from now on.
    pub fn put(&self, leaf: Leaf) {
        self.0.store(Some(Arc::new(leaf)));
    }

    /// The present one.
    pub fn leaf(&self) -> Option<Arc<Leaf>> {
        self.0.load_full()
    }

    /// How long the present one lasts.
    pub fn validity(&self) -> Option<Validity> {
        self.0.load().as_ref().map(|leaf| leaf.validity())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|leaf| Arc::clone(&leaf.certified))
    }
}

/// Which versions are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// TLS 1.3: all clients are our own.
    Newest,
    /// TLS 1.2 too: an API server may be older than that.
    Both,
}

/// Settings that show `certificate` as it is at each handshake and offer `alpn`, best first.
///
/// Nothing is kept between connections: a client's trust is proven anew each time.
pub fn settings(
    certificate: Arc<ServerCertificate>,
    versions: Versions,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TrustError> {
    let mut config = resumable(certificate, versions, alpn)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The same, where clients may resume.
pub(super) fn resumable(
    certificate: Arc<ServerCertificate>,
    versions: Versions,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TrustError> {
    let versions: &[_] = match versions {
        Versions::Newest => &[&TLS13],
        Versions::Both => &[&TLS13, &TLS12],
    };
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(versions).map_err(|_| TrustError::Provider)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificate);
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(config)
}
