//! The broker's certificates, as sidecars are to trust them: from the ConfigMap that the broker writes,
//! or from a file. What changes there is injected from then on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::Api;

use crate::control::admission::settings::InjectionSettings;
use crate::control::broker::kind;
use crate::control::change::changed;
use crate::control::pace::Pace;
use crate::tls::client::parse_bundle;

/// Where the certificates are told.
#[derive(Debug, Clone)]
pub enum BrokerCaSource {
    /// In a ConfigMap, under `ca.crt`.
    ConfigMap(String),
    /// In a file.
    File(PathBuf),
}

/// How often is looked, whatever the watch says.
const AGAIN: Duration = Duration::from_secs(60);

/// Why the certificates are not known.
#[derive(Debug, thiserror::Error)]
pub enum BrokerCaError {
    /// The API server says no, or nothing.
    #[error("ConfigMap {0}: {1}")]
    Api(String, String),
    /// The file cannot be read.
    #[error("{0}: {1}")]
    File(String, std::io::ErrorKind),
    /// There is something else, or nothing.
    #[error("{0}: expected PEM certificates")]
    NoCertificates(String),
}

/// Keeps what is injected in step with what the broker tells.
pub struct BrokerCaKeeper {
    /// For the ConfigMap.
    pub client: kube::Client,
    /// The namespace of the ConfigMap.
    pub namespace: String,
    /// Where the certificates are told.
    pub source: BrokerCaSource,
    /// Where they go.
    pub injection: Arc<ArcSwap<InjectionSettings>>,
}

impl BrokerCaKeeper {
    /// Keeps it until dropped.
    pub async fn run(self) {
        let mut pace = Pace::new(AGAIN);
        loop {
            let round = self.round().await;
            if let Err(error) = &round {
                let known = self.injection.load().broker_ca.is_some();
                tracing::error!(%error, known, "the broker's certificates cannot be read");
            }
            let news = async {
                match (&round, &self.source) {
                    (Ok(Some(version)), BrokerCaSource::ConfigMap(name)) => changed(&self.api(), name, version).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pace.after(round.is_ok())) => {}
                () = news => {}
            }
        }
    }

    /// Looks once. What was known stays so where nothing better is told.
    async fn round(&self) -> Result<Option<String>, BrokerCaError> {
        let (told, at, version) = match &self.source {
            BrokerCaSource::ConfigMap(name) => {
                let at = format!("{}/{name}", self.namespace);
                let found = self.api().get(name).await;
                let map = found.map_err(|error| BrokerCaError::Api(at.clone(), kind(&error)))?;
                let told = map.data.and_then(|mut data| data.remove("ca.crt")).unwrap_or_default();
                (told, format!("ConfigMap {at}, ca.crt"), map.metadata.resource_version)
            }
            BrokerCaSource::File(path) => {
                let at = path.display().to_string();
                let text = std::fs::read_to_string(path);
                (text.map_err(|error| BrokerCaError::File(at.clone(), error.kind()))?, at, None)
            }
        };
        parse_bundle(told.as_bytes()).map_err(|_| BrokerCaError::NoCertificates(at))?;
        let present = self.injection.load_full();
        if present.broker_ca.as_deref() != Some(&told) {
            tracing::info!(first = present.broker_ca.is_none(), "the broker's certificates are injected from now on");
            self.injection.store(Arc::new(InjectionSettings { broker_ca: Some(told), ..(*present).clone() }));
        }
        Ok(version)
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
