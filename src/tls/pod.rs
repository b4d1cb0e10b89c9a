//! The authority of one pod, with which its sidecar stands in for the servers bound to it: made when
//! the sidecar starts, kept in memory alone, good for the bound hosts and no others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;

use super::authority::{Authority, AuthorityError};
use super::client::{TrustError, certificates, system_certificates};
use super::server::{ServerCertificate, Versions, resumable};
use crate::core::upstream::Host;

/// Longer than any pod: the agents read the certificate once, when they start.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Some clients refuse leaves that last for more than a year or two.
const LEAF_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Sessions of one host that its clients may resume.
const SESSIONS: usize = 64;

/// Why there are no settings for a host.
#[derive(Debug, thiserror::Error)]
pub enum StandInError {
    /// No certificate can be had.
    #[error(transparent)]
    Certificate(#[from] AuthorityError),
    /// The TLS library does not take it.
    #[error(transparent)]
    Tls(#[from] TrustError),
    /// A client would refuse the certificate, so none is made.
    #[error("the pod's CA is not good for this host")]
    ForeignHost,
}

/// The authority, and what it has signed so far: at most one leaf for each of its hosts.
#[derive(Debug)]
pub struct PodAuthority {
    authority: Authority,
    leaves: Mutex<HashMap<Host, Option<Signed>>>,
}

#[derive(Debug)]
struct Signed {
    settings: Arc<ServerConfig>,
    renew_at: SystemTime,
}

impl PodAuthority {
    /// Makes one for these hosts.
    pub fn new(hosts: &[Host], now: SystemTime) -> Result<Self, AuthorityError> {
        let authority = Authority::limited("Postern pod CA", hosts, LIFE, now)?;
        Ok(Self { authority, leaves: Mutex::new(hosts.iter().map(|host| (host.clone(), None)).collect()) })
    }

    /// Its certificate as PEM, to be trusted by the pod's agents.
    pub fn certificate(&self) -> &str {
        self.authority.certificate()
    }

    /// Settings that show a certificate for `host`; signed once and again before it runs out.
    pub fn settings(&self, host: &Host, now: SystemTime) -> Result<Arc<ServerConfig>, StandInError> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let place = leaves.get_mut(host).ok_or(StandInError::ForeignHost)?;
        if let Some(signed) = place.as_ref().filter(|signed| now < signed.renew_at) {
            return Ok(Arc::clone(&signed.settings));
        }
        let name = match host {
            Host::Name(name) => name.to_string(),
            Host::Address(address) => address.to_string(),
        };
        let leaf = self.authority.issue(&[name], LEAF_LIFE, now)?;
        let renew_at = leaf.renew_at();
        let certificate = Arc::new(ServerCertificate::default());
        certificate.put(leaf);
        let mut settings = resumable(certificate, Versions::Both, &[b"h2", b"http/1.1"])?;
        settings.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS);
        let settings = Arc::new(settings);
        *place = Some(Signed { settings: Arc::clone(&settings), renew_at });
        Ok(settings)
    }

    /// What an agent is to trust instead of its system's roots: those, `extra` (PEM) and this
    /// authority, since most clients read one file in their place.
    pub fn bundle(&self, extra: &[u8]) -> Result<String, TrustError> {
        let mut all = system_certificates();
        if !extra.is_empty() {
            all.extend(certificates(extra)?);
        }
        let mut text: String = all.iter().map(|certificate| pem(certificate)).collect();
        text.push_str(self.certificate());
        Ok(text)
    }
}

/// RFC 7468.
fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let base64 = STANDARD.encode(der);
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, later) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = later;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
