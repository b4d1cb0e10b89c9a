//! The data plane (layer 4): from a socket of the agent to a socket of the upstream.
//!
//! ```text
//! listener -> connection -> handler -> upstream -> dial
//!     |           ^  reads strictly      |  pool by (caller, server, generation)
//!     |           |                      v
//!     |           +------- relay <- response, as it comes
//!     +-> capture -> TLS as the server -> connection, or h2
//!            +-> passthrough
//! ```
//! Every way out of `handler` that is no answer of the upstream is a `Refusal`, and `respond` is
//! the only place that turns one into bytes.

#![deny(clippy::indexing_slicing, reason = "these read what a hostile agent or upstream sends")]

pub mod dial;
pub mod upstream;
mod waiting;

mod body;
mod capture;
mod connection;
mod h2;
mod handler;
mod inbound;
mod listener;
mod messages;
mod outbound;
mod passthrough;
mod relay;
mod respond;

#[cfg(test)]
mod panic_tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use crate::core::capture::{Capture, HostPattern, Interception};
use crate::core::name::CallerKey;
use crate::core::routes::Routes;
use crate::core::session::Sessions;
use crate::core::upstream::Host;
use crate::credential::cache::Credentials;
use crate::nft::probe::Probe;
use crate::runtime::drain::Drain;
use crate::runtime::task::OwnedTask;
use crate::telemetry::exchange::Telemetry;
use crate::tls::authority::AuthorityError;
use crate::tls::pod::PodAuthority;
use body::Budget;
use dial::DialSettings;
use listener::Door;
use messages::Messages;
use respond::Responder;
use upstream::Upstreams;

/// The data plane's settings.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// The endpoint's port on loopback; 0 takes a free one.
    pub port: u16,
    /// By what else than the endpoint agents may come.
    pub capture: CaptureSettings,
    /// Whose calls these are.
    pub caller: CallerKey,
    /// What may be used.
    pub limits: Limits,
    /// How long to wait.
    pub times: Times,
    /// How upstreams are reached.
    pub dial: DialSettings,
    /// Whether a refusal that would be 403 carries its JSON-RPC error in a 200.
    pub forbidden_is_ok: bool,
}

/// Ways beside the endpoint.
#[derive(Debug, Clone)]
pub struct CaptureSettings {
    /// Which of them is served.
    pub kind: Capture,
    /// Its port on loopback; 0 takes a free one.
    pub port: u16,
    /// Hosts that may be reached without a credential.
    pub passthrough: Vec<HostPattern>,
    /// Whether to be sure of the redirection before saying so.
    pub self_test: bool,
}

/// Bounds on what the agent may make us hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one request body.
    pub body: usize,
    /// Bytes of all request bodies in memory together.
    pub body_budget: usize,
    /// Bytes of one request head.
    pub head: usize,
    /// Connections from the agent at once.
    pub connections: usize,
    /// Sessions remembered.
    pub sessions: usize,
}

/// How long to wait for whom.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// For the next byte, from either side, while an answer streams; and for response headers.
    pub idle: Duration,
    /// For the agent to finish a head, and then a body.
    pub head: Duration,
    /// For streams of a replaced credential to go on.
    pub rotation_grace: Duration,
}

/// What every connection needs.
struct Shared {
    settings: ProxySettings,
    credentials: Credentials,
    sessions: Mutex<Sessions>,
    messages: Messages,
    upstreams: Upstreams,
    telemetry: Arc<Telemetry>,
    drain: Drain,
    budget: Arc<Budget>,
    respond: Responder,
    stand_in: Arc<OnceLock<StandIn>>,
    probe: Option<Arc<Probe>>,
}

/// What a sidecar needs to pass for the servers bound to it. It is made once, when it is known which
/// those are.
#[derive(Debug)]
pub struct StandIn {
    scope: Interception,
    authority: PodAuthority,
}

impl StandIn {
    /// For the servers that are bound now.
    pub fn new(routes: &Routes, settings: &CaptureSettings, now: SystemTime) -> Result<Self, AuthorityError> {
        let scope = Interception::new(routes, settings.passthrough.clone());
        let hosts: Vec<Host> = scope.hosts().cloned().collect();
        Ok(Self { authority: PodAuthority::new(&hosts, now)?, scope })
    }

    /// The authority that the pod's agents must trust.
    pub fn authority(&self) -> &PodAuthority {
        &self.authority
    }
}

/// A data plane with its socket bound; dropping it closes the listener.
pub struct Bound {
    /// Where the endpoint is, on IPv4.
    pub endpoint: SocketAddr,
    /// Where the other way in is, if there is one.
    pub captured: Option<SocketAddr>,
    listeners: Vec<listener::Listener>,
    shared: Arc<Shared>,
}

/// Listens until dropped.
pub struct Running {
    _tasks: Vec<OwnedTask>,
}

/// What a data plane works with.
pub struct Parts {
    /// What may be used.
    pub credentials: Credentials,
    /// Where exchanges report to.
    pub telemetry: Arc<Telemetry>,
    /// When to stop.
    pub drain: Drain,
    /// Filled before the other way in is of use: until then, calls on it are refused as
    /// `source_not_ready`.
    pub stand_in: Arc<OnceLock<StandIn>>,
    /// By which the process finds out whether connections are redirected to it.
    pub probe: Option<Arc<Probe>>,
}

/// Something that the data plane needs and cannot have.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct BindError {
    what: String,
    /// Why.
    pub error: io::Error,
}

/// Binds the sockets. Nothing is accepted before [`Bound::serve`].
pub async fn bind(settings: ProxySettings, parts: Parts) -> Result<Bound, BindError> {
    let Parts { credentials, telemetry, drain, stand_in, probe } = parts;
    let port =
        |field, port| move |error| BindError { what: format!("{field}: cannot listen on loopback port {port}"), error };
    let bound = listener::bind(Door::Endpoint, settings.port).await;
    let (endpoint, mut listeners) = bound.map_err(port("endpoint.port", settings.port))?;
    let door = match settings.capture.kind {
        Capture::Endpoint => None,
        Capture::Proxy => Some(Door::Proxy),
        Capture::Redirect => Some(Door::Redirect),
    };
    let mut captured = None;
    if let Some(door) = door {
        let bound = listener::bind(door, settings.capture.port).await;
        let (place, more) = bound.map_err(port("capture.port", settings.capture.port))?;
        captured = Some(place);
        listeners.extend(more);
    }
    let upstreams = Upstreams::new(settings.caller.clone(), settings.dial.clone(), Arc::clone(&telemetry));
    let shared = Arc::new(Shared {
        messages: Messages::default(),
        sessions: Mutex::new(Sessions::new(settings.limits.sessions)),
        budget: Budget::new(settings.limits.body_budget),
        respond: Responder { forbidden_is_ok: settings.forbidden_is_ok },
        upstreams: upstreams.map_err(|error| BindError { what: "dial.resolvers".into(), error })?,
        settings,
        credentials,
        telemetry,
        drain,
        stand_in,
        probe,
    });
    Ok(Bound { endpoint, captured, listeners, shared })
}

impl Bound {
    /// Begins to accept.
    pub fn serve(self) -> Running {
        let slots = listener::Slots::new(self.shared.settings.limits.connections);
        let accept =
            |listener: listener::Listener| OwnedTask::spawn(listener.run(Arc::clone(&self.shared), slots.clone()));
        let mut tasks: Vec<OwnedTask> = self.listeners.into_iter().map(accept).collect();
        tasks.push(OwnedTask::spawn(tidy(self.shared)));
        Running { _tasks: tasks }
    }
}

/// How often it is looked through what is kept for later.
const TIDY: Duration = Duration::from_secs(1);

/// Lets go of what is of no use any more: connections, and memory.
async fn tidy(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(TIDY);
    loop {
        tick.tick().await;
        shared.upstreams.sweep(&shared.credentials);
        shared.budget.tidy();
    }
}
