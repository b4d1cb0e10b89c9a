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

/// The API server is given this long.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often is looked, whatever the watch says.
const AGAIN: Duration = Duration::from_secs(60);

/// Why nothing is told.
#[derive(Debug, thiserror::Error)]
pub enum BrokerCaError {
    /// The API server says no, or nothing.
    #[error("ConfigMap {0}: {1}")]
    Api(String, String),
    /// The file cannot be read.
    #[error("{0}: {1}")]
    File(String, std::io::ErrorKind),
}

/// What stands where the certificates are told.
struct Told {
    text: String,
    at: String,
    /// The ConfigMap's.
    version: Option<String>,
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
            let told = self.look().await;
            match &told {
                Ok(told) => self.take(told),
                Err(error) => tracing::error!(%error, "the broker's certificates cannot be read"),
            }
            let news = async {
                match (&told, &self.source) {
                    (Ok(Told { version: Some(version), .. }), BrokerCaSource::ConfigMap(name)) => {
                        changed(&self.api(), name, version).await;
                    }
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pace.after(told.is_ok())) => {}
                () = news => {}
            }
        }
    }

    async fn look(&self) -> Result<Told, BrokerCaError> {
        match &self.source {
            BrokerCaSource::ConfigMap(name) => {
                let at = format!("{}/{name}", self.namespace);
                let answer = tokio::time::timeout(PATIENCE, self.api().get(name)).await;
                let found =
                    answer.map_err(|_| BrokerCaError::Api(at.clone(), format!("no answer within {PATIENCE:?}")))?;
                let map = found.map_err(|error| BrokerCaError::Api(at.clone(), kind(&error)))?;
                let text = map.data.and_then(|mut data| data.remove("ca.crt")).unwrap_or_default();
                Ok(Told { text, at: format!("ConfigMap {at}, ca.crt"), version: map.metadata.resource_version })
            }
            BrokerCaSource::File(path) => {
                let at = path.display().to_string();
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| BrokerCaError::File(at.clone(), error.kind()))?;
                Ok(Told { text, at, version: None })
            }
        }
    }

    /// What was known stays so where nothing better is told.
    fn take(&self, told: &Told) {
        let present = self.injection.load_full();
        let (at, known) = (&told.at, present.broker_ca.is_some());
        if parse_bundle(told.text.as_bytes()).is_err() {
            tracing::warn!(at, known, "no certificates of the broker are told there (PEM)");
        } else if present.broker_ca.as_ref() != Some(&told.text) {
            tracing::info!(at, changed = known, "the broker's certificates are injected from now on");
            let broker_ca = Some(told.text.clone());
            self.injection.store(Arc::new(InjectionSettings { broker_ca, ..(*present).clone() }));
        }
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
