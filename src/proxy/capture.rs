//! Connections of agents that do not know of us: to the proxy that their environment names, or
//! redirected by the pod's network. For a bound server we are the server; others are led through
//! where the configuration lets them, and refused otherwise.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::{End, Passage, judge, talk};
use super::{Shared, h2, passthrough};
use crate::core::capture::{Direct, Verdict, Way};
use crate::core::decide::Refusal;
use crate::core::hello::{self, Hello, MAX_HELLO};
use crate::core::reason::Reason;
use crate::core::upstream::{Host, Place, Scheme};
use crate::nft::probe;
use crate::runtime::clock;
use crate::runtime::drain::Phase;
use crate::telemetry::exchange::Exchange;
use crate::tls::stream::{self, ServerStream};

/// TLS alert `access_denied`, fatal (RFC 8446 section 6.2), in a record of its own: all that can be
/// told to a client that waits for a certificate we do not have.
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];
/// How much a refused client may still send before the connection closes.
const DISCARD_BYTES: u64 = 64 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Serves a connection to the proxy.
pub(super) async fn proxy(mut socket: TcpStream, shared: &Arc<Shared>, overloaded: bool) {
    let (end, early) = {
        let (reader, writer) = socket.split();
        talk((reader, Vec::new()), writer, shared, &Way::Proxy, overloaded).await
    };
    match end {
        End::Over => {}
        End::Inside(place) => inside(socket, early, place, shared).await,
        End::Tunnel(passage) => passthrough::tunnel(socket, early, &passage, shared).await,
        End::Forward(passage, head) => passthrough::forward(socket, early, &Way::Proxy, &passage, *head, shared).await,
    }
}

/// Serves a connection that was meant for another machine.
pub(super) async fn redirect(socket: TcpStream, shared: &Arc<Shared>, overloaded: bool) {
    let original = probe::original_destination(&socket).ok().flatten();
    if let (Some(original), Some(own)) = (original.filter(|place| probe::is_probe(*place)), &shared.probe) {
        // Whoever asks learns nothing but that it is we who listen.
        let _gone = own.answer(socket, original).await;
        return;
    }
    let way = Way::Direct(Direct { scheme: Scheme::Http, host: None, port: None, original });
    if overloaded {
        let refusal = Refusal::because(Reason::Overloaded, "limits.connections are in use");
        return refuse(socket, shared, &way, &refusal).await;
    }
    match first_bytes(socket, Vec::new(), shared, &way).await {
        Some(First::Tls(socket, early, hello)) => match hello.agreed(None) {
            Ok(host) => captured(socket, early, host, original, shared).await,
            Err(refusal) => refuse(socket, shared, &way, &refusal).await,
        },
        Some(First::Clear(socket, early)) => clear(socket, early, &way, shared).await,
        None => {}
    }
}

/// What an agent sends into a tunnel to a bound place: TLS mostly, plain HTTP from some (Node).
async fn inside(socket: TcpStream, early: Vec<u8>, place: Place, shared: &Arc<Shared>) {
    let Place { host, port } = place;
    let direct = |scheme| Way::Direct(Direct { scheme, host: Some(host.clone()), port: Some(port), original: None });
    match first_bytes(socket, early, shared, &direct(Scheme::Https)).await {
        Some(First::Tls(socket, early, hello)) => match hello.agreed(Some(&host)) {
            Ok(host) => terminate(socket, early, &host, direct(Scheme::Https), shared).await,
            Err(refusal) => refuse(socket, shared, &direct(Scheme::Https), &refusal).await,
        },
        Some(First::Clear(socket, early)) => clear(socket, early, &direct(Scheme::Http), shared).await,
        None => {}
    }
}

/// TLS of a redirected connection: all that is known is the name.
async fn captured(socket: TcpStream, early: Vec<u8>, host: Host, original: Option<SocketAddr>, shared: &Arc<Shared>) {
    let way = Way::Direct(Direct { scheme: Scheme::Https, host: Some(host.clone()), port: None, original });
    match judge(shared, &host) {
        Ok(Verdict::Terminate) => terminate(socket, early, &host, way, shared).await,
        Ok(Verdict::Pass(pattern)) => {
            // The address is ours to find. The port is the agent's to choose, as it is with CONNECT.
            let port = original.map_or(Scheme::Https.default_port(), |original| original.port());
            let passage = Passage { place: Place { host, port }, pattern };
            passthrough::captured(socket, early, &way, &passage, shared).await;
        }
        Err(refusal) => refuse(socket, shared, &way, &refusal).await,
    }
}

async fn clear(mut socket: TcpStream, early: Vec<u8>, way: &Way, shared: &Arc<Shared>) {
    let (end, early) = {
        let (reader, writer) = socket.split();
        talk((reader, early), writer, shared, way, false).await
    };
    // A tunnel is only had from a proxy.
    if let End::Forward(passage, head) = end {
        passthrough::forward(socket, early, way, &passage, *head, shared).await;
    }
}

/// What a client begins with.
enum First {
    /// A ClientHello, and all bytes that it was read from.
    Tls(TcpStream, Vec<u8>, Hello),
    /// Anything else.
    Clear(TcpStream, Vec<u8>),
}

/// Reads until it is clear what the client speaks; `None` has been dealt with.
async fn first_bytes(mut socket: TcpStream, mut early: Vec<u8>, shared: &Arc<Shared>, way: &Way) -> Option<First> {
    let read = async {
        loop {
            match early.first() {
                Some(first) if hello::is_tls(*first) => match hello::read(&early).map_err(Refusal::from) {
                    Ok(Some(hello)) => return Ok(Some(hello)),
                    Ok(None) => {}
                    Err(refusal) => return Err(Some(refusal)),
                },
                Some(_) => return Ok(None),
                None => {}
            }
            early.reserve(MAX_HELLO / 4);
            match socket.read_buf(&mut early).await {
                Ok(1..) => {}
                // Gone, mostly without a word: some clients open connections in advance.
                _ => return Err(None),
            }
        }
    };
    let mut drain = shared.drain.clone();
    let read = tokio::select! {
        read = timeout(shared.settings.times.head, read) => read,
        () = drain.reached(Phase::Closing) => return None,
    };
    match read {
        Ok(Ok(Some(hello))) => Some(First::Tls(socket, early, hello)),
        Ok(Ok(None)) => Some(First::Clear(socket, early)),
        Ok(Err(None)) => None,
        Ok(Err(Some(refusal))) => {
            refuse(socket, shared, way, &refusal).await;
            None
        }
        Err(_) => {
            let refusal = Refusal::because(Reason::NotHttp, "the client did not begin to speak in time");
            refuse(socket, shared, way, &refusal).await;
            None
        }
    }
}

/// Is the server `host`: TLS first, then requests, each decided for itself.
async fn terminate(socket: TcpStream, early: Vec<u8>, host: &Host, way: Way, shared: &Arc<Shared>) {
    let mut drain = shared.drain.clone();
    let shaken = tokio::select! {
        shaken = handshake(socket, early, host, shared) => shaken,
        () = drain.reached(Phase::Closing) => return,
    };
    match shaken {
        Ok(stream) if stream.alpn_protocol() == Some(b"h2") => h2::serve(stream, way, shared).await,
        Ok(stream) => {
            let (reader, writer) = tokio::io::split(stream);
            let _over = talk((reader, Vec::new()), writer, shared, &way, false).await;
        }
        Err(refusal) => count(shared, &way, &refusal),
    }
}

async fn handshake(
    socket: TcpStream,
    early: Vec<u8>,
    host: &Host,
    shared: &Shared,
) -> Result<ServerStream<TcpStream>, Refusal> {
    let stand_in = shared.stand_in.get().ok_or_else(|| Refusal::new(Reason::SourceNotReady))?;
    let settings = stand_in.authority.settings(host, clock::wall());
    // Ours to mend: nothing that an agent does leads here.
    let settings = settings.map_err(|error| Refusal::because(Reason::RestartRequired, error))?;
    let fault = |detail: &dyn ToString| Refusal::because(Reason::AgentTls, detail.to_string());
    let shaken = timeout(shared.settings.times.head, stream::accept(&settings, socket, early)).await;
    let shaken = shaken.map_err(|_| fault(&"the handshake did not come to its end in time"))?;
    let (shaken, asked) =
        shaken.map_err(|error| match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(tls) => fault(tls),
            None => fault(&error.kind()),
        })?;
    // Two parsers have read the name; a difference would be a way around the decision.
    let named = asked.as_deref().and_then(Host::parse);
    let same = match host {
        Host::Name(_) => named.as_ref() == Some(host),
        Host::Address(_) => named.is_none(),
    };
    if same { Ok(shaken) } else { Err(Refusal::because(Reason::AuthorityMismatch, "the TLS server name is ambiguous")) }
}

/// Counts and logs a connection that ends without an answer.
fn count(shared: &Shared, way: &Way, refusal: &Refusal) {
    let mut exchange = Exchange::begin(&shared.telemetry, "TLS");
    exchange.way(way);
    exchange.refuse(refusal, refusal.reason.status().as_u16());
}

/// Ends a connection on which no HTTP can be spoken.
async fn refuse(mut socket: TcpStream, shared: &Shared, way: &Way, refusal: &Refusal) {
    count(shared, way, refusal);
    let goodbye = async {
        // To whatever is not TLS it is seven strange bytes before the end.
        socket.write_all(&ACCESS_DENIED).await?;
        socket.shutdown().await?;
        // Closing with bytes unread resets the connection before the client has read the alert.
        tokio::io::copy(&mut socket.take(DISCARD_BYTES), &mut tokio::io::sink()).await.map(drop)
    };
    let _gone: Result<io::Result<()>, _> = timeout(DISCARD_TIME, goodbye).await;
}
