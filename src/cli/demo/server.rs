//! The sample MCP server of `postern demo`: an upstream worth guarding, inside this process.
//!
//! Real TLS, a real bearer token, and both living eras of MCP on one path. What it says is decided
//! by [`protocol`], without I/O; whom it says it to, by [`credential`]; this file is the HTTP between.

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

mod credential {
    //! Which credential the sample server accepts, and what it may show of a request that carried it.

    use std::sync::Arc;

    use http::header::AUTHORIZATION;
    use http::request::Parts;
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use crate::core::secret::SecretValue;

    /// The header that names a session; its value is as good as a key to it.
    pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

    /// Headers whose values are shown as they came. Of any other, only the name leaves the server.
    const SHOWN: [&str; 13] = [
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "origin",
        "traceparent",
        "transfer-encoding",
        "user-agent",
    ];

    /// The credential that the server accepts, and the one before it: a rotation is not an outage.
    pub(in crate::cli::demo) struct Expected {
        name: Arc<str>,
        generation: u64,
        current: Arc<SecretValue>,
        previous: Option<Arc<SecretValue>>,
    }

    impl Expected {
        /// Generation 1 of the credential called `name`, which is what the tool `whoami` tells.
        pub(in crate::cli::demo) fn first(name: &str, token: SecretValue) -> Self {
            Self { name: name.into(), generation: 1, current: Arc::new(token), previous: None }
        }

        /// The next generation. Publish it **before** the credential file changes: whoever reads the new
        /// file calls at once. The value before the present one is refused from here on.
        pub(in crate::cli::demo) fn rotated(&self, token: SecretValue) -> Self {
            Self {
                name: Arc::clone(&self.name),
                generation: self.generation + 1,
                current: Arc::new(token),
                previous: Some(Arc::clone(&self.current)),
            }
        }

        /// Who sent these headers, if the one token in them is accepted.
        pub(super) fn recognise(&self, headers: &HeaderMap) -> Option<Caller> {
            let token = SecretValue::parse(bearer(headers)?.into()).ok()?;
            let is_current = self.current.same_as(&token);
            let is_previous = self.previous.as_ref().is_some_and(|previous| previous.same_as(&token));
            let generation = match (is_current, is_previous) {
                (true, _) => self.generation,
                (false, true) => self.generation - 1,
                (false, false) => return None,
            };
            Some(Caller { credential: Arc::clone(&self.name), generation, is_current })
        }
    }

    /// All that an answer may know of the credential of its request.
    pub(super) struct Caller {
        pub(super) credential: Arc<str>,
        pub(super) generation: u64,
        pub(super) is_current: bool,
    }

    /// A request as it reached the server, fit for a terminal: by construction no secret is in it.
    #[derive(Debug, Clone)]
    pub(in crate::cli::demo) struct Received {
        /// The HTTP method.
        pub(in crate::cli::demo) method: Method,
        /// The path. Of a query only `?…` is left, since tokens have been seen there.
        pub(in crate::cli::demo) path: String,
        /// Each header's name, and its value where that is known to be harmless. An accepted token is
        /// its first four characters and `…`, any other is `(refused)`.
        pub(in crate::cli::demo) headers: Vec<(String, String)>,
        /// The generation of the credential, if it was accepted.
        pub(in crate::cli::demo) generation: Option<u64>,
    }

    impl Received {
        pub(super) fn new(head: &Parts, caller: Option<&Caller>) -> Self {
            let token = caller.and_then(|_| bearer(&head.headers));
            let query = if head.uri.query().is_some() { "?…" } else { "" };
            let shown = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), shown(name, value, token));
            Self {
                method: head.method.clone(),
                path: format!("{}{query}", head.uri.path()),
                headers: head.headers.iter().map(shown).collect(),
                generation: caller.map(|caller| caller.generation),
            }
        }

        /// Whether the credential was accepted.
        pub(in crate::cli::demo) fn accepted(&self) -> bool {
            self.generation.is_some()
        }
    }

    fn shown(name: &HeaderName, value: &HeaderValue, accepted: Option<&str>) -> String {
        if name == AUTHORIZATION {
            accepted.map_or_else(|| "(refused)".to_owned(), |token| format!("Bearer {}", shortened(token)))
        } else if name == SESSION_ID {
            shortened(value.to_str().unwrap_or_default())
        } else if SHOWN.contains(&name.as_str()) {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        } else {
            "(not shown)".to_owned()
        }
    }

    /// The beginning of a secret, to tell one from another; nothing of one that four characters would give away.
    fn shortened(secret: &str) -> String {
        let kept = if secret.len() < 12 { 0 } else { 4 };
        secret.chars().take(kept).chain(['…']).collect()
    }

    /// The token of the one `Authorization: Bearer` header.
    fn bearer(headers: &HeaderMap) -> Option<&str> {
        let (scheme, token) = only(headers, &AUTHORIZATION)?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    }

    /// The value of a header that is there once. Twice is as good as never: two readers would disagree.
    pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
        let mut values = headers.get_all(name).iter();
        let first = values.next()?;
        if values.next().is_some() { None } else { first.to_str().ok() }
    }

    #[cfg(test)]
    mod tests {
        use http::Request;

        use super::*;

        const OLD: &str = "demo-old-0123456789";
        const NEW: &str = "demo-new-0123456789";
        const NEWEST: &str = "next-0123456789";

        fn value(token: &str) -> SecretValue {
            SecretValue::parse(token.into()).ok().unwrap()
        }

        fn head(headers: &[(&'static str, &str)]) -> Parts {
            let mut request = Request::post("/mcp?access_token=hidden");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.body(()).unwrap().into_parts().0
        }

        fn generation(expected: &Expected, headers: &[(&'static str, &str)]) -> Option<u64> {
            expected.recognise(&head(headers).headers).map(|caller| caller.generation)
        }

        #[test]
        fn the_current_and_the_previous_token_are_accepted_and_no_other() {
            let with = |expected: &Expected, token: &str| {
                generation(expected, &[("authorization", format!("Bearer {token}").as_str())])
            };
            let first = Expected::first("demo", value(OLD));
            assert_eq!([with(&first, OLD), with(&first, NEW)], [Some(1), None]);
            let second = first.rotated(value(NEW));
            assert_eq!([with(&second, OLD), with(&second, NEW)], [Some(1), Some(2)]);
            let third = second.rotated(value(NEWEST));
            assert_eq!([with(&third, OLD), with(&third, NEW), with(&third, NEWEST)], [None, Some(2), Some(3)]);
        }

        #[test]
        fn one_bearer_header_counts_and_nothing_like_it() {
            let expected = Expected::first("demo", value(OLD));
            let bearer = format!("Bearer {OLD}");
            let lower = format!("bearer {OLD}");
            let basic = format!("Basic {OLD}");
            assert_eq!(generation(&expected, &[("authorization", &lower)]), Some(1));
            assert_eq!(generation(&expected, &[]), None);
            assert_eq!(generation(&expected, &[("authorization", OLD)]), None);
            assert_eq!(generation(&expected, &[("authorization", &basic)]), None);
            assert_eq!(generation(&expected, &[("authorization", &format!("{bearer}x"))]), None);
            assert_eq!(generation(&expected, &[("authorization", &bearer), ("authorization", &bearer)]), None);
        }

        #[test]
        fn what_is_shown_of_a_request_holds_no_secret() {
            let expected = Expected::first("demo", value(OLD));
            let bearer = format!("Bearer {OLD}");
            let id = "00112233445566778899aabbccddeeff";
            let head = head(&[
                ("authorization", &bearer),
                ("mcp-session-id", id),
                ("x-api-key", "hidden"),
                ("host", "localhost"),
            ]);
            let received = Received::new(&head, expected.recognise(&head.headers).as_ref());
            assert!(received.accepted());
            assert_eq!(received.path, "/mcp?…");
            let shown = received.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>();
            assert_eq!(
                shown,
                ["authorization: Bearer demo…", "mcp-session-id: 0011…", "x-api-key: (not shown)", "host: localhost"]
            );
            let refused = Received::new(&head, None);
            assert!(!refused.accepted());
            assert_eq!(refused.headers[0].1, "(refused)");
            assert_eq!(shortened("short"), "…");
        }
    }
}

mod message {
    //! One JSON-RPC message of a client: its era, its shape, and what to say when either is wrong.

    use std::borrow::Cow;

    use http::{HeaderMap, HeaderName, StatusCode};
    use serde_json::{Value, json};

    use super::credential::only;

    /// The version without sessions.
    pub(super) const STATELESS: &str = "2026-07-28";
    /// The versions with sessions, newest first.
    pub(super) const WITH_SESSION: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

    const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

    const PARSE_ERROR: i32 = -32700;
    const INVALID_REQUEST: i32 = -32600;
    pub(super) const METHOD_NOT_FOUND: i32 = -32601;
    pub(super) const INVALID_PARAMS: i32 = -32602;
    pub(super) const HEADER_MISMATCH: i32 = -32020;
    const UNSUPPORTED_VERSION: i32 = -32022;

    /// The two ways to speak MCP over HTTP that are alive.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Era {
        /// Up to 2025-11-25: `initialize`, then a session.
        Session,
        /// From 2026-07-28: each request stands alone and says its version.
        Stateless,
    }

    impl Era {
        /// The header decides; it is absent on `initialize`, and from clients of 2025-03-26.
        pub(super) fn of(headers: &HeaderMap) -> Result<Self, Fault> {
            if !headers.contains_key(PROTOCOL_VERSION) {
                return Ok(Self::Session);
            }
            match only(headers, &PROTOCOL_VERSION) {
                None => Err(Fault::new(HEADER_MISMATCH, "MCP-Protocol-Version is there more than once, or is no text")),
                Some(STATELESS) => Ok(Self::Stateless),
                Some(version) if WITH_SESSION.contains(&version) => Ok(Self::Session),
                Some(version) => Err(Fault::unsupported(version)),
            }
        }
    }

    /// A JSON-RPC error.
    #[derive(Debug, PartialEq)]
    pub(super) struct Fault {
        pub(super) code: i32,
        message: Cow<'static, str>,
        data: Option<Value>,
    }

    impl Fault {
        pub(super) fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
            Self { code, message: message.into(), data: None }
        }

        /// The code for a request that is wrong as such, whatever its method.
        pub(super) fn invalid_request(message: &'static str) -> Self {
            Self::new(INVALID_REQUEST, message)
        }

        fn unsupported(version: &str) -> Self {
            let supported = [&[STATELESS], &WITH_SESSION[..]].concat();
            let data = json!({ "supported": supported, "requested": version });
            Self { data: Some(data), ..Self::new(UNSUPPORTED_VERSION, "unsupported protocol version") }
        }

        /// The HTTP status for a request that was understood. With a session, errors travel under 200.
        pub(super) fn status(&self, era: Era) -> StatusCode {
            match (era, self.code) {
                (Era::Session, _) => StatusCode::OK,
                (Era::Stateless, METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
                (Era::Stateless, _) => StatusCode::BAD_REQUEST,
            }
        }

        /// The message that tells it.
        pub(super) fn reply(&self, id: &Value) -> Value {
            let mut error = json!({ "code": self.code, "message": self.message });
            if let (Value::Object(error), Some(data)) = (&mut error, &self.data) {
                error.insert("data".to_owned(), data.clone());
            }
            json!({ "jsonrpc": "2.0", "id": id, "error": error })
        }
    }

    /// One message from a client.
    #[derive(Debug, PartialEq)]
    pub(super) enum Message {
        /// Wants an answer.
        Request { id: Value, method: String, params: Value },
        /// A notification, or a response to a question this server never asks: taken, and forgotten.
        Notice,
    }

    impl Message {
        pub(super) fn parse(body: &[u8]) -> Result<Self, Fault> {
            let Value::Object(mut message) =
                serde_json::from_slice(body).map_err(|_| Fault::new(PARSE_ERROR, "the body is not JSON"))?
            else {
                return Err(Fault::invalid_request("the body must be one JSON-RPC message; batches are not served"));
            };
            let is_response = message.contains_key("result") || message.contains_key("error");
            let is_current = message.get("jsonrpc").is_some_and(|version| version == "2.0");
            match (message.remove("id"), message.remove("method")) {
                (None, Some(Value::String(_))) if is_current => Ok(Self::Notice),
                (Some(_), None) if is_current && is_response => Ok(Self::Notice),
                (Some(id @ (Value::String(_) | Value::Number(_))), Some(Value::String(method))) if is_current => {
                    Ok(Self::Request { id, method, params: message.remove("params").unwrap_or_default() })
                }
                _ => Err(Fault::invalid_request("the body is not a JSON-RPC 2.0 message")),
            }
        }

        /// The one request that needs no session, since it begins one.
        pub(super) fn is_initialize(&self) -> bool {
            matches!(self, Self::Request { method, .. } if method == "initialize")
        }
    }

    /// The message that carries a result.
    pub(super) fn reply(id: &Value, result: &Value) -> Value {
        json!({ "jsonrpc": "2.0", "id": id, "result": result })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_version_header_decides_the_era() {
            let era = |version: &str| {
                Era::of(&[(PROTOCOL_VERSION, version.parse().unwrap())].into_iter().collect())
                    .map_err(|fault| fault.code)
            };
            assert_eq!(Era::of(&HeaderMap::new()), Ok(Era::Session));
            assert_eq!(era("2025-06-18"), Ok(Era::Session));
            assert_eq!(era("2026-07-28"), Ok(Era::Stateless));
            assert_eq!(era("2027-01-01"), Err(UNSUPPORTED_VERSION));
        }

        #[test]
        fn messages_are_told_apart() {
            for (body, is_notice) in [
                (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, true),
                (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, true),
                (r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, false),
            ] {
                assert_eq!(Message::parse(body.as_bytes()).unwrap() == Message::Notice, is_notice, "{body}");
            }
            for (body, code) in [
                ("{", PARSE_ERROR),
                ("[]", INVALID_REQUEST),
                (r#"{"id":1,"method":"ping"}"#, INVALID_REQUEST),
                (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, INVALID_REQUEST),
            ] {
                assert_eq!(Message::parse(body.as_bytes()).unwrap_err().code, code, "{body}");
            }
        }
    }
}

mod protocol {
    //! What the sample server says to a request, without I/O.

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::{HeaderMap, HeaderName};
    use serde_json::{Value, json};

    use super::credential::{Caller, only};
    use super::message::{Era, Fault, HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, STATELESS, WITH_SESSION};

    /// The highest that `count` goes; a call should not take more than half a minute.
    const COUNT_LIMIT: u64 = 100;
    const INSTRUCTIONS: &str = "A sample server that `postern demo` runs; it accepts calls only with a bearer token.";

    const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
    const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");

    /// What becomes of a request that is not at fault.
    #[derive(Debug, PartialEq)]
    pub(super) enum Answer {
        /// The result of `initialize`: a session has to begin with it.
        Opening(Value),
        /// A result, at once.
        Result(Value),
        /// Notifications, one after the other, and a result at last.
        Paced { notes: Vec<Value>, result: Value },
    }

    /// Checks what the era demands of a request's headers and envelope, then answers it.
    pub(super) fn answer_to(
        headers: &HeaderMap,
        method: &str,
        params: &Value,
        era: Era,
        caller: &Caller,
    ) -> Result<Answer, Fault> {
        if era == Era::Stateless {
            check_envelope(params)?;
            check_mirrors(headers, method, params)?;
        }
        answer(method, params, era, caller)
    }

    fn check_envelope(params: &Value) -> Result<(), Fault> {
        for key in ["io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities"] {
            if params["_meta"].get(key).is_none() {
                return Err(Fault::new(INVALID_PARAMS, format!("params._meta lacks {key}")));
            }
        }
        Ok(())
    }

    /// SEP-2243: the headers repeat what the body says, for those in between.
    fn check_mirrors(headers: &HeaderMap, method: &str, params: &Value) -> Result<(), Fault> {
        let mismatch =
            |header| Err(Fault::new(HEADER_MISMATCH, format!("{header} is missing or differs from the body")));
        if params["_meta"]["io.modelcontextprotocol/protocolVersion"] != STATELESS {
            return mismatch("MCP-Protocol-Version");
        }
        if only(headers, &MCP_METHOD) != Some(method) {
            return mismatch("Mcp-Method");
        }
        if let ("tools/call", Some(name)) = (method, params["name"].as_str())
            && only(headers, &MCP_NAME).and_then(decoded).as_deref() != Some(name)
        {
            return mismatch("Mcp-Name");
        }
        Ok(())
    }

    /// Header values that are no plain text come as `=?base64?…?=`.
    fn decoded(value: &str) -> Option<String> {
        match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
            None => Some(value.to_owned()),
            Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        }
    }

    /// The whole server, but for transport: what to say to a request.
    fn answer(method: &str, params: &Value, era: Era, caller: &Caller) -> Result<Answer, Fault> {
        match (method, era) {
            ("initialize", Era::Session) => Ok(Answer::Opening(initialized(&params["protocolVersion"]))),
            ("ping", Era::Session) => Ok(Answer::Result(json!({}))),
            ("server/discover", Era::Stateless) => Ok(Answer::Result(listing(discovered(), era))),
            ("tools/list", _) => Ok(Answer::Result(listing(json!({ "tools": tools() }), era))),
            ("tools/call", _) => call(params, era, caller),
            _ => Err(Fault::new(METHOD_NOT_FOUND, "no such method in this version of MCP")),
        }
    }

    fn initialized(asked: &Value) -> Value {
        let agreed = WITH_SESSION.iter().find(|version| *asked == **version).unwrap_or(&WITH_SESSION[0]);
        json!({
            "protocolVersion": agreed,
            "capabilities": { "tools": {} },
            "serverInfo": server_info(),
            "instructions": INSTRUCTIONS,
        })
    }

    fn discovered() -> Value {
        json!({ "supportedVersions": [STATELESS], "capabilities": { "tools": {} }, "instructions": INSTRUCTIONS })
    }

    fn server_info() -> Value {
        json!({ "name": "postern-demo", "version": env!("CARGO_PKG_VERSION") })
    }

    fn tools() -> Value {
        json!([
            {
                "name": "echo",
                "description": "Says the text again.",
                "inputSchema": { "type": "object", "properties": { "text": { "type": "string" } }, "required": ["text"] },
            },
            {
                "name": "count",
                "description": "Counts from 1, slowly: a stream of progress, if you ask for progress.",
                "inputSchema": {
                    "type": "object",
                    "properties": { "to": { "type": "integer", "minimum": 1, "maximum": COUNT_LIMIT } },
                    "required": ["to"],
                },
            },
            {
                "name": "whoami",
                "description": "Tells which credential your call carried: its name and generation, never its value.",
                "inputSchema": { "type": "object" },
            },
        ])
    }

    fn call(params: &Value, era: Era, caller: &Caller) -> Result<Answer, Fault> {
        let arguments = &params["arguments"];
        match params["name"].as_str() {
            Some("echo") => Ok(Answer::Result(match arguments["text"].as_str() {
                Some(text) => said(text, era),
                None => misused("echo needs a string: text", era),
            })),
            Some("count") => Ok(match arguments["to"].as_u64() {
                Some(to @ 1..=COUNT_LIMIT) => counted(to, &params["_meta"]["progressToken"], era),
                _ => Answer::Result(misused("count needs a whole number from 1 to 100: to", era)),
            }),
            Some("whoami") => Ok(Answer::Result(introduced(caller, era))),
            Some(_) => Err(Fault::new(INVALID_PARAMS, "no such tool")),
            None => Err(Fault::new(INVALID_PARAMS, "a tool's name is needed")),
        }
    }

    fn counted(to: u64, token: &Value, era: Era) -> Answer {
        let result = said(&format!("counted to {to}"), era);
        // Who gave no token has not asked for progress, and would not know what to do with it.
        if !(token.is_string() || token.is_number()) {
            return Answer::Result(result);
        }
        let note = |step| {
            let params =
                json!({ "progressToken": token, "progress": step, "total": to, "message": format!("{step} of {to}") });
            json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params })
        };
        Answer::Paced { notes: (1..=to).map(note).collect(), result }
    }

    fn introduced(caller: &Caller, era: Era) -> Value {
        let Caller { credential, generation, is_current } = caller;
        let standing = if *is_current { "current" } else { "previous" };
        let mut result =
            said(&format!("you carried credential {credential}, generation {generation} ({standing})"), era);
        let seen = json!({ "credential": credential.as_ref(), "generation": generation, "standing": standing });
        extend(&mut result, json!({ "structuredContent": seen }));
        result
    }

    fn said(text: &str, era: Era) -> Value {
        dressed(json!({ "content": [{ "type": "text", "text": text }], "isError": false }), era)
    }

    /// Not a JSON-RPC error: the model is to read it and mend its call.
    fn misused(text: &str, era: Era) -> Value {
        dressed(json!({ "content": [{ "type": "text", "text": text }], "isError": true }), era)
    }

    /// SEP-2549: what may be cached must say for how long.
    fn listing(mut result: Value, era: Era) -> Value {
        if era == Era::Stateless {
            extend(&mut result, json!({ "ttlMs": 0, "cacheScope": "private" }));
        }
        dressed(result, era)
    }

    /// Without a session, each result says of what kind it is and who gives it.
    fn dressed(mut result: Value, era: Era) -> Value {
        if era == Era::Stateless {
            let meta = json!({ "io.modelcontextprotocol/serverInfo": server_info() });
            extend(&mut result, json!({ "resultType": "complete", "_meta": meta }));
        }
        result
    }

    fn extend(result: &mut Value, more: Value) {
        if let (Value::Object(result), Value::Object(more)) = (result, more) {
            result.extend(more);
        }
    }

    #[cfg(test)]
    mod tests {
        use http::StatusCode;

        use super::*;

        fn said_to(method: &str, params: Value, era: Era) -> Result<Answer, Fault> {
            let caller = Caller { credential: "demo-mcp".into(), generation: 2, is_current: false };
            answer(method, &params, era, &caller)
        }

        fn result(method: &str, params: Value, era: Era) -> Value {
            match said_to(method, params, era).unwrap() {
                Answer::Opening(result) | Answer::Result(result) | Answer::Paced { result, .. } => result,
            }
        }

        fn stateless(method: &str, params: Value, headers: &[(HeaderName, &str)]) -> Option<i32> {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name, value.parse().unwrap());
            }
            let caller = Caller { credential: "demo-mcp".into(), generation: 1, is_current: true };
            answer_to(&map, method, &params, Era::Stateless, &caller).err().map(|fault| fault.code)
        }

        fn with_envelope(mut params: Value) -> Value {
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": STATELESS,
                "io.modelcontextprotocol/clientCapabilities": {},
            });
            extend(&mut params, json!({ "_meta": meta }));
            params
        }

        #[test]
        fn initialize_agrees_on_a_version_with_sessions() {
            for (asked, agreed) in [("2025-06-18", "2025-06-18"), ("2026-07-28", "2025-11-25"), ("x", "2025-11-25")] {
                let answer = said_to("initialize", json!({ "protocolVersion": asked }), Era::Session).unwrap();
                assert!(matches!(answer, Answer::Opening(result) if result["protocolVersion"] == agreed), "{asked}");
            }
        }

        #[test]
        fn each_era_has_its_own_methods() {
            for (method, with_session, stateless) in [
                ("initialize", true, false),
                ("ping", true, false),
                ("server/discover", false, true),
                ("tools/list", true, true),
                ("resources/list", false, false),
            ] {
                assert_eq!(said_to(method, json!({}), Era::Session).is_ok(), with_session, "{method}");
                assert_eq!(said_to(method, json!({}), Era::Stateless).is_ok(), stateless, "{method}");
            }
            let fault = said_to("ping", json!({}), Era::Stateless).unwrap_err();
            assert_eq!((fault.code, fault.status(Era::Stateless)), (METHOD_NOT_FOUND, StatusCode::NOT_FOUND));
            assert_eq!(fault.status(Era::Session), StatusCode::OK);
        }

        #[test]
        fn only_stateless_results_are_dressed() {
            let list = result("tools/list", json!({}), Era::Stateless);
            assert_eq!(list["resultType"], "complete");
            assert_eq!(list["cacheScope"], "private");
            assert_eq!(list["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "postern-demo");
            let list = result("tools/list", json!({}), Era::Session);
            assert_eq!(list.as_object().unwrap().keys().collect::<Vec<_>>(), ["tools"]);
        }

        #[test]
        fn tools_answer_and_tell_the_model_what_it_did_wrong() {
            for (params, is_error, text) in [
                (json!({ "name": "echo", "arguments": { "text": "größe" } }), false, "größe"),
                (json!({ "name": "echo", "arguments": { "text": 1 } }), true, "echo needs a string: text"),
                (json!({ "name": "echo" }), true, "echo needs a string: text"),
                (json!({ "name": "count", "arguments": { "to": 3 } }), false, "counted to 3"),
                (
                    json!({ "name": "count", "arguments": { "to": 0 } }),
                    true,
                    "count needs a whole number from 1 to 100: to",
                ),
                (json!({ "name": "whoami" }), false, "you carried credential demo-mcp, generation 2 (previous)"),
            ] {
                for era in [Era::Session, Era::Stateless] {
                    let result = result("tools/call", params.clone(), era);
                    assert_eq!((&result["content"][0]["text"], &result["isError"]), (&json!(text), &json!(is_error)));
                }
            }
            for params in [json!({ "name": "rm" }), json!({}), json!([]), Value::Null] {
                assert_eq!(said_to("tools/call", params, Era::Session).unwrap_err().code, INVALID_PARAMS);
            }
        }

        #[test]
        fn count_reports_progress_to_those_who_asked() {
            let params = json!({ "name": "count", "arguments": { "to": 2 }, "_meta": { "progressToken": "p" } });
            let Ok(Answer::Paced { notes, .. }) = said_to("tools/call", params, Era::Session) else {
                panic!("not paced")
            };
            let steps = notes.iter().map(|note| &note["params"]["progress"]).collect::<Vec<_>>();
            assert_eq!(steps, [1, 2]);
            assert_eq!(notes[0]["params"]["progressToken"], "p");
            assert_eq!(notes[0].get("id"), None);
        }

        #[test]
        fn a_stateless_request_must_say_the_same_in_head_and_body() {
            let list = [(MCP_METHOD, "tools/list")];
            let echo = with_envelope(json!({ "name": "größe" }));
            let named = |name| [(MCP_METHOD, "tools/call"), (MCP_NAME, name)];
            let twice = [(MCP_METHOD, "tools/list"), (MCP_METHOD, "tools/list")];
            let old = json!({ "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2025-11-25",
            "io.modelcontextprotocol/clientCapabilities": {},
        } });
            assert_eq!(stateless("tools/list", with_envelope(json!({})), &list), None);
            assert_eq!(stateless("tools/list", with_envelope(json!({})), &twice), Some(HEADER_MISMATCH));
            assert_eq!(stateless("tools/list", with_envelope(json!({})), &[]), Some(HEADER_MISMATCH));
            assert_eq!(stateless("tools/list", old, &list), Some(HEADER_MISMATCH));
            assert_eq!(stateless("tools/list", json!({}), &list), Some(INVALID_PARAMS));
            assert_eq!(stateless("tools/call", echo.clone(), &named("echo")), Some(HEADER_MISMATCH));
            assert_eq!(stateless("tools/call", echo, &named("=?base64?Z3LDtsOfZQ==?=")), Some(INVALID_PARAMS));
        }
    }
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
