//! The upstream: an MCP-like server over TLS that demands the injected credential and counts every other one.
//!
//! HTTP/1.1 is spoken by hand, because the server shares a core with the load: what it saves, the proxy can be given.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::Authority;
use super::message::{self, Chunks, Framing};
use super::workload::{Protocol, Workload};

/// What the proxy is to inject, as a header value.
pub const INJECTED: &str = "Bearer injected-4f8a1c2e9b7d6053a1f2";
/// What the agent sends of its own, which must never arrive.
pub const AGENTS: &str = "agents-own-0b1d9e7c5a3f8642";

/// What arrived.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: AtomicU64,
    /// Requests with anything of the agent's credential in their head.
    pub leaked: AtomicU64,
    /// Requests without exactly the injected one.
    pub unauthenticated: AtomicU64,
    pub connections: AtomicU64,
}

/// How to answer; set before each round.
struct Script {
    answer: AtomicU64,
    /// Between two events of a stream, in microseconds.
    every: AtomicU64,
    streams: AtomicU64,
}

/// The running upstream, one port for each protocol.
pub struct Upstream {
    pub h1: SocketAddr,
    pub h2: SocketAddr,
    pub ca_pem: String,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Seen,
    script: Script,
    epoch: Instant,
}

impl Upstream {
    /// Starts it; it runs as long as the runtime.
    pub async fn start(epoch: Instant) -> Self {
        let authority = Authority::new();
        let script =
            Script { answer: AtomicU64::new(400), every: AtomicU64::new(1_000_000), streams: AtomicU64::new(0) };
        let shared = Arc::new(Shared { seen: Seen::default(), script, epoch });
        let h1 = listen(&authority, b"http/1.1", &shared, Protocol::H1).await;
        let h2 = listen(&authority, b"h2", &shared, Protocol::H2).await;
        Self { h1, h2, ca_pem: authority.pem().to_owned(), shared }
    }

    pub fn seen(&self) -> &Seen {
        &self.shared.seen
    }

    pub fn address(&self, protocol: Protocol) -> SocketAddr {
        match protocol {
            Protocol::H1 => self.h1,
            Protocol::H2 => self.h2,
        }
    }

    /// Answers as a workload wants it, and counts anew.
    pub fn prepare(&self, workload: &Workload, every: Duration) {
        let Shared { seen, script, .. } = &*self.shared;
        script.answer.store(workload.answer as u64, Ordering::Relaxed);
        script.every.store(every.as_micros() as u64, Ordering::Relaxed);
        script.streams.store(0, Ordering::Relaxed);
        for count in [&seen.requests, &seen.leaked, &seen.unauthenticated, &seen.connections] {
            count.store(0, Ordering::Relaxed);
        }
    }
}

async fn listen(authority: &Authority, alpn: &[u8], shared: &Arc<Shared>, protocol: Protocol) -> SocketAddr {
    let acceptor = TlsAcceptor::from(authority.server(&["localhost", "127.0.0.1"], &[alpn], false));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
            tokio::spawn(async move {
                // A connection that ends early is the proxy's to answer for: the agents see it.
                drop(socket.set_nodelay(true));
                let Ok(socket) = acceptor.accept(socket).await else { return };
                shared.seen.connections.fetch_add(1, Ordering::Relaxed);
                match protocol {
                    Protocol::H1 => drop(serve(socket, &shared).await),
                    Protocol::H2 => serve_h2(socket, shared).await,
                }
            });
        }
    });
    address
}

impl Shared {
    /// Notes a request by its `authorization` values and whether its head holds the agent's; whether it may be served.
    fn admit<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>, leaked: bool) -> bool {
        let served = values.next() == Some(INJECTED.as_bytes()) && values.next().is_none();
        self.seen.requests.fetch_add(1, Ordering::Relaxed);
        self.seen.leaked.fetch_add(u64::from(leaked), Ordering::Relaxed);
        self.seen.unauthenticated.fetch_add(u64::from(!served), Ordering::Relaxed);
        served
    }

    fn answer(&self) -> usize {
        self.script.answer.load(Ordering::Relaxed) as usize
    }
}

/// A connection that requests are read from.
struct Requests {
    socket: TlsStream<TcpStream>,
    buffer: Vec<u8>,
    filled: usize,
}

/// What a request's head says that the server cares for.
struct Asked {
    served: bool,
    stream: bool,
    close: bool,
}

impl Requests {
    async fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match self.socket.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }

    /// Lets go what has been used.
    fn used(&mut self, bytes: usize) {
        self.buffer.copy_within(bytes..self.filled, 0);
        self.filled -= bytes;
    }

    /// The next request, body and all.
    async fn next(&mut self, shared: &Shared) -> io::Result<Asked> {
        let end = loop {
            match message::head_end(&self.buffer[..self.filled]) {
                Some(end) => break end,
                None => self.fill().await?,
            }
        };
        let head = &self.buffer[..end];
        let leaked = message::holds(head, AGENTS.as_bytes());
        let asked = Asked {
            served: shared.admit(message::values(head, "authorization"), leaked),
            stream: head.starts_with(b"GET "),
            close: message::values(head, "connection").any(|value| value.eq_ignore_ascii_case(b"close")),
        };
        let framing = message::framing(head);
        self.used(end);
        match framing {
            Framing::Length(length) => self.skip(length).await?,
            // Some proxies pass a body on in chunks.
            Framing::Chunked => {
                let mut chunks = Chunks::default();
                loop {
                    let walked = chunks.advance(&self.buffer[..self.filled]);
                    self.used(walked);
                    if chunks.ended() {
                        break;
                    }
                    self.fill().await?;
                }
            }
        }
        Ok(asked)
    }

    async fn skip(&mut self, mut left: usize) -> io::Result<()> {
        loop {
            let piece = left.min(self.filled);
            self.used(piece);
            left -= piece;
            if left == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    async fn send(&mut self, answer: &[u8]) -> io::Result<()> {
        self.socket.write_all(answer).await?;
        self.socket.flush().await
    }
}

/// HTTP/1.1 on one connection, until it closes.
async fn serve(socket: TlsStream<TcpStream>, shared: &Shared) -> io::Result<()> {
    let mut requests = Requests { socket, buffer: vec![0; 64 << 10], filled: 0 };
    let (mut answer, mut size) = (Vec::new(), None);
    loop {
        let asked = requests.next(shared).await?;
        if !asked.served {
            requests.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await?;
        } else if asked.stream {
            return events(requests.socket, shared).await;
        } else {
            if size != Some(shared.answer()) {
                size = Some(shared.answer());
                answer = message::answer(shared.answer());
            }
            requests.send(&answer).await?;
        }
        if asked.close {
            return requests.socket.shutdown().await;
        }
    }
}

/// An event stream, until the proxy closes it. Streams start apart, so that their events do not come in a burst.
async fn events(socket: TlsStream<TcpStream>, shared: &Shared) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(socket);
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n";
    to.write_all(head.as_bytes()).await?;
    to.flush().await?;
    let every = Duration::from_micros(shared.script.every.load(Ordering::Relaxed));
    // A step that shares no divisor with the count spreads any number of streams evenly.
    let place = shared.script.streams.fetch_add(1, Ordering::Relaxed).wrapping_mul(619) % 1000;
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every * place as u32 / 1000, every);
    let mut rest = [0; 64];
    loop {
        tokio::select! {
            _ = tick.tick() => {
                to.write_all(&message::event(shared.epoch)).await?;
                to.flush().await?;
            }
            read = from.read(&mut rest) => {
                if read? == 0 {
                    return Ok(());
                }
            }
        }
    }
}

async fn serve_h2(socket: TlsStream<TcpStream>, shared: Arc<Shared>) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let headers = request.headers();
            let leaked = headers.values().any(|value| message::holds(value.as_bytes(), AGENTS.as_bytes()));
            let served = shared.admit(headers.get_all("authorization").iter().map(|value| value.as_bytes()), leaked);
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                frame?;
            }
            let (status, text) = if served { (200, message::json(shared.answer())) } else { (401, String::new()) };
            let answer = Response::builder().status(status).header("content-type", "application/json");
            Ok::<_, hyper::Error>(answer.body(Full::new(Bytes::from(text))).expect("the head is valid"))
        }
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.max_concurrent_streams(1000);
    // The connection ends as the proxy likes.
    drop(server.serve_connection(TokioIo::new(socket), service).await);
}
