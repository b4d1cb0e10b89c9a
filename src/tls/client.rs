//! Trust towards upstreams. There is no way here to accept a certificate that does not verify.

use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};

/// Why no TLS settings could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The bundle is not PEM, or has no usable certificate.
    #[error("the CA bundle holds no usable PEM certificate")]
    Bundle,
    /// The provider lacks a protocol version: a build mistake.
    #[error("the TLS provider supports none of the protocol versions")]
    Provider,
}

/// The process's cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

/// Makes it that of libraries that ask the process for one.
pub fn install_provider() {
    // An error means that somebody was faster, with the only one there is.
    let _already = CryptoProvider::install_default((*provider()).clone());
}

/// Settings that verify against `bundle` alone, or against the system's roots without one.
/// Offers h2 and http/1.1. Keep one per connection pool: it holds the resumption tickets.
pub fn settings(bundle: Option<&[u8]>) -> Result<Arc<ClientConfig>, TrustError> {
    let roots = match bundle {
        Some(pem) => Arc::new(parse_bundle(pem)?),
        None => system_roots(),
    };
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(|_| TrustError::Provider)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(8);
    Ok(Arc::new(config))
}

/// Settings towards a server of our own: TLS 1.3, `bundle` and nothing else is trusted, `alpn` is
/// offered.
pub fn own_settings(bundle: &[u8], alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TrustError> {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[&TLS13]).map_err(|_| TrustError::Provider)?;
    let mut config = builder.with_root_certificates(parse_bundle(bundle)?).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Reads a PEM bundle; one bad certificate makes it bad, since its owner would not notice.
pub fn parse_bundle(pem: &[u8]) -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|_| TrustError::Bundle)?;
    }
    if store.is_empty() { Err(TrustError::Bundle) } else { Ok(store) }
}

/// The certificates of a PEM, as they follow each other; whether they could be trusted is not looked at.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    CertificateDer::pem_slice_iter(pem).map(|certificate| certificate.map_err(|_| TrustError::Bundle)).collect()
}

/// The certificates of the system's roots, or of Mozilla's where the system has none (an image from
/// scratch).
pub(super) fn system_certificates() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() { webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec() } else { found }
}

/// What they vouch for.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(system_certificates());
        Arc::new(store)
    };
    Arc::clone(ROOTS.get_or_init(load))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_good_as_a_whole_or_not_at_all() {
        let key = rcgen::generate_simple_self_signed(vec!["h.example".into()]).unwrap();
        let good = key.cert.pem();
        assert!(settings(Some(good.as_bytes())).is_ok());
        for bad in [
            String::new(),
            "text".into(),
            format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ] {
            assert_eq!(settings(Some(bad.as_bytes())).err(), Some(TrustError::Bundle), "{bad}");
        }
    }

    #[test]
    fn both_protocols_are_offered() {
        assert_eq!(settings(None).unwrap().alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }
}
