//! HTTP/1.1 and MCP messages, written and read by hand and only as far as the rig needs it.

use std::time::Instant;

use memchr::memmem;

use super::upstream::AGENTS;

/// How a message's end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(usize),
    Chunked,
}

/// Where the head ends, behind its empty line.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// Whether `bytes` hold this text.
pub fn holds(bytes: &[u8], text: &[u8]) -> bool {
    memmem::find(bytes, text).is_some()
}

/// The values of a header in a head.
pub fn values<'a>(head: &'a [u8], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    head.split(|byte| *byte == b'\n').filter_map(move |line| {
        let (field, value) = line.split_at_checked(name.len())?;
        (field.eq_ignore_ascii_case(name.as_bytes()) && value.first() == Some(&b':')).then(|| value[1..].trim_ascii())
    })
}

/// How the body behind this head ends.
pub fn framing(head: &[u8]) -> Framing {
    if values(head, "transfer-encoding").any(|value| value.eq_ignore_ascii_case(b"chunked")) {
        return Framing::Chunked;
    }
    let length = values(head, "content-length").next().and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    Framing::Length(length.unwrap_or(0))
}

/// Walks through a chunked body.
#[derive(Debug, Default)]
pub struct Chunks {
    state: Place,
    /// Of a size line or of data.
    left: usize,
    size: usize,
    ended: bool,
    /// Bytes of data so far.
    pub data: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Size,
    Data,
    /// The line end behind data, or behind the last size.
    Line,
}

impl Chunks {
    /// Reads on; returns how much of `bytes` belongs to the body.
    pub fn advance(&mut self, bytes: &[u8]) -> usize {
        self.walk(bytes, |_| {})
    }

    /// The same, and hands out the data.
    pub fn walk(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> usize {
        let mut at = 0;
        while at < bytes.len() && !self.ended {
            match self.state {
                Place::Size => {
                    let byte = bytes[at];
                    at += 1;
                    match (byte as char).to_digit(16) {
                        Some(digit) => self.size = self.size << 4 | digit as usize,
                        None if byte == b'\n' => {
                            self.left = self.size;
                            self.state = if self.size == 0 { Place::Line } else { Place::Data };
                        }
                        None => {}
                    }
                }
                Place::Data => {
                    let piece = self.left.min(bytes.len() - at);
                    data(&bytes[at..at + piece]);
                    self.data += piece;
                    (at, self.left) = (at + piece, self.left - piece);
                    if self.left == 0 {
                        self.state = Place::Line;
                    }
                }
                Place::Line => {
                    let byte = bytes[at];
                    at += 1;
                    if byte == b'\n' {
                        self.ended = self.size == 0;
                        (self.size, self.state) = (0, Place::Size);
                    }
                }
            }
        }
        at
    }

    pub fn ended(&self) -> bool {
        self.ended
    }
}

/// A JSON-RPC result of so many bytes.
pub fn json(size: usize) -> String {
    padded(r#"{"jsonrpc":"2.0","id":1,"result":{"isError":false,"content":[{"type":"text","text":""#, r#""}]}}"#, size)
}

/// Its answer, head and all.
pub fn answer(size: usize) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
    format!("{head}{size}\r\n\r\n{}", json(size)).into_bytes()
}

/// A call with a body of `size` bytes. `authorization` is what the agent, or the rig in its place, sends.
pub fn call(target: &str, host: &str, authorization: Option<&str>, size: usize, close: bool) -> Vec<u8> {
    let body = padded(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search_code","arguments":{"query":""#,
        r#""}}}"#,
        size,
    );
    let close = if close { "Connection: close\r\n" } else { "" };
    let head = head("POST", target, host, authorization, "application/json, text/event-stream");
    format!("{head}Content-Type: application/json\r\n{close}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Opens an event stream.
pub fn listen(target: &str, host: &str, authorization: Option<&str>) -> Vec<u8> {
    format!("{}\r\n", head("GET", target, host, authorization, "text/event-stream")).into_bytes()
}

fn head(method: &str, target: &str, host: &str, authorization: Option<&str>, accept: &str) -> String {
    let own = format!("Bearer {AGENTS}");
    let authorization = authorization.unwrap_or(&own);
    format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: mcp-client/1.0\r\nAccept: {accept}\r\n\
         MCP-Protocol-Version: 2025-11-25\r\nMCP-Session-Id: 6f1c2b7e\r\nAuthorization: {authorization}\r\n"
    )
}

fn padded(before: &str, after: &str, size: usize) -> String {
    // Text that no proxy finds anything in, as most answers are.
    let pad = size.saturating_sub(before.len() + after.len());
    format!("{before}{}{after}", "the quick brown fox; ".repeat(pad / 21 + 1).get(..pad).unwrap_or_default())
}

const STAMP: &[u8] = b"\"sent\":";

/// An event as one chunk that says when it was sent, in nanoseconds since `epoch`.
pub fn event(epoch: Instant) -> Vec<u8> {
    let sent = epoch.elapsed().as_nanos();
    let data = format!(
        "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":\
         {{\"progressToken\":\"t1\",\"progress\":1,\"message\":\"still at it, more to come\",\"sent\":{sent:020}}}}}\n\n"
    );
    format!("{:x}\r\n{data}\r\n", data.len()).into_bytes()
}

/// When each event in this data was sent. `None` of the part behind the last whole event: how long that is.
pub fn stamps(data: &[u8], mut each: impl FnMut(u64)) -> usize {
    let mut from = 0;
    while let Some(end) = memmem::find(&data[from..], b"\n\n") {
        let event = &data[from..from + end];
        let digits = memmem::find(event, STAMP).and_then(|at| event.get(at + STAMP.len()..at + STAMP.len() + 20));
        if let Some(sent) = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()) {
            each(sent);
        }
        from += end + 2;
    }
    data.len() - from
}
