//! The agent's end of a connection: HTTP/1.1 by hand, in the clear, over TLS, or through CONNECT.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::message::{self, Chunks, Framing};

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// How to get to where requests are sent.
#[derive(Clone)]
pub struct Route {
    /// Where to connect.
    pub address: SocketAddr,
    /// TLS to `localhost` then, which has to prove itself by this authority.
    pub tls: Option<TlsConnector>,
    /// CONNECT to this authority before.
    pub connect: Option<String>,
}

/// A TLS client that trusts this authority alone. Each connector resumes its own sessions.
pub fn trusting(ca_pem: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.expect("PEM")).expect("a certificate");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// A connection that answers are read from.
pub struct Connection {
    socket: Box<dyn Socket>,
    buffer: Vec<u8>,
    /// What of `buffer` is read and not used yet.
    from: usize,
    to: usize,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Route {
    pub async fn open(&self) -> io::Result<Connection> {
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let buffer = vec![0; 16 << 10];
        let mut connection = Connection { socket: Box::new(socket), buffer, from: 0, to: 0 };
        if let Some(authority) = &self.connect {
            let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            connection.send(request.as_bytes()).await?;
            let head = connection.head().await?;
            if head.status != 200 {
                return Err(broken(&format!("CONNECT was answered {}", head.status)));
            }
        }
        let Some(tls) = &self.tls else { return Ok(connection) };
        let name = ServerName::try_from("localhost").expect("a name");
        connection.socket = Box::new(tls.connect(name, connection.socket).await?);
        Ok(connection)
    }
}

/// What an answer's head says.
pub struct Head {
    pub status: u16,
    framing: Framing,
}

impl Connection {
    pub async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.socket.write_all(request).await?;
        self.socket.flush().await
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        } else if self.to == self.buffer.len() {
            self.buffer.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            if self.to == self.buffer.len() {
                return Err(broken("more than the rig can hold"));
            }
        }
        match self.socket.read(&mut self.buffer[self.to..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.to += read;
                Ok(())
            }
        }
    }

    pub async fn head(&mut self) -> io::Result<Head> {
        loop {
            let bytes = &self.buffer[self.from..self.to];
            let Some(end) = message::head_end(bytes) else {
                self.fill().await?;
                continue;
            };
            let head = &bytes[..end];
            let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
            let status = status.ok_or_else(|| broken("no status line"))?;
            let framing = message::framing(head);
            self.from += end;
            return Ok(Head { status, framing });
        }
    }

    /// Sends a request and reads its whole answer; returns the status and how many bytes the body had.
    pub async fn call(&mut self, request: &[u8]) -> io::Result<(u16, usize)> {
        self.send(request).await?;
        let head = self.head().await?;
        let length = match head.framing {
            Framing::Length(length) => {
                let mut left = length;
                loop {
                    let piece = left.min(self.to - self.from);
                    (self.from, left) = (self.from + piece, left - piece);
                    if left == 0 {
                        break length;
                    }
                    self.fill().await?;
                }
            }
            Framing::Chunked => {
                let mut chunks = Chunks::default();
                loop {
                    self.from += chunks.advance(&self.buffer[self.from..self.to]);
                    if chunks.ended() {
                        break chunks.data;
                    }
                    self.fill().await?;
                }
            }
        };
        Ok((head.status, length))
    }

    /// Opens an event stream.
    pub async fn listen(mut self, request: &[u8]) -> io::Result<Stream> {
        self.send(request).await?;
        let head = self.head().await?;
        if head.status != 200 || head.framing != Framing::Chunked {
            return Err(broken(&format!("no event stream, but {}", head.status)));
        }
        // Thousands of them may be open.
        Ok(Stream { connection: self, chunks: Chunks::default(), rest: Vec::new() })
    }
}

/// An open event stream.
pub struct Stream {
    connection: Connection,
    chunks: Chunks,
    /// An event's beginning.
    rest: Vec<u8>,
}

impl Stream {
    /// Awaits events; says of each when it was sent.
    pub async fn next(&mut self, mut each: impl FnMut(u64)) -> io::Result<()> {
        let connection = &mut self.connection;
        if connection.from == connection.to {
            connection.fill().await?;
        }
        let rest = &mut self.rest;
        let bytes = &connection.buffer[connection.from..connection.to];
        connection.from += self.chunks.walk(bytes, |data| rest.extend_from_slice(data));
        if self.chunks.ended() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let left = message::stamps(rest, &mut each);
        rest.drain(..rest.len() - left);
        Ok(())
    }
}
