//! The data plane (layer 4): from a socket of the agent to a socket of the upstream.
//!
//! ```text
//! listener -> connection -> handler -> upstream -> dial
//!                 ^  reads strictly      |  pool by (caller, server, generation)
//!                 |                      v
//!                 +------- relay <- response, as it comes
//! ```
//! Every way out of `handler` that is no answer of the upstream is a `Refusal`, and `respond` is
//! the only place that turns one into bytes.

#![deny(clippy::indexing_slicing, reason = "these read what a hostile agent or upstream sends")]

pub mod dial;
pub mod upstream;

mod connection;
mod handler;
mod inbound;
mod listener;
mod messages;
mod outbound;
mod relay;
mod respond;

#[cfg(test)]
mod panic_tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::core::name::CallerKey;
use crate::core::session::Sessions;
use crate::credential::cache::Credentials;
use crate::runtime::drain::Drain;
use crate::runtime::task::OwnedTask;
use crate::telemetry::exchange::Telemetry;
use dial::DialSettings;
use messages::Messages;
use respond::Responder;
use upstream::Upstreams;

/// The data plane's settings.
#[derive(Debug, Clone)]
pub struct ProxySettings {
    /// The endpoint's port on loopback; 0 takes a free one.
    pub port: u16,
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
    budget: Arc<Semaphore>,
    respond: Responder,
}

/// A data plane with its socket bound; dropping it closes the listener.
pub struct Bound {
    /// Where the endpoint is, on IPv4.
    pub endpoint: SocketAddr,
    listeners: Vec<listener::Listener>,
    shared: Arc<Shared>,
}

/// Listens until dropped.
pub struct Running {
    _tasks: Vec<OwnedTask>,
}

/// Binds the endpoint. Nothing is accepted before [`Bound::serve`].
pub async fn bind(
    settings: ProxySettings,
    credentials: Credentials,
    telemetry: Arc<Telemetry>,
    drain: Drain,
) -> io::Result<Bound> {
    let (endpoint, listeners) = listener::bind(settings.port).await?;
    let upstreams = Upstreams::new(settings.caller.clone(), settings.dial.clone(), Arc::clone(&telemetry))?;
    let shared = Arc::new(Shared {
        messages: Messages::default(),
        sessions: Mutex::new(Sessions::new(settings.limits.sessions)),
        budget: Arc::new(Semaphore::new(settings.limits.body_budget)),
        respond: Responder { forbidden_is_ok: settings.forbidden_is_ok },
        settings,
        credentials,
        upstreams,
        telemetry,
        drain,
    });
    Ok(Bound { endpoint, listeners, shared })
}

impl Bound {
    /// Begins to accept.
    pub fn serve(self) -> Running {
        let slots = listener::Slots::new(self.shared.settings.limits.connections);
        let accept =
            |listener: listener::Listener| OwnedTask::spawn(listener.run(Arc::clone(&self.shared), slots.clone()));
        let mut tasks: Vec<OwnedTask> = self.listeners.into_iter().map(accept).collect();
        tasks.push(OwnedTask::spawn(upstream::sweep(
            Arc::clone(&self.shared.upstreams.pools),
            self.shared.credentials.clone(),
        )));
        Running { _tasks: tasks }
    }
}
