//! The broker's certificate: signed by an authority of its own, whose key stands in a Secret that
//! nobody else may read, and whose certificates are told to who injects sidecars.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::review::kind;
use crate::control::certificate::{CertificateError, CertificateSource, Certificates};
use crate::control::pace::Pace;
use crate::runtime::clock::Clock;
use crate::telemetry::session::SessionLog;
use crate::tls::server::ServerCertificate;

/// How often is looked whether somebody has changed what is kept.
const AGAIN: Duration = Duration::from_secs(300);

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
        let mut pace = Pace::new(AGAIN);
        loop {
            let round = self.round().await;
            if let Err(error) = &round {
                tracing::error!(%error, "the broker's certificate cannot be had or renewed");
            }
            tokio::time::sleep(pace.after(round.is_ok())).await;
        }
    }

    /// Looks once at what is kept and does what is due.
    pub async fn round(&self) -> Result<(), CertificateError> {
        let told = |which, end: SystemTime| self.log.metrics.certificate(which, end);
        let certificates = Certificates {
            client: &self.client,
            namespace: &self.namespace,
            source: &self.source,
            certificate: &self.certificate,
            told: &told,
        };
        let found = certificates.find((self.clock)()).await?;
        if let Some(leaf) = found.leaf {
            certificates.show(leaf);
        }
        match (found.bundle, &self.config_map) {
            (Some(bundle), Some(name)) => self.publish(name, &bundle).await,
            _ => Ok(()),
        }
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
}
