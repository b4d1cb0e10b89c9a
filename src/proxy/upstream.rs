//! Connections to upstreams, kept apart by whose credential they carry.
//!
//! A connection belongs to one (caller, server, generation) for all its life. MCP servers bind
//! sessions, and some of them authentication, to the connection; one that has carried a
//! credential must never carry another.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName as TlsName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::dial::{DialSettings, Dialer};
use crate::core::decide::Refusal;
use crate::core::name::{BindingId, CallerKey, ServerName};
use crate::core::reason::Reason;
use crate::core::routes::Route;
use crate::core::upstream::{Host, Scheme, UpstreamUrl};
use crate::credential::Lease;
use crate::runtime::clock;
use crate::runtime::task::OwnedTask;
use crate::telemetry::exchange::Telemetry;
use crate::tls;

mod pool;
mod readout;

pub(super) use pool::sweep;
use pool::{Http1, Http2, MAX_SHARING, Pool, Pools};
use readout::ReadOut;

/// What a connection belongs to. Typed fields: two keys are equal only if every part is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

/// One request, complete.
pub(super) struct Outgoing {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// An upstream's answer and the connection it comes on.
pub(super) struct Incomer {
    pub(super) response: Response<Incoming>,
    pub(super) hold: Hold,
}

/// Keeps the connection while its answer is read. Dropped early, it ends an HTTP/1.1 connection
/// at once; an HTTP/2 stream is reset by dropping the body.
pub(super) enum Hold {
    Http1(Http1, Arc<Pool>),
    Http2 { _connection: Arc<Http2> },
}

impl Hold {
    /// Whether a body that yields no more has come to its end. hyper says so too of an HTTP/2 stream that
    /// was reset, or left out by a GOAWAY, with NO_ERROR: after an answer that is a whole one early, it
    /// means no harm; in the middle of one it is a break.
    pub(super) fn has_ended(&self, body: &Incoming) -> bool {
        match self {
            Self::Http1(..) => true,
            Self::Http2 { .. } => body.is_end_stream(),
        }
    }

    /// The answer has been read to its end: the connection may serve again.
    pub(super) fn release(self) {
        if let Self::Http1(connection, pool) = self {
            pool.put(connection);
        }
    }
}

/// Every upstream of this sidecar.
pub(super) struct Upstreams {
    caller: CallerKey,
    pub(super) dialer: Dialer,
    pub(super) pools: Arc<Mutex<Pools>>,
    telemetry: Arc<Telemetry>,
}

type Sent = Request<Full<Bytes>>;

/// HTTP/2 flow control: what one exchange, and what one connection, may leave unread.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const _: () = assert!((MAX_SHARING as u32) * STREAM_WINDOW < CONNECTION_WINDOW);

impl Upstreams {
    pub(super) fn new(caller: CallerKey, settings: DialSettings, telemetry: Arc<Telemetry>) -> io::Result<Self> {
        Ok(Self { caller, dialer: Dialer::new(settings)?, pools: Arc::default(), telemetry })
    }

    /// Sends one request and waits for the response's head.
    ///
    /// Sent once: only a connection that was kept from before and hands the request back without
    /// having written a byte of it lets us try again.
    pub(super) async fn send(&self, route: &Route, lease: &Lease, outgoing: Outgoing) -> Result<Incomer, Refusal> {
        let pool = self.pool(route, lease)?;
        let mut request = outgoing.into_request(&pool.url)?;
        loop {
            let (connection, reused) = match pool.checkout().await {
                Some(connection) => (connection, true),
                None => (self.connect(&pool).await?, false),
            };
            match connection.send(request, &pool).await {
                Ok(incomer) => return Ok(incomer),
                Err(SendFault { unsent: Some(unsent), .. }) if reused => request = unsent,
                Err(fault) => return Err(fault.refusal),
            }
        }
    }

    fn pool(&self, route: &Route, lease: &Lease) -> Result<Arc<Pool>, Refusal> {
        let server = &route.binding.server;
        let key = PoolKey {
            caller: self.caller.clone(),
            server: server.name.clone(),
            binding: route.binding.id.clone(),
            revision: route.revision,
            generation: lease.credential.generation,
        };
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(&key) {
            return Ok(Arc::clone(pool));
        }
        let tls = match server.url.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(self.trust(route, lease)?),
        };
        let pool = Arc::new(Pool::new(server.name.clone(), server.url.clone(), tls));
        pools.insert(key, Arc::clone(&pool));
        Ok(pool)
    }

    fn trust(&self, route: &Route, lease: &Lease) -> Result<(TlsName<'static>, Arc<ClientConfig>), Refusal> {
        let config = tls::client::settings(lease.credential.ca_bundle.as_deref())
            .map_err(|error| Refusal::because(Reason::UpstreamTls, error))?;
        let server = &route.binding.server;
        let name = match (&server.tls_name, &server.url.host) {
            (Some(name), _) => TlsName::try_from(name.clone()).ok(),
            (None, Host::Name(name)) => TlsName::try_from(name.to_string()).ok(),
            (None, Host::Address(address)) => Some(TlsName::from(*address)),
        };
        let name =
            name.ok_or_else(|| Refusal::because(Reason::UpstreamTls, "the host cannot stand in a certificate"))?;
        Ok((name, config))
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
        let dialled = match &pool.tls {
            None => match self.dialer.plain(&pool.url).await {
                Ok(socket) => self.http1(socket, server).await,
                Err(refusal) => Err(refusal),
            },
            Some((name, config)) => match self.dialer.tls(&pool.url, name.clone(), Arc::clone(config)).await {
                Ok(stream) if stream.alpn_protocol() == Some(b"h2") => self.http2(stream, server).await,
                Ok(stream) => self.http1(stream, server).await,
                Err(refusal) => Err(refusal),
            },
        };
        let connection = dialled.inspect_err(|refusal| self.telemetry.metrics.dial_failed(server, refusal.reason))?;
        pool.learn(&connection);
        drop(turn);
        Ok(connection)
    }

    async fn http1<S>(&self, stream: S, server: &str) -> Result<Connection, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_buf_size(64 * 1024);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let task = self.drive(connection, server);
        Ok(Connection::Http1(Http1 { sender, task, since: clock::now(), life: Duration::ZERO }))
    }

    async fn http2<S>(&self, stream: S, server: &str) -> Result<Connection, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            // One slow reader holds at most its own window, and all that share not all of it.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(64 * 1024);
        let io = TokioIo::new(ReadOut::new(stream));
        let (sender, mut connection) = builder.handshake(io).await.map_err(|error| broken(&error))?;
        let server_limit = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let limit = Arc::clone(&server_limit);
        let heeding = std::future::poll_fn(move |cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            // The server's SETTINGS may say another one at any time.
            limit.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled
        });
        let task = self.drive(heeding, server);
        Ok(Connection::Http2(Arc::new(Http2 { sender, _task: task, server_limit })))
    }

    fn drive<C>(&self, connection: C, server: &str) -> OwnedTask
    where
        C: Future<Output = Result<(), hyper::Error>> + Send + 'static,
    {
        let gauge = OpenConnection::new(&self.telemetry, server);
        OwnedTask::spawn(async move {
            // How it ends is told to whoever waits for an answer on it.
            let _ended = connection.await;
            drop(gauge);
        })
    }
}

/// What a connection's end means, without the parts that may quote the wire.
fn broken(error: &hyper::Error) -> Refusal {
    use std::error::Error as _;
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    // With TLS 1.3 a server that wants a certificate of ours says so after the handshake.
    if let Some(tls) = io.and_then(|io| io.get_ref()).and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return Refusal::because(Reason::UpstreamTls, tls);
    }
    let kind = io.map(|io| format!(": {}", io.kind())).unwrap_or_default();
    Refusal::because(Reason::UpstreamUnreachable, format!("{error}{kind}"))
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

impl Outgoing {
    fn into_request(self, url: &UpstreamUrl) -> Result<Sent, Refusal> {
        let unusable = |_| Refusal::because(Reason::MalformedHead, "the target cannot be sent on");
        let uri = format!("{}://{}{}", url.scheme.as_str(), url.authority(), self.target);
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = uri.parse().map_err(unusable)?;
        *request.headers_mut() = self.headers;
        Ok(request)
    }
}

/// A connection to send on.
enum Connection {
    Http1(Http1),
    Http2(Arc<Http2>),
}

struct SendFault {
    unsent: Option<Sent>,
    refusal: Refusal,
}

impl Connection {
    async fn send(self, request: Sent, pool: &Arc<Pool>) -> Result<Incomer, SendFault> {
        let fault = |mut error: hyper::client::conn::TrySendError<Sent>| SendFault {
            unsent: error.take_message(),
            refusal: broken(error.error()),
        };
        match self {
            Self::Http1(mut connection) => {
                let request = origin_form(request, &pool.url);
                let response = connection.sender.try_send_request(request).await.map_err(|error| {
                    let fault = fault(error);
                    SendFault { unsent: fault.unsent.map(|request| absolute_form(request, &pool.url)), ..fault }
                })?;
                connection.heed(response.headers());
                Ok(Incomer { response, hold: Hold::Http1(connection, Arc::clone(pool)) })
            }
            Self::Http2(connection) => {
                let mut sender = connection.sender.clone();
                let sent = sender.try_send_request(request).await;
                let response = sent.map_err(|error| {
                    if error.message().is_some() {
                        pool.discard(&connection);
                    }
                    fault(error)
                })?;
                Ok(Incomer { response, hold: Hold::Http2 { _connection: connection } })
            }
        }
    }
}

/// HTTP/1.1: the path on the request line, the authority in `Host`.
fn origin_form(mut request: Sent, url: &UpstreamUrl) -> Sent {
    if let Ok(host) = HeaderValue::from_str(&url.authority()) {
        request.headers_mut().insert(HOST, host);
    }
    if let Some(target) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = Uri::from(target);
    }
    request
}

/// HTTP/2: everything in the URI, from which the pseudo fields are made.
fn absolute_form(mut request: Sent, url: &UpstreamUrl) -> Sent {
    request.headers_mut().remove(HOST);
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    if let Ok(uri) = format!("{}://{}{target}", url.scheme.as_str(), url.authority()).parse() {
        *request.uri_mut() = uri;
    }
    request
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
