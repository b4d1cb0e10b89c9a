//! `postern sidecar`: wires the data plane.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::level_filters::LevelFilter;

use super::{FAILED, INVALID, OK, level, small_runtime, tell, variable};
use crate::api::document::Problem;
use crate::config::sidecar::{self as config, SidecarSettings};
use crate::core::decide::Refusal;
use crate::core::parent::ParentProxy;
use crate::credential::Credential;
use crate::credential::cache::Credentials;
use crate::proxy;
use crate::runtime::clock;
use crate::runtime::descriptors;
use crate::runtime::drain::DrainTrigger;
use crate::runtime::harden::harden;
use crate::runtime::task::OwnedTask;
use crate::telemetry::admin::{Admin, Probe};
use crate::telemetry::exchange::Telemetry;
use crate::telemetry::logs::{self, AccessLog, LogSettings};
use crate::telemetry::metrics::{CredentialSample, Metrics, UsableSample};

mod mcp_json;
mod publish;
mod self_test;
mod source;

pub(super) use mcp_json::mcp_json;
use publish::Publisher;
use self_test::SelfTest;
use source::{Prepared, Source};

/// Run the data plane beside one agent
///
/// Standard output: one JSON line per exchange, when its last byte is through. Standard error:
/// diagnostics. SIGTERM or SIGINT refuses new calls, lets running ones finish within
/// shutdownGrace, and exits 0; a second one exits at once.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file (docs/configuration.md); without it, the variables that the
    /// injection sets in a pod
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Diagnostics from this level on, instead of the configured: error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    log_level: Option<LevelFilter>,
}

pub(super) fn run(args: &Args) -> u8 {
    let read = match &args.config {
        Some(file) => config::load(file, &variable),
        None if config::is_in_pod(&variable) => config::of_pod(&variable),
        None => {
            eprintln!("postern: --config FILE is missing (in a pod the injection sets POSTERN_BROKER instead)");
            return INVALID;
        }
    };
    let mut settings = match read {
        Ok(settings) => settings,
        Err(problems) => {
            tell(&problems);
            return INVALID;
        }
    };
    if let Some(level) = args.log_level {
        settings.log = LogSettings { level, ..settings.log };
    }
    logs::init(settings.log);
    harden();
    descriptors::take_all();
    if let Err(problem) = inherit_proxy(&mut settings) {
        eprintln!("postern: {problem}");
        return INVALID;
    }
    let grace = settings.shutdown_grace;
    let runtime = match small_runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    let code = runtime.block_on(async {
        // Before anything else: a signal that comes now must not be lost.
        let signals = Signals::new();
        match (signals, start(settings).await) {
            (Ok(signals), Ok(sidecar)) => serve(sidecar, signals, grace).await,
            (_, Err(StartError::Problems(problems))) => {
                tell(&problems);
                INVALID
            }
            (_, Err(StartError::Io(what, error))) => {
                eprintln!("postern: {what}: {error}");
                FAILED
            }
            (Err(error), _) => {
                eprintln!("postern: signals cannot be handled: {error}");
                FAILED
            }
        }
    });
    // What still runs has had its grace.
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}

/// `HTTPS_PROXY` and `NO_PROXY`, where the file names no parent proxy: a cluster that lets
/// nothing out directly sets them on every container.
fn inherit_proxy(settings: &mut SidecarSettings) -> Result<(), String> {
    let read = |upper: &str, lower: &str| variable(lower).or_else(|| variable(upper));
    if let (None, Some(url)) = (&settings.proxy.dial.parent, read("HTTPS_PROXY", "https_proxy")) {
        let exempt = read("NO_PROXY", "no_proxy").unwrap_or_default();
        let parent = ParentProxy::parse(&url, &exempt);
        settings.proxy.dial.parent = Some(parent.ok_or(format!("HTTPS_PROXY: expected {}", ParentProxy::EXPECTED))?);
    }
    Ok(())
}

async fn serve(sidecar: Sidecar, mut signals: Signals, grace: Duration) -> u8 {
    signals.stop().await;
    tracing::info!(?grace, "draining: new calls are refused, running ones may finish");
    tokio::select! {
        quiet = sidecar.stop(grace) => tracing::info!(quiet, "stopped"),
        () = signals.stop() => tracing::warn!("stopped at once by a second signal"),
    }
    OK
}

/// The signals that stop us.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A sidecar that runs.
pub(super) struct Sidecar {
    pub(super) endpoint: SocketAddr,
    pub(super) admin: SocketAddr,
    running: proxy::Running,
    drain: DrainTrigger,
    _admin: OwnedTask,
    _self_test: Option<OwnedTask>,
    _source: Source,
    telemetry: Arc<Telemetry>,
}

/// Why a sidecar did not start.
pub(super) enum StartError {
    /// Documents are wrong; no socket was bound.
    Problems(Vec<Problem>),
    /// Something could not be had: what, and why.
    Io(String, io::Error),
}

/// Reads a source of files, binds the sockets, writes `mcp.json`, and only then accepts. A broker
/// is asked after that: until it has answered, calls are refused.
pub(super) async fn start(settings: SidecarSettings) -> Result<Sidecar, StartError> {
    let fail = |what: String| move |error| StartError::Io(what, error);
    let metrics = Metrics::new()
        .map_err(|error| StartError::Io("the metrics cannot be declared".into(), io::Error::other(error)))?;
    let access = AccessLog::stdout().map_err(fail("the access log cannot be started".into()))?;
    let telemetry = Arc::new(Telemetry::new(metrics, access, &settings.caller));
    let publish = Publisher {
        public: settings.public.clone(),
        telemetry: Arc::clone(&telemetry),
        capture: Arc::new(settings.proxy.capture.clone()),
        extra_roots: settings.extra_roots.into(),
        stand_in: Arc::default(),
    };
    let (source, credentials) = Prepared::new(settings.source, &publish)?;
    let admin = TcpListener::bind(settings.admin)
        .await
        .map_err(fail(format!("admin.port: cannot listen on {}", settings.admin)))?;
    let admin_address = admin.local_addr().map_err(fail("admin.port".into()))?;
    let drain = DrainTrigger::new();
    let self_test = SelfTest::new(&settings.proxy.capture)?;
    let parts = proxy::Parts {
        credentials: credentials.clone(),
        telemetry: Arc::clone(&telemetry),
        drain: drain.watch(),
        stand_in: Arc::clone(&publish.stand_in),
        probe: self_test.probe.clone(),
    };
    let bound = proxy::bind(settings.proxy, parts).await;
    let bound = bound.map_err(|fault| StartError::Io(fault.to_string(), fault.error))?;
    let (endpoint, captured) = (bound.endpoint, bound.captured);
    publish
        .write(&credentials, endpoint.port())
        .map_err(fail("public.directory: mcp.json cannot be written".into()))?;
    if source.is_known() {
        publish.stand_in(&credentials).map_err(fail("the pod's CA cannot be made and written".into()))?;
    }
    let (started, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let server = Admin {
        metrics: exposition(&telemetry, credentials),
        started: all_of([&started, &self_test.passed]),
        ready: all_of([&ready]),
    };
    let admin = OwnedTask::spawn(server.serve(admin));
    let running = bound.serve();
    let self_test = self_test.begin();
    ready.store(true, Ordering::Release);
    started.store(source.is_known(), Ordering::Release);
    tracing::info!(endpoint = %endpoint, capture = captured.map(tracing::field::display), admin = %admin_address, version = env!("CARGO_PKG_VERSION"), "listening");
    let source = source.begin(publish, endpoint.port(), started);
    Ok(Sidecar {
        endpoint,
        admin: admin_address,
        running,
        drain,
        _admin: admin,
        _self_test: self_test,
        _source: source,
        telemetry,
    })
}

/// A probe that answers yes once all of these are set.
fn all_of<const N: usize>(flags: [&Arc<AtomicBool>; N]) -> Probe {
    let flags = flags.map(Arc::clone);
    Box::new(move || flags.iter().all(|flag| flag.load(Ordering::Acquire)))
}

impl Sidecar {
    /// Ends within `grace` and a second. Returns whether everything ended by itself.
    pub(super) async fn stop(self, grace: Duration) -> bool {
        let Self { running, drain, telemetry, .. } = self;
        let quiet = drain.run(grace).await;
        drop(running);
        drop(telemetry);
        quiet
    }
}

fn exposition(telemetry: &Arc<Telemetry>, credentials: Credentials) -> Box<dyn Fn() -> Option<Vec<u8>> + Send + Sync> {
    let telemetry = Arc::clone(telemetry);
    Box::new(move || {
        let view = credentials.view();
        let usable = |credential: &Credential| UsableSample {
            generation: credential.generation,
            age: clock::wall().duration_since(credential.changed()).unwrap_or_default().as_secs_f64(),
            lag: credential.lag(),
        };
        let sample = |(server, state): (&str, Result<&Credential, &Refusal>)| CredentialSample {
            server: server.to_owned(),
            usable: state.ok().map(usable),
        };
        let samples: Vec<CredentialSample> = view.credentials().map(sample).collect();
        telemetry.metrics.expose(&samples).ok()
    })
}
