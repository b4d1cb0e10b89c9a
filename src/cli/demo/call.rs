//! The demo's own call: what an agent would send, with a token of its own that must not get out.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::runtime::task::OwnedTask;

/// A call and its answer.
pub(super) struct Sent {
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) status: u16,
    pub(super) answer: String,
}

const VERSION: &str = "2026-07-28";

/// Calls the tool `whoami` as an agent of MCP 2026-07-28 would.
pub(super) async fn whoami(endpoint: SocketAddr) -> io::Result<Sent> {
    let body = serde_json::json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "whoami", "arguments": {}, "_meta": {
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientInfo": {"name": "postern-demo", "version": env!("CARGO_PKG_VERSION")},
            "io.modelcontextprotocol/clientCapabilities": {},
        }},
    });
    let mut request =
        Request::post("/demo").body(Full::new(Bytes::from(body.to_string()))).map_err(io::Error::other)?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(&endpoint.to_string()).map_err(io::Error::other)?);
    let fixed = [
        ("authorization", "Bearer a-guess-of-the-agent"),
        ("cookie", "session=of-the-agent"),
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", VERSION),
        ("mcp-method", "tools/call"),
        ("mcp-name", "whoami"),
    ];
    for (name, value) in fixed {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let shown = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()));
    let headers = shown.collect();
    let socket = TcpStream::connect(endpoint).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    let _driver = OwnedTask::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Sent { path: "/demo".into(), headers, status, answer: String::from_utf8_lossy(&body).into_owned() })
}
