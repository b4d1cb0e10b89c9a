//! How `check` reaches a cluster: as kubectl does, with the rights of whoever calls.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::cli::{FAILED, INVALID, runtime};
use crate::core::name::Namespace;
use crate::runtime::harden::harden;
use crate::tls::client::install_provider;

/// Which cluster.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The cluster")]
pub(super) struct AccessArgs {
    /// How to reach the API server; without it, what kubectl takes: $KUBECONFIG, ~/.kube/config, or in a
    /// pod its service account
    #[arg(long, value_name = "FILE", requires = "cluster")]
    kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig, instead of its current one
    #[arg(long, value_name = "NAME", requires = "cluster")]
    context: Option<String>,
    /// The namespace of Postern's installation
    #[arg(long, value_name = "NAME", default_value = "postern-system", value_parser = super::cluster::namespace)]
    #[arg(requires = "cluster")]
    pub(super) broker_namespace: Namespace,
}

/// An API server that answers.
pub(super) struct Reached {
    pub(super) client: Client,
    pub(super) url: String,
}

/// Why there is none.
enum Trouble {
    /// What was given does not say how to reach one.
    Given(String),
    /// It does not answer, or not us.
    Mute(String),
}

/// Connecting takes this long at most, and so does waiting for bytes.
const CONNECTING: Duration = Duration::from_secs(10);
const WAITING: Duration = Duration::from_secs(30);

impl AccessArgs {
    /// Does `work` with a client, or says why there is none and which exit code that is.
    pub(super) fn with_client<T>(&self, work: impl AsyncFnOnce(Reached) -> T) -> Result<T, u8> {
        harden();
        install_provider();
        let runtime = runtime()?;
        let done = runtime.block_on(async { Ok(work(self.reach().await?).await) });
        runtime.shutdown_timeout(Duration::from_millis(200));
        done.map_err(|trouble| {
            let (text, code) = match trouble {
                Trouble::Given(text) => (text, INVALID),
                Trouble::Mute(text) => (text, FAILED),
            };
            eprintln!("postern: {text}");
            code
        })
    }

    async fn reach(&self) -> Result<Reached, Trouble> {
        let mut config = self.config().await.map_err(Trouble::Given)?;
        config.connect_timeout = Some(CONNECTING);
        config.read_timeout = Some(WAITING);
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let client =
            Client::try_from(config).map_err(|error| Trouble::Given(format!("no client for {url}: {error}")))?;
        match client.apiserver_version().await {
            Err(kube::Error::Api(status)) if status.code == 401 => {
                Err(Trouble::Mute(format!("{url} does not take these credentials; kubectl auth whoami tells more")))
            }
            // Whatever else it answers: what matters is asked for later.
            Ok(_) | Err(kube::Error::Api(_)) => Ok(Reached { client, url }),
            Err(error) => Err(Trouble::Mute(format!("{url} cannot be reached{}", cause(&error)))),
        }
    }

    async fn config(&self) -> Result<kube::Config, String> {
        let wrong = |error: KubeconfigError| match error {
            // Its text could quote the file, which holds credentials.
            KubeconfigError::Parse(_) => "the kubeconfig is not one: it cannot be read as YAML of that form".to_owned(),
            KubeconfigError::ReadConfig(error, path) => format!("the kubeconfig {}: {}", path.display(), error.kind()),
            other => format!("the kubeconfig: {other}"),
        };
        let read = match &self.kubeconfig {
            Some(file) => Some(Kubeconfig::read_from(file).map_err(wrong)?),
            None => default_kubeconfig().map_err(wrong)?,
        };
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        match read {
            Some(read) => kube::Config::from_custom_kubeconfig(read, &options).await.map_err(wrong),
            None if self.context.is_some() => Err("there is no kubeconfig with that context".into()),
            None => kube::Config::incluster().map_err(|_| {
                "no cluster is known: $KUBECONFIG is not set, there is no ~/.kube/config, and this is no pod; \
                 --kubeconfig FILE names one"
                    .into()
            }),
        }
    }
}

/// The kubeconfig that kubectl takes, if there is one.
fn default_kubeconfig() -> Result<Option<Kubeconfig>, KubeconfigError> {
    if let Some(read) = Kubeconfig::from_env()? {
        return Ok(Some(read));
    }
    match Kubeconfig::read() {
        Ok(read) => Ok(Some(read)),
        Err(KubeconfigError::FindPath) => Ok(None),
        Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What stopped us, as far as it can be told without quoting what a plugin or a server wrote.
fn cause(error: &kube::Error) -> String {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            return match of_tls {
                Some(error) => format!(": {error}"),
                None => format!(": {}", error.kind()),
            };
        }
        next = error.source();
    }
    "; its credentials may have come to nothing".into()
}
