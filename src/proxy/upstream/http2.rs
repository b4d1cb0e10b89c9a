//! A connection to an upstream that speaks HTTP/2: many exchanges share it. What is said on it is decided by
//! [`Session`]; here it is read and written, by one task for all.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::Method;

use super::pool::{MAX_SHARING, Pool};
use super::wire::Wire;
use super::{AnswerBody, Broken, Fault, Incomer, OpenConnection, Outgoing};
use crate::core::decide::Refusal;
use crate::core::http2::hpack::{Keep, put_field, put_known, put_value};
use crate::core::http2::session::{CONNECTION_WINDOW, Loss, STREAM_WINDOW, Session};
use crate::core::reason::Reason;
use crate::core::rewrite::Placement;
use crate::proxy::body::RequestBody;
use crate::runtime::task::OwnedTask;

mod driver;

use driver::Driver;

/// One slow reader holds at most its own window, and all that share not all of the connection's.
const _: () = assert!(MAX_SHARING * STREAM_WINDOW < CONNECTION_WINDOW);

/// An HTTP/2 connection. Every exchange on it holds it.
pub(in crate::proxy) struct Http2 {
    shared: Arc<Shared>,
    _task: OwnedTask,
}

/// What the exchanges and the task share.
struct Shared(Mutex<State>);

struct State {
    session: Session<RequestBody>,
    /// Why the connection is gone, if it is by itself.
    line: Option<Refusal>,
    /// Has something come since it was asked?
    heard: bool,
    /// Of the task.
    waker: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Has the task send what is to be sent.
    fn rouse(&mut self) {
        if self.session.has_out()
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    /// What a loss means, without the parts that may quote the wire.
    fn refusal(&self, loss: Loss) -> Refusal {
        let because = |detail: String| Refusal::because(Reason::UpstreamUnreachable, format!("HTTP/2: {detail}"));
        match loss {
            Loss::Reset(code) => because(format!("the server reset the stream: {code}")),
            Loss::GoneAway(code) => because(format!("the server ends the connection: {code}")),
            Loss::Malformed(code) => because(format!("the answer is malformed: {code}")),
            Loss::Broken(code) => because(format!("the server broke the protocol: {code}")),
            Loss::Line => self.line.clone().unwrap_or_else(|| because("the connection cannot be used".to_owned())),
        }
    }
}

impl Http2 {
    /// Begins to speak HTTP/2. The server's own beginning is not waited for.
    pub(super) fn new(wire: Wire, open: OpenConnection) -> Self {
        let state = State { session: Session::new(MAX_SHARING), line: None, heard: false, waker: None };
        let shared = Arc::new(Shared(Mutex::new(state)));
        let driver = Driver::new(wire, Arc::clone(&shared));
        let task = OwnedTask::spawn(async move {
            driver.run().await;
            drop(open);
        });
        Self { shared, _task: task }
    }

    /// Whether the pool that holds it once, and each exchange once, can take one more, as the server last said.
    pub(super) fn has_room(self: &Arc<Self>) -> bool {
        let limit = self.shared.lock().session.limit();
        Arc::strong_count(self) <= limit.max(1) as usize
    }

    /// Whether it takes no further exchange. Those that run may end.
    pub(super) fn is_closed(&self) -> bool {
        self.shared.lock().session.is_closed()
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn call(
        self: Arc<Self>,
        outgoing: &Outgoing<'_>,
        credential: Placement<'_>,
        pool: &Pool,
    ) -> Result<Incomer, Fault> {
        let opened = poll_fn(|cx| {
            let state = &mut *self.shared.lock();
            let body = Some(outgoing.body.clone()).filter(|body| !body.is_empty());
            let bodiless = outgoing.method == Method::HEAD;
            let head = |out: &mut Vec<u8>| outgoing.pack(credential, pool, out);
            let opened = ready!(state.session.poll_open(cx, bodiless, body, head));
            state.rouse();
            Poll::Ready(opened.map_err(|loss| Fault { unsent: true, refusal: state.refusal(loss) }))
        });
        let id = opened.await?;
        let mut sharing = Sharing { connection: self, id, length: None };
        let head = poll_fn(|cx| {
            let state = &mut *sharing.connection.shared.lock();
            let head = ready!(state.session.poll_head(id, cx));
            Poll::Ready(head.map_err(|(loss, unsent)| Fault { unsent, refusal: state.refusal(loss) }))
        });
        let head = head.await?;
        sharing.length = head.length;
        Ok(Incomer { status: head.status, headers: head.fields, body: AnswerBody::Http2(sharing) })
    }
}

/// An answer's body. Dropped early, it resets its stream.
pub(in crate::proxy) struct Sharing {
    connection: Arc<Http2>,
    id: u32,
    length: Option<u64>,
}

impl Sharing {
    /// How many bytes the whole has, where that is known; more or fewer are a fault of the server, and a break.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next piece; `None` at the end. Trailers are not passed on.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let state = &mut *self.connection.shared.lock();
        // It is on its way to the agent, whose own pace holds us back.
        let piece = ready!(state.session.poll_data(self.id, cx));
        state.rouse();
        Poll::Ready(piece.map(|piece| piece.map_err(|_| Broken)))
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        let state = &mut *self.connection.shared.lock();
        state.session.close(self.id);
        state.rouse();
    }
}

/// What is the same in each request is sent by its number (RFC 7541 appendix A).
mod known {
    pub(super) const AUTHORITY: u8 = 1;
    pub(super) const METHOD: u8 = 2;
    pub(super) const METHOD_GET: u8 = 2;
    pub(super) const METHOD_POST: u8 = 3;
    pub(super) const PATH: u8 = 4;
    pub(super) const SCHEME_HTTPS: u8 = 7;
}

impl Outgoing<'_> {
    /// Packs the head, with the one credential.
    fn pack(&self, credential: Placement<'_>, pool: &Pool, out: &mut Vec<u8>) {
        match *self.method {
            Method::GET => put_known(out, known::METHOD_GET),
            Method::POST => put_known(out, known::METHOD_POST),
            _ => put_value(out, known::METHOD, self.method.as_str().as_bytes()),
        }
        put_known(out, known::SCHEME_HTTPS);
        put_value(out, known::AUTHORITY, pool.host.as_bytes());
        put_value(out, known::PATH, self.target.as_str().as_bytes());
        for field in self.fields.iter() {
            put_field(out, field.name(), field.value(), Keep::Not);
        }
        put_field(out, credential.header.as_str().as_bytes(), credential.value.as_bytes(), Keep::Never);
        if !self.body.is_empty() {
            let mut digits = itoa::Buffer::new();
            put_field(out, b"content-length", digits.format(self.body.len()).as_bytes(), Keep::Not);
        }
    }
}
