//! An upstream that speaks HTTP/2 frame by frame, for what no proper server says.

use std::collections::BTreeSet;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::{Authority, NAMES};
use super::documents::Binding;
use super::observed::within;

/// RFC 9113 section 7.
pub const NO_ERROR: u32 = 0;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The upstream: its connections are the test's, one by one.
pub struct Frames {
    authority: Authority,
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Frames {
    pub async fn start() -> Self {
        let authority = Authority::new();
        let tls = TlsAcceptor::from(authority.server(&NAMES, &[b"h2"], false));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        Self { authority, listener, tls }
    }

    /// A binding that leads here.
    pub fn binding(&self, name: &str) -> Binding {
        let port = self.listener.local_addr().expect("a bound listener has an address").port();
        Binding::new(name).ca_bundle(self.authority.pem()).url(&format!("https://localhost:{port}/mcp"))
    }

    /// The next connection, as far as both sides' settings.
    pub async fn accept(&self) -> Wire {
        let socket = self.dialled().await;
        self.serve(socket).await
    }

    /// The next connection, as far as TCP.
    pub async fn dialled(&self) -> TcpStream {
        let accepted = within("a connection of the sidecar", self.listener.accept()).await;
        let (socket, _) = accepted.expect("a bound listener accepts");
        socket.set_nodelay(true).expect("a fresh socket takes options");
        socket
    }

    /// This connection, as far as both sides' settings.
    pub async fn serve(&self, socket: TcpStream) -> Wire {
        let stream = within("a TLS handshake", self.tls.accept(socket)).await.expect("the sidecar trusts us");
        let mut wire = Wire { stream, whole: BTreeSet::new() };
        let mut preface = [0; 24];
        within("the preface", wire.stream.read_exact(&mut preface)).await.expect("the sidecar speaks HTTP/2");
        wire.put(&frame(SETTINGS, 0, 0, &[])).await;
        wire
    }
}

/// One connection.
pub struct Wire {
    stream: TlsStream<TcpStream>,
    /// The streams whose requests have come whole.
    whole: BTreeSet<u32>,
}

impl Wire {
    /// Awaits that the request of this stream is here whole; the first has the number 1, the next 3.
    pub async fn request(&mut self, id: u32) {
        while !self.whole.contains(&id) {
            let (kind, flags, on, payload) = within(&format!("request {id}"), self.frame()).await;
            match kind {
                DATA | HEADERS if flags & END_STREAM != 0 => drop(self.whole.insert(on)),
                SETTINGS if flags & ACK == 0 => self.put(&frame(SETTINGS, ACK, 0, &[])).await,
                PING if flags & ACK == 0 => self.put(&frame(PING, ACK, 0, &payload)).await,
                _ => {}
            }
        }
    }

    async fn frame(&mut self) -> (u8, u8, u32, Bytes) {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.expect("the sidecar keeps the connection");
        let mut head = &head[..];
        let (length, kind, flags, id) = (head.get_uint(3), head.get_u8(), head.get_u8(), head.get_u32());
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.expect("the sidecar keeps the connection");
        (kind, flags, id, payload.into())
    }

    /// Sends frames in one write.
    pub async fn put(&mut self, frames: &[u8]) {
        let written = async {
            self.stream.write_all(frames).await?;
            self.stream.flush().await
        };
        within("the sidecar to take frames", written).await.expect("the sidecar keeps the connection");
    }

    /// Ends the connection where it is; `abruptly` by a RST, otherwise by FIN without a word before.
    pub fn end(self, abruptly: bool) {
        if abruptly {
            self.stream.get_ref().0.set_zero_linger().expect("an open socket takes options");
        }
    }
}

/// The head of a 200: of events, or of JSON with this length.
pub fn head(id: u32, length: Option<usize>) -> Vec<u8> {
    // HPACK (RFC 7541): `:status: 200` is 8 in the static table; content-type 31 and content-length 28,
    // whose values follow in plain text.
    let field = |name: u8, value: &str| [&[0x0f, name - 15, value.len() as u8], value.as_bytes()].concat();
    let kind = if length.is_some() { "application/json" } else { "text/event-stream" };
    let length = length.map(|length| field(28, &length.to_string())).unwrap_or_default();
    frame(HEADERS, END_HEADERS, id, &[&[0x88][..], &field(31, kind), &length].concat())
}

/// A piece of a body, or its end.
pub fn data(id: u32, bytes: &str, end: bool) -> Vec<u8> {
    frame(DATA, if end { END_STREAM } else { 0 }, id, bytes.as_bytes())
}

/// The end of one stream.
pub fn reset(id: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, id, &code.to_be_bytes())
}

/// The end of all that comes, and of all streams after `last`.
pub fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}
