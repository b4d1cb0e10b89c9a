//! A certificate authority of our own: made, kept as PEM, asked for leaves. It acts on nothing:
//! time is an argument, and where the PEM is kept is its owner's matter.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
    PublicKeyData as _,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::client::{TrustError, parse_bundle, provider};
use super::x509::facts;
use crate::core::upstream::Host;

/// Why there is no certificate. Quotes nothing of a key.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It cannot be made or signed.
    #[error("a certificate cannot be made: {0}")]
    Making(#[from] rcgen::Error),
    /// The PEM holds something else.
    #[error("no PEM certificate and key that can be read")]
    Unreadable,
    /// The certificate may not sign others.
    #[error("the certificate is not that of an authority")]
    NotAnAuthority,
    /// The key is another certificate's.
    #[error("the key does not belong to the certificate")]
    OtherKey,
    /// The TLS library cannot use it.
    #[error("the certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// From when to when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last one.
    pub not_after: SystemTime,
}

impl Validity {
    /// Whether it is valid at `now`.
    pub fn holds(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// The moment at which `share` of its time is over.
    pub fn after(&self, share: f64) -> SystemTime {
        let whole = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + whole.mul_f64(share.clamp(0.0, 1.0))
    }
}

/// Clocks of one cluster differ; a certificate made now is valid since a while.
const SKEW: Duration = Duration::from_secs(3600);
/// A certificate is replaced when this much of its time is over.
const RENEW: f64 = 2.0 / 3.0;
/// The next authority takes over when this much of the present one's time is over ...
const TAKE_OVER: f64 = 0.9;
/// ... and not before it has been told for this long, however late it was made.
const OVERLAP: Duration = Duration::from_secs(3600);

/// An authority: its certificate and its key (ECDSA P-256).
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    validity: Validity,
}

impl Authority {
    /// Makes one that signs itself and lasts for `life`.
    pub fn new(name: &str, life: Duration, now: SystemTime) -> Result<Self, AuthorityError> {
        Self::made(authority_params(name), life, now)
    }

    /// One that can vouch for `hosts` and the names below them, and for nothing else: whoever trusts
    /// it need not trust it with more. Who does not know such limits must refuse it (RFC 5280 section
    /// 4.2.1.10, critical).
    pub(super) fn limited(name: &str, hosts: &[Host], life: Duration, now: SystemTime) -> Result<Self, AuthorityError> {
        let mut params = authority_params(name);
        params.name_constraints = Some(limits(hosts));
        Self::made(params, life, now)
    }

    fn made(mut params: CertificateParams, life: Duration, now: SystemTime) -> Result<Self, AuthorityError> {
        params.not_before = (now - SKEW).into();
        params.not_after = (now + life).into();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        let validity = facts(certificate.der()).ok_or(AuthorityError::Unreadable)?.validity;
        Ok(Self { pem: certificate.pem(), validity, issuer: Issuer::new(params, key) })
    }

    /// Reads one that was kept. The key must be its own, and it must be allowed to sign.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(|_| AuthorityError::Unreadable)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| AuthorityError::Unreadable)?;
        let facts = facts(&der).ok_or(AuthorityError::Unreadable)?;
        if !facts.is_authority {
            return Err(AuthorityError::NotAnAuthority);
        }
        if facts.public_key != key.subject_public_key_info() {
            return Err(AuthorityError::OtherKey);
        }
        let params = authority_params(facts.common_name.ok_or(AuthorityError::Unreadable)?);
        Ok(Self { pem: certificate.to_owned(), validity: facts.validity, issuer: Issuer::new(params, key) })
    }

    /// The certificate, to be trusted by others.
    pub fn certificate(&self) -> &str {
        &self.pem
    }

    /// The key, to be kept.
    pub fn key(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// How long it lasts.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Signs a new key for a server of these DNS names or addresses; no longer than it lasts
    /// itself.
    pub fn issue(&self, names: &[String], life: Duration, now: SystemTime) -> Result<Leaf, AuthorityError> {
        let mut params = CertificateParams::new(names)?;
        let name = names.first().map_or("postern", String::as_str);
        // A common name has at most 64 characters; who verifies looks at the others.
        params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - SKEW).max(self.validity.not_before).into();
        params.not_after = (now + life).min(self.validity.not_after).into();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Leaf::new(vec![certificate.der().clone()], PrivateKeyDer::from(key))
    }
}

/// What an authority says of itself, but for its time.
fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Each kind of name needs a limit of its own: a list of DNS names alone would leave all addresses free.
fn limits(hosts: &[Host]) -> NameConstraints {
    let mut limits = NameConstraints { permitted_subtrees: Vec::new(), excluded_subtrees: Vec::new() };
    let (mut names, mut addresses) = (0, 0);
    for host in hosts {
        limits.permitted_subtrees.push(match host {
            Host::Name(name) => {
                names += 1;
                GeneralSubtree::DnsName(name.to_string())
            }
            Host::Address(address) => {
                addresses += 1;
                GeneralSubtree::IpAddress(match address {
                    IpAddr::V4(v4) => CidrSubnet::V4(v4.octets(), [0xff; 4]),
                    IpAddr::V6(v6) => CidrSubnet::V6(v6.octets(), [0xff; 16]),
                })
            }
        });
    }
    if names == 0 {
        // RFC 6761: nobody has a name below it.
        limits.permitted_subtrees.push(GeneralSubtree::DnsName("postern.invalid".into()));
    }
    if addresses == 0 {
        limits.excluded_subtrees.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
        limits.excluded_subtrees.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
    }
    limits
}

/// Why a server is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    /// What is trusted is no bundle.
    #[error(transparent)]
    Bundle(#[from] TrustError),
    /// It is called by something that is no name and no address.
    #[error("it is called by no name of a server")]
    Name,
    /// The bundle does not lead to the certificate, or the name or the time is another.
    #[error("{0}")]
    Chain(rustls::Error),
}

/// A server's certificate with its key, ready to be shown.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub(super) certified: Arc<CertifiedKey>,
    validity: Validity,
}

impl Leaf {
    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, AuthorityError> {
        let first = chain.first().ok_or(AuthorityError::Unreadable)?;
        let validity = facts(first).ok_or(AuthorityError::Unreadable)?.validity;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => AuthorityError::OtherKey,
            other => AuthorityError::Unusable(other),
        })?;
        Ok(Self { certified: Arc::new(certified), validity })
    }

    /// Reads a chain, its own certificate first, and the key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, AuthorityError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|_| AuthorityError::Unreadable)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| AuthorityError::Unreadable)?;
        Self::new(chain, key)
    }

    /// How long it lasts.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// When it should be replaced.
    pub fn renew_at(&self) -> SystemTime {
        self.validity.after(RENEW)
    }

    /// Whether a client that trusts `bundle` (PEM) and calls the server by `name` believes it at
    /// `now`.
    pub fn believed(&self, bundle: &[u8], name: &str, now: SystemTime) -> Result<(), Distrust> {
        let name = ServerName::try_from(name).map_err(|_| Distrust::Name)?;
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let roots = Arc::new(parse_bundle(bundle)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
        let verifier = verifier.map_err(|_| TrustError::Bundle)?;
        let (own, others) = self.certified.cert.split_first().ok_or(Distrust::Name)?;
        let verified = verifier.verify_server_cert(own, others, &name, &[], UnixTime::since_unix_epoch(since));
        verified.map(drop).map_err(Distrust::Chain)
    }
}

/// The authority that signs, the one that will, and the one that did. The next one is trusted long
/// before it takes over, the previous one until nothing that it signed is shown any more.
#[derive(Debug)]
pub struct Signers {
    /// Signs.
    pub current: Authority,
    /// Will sign.
    pub next: Option<Authority>,
    /// Signed until a while ago.
    pub previous: Option<Previous>,
}

/// An authority that signs no more: its key is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    certificate: String,
    until: SystemTime,
}

/// What is to be done about signers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// The present one has expired and nobody is there to follow: one is to be made that signs at
    /// once.
    Anew,
    /// A next one is to be made and published.
    Next,
    /// The next one is to sign.
    TakeOver,
    /// The previous one is to be trusted no more.
    Forget,
}

impl Signers {
    /// The names under which they are kept.
    pub const NAMES: [&'static str; 6] = ["ca.crt", "ca.key", "next.crt", "next.key", "previous.crt", "previous.until"];

    /// A first one, alone.
    pub fn first(current: Authority) -> Self {
        Self { current, next: None, previous: None }
    }

    /// Reads what [`kept`](Self::kept) gave; `None` if nothing was ever kept there.
    pub fn read(data: &BTreeMap<String, Vec<u8>>) -> Result<Option<Self>, AuthorityError> {
        let text = |name: &str| {
            let bytes = data.get(name).filter(|bytes| !bytes.is_empty());
            bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| AuthorityError::Unreadable)).transpose()
        };
        let pair = |certificate: &str, key: &str| match (text(certificate)?, text(key)?) {
            (Some(certificate), Some(key)) => Authority::from_pem(certificate, key).map(Some),
            (None, None) => Ok(None),
            _ => Err(AuthorityError::Unreadable),
        };
        let [certificate, key, next_certificate, next_key, previous, until] = Self::NAMES;
        let next = pair(next_certificate, next_key)?;
        let previous = match (text(previous)?, text(until)?) {
            (Some(certificate), Some(until)) => Some(Previous::read(certificate, until)?),
            (None, None) => None,
            _ => return Err(AuthorityError::Unreadable),
        };
        match pair(certificate, key)? {
            Some(current) => Ok(Some(Self { current, next, previous })),
            None if next.is_none() && previous.is_none() => Ok(None),
            None => Err(AuthorityError::Unreadable),
        }
    }

    /// What is to be kept, by name. What is not in it is to be removed.
    pub fn kept(&self) -> Vec<(&'static str, Zeroizing<String>)> {
        let [certificate, key, next_certificate, next_key, previous, until] = Self::NAMES;
        let mut kept = Vec::new();
        for (authority, certificate, key) in
            [(Some(&self.current), certificate, key), (self.next.as_ref(), next_certificate, next_key)]
        {
            if let Some(authority) = authority {
                kept.push((certificate, Zeroizing::new(authority.pem.clone())));
                kept.push((key, authority.key()));
            }
        }
        if let Some(one) = &self.previous {
            let seconds = one.until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            kept.push((previous, Zeroizing::new(one.certificate.clone())));
            kept.push((until, Zeroizing::new(seconds.to_string())));
        }
        kept
    }

    /// The certificates to be trusted.
    pub fn bundle(&self) -> String {
        let next = self.next.as_ref().map_or("", |next| next.certificate());
        let previous = self.previous.as_ref().map_or("", |previous| &previous.certificate);
        format!("{}{next}{previous}", self.current.certificate())
    }

    /// What is to be done at `now`.
    pub fn due(&self, now: SystemTime) -> Due {
        let validity = self.current.validity;
        let is_over = now > validity.not_after;
        match (&self.next, &self.previous) {
            (Some(next), _) if is_over && next.validity.holds(now) => Due::TakeOver,
            _ if is_over => Due::Anew,
            (_, Some(previous)) if now >= previous.until => Due::Forget,
            (None, _) if now >= validity.after(RENEW) => Due::Next,
            (Some(next), _) if now >= validity.after(TAKE_OVER).max(next.validity.not_before + SKEW + OVERLAP) => {
                Due::TakeOver
            }
            _ => Due::Nothing,
        }
    }

    /// Does what is due at `now`. `fresh` makes an authority; `leaf_life` is how long what was signed
    /// until now may still be shown.
    pub fn advance(
        self,
        due: Due,
        now: SystemTime,
        leaf_life: Duration,
        fresh: impl FnOnce() -> Result<Authority, AuthorityError>,
    ) -> Result<Self, AuthorityError> {
        let Self { current, next, previous } = self;
        Ok(match (due, next) {
            (Due::Nothing, next) => Self { current, next, previous },
            (Due::Forget, next) => Self { current, next, previous: None },
            (Due::Anew, _) => Self::first(fresh()?),
            (Due::TakeOver, Some(next)) => {
                let until = (now + leaf_life).min(current.validity.not_after);
                let previous = (now < until).then_some(Previous { certificate: current.pem, until });
                Self { current: next, next: None, previous }
            }
            (Due::Next | Due::TakeOver, _) => Self { current, next: Some(fresh()?), previous },
        })
    }
}

impl Previous {
    fn read(certificate: &str, until: &str) -> Result<Self, AuthorityError> {
        parse_bundle(certificate.as_bytes()).map_err(|_| AuthorityError::Unreadable)?;
        let until = until.parse().map_err(|_| AuthorityError::Unreadable)?;
        let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until));
        Ok(Self { certificate: certificate.to_owned(), until: until.ok_or(AuthorityError::Unreadable)? })
    }
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
