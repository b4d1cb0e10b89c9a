//! The sample MCP server of `postern demo`: an upstream worth guarding, inside this process.
//!
//! Real TLS, a real bearer token, and both living eras of MCP on one path. What it says is decided
//! by [`protocol`], without I/O; whom it says it to, by [`credential`]; this file is the HTTP between.

mod credential;
mod message;
mod protocol;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use self::credential::{Caller, SESSION_ID, only};
pub(in crate::cli::demo) use self::credential::{Expected, Received};
use self::message::{Era, Fault, Message, reply};
use self::protocol::{Answer, answer_to};
use super::certificate::{Identity, IdentityError};

/// The one path that speaks MCP.
const PATH: &str = "/mcp";
const BODY_LIMIT: usize = 1024 * 1024;
const CONNECTION_LIMIT: usize = 256;
const SESSION_LIMIT: usize = 256;
/// Slow enough to see that events pass one by one, quick enough to watch.
const PACE: Duration = Duration::from_millis(300);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// For a TLS handshake and for a body; hyper itself limits the time for a head.
const PATIENCE: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request that gets no further, and the HTTP status that says so.
type Refusal = (StatusCode, Fault);

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
    /// Listens, and serves until dropped. To be called within a tokio runtime.
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

    /// What arrives from now on. A reader that lags loses the oldest; the server never waits for it.
    pub(super) fn received(&self) -> broadcast::Receiver<Received> {
        self.received.subscribe()
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, service: Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTION_LIMIT => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, tls.clone(), Arc::clone(&service)));
                }
                // Out of file descriptors, most likely: trying again at once would only burn the processor.
                Err(_) => tokio::time::sleep(PACE).await,
            },
        }
    }
}

/// Serves one connection. How it ends is of no interest here: Postern, its peer, reports that.
async fn converse(stream: TcpStream, tls: TlsAcceptor, service: Arc<Service>) {
    // Each event of a stream has to leave at once; without this it would only leave later.
    _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, tls.accept(stream)).await else { return };
    let serve = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.respond(request).await) }
    });
    _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), serve).await;
}

struct Service {
    expected: watch::Receiver<Arc<Expected>>,
    received: broadcast::Sender<Received>,
    /// Oldest first. A session's stream ends when the sender is dropped.
    sessions: Mutex<VecDeque<(String, watch::Sender<()>)>>,
}

impl Service {
    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let caller = self.expected.borrow().recognise(&head.headers);
        // No reader is no error: then nobody wants to know.
        _ = self.received.send(Received::new(&head, caller.as_ref()));
        match caller {
            None => unauthorized(&head.headers),
            Some(caller) => {
                self.exchange(&head, body, &caller).await.unwrap_or_else(|(status, fault)| {
                    // The id is unknown by then, or was never read.
                    json(status, &fault.reply(&Value::Null))
                })
            }
        }
    }

    async fn exchange(&self, head: &Parts, body: Incoming, caller: &Caller) -> Result<Response<Body>, Refusal> {
        if head.uri.path() != PATH {
            return Err(refusal(StatusCode::NOT_FOUND, "nothing here; MCP is at /mcp"));
        }
        let era = Era::of(&head.headers).map_err(|fault| (StatusCode::BAD_REQUEST, fault))?;
        match (&head.method, era) {
            (&Method::POST, _) => self.post(&head.headers, body, era, caller).await,
            (&Method::GET, Era::Session) => self.listen(&head.headers),
            (&Method::DELETE, Era::Session) => self.end_session(&head.headers),
            (_, Era::Session) => Ok(method_not_allowed("GET, POST, DELETE")),
            (_, Era::Stateless) => Ok(method_not_allowed("POST")),
        }
    }

    async fn post(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        era: Era,
        caller: &Caller,
    ) -> Result<Response<Body>, Refusal> {
        check_media_types(headers)?;
        let body = read(body).await?;
        let message = Message::parse(&body).map_err(|fault| (StatusCode::BAD_REQUEST, fault))?;
        if era == Era::Session && !message.is_initialize() {
            self.open_session(headers)?;
        }
        let Message::Request { id, method, params } = message else { return Ok(empty(StatusCode::ACCEPTED)) };
        match answer_to(headers, &method, &params, era, caller) {
            Ok(Answer::Opening(result)) => self.begin_session(&reply(&id, &result)),
            Ok(Answer::Result(result)) => Ok(json(StatusCode::OK, &reply(&id, &result))),
            Ok(Answer::Paced { notes, result }) => Ok(event_stream(paced(notes, &reply(&id, &result)).boxed_unsync())),
            Err(fault) => Ok(json(fault.status(era), &fault.reply(&id))),
        }
    }

    fn listen(&self, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
        if !accepts(headers, "text/event-stream") {
            return Err(refusal(StatusCode::NOT_ACCEPTABLE, "GET must accept text/event-stream"));
        }
        Ok(event_stream(kept_alive(self.open_session(headers)?)))
    }

    fn begin_session(&self, opening: &Value) -> Result<Response<Body>, Refusal> {
        let id =
            session_id().ok_or_else(|| refusal(StatusCode::INTERNAL_SERVER_ERROR, "no randomness for a session id"))?;
        let mut response = json(StatusCode::OK, opening);
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(SESSION_ID, value);
        }
        let mut sessions = self.sessions();
        if sessions.len() == SESSION_LIMIT {
            sessions.pop_front();
        }
        sessions.push_back((id, watch::Sender::new(())));
        Ok(response)
    }

    /// The session that the headers name, as a receiver that fails once the session is over.
    fn open_session(&self, headers: &HeaderMap) -> Result<watch::Receiver<()>, Refusal> {
        let id = only(headers, &SESSION_ID)
            .ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "one Mcp-Session-Id is required: initialize first"))?;
        let sessions = self.sessions();
        let found = sessions.iter().find(|(known, _)| known == id);
        let (_, open) = found.ok_or_else(|| refusal(StatusCode::NOT_FOUND, "no such session: initialize again"))?;
        Ok(open.subscribe())
    }

    fn end_session(&self, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
        self.open_session(headers)?;
        let id = only(headers, &SESSION_ID);
        self.sessions().retain(|(known, _)| Some(known.as_str()) != id);
        Ok(empty(StatusCode::NO_CONTENT))
    }

    fn sessions(&self) -> MutexGuard<'_, VecDeque<(String, watch::Sender<()>)>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn session_id() -> Option<String> {
    let mut random = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut random).ok()?;
    Some(format!("{:032x}", u128::from_be_bytes(random)))
}

fn check_media_types(headers: &HeaderMap) -> Result<(), Refusal> {
    if !(accepts(headers, "application/json") && accepts(headers, "text/event-stream")) {
        let message = "POST must accept both application/json and text/event-stream";
        return Err(refusal(StatusCode::NOT_ACCEPTABLE, message));
    }
    match only(headers, &CONTENT_TYPE) {
        Some(value) if essence(value).eq_ignore_ascii_case("application/json") => Ok(()),
        _ => Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Type must be application/json")),
    }
}

fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    ranges.map(essence).any(|range| range == "*/*" || range.eq_ignore_ascii_case(media_type))
}

/// A media type without its parameters.
fn essence(value: &str) -> &str {
    value.split_once(';').map_or(value, |(essence, _)| essence).trim()
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let whole = tokio::time::timeout(PATIENCE, Limited::new(body, BODY_LIMIT).collect()).await;
    match whole.map_err(|_| refusal(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB"))
        }
        Err(_) => Err(refusal(StatusCode::BAD_REQUEST, "the body broke off")),
    }
}

/// One note after the other, each after a pause, then the reply.
fn paced(notes: Vec<Value>, reply: &Value) -> impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<> {
    let last = event(reply);
    let notes = stream::iter(notes).then(|note| async move {
        tokio::time::sleep(PACE).await;
        event(&note)
    });
    StreamBody::new(notes.chain(stream::iter([last])).map(|event| Ok(Frame::data(event))))
}

/// A stream on which nothing ever happens, for as long as the session is open.
fn kept_alive(session: watch::Receiver<()>) -> Body {
    let comments = stream::unfold((session, tokio::time::interval(KEEP_ALIVE)), |(mut session, mut timer)| async {
        tokio::select! {
            _ = session.changed() => None,
            // The first tick is immediate, so that the client sees at once that the stream is open.
            _ = timer.tick() => Some((Ok(Frame::data(Bytes::from_static(b": keep-alive\n\n"))), (session, timer))),
        }
    });
    StreamBody::new(comments).boxed_unsync()
}

fn event(message: &Value) -> Bytes {
    Bytes::from(format!("event: message\ndata: {message}\n\n"))
}

fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn json(status: StatusCode, message: &Value) -> Response<Body> {
    let mut response = Response::new(Full::from(message.to_string()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = status;
    response
}

fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = empty(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// RFC 6750 section 3: the error is named only to those who tried.
fn unauthorized(headers: &HeaderMap) -> Response<Body> {
    let challenge = if headers.contains_key(AUTHORIZATION) {
        r#"Bearer realm="postern demo", error="invalid_token""#
    } else {
        r#"Bearer realm="postern demo""#
    };
    let (status, fault) = refusal(StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong");
    let mut response = json(status, &fault.reply(&Value::Null));
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

fn refusal(status: StatusCode, message: &'static str) -> Refusal {
    (status, Fault::invalid_request(message))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;
    use crate::core::secret::SecretValue;

    async fn connect(server: &SampleServer) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(server.ca_pem.as_bytes()).unwrap()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(server.address).await.unwrap();
        TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    #[tokio::test]
    async fn a_wrong_token_is_challenged_and_a_dropped_server_hangs_up() {
        let token = SecretValue::parse(b"demo-0123456789".to_vec()).unwrap_or_else(|fault| panic!("{fault}"));
        let (_sender, expected) = watch::channel(Arc::new(Expected::first("demo", token)));
        let server = SampleServer::start(expected).await.unwrap();
        let mut received = server.received();
        let mut client = connect(&server).await;
        client.write_all(b"GET /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer guess\r\n\r\n").await.unwrap();
        let mut head = vec![0; 12];
        client.read_exact(&mut head).await.unwrap();
        assert_eq!(head, b"HTTP/1.1 401");
        assert!(!received.recv().await.unwrap().accepted());

        drop(server);
        // The end may come with or without a TLS goodbye; that it comes is what counts.
        _ = client.read_to_end(&mut head).await;
        assert!(String::from_utf8_lossy(&head).contains(r#"error="invalid_token""#));
    }
}
