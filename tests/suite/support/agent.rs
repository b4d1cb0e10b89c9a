//! A raw client on one connection: literal bytes out, responses read byte by byte.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::evidence;
use super::message::{Head, Message, Response, parse_chunk, parse_trailers};
use super::observed::within;
use super::secrets::assert_none_in;

/// How much of a body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// No response is being read, or its body came whole.
    Nothing,
    Bytes(usize),
    Chunks,
    UntilClose,
}

/// One piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    /// The body came whole.
    End,
    /// The connection ended before the body did.
    Broken,
}

/// What a client may speak on: a socket, or TLS on one.
pub trait Channel: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Channel for T {}

/// A client connection.
pub struct Agent {
    socket: Box<dyn Channel>,
    host: String,
    buffer: Vec<u8>,
    rest: Rest,
}

impl Agent {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = within("a connection to the sidecar", TcpStream::connect(address)).await;
        let socket = socket.unwrap_or_else(|e| panic!("cannot connect to {address}: {e}"));
        socket.set_nodelay(true).expect("a fresh socket takes options");
        Self::over(socket, &address.to_string())
    }

    /// Speaks on a channel that is open already; `host` is what it puts into Host.
    pub fn over(socket: impl Channel + 'static, host: &str) -> Self {
        Self { socket: Box::new(socket), host: host.to_owned(), buffer: Vec::new(), rest: Rest::Nothing }
    }

    /// Sends literal bytes. A peer that has hung up already is not an error here.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = within("the sidecar to take bytes", self.socket.write_all(bytes)).await;
        let _ = within("the sidecar to take bytes", self.socket.flush()).await;
    }

    /// Sends a message and reads the whole response.
    pub async fn ask(&mut self, message: Message) -> Response {
        let bytes = message.bytes(&self.host);
        self.send(&bytes).await;
        self.response().await
    }

    /// Sends a message and reads the response's head; the body follows by [`Agent::piece`].
    pub async fn open(&mut self, message: Message) -> Head {
        let bytes = message.bytes(&self.host);
        self.send(&bytes).await;
        self.head().await
    }

    /// Reads the head of the next response that is not an interim one.
    pub async fn head(&mut self) -> Head {
        loop {
            let head = self.any_head().await;
            if status(&head) / 100 != 1 {
                return head;
            }
        }
    }

    /// Reads the next head, be it an interim one.
    pub async fn any_head(&mut self) -> Head {
        let head = loop {
            if let Some(head) = Head::parse(&self.buffer) {
                break head;
            }
            let so_far = self.buffer.escape_ascii().to_string();
            assert!(self.fill().await, "the connection ended before a response; so far: {so_far:?}");
        };
        self.buffer.drain(..head.raw.len());
        self.rest = match (status(&head), head.content_length()) {
            (100..200 | 204 | 304, _) => Rest::Nothing,
            _ if head.is_chunked() => Rest::Chunks,
            (_, Some(length)) => Rest::Bytes(length),
            (_, None) => Rest::UntilClose,
        };
        head
    }

    /// Reads a whole response.
    pub async fn response(&mut self) -> Response {
        let head = self.head().await;
        self.rest_of(head).await
    }

    /// Reads the body that follows this head, to its end.
    pub async fn rest_of(&mut self, head: Head) -> Response {
        let mut body = Vec::new();
        let whole = loop {
            match self.piece().await {
                Piece::Data(bytes) => body.extend_from_slice(&bytes),
                Piece::End => break true,
                Piece::Broken => break false,
            }
        };
        if head.value("postern-reason").is_some() {
            let refusal = [&head.raw[..], &body].concat();
            assert_none_in("a refusal", &refusal);
            evidence::keep("refusal", &refusal);
        }
        Response { status: status(&head), head, body, whole }
    }

    /// Reads the next piece of the body: a chunk, or whatever has arrived.
    pub async fn piece(&mut self) -> Piece {
        loop {
            if let Some(piece) = self.buffered_piece() {
                return piece;
            }
            if !self.fill().await {
                let closed_by_design = self.rest == Rest::UntilClose;
                self.rest = Rest::Nothing;
                return if closed_by_design { Piece::End } else { Piece::Broken };
            }
        }
    }

    /// Reads pieces until `wanted` stands in what has come of the body; returns that.
    pub async fn until(&mut self, wanted: &str) -> String {
        let mut text = String::new();
        while !text.contains(wanted) {
            match self.piece().await {
                Piece::Data(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                end => panic!("the stream ended ({end:?}) before {wanted:?}; so far: {text:?}"),
            }
        }
        text
    }

    /// Reads the stream to its end; says whether that was a proper one.
    pub async fn drained(&mut self) -> Piece {
        loop {
            match self.piece().await {
                Piece::Data(_) => {}
                end => return end,
            }
        }
    }

    /// Awaits that the sidecar closes the connection; returns the bytes that still came.
    pub async fn closed(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    /// Says FIN and goes on reading.
    pub async fn half_close(&mut self) {
        within("the sidecar to take the FIN", self.socket.shutdown()).await.expect("the socket is open");
    }

    fn buffered_piece(&mut self) -> Option<Piece> {
        match self.rest {
            Rest::Nothing | Rest::Bytes(0) => {
                self.rest = Rest::Nothing;
                Some(Piece::End)
            }
            Rest::Bytes(_) | Rest::UntilClose if self.buffer.is_empty() => None,
            Rest::UntilClose => Some(Piece::Data(self.take(self.buffer.len()))),
            Rest::Bytes(left) => {
                let count = left.min(self.buffer.len());
                self.rest = Rest::Bytes(left - count);
                Some(Piece::Data(self.take(count)))
            }
            Rest::Chunks => self.buffered_chunk(),
        }
    }

    fn buffered_chunk(&mut self) -> Option<Piece> {
        let (data, used) = parse_chunk(&self.buffer)?;
        if !data.is_empty() {
            let data = Bytes::copy_from_slice(data);
            self.buffer.drain(..used);
            return Some(Piece::Data(data));
        }
        let (_, trailers) = parse_trailers(&self.buffer[used..])?;
        self.buffer.drain(..used + trailers);
        self.rest = Rest::Nothing;
        Some(Piece::End)
    }

    fn take(&mut self, count: usize) -> Bytes {
        self.buffer.drain(..count).collect()
    }

    /// Reads what there is; false once the sidecar has closed or reset the connection.
    async fn fill(&mut self) -> bool {
        let read = self.socket.read_buf(&mut self.buffer);
        matches!(within("bytes from the sidecar", read).await, Ok(1..))
    }
}

fn status(head: &Head) -> u16 {
    let code = head.first_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("not a status line: {:?}", head.first_line))
}
