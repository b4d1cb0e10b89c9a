//! The broker's certificate: signed by an authority of its own, whose key stands in a Secret that
//! nobody else may read. Every replica signs for itself; nothing but the authority is shared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Map, Value, json};
use zeroize::Zeroize as _;

use super::admit::Clock;
use super::review::kind;
use crate::runtime::random;
use crate::telemetry::session::SessionLog;
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
    /// The names that sidecars call us by.
    pub names: Vec<String>,
}

const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
const LEAF_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// How often is looked whether somebody has changed what is kept.
const AGAIN: Duration = Duration::from_secs(300);
/// After a failure, first and at most.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
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
    /// What is kept or read cannot be used. It is left as it is: it may be what sidecars trust.
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
    /// Others write the Secret all the time.
    #[error("the Secret changes faster than it can be written")]
    Race,
}

/// Keeps the certificate.
pub struct CertificateKeeper {
    /// For the Secret and the ConfigMap.
    pub client: kube::Client,
    /// Where it comes from.
    pub source: CertificateSource,
    /// The namespace of the Secret and the ConfigMap. Neither is ever made: both must be there.
    pub namespace: String,
    /// The ConfigMap that tells the authority's certificates to who injects sidecars, under
    /// `ca.crt`.
    pub config_map: Option<String>,
    /// Where it goes.
    pub certificate: Arc<ServerCertificate>,
    /// Where its end is told.
    pub log: Arc<SessionLog>,
    /// The time of day.
    pub clock: Clock,
}

impl CertificateKeeper {
    /// Keeps it until dropped.
    pub async fn run(self) {
        let (mut signer, [mut retry, most]) = (String::new(), RETRY);
        loop {
            let pause = match self.round(&mut signer).await {
                Ok(()) => {
                    retry = RETRY[0];
                    AGAIN
                }
                Err(error) => {
                    tracing::error!(%error, "the broker's certificate cannot be had or renewed");
                    retry = (retry * 2).min(most);
                    retry
                }
            };
            tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * random::fraction())).await;
        }
    }

    /// Looks once at what is kept and does what is due. `signer` is the certificate that signed
    /// the present leaf.
    pub async fn round(&self, signer: &mut String) -> Result<(), CertificateError> {
        let bundle = match &self.source {
            CertificateSource::Files(files) => self.read_files(files)?,
            CertificateSource::Authority(settings) => Some(self.sign(settings, signer).await?),
        };
        match (bundle, &self.config_map) {
            (Some(bundle), Some(name)) => self.publish(name, &bundle).await,
            _ => Ok(()),
        }
    }

    fn read_files(&self, files: &CertificateFiles) -> Result<Option<String>, CertificateError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| CertificateError::File(path.display().to_string(), error.kind()))
        };
        let (chain, mut key) = (read(&files.chain)?, read(&files.key)?);
        let leaf = Leaf::from_pem(&chain, &key);
        key.zeroize();
        let what = || format!("{} and {}", files.chain.display(), files.key.display());
        self.put(leaf.map_err(|why| CertificateError::Unusable { what: what(), why })?);
        let authority = files.authority.as_deref().map(read).transpose()?;
        Ok(authority.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn sign(&self, settings: &AuthoritySettings, signer: &mut String) -> Result<String, CertificateError> {
        let now = (self.clock)();
        let kept = Kept { client: &self.client, namespace: &self.namespace, secret: &settings.secret };
        let signers = kept.signers(now).await?;
        let current = &signers.current;
        self.log.metrics.certificate("authority", current.validity().not_after);
        let fresh = self.certificate.renew_at().is_some_and(|at| now < at);
        if !fresh || *signer != current.certificate() {
            let leaf = current.issue(&settings.names, LEAF_LIFE, now).map_err(|why| kept.unusable(why))?;
            self.put(leaf);
            current.certificate().clone_into(signer);
        }
        Ok(signers.bundle())
    }

    /// Tells the certificates, and no key.
    async fn publish(&self, name: &str, bundle: &str) -> Result<(), CertificateError> {
        let failed = |error: kube::Error| CertificateError::Api {
            what: format!("ConfigMap {}/{name}", self.namespace),
            why: kind(&error),
        };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let told = api.get(name).await.map_err(failed)?;
        if told.data.as_ref().and_then(|data| data.get("ca.crt")).is_some_and(|told| told == bundle) {
            return Ok(());
        }
        let patch = json!({"data": {"ca.crt": bundle}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop).map_err(failed)
    }

    fn put(&self, leaf: Leaf) {
        self.log.metrics.certificate("server", leaf.validity().not_after);
        self.certificate.put(leaf);
    }
}

/// The authority as it is kept.
struct Kept<'a> {
    client: &'a kube::Client,
    namespace: &'a str,
    secret: &'a str,
}

impl Kept<'_> {
    /// The signers as all replicas have them at `now`.
    async fn signers(&self, now: SystemTime) -> Result<Signers, CertificateError> {
        for _ in 0..RACES {
            let (kept, version) = self.read().await?;
            let (signers, changed) = self.due(kept, now)?;
            if !changed || self.write(&signers, &version).await? {
                return Ok(signers);
            }
        }
        Err(CertificateError::Race)
    }

    /// What should be kept, and whether that is something else than what is.
    fn due(&self, kept: Option<Signers>, now: SystemTime) -> Result<(Signers, bool), CertificateError> {
        let fresh = || Authority::new("Postern broker", AUTHORITY_LIFE, now).map_err(|why| self.unusable(why));
        let Some(mut signers) = kept else {
            tracing::info!(secret = self.secret, "making the broker's authority: its Secret is empty");
            return Ok((Signers { current: fresh()?, next: None }, true));
        };
        match signers.due(now) {
            Due::Nothing => return Ok((signers, false)),
            Due::Next => signers.next = Some(fresh()?),
            Due::TakeOver => {
                if let Some(next) = signers.next.take() {
                    signers.current = next;
                }
            }
        }
        tracing::info!(secret = self.secret, "the broker's authority goes a step on to the next one");
        Ok((signers, true))
    }

    async fn read(&self) -> Result<(Option<Signers>, String), CertificateError> {
        let secret = self.api().get(self.secret).await.map_err(|error| self.failed(&error))?;
        let mut data: BTreeMap<String, Vec<u8>> =
            secret.data.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0)).collect();
        let signers = Signers::read(&data);
        data.values_mut().for_each(|value| value.zeroize());
        let signers = signers.map_err(|why| self.unusable(why))?;
        Ok((signers, secret.metadata.resource_version.unwrap_or_default()))
    }

    /// Writes over what was read. `false` if it is not the same any more.
    async fn write(&self, signers: &Signers, version: &str) -> Result<bool, CertificateError> {
        // What is not kept any more is removed.
        let mut data: Map<String, Value> =
            Signers::NAMES.map(|name| (name.to_owned(), Value::Null)).into_iter().collect();
        for (name, text) in signers.kept() {
            data.insert(name.to_owned(), Value::from(STANDARD.encode(text.as_bytes())));
        }
        let patch = json!({"metadata": {"resourceVersion": version}, "data": data});
        match self.api().patch(self.secret, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    fn what(&self) -> String {
        format!("Secret {}/{}", self.namespace, self.secret)
    }

    fn failed(&self, error: &kube::Error) -> CertificateError {
        CertificateError::Api { what: self.what(), why: kind(error) }
    }

    fn unusable(&self, why: AuthorityError) -> CertificateError {
        CertificateError::Unusable { what: self.what(), why }
    }
}
