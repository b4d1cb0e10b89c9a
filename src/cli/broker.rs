//! `postern broker`: wires the only part that reads credentials in a cluster.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::level_filters::LevelFilter;

use super::{cluster, duration, level, variable};
use crate::api::env::{ADMIN_PORT, POD_NAME};
use crate::config::broker::{Options, Settings};
use crate::control::broker::{Broker, CertificateKeeper, Parts};
use crate::control::certificate::CertificateFiles;
use crate::control::heard::Heard;
use crate::control::status::{Board, LeaseSettings, LeaseTimes, StatusKeeper, StatusTimes};
use crate::control::views::Views;
use crate::control::watch::{Watch, WatchParts};
use crate::runtime::clock;
use crate::runtime::drain::{Drain, DrainTrigger};
use crate::runtime::task::OwnedTask;
use crate::telemetry::admin::Admin;
use crate::telemetry::logs::AccessLog;
use crate::telemetry::metrics::broker::BrokerMetrics;
use crate::telemetry::session::SessionLog;
use crate::tls::server::ServerCertificate;

/// Serve credentials to the sidecars of a cluster
///
/// The only part that reads credential Secrets. A sidecar proves its pod with the token that the
/// kubelet mounted into it; the broker lets the API server review that token and streams what the
/// pod's service account has, and nothing else.
///
/// It signs its own certificate with an authority that it keeps in a Secret of its namespace. The
/// Secret must be there, and may be empty: then the authority is made. With --cert-file and
/// --key-file it uses those instead, and reads them again as they are renewed.
///
/// It watches the bindings of the whole cluster, and in each namespace that has one the Secrets labelled
/// postern.dev/credential: "true" and the ConfigMaps labelled postern.dev/ca-bundle: "true", as far
/// as a RoleBinding there allows it; where none does, the bindings' calls are refused.
///
/// The replica that holds the Lease tells each binding's status and Events.
///
/// Standard output: one JSON line per stream, when it ends. Standard error: diagnostics. SIGTERM or
/// SIGINT sends all sidecars elsewhere and ends when they have gone, or after --shutdown-grace.
///
/// Example, outside a cluster: postern broker --kubeconfig ~/.kube/config --namespace
/// postern-system --address 127.0.0.1:8443
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where sidecars call
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443)))]
    address: SocketAddr,
    /// Where probes and metrics are
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, ADMIN_PORT)))]
    admin_address: SocketAddr,
    /// How to reach the API server; without it, as a pod of the cluster
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace of the broker and its Secret; without it, the pod's or the kubeconfig's
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// The Service that sidecars call it by: the names in its certificate
    #[arg(long, value_name = "NAME", default_value = "postern-broker")]
    service: String,
    /// The cluster's DNS domain, for the same
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// One more name or address in its certificate; may be given several times
    #[arg(long, value_name = "NAME")]
    extra_name: Vec<String>,
    /// The Secret that holds its authority
    #[arg(long, value_name = "NAME", default_value = "postern-broker-ca")]
    ca_secret: String,
    /// A ConfigMap that is told the authority's certificates (ca.crt), for who injects sidecars
    #[arg(long, value_name = "NAME")]
    ca_config_map: Option<String>,
    /// The certificates of another authority, PEM, to be told instead
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    ca_file: Option<PathBuf>,
    /// A certificate chain of another authority, PEM, to be shown instead
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// The Lease by which one of all replicas writes the status of bindings; it must be there
    #[arg(long, value_name = "NAME", default_value = "postern-broker-status")]
    lease: String,
    /// How often a sidecar hears something
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    heartbeat: Duration,
    /// How long one stream may last; the sidecar has opened the next one by then
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    stream_life: Duration,
    /// How long the API server's yes to a token is remembered, 60s at most
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    remember: Duration,
    /// Connections at once
    #[arg(long, value_name = "NUMBER", default_value_t = 40_000)]
    max_connections: usize,
    /// Streams of one service account at once
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    max_streams_per_account: usize,
    /// Streams that one service account may begin in a second; ten times as many at once
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    account_rate: u32,
    /// Token reviews under way at once
    #[arg(long, value_name = "NUMBER", default_value_t = 64)]
    max_reviews: usize,
    /// How often each watch on the API server is asked for anew: so soon does the broker see that a right to read
    /// Secrets was taken back, or that a connection died silently
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    watch_renewal: Duration,
    /// How long sidecars have to go elsewhere at the end
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    shutdown_grace: Duration,
    /// Diagnostics from this level on: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = level)]
    log_level: LevelFilter,
}

pub(super) fn run(args: &Args) -> u8 {
    cluster::prepare(args.log_level);
    cluster::run(serve(args))
}

async fn serve(args: &Args) -> Result<(), String> {
    let mut signals = cluster::signals()?;
    let (client, namespace) = cluster::connect(args.kubeconfig.as_deref(), args.namespace.as_deref()).await?;
    let running = Running::start(args, namespace, client).await?;
    signals.stop().await;
    running.leave();
    tracing::info!(grace = ?args.shutdown_grace, "draining: sidecars are sent elsewhere");
    cluster::end(signals, running.stop(args.shutdown_grace)).await;
    Ok(())
}

/// A broker that runs.
struct Running {
    drain: DrainTrigger,
    ready: Arc<AtomicBool>,
    log: Arc<SessionLog>,
    _tasks: Vec<OwnedTask>,
}

impl Running {
    async fn start(args: &Args, namespace: String, client: kube::Client) -> Result<Self, String> {
        let Settings { broker, certificate: source } = options(args, namespace.clone()).settings();
        let metrics = BrokerMetrics::new().map_err(|error| format!("the metrics cannot be declared: {error}"))?;
        let lines = AccessLog::stdout().map_err(|error| format!("the session log cannot be started: {error}"))?;
        let log = Arc::new(SessionLog::new(metrics, lines));
        let (views, certificate) = (Views::default(), Arc::new(ServerCertificate::default()));
        let board = Board::default();
        let (watch, heard) = watch(args, client.clone(), &views, &board, &log);
        let drain = DrainTrigger::new();
        let parts = Parts {
            views: views.clone(),
            heard: heard.clone(),
            review: Arc::new(client.clone()),
            certificate: Arc::clone(&certificate),
            log: Arc::clone(&log),
            clock: Arc::new(clock::wall),
        };
        let cannot = |address: SocketAddr| move |error: io::Error| format!("cannot listen on {address}: {error}");
        let admin = TcpListener::bind(args.admin_address).await.map_err(cannot(args.admin_address))?;
        let admin_address = admin.local_addr().map_err(cannot(args.admin_address))?;
        let broker = Broker::bind(broker, parts, drain.watch()).await.map_err(cannot(args.address))?;
        let status = status(args, client.clone(), &namespace, board, &log, drain.watch());
        let keeper = CertificateKeeper {
            client,
            source,
            namespace,
            config_map: args.ca_config_map.clone(),
            certificate: Arc::clone(&certificate),
            log: Arc::clone(&log),
            clock: Arc::new(clock::wall),
        };
        let ready = Arc::new(AtomicBool::new(true));
        let probes = probes(&log, views, &certificate, heard, &ready);
        tracing::info!(address = %broker.address, admin = %admin_address, version = env!("CARGO_PKG_VERSION"), "listening");
        let tasks = vec![
            OwnedTask::spawn(probes.serve(admin)),
            OwnedTask::spawn(keeper.run()),
            OwnedTask::spawn(watch.run()),
            OwnedTask::spawn(status.run()),
            OwnedTask::spawn(broker.run()),
        ];
        Ok(Self { drain, ready, log, _tasks: tasks })
    }

    /// Not ready from now on: nobody new is to be sent here.
    fn leave(&self) {
        self.ready.store(false, Ordering::Release);
    }

    async fn stop(self, grace: Duration) -> bool {
        let quiet = self.drain.run(grace).await;
        drop(self.log);
        quiet
    }
}

/// Follows the cluster, into the views and onto the board.
fn watch(
    args: &Args,
    client: kube::Client,
    views: &Views,
    board: &Board,
    log: &Arc<SessionLog>,
) -> (Watch, watch::Receiver<Heard>) {
    let board = board.clone();
    Watch::new(WatchParts {
        client,
        views: views.clone(),
        on_facts: Box::new(move |id, facts| board.put(id, facts)),
        log: Arc::clone(log),
        clock: Arc::new(clock::wall),
        renewal: args.watch_renewal,
    })
}

/// Keeps the status of bindings, when it is this replica's turn.
fn status(
    args: &Args,
    client: kube::Client,
    namespace: &str,
    board: Board,
    log: &Arc<SessionLog>,
    drain: Drain,
) -> StatusKeeper {
    StatusKeeper {
        client,
        board,
        lease: LeaseSettings {
            namespace: namespace.to_owned(),
            name: args.lease.clone(),
            times: LeaseTimes::default(),
        },
        replica: variable(POD_NAME).unwrap_or_else(|| "broker".into()),
        times: StatusTimes::default(),
        log: Arc::clone(log),
        clock: Arc::new(clock::wall),
        drain,
    }
}

fn options(args: &Args, namespace: String) -> Options {
    let pair = args.cert_file.clone().zip(args.key_file.clone());
    let files = pair.map(|(chain, key)| CertificateFiles { authority: args.ca_file.clone(), chain, key });
    Options {
        address: args.address,
        service: args.service.clone(),
        namespace,
        cluster_domain: args.cluster_domain.clone(),
        extra_names: args.extra_name.clone(),
        ca_secret: args.ca_secret.clone(),
        files,
        heartbeat: args.heartbeat,
        stream_life: args.stream_life,
        remember: args.remember,
        connections: args.max_connections,
        streams_per_account: args.max_streams_per_account,
        account_rate: args.account_rate,
        reviews: args.max_reviews,
    }
}

/// Started once there is a certificate to show; ready while what is told is what the cluster says.
fn probes(
    log: &Arc<SessionLog>,
    views: Views,
    certificate: &Arc<ServerCertificate>,
    heard: watch::Receiver<Heard>,
    ready: &Arc<AtomicBool>,
) -> Admin {
    let (log, ready) = (Arc::clone(log), Arc::clone(ready));
    let (shown, certificate) = (Arc::clone(certificate), Arc::clone(certificate));
    let valid = |certificate: &ServerCertificate| certificate.validity().is_some_and(|it| it.holds(clock::wall()));
    Admin {
        metrics: Box::new(move || log.metrics.expose(views.len()).ok()),
        started: Box::new(move || shown.validity().is_some()),
        ready: Box::new(move || ready.load(Ordering::Acquire) && valid(&certificate) && heard.borrow().bindings),
    }
}
