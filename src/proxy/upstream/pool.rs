//! The connections of one key: idle HTTP/1.1 ones, or shared HTTP/2 ones.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use foldhash::HashMap;
use http::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName as TlsName;

use super::{Connection, Http1, Http2, PoolKey};
use crate::core::name::{CallerKey, ServerName};
use crate::core::routes::{Lookup, Route};
use crate::core::upstream::UpstreamUrl;
use crate::credential::cache::Credentials;
use crate::runtime::clock;

/// The pools by what they belong to. Filed by revision and generation, which are cheap to look up by; what decides
/// is the whole key.
#[derive(Default)]
pub(in crate::proxy) struct Pools(HashMap<(u64, u64), Filed>);

type Filed = Vec<(PoolKey, Arc<Pool>)>;

impl Pools {
    pub(super) fn find(&self, caller: &CallerKey, route: &Route, generation: u64) -> Option<&Arc<Pool>> {
        let filed = self.0.get(&(route.revision, generation))?;
        filed.iter().find(|(key, _)| key.is_of(caller, route, generation)).map(|(_, pool)| pool)
    }

    pub(super) fn insert(&mut self, key: PoolKey, pool: Arc<Pool>) {
        self.0.entry((key.revision, key.generation)).or_default().push((key, pool));
    }

    /// Closes idle connections that are too old, or whose credential is not current any more.
    pub(super) fn sweep(&mut self, credentials: &Credentials) {
        let (view, now) = (credentials.view(), clock::now());
        let current = |key: &PoolKey| {
            let Lookup::Route(route) = view.routes.find(key.server.as_str()) else { return false };
            let generation = view.lease(route).map(|lease| lease.credential.generation);
            (&route.binding.id, route.revision, generation) == (&key.binding, key.revision, Ok(key.generation))
        };
        self.retain(|key, pool| {
            let keep = current(key);
            if keep {
                pool.expire(now)
            } else {
                pool.retire()
            }
            keep
        });
    }

    /// Keeps those for which `keep` says so.
    fn retain(&mut self, mut keep: impl FnMut(&PoolKey, &Pool) -> bool) {
        self.0.retain(|_, filed| {
            filed.retain(|(key, pool)| keep(key, pool));
            !filed.is_empty()
        });
    }
}

impl PoolKey {
    /// The same as to make the key and compare it.
    fn is_of(&self, caller: &CallerKey, route: &Route, generation: u64) -> bool {
        let Self { caller: whose, server, binding, revision, generation: value } = self;
        (whose, server, binding) == (caller, &route.binding.server.name, &route.binding.id)
            && (*revision, *value) == (route.revision, generation)
    }
}

/// How many idle connections one key keeps.
const MAX_IDLE: usize = 64;

/// How many exchanges share an HTTP/2 connection, if the server takes that many. One more would
/// wait until another ends, and event streams may last for days. Fewer than that times the window
/// of a stream is the window of the connection, so that no number of slow readers can fill it.
pub(super) const MAX_SHARING: u32 = 100;

/// The connections of one key.
pub(in crate::proxy) struct Pool {
    pub(super) server: ServerName,
    pub(super) url: UpstreamUrl,
    /// What goes into the `Host` field, and into `:authority`.
    pub(super) host: HeaderValue,
    pub(super) tls: Option<(TlsName<'static>, Arc<ClientConfig>)>,
    pub(super) connecting: tokio::sync::Mutex<()>,
    protocol: AtomicU8,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    #[expect(clippy::vec_box, reason = "they come and go in their boxes, with every call")]
    http1: Vec<Box<Http1>>,
    http2: Vec<Arc<Http2>>,
    retired: bool,
}

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

impl Pool {
    /// `None` where the URL's host and port cannot stand in a request.
    pub(super) fn new(
        server: ServerName,
        url: UpstreamUrl,
        tls: Option<(TlsName<'static>, Arc<ClientConfig>)>,
    ) -> Option<Self> {
        let authority = url.authority();
        // Clear text is always HTTP/1.1: there is no ALPN to ask.
        let protocol = if tls.is_some() { UNKNOWN } else { HTTP1 };
        Some(Self {
            server,
            host: HeaderValue::from_str(&authority).ok()?,
            url,
            tls,
            connecting: tokio::sync::Mutex::default(),
            protocol: AtomicU8::new(protocol),
            idle: Mutex::default(),
        })
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
        idle.http2.retain(|connection| !connection.is_closed());
        idle.http2.iter().find(|connection| connection.has_room()).cloned()
    }

    /// A connection kept from before that can take a request now.
    pub(super) fn checkout(&self, now: Instant) -> Option<Connection> {
        if self.may_share()
            && let Some(shared) = self.shared()
        {
            return Some(Connection::Http2(shared));
        }
        loop {
            // The one used last is the least likely to have been closed by the other side.
            let connection = self.idle().http1.pop()?;
            if connection.is_usable(now) {
                return Some(Connection::Http1(connection));
            }
        }
    }

    /// Takes a connection back whose answer was read to the end.
    pub(super) fn put(&self, mut connection: Box<Http1>, now: Instant) {
        connection.rests(now);
        let mut idle = self.idle();
        if !idle.retired && idle.http1.len() < MAX_IDLE {
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
        idle.http1.retain(|connection| !connection.is_spent(now));
        idle.http2.retain(|connection| !connection.is_closed());
        // One is kept for what may come; the others were for a crowd that has gone.
        let mut kept = 0;
        idle.http2.retain(|connection| {
            kept += 1;
            kept == 1 || Arc::strong_count(connection) > 1
        });
    }
}
