//! A connection to an upstream that speaks HTTP/1.1: one request, then its answer, by whoever asks. No task of its
//! own stands between the agent's connection and this one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode};
use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt as _, AsyncWrite};

use super::pool::Pool;
use super::wire::Wire;
use super::{AnswerBody, Fault, Incomer, OpenConnection, Outgoing, broken};
use crate::core::answer::{self, AnswerHead, Extent};
use crate::core::chunked::{ChunkFault, Decoder};
use crate::core::decide::Refusal;
use crate::core::fields::{Fields, Known};
use crate::core::reason::Reason;
use crate::core::rewrite::Placement;
use crate::runtime::clock;
use crate::runtime::reading::{READ_BYTES, poll_take};

/// How long an idle connection is kept where the server does not say. The stacks below the MCP SDKs (uvicorn, Node)
/// close after 5 s; a call sent into that is lost, and may not be sent again.
const IDLE_LIFE: Duration = Duration::from_secs(4);
/// The longest, whatever the server says.
const MAX_IDLE_LIFE: Duration = Duration::from_secs(50);
/// How much earlier than the server we let go.
const IDLE_MARGIN: Duration = Duration::from_secs(1);
/// The most bytes of a head.
const MAX_HEAD: usize = 64 * 1024;
/// How much is read at once while a lot comes.
const BULK_BYTES: usize = 64 * 1024;

/// An open connection on which nothing is under way. It is handed on with every call, so it is kept in a box.
pub(in crate::proxy) struct Http1 {
    wire: Wire,
    /// Read, and not used yet.
    unread: BytesMut,
    /// The last read filled all the room it had.
    bulk: bool,
    since: Instant,
    life: Duration,
    _open: OpenConnection,
}

impl Http1 {
    pub(super) fn new(wire: Wire, open: OpenConnection) -> Box<Self> {
        let (unread, bulk, since, life) = (BytesMut::new(), false, clock::now(), Duration::ZERO);
        Box::new(Self { wire, unread, bulk, since, life, _open: open })
    }

    /// Sends a request and waits for the head of its answer. Dropped before that, it ends the connection.
    pub(super) async fn call(
        mut self: Box<Self>,
        outgoing: &Outgoing<'_>,
        credential: Placement<'_>,
        pool: &Arc<Pool>,
    ) -> Result<Incomer, Fault> {
        let mut digits = itoa::Buffer::new();
        let mut sending = Sending::new(pieces(outgoing, credential, &pool.host, &mut digits));
        let mut early = None;
        let mut seen = 0;
        let answer =
            std::future::poll_fn(|cx| self.poll_answer(cx, &mut sending, outgoing.method, (&mut early, &mut seen)));
        let answer = answer.await?;
        self.heed(&answer.headers);
        let keeps = answer.keeps && sending.is_over() && answer.status != StatusCode::SWITCHING_PROTOCOLS;
        let left = match answer.extent {
            Extent::Length(length) => Left::Bytes(length),
            Extent::Chunked => Left::Chunks(Box::new(Decoder::new(usize::MAX))),
            Extent::Close => Left::All,
        };
        let reading = Reading { connection: self, pool: Arc::clone(pool), left, keeps };
        Ok(Incomer { status: answer.status, headers: answer.headers, body: AnswerBody::Http1(reading) })
    }

    /// Reads while it writes: a server may refuse a body before it has taken it.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        sending: &mut Sending<'_>,
        method: &Method,
        (early, seen): (&mut Option<AnswerHead>, &mut usize),
    ) -> Poll<Result<AnswerHead, Fault>> {
        sending.poll(&mut self.wire, cx);
        if let Some(error) = sending.fault.as_ref().filter(|_| !sending.begun) {
            return Poll::Ready(Err(Fault { unsent: true, refusal: broken(error) }));
        }
        loop {
            if early.is_none() {
                *early = self.take_head(method, seen)?;
            }
            if early.as_ref().is_some_and(|head| is_interim(head.status)) {
                *early = None;
                continue;
            }
            // A success is for the whole of the request: the server has all of it, or is about to.
            if early.as_ref().is_some_and(|head| head.status.is_success() && sending.is_under_way()) {
                return Poll::Pending;
            }
            if let Some(head) = early.take() {
                return Poll::Ready(Ok(head));
            }
            let error = match ready!(self.poll_fill(cx)) {
                Ok(1..) => continue,
                Ok(0) => sending.fault.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()),
                Err(error) => error,
            };
            return Poll::Ready(Err(Fault { unsent: false, refusal: broken(&error) }));
        }
    }

    fn take_head(&mut self, method: &Method, seen: &mut usize) -> Result<Option<AnswerHead>, Fault> {
        let unreadable = |fault| Fault { unsent: false, refusal: Refusal::because(Reason::UpstreamUnreachable, fault) };
        match answer::find_end(&self.unread, *seen) {
            Some(end) => {
                *seen = 0;
                let read = answer::read(self.unread.get(..end).unwrap_or_default(), method);
                self.unread.advance(end);
                read.map(Some).map_err(unreadable)
            }
            None if self.unread.len() >= MAX_HEAD => Err(unreadable(answer::AnswerFault::TooLarge)),
            None => {
                *seen = self.unread.len();
                Ok(None)
            }
        }
    }

    /// Learns from an answer how long the server keeps the connection (`Keep-Alive: timeout=5`, RFC 2068
    /// section 19.7.1; Node and others send it).
    fn heed(&mut self, headers: &Fields) {
        let said = headers.text(Known::KeepAlive).and_then(timeout_parameter);
        self.life = said.map_or(IDLE_LIFE, |time| time.saturating_sub(IDLE_MARGIN).min(MAX_IDLE_LIFE));
    }

    /// It serves again: from now on it is idle.
    pub(super) fn rests(&mut self, now: Instant) {
        self.since = now;
        // What it held for a crowd of bytes is not needed to wait.
        self.unread = BytesMut::new();
        self.bulk = false;
    }

    /// Whether a request may be sent on it, after it was idle.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        // Whatever a server says unasked, nobody can tell what it answers. TLS may have read it already.
        !self.is_spent(now) && self.wire.is_silent()
    }

    /// Whether it has been idle for too long, or the server has closed it.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        now.duration_since(self.since) >= self.life || self.has_heard()
    }

    /// Whether anything waits in the kernel: bytes, the server's end, or an error. The runtime may not have come to
    /// hear of it, and a call sent into a close is lost.
    fn has_heard(&self) -> bool {
        let mut byte = [0u8];
        let peeked = rustix::net::recv(self.wire.socket(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Reads what there is. An idle wait holds no memory for what may come.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bulk {
            self.unread.reserve(BULK_BYTES);
            let read = ready!(std::pin::pin!(self.wire.read_buf(&mut self.unread)).poll(cx))?;
            self.bulk = read >= READ_BYTES;
            return Poll::Ready(Ok(read));
        }
        let read = ready!(poll_take::<READ_BYTES, _, _>(&mut self.wire, cx, |bytes| {
            self.unread.extend_from_slice(bytes);
            bytes.len()
        }))?;
        self.bulk = read == READ_BYTES;
        Poll::Ready(Ok(read))
    }
}

/// Whether another head follows. After 101 none does: the connection would speak something else.
fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

fn timeout_parameter(value: &str) -> Option<Duration> {
    let timeout = value.split(',').find_map(|parameter| parameter.trim().strip_prefix("timeout="))?;
    timeout.trim().parse().ok().map(Duration::from_secs)
}

/// How many pieces a request is sent from.
const PIECES: usize = 14;

/// The request, with its one credential, in the pieces that it is made of: they meet in what is sent, and not before.
fn pieces<'a>(
    outgoing: &'a Outgoing<'_>,
    credential: Placement<'a>,
    host: &'a HeaderValue,
    digits: &'a mut itoa::Buffer,
) -> [&'a [u8]; PIECES] {
    let body: &[u8] = outgoing.body;
    let has_length = !body.is_empty() || outgoing.method == Method::POST;
    let length: [&[u8]; 3] = match has_length.then(|| digits.format(body.len())) {
        Some(length) => [b"\r\ncontent-length: ", length.as_bytes(), b"\r\n\r\n"],
        None => [b"\r\n\r\n", b"", b""],
    };
    let [before, length, after] = length;
    [
        outgoing.method.as_str().as_bytes(),
        b" ",
        outgoing.target.as_str().as_bytes(),
        b" HTTP/1.1\r\nhost: ",
        host.as_bytes(),
        b"\r\n",
        outgoing.fields.as_bytes(),
        credential.header.as_str().as_bytes(),
        b": ",
        credential.value.as_bytes(),
        before,
        length,
        after,
        body,
    ]
}

/// A request on its way out.
struct Sending<'a> {
    /// What of it has not gone,
    rest: [&'a [u8]; PIECES],
    /// in bytes.
    left: usize,
    /// Some of it has left us.
    begun: bool,
    flushed: bool,
    fault: Option<io::Error>,
}

impl<'a> Sending<'a> {
    fn new(rest: [&'a [u8]; PIECES]) -> Self {
        let left = rest.iter().map(|part| part.len()).sum();
        Self { rest, left, begun: false, flushed: false, fault: None }
    }

    fn is_written(&self) -> bool {
        self.left == 0
    }

    fn advance(&mut self, mut written: usize) {
        self.left = self.left.saturating_sub(written);
        if self.is_written() {
            // Nobody looks at the pieces any more.
            return;
        }
        for part in &mut self.rest {
            let count = written.min(part.len());
            *part = part.get(count..).unwrap_or_default();
            written -= count;
        }
    }

    fn is_over(&self) -> bool {
        self.flushed && self.fault.is_none()
    }

    fn is_under_way(&self) -> bool {
        !self.flushed && self.fault.is_none()
    }

    /// Goes on as far as it goes. A fault is kept: the server may have said before why it takes no more.
    fn poll(&mut self, wire: &mut Wire, cx: &mut Context<'_>) {
        while self.is_under_way() {
            let step = if !self.is_written() {
                Pin::new(&mut *wire).poll_write_vectored(cx, &self.rest.map(io::IoSlice::new))
            } else {
                // TLS keeps what it has sealed until it is told.
                Pin::new(&mut *wire).poll_flush(cx).map_ok(|()| 0)
            };
            match step {
                Poll::Pending => return,
                Poll::Ready(Ok(0)) if !self.is_written() => self.fault = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(0)) => self.flushed = true,
                Poll::Ready(Ok(written)) => {
                    self.begun = true;
                    self.advance(written);
                }
                Poll::Ready(Err(error)) => self.fault = Some(error),
            }
        }
    }
}

/// An answer's body, and the connection it comes on. Dropped early, it ends the connection at once.
pub(in crate::proxy) struct Reading {
    connection: Box<Http1>,
    pool: Arc<Pool>,
    left: Left,
    keeps: bool,
}

/// What is still to come.
enum Left {
    Bytes(u64),
    Chunks(Box<Decoder>),
    /// What comes until the connection ends.
    All,
}

impl Reading {
    /// How many bytes are still to come, where that is known.
    pub(super) fn length(&self) -> Option<u64> {
        if let Left::Bytes(left) = self.left { Some(left) } else { None }
    }

    /// The next piece; `None` at the end.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let Self { connection, left, .. } = self;
        loop {
            let unread = &mut connection.unread;
            match left {
                Left::Bytes(0) => return Poll::Ready(None),
                Left::Bytes(left) if !unread.is_empty() => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    // Nearly always that is all that came.
                    let piece = if most < unread.len() { unread.split_to(most) } else { std::mem::take(unread) };
                    let piece = piece.freeze();
                    *left -= piece.len() as u64;
                    return Poll::Ready(Some(Ok(piece)));
                }
                Left::Chunks(decoder) if !unread.is_empty() => {
                    let (piece, done) = unchunk(decoder, unread).map_err(|_| io::ErrorKind::InvalidData)?;
                    if done {
                        *left = Left::Bytes(0);
                    }
                    if !piece.is_empty() {
                        return Poll::Ready(Some(Ok(piece)));
                    }
                }
                Left::All if !unread.is_empty() => return Poll::Ready(Some(Ok(std::mem::take(unread).freeze()))),
                // Nothing is there, or no more than a piece of a chunk's head, which the decoder keeps.
                _ => match ready!(connection.poll_fill(cx)) {
                    Ok(1..) => {}
                    Ok(0) if matches!(left, Left::All) => {
                        *left = Left::Bytes(0);
                    }
                    Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                    Err(error) => return Poll::Ready(Some(Err(error))),
                },
            }
        }
    }

    /// The answer has been read to its end: the connection may serve again.
    pub(super) fn release(self, now: Instant) {
        let read = matches!(self.left, Left::Bytes(0)) && self.connection.unread.is_empty();
        if self.keeps && read {
            self.pool.put(self.connection, now);
        }
    }
}

/// The data in `unread`, and whether the body ends with it. A chunk that came alone stays where it is.
fn unchunk(decoder: &mut Decoder, unread: &mut BytesMut) -> Result<(Bytes, bool), ChunkFault> {
    let (first, data) = decoder.next(unread)?;
    if first.consumed == unread.len() {
        let mut piece = std::mem::take(unread);
        piece.truncate(data.end);
        piece.advance(data.start);
        return Ok((piece.freeze(), first.done));
    }
    let mut piece = Vec::with_capacity(unread.len());
    piece.extend_from_slice(unread.get(data).unwrap_or_default());
    unread.advance(first.consumed);
    let fed = decoder.feed(unread, &mut piece)?;
    unread.advance(fed.consumed);
    Ok((piece.into(), fed.done))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row: what came, its data, what is left of it, whether the body is over.
    #[test]
    fn chunks_are_taken_out_alone_and_together() {
        let rows = [
            ("5\r\nhello\r\n", "hello", "", false),
            ("5\r\nhel", "hel", "", false),
            ("5", "", "", false),
            ("5\r\nhello\r\n3", "hello", "", false),
            ("5\r\nhello\r\n1\r\n!\r\n2\r\nab", "hello!ab", "", false),
            ("5\r\nhello\r\n0\r\n\r\n", "hello", "", true),
            ("5\r\nhello\r\n0\r\n\r\nmore", "hello", "more", true),
            ("5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nmore", "hello!", "more", true),
        ];
        for (came, data, left, over) in rows {
            let mut unread = BytesMut::from(came);
            let (piece, done) = unchunk(&mut Decoder::new(100), &mut unread).unwrap();
            assert_eq!((&piece[..], &unread[..], done), (data.as_bytes(), left.as_bytes(), over), "{came:?}");
        }
        unchunk(&mut Decoder::new(100), &mut BytesMut::from("1\r\nab\r\n")).unwrap_err();
    }

    #[test]
    fn the_servers_word_on_keep_alive_is_read() {
        for (value, expected) in
            [("timeout=5", Some(5)), ("max=100, timeout=30", Some(30)), ("timeout=x", None), ("", None)]
        {
            assert_eq!(timeout_parameter(value), expected.map(Duration::from_secs), "{value}");
        }
    }
}
