//! The connections of one key: idle HTTP/1.1 ones, or shared HTTP/2 ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::Full;
use rustls::ClientConfig;
use rustls::pki_types::ServerName as TlsName;

use super::{Connection, PoolKey};
use crate::core::name::ServerName;
use crate::core::upstream::UpstreamUrl;
use crate::credential::cache::Credentials;
use crate::runtime::clock;
use crate::runtime::task::OwnedTask;

/// The pools by what they belong to.
pub(in crate::proxy) type Pools = HashMap<PoolKey, Arc<Pool>>;

/// How many idle connections one key keeps.
const MAX_IDLE: usize = 64;
/// How long an idle HTTP/1.1 connection is kept where the server does not say. The stacks below
/// the MCP SDKs (uvicorn, Node) close after 5 s; a call sent into that is lost, and may not be
/// sent again.
const IDLE_LIFE: Duration = Duration::from_secs(4);
/// The longest, whatever the server says.
const MAX_IDLE_LIFE: Duration = Duration::from_secs(50);
/// How much earlier than the server we let go.
const IDLE_MARGIN: Duration = Duration::from_secs(1);

/// An HTTP/1.1 connection.
pub(in crate::proxy) struct Http1 {
    pub(super) sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    #[expect(dead_code, reason = "held: dropping it closes the connection")]
    pub(super) task: OwnedTask,
    pub(super) since: Instant,
    pub(super) life: Duration,
}

impl Http1 {
    /// Learns from an answer how long the server keeps the connection (`Keep-Alive: timeout=5`,
    /// RFC 2068 section 19.7.1; Node and others send it).
    pub(super) fn heed(&mut self, headers: &HeaderMap) {
        let said = headers.get("keep-alive").and_then(|value| value.to_str().ok()).and_then(timeout_parameter);
        self.life = said.map_or(IDLE_LIFE, |time| time.saturating_sub(IDLE_MARGIN).min(MAX_IDLE_LIFE));
    }

    fn is_fresh(&self, now: Instant) -> bool {
        !self.sender.is_closed() && now.duration_since(self.since) < self.life
    }
}

fn timeout_parameter(value: &str) -> Option<Duration> {
    let timeout = value.split(',').find_map(|parameter| parameter.trim().strip_prefix("timeout="))?;
    timeout.trim().parse().ok().map(Duration::from_secs)
}

/// An HTTP/2 connection. Every exchange on it holds it.
pub(in crate::proxy) struct Http2 {
    pub(super) sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    pub(super) _task: OwnedTask,
    /// How many exchanges the server takes on it at once, as it last said.
    pub(super) server_limit: Arc<AtomicUsize>,
}

/// How many exchanges share an HTTP/2 connection, if the server takes that many. One more would
/// wait until another ends, and event streams may last for days. Fewer than that times the window
/// of a stream is the window of the connection, so that no number of slow readers can fill it.
pub(super) const MAX_SHARING: usize = 100;

/// Whether a connection that the pool holds once, and each exchange once, can take one more.
fn has_room(connection: &Arc<Http2>) -> bool {
    let limit = connection.server_limit.load(Ordering::Relaxed).clamp(1, MAX_SHARING);
    Arc::strong_count(connection) <= limit
}

/// The connections of one key.
pub(in crate::proxy) struct Pool {
    pub(super) server: ServerName,
    pub(super) url: UpstreamUrl,
    pub(super) tls: Option<(TlsName<'static>, Arc<ClientConfig>)>,
    pub(super) connecting: tokio::sync::Mutex<()>,
    protocol: AtomicU8,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    http1: Vec<Http1>,
    http2: Vec<Arc<Http2>>,
    retired: bool,
}

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

impl Pool {
    pub(super) fn new(
        server: ServerName,
        url: UpstreamUrl,
        tls: Option<(TlsName<'static>, Arc<ClientConfig>)>,
    ) -> Self {
        // Clear text is always HTTP/1.1: there is no ALPN to ask.
        let protocol = if tls.is_some() { UNKNOWN } else { HTTP1 };
        Self {
            server,
            url,
            tls,
            connecting: tokio::sync::Mutex::default(),
            protocol: AtomicU8::new(protocol),
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next connection may turn out to be shareable.
    pub(super) fn may_share(&self) -> bool {
        self.protocol.load(Ordering::Relaxed) != HTTP1
    }

    /// Whether nothing is kept any more: a connection that is made now serves whoever made it alone.
    pub(super) fn is_retired(&self) -> bool {
        self.idle().retired
    }

    /// An open HTTP/2 connection with room for one more exchange: the oldest, so that the others
    /// become idle.
    pub(super) fn shared(&self) -> Option<Arc<Http2>> {
        let mut idle = self.idle();
        idle.http2.retain(|connection| !connection.sender.is_closed());
        idle.http2.iter().find(|connection| has_room(connection)).cloned()
    }

    /// A connection kept from before that can take a request now.
    pub(super) async fn checkout(&self) -> Option<Connection> {
        if let Some(shared) = self.shared() {
            return Some(Connection::Http2(shared));
        }
        loop {
            // The one used last is the least likely to have been closed by the other side.
            let mut connection = self.idle().http1.pop()?;
            if connection.is_fresh(clock::now()) && connection.sender.ready().await.is_ok() {
                return Some(Connection::Http1(connection));
            }
        }
    }

    /// Shares a connection no longer: a request on it failed. Its other streams go on.
    pub(super) fn discard(&self, failed: &Arc<Http2>) {
        self.idle().http2.retain(|shared| !Arc::ptr_eq(shared, failed));
    }

    /// Takes a connection back whose answer was read to the end.
    pub(super) fn put(&self, mut connection: Http1) {
        connection.since = clock::now();
        let mut idle = self.idle();
        if !idle.retired && idle.http1.len() < MAX_IDLE && !connection.sender.is_closed() {
            idle.http1.push(connection);
        }
    }

    /// Remembers what the server speaks, and shares what can be shared.
    pub(super) fn learn(&self, connection: &Connection) {
        match connection {
            Connection::Http1(_) => self.protocol.store(HTTP1, Ordering::Relaxed),
            Connection::Http2(shared) => {
                self.protocol.store(HTTP2, Ordering::Relaxed);
                let mut idle = self.idle();
                if !idle.retired {
                    idle.http2.push(Arc::clone(shared));
                }
            }
        }
    }

    /// Closes what is idle; running exchanges end by themselves and are not taken back.
    fn retire(&self) {
        let mut idle = self.idle();
        *idle = Idle { retired: true, ..Idle::default() };
    }

    fn expire(&self, now: Instant) {
        let mut idle = self.idle();
        idle.http1.retain(|connection| connection.is_fresh(now));
        idle.http2.retain(|connection| !connection.sender.is_closed());
        // One is kept for what may come; the others were for a crowd that has gone.
        let mut kept = 0;
        idle.http2.retain(|connection| {
            kept += 1;
            kept == 1 || Arc::strong_count(connection) > 1
        });
    }
}

/// How often pools are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// Closes idle connections that are too old, or whose credential is not current any more.
pub(in crate::proxy) async fn sweep(pools: Arc<Mutex<Pools>>, credentials: Credentials) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        let view = credentials.view();
        let now = clock::now();
        let current = |key: &PoolKey| {
            view.routes.iter().any(|route| {
                let generation = view.lease(route).map(|lease| lease.credential.generation);
                route.binding.id == key.binding && route.revision == key.revision && generation == Ok(key.generation)
            })
        };
        pools.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, pool| {
            let keep = current(key);
            if keep {
                pool.expire(now)
            } else {
                pool.retire()
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_word_on_keep_alive_is_read() {
        for (value, expected) in
            [("timeout=5", Some(5)), ("max=100, timeout=30", Some(30)), ("timeout=x", None), ("", None)]
        {
            assert_eq!(timeout_parameter(value), expected.map(Duration::from_secs), "{value}");
        }
    }
}
