//! A certificate authority per upstream, so that trusting one never means trusting another.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

/// The names every leaf is good for, unless a test asks for others.
pub const NAMES: [&str; 4] = ["localhost", "127.0.0.1", "mcp.example.test", "other.example.test"];

/// A root that can issue leaves.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are fine");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "suite root");
        let pem = params.self_signed(&key).expect("the root signs itself").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The root as a CA bundle.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A fresh leaf for `names`, and its key.
    pub fn leaf(&self, names: &[&str], expired: bool) -> (Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::new(names).expect("the names are valid");
        params.use_authority_key_identifier_extension = true;
        if expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        (params.signed_by(&key, &self.issuer).expect("the root signs the leaf"), key)
    }

    /// A TLS server with a fresh leaf for `names`, offering `alpn`.
    pub fn server(&self, names: &[&str], alpn: &[&[u8]], expired: bool) -> Arc<ServerConfig> {
        self.server_with(names, alpn, expired, WebPkiClientVerifier::no_client_auth())
    }

    /// The same, which demands a certificate of its clients, from this authority.
    pub fn server_for_the_certified(&self, names: &[&str], alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM")).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        self.server_with(names, alpn, false, verifier.expect("there is a root"))
    }

    fn server_with(
        &self,
        names: &[&str],
        alpn: &[&[u8]],
        expired: bool,
        clients: Arc<dyn ClientCertVerifier>,
    ) -> Arc<ServerConfig> {
        let (leaf, key) = self.leaf(names, expired);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("key and certificate fit");
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}
