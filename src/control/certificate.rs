//! A server's certificate in a cluster: signed by an authority of ours whose key stands in a Secret,
//! or in files that someone else renews. Every replica signs for itself; nothing but the authority is
//! shared. Whom the authority is told to is its owner's matter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Map, Value, json};
use zeroize::Zeroize as _;

use super::broker::kind;
use crate::tls::authority::{Authority, AuthorityError, Due, Leaf, Signers};
use crate::tls::server::ServerCertificate;

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// An authority of our own.
    Authority(AuthoritySettings),
    /// Files that someone else renews.
    Files(CertificateFiles),
}

/// A certificate that someone else renews: PEM.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The certificates of its authority, if they are to be told.
    pub authority: Option<PathBuf>,
    /// The certificate and what leads up to its authority.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where the authority is kept, and whom it vouches for.
#[derive(Debug, Clone)]
pub struct AuthoritySettings {
    /// The Secret that holds the authority, or nothing yet.
    pub secret: String,
    /// What an authority that is made calls itself.
    pub name: &'static str,
    /// How long an authority that is made lasts.
    pub life: Duration,
    /// The names that clients call us by.
    pub names: Vec<String>,
}

const LEAF_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Another replica may have been faster; it was not more often than this.
const RACES: u32 = 5;

/// Why there is no certificate. Quotes nothing of a key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The API server says no, or nothing.
    #[error("{what}: {why}")]
    Api {
        /// What was asked for.
        what: String,
        /// The kind of answer.
        why: String,
    },
    /// What is kept or read cannot be used. It is left as it is: it may be what others trust.
    #[error("{what}: {why}")]
    Unusable {
        /// Where it stands.
        what: String,
        /// The rule that it breaks.
        why: AuthorityError,
    },
    /// A file cannot be read.
    #[error("{0}: {1}")]
    File(String, std::io::ErrorKind),
    /// The API server takes too long.
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// Others write it all the time.
    #[error("{0} changes faster than it can be written")]
    Race(String),
}

/// A certificate as it is looked after.
pub struct Certificates<'a> {
    /// For the Secret.
    pub client: &'a kube::Client,
    /// The namespace of the Secret, which is never made: it must be there.
    pub namespace: &'a str,
    /// Where the certificate comes from.
    pub source: &'a CertificateSource,
    /// Where it goes.
    pub certificate: &'a ServerCertificate,
    /// Is told when a certificate ends: `authority` or `server`.
    pub told: &'a (dyn Fn(&'static str, SystemTime) + Send + Sync),
}

/// What a look has found.
pub struct Found {
    /// The certificates that clients are to trust, as PEM; without them, someone else tells clients.
    pub bundle: Option<String>,
    /// What is to be shown instead of the present certificate, if it is to be replaced.
    pub leaf: Option<Leaf>,
    /// The Secret's version, if there is a Secret.
    pub version: Option<String>,
}

impl Certificates<'_> {
    /// Looks at what is kept, and does with it what is due at `now`.
    pub async fn find(&self, now: SystemTime) -> Result<Found, CertificateError> {
        match self.source {
            CertificateSource::Files(files) => read_files(files),
            CertificateSource::Authority(settings) => self.sign(settings, now).await,
        }
    }

    /// Shows this one from now on.
    pub fn show(&self, leaf: Leaf) {
        (self.told)("server", leaf.validity().not_after);
        self.certificate.put(leaf);
    }

    async fn sign(&self, settings: &AuthoritySettings, now: SystemTime) -> Result<Found, CertificateError> {
        let kept = Kept { client: self.client, namespace: self.namespace, settings };
        let (signers, version) = kept.signers(now).await?;
        let current = &signers.current;
        (self.told)("authority", current.validity().not_after);
        let name = settings.names.first().map_or("", String::as_str);
        let is_fresh =
            |leaf: &Leaf| now < leaf.renew_at() && leaf.believed(current.certificate().as_bytes(), name, now).is_ok();
        let leaf = if self.certificate.leaf().is_some_and(|leaf| is_fresh(&leaf)) {
            None
        } else {
            Some(current.issue(&settings.names, LEAF_LIFE, now).map_err(|why| kept.unusable(why))?)
        };
        Ok(Found { bundle: Some(signers.bundle()), leaf, version: Some(version) })
    }
}

fn read_files(files: &CertificateFiles) -> Result<Found, CertificateError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| CertificateError::File(path.display().to_string(), error.kind()))
    };
    let (chain, mut key) = (read(&files.chain)?, read(&files.key)?);
    let leaf = Leaf::from_pem(&chain, &key);
    key.zeroize();
    let what = || format!("{} and {}", files.chain.display(), files.key.display());
    let leaf = leaf.map_err(|why| CertificateError::Unusable { what: what(), why })?;
    let authority = files.authority.as_deref().map(read).transpose()?;
    let bundle = authority.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(Found { bundle, leaf: Some(leaf), version: None })
}

/// The authority as it is kept.
struct Kept<'a> {
    client: &'a kube::Client,
    namespace: &'a str,
    settings: &'a AuthoritySettings,
}

impl Kept<'_> {
    /// The signers as all replicas have them at `now`, and the version of what they are kept in.
    async fn signers(&self, now: SystemTime) -> Result<(Signers, String), CertificateError> {
        for _ in 0..RACES {
            let (kept, version) = self.read().await?;
            let (signers, changed) = self.due(kept, now)?;
            if !changed {
                return Ok((signers, version));
            }
            if let Some(version) = self.write(&signers, &version).await? {
                return Ok((signers, version));
            }
        }
        Err(CertificateError::Race(self.what()))
    }

    /// What should be kept, and whether that is something else than what is.
    fn due(&self, kept: Option<Signers>, now: SystemTime) -> Result<(Signers, bool), CertificateError> {
        let AuthoritySettings { secret, name, life, .. } = self.settings;
        let fresh = || Authority::new(name, *life, now);
        let Some(signers) = kept else {
            tracing::info!(secret, "making the authority: its Secret is empty");
            return Ok((Signers::first(fresh().map_err(|why| self.unusable(why))?), true));
        };
        let due = signers.due(now);
        if due != Due::Nothing {
            tracing::info!(secret, step = ?due, "the authority goes a step on to the next one");
        }
        let signers = signers.advance(due, now, LEAF_LIFE, fresh).map_err(|why| self.unusable(why))?;
        Ok((signers, due != Due::Nothing))
    }

    async fn read(&self) -> Result<(Option<Signers>, String), CertificateError> {
        let secret = self.api().get(&self.settings.secret).await.map_err(|error| self.failed(&error))?;
        let mut data: BTreeMap<String, Vec<u8>> =
            secret.data.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0)).collect();
        let signers = Signers::read(&data);
        data.values_mut().for_each(|value| value.zeroize());
        let signers = signers.map_err(|why| self.unusable(why))?;
        Ok((signers, secret.metadata.resource_version.unwrap_or_default()))
    }

    /// Writes over what was read, and says which version came of it. None, if it is not the same any
    /// more.
    async fn write(&self, signers: &Signers, version: &str) -> Result<Option<String>, CertificateError> {
        // What is not kept any more is removed.
        let mut data: Map<String, Value> =
            Signers::NAMES.map(|name| (name.to_owned(), Value::Null)).into_iter().collect();
        for (name, text) in signers.kept() {
            data.insert(name.to_owned(), Value::from(STANDARD.encode(text.as_bytes())));
        }
        let patch = json!({"metadata": {"resourceVersion": version}, "data": data});
        match self.api().patch_metadata(&self.settings.secret, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(written) => Ok(Some(written.metadata.resource_version.unwrap_or_default())),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    fn what(&self) -> String {
        format!("Secret {}/{}", self.namespace, self.settings.secret)
    }

    fn failed(&self, error: &kube::Error) -> CertificateError {
        let missing = matches!(error, kube::Error::Api(status) if status.is_not_found());
        // Making it would take the right to make any Secret.
        let fix = if missing { "; create it empty, as manifests/base/certificates.yaml and the chart do" } else { "" };
        CertificateError::Api { what: self.what(), why: format!("{}{fix}", kind(error)) }
    }

    fn unusable(&self, why: AuthorityError) -> CertificateError {
        CertificateError::Unusable { what: self.what(), why }
    }
}
