//! What the parts that run in a cluster have in common as processes.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use tracing::level_filters::LevelFilter;

use super::sidecar::Signals;
use super::{FAILED, OK, runtime};
use crate::runtime::harden::harden;
use crate::telemetry::logs::{self, LogSettings};
use crate::tls::client::install_provider;

/// What comes before anything else.
pub(super) fn prepare(level: LevelFilter) {
    logs::init(LogSettings { level, format: None });
    harden();
    install_provider();
}

/// Runs a part to its end, and gives the exit code.
pub(super) fn run(part: impl Future<Output = Result<(), String>>) -> u8 {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let code = runtime.block_on(async {
        match part.await {
            Ok(()) => OK,
            Err(error) => {
                eprintln!("postern: {error}");
                FAILED
            }
        }
    });
    // What still runs has had its grace.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

/// A client for the API server, by a kubeconfig or as a pod of the cluster, and the namespace that
/// is our own: as given, or as the same says.
pub(super) async fn connect(
    kubeconfig: Option<&Path>,
    namespace: Option<&str>,
) -> Result<(kube::Client, String), String> {
    let access = access(kubeconfig).await?;
    let namespace = namespace.unwrap_or(&access.default_namespace).to_owned();
    let client = kube::Client::try_from(access).map_err(|error| format!("no client for the API server: {error}"))?;
    Ok((client, namespace))
}

async fn access(kubeconfig: Option<&Path>) -> Result<kube::Config, String> {
    let Some(file) = kubeconfig else {
        return kube::Config::incluster()
            .map_err(|error| format!("this is no pod of a cluster ({error}); --kubeconfig FILE names one"));
    };
    let wrong = |error| format!("{}: {error}", file.display());
    let read = Kubeconfig::read_from(file).map_err(wrong)?;
    kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(wrong)
}

/// The signals that stop us; from now on none is lost.
pub(super) fn signals() -> Result<Signals, String> {
    Signals::new().map_err(|error| format!("signals cannot be handled: {error}"))
}

/// Lets an orderly end take its time, unless it is told to stop once more.
pub(super) async fn end(mut signals: Signals, quiet: impl Future<Output = bool>) {
    tokio::select! {
        quiet = quiet => tracing::info!(quiet, "stopped"),
        () = signals.stop() => tracing::warn!("stopped at once by a second signal"),
    }
}
