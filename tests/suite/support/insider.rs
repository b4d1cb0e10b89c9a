//! An agent that does not know of the sidecar: it asks a proxy, or is redirected, and believes to
//! speak to the server itself, with TLS that it verifies by the files the sidecar wrote.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::message::{Head, Message, Response};
use super::observed::within;
use super::{Agent, Sidecar};

/// What it asks of its TLS.
#[derive(Clone)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    alpn: Vec<Vec<u8>>,
}

impl Trust {
    /// In the CA that the sidecar published, offering HTTP/1.1.
    pub fn in_pod(sidecar: &Sidecar) -> Self {
        Self::in_file(sidecar, "ca.pem")
    }

    /// In a file that the sidecar published.
    pub fn in_file(sidecar: &Sidecar, name: &str) -> Self {
        let pem = std::fs::read(sidecar.files().path(&format!("public/{name}"))).expect("the sidecar wrote it");
        Self::in_pem(&pem)
    }

    pub fn in_pem(pem: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.expect("PEM")).expect("a certificate");
        }
        Self { roots: Arc::new(roots), alpn: vec![b"http/1.1".to_vec()] }
    }

    /// Offers these protocols instead.
    pub fn offering(mut self, alpn: &[&str]) -> Self {
        self.alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// TLS on a connection, for the server `name`.
    pub async fn shake(&self, socket: TcpStream, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("the provider has them").with_root_certificates(Arc::clone(&self.roots));
        let mut config = config.with_no_client_auth();
        config.alpn_protocols.clone_from(&self.alpn);
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        within("the handshake", TlsConnector::from(Arc::new(config)).connect(name, socket)).await
    }
}

/// A connection to the capture's port.
pub async fn connect(sidecar: &Sidecar) -> TcpStream {
    let socket = within("a connection", TcpStream::connect(sidecar.captured())).await;
    socket.expect("the capture listens")
}

/// Asks the proxy for a tunnel; the socket behind its 200, or its answer.
pub async fn tunnel(sidecar: &Sidecar, place: &str) -> Result<TcpStream, Response> {
    tunnel_with(sidecar, place, &format!("Host: {place}\r\n")).await
}

/// The same with these header lines.
pub async fn tunnel_with(sidecar: &Sidecar, place: &str, lines: &str) -> Result<TcpStream, Response> {
    let mut socket = connect(sidecar).await;
    socket.write_all(format!("CONNECT {place} HTTP/1.1\r\n{lines}\r\n").as_bytes()).await.expect("a fresh socket");
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(head) = Head::parse(&bytes) {
            break head;
        }
        bytes.push(within("the proxy's answer", socket.read_u8()).await.expect("an answer"));
    };
    if head.first_line == "HTTP/1.1 200 OK" {
        assert_eq!(head.headers, [], "RFC 9110 section 9.3.6: no framing in a 2xx to CONNECT");
        return Ok(socket);
    }
    let status = head.first_line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let mut body = vec![0; head.content_length().expect("a refusal tells its length")];
    within("the refusal", socket.read_exact(&mut body)).await.expect("a whole refusal");
    assert_eq!(socket.read(&mut [0]).await.ok(), Some(0), "the connection is closed after a refusal");
    Err(Response { status, head, body, whole: true })
}

/// An agent inside TLS inside a tunnel to `host` and `port`, by HTTP/1.1.
pub async fn inside(sidecar: &Sidecar, host: &str, port: u16) -> Agent {
    let socket = tunnel(sidecar, &format!("{host}:{port}")).await;
    let socket = socket.unwrap_or_else(|refused| panic!("no tunnel: {}", refused.text()));
    let stream = Trust::in_pod(sidecar).shake(socket, host).await.expect("the sidecar is believed");
    Agent::over(stream, &format!("{host}:{port}"))
}

/// An agent whose TLS connection to `host` and `port` was redirected.
pub async fn redirected(sidecar: &Sidecar, host: &str, port: u16) -> Agent {
    let stream = Trust::in_pod(sidecar).shake(connect(sidecar).await, host).await;
    Agent::over(stream.expect("the sidecar is believed"), &format!("{host}:{port}"))
}

/// A POST to the path that the tests' bindings have.
pub fn post(body: String) -> Message {
    Message::post("mcp", body)
}
