//! HTTP/1.1 by hand: messages as literal bytes, and bytes cut into messages.

use serde_json::{Value, json};

/// A first line and field lines, with the bytes they were.
#[derive(Debug, Clone)]
pub struct Head {
    pub raw: Vec<u8>,
    pub first_line: String,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Cuts a head off the front of `bytes`, once it is all there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
        let raw = bytes[..end].to_vec();
        let text: String = raw.iter().map(|byte| char::from(*byte)).collect();
        let mut lines = text.split("\r\n");
        let first_line = lines.next()?.to_owned();
        let headers = lines.filter(|line| !line.is_empty()).map(field).collect();
        Some(Self { raw, first_line, headers })
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn content_length(&self) -> Option<usize> {
        self.value("content-length").map(|length| length.parse().expect("Content-Length is a number"))
    }

    pub fn is_chunked(&self) -> bool {
        self.value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
}

/// A whole message.
pub struct Parsed {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// How many bytes it took.
    pub used: usize,
}

/// Cuts a request off the front of `bytes`, once it is all there.
pub fn parse_request(bytes: &[u8]) -> Option<Parsed> {
    let head = Head::parse(bytes)?;
    let start = head.raw.len();
    let rest = &bytes[start..];
    if head.is_chunked() {
        let mut body = Vec::new();
        let mut at = 0;
        loop {
            let (piece, used) = parse_chunk(&rest[at..])?;
            at += used;
            if piece.is_empty() {
                break;
            }
            body.extend_from_slice(piece);
        }
        let (trailers, used) = parse_trailers(&rest[at..])?;
        return Some(Parsed { head, body, trailers, used: start + at + used });
    }
    let length = head.content_length().unwrap_or(0);
    let body = rest.get(..length)?.to_vec();
    Some(Parsed { head, body, trailers: Vec::new(), used: start + length })
}

/// One chunk's data and the bytes it took with its framing; the last chunk is empty.
pub fn parse_chunk(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let line_end = memchr::memmem::find(bytes, b"\r\n")?;
    let line = std::str::from_utf8(&bytes[..line_end]).expect("a chunk size line is ASCII");
    let size = line.split(';').next().unwrap_or_default().trim();
    let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("not a chunk size: {line:?}"));
    let start = line_end + 2;
    if size == 0 {
        return Some((&[], start));
    }
    let data = bytes.get(start..start + size)?;
    assert_eq!(bytes.get(start + size..start + size + 2)?, b"\r\n", "a chunk ends with CRLF");
    Some((data, start + size + 2))
}

/// The field lines after the last chunk, and the bytes they took with the empty line.
pub fn parse_trailers(bytes: &[u8]) -> Option<(Vec<(String, String)>, usize)> {
    if bytes.starts_with(b"\r\n") {
        return Some((Vec::new(), 2));
    }
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    Some((text.split("\r\n").filter(|line| !line.is_empty()).map(field).collect(), end))
}

/// A response as the agent got it.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    /// What came of the body, without its framing.
    pub body: Vec<u8>,
    /// The body came whole, with its proper end.
    pub whole: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.value(name)
    }

    /// The reason of a refusal by Postern.
    pub fn reason(&self) -> Option<&str> {
        self.header("postern-reason")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.text()))
    }

    /// Asserts a plain success of the upstream.
    pub fn assert_ok(&self) {
        assert_eq!((self.status, self.reason(), self.whole), (200, None, true), "{}", self.text());
    }

    /// Asserts a refusal with this reason.
    pub fn assert_refused(&self, reason: &str) {
        assert_eq!(self.reason(), Some(reason), "status {}: {}", self.status, self.text());
        assert!(self.whole, "a refusal comes whole");
    }
}

/// A request to be written to a socket exactly as built.
#[derive(Debug, Clone)]
pub struct Message {
    method: String,
    target: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Message {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), host: None, headers: Vec::new(), body: None }
    }

    /// A POST of JSON to a server, with the headers an MCP client sends.
    pub fn post(server: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", &format!("/{server}"))
            .header("Content-Type", "application/json")
            .header("Accept", "application/json, text/event-stream")
            .body(body)
    }

    /// A GET of a server's event stream.
    pub fn get(server: &str) -> Self {
        Self::new("GET", &format!("/{server}")).header("Accept", "text/event-stream")
    }

    /// The end of a session.
    pub fn delete(server: &str, session: &str) -> Self {
        Self::new("DELETE", &format!("/{server}")).header("Mcp-Session-Id", session)
    }

    /// One more field line; never replaces one.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn target(mut self, target: &str) -> Self {
        self.target = target.into();
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.into());
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The literal bytes, with `Content-Length` if there is a body.
    pub fn bytes(&self, host: &str) -> Vec<u8> {
        let mut bytes = self.head_with(host, "");
        if let Some(body) = &self.body {
            let length = format!("Content-Length: {}\r\n\r\n", body.len());
            bytes.truncate(bytes.len() - 2);
            bytes.extend_from_slice(length.as_bytes());
            bytes.extend_from_slice(body);
        }
        bytes
    }

    /// The literal bytes, the body in chunks of `size`, then these trailer lines.
    pub fn chunked(&self, host: &str, size: usize, trailers: &str) -> Vec<u8> {
        let mut bytes = self.head_with(host, "Transfer-Encoding: chunked\r\n");
        for piece in self.body.as_deref().unwrap_or_default().chunks(size) {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
        bytes
    }

    /// The head alone, with these lines added.
    pub fn head_with(&self, host: &str, lines: &str) -> Vec<u8> {
        let host = self.host.as_deref().unwrap_or(host);
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        format!("{head}{lines}\r\n").into_bytes()
    }
}

/// JSON-RPC bodies.
pub mod rpc {
    use super::{Value, json};

    pub fn request(id: impl Into<Value>, method: &str, params: Value) -> String {
        json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params}).to_string()
    }

    pub fn initialize(id: impl Into<Value>) -> String {
        let client = json!({"name": "suite", "version": "1"});
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        request(id, "initialize", params)
    }

    pub fn list(id: impl Into<Value>) -> String {
        request(id, "tools/list", json!({}))
    }

    pub fn call(id: impl Into<Value>, tool: &str) -> String {
        request(id, "tools/call", json!({"name": tool, "arguments": {"q": "x"}}))
    }

    pub fn notification(method: &str) -> String {
        json!({"jsonrpc": "2.0", "method": method}).to_string()
    }
}
