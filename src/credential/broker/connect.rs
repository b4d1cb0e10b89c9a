//! One stream: connect, prove who we are, read line by line.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName as TlsName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::Settings;
use super::lines::Lines;
use crate::core::upstream::Host;
use crate::core::wire::{self, MAX_LINE_BYTES, Message, Snapshot, Terms};
use crate::runtime::clock;
use crate::runtime::resolve::Resolver;
use crate::runtime::task::OwnedTask;
use crate::tls;

/// For resolution, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(10);
/// For the broker to look at the token and begin.
const ANSWER: Duration = Duration::from_secs(20);
/// A token is a few kilobytes at most.
const MAX_TOKEN_BYTES: u64 = 16 * 1024;
/// What a broker says that says nothing of it.
const USUAL: Terms = Terms { heartbeat: Duration::from_secs(10), life: Duration::from_secs(600) };
/// What a broker may say.
const HEARTBEAT: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(120)];

/// Why there is no stream, or no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("the token's file cannot be used: {0}")]
    TokenFile(String),
    #[error("the broker cannot be reached: {0}")]
    Unreachable(String),
    #[error("TLS with the broker failed: {0}")]
    Tls(String),
    #[error("the broker does not accept this pod's token: {0}")]
    Rejected(u16),
    #[error("the broker cannot answer now: {status} {word}")]
    Unavailable { status: u16, word: String, retry: Option<Duration> },
    #[error("what the broker sends cannot be read: {0}")]
    Protocol(String),
    #[error("nothing was heard of the broker for {0:?}")]
    Silent(Duration),
    #[error("the broker's stream ended")]
    Ended,
}

impl Fault {
    /// The metric's label.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Self::TokenFile(_) => "token_file",
            Self::Unreachable(_) | Self::Ended => "unreachable",
            Self::Tls(_) => "tls",
            Self::Rejected(_) => "rejected",
            Self::Unavailable { .. } => "unavailable",
            Self::Protocol(_) => "protocol",
            Self::Silent(_) => "silent",
        }
    }

    /// Whether it says that nobody knows who we are.
    pub(super) const fn is_rejection(&self) -> bool {
        matches!(self, Self::Rejected(_) | Self::TokenFile(_))
    }
}

/// Opens streams.
pub(super) struct Connector {
    settings: Settings,
    name: TlsName<'static>,
    tls: Arc<ClientConfig>,
    resolver: Resolver,
}

impl Connector {
    pub(super) fn new(settings: Settings) -> io::Result<Self> {
        let name = match &settings.url.host {
            Host::Name(name) => TlsName::try_from(name.to_string()).map_err(io::Error::other)?,
            Host::Address(address) => TlsName::from(*address),
        };
        let tls = tls::client::own_settings(&settings.ca, &[b"h2"]).map_err(io::Error::other)?;
        Ok(Self { resolver: Resolver::new(&settings.resolvers)?, name, tls, settings })
    }

    /// Opens a stream and reads its first snapshot.
    pub(super) async fn open(&self) -> Result<(Stream, Snapshot), Fault> {
        let token = read_token(&self.settings.token_file)?;
        let late = |_| Fault::Unreachable("no connection in time".into());
        let socket = timeout(CONNECT, self.connect()).await.map_err(late)??;
        timeout(ANSWER, self.begin(socket, token)).await.map_err(|_| Fault::Silent(ANSWER))?
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, Fault> {
        let url = &self.settings.url;
        let addresses =
            self.resolver.addresses(&url.host).await.map_err(|error| Fault::Unreachable(error.to_string()))?;
        let mut last = Fault::Unreachable(format!("{} has no address", url.host));
        for address in addresses {
            match TcpStream::connect((address, url.port)).await {
                Ok(socket) => return self.shake(socket).await,
                Err(error) => last = Fault::Unreachable(format!("{address} port {}: {}", url.port, error.kind())),
            }
        }
        Err(last)
    }

    async fn shake(&self, socket: TcpStream) -> Result<TlsStream<TcpStream>, Fault> {
        let shaken = TlsConnector::from(Arc::clone(&self.tls)).connect(self.name.clone(), socket).await;
        let stream =
            shaken.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(tls) => Fault::Tls(tls.to_string()),
                None => Fault::Unreachable(format!("TLS handshake: {}", error.kind())),
            })?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Ok(stream),
            _ => Err(Fault::Protocol("no HTTP/2".into())),
        }
    }

    async fn begin(&self, socket: TlsStream<TcpStream>, token: HeaderValue) -> Result<(Stream, Snapshot), Fault> {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(512 * 1024)
            .max_header_list_size(16 * 1024);
        let broken = |error: hyper::Error| Fault::Unreachable(without_source(&error));
        let (mut sender, connection) = builder.handshake(TokioIo::new(socket)).await.map_err(broken)?;
        let connection = OwnedTask::spawn(async move {
            // How it ends is told to whoever reads from it.
            let _ended = connection.await;
        });
        let response = sender.send_request(self.request(token)?).await.map_err(broken)?;
        let response = accepted(response).await?;
        let mut stream = Stream {
            body: response.into_body(),
            lines: Lines::new(MAX_LINE_BYTES),
            terms: USUAL,
            deadline: clock::now().into(),
            _sender: sender,
            _connection: connection,
        };
        stream.heard();
        loop {
            if let Message::Snapshot(snapshot) = stream.next().await? {
                return Ok((stream, snapshot));
            }
        }
    }

    fn request(&self, token: HeaderValue) -> Result<Request<Empty<Bytes>>, Fault> {
        let url = &self.settings.url;
        let base = url.path().trim_end_matches('/');
        let request = Request::get(format!("https://{}{base}/v1/credentials", url.authority()))
            .header(header::AUTHORIZATION, token)
            .header(header::USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new());
        request.map_err(|_| Fault::Protocol("the broker's url cannot be asked".into()))
    }
}

/// The token as it stands now: the kubelet renews it long before it ends.
fn read_token(file: &Path) -> Result<HeaderValue, Fault> {
    use std::io::Read as _;
    let fault = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory => {
            Fault::TokenFile(error.kind().to_string())
        }
        // Of the machine, not of the token.
        kind => Fault::Unreachable(format!("the token's file cannot be read: {kind}")),
    };
    let opened = std::fs::File::open(file).map_err(fault)?;
    let mut text = Zeroizing::new(Vec::with_capacity(4096));
    opened.take(MAX_TOKEN_BYTES).read_to_end(&mut text).map_err(fault)?;
    let token = text.trim_ascii();
    if token.is_empty() {
        return Err(Fault::TokenFile("it is empty".into()));
    }
    let header = crate::core::secret::header_value("Bearer ", token, "");
    header.ok_or_else(|| Fault::TokenFile("it holds no token".into()))
}

async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, Fault> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(Fault::Rejected(status.as_u16()));
    }
    let retry = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let retry = retry.map(Duration::from_secs);
    Err(Fault::Unavailable { status: status.as_u16(), word: word(response).await, retry })
}

/// The one word with which a broker says why; nothing else that may stand there goes on.
async fn word(response: Response<Incoming>) -> String {
    let body = http_body_util::Limited::new(response.into_body(), 64).collect();
    let body = timeout(Duration::from_secs(1), body).await;
    let text = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let word = text.trim_ascii();
    let is_word = word.iter().all(|b| b.is_ascii_lowercase() || *b == b'_');
    String::from_utf8_lossy(if is_word { word } else { b"" }).into_owned()
}

/// What hyper says of an error, without the parts that may quote the wire.
fn without_source(error: &hyper::Error) -> String {
    error.to_string()
}

/// A stream that has begun.
pub(super) struct Stream {
    body: Incoming,
    lines: Lines,
    terms: Terms,
    deadline: Instant,
    _sender: hyper::client::conn::http2::SendRequest<Empty<Bytes>>,
    _connection: OwnedTask,
}

impl Stream {
    /// What the broker said of it.
    pub(super) fn terms(&self) -> Terms {
        self.terms
    }

    /// The next message. May be dropped and called again: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Message, Fault> {
        loop {
            if let Some(line) = self.lines.take() {
                let message = wire::decode(&line).map_err(|error| Fault::Protocol(error.to_string()))?;
                if let Message::Hello(terms) = message {
                    let [least, most] = HEARTBEAT;
                    self.terms = Terms { heartbeat: terms.heartbeat.clamp(least, most), life: terms.life };
                    self.heard();
                }
                return Ok(message);
            }
            let frame = timeout_at(self.deadline, self.body.frame()).await;
            let frame = frame.map_err(|_| Fault::Silent(patience(self.terms)))?;
            let piece = match frame {
                None => return Err(Fault::Ended),
                Some(Err(error)) => return Err(Fault::Unreachable(without_source(&error))),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            self.heard();
            self.lines.push(&piece).map_err(|_| Fault::Protocol("a line is too long".into()))?;
        }
    }

    fn heard(&mut self) {
        self.deadline = (clock::now() + patience(self.terms)).into();
    }
}

/// Two heartbeats are missed for sure when half of the third's time is over.
fn patience(terms: Terms) -> Duration {
    terms.heartbeat * 5 / 2
}
