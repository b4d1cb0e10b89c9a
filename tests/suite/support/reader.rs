//! A client of the broker, made by hand: whatever head, and as slow as a test likes.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::observed::within;

/// A broker that can be called.
pub trait Called {
    fn address(&self) -> SocketAddr;

    /// The certificates that vouch for it, as PEM.
    fn ca(&self) -> String;
}

/// A connection to a broker. It goes with the test's runtime.
pub struct Reader {
    sender: SendRequest<Empty<Bytes>>,
}

/// What is asked.
pub struct Question {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
}

impl Question {
    /// What a sidecar asks.
    pub fn with(token: &str) -> Self {
        let question = Self { method: Method::GET, target: "/v1/credentials".into(), headers: HeaderMap::new() };
        question.header("authorization", &format!("Bearer {token}"))
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        self.headers.append(name, HeaderValue::from_str(value).expect("a value"));
        self
    }

    pub fn target(self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self }
    }

    pub fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }
}

/// TLS to the broker, with these protocols.
pub async fn shake(broker: &impl Called, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
    try_shake(broker, alpn, rustls::DEFAULT_VERSIONS).await.expect("the broker is believed")
}

/// The same, in these versions, which it may not speak.
pub async fn try_shake(
    broker: &impl Called,
    alpn: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    let pem = broker.ca();
    let certificate = rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).expect("PEM");
    roots.add(certificate).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let mut config = config.expect("the provider has them").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let socket = connect(broker.address()).await;
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

pub async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("the broker listens")
}

impl Reader {
    pub async fn connect(broker: &impl Called) -> Self {
        Self::with_window(broker, 1 << 20).await
    }

    /// With a window of so many bytes: the broker can send no more than that unread.
    pub async fn with_window(broker: &impl Called, bytes: u32) -> Self {
        let stream = shake(broker, &[b"h2"]).await;
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(bytes).initial_connection_window_size(bytes.max(65_535));
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self { sender }
    }

    pub async fn ask(&mut self, question: Question) -> Response<Incoming> {
        let uri = format!("https://localhost{}", question.target);
        let mut request = Request::new(Empty::new());
        *request.method_mut() = question.method;
        *request.uri_mut() = uri.parse().expect("a URI");
        *request.headers_mut() = question.headers;
        within("the broker's answer", self.sender.send_request(request)).await.expect("an answer")
    }

    /// Asks for a stream, which it must get.
    pub async fn open(&mut self, token: &str) -> Lines {
        let response = self.ask(Question::with(token)).await;
        Lines::of(response)
    }

    /// Asks for a stream, which it must not get: status and word.
    pub async fn refused(&mut self, question: Question) -> (u16, String) {
        let response = self.ask(question).await;
        let status = response.status();
        assert_ne!(status, StatusCode::OK);
        let body = within("the refusal", response.into_body().collect()).await.expect("a body").to_bytes();
        (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
    }
}

/// A stream, line by line.
pub struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// Of an answer, which must be one.
    pub fn of(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        Self { body: response.into_body(), rest: Vec::new() }
    }

    /// The next line, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a line is JSON"));
            }
            let frame = within("a line", self.body.frame()).await?.ok()?;
            self.rest.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }

    /// The next line of this type; others are passed over.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let line = self.next().await.unwrap_or_else(|| panic!("the stream ended before a {kind}"));
            if line["type"] == kind {
                return line;
            }
        }
    }

    /// The names of the bindings in the next snapshot, or `None` if the stream ends before.
    pub async fn bindings_or_end(&mut self) -> Option<Vec<String>> {
        loop {
            let line = self.next().await?;
            if line["type"] == "snapshot" {
                return Some(names(&line));
            }
        }
    }

    /// The names of the bindings in the next snapshot.
    pub async fn bindings(&mut self) -> Vec<String> {
        self.bindings_or_end().await.unwrap_or_else(|| panic!("the stream ended before a snapshot"))
    }
}

fn names(snapshot: &Value) -> Vec<String> {
    let items = snapshot["items"].as_array().expect("a snapshot has items").clone();
    items.iter().map(|item| item["document"]["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}
