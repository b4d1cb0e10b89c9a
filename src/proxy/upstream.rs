//! Connections to upstreams, kept apart by whose credential they carry.
//!
//! A connection belongs to one (caller, server, generation) for all its life. MCP servers bind
//! sessions, and some of them authentication, to the connection; one that has carried a
//! credential must never carry another.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName as TlsName;

use super::body::RequestBody;
use super::dial::{DialSettings, Dialer};
use crate::core::decide::Refusal;
use crate::core::fields::{FieldLines, Fields};
use crate::core::name::{BindingId, CallerKey, ServerName};
use crate::core::reason::Reason;
use crate::core::rewrite::Placement;
use crate::core::routes::Route;
use crate::core::upstream::{Host, Scheme};
use crate::credential::Lease;
use crate::credential::cache::Credentials;
use crate::telemetry::exchange::Telemetry;
use crate::tls;

mod http1;
mod http2;
mod pool;
mod wire;

use http1::{Http1, Reading};
use http2::{Http2, Sharing};
use pool::{Pool, Pools};
use wire::Wire;

/// What a connection belongs to. Typed fields: two keys are equal only if every part is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolKey {
    /// Whose calls.
    pub caller: CallerKey,
    /// To which server.
    pub server: ServerName,
    /// By which binding,
    pub binding: BindingId,
    /// in which of its forms,
    pub revision: u64,
    /// with which value of the credential.
    pub generation: u64,
}

/// One request, complete but for the credential, which the connection that it goes out on adds.
pub(super) struct Outgoing<'a> {
    pub(super) method: &'a Method,
    pub(super) target: &'a PathAndQuery,
    pub(super) fields: FieldLines,
    pub(super) body: &'a RequestBody,
}

/// An upstream's answer.
pub(super) struct Incomer {
    pub(super) status: StatusCode,
    pub(super) headers: Fields,
    pub(super) body: AnswerBody,
}

/// The body of an answer, with the connection that it comes on. Dropped early, it ends an HTTP/1.1 connection at
/// once, and resets the stream of an HTTP/2 connection.
pub(super) enum AnswerBody {
    Http1(Reading),
    Http2(Sharing),
}

/// The answer was broken off.
#[derive(Debug)]
pub(super) struct Broken;

impl AnswerBody {
    /// How many bytes are to come, where that is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::Http1(reading) => reading.length(),
            Self::Http2(sharing) => sharing.length(),
        }
    }

    /// The next piece; `None` at the end.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        match self {
            Self::Http1(reading) => reading.poll_piece(cx).map_err(|_| Broken),
            Self::Http2(sharing) => sharing.poll_piece(cx),
        }
    }

    /// The answer has been read to its end: the connection may serve again.
    pub(super) fn release(self, now: Instant) {
        if let Self::Http1(reading) = self {
            reading.release(now);
        }
    }
}

/// Every upstream of this sidecar.
pub(super) struct Upstreams {
    caller: CallerKey,
    pub(super) dialer: Dialer,
    pub(super) pools: Mutex<Pools>,
    telemetry: Arc<Telemetry>,
}

impl Upstreams {
    pub(super) fn new(caller: CallerKey, settings: DialSettings, telemetry: Arc<Telemetry>) -> io::Result<Self> {
        Ok(Self { caller, dialer: Dialer::new(settings)?, pools: Mutex::default(), telemetry })
    }

    /// Sends one request and waits for the response's head.
    ///
    /// Sent once: only a connection that was kept from before and has not taken a byte of the request lets us try
    /// again.
    pub(super) async fn send(
        &self,
        route: &Route,
        lease: &Lease,
        outgoing: &Outgoing<'_>,
        now: Instant,
    ) -> Result<Incomer, Refusal> {
        let credential = Placement { header: &lease.credential.header, value: &lease.credential.value };
        let pool = self.pool(route, lease)?;
        loop {
            let (connection, reused) = match pool.checkout(now) {
                Some(connection) => (connection, true),
                // Apart: most calls need no room for resolution and a handshake.
                None => (Box::pin(self.connect(&pool)).await?, false),
            };
            match connection.send(outgoing, credential, &pool).await {
                Ok(incomer) => return Ok(incomer),
                Err(fault) if fault.unsent && reused => {}
                Err(fault) => return Err(fault.refusal),
            }
        }
    }

    /// Closes what is idle for too long, or belongs to a credential that is not current any more.
    pub(super) fn sweep(&self, credentials: &Credentials) {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).sweep(credentials);
    }

    fn pool(&self, route: &Route, lease: &Lease) -> Result<Arc<Pool>, Refusal> {
        let generation = lease.credential.generation;
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.find(&self.caller, route, generation) {
            return Ok(Arc::clone(pool));
        }
        let server = &route.binding.server;
        let tls = match server.url.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(trust(route, lease)?),
        };
        let key = PoolKey {
            caller: self.caller.clone(),
            server: server.name.clone(),
            binding: route.binding.id.clone(),
            revision: route.revision,
            generation,
        };
        let unusable = || Refusal::because(Reason::UpstreamUnreachable, "the host cannot stand in a request");
        let pool = Arc::new(Pool::new(server.name.clone(), server.url.clone(), tls).ok_or_else(unusable)?);
        pools.insert(key, Arc::clone(&pool));
        Ok(pool)
    }

    /// Opens a connection. Towards a server that speaks HTTP/2, or may, only one is opened at a
    /// time: the calls that wait for it share it, as many as it takes.
    async fn connect(&self, pool: &Arc<Pool>) -> Result<Connection, Refusal> {
        let mut turn = if pool.may_share() { Some(pool.connecting.lock().await) } else { None };
        if let Some(shared) = pool.shared() {
            return Ok(Connection::Http2(shared));
        }
        if !pool.may_share() || pool.is_retired() {
            // Whoever was before us has learned that nothing can be shared, or was overtaken by a rotation:
            // dial side by side.
            turn = None;
        }
        let server = pool.server.as_str();
        let dialled = self.dial(pool).await;
        let connection = dialled.inspect_err(|refusal| self.telemetry.metrics.dial_failed(server, refusal.reason))?;
        pool.learn(&connection);
        drop(turn);
        Ok(connection)
    }

    async fn dial(&self, pool: &Pool) -> Result<Connection, Refusal> {
        let wire = match &pool.tls {
            None => Wire::Clear(self.dialer.plain(&pool.url).await?),
            Some((name, config)) => {
                Wire::Tls(Box::new(self.dialer.tls(&pool.url, name.clone(), Arc::clone(config)).await?))
            }
        };
        let open = OpenConnection::new(&self.telemetry, pool.server.as_str());
        if wire.speaks_http2() {
            return Ok(Connection::Http2(Arc::new(Http2::new(wire, open))));
        }
        Ok(Connection::Http1(Http1::new(wire, open)))
    }
}

/// By what the server must prove itself, and as whom.
fn trust(route: &Route, lease: &Lease) -> Result<(TlsName<'static>, Arc<ClientConfig>), Refusal> {
    let config = tls::client::settings(lease.credential.ca_bundle.as_deref())
        .map_err(|error| Refusal::because(Reason::UpstreamTls, error))?;
    let server = &route.binding.server;
    let name = match (&server.tls_name, &server.url.host) {
        (Some(name), _) => TlsName::try_from(name.clone()).ok(),
        (None, Host::Name(name)) => TlsName::try_from(name.to_string()).ok(),
        (None, Host::Address(address)) => Some(TlsName::from(*address)),
    };
    let name = name.ok_or_else(|| Refusal::because(Reason::UpstreamTls, "the host cannot stand in a certificate"))?;
    Ok((name, config))
}

/// What a connection's end means, without the parts that may quote the wire.
fn broken(error: &io::Error) -> Refusal {
    // With TLS 1.3 a server that wants a certificate of ours says so after the handshake.
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => Refusal::because(Reason::UpstreamTls, tls),
        None => Refusal::because(Reason::UpstreamUnreachable, format!("the connection broke: {}", error.kind())),
    }
}

/// Counts an open connection for as long as it lives.
struct OpenConnection(Arc<Telemetry>, String);

impl OpenConnection {
    fn new(telemetry: &Arc<Telemetry>, server: &str) -> Self {
        telemetry.metrics.upstream_connection(server, 1);
        Self(Arc::clone(telemetry), server.to_owned())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.metrics.upstream_connection(&self.1, -1);
    }
}

/// A connection to send on.
enum Connection {
    Http1(Box<Http1>),
    Http2(Arc<Http2>),
}

/// Why there is no answer.
struct Fault {
    /// Whether not a byte of the request has left us.
    unsent: bool,
    refusal: Refusal,
}

impl Connection {
    async fn send(
        self,
        outgoing: &Outgoing<'_>,
        credential: Placement<'_>,
        pool: &Arc<Pool>,
    ) -> Result<Incomer, Fault> {
        match self {
            Self::Http1(connection) => connection.call(outgoing, credential, pool).await,
            Self::Http2(connection) => connection.call(outgoing, credential, pool).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::name::{Namespace, ObjectName, ServiceAccount};
    use proptest::prelude::*;

    type Parts = (String, String, String, String, Option<(String, String)>, u64, u64);

    fn key(parts: &Parts) -> PoolKey {
        let (namespace, account, server, binding, user, revision, generation) = parts.clone();
        let namespace = Namespace::parse(&namespace).unwrap();
        PoolKey {
            caller: CallerKey {
                namespace: namespace.clone(),
                service_account: ServiceAccount::parse(&account).unwrap(),
                user,
            },
            server: ServerName::parse(&server).unwrap(),
            binding: BindingId { namespace, name: ObjectName::parse(&binding).unwrap() },
            revision,
            generation,
        }
    }

    fn parts() -> impl Strategy<Value = Parts> {
        let user = proptest::option::of(("[a:|\0]{0,3}", "[a:|\0]{0,3}"));
        ("[ab]{1,2}", "[ab]{1,2}(\\.[ab])?", "[ab]{1,2}", "[ab]{1,2}(\\.[ab])?", user, 0u64..3, 0u64..3)
    }

    proptest! {
        /// Two keys are one only if every part is: no join of texts can make them meet.
        #[test]
        fn keys_are_injective(a in parts(), b in parts()) {
            prop_assert_eq!(key(&a) == key(&b), a == b);
        }
    }
}
