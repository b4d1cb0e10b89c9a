//! How the parts that run in a cluster reach its API server.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};

/// Reads how: from a kubeconfig, or as a pod of the cluster.
pub(super) async fn access(kubeconfig: Option<&Path>) -> Result<kube::Config, String> {
    let Some(file) = kubeconfig else {
        return kube::Config::incluster()
            .map_err(|error| format!("this is no pod of a cluster ({error}); --kubeconfig FILE names one"));
    };
    let wrong = |error| format!("{}: {error}", file.display());
    let read = Kubeconfig::read_from(file).map_err(wrong)?;
    kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(wrong)
}

/// A client for it.
pub(super) fn client(access: kube::Config) -> Result<kube::Client, String> {
    kube::Client::try_from(access).map_err(|error| format!("no client for the API server: {error}"))
}
