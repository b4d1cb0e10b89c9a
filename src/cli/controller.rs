//! `postern controller`: wires the admission webhook.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tracing::level_filters::LevelFilter;

use super::injection::InjectionArgs;
use super::{INVALID, cluster, duration, level};
use crate::api::env::ADMIN_PORT;
use crate::config::controller::{Options, resolvers};
use crate::control::admission::settings::InjectionSettings;
use crate::control::certificate::CertificateFiles;
use crate::control::webhook::broker_ca::{BrokerCaKeeper, BrokerCaSource};
use crate::control::webhook::look_up::{LiveConfigMaps, WatchedNamespaces};
use crate::control::webhook::trust::{Trust, TrustKeeper};
use crate::control::webhook::{ConfigMapSearch, Webhook, WebhookSettings};
use crate::runtime::clock;
use crate::runtime::drain::DrainTrigger;
use crate::runtime::task::OwnedTask;
use crate::telemetry::admin::Admin;
use crate::telemetry::admission::AdmissionLog;
use crate::telemetry::logs::AccessLog;
use crate::telemetry::metrics::controller::ControllerMetrics;
use crate::tls::server::{self, ServerCertificate, Versions};

/// Add sidecars to the pods of a cluster: the admission webhook
///
/// The API server asks it about every pod that is to get a sidecar, and creates none that it does
/// not answer for. Any number of replicas work side by side.
///
/// Each signs its own certificate with an authority that all keep in a Secret, and writes that
/// authority into the caBundle of the webhook configuration, there only. The Secret must be there,
/// and may be empty: then the authority is made. With --cert-file and --key-file it uses those, and
/// reads them again as they are renewed; without --ca-file beside them, somebody else writes the
/// caBundle, such as cert-manager. It is ready while API servers trust the certificate it shows, by
/// the configuration as it was read back, and it knows the broker's certificates.
///
/// Standard output: one JSON line per admission. Standard error: diagnostics. SIGTERM or SIGINT makes
/// it not ready, and ends it after --linger, when all calls are answered.
///
/// Example, outside a cluster: postern controller --kubeconfig ~/.kube/config --namespace
/// postern-system --address 127.0.0.1:10250 --extra-name 127.0.0.1 --image
/// registry.example/postern:0.1.0 --broker
/// https://postern-broker.postern-system.svc.cluster.local:8443 --broker-ca broker-ca.crt --resolvers 10.96.0.10
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the API server calls
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 10250)))]
    address: SocketAddr,
    /// Where probes and metrics are
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, ADMIN_PORT)))]
    admin_address: SocketAddr,
    /// How to reach the API server; without it, as a pod of the cluster
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the controller and its Secret; without it, the pod's or the kubeconfig's
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// The Service that the API server calls it by: the names in its certificate
    #[arg(long, value_name = "NAME", default_value = "postern-injector")]
    service: String,
    /// The cluster's DNS domain, for the same
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// One more name or address in its certificate; may be given several times
    #[arg(long, value_name = "NAME")]
    extra_name: Vec<String>,
    /// The MutatingWebhookConfiguration that the API server calls it by
    #[arg(long, value_name = "NAME", default_value = "postern-injector")]
    webhook_configuration: String,
    /// The Secret that holds its authority
    #[arg(long, value_name = "NAME", default_value = "postern-webhook-cert")]
    cert_secret: String,
    /// A certificate chain of another authority, PEM, to be shown instead
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// The certificates of that authority, PEM, for the caBundle; without it, somebody else writes that
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    ca_file: Option<PathBuf>,
    /// Whether the ConfigMaps that a pod refers to are searched for stdio servers, and what a find
    /// means: off, warn or deny
    #[arg(long, value_name = "WHAT", default_value = "off", value_parser = search)]
    config_map_search: ConfigMapSearch,
    /// How long calls are still taken at the end: until no API server knows it any more
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    linger: Duration,
    /// How long all of the end may take
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    shutdown_grace: Duration,
    /// Diagnostics from this level on: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = level)]
    log_level: LevelFilter,
    #[command(flatten)]
    injection: InjectionArgs,
    /// The ConfigMap that the broker tells its CA certificates in (ca.crt); a change is injected from
    /// then on
    #[arg(long, value_name = "NAME", default_value = "postern-broker-ca", conflicts_with = "broker_ca")]
    broker_ca_config_map: String,
    /// The broker's CA certificates, PEM, from a file instead
    #[arg(long, value_name = "FILE")]
    broker_ca: Option<PathBuf>,
    /// The cluster's DNS servers, joined by commas; without it, those of the controller's own
    /// /etc/resolv.conf
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    resolvers: Vec<IpAddr>,
}

fn search(text: &str) -> Result<ConfigMapSearch, &'static str> {
    match text {
        "off" => Ok(ConfigMapSearch::Off),
        "warn" => Ok(ConfigMapSearch::Warn),
        "deny" => Ok(ConfigMapSearch::Deny),
        _ => Err("expected off, warn or deny"),
    }
}

pub(super) fn run(args: &Args) -> u8 {
    cluster::prepare(args.log_level);
    match injection(args) {
        Ok(injection) => cluster::run(serve(args, injection)),
        Err(problem) => {
            eprintln!("postern: {problem}");
            INVALID
        }
    }
}

/// What is injected, but for what the broker tells.
fn injection(args: &Args) -> Result<InjectionSettings, String> {
    const RESOLV_CONF: &str = "/etc/resolv.conf";
    if args.linger >= args.shutdown_grace {
        return Err("--linger has to be less than --shutdown-grace: its last calls are to be answered".into());
    }
    let read = |file: &Path| std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()));
    let mut settings = args.injection.settings(args.injection.extra_roots().map(read).transpose()?)?;
    settings.resolvers.clone_from(&args.resolvers);
    if args.resolvers.is_empty() {
        let ours = read(Path::new(RESOLV_CONF))?;
        let wrong = |error| format!("{RESOLV_CONF}: {error}; --resolvers ADDRESSES names the cluster's");
        settings.resolvers = resolvers(&ours).map_err(wrong)?;
    }
    Ok(settings)
}

async fn serve(args: &Args, injection: InjectionSettings) -> Result<(), String> {
    let mut signals = cluster::signals()?;
    let (client, namespace) = cluster::connect(args.kubeconfig.as_deref(), args.namespace.as_deref()).await?;
    let running = Running::start(args, injection, namespace, client).await?;
    signals.stop().await;
    running.leave();
    tracing::info!(linger = ?args.linger, "draining: calls are still answered");
    cluster::end(signals, running.stop(args.shutdown_grace)).await;
    Ok(())
}

/// A controller that runs.
struct Running {
    drain: DrainTrigger,
    state: Arc<State>,
    _tasks: Vec<OwnedTask>,
}

/// What readiness depends on.
struct State {
    stays: AtomicBool,
    knows_namespaces: AtomicBool,
    certificate: Arc<ServerCertificate>,
    trust: Arc<Trust>,
    injection: Arc<ArcSwap<InjectionSettings>>,
}

impl State {
    fn is_ready(&self) -> bool {
        let now = clock::wall();
        self.stays.load(Ordering::Acquire)
            && self.knows_namespaces.load(Ordering::Acquire)
            && self.certificate.validity().is_some_and(|validity| validity.holds(now))
            && self.trust.holds(now)
            && self.injection.load().broker_ca.is_some()
    }
}

impl Running {
    async fn start(
        args: &Args,
        injection: InjectionSettings,
        namespace: String,
        client: kube::Client,
    ) -> Result<Self, String> {
        let metrics = ControllerMetrics::new().map_err(|error| format!("the metrics cannot be declared: {error}"))?;
        let metrics = Arc::new(metrics);
        let lines = AccessLog::stdout().map_err(|error| format!("the admission log cannot be started: {error}"))?;
        let state = Arc::new(State {
            stays: AtomicBool::new(true),
            knows_namespaces: AtomicBool::new(false),
            certificate: Arc::default(),
            trust: Arc::default(),
            injection: Arc::new(ArcSwap::from_pointee(injection)),
        });
        let tls = server::settings(Arc::clone(&state.certificate), Versions::Both, &[b"http/1.1"])
            .map_err(|error| error.to_string())?;
        let cannot = |address: SocketAddr| move |error: io::Error| format!("cannot listen on {address}: {error}");
        let bind = async |address| {
            let listener = TcpListener::bind(address).await.map_err(cannot(address))?;
            let bound = listener.local_addr().map_err(cannot(address))?;
            Ok::<_, String>((listener, bound))
        };
        let (admin, admin_address) = bind(args.admin_address).await?;
        let (calls, address) = bind(args.address).await?;
        let namespaces = WatchedNamespaces::start(client.clone());
        let known = namespaces.ready();
        let settings = WebhookSettings {
            injection: Arc::clone(&state.injection),
            config_maps: args.config_map_search,
            linger: args.linger,
        };
        let config_maps = LiveConfigMaps::new(client.clone());
        let log = AdmissionLog::new(Arc::clone(&metrics), lines);
        let webhook = Webhook::new(settings, Box::new(namespaces), Box::new(config_maps), log);
        let drain = DrainTrigger::new();
        let seeing = Arc::clone(&state);
        let tasks = vec![
            OwnedTask::spawn(probes(&state, &metrics).serve(admin)),
            OwnedTask::spawn(async move {
                known.await;
                seeing.knows_namespaces.store(true, Ordering::Release);
            }),
            OwnedTask::spawn(broker_ca(args, &state, &namespace, &client).run()),
            OwnedTask::spawn(trust(args, &state, metrics, namespace, client).run()),
            OwnedTask::spawn(webhook.run(calls, tls, drain.watch())),
        ];
        tracing::info!(%address, admin = %admin_address, version = env!("CARGO_PKG_VERSION"), "listening");
        Ok(Self { drain, state, _tasks: tasks })
    }

    /// Not ready from now on: nobody new is to be sent here.
    fn leave(&self) {
        self.state.stays.store(false, Ordering::Release);
    }

    async fn stop(self, grace: Duration) -> bool {
        self.drain.run(grace).await
    }
}

fn broker_ca(args: &Args, state: &State, namespace: &str, client: &kube::Client) -> BrokerCaKeeper {
    let source = match &args.broker_ca {
        Some(file) => BrokerCaSource::File(file.clone()),
        None => BrokerCaSource::ConfigMap(args.broker_ca_config_map.clone()),
    };
    let injection = Arc::clone(&state.injection);
    BrokerCaKeeper { client: client.clone(), namespace: namespace.to_owned(), source, injection }
}

fn trust(
    args: &Args,
    state: &State,
    metrics: Arc<ControllerMetrics>,
    namespace: String,
    client: kube::Client,
) -> TrustKeeper {
    let pair = args.cert_file.clone().zip(args.key_file.clone());
    let options = Options {
        service: args.service.clone(),
        namespace: namespace.clone(),
        cluster_domain: args.cluster_domain.clone(),
        extra_names: args.extra_name.clone(),
        cert_secret: args.cert_secret.clone(),
        files: pair.map(|(chain, key)| CertificateFiles { authority: args.ca_file.clone(), chain, key }),
    };
    TrustKeeper {
        client,
        source: options.certificate(),
        namespace,
        configuration: args.webhook_configuration.clone(),
        certificate: Arc::clone(&state.certificate),
        trust: Arc::clone(&state.trust),
        metrics,
        clock: Arc::new(clock::wall),
    }
}

/// Started with the process: what it waits for then does not come sooner by another start.
fn probes(state: &Arc<State>, metrics: &Arc<ControllerMetrics>) -> Admin {
    let (state, metrics) = (Arc::clone(state), Arc::clone(metrics));
    Admin {
        metrics: Box::new(move || metrics.expose().ok()),
        started: Box::new(|| true),
        ready: Box::new(move || state.is_ready()),
    }
}
