//! A throw-away certificate authority for the sample server, and the TLS settings made from it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;

/// The only name and address that the sample server's certificate is good for.
const NAME: &str = "localhost";

/// What a sample server needs to speak TLS, and its clients to believe it.
pub(super) struct Identity {
    /// The authority's certificate, for a binding's `tls.caBundle` or `curl --cacert`.
    pub(super) ca_pem: String,
    /// Certificate, key and ALPN of the server.
    pub(super) tls: Arc<ServerConfig>,
}

/// Why no identity could be made; in practice, a crypto provider that does not work here.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    /// A certificate could not be made or signed.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refuses the certificate or its key.
    #[error("cannot use the certificate: {0}")]
    Tls(#[from] rustls::Error),
}

impl Identity {
    /// Makes an authority, lets it sign one certificate for this machine's loopback, and drops its key.
    ///
    /// Nobody can sign a second certificate with it, so its long validity (rcgen's default) is harmless,
    /// and a user who trusted the CA file would have trusted this one server and nothing else.
    pub(super) fn loopback() -> Result<Self, IdentityError> {
        let authority = CertifiedIssuer::self_signed(authority_params(), KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let leaf = leaf_params()?.signed_by(&key, &authority)?;
        let mut tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::from(key))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { ca_pem: authority.pem(), tls: Arc::new(tls) })
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Postern demo authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Postern demo server");
    params.subject_alt_names =
        vec![SanType::DnsName(NAME.try_into()?), SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Python 3.13 and later verify strictly: no authority key identifier, no connection.
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, RootCertStore};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    async fn handshake(identity: &Identity, trusted: &str, name: &'static str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(16 * 1024);
        let (server, client) = tokio::join!(
            TlsAcceptor::from(Arc::clone(&identity.tls)).accept(far),
            TlsConnector::from(Arc::new(client)).connect(ServerName::try_from(name).unwrap(), near),
        );
        server.is_ok() && client.is_ok()
    }

    #[tokio::test]
    async fn the_certificate_is_good_for_loopback_under_its_own_authority_only() {
        let identity = Identity::loopback().unwrap();
        let other = Identity::loopback().unwrap();
        assert!(handshake(&identity, &identity.ca_pem, "localhost").await);
        assert!(handshake(&identity, &identity.ca_pem, "127.0.0.1").await);
        assert!(!handshake(&identity, &identity.ca_pem, "example.com").await);
        assert!(!handshake(&identity, &other.ca_pem, "localhost").await);
    }
}
