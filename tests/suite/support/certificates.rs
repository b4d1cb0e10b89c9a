//! A certificate authority per upstream, so that trusting one never means trusting another.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;

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
        let (leaf, key) = self.leaf(names, expired);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .expect("key and certificate fit");
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}
