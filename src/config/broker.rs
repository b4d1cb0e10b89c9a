//! What `postern broker` is told on its command line, into the settings of its parts.

use std::net::SocketAddr;
use std::time::Duration;

use super::service;
use crate::control::broker::{Admission, BrokerSettings, Rate, Times};
use crate::control::certificate::{AuthoritySettings, CertificateFiles, CertificateSource};

/// The command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where sidecars call.
    pub address: SocketAddr,
    /// The Service that sidecars call it by.
    pub service: String,
    /// The namespace it runs in.
    pub namespace: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// More names and addresses of it.
    pub extra_names: Vec<String>,
    /// The Secret that holds its authority.
    pub ca_secret: String,
    /// A certificate instead of an authority of its own.
    pub files: Option<CertificateFiles>,
    /// Of streams.
    pub heartbeat: Duration,
    /// Of streams.
    pub stream_life: Duration,
    /// How long a yes of the API server is remembered.
    pub remember: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Streams of one service account at once.
    pub streams_per_account: usize,
    /// Streams that one service account may begin, a second.
    pub account_rate: u32,
    /// Token reviews under way.
    pub reviews: usize,
}

/// What the broker's parts are told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server's.
    pub broker: BrokerSettings,
    /// The certificate's.
    pub certificate: CertificateSource,
}

/// Sidecars that live for years trust what they were injected with.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// For a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bad tokens from one address: whoever tries more is no sidecar.
const BAD_TOKENS: Rate = Rate { burst: 20, per_second: 0.5 };
/// So many seconds' worth of connects may come at once: after a restart all of them do.
const BURST_SECONDS: u32 = 10;

impl Options {
    /// The settings.
    pub fn settings(self) -> Settings {
        let mut names = service::names(&self.service, &self.namespace, &self.cluster_domain);
        names.extend(self.extra_names);
        let account =
            Rate { burst: self.account_rate.saturating_mul(BURST_SECONDS), per_second: f64::from(self.account_rate) };
        let certificate = match self.files {
            Some(files) => CertificateSource::Files(files),
            None => CertificateSource::Authority(AuthoritySettings {
                secret: self.ca_secret,
                name: "Postern broker",
                life: AUTHORITY_LIFE,
                names,
            }),
        };
        let broker = BrokerSettings {
            address: self.address,
            connections: self.connections,
            handshake: HANDSHAKE,
            admission: Admission {
                remember: self.remember,
                account,
                bad_tokens: BAD_TOKENS,
                streams_per_account: self.streams_per_account,
                reviews: self.reviews,
            },
            times: Times { heartbeat: self.heartbeat, life: self.stream_life, ..Times::default() },
        };
        Settings { broker, certificate }
    }
}
