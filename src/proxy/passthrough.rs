//! Connections to hosts that need no credential: the name resolved by us, the address checked, and
//! then byte for byte. Never to where the agent's own resolution led, and never to a bound host.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Shared;
use super::connection::{Passage, last_answer};
use super::inbound::Inbound;
use super::outbound::Outbound;
use crate::core::capture::Way;
use crate::core::decide::Refusal;
use crate::core::fields::{Fields, Known, ascii, write_line};
use crate::core::request::Head;
use crate::runtime::drain::Phase;
use crate::telemetry::exchange::{Exchange, Outcome};

const COPY_BYTES: usize = 16 * 1024;
/// A tunnel in which nothing moves for this long is forgotten by both sides.
const IDLE: Duration = Duration::from_secs(3600);

/// Of CONNECT: the answer comes after the host's, so that the agent is told what went wrong.
pub(super) async fn tunnel(mut socket: TcpStream, early: Vec<u8>, passage: &Passage, shared: &Arc<Shared>) {
    let exchange = begin(shared, "CONNECT", &Way::Proxy, passage);
    match shared.upstreams.dialer.passage(&passage.place).await {
        Ok(host) => {
            let said = timeout(shared.settings.times.head, Outbound::new(&mut socket).tunnel_open()).await;
            if matches!(said, Ok(Ok(()))) {
                pour(socket, host, &early, exchange, shared).await;
            }
        }
        Err(refusal) => answer(socket, exchange, &refusal, shared).await,
    }
}

/// Of a redirected TLS connection: `early` is its ClientHello.
pub(super) async fn captured(socket: TcpStream, early: Vec<u8>, way: &Way, passage: &Passage, shared: &Arc<Shared>) {
    let exchange = begin(shared, "TLS", way, passage);
    match shared.upstreams.dialer.passage(&passage.place).await {
        Ok(host) => pour(socket, host, &early, exchange, shared).await,
        Err(refusal) => exchange.refuse(&refusal, refusal.reason.status().as_u16()),
    }
}

/// One request in clear text. The host is asked to close after it, because the agent's next request
/// on this connection may be for another host.
pub(super) async fn forward(
    socket: TcpStream,
    early: Vec<u8>,
    way: &Way,
    passage: &Passage,
    head: Head,
    shared: &Arc<Shared>,
) {
    let exchange = begin(shared, head.method.as_str(), way, passage);
    match shared.upstreams.dialer.passage(&passage.place).await {
        Ok(host) => {
            let mut bytes = rewritten(&head);
            bytes.extend_from_slice(&early);
            pour(socket, host, &bytes, exchange, shared).await;
        }
        Err(refusal) => answer(socket, exchange, &refusal, shared).await,
    }
}

fn begin(shared: &Arc<Shared>, method: &str, way: &Way, passage: &Passage) -> Exchange {
    let mut exchange = Exchange::begin(&shared.telemetry, method);
    exchange.way(way);
    exchange.passes_through(&passage.pattern);
    exchange
}

async fn answer(mut socket: TcpStream, exchange: Exchange, refusal: &Refusal, shared: &Shared) {
    let response = shared.respond.refuse(exchange, refusal, None);
    let (reader, writer) = socket.split();
    let (mut inbound, mut out) = (Inbound::new(reader, Vec::new()), Outbound::new(writer));
    last_answer(&mut inbound, &mut out, &response, shared.settings.times.idle).await;
}

/// The head as the host gets it: in origin-form, without what concerns the agent's connection alone
/// (RFC 9110 section 7.6.1).
fn rewritten(head: &Head) -> Vec<u8> {
    let query = head.target.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let mut bytes = format!("{} {}{query} HTTP/1.1\r\n", head.method, head.target.path).into_bytes();
    let named = named_by_connection(&head.headers);
    for field in head.headers.iter() {
        let own: [&[u8]; 6] =
            [b"connection", b"te", b"upgrade", b"keep-alive", b"proxy-connection", b"proxy-authorization"];
        if !own.contains(&field.name()) && !named.iter().any(|name| name.as_bytes() == field.name()) {
            write_line(&mut bytes, field.name(), field.value());
        }
    }
    bytes.extend_from_slice(b"connection: close\r\n\r\n");
    bytes
}

/// What `Connection` lists, but for the fields that frame the body and name the host.
fn named_by_connection(headers: &Fields) -> Vec<String> {
    let values = headers.all(Known::Connection).filter_map(ascii);
    let names = values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase());
    names.filter(|name| !["host", "content-length", "transfer-encoding"].contains(&name.as_str())).collect()
}

/// Moves bytes both ways until both sides are done, or one is lost, or we stop.
async fn pour(agent: TcpStream, host: TcpStream, early: &[u8], mut exchange: Exchange, shared: &Shared) {
    let (to_host, to_agent) = (AtomicU64::new(0), AtomicU64::new(0));
    let (mut from_agent, mut into_agent) = agent.into_split();
    let (mut from_host, mut into_host) = host.into_split();
    let mut drain = shared.drain.clone();
    let up = async {
        into_host.write_all(early).await?;
        to_host.fetch_add(early.len() as u64, Ordering::Relaxed);
        copy(&mut from_agent, &mut into_host, &to_host).await
    };
    let down = copy(&mut from_host, &mut into_agent, &to_agent);
    let outcome = tokio::select! {
        done = async { tokio::try_join!(up, down) } => done.map_or(Outcome::UpstreamGone, |_| Outcome::Ok),
        () = drain.reached(Phase::Closing) => Outcome::Drained,
        () = stillness(&to_host, &to_agent) => Outcome::Idle,
    };
    exchange.passed(to_host.into_inner(), to_agent.into_inner());
    exchange.finish(outcome);
}

async fn copy<R, W>(from: &mut R, into: &mut W, count: &AtomicU64) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return into.shutdown().await;
        }
        into.write_all(buffer.get(..read).unwrap_or_default()).await?;
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// Waits for a time in which nothing moves.
async fn stillness(to_host: &AtomicU64, to_agent: &AtomicU64) {
    let moved = || (to_host.load(Ordering::Relaxed), to_agent.load(Ordering::Relaxed));
    loop {
        let before = moved();
        tokio::time::sleep(IDLE).await;
        if moved() == before {
            return;
        }
    }
}
