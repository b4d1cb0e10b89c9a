//! What API servers trust the webhook by: the `caBundle` of the configuration that they call it by.
//!
//! An API server that does not trust us refuses every pod that asks for a sidecar. So what signs a
//! certificate stands in the configuration before the certificate is shown, and the webhook is ready
//! only while the configuration, as it was read back, leads to what is shown.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration, WebhookClientConfig};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::control::broker::kind;
use crate::control::certificate::{CertificateError, CertificateSource, Certificates, Found};
use crate::control::change::changed;
use crate::control::pace::Pace;
use crate::runtime::clock::Clock;
use crate::telemetry::metrics::controller::ControllerMetrics;
use crate::tls::authority::{Distrust, Leaf};
use crate::tls::server::ServerCertificate;

/// Who we are to the API server where it notes who wrote a field.
pub const FIELD_MANAGER: &str = "postern-webhook";

/// For all of a round. What is left of it is for the next one.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often is looked, whatever the watch says.
const AGAIN: Duration = Duration::from_secs(60);
/// What was seen counts for so long where the API server cannot be asked.
const STALE: Duration = Duration::from_secs(600);
/// How often in a row a field that someone else writes is written over at once ...
const REPAIRS: u32 = 5;
/// ... and then no more often than this.
const SLOW: Duration = Duration::from_secs(30);

/// Whether API servers trust what is shown, as far as was seen.
#[derive(Debug, Default)]
pub struct Trust(watch::Sender<Option<SystemTime>>);

impl Trust {
    /// Whether they do at `now`. What was not seen for a while is not known.
    pub fn holds(&self, now: SystemTime) -> bool {
        self.0.borrow().is_some_and(|seen| now.duration_since(seen).unwrap_or_default() <= STALE)
    }

    fn seen(&self, at: Option<SystemTime>) -> Option<SystemTime> {
        self.0.send_replace(at)
    }
}

/// Why an API server does not believe the webhook.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// Nothing is shown.
    #[error("there is no certificate to show yet")]
    NoCertificate,
    /// Nobody calls us.
    #[error("there is no webhook in it")]
    NoWebhook,
    /// A webhook says nothing about whom to trust.
    #[error("webhook {0} has no caBundle")]
    NoBundle(String),
    /// A webhook's bundle does not lead to what is shown.
    #[error("webhook {webhook} calls {name}, and its caBundle does not fit what is shown there: {why}")]
    Distrusted {
        /// The webhook.
        webhook: String,
        /// The name that it calls.
        name: String,
        /// What does not fit.
        why: Distrust,
    },
}

/// Keeps the webhook's certificate, and the API servers' trust in it. Any number of replicas may.
pub struct TrustKeeper {
    /// For the Secret and the configuration.
    pub client: kube::Client,
    /// Where the certificate comes from.
    pub source: CertificateSource,
    /// The namespace of the Secret. It must be there.
    pub namespace: String,
    /// The MutatingWebhookConfiguration that API servers call us by.
    pub configuration: String,
    /// Where the certificate goes.
    pub certificate: Arc<ServerCertificate>,
    /// What is known of the API servers' trust.
    pub trust: Arc<Trust>,
    /// Where both are told.
    pub metrics: Arc<ControllerMetrics>,
    /// The time of day.
    pub clock: Clock,
}

/// What a round has come to.
#[derive(Debug)]
pub struct Seen {
    /// Whether a field had to be written.
    pub repaired: bool,
    configuration: String,
    secret: Option<String>,
}

impl TrustKeeper {
    /// Keeps both until dropped.
    pub async fn run(self) {
        let (mut pace, mut repairs) = (Pace::new(AGAIN), 0);
        loop {
            let round = self.round().await;
            let pause = pace.after(round.is_ok());
            let repaired = round.as_ref().is_ok_and(|seen| seen.repaired);
            repairs += u32::from(repaired);
            let fought = repairs > REPAIRS;
            if fought && repaired {
                tracing::error!(configuration = self.configuration, "somebody else writes the caBundle all the time");
            }
            let news = async {
                match &round {
                    Ok(seen) if !fought => self.changed(seen).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(if fought { SLOW } else { pause }) => {
                    if !(fought && repaired) {
                        repairs = 0;
                    }
                }
                () = news => {}
            }
        }
    }

    /// Looks once at what is kept and what is configured, and does what is due.
    pub async fn round(&self) -> Result<Seen, CertificateError> {
        let result = tokio::time::timeout(PATIENCE, self.looked()).await;
        let result = result.unwrap_or(Err(CertificateError::Slow(PATIENCE)));
        if let Err(error) = &result {
            tracing::error!(%error, "the webhook's certificate, or the trust in it, cannot be kept");
        }
        self.metrics.ca_bundle_in_sync(self.trust.holds((self.clock)()));
        result
    }

    async fn looked(&self) -> Result<Seen, CertificateError> {
        // First what a write will be conditional on: whoever has seen a newer authority since, and
        // told it, has changed that.
        let mut live = self.look().await?;
        let result = self.act(&mut live).await;
        self.judge(&live);
        result
    }

    async fn act(&self, live: &mut MutatingWebhookConfiguration) -> Result<Seen, CertificateError> {
        let told = |which, end: SystemTime| self.metrics.certificate(which, end);
        let certificates = Certificates {
            client: &self.client,
            namespace: &self.namespace,
            source: &self.source,
            certificate: &self.certificate,
            told: &told,
        };
        let Found { bundle, leaf, version } = certificates.find((self.clock)()).await?;
        let repaired = match &bundle {
            Some(bundle) => self.tell(live, bundle).await?,
            None => false,
        };
        let is_trusted = |leaf: &Leaf| verdict(live, leaf, (self.clock)()).is_ok();
        let keeps = || self.certificate.leaf().is_some_and(|present| is_trusted(&present));
        if let Some(leaf) = leaf
            && (is_trusted(&leaf) || !keeps())
        {
            certificates.show(leaf);
        }
        Ok(Seen { repaired, configuration: live.resource_version().unwrap_or_default(), secret: version })
    }

    /// Writes the bundle where another one stands, and reads it back. Whether it had to.
    async fn tell(&self, live: &mut MutatingWebhookConfiguration, bundle: &str) -> Result<bool, CertificateError> {
        let Some(fields) = due(live, bundle.as_bytes()) else { return Ok(false) };
        let write = PatchParams::apply(FIELD_MANAGER).force();
        match self.configurations().patch_metadata(&self.configuration, &write, &Patch::Apply(&fields)).await {
            Ok(_) => tracing::info!(configuration = self.configuration, "the caBundle is written"),
            Err(kube::Error::Api(status)) if status.is_conflict() => return Err(CertificateError::Race(self.what())),
            Err(error) => return Err(self.failed(&error)),
        }
        *live = self.look().await?;
        if due(live, bundle.as_bytes()).is_some() { Err(CertificateError::Race(self.what())) } else { Ok(true) }
    }

    fn judge(&self, live: &MutatingWebhookConfiguration) {
        let now = (self.clock)();
        let leaf = self.certificate.leaf().ok_or(Untrusted::NoCertificate);
        match leaf.and_then(|leaf| verdict(live, &leaf, now)) {
            Ok(()) => {
                if self.trust.seen(Some(now)).is_none() {
                    tracing::info!(configuration = self.configuration, "API servers trust what is shown");
                }
            }
            Err(error) => {
                self.trust.seen(None);
                tracing::error!(configuration = self.configuration, %error, "API servers cannot call the webhook");
            }
        }
    }

    async fn changed(&self, seen: &Seen) {
        let (configurations, secrets) = (self.configurations(), self.secrets());
        let secret = async {
            match (&self.source, &seen.secret) {
                (CertificateSource::Authority(settings), Some(version)) => {
                    changed(&secrets, &settings.secret, version).await;
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed(&configurations, &self.configuration, &seen.configuration) => {}
            () = secret => {}
        }
    }

    async fn look(&self) -> Result<MutatingWebhookConfiguration, CertificateError> {
        self.configurations().get(&self.configuration).await.map_err(|error| self.failed(&error))
    }

    fn configurations(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn what(&self) -> String {
        format!("MutatingWebhookConfiguration {}", self.configuration)
    }

    fn failed(&self, error: &kube::Error) -> CertificateError {
        CertificateError::Api { what: self.what(), why: kind(error) }
    }
}

/// The fields that are ours to write, if one of them is another than it should be. What we once wrote
/// and leave out would be removed, so it is all of them.
fn due(live: &MutatingWebhookConfiguration, bundle: &[u8]) -> Option<Value> {
    let webhooks = live.webhooks.as_deref().unwrap_or_default();
    let differs = |webhook: &MutatingWebhook| bundle_of(webhook) != Some(bundle);
    webhooks.iter().any(differs).then(|| {
        let encoded = BASE64_STANDARD.encode(bundle);
        let field = |webhook: &MutatingWebhook| json!({"name": webhook.name, "clientConfig": {"caBundle": encoded}});
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": live.name_any(), "resourceVersion": live.resource_version()},
            "webhooks": webhooks.iter().map(field).collect::<Vec<_>>(),
        })
    })
}

fn bundle_of(webhook: &MutatingWebhook) -> Option<&[u8]> {
    webhook.client_config.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()).filter(|bundle| !bundle.is_empty())
}

/// Whether an API server that calls us as is configured believes the certificate.
fn verdict(live: &MutatingWebhookConfiguration, leaf: &Leaf, now: SystemTime) -> Result<(), Untrusted> {
    let webhooks = live.webhooks.as_deref().unwrap_or_default();
    if webhooks.is_empty() {
        return Err(Untrusted::NoWebhook);
    }
    for webhook in webhooks {
        let bundle = bundle_of(webhook).ok_or_else(|| Untrusted::NoBundle(webhook.name.clone()))?;
        let name = called(&webhook.client_config);
        let distrusted = |why| Untrusted::Distrusted { webhook: webhook.name.clone(), name: name.clone(), why };
        leaf.believed(bundle, &name, now).map_err(distrusted)?;
    }
    Ok(())
}

/// The name that an API server expects in the certificate.
fn called(config: &WebhookClientConfig) -> String {
    if let Some(service) = &config.service {
        return format!("{}.{}.svc", service.name, service.namespace);
    }
    let url = config.url.as_deref().and_then(|url| url.parse::<http::Uri>().ok());
    let host = url.as_ref().and_then(http::Uri::host).unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

#[cfg(test)]
#[path = "trust_tests.rs"]
mod tests;
