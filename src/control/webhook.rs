//! The admission webhook: HTTPS for the API server, and for nobody else.
//!
//! The decision itself is [`admission`](super::admission)'s. Here are the socket, the limits, and
//! what has to be asked before a decision.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::admission::settings::InjectionSettings;
use crate::runtime::drain::{Drain, Phase};
use crate::runtime::task;
use crate::telemetry::admission::AdmissionLog;
use look_up::{ConfigMaps, Namespaces};

mod answer;
pub mod broker_ca;
pub mod look_up;
pub mod trust;

/// Where the API server posts to.
pub const PATH: &str = "/mutate/v1/pods";

/// How the webhook serves.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// What is injected; each review takes it as it is then.
    pub injection: Arc<ArcSwap<InjectionSettings>>,
    /// Whether the ConfigMaps of a pod are searched for stdio servers.
    pub config_maps: ConfigMapSearch,
    /// How long calls are still taken after the shutdown has begun: until no API server has us in
    /// its endpoints any more.
    pub linger: Duration,
}

/// Whether ConfigMaps are searched for stdio servers, and what a find means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigMapSearch {
    /// They are not read.
    Off,
    /// A warning.
    Warn,
    /// A refusal.
    Deny,
}

/// API servers are few, and keep their connections.
const MAX_CONNECTIONS: usize = 256;
/// A review holds one pod; the API server takes requests of 3 MiB.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// What all bodies being read may take together.
const BODY_BUDGET: usize = 4 * MAX_BODY;
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// From a request's head to its answer. The API server waits for five seconds.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Longer than the 90 s for which the API server keeps a connection it does not use: who closes
/// first may close on the other's next request.
const IDLE_TIME: Duration = Duration::from_secs(120);
/// What is still being answered when no more calls are taken.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// The webhook and what it asks.
pub struct Webhook {
    settings: WebhookSettings,
    namespaces: Box<dyn Namespaces>,
    config_maps: Box<dyn ConfigMaps>,
    log: AdmissionLog,
    bodies: Arc<Semaphore>,
}

impl Webhook {
    /// A webhook that is not served yet.
    pub fn new(
        settings: WebhookSettings,
        namespaces: Box<dyn Namespaces>,
        config_maps: Box<dyn ConfigMaps>,
        log: AdmissionLog,
    ) -> Self {
        Self { settings, namespaces, config_maps, log, bodies: Arc::new(Semaphore::new(BODY_BUDGET)) }
    }

    /// Serves until the shutdown, and through its first seconds: then it is told to callers by
    /// closing their connections, while others that still come are answered.
    pub async fn run(self, listener: TcpListener, tls: Arc<ServerConfig>, mut drain: Drain) {
        // The shutdown waits for this.
        let _busy = drain.enter();
        let linger = self.settings.linger;
        let ending = watch::Sender::new(Ending::No);
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let accept = accept(Arc::new(self), listener, TlsAcceptor::from(tls), Arc::clone(&slots), ending.subscribe());
        let shutdown = async {
            let mut over = drain.clone();
            drain.reached(Phase::Draining).await;
            ending.send_replace(Ending::Soon);
            tokio::select! {
                () = tokio::time::sleep(linger) => {}
                () = over.reached(Phase::Closing) => {}
            }
        };
        tokio::select! {
            () = accept => {}
            () = shutdown => {}
        }
        ending.send_replace(Ending::Now);
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        let _ended_or_not = tokio::time::timeout(LAST_ANSWERS, slots.acquire_many(all)).await;
    }
}

/// What connections are to know of the shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    No,
    /// Each answer is its connection's last.
    Soon,
    /// Idle connections are closed, too.
    Now,
}

async fn accept(
    webhook: Arc<Webhook>,
    listener: TcpListener,
    tls: TlsAcceptor,
    slots: Arc<Semaphore>,
    ending: watch::Receiver<Ending>,
) {
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                task::spawn(serve(Arc::clone(&webhook), socket, tls.clone(), ending.clone(), slot));
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait for one instead of spinning.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(
    webhook: Arc<Webhook>,
    socket: TcpStream,
    tls: TlsAcceptor,
    mut ending: watch::Receiver<Ending>,
    _slot: OwnedSemaphorePermit,
) {
    let peer = socket.peer_addr().ok();
    let _best_effort = socket.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_TIME, tls.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        // An API server with another CA bundle looks like this; so does a port scan.
        Ok(Err(error)) => return tracing::warn!(?peer, %error, "a TLS handshake failed"),
        Err(_) => return tracing::debug!(?peer, "a TLS handshake took too long"),
    };
    let last = ending.clone();
    let answer = service_fn(|request: Request<Incoming>| {
        let (webhook, last) = (Arc::clone(&webhook), last.clone());
        async move {
            let mut response = webhook.answer(request).await;
            if *last.borrow() >= Ending::Soon {
                response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIME).max_buf_size(64 * 1024);
    let connection = http.serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { let _owner_gone = ending.wait_for(|ending| *ending == Ending::Now).await; } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(?peer, %error, "a connection broke");
    }
}

#[cfg(test)]
#[path = "webhook_tests.rs"]
mod tests;
