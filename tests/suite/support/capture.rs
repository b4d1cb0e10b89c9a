//! A raw upstream: it keeps every byte it is sent and does what the test scripts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::answer::{Answer, rpc_id};
use super::certificates::{Authority, NAMES};
use super::observed::Observed;
use super::{upstream_h1, upstream_h2};

/// What the upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 without TLS.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TLS.
    H2,
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which connection brought it.
    pub connection: usize,
    pub method: String,
    /// The target as sent: path and query.
    pub target: String,
    /// `Host`, or `:authority`.
    pub authority: String,
    /// Every field line in order, duplicates too; names in the case they came in.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Field lines after the body.
    pub trailers: Vec<(String, String)>,
    /// All of it came. On HTTP/2 a request counts from its head on, and may break off.
    pub whole: bool,
    /// The answer went out whole.
    pub answered: bool,
    /// The peer left before the answer was whole: connection closed or stream reset.
    pub abandoned: bool,
}

impl Request {
    /// The values of every line of this header, whatever its case.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The JSON-RPC id in the body, verbatim.
    pub fn rpc_id(&self) -> Option<String> {
        rpc_id(&self.body)
    }

    /// Everything this request said, as text: for HTTP/2, where the wire bytes are compressed.
    pub fn dump(&self) -> Vec<u8> {
        let mut dump = format!("{} {}\n{}\n", self.method, self.target, self.authority).into_bytes();
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            dump.extend_from_slice(format!("{name}: {value}\n").as_bytes());
        }
        dump.extend_from_slice(&self.body);
        dump
    }
}

/// One accepted connection.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// The name asked for in TLS.
    pub server_name: Option<String>,
    /// The TLS handshake failed.
    pub handshake_failed: bool,
    /// Every byte the peer sent, after TLS. HTTP/2: every request's `dump`.
    pub bytes: Vec<u8>,
    /// The peer closed or reset it.
    pub peer_closed: bool,
    /// This side is done with it (HTTP/1.1 only): its FIN or RST is on the wire.
    pub hung_up: bool,
}

/// All that an upstream has seen.
#[derive(Default)]
pub struct Seen {
    pub connections: Vec<Connection>,
    pub requests: Vec<Request>,
}

type Rule = dyn Fn(&Request) -> Answer + Send + Sync;

/// What to do with the next request: the queued answers first, then the standing rule.
pub struct Script {
    queued: Mutex<VecDeque<Answer>>,
    rule: Mutex<Arc<Rule>>,
    slow: AtomicBool,
    /// How many streams an HTTP/2 connection takes at once.
    pub streams: AtomicU32,
}

impl Script {
    /// The part of `buffer` to read into (HTTP/1.1 only).
    pub fn appetite<'a>(&self, buffer: &'a mut [u8]) -> &'a mut [u8] {
        let most = if self.slow.load(Ordering::Relaxed) { 4 * 1024 } else { buffer.len() };
        &mut buffer[..most]
    }

    /// Pauses after a read, if that is to be slow.
    pub async fn digest(&self) {
        if self.slow.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub fn answer(&self, request: &Request) -> Answer {
        let queued = self.queued.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let rule = Arc::clone(&self.rule.lock().unwrap_or_else(PoisonError::into_inner));
        queued.unwrap_or_else(|| rule(request))
    }
}

/// The upstream.
pub struct Capture {
    authority: Authority,
    protocol: Protocol,
    port: u16,
    seen: Arc<Observed<Seen>>,
    script: Arc<Script>,
    task: AbortHandle,
}

impl Capture {
    /// Starts on a free port of 127.0.0.1; answers like a plain MCP server.
    pub async fn start(protocol: Protocol) -> Self {
        Self::with_leaf(protocol, &NAMES, false).await
    }

    /// The same with a leaf for other names, or an expired one.
    pub async fn with_leaf(protocol: Protocol, names: &[&str], expired: bool) -> Self {
        let authority = Authority::new();
        let tls = match protocol {
            Protocol::Plain => None,
            Protocol::Tls => Some(authority.server(names, &[b"http/1.1"], expired)),
            Protocol::H2 => Some(authority.server(names, &[b"h2"], expired)),
        };
        Self::serving(protocol, authority, tls).await
    }

    /// The same with TLS, for clients that show a certificate.
    pub async fn for_the_certified() -> Self {
        let authority = Authority::new();
        let tls = authority.server_for_the_certified(&NAMES, &[b"http/1.1"]);
        Self::serving(Protocol::Tls, authority, Some(tls)).await
    }

    async fn serving(protocol: Protocol, authority: Authority, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let tls = tls.map(TlsAcceptor::from);
        let seen = Arc::new(Observed::new(Seen::default()));
        let rule: Arc<Rule> = Arc::new(Answer::result);
        let script = Arc::new(Script {
            queued: Mutex::default(),
            rule: Mutex::new(rule),
            slow: AtomicBool::new(false),
            streams: AtomicU32::new(200),
        });
        let accept = accept(listener, tls, protocol, Arc::clone(&seen), Arc::clone(&script));
        let task = tokio::spawn(accept).abort_handle();
        Self { authority, protocol, port, seen, script, task }
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of `path` here, by the name `localhost`.
    pub fn url(&self, path: &str) -> String {
        self.url_as("localhost", path)
    }

    /// The URL of `path` here, by another name.
    pub fn url_as(&self, host: &str, path: &str) -> String {
        let scheme = if self.protocol == Protocol::Plain { "http" } else { "https" };
        format!("{scheme}://{host}:{}{path}", self.port)
    }

    /// The certificate authority that vouches for it.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// From now on answers by this rule.
    pub fn always(&self, rule: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        *self.script.rule.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// From now on reads 4 KiB at a time, with a pause after each (HTTP/1.1 only).
    pub fn read_slowly(&self) {
        self.script.slow.store(true, Ordering::Relaxed);
    }

    /// From now on a new HTTP/2 connection takes this many streams at once; 200 before.
    pub fn take_streams(&self, most: u32) {
        self.script.streams.store(most, Ordering::Relaxed);
    }

    /// Answers the next request without an answer of its own with this, once.
    pub fn next(&self, answer: Answer) {
        self.script.queued.lock().unwrap_or_else(PoisonError::into_inner).push_back(answer);
    }

    /// Stops listening and drops every connection.
    pub fn stop(&self) {
        self.task.abort();
    }

    pub fn seen(&self) -> &Observed<Seen> {
        &self.seen
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.seen.read(|seen| seen.connections.len())
    }

    /// How many requests there have been.
    pub fn count(&self) -> usize {
        self.seen.read(|seen| seen.requests.len())
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.read(|seen| seen.requests.clone())
    }

    /// Every byte of every connection so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.seen.read(|seen| seen.connections.iter().flat_map(|c| c.bytes.clone()).collect())
    }

    /// The `number`th request (from 0), once it is here.
    pub async fn request(&self, number: usize) -> Request {
        self.seen.until(&format!("request {number} at the upstream"), |seen| seen.requests.get(number).cloned()).await
    }

    /// Awaits that the peer gives up the `number`th request's answer.
    pub async fn abandoned(&self, number: usize) {
        let what = format!("the sidecar to give up request {number}");
        self.seen.until(&what, |seen| seen.requests.get(number)?.abandoned.then_some(())).await;
    }

    /// Awaits that the peer closes the `number`th connection.
    pub async fn closed(&self, number: usize) {
        let what = format!("the sidecar to close connection {number}");
        self.seen.until(&what, |seen| seen.connections.get(number)?.peer_closed.then_some(())).await;
    }

    /// Awaits that this side has ended the `number`th connection.
    pub async fn hung_up(&self, number: usize) {
        let what = format!("the upstream to end connection {number}");
        self.seen.until(&what, |seen| seen.connections.get(number)?.hung_up.then_some(())).await;
    }

    /// Asserts that nobody ever connected, let alone sent a byte.
    pub fn assert_untouched(&self) {
        assert_eq!(self.connections(), 0, "nothing may connect to the upstream");
        assert!(self.bytes().is_empty(), "not one byte may reach the upstream");
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A byte stream whose socket can be reached below any TLS.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn socket(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    protocol: Protocol,
    seen: Arc<Observed<Seen>>,
    script: Arc<Script>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        socket.set_nodelay(true).expect("a fresh socket takes options");
        let number = seen.update(|seen| {
            seen.connections.push(Connection::default());
            seen.connections.len() - 1
        });
        let (tls, seen, script) = (tls.clone(), Arc::clone(&seen), Arc::clone(&script));
        connections.spawn(async move {
            let Some(wire) = secure(socket, tls, number, &seen).await else { return };
            match protocol {
                Protocol::H2 => upstream_h2::serve(number, wire, seen, script).await,
                Protocol::Plain | Protocol::Tls => upstream_h1::serve(number, wire, &seen, &script).await,
            }
        });
    }
}

/// Does the TLS handshake, if any, and notes its outcome.
async fn secure(
    socket: TcpStream,
    tls: Option<TlsAcceptor>,
    number: usize,
    seen: &Observed<Seen>,
) -> Option<Box<dyn Wire>> {
    let Some(tls) = tls else { return Some(Box::new(socket)) };
    match tls.accept(socket).await {
        Ok(stream) => {
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            seen.update(|seen| seen.connections[number].server_name = name);
            Some(Box::new(stream))
        }
        Err(_) => {
            seen.update(|seen| seen.connections[number].handshake_failed = true);
            None
        }
    }
}
