//! What an upstream does with a request, as the test scripts it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::capture::Request;
use super::observed::Observed;

/// How an upstream's side of a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It does not; the next request may follow.
    KeepOpen,
    /// TLS close_notify, then FIN.
    Close,
    /// FIN without close_notify: what a cut line looks like.
    Cut,
    /// RST.
    Reset,
}

/// The framing of a streamed body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Chunked,
    Length(usize),
    UntilClose,
}

/// One step of a streamed body.
pub enum Step {
    /// One piece, in one write (one chunk, one DATA frame).
    Send(Bytes),
    /// The body is complete.
    Finish,
    /// The connection ends where it is.
    End(End),
}

/// An answer. HTTP/2 upstreams know all but `Pieces`.
pub enum Answer {
    /// A whole response with a Content-Length.
    Full { status: u16, headers: Vec<(String, String)>, body: Bytes },
    /// A response whose body the test sends piece by piece.
    Stream { status: u16, headers: Vec<(String, String)>, framing: Framing, steps: Steps },
    /// Literal bytes. On HTTP/2 there must be none, and the end is the call's (`Reset`: RST_STREAM),
    /// or the connection's (`Close`: GOAWAY; `Cut`: a cut line).
    Raw(Vec<u8>, End),
    /// Literal bytes, each piece in a write of its own.
    Pieces(Vec<Bytes>, End),
    /// Nothing, for as long as the peer stays.
    Never,
    /// Nothing until the test says what.
    Later(oneshot::Receiver<Answer>),
}

impl Answer {
    /// A response with a body and these headers.
    pub fn full(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        Self::Full { status, headers: owned(headers), body: body.into() }
    }

    /// What a plain MCP server says: the request's id and an empty result, 202 to a notification.
    pub fn result(request: &Request) -> Self {
        Self::result_with(request, r#"{"ok":true}"#)
    }

    /// The same with this result.
    pub fn result_with(request: &Request, result: &str) -> Self {
        match (request.method.as_str(), request.rpc_id()) {
            ("POST", Some(id)) => {
                let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
                Self::full(200, &[("Content-Type", "application/json")], body)
            }
            ("POST", None) => Self::full(202, &[], ""),
            ("DELETE", _) => Self::full(204, &[], ""),
            _ => Self::full(405, &[("Allow", "POST")], ""),
        }
    }

    /// The same with a session id, as an answer to `initialize`.
    pub fn session(request: &Request, id: &str) -> Self {
        let mut answer = Self::result(request);
        if let Self::Full { headers, .. } = &mut answer {
            headers.push(("Mcp-Session-Id".into(), id.into()));
        }
        answer
    }

    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::full(status, &[("Location", location)], "")
    }

    /// A 401 with a challenge, as an MCP server with OAuth sends it.
    pub fn unauthorized() -> Self {
        let challenge = r#"Bearer resource_metadata="https://as.example.test/.well-known/oauth-protected-resource""#;
        Self::full(401, &[("WWW-Authenticate", challenge), ("Content-Type", "text/plain")], "who are you")
    }

    /// A stream of this framing, and the handle that drives it.
    pub fn stream(headers: &[(&str, &str)], framing: Framing) -> (Stream, Self) {
        let (steps, receiver) = mpsc::unbounded_channel();
        let pushed = Arc::new(Observed::new(0));
        let handle = Stream { steps, pushed: Arc::clone(&pushed) };
        let steps = Steps { receiver, pushed };
        (handle, Self::Stream { status: 200, headers: owned(headers), framing, steps })
    }

    /// An answer that the test gives when it is ready.
    pub fn later() -> (oneshot::Sender<Self>, Self) {
        let (give, receiver) = oneshot::channel();
        (give, Self::Later(receiver))
    }

    /// The answer itself, once the test has given it; `None` if it never will.
    pub async fn given(self) -> Option<Self> {
        match self {
            Self::Later(receiver) => receiver.await.ok(),
            answer => Some(answer),
        }
    }

    /// A stream of server-sent events.
    pub fn events() -> (Stream, Self) {
        Self::stream(&[("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")], Framing::Chunked)
    }
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The test's end of a streamed answer.
pub struct Stream {
    steps: mpsc::UnboundedSender<Step>,
    pushed: Arc<Observed<usize>>,
}

impl Stream {
    /// Sends one piece.
    pub fn send(&self, bytes: impl Into<Bytes>) {
        self.step(Step::Send(bytes.into()));
    }

    /// Sends one event with this data.
    pub fn event(&self, data: &str) {
        self.send(format!("data: {data}\n\n"));
    }

    /// Whether nobody takes the answer any more: the peer is gone, or it is at its end.
    pub fn is_over(&self) -> bool {
        self.steps.is_closed()
    }

    /// Completes the body.
    pub fn finish(&self) {
        self.step(Step::Finish);
    }

    /// Ends the connection without completing the body.
    pub fn end(&self, end: End) {
        self.step(Step::End(end));
    }

    /// The body bytes that the connection has taken so far.
    pub fn pushed(&self) -> &Observed<usize> {
        &self.pushed
    }

    fn step(&self, step: Step) {
        // The connection may be gone already: tests that care await that event.
        let _ = self.steps.send(step);
    }
}

/// The upstream's end of a streamed answer.
pub struct Steps {
    pub receiver: mpsc::UnboundedReceiver<Step>,
    pub pushed: Arc<Observed<usize>>,
}

/// The `id` of a JSON-RPC message, verbatim.
pub fn rpc_id(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    let message: Message<'_> = serde_json::from_slice(body).ok()?;
    message.id.map(|id| id.get().to_owned())
}
