//! The sample MCP server of `postern demo`: an upstream worth guarding, inside this process.
//!
//! Real TLS, a real bearer token and both living eras of MCP on one path: sessions (2025-03-26 to
//! 2025-11-25) and stateless requests (2026-07-28). What it says is decided by [`answer`], a pure
//! function; the rest is HTTP.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::certificate::{Identity, IdentityError};
use crate::core::secret::SecretValue;

/// The one path that speaks MCP.
const PATH: &str = "/mcp";
const STATELESS: &str = "2026-07-28";
/// Newest first: the first one is offered to a client that asks for none of them.
const WITH_SESSION: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
const BODY_LIMIT: usize = 1024 * 1024;
const CONNECTION_LIMIT: usize = 256;
const SESSION_LIMIT: usize = 256;
const COUNT_LIMIT: u64 = 100;
/// Slow enough to see that events pass one by one, quick enough to watch.
const PACE: Duration = Duration::from_millis(300);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// For a TLS handshake and for a body; hyper itself limits a head.
const PATIENCE: Duration = Duration::from_secs(10);

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Headers whose values are shown as they came; of any other one, only the name leaves the server.
const SHOWN: [&str; 14] = [
    "host", "accept", "accept-encoding", "connection", "content-length", "content-type", "origin", "te",
    "traceparent", "transfer-encoding", "user-agent", "mcp-method", "mcp-name", "mcp-protocol-version",
];

const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const INTERNAL_ERROR: i32 = -32603;
const HEADER_MISMATCH: i32 = -32020;
const UNSUPPORTED_VERSION: i32 = -32022;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A sample MCP server over TLS that demands a bearer token. Dropping it ends all its connections.
pub(super) struct SampleServer {
    /// Where it listens: IPv4 loopback, a port of the system's choice.
    pub(super) address: SocketAddr,
    /// The authority behind its certificate, for a binding's `tls.caBundle`.
    pub(super) ca_pem: String,
    received: broadcast::Sender<Received>,
    /// Holds the accept loop, which holds the connections: dropping the set aborts them all.
    _tasks: JoinSet<()>,
}

/// Why the sample server could not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// No loopback port to be had.
    #[error("the sample server cannot listen on 127.0.0.1: {0}")]
    Listen(#[from] io::Error),
    /// No certificate to be had.
    #[error("the sample server {0}")]
    Identity(#[from] IdentityError),
}

impl SampleServer {
    /// Listens and serves, until dropped; must be called within a tokio runtime.
    pub(super) async fn start(expected: watch::Receiver<Arc<Expected>>) -> Result<Self, StartError> {
        let Identity { ca_pem, tls } = Identity::loopback()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let received = broadcast::Sender::new(256);
        let service = Service { expected, received: received.clone(), sessions: Mutex::default() };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, TlsAcceptor::from(tls), Arc::new(service)));
        Ok(Self { address, ca_pem, received, _tasks: tasks })
    }

    /// What a binding's `server.url` says to reach it.
    pub(super) fn url(&self) -> String {
        format!("https://localhost:{}{PATH}", self.address.port())
    }

    /// What arrives from now on. A reader that lags loses the oldest, the server never waits for it.
    pub(super) fn received(&self) -> broadcast::Receiver<Received> {
        self.received.subscribe()
    }
}

/// The credential that the server accepts, and the one before it: a rotation is never an outage.
pub(super) struct Expected {
    name: Arc<str>,
    generation: u64,
    current: Arc<SecretValue>,
    previous: Option<Arc<SecretValue>>,
}

impl Expected {
    /// Generation 1 of the credential called `name`; the name is what the `whoami` tool tells.
    pub(super) fn first(name: &str, token: SecretValue) -> Self {
        Self { name: name.into(), generation: 1, current: Arc::new(token), previous: None }
    }

    /// The next generation. Publish it before the credential file changes, since whoever reads the
    /// new file calls at once; the value before the present one ends here.
    pub(super) fn rotated(&self, token: SecretValue) -> Self {
        Self {
            name: Arc::clone(&self.name),
            generation: self.generation + 1,
            current: Arc::new(token),
            previous: Some(Arc::clone(&self.current)),
        }
    }

    fn recognise(&self, headers: &HeaderMap) -> Option<Caller> {
        let token = SecretValue::parse(bearer(headers)?.as_bytes().to_vec()).ok()?;
        let is_current = self.current.same_as(&token);
        let is_previous = self.previous.as_ref().is_some_and(|previous| previous.same_as(&token));
        let generation = if is_current { self.generation } else { self.generation - 1 };
        (is_current || is_previous).then(|| Caller { credential: Arc::clone(&self.name), generation, is_current })
    }
}

/// Which credential a request carried: all that a tool may know of it.
struct Caller {
    credential: Arc<str>,
    generation: u64,
    is_current: bool,
}

/// One request as it reached the server, fit for a terminal: no secret is in it by construction.
#[derive(Debug, Clone)]
pub(super) struct Received {
    /// The HTTP method.
    pub(super) method: Method,
    /// The path; a query would end it with `?…`, for it may hold a token.
    pub(super) path: String,
    /// Name and, where it is known to be harmless, value of each header. An accepted token is its first
    /// four characters and `…`, any other `(refused)`.
    pub(super) headers: Vec<(String, String)>,
    /// The generation of the credential, if it was accepted.
    pub(super) generation: Option<u64>,
}

impl Received {
    fn new(request: &Parts, caller: Option<&Caller>) -> Self {
        let query = if request.uri.query().is_some() { "?…" } else { "" };
        let headers = request.headers.iter().map(|(name, value)| {
            let shown = match (name, caller.and(bearer(&request.headers))) {
                (&AUTHORIZATION, Some(token)) => format!("Bearer {}", shortened(token)),
                (&AUTHORIZATION, None) => "(refused)".to_owned(),
                (name, _) if SHOWN.contains(&name.as_str()) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
                (&SESSION_ID, _) => shortened(value.to_str().unwrap_or_default()),
                _ => "(not shown)".to_owned(),
            };
            (name.as_str().to_owned(), shown)
        });
        Self {
            method: request.method.clone(),
            path: format!("{}{query}", request.uri.path()),
            headers: headers.collect(),
            generation: caller.map(|caller| caller.generation),
        }
    }

    /// Whether the credential was accepted.
    pub(super) fn accepted(&self) -> bool {
        self.generation.is_some()
    }
}

/// Of a short secret, four characters would be most of it.
fn shortened(secret: &str) -> String {
    let kept = if secret.len() < 12 { 0 } else { 4 };
    secret.chars().take(kept).chain(['…']).collect()
}

/// The token of the one `Authorization: Bearer` header; two headers are as good as none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = only(headers, &AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { first.to_str().ok() }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, service: Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTION_LIMIT => match accepted {
                Ok((stream, _)) => drop(connections.spawn(converse(stream, tls.clone(), Arc::clone(&service)))),
                // Out of file descriptors, most likely: trying again at once would only burn the processor.
                Err(_) => tokio::time::sleep(PACE).await,
            },
        }
    }
}

/// Serves one connection. How it ends is the peer's affair: whoever matters sees it on the other side.
async fn converse(stream: TcpStream, tls: TlsAcceptor, service: Arc<Service>) {
    // Each event of a stream must leave at once.
    _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(stream)).await else { return };
    let serve = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.respond(request).await) }
    });
    _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), serve)
        .await;
}

struct Service {
    expected: watch::Receiver<Arc<Expected>>,
    received: broadcast::Sender<Received>,
    /// Oldest first. A session's streams end when its sender is dropped.
    sessions: Mutex<VecDeque<(String, watch::Sender<()>)>>,
}

impl Service {
    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let caller = self.expected.borrow().recognise(&head.headers);
        // No reader is no error: then nobody wants to know.
        _ = self.received.send(Received::new(&head, caller.as_ref()));
        let Some(caller) = caller else { return unauthorized(&head.headers) };
        if head.uri.path() != PATH {
            return Fault::new(INVALID_REQUEST, "nothing here; MCP is at /mcp").at(StatusCode::NOT_FOUND, &Value::Null);
        }
        match self.exchange(&head, body, &caller).await {
            Ok(response) => response,
            Err((status, fault)) => fault.at(status, &Value::Null),
        }
    }

    async fn exchange(&self, head: &Parts, body: Incoming, caller: &Caller) -> Result<Response<Body>, Refusal> {
        let era = Era::of(&head.headers)?;
        match (&head.method, era) {
            (&Method::POST, _) => self.post(head, body, era, caller).await,
            (&Method::GET, Era::Session) if accepts(&head.headers, "text/event-stream") => {
                Ok(event_stream(keep_alive(self.open_session(&head.headers)?)))
            }
            (&Method::GET, Era::Session) => {
                Err(refusal(StatusCode::NOT_ACCEPTABLE, "GET must accept text/event-stream"))
            }
            (&Method::DELETE, Era::Session) => {
                self.open_session(&head.headers)?;
                let id = only(&head.headers, &SESSION_ID);
                self.sessions().retain(|(known, _)| Some(known.as_str()) != id);
                Ok(respond(StatusCode::NO_CONTENT, None, Full::default().boxed_unsync()))
            }
            _ => {
                let fault = Fault::new(INVALID_REQUEST, "this version of MCP has no such HTTP method");
                let mut response = fault.at(StatusCode::METHOD_NOT_ALLOWED, &Value::Null);
                let methods = if era == Era::Session { "GET, POST, DELETE" } else { "POST" };
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
                Ok(response)
            }
        }
    }

    async fn post(
        &self,
        head: &Parts,
        body: Incoming,
        era: Era,
        caller: &Caller,
    ) -> Result<Response<Body>, Refusal> {
        let headers = &head.headers;
        if !(accepts(headers, "application/json") && accepts(headers, "text/event-stream")) {
            return Err(refusal(
                StatusCode::NOT_ACCEPTABLE,
                "POST must accept both application/json and text/event-stream",
            ));
        }
        if !only(headers, &CONTENT_TYPE).is_some_and(|value| is_type(value, "application/json")) {
            return Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json"));
        }
        let message = Message::parse(&read(body).await?).map_err(|fault| (StatusCode::BAD_REQUEST, fault))?;
        let opens = matches!(&message, Message::Request { method, .. } if method == "initialize");
        if era == Era::Session && !opens {
            self.open_session(headers)?;
        }
        let Message::Request { id, method, params } = message else {
            return Ok(respond(StatusCode::ACCEPTED, None, Full::default().boxed_unsync()));
        };
        let decided = match era {
            Era::Session => answer(&method, &params, era, caller),
            Era::Stateless => agrees(headers, &method, &params).and_then(|()| answer(&method, &params, era, caller)),
        };
        match decided {
            Ok(Answer::Result(result)) if opens => self.open(&result, &id),
            Ok(Answer::Result(result)) => Ok(json(StatusCode::OK, &reply(&id, &result))),
            Ok(Answer::Paced { notes, result }) => Ok(event_stream(paced(notes, &reply(&id, &result)))),
            Err(fault) => Ok(fault.at(fault.status(era), &id)),
        }
    }

    fn open(&self, result: &Value, id: &Value) -> Result<Response<Body>, Refusal> {
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random)
            .map_err(|_| refusal(StatusCode::INTERNAL_SERVER_ERROR, "no randomness for a session id"))?;
        let session = random.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut response = json(StatusCode::OK, &reply(id, result));
        if let Ok(value) = HeaderValue::from_str(&session) {
            response.headers_mut().insert(SESSION_ID, value);
        }
        let mut sessions = self.sessions();
        if sessions.len() == SESSION_LIMIT {
            sessions.pop_front();
        }
        sessions.push_back((session, watch::Sender::new(())));
        Ok(response)
    }

    /// The session that the headers name, as a receiver that fails once the session is gone.
    fn open_session(&self, headers: &HeaderMap) -> Result<watch::Receiver<()>, Refusal> {
        let id = only(headers, &SESSION_ID)
            .ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "one Mcp-Session-Id is required: initialize first"))?;
        let sessions = self.sessions();
        let found = sessions.iter().find(|(known, _)| known == id);
        let (_, open) = found.ok_or_else(|| refusal(StatusCode::NOT_FOUND, "no such session: initialize again"))?;
        Ok(open.subscribe())
    }

    fn sessions(&self) -> MutexGuard<'_, VecDeque<(String, watch::Sender<()>)>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
