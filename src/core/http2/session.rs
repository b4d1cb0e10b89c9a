//! The client's side of a connection, for all exchanges on it.

use std::collections::VecDeque;
use std::ops::Deref;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};

use super::answer::MAX_LIST;
use super::hpack::Unpacker;
use super::stream::{Course, Receive, Rest, Stream};
use super::{Code, FRAME_HEAD, MAX_FRAME, MAX_ID, PREFACE, flag, frame_head, kind, put};

mod receiving;

pub use super::stream::{Head, Loss, STREAM_WINDOW};

/// How many bytes of all answers together may be unread.
pub const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// What either window is before anybody says otherwise (RFC 9113 section 6.9.2).
const FIRST_WINDOW: u32 = 65_535;
/// How much is made ready to be sent of bodies before the connection takes it.
const MAX_READY: usize = 64 * 1024;

/// What the server allows and tells by SETTINGS (RFC 9113 section 6.5.2), as far as a client has use for it.
mod setting {
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
    pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// A connection's state. `B` is what holds a request's body.
pub struct Session<B> {
    /// Is to be sent.
    out: Vec<u8>,
    /// How many bytes were handed over to be sent, and how many of them the connection has taken.
    handed: u64,
    taken: u64,
    unpacker: Unpacker,
    streams: HashMap<u32, Stream<B>>,
    /// The number of the next one.
    next: u32,
    /// Whose bodies can go on, in turn.
    ready: VecDeque<u32>,
    send_window: i64,
    /// Of a new stream.
    first_window: u32,
    receive: Receive,
    /// How many exchanges there may be at once: what the server says, and ours.
    limit: u32,
    most: u32,
    /// A head that has not come whole.
    part: Option<Part>,
    /// The server's settings have come.
    greeted: bool,
    replies: u32,
    /// Why no exchange can be begun any more.
    closed: Option<Loss>,
    /// Nothing comes any more.
    over: bool,
    /// Wait for room for an exchange.
    waiting: Vec<Waker>,
}

struct Part {
    id: u32,
    ends: bool,
    list: Vec<u8>,
    count: u32,
}

impl<B: Deref<Target = [u8]>> Session<B> {
    /// A new connection, on which at most so many exchanges are at once.
    pub fn new(most: u32) -> Self {
        let mut out = PREFACE.to_vec();
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, MAX_LIST as u32),
        ];
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        put(&mut out, kind::SETTINGS, 0, 0, &payload);
        put(&mut out, kind::WINDOW_UPDATE, 0, 0, &(CONNECTION_WINDOW - FIRST_WINDOW).to_be_bytes());
        Self {
            out,
            handed: 0,
            taken: 0,
            unpacker: Unpacker::default(),
            streams: HashMap::new(),
            next: 1,
            ready: VecDeque::new(),
            send_window: i64::from(FIRST_WINDOW),
            first_window: FIRST_WINDOW,
            receive: Receive::new(CONNECTION_WINDOW),
            limit: most,
            most,
            part: None,
            greeted: false,
            replies: 0,
            closed: None,
            over: false,
            waiting: Vec::new(),
        }
    }

    /// How many exchanges there may be at once.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether no exchange can be begun any more.
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.streams.is_empty()
    }

    /// Whether nothing comes any more.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Begins an exchange, when there is room for one: `head` packs its fields, and its body is not empty. `bodiless`:
    /// its answer has no body, whatever it says (RFC 9110 section 6.4.1). The exchange has the number that is returned
    /// until it is [closed](Self::close).
    pub fn poll_open(
        &mut self,
        cx: &Context<'_>,
        bodiless: bool,
        body: Option<B>,
        head: impl FnOnce(&mut Vec<u8>),
    ) -> Poll<Result<u32, Loss>> {
        if let Some(loss) = self.closed {
            return Poll::Ready(Err(loss));
        }
        if self.streams.len() >= self.limit as usize {
            self.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        let id = self.next;
        self.next += 2;
        if self.next > MAX_ID {
            self.closed = Some(Loss::GoneAway(Code::NO_ERROR));
        }
        let mut stream = Stream::new(self.handed + self.out.len() as u64, bodiless, self.first_window);
        self.put_head(id, body.is_none(), head);
        if let Some(body) = body {
            stream.rest = Some(Rest { body, from: 0 });
            self.ready.push_back(id);
        }
        self.streams.insert(id, stream);
        self.prepare();
        Poll::Ready(Ok(id))
    }

    fn put_head(&mut self, id: u32, ends: bool, pack: impl FnOnce(&mut Vec<u8>)) {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; FRAME_HEAD]);
        pack(&mut self.out);
        let ends = if ends { flag::END_STREAM } else { 0 };
        let length = self.out.len() - at - FRAME_HEAD;
        if length <= MAX_FRAME {
            let head = frame_head(length, kind::HEADERS, flag::END_HEADERS | ends, id);
            self.out.iter_mut().skip(at).zip(head).for_each(|(to, from)| *to = from);
            return;
        }
        let list = self.out.split_off(at + FRAME_HEAD);
        self.out.truncate(at);
        let mut parts = list.chunks(MAX_FRAME).enumerate().peekable();
        while let Some((nth, part)) = parts.next() {
            let last = if parts.peek().is_none() { flag::END_HEADERS } else { 0 };
            let (kind, ends) = if nth == 0 { (kind::HEADERS, ends) } else { (kind::CONTINUATION, 0) };
            put(&mut self.out, kind, last | ends, id, part);
        }
    }

    /// Makes bodies ready, as far as the windows allow: a frame of each in turn.
    fn prepare(&mut self) {
        while self.out.len() < MAX_READY && self.send_window > 0 {
            let Some(id) = self.ready.pop_front() else { return };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let Some(rest) = &mut stream.rest else { continue };
            let left = rest.body.get(rest.from..).unwrap_or_default();
            let window = usize::try_from(self.send_window.min(stream.send_window)).unwrap_or_default();
            let count = left.len().min(window).min(MAX_FRAME);
            // It is there again when the server opens its window.
            if count == 0 {
                continue;
            }
            let is_last = count == left.len();
            let ends = if is_last { flag::END_STREAM } else { 0 };
            put(&mut self.out, kind::DATA, ends, id, left.get(..count).unwrap_or_default());
            rest.from += count;
            stream.send_window -= count as i64;
            self.send_window -= count as i64;
            if is_last {
                stream.rest = None;
            } else {
                self.ready.push_back(id);
            }
        }
    }

    /// Hands over what is to be sent, into an empty `room`.
    pub fn take_out(&mut self, room: &mut Vec<u8>) {
        self.prepare();
        self.handed += self.out.len() as u64;
        self.replies = 0;
        std::mem::swap(&mut self.out, room);
    }

    /// The connection has taken so many bytes more.
    pub fn took(&mut self, bytes: usize) {
        self.taken += bytes as u64;
    }

    /// Whether anything is to be sent.
    pub fn has_out(&self) -> bool {
        !self.out.is_empty()
    }

    /// Asks the server for a sign of life.
    pub fn ping(&mut self) {
        put(&mut self.out, kind::PING, 0, 0, b"postern?");
    }

    /// Waits for the head of an answer. `Err` tells too whether not a byte of the request was taken.
    pub fn poll_head(&mut self, id: u32, cx: &Context<'_>) -> Poll<Result<Head, (Loss, bool)>> {
        let taken = self.taken;
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Err((Loss::Line, false))) };
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Course::Lost(loss) = stream.course {
            return Poll::Ready(Err((loss, taken <= stream.first)));
        }
        stream.wait(cx);
        Poll::Pending
    }

    /// Waits for the next piece of an answer's body; `None` at the end.
    pub fn poll_data(&mut self, id: u32, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Loss>>> {
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Some(Err(Loss::Line))) };
        if !stream.data.is_empty() {
            let data = std::mem::take(&mut stream.data);
            self.release(Some(id), data.len());
            return Poll::Ready(Some(Ok(data.into())));
        }
        match stream.course {
            Course::Ended => Poll::Ready(None),
            Course::Lost(loss) => Poll::Ready(Some(Err(loss))),
            Course::Open => {
                stream.wait(cx);
                Poll::Pending
            }
        }
    }

    /// Nobody wants this exchange any more. The server is told, unless it knows.
    pub fn close(&mut self, id: u32) {
        let Some(stream) = self.streams.remove(&id) else { return };
        match stream.course {
            Course::Open => self.reset(id, Code::CANCEL),
            // The answer did not need all of the request.
            Course::Ended if stream.rest.is_some() => self.reset(id, Code::NO_ERROR),
            _ => {}
        }
        self.release(None, stream.data.len());
        self.wake_waiting();
    }

    fn reset(&mut self, id: u32, code: Code) {
        put(&mut self.out, kind::RST_STREAM, 0, id, &code.0.to_be_bytes());
    }

    /// Bytes of answers are held no more: the server may send as many again.
    fn release(&mut self, id: Option<u32>, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Some(more) = self.receive.release(bytes) {
            put(&mut self.out, kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        let Some((id, stream)) = id.and_then(|id| Some((id, self.streams.get_mut(&id)?))) else { return };
        if let Some(more) = stream.receive.release(bytes)
            && stream.course == Course::Open
        {
            put(&mut self.out, kind::WINDOW_UPDATE, 0, id, &more.to_be_bytes());
        }
    }

    /// The connection takes no more bytes. What it has taken may still be answered.
    pub fn deafen(&mut self) {
        self.close_to_new(Loss::Line);
        for stream in self.streams.values_mut() {
            if self.taken <= stream.first {
                stream.lose(Loss::Line);
            }
        }
    }

    /// Nothing comes any more.
    pub fn end(&mut self, loss: Loss) {
        self.over = true;
        self.close_to_new(loss);
        self.streams.values_mut().for_each(|stream| stream.lose(loss));
    }

    /// There may be room for an exchange, or never again.
    fn wake_waiting(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    fn close_to_new(&mut self, loss: Loss) {
        self.closed.get_or_insert(loss);
        self.wake_waiting();
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
