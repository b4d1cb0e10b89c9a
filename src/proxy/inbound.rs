//! The reading half of an agent's connection: heads and bodies, bounded in size and time.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::Limits;
use super::body::{Budget, RequestBody, Share};
use crate::core::chunked::{ChunkFault, Decoder};
use crate::core::decide::Refusal;
use crate::core::reason::Reason;
use crate::core::request::{self, Asked, Framing};
use crate::runtime::patience::{Late, Patience};
use crate::runtime::reading::{READ_BYTES, poll_take};

/// Reads one connection.
pub(super) struct Inbound<R> {
    reader: R,
    buffer: Vec<u8>,
    /// How much of the buffer is done with.
    used: usize,
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(super) enum ReadFault {
    /// The agent closed, or stayed away: nothing to say to it.
    Closed,
    /// Refused; the connection must close, since the rest cannot be told apart any more.
    Refused(Refusal),
}

impl From<Refusal> for ReadFault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// How much is read at once of a head, and of what stands behind it. Of a large body the less the better: the rest is
/// read to where it stays.
const HEAD_BYTES: usize = 4 * 1024;
/// How much of the next request may wait while one is answered.
const MAX_AHEAD: usize = 64 * 1024;
/// The step in which a chunked body takes from the budget.
const BUDGET_STEP: usize = 64 * 1024;

impl<R: AsyncRead + Unpin> Inbound<R> {
    /// `early` is what has been read of it already.
    pub(super) fn new(reader: R, early: Vec<u8>) -> Self {
        Self { reader, buffer: early, used: 0 }
    }

    /// What has been read and not been used.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.buffer.drain(..self.used);
        self.buffer
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    /// Reads the next head. Waits at most `idle` for its first byte and `head` for the rest.
    /// `tunnels`: CONNECT is one of the requests that may come.
    pub(super) async fn head(
        &mut self,
        tunnels: bool,
        limits: &Limits,
        (idle, head): (Duration, Duration),
        patience: &mut Patience,
    ) -> Result<Asked, ReadFault> {
        if self.buffer.is_empty() {
            match patience.within(idle, pin!(self.fill::<HEAD_BYTES>())).await {
                Ok(Ok(1..)) => {}
                _ => return Err(ReadFault::Closed),
            }
        }
        let read = patience.within(head, pin!(self.rest_of_head(limits.head))).await;
        let end =
            read.map_err(|_| Refusal::because(Reason::MalformedHead, "the head did not come to its end in time"))??;
        let bytes = self.rest().get(..end).unwrap_or_default();
        let asked = if tunnels { request::parse_for_proxy(bytes) } else { request::parse(bytes).map(Asked::Request) };
        let asked = asked.map_err(Refusal::from)?;
        self.consume(end);
        Ok(asked)
    }

    async fn rest_of_head(&mut self, max: usize) -> Result<usize, ReadFault> {
        let mut seen = 0;
        loop {
            if let Some(end) = request::find_end(self.rest(), seen, max).map_err(Refusal::from)? {
                return Ok(end);
            }
            seen = self.rest().len();
            self.more::<HEAD_BYTES>().await?;
        }
    }

    /// Whether part of a body, or of the next request, is here already.
    pub(super) fn has_bytes(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Reads a body whole.
    pub(super) async fn body(
        &mut self,
        framing: Framing,
        limits: &Limits,
        budget: &Arc<Budget>,
        (time, patience): (Duration, &mut Patience),
    ) -> Result<RequestBody, ReadFault> {
        let read = async {
            match framing {
                Framing::Length(0) => Ok(RequestBody::default()),
                Framing::Length(length) => self.sized_body(length, limits, budget).await,
                Framing::Chunked => self.chunked_body(limits, budget).await,
            }
        };
        patience.within(time, pin!(read)).await.map_err(|Late| late())?
    }

    async fn sized_body(
        &mut self,
        length: u64,
        limits: &Limits,
        budget: &Arc<Budget>,
    ) -> Result<RequestBody, ReadFault> {
        let length = usize::try_from(length).ok().filter(|length| *length <= limits.body);
        let length = length.ok_or_else(|| Refusal::new(Reason::BodyTooLarge))?;
        let share = Share::reserve(budget, length)?;
        // Most come whole, right behind their heads, and stay where they are.
        if self.rest().len() == length {
            let from = std::mem::take(&mut self.used);
            return Ok(RequestBody::new(std::mem::take(&mut self.buffer), from, share));
        }
        let ready = length.min(self.rest().len());
        let mut body = budget.room(length + 1);
        body.extend_from_slice(self.rest().get(..ready).unwrap_or_default());
        self.consume(ready);
        // A read that fills its room leaves open whether more is there, and the next one finds nothing. So it is given
        // room for one byte more, which is that of a request behind this one.
        let mut rest = (&mut self.reader).take((length - ready) as u64 + 1);
        while body.len() < length {
            if !matches!(rest.read_buf(&mut body).await, Ok(1..)) {
                return Err(ReadFault::Closed);
            }
        }
        self.buffer.extend(body.drain(length..));
        Ok(RequestBody::new(body, 0, share))
    }

    async fn chunked_body(&mut self, limits: &Limits, budget: &Arc<Budget>) -> Result<RequestBody, ReadFault> {
        let mut decoder = Decoder::new(limits.body);
        let (mut body, mut share) = (Vec::new(), Share::reserve(budget, 0)?);
        loop {
            if share.size() < body.len() + self.rest().len() {
                share.grow(BUDGET_STEP)?;
                continue;
            }
            let progress = decoder.feed(self.rest(), &mut body).map_err(|fault| match fault {
                ChunkFault::TooLarge => Refusal::new(Reason::BodyTooLarge),
                ChunkFault::Malformed => Refusal::because(Reason::MalformedHead, fault),
            })?;
            self.consume(progress.consumed);
            if progress.done {
                return Ok(RequestBody::new(body, 0, share));
            }
            self.more::<READ_BYTES>().await?;
        }
    }

    /// Waits until the agent has closed its side. What it sends meanwhile is kept for later, up
    /// to a bound; after that the wait never ends, and the socket's own buffers push back.
    pub(super) async fn closed(&mut self) {
        while self.rest().len() < MAX_AHEAD {
            if !matches!(self.fill::<HEAD_BYTES>().await, Ok(1..)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Reads and drops what still comes, so that closing does not reset the connection before
    /// the agent has read our answer (RFC 9112 section 9.6).
    pub(super) async fn discard(&mut self, max: usize, time: Duration) {
        let drain = async {
            let mut left = max;
            while left > 0 {
                (self.buffer, self.used) = (Vec::new(), 0);
                match self.fill::<READ_BYTES>().await {
                    Ok(read @ 1..) => left = left.saturating_sub(read),
                    _ => return,
                }
            }
        };
        let _done_or_late = timeout(time, drain).await;
    }

    async fn more<const MOST: usize>(&mut self) -> Result<(), ReadFault> {
        match self.fill::<MOST>().await {
            Ok(1..) => Ok(()),
            _ => Err(ReadFault::Closed),
        }
    }

    /// Reads what there is. A connection that waits holds no memory for what may come.
    async fn fill<const MOST: usize>(&mut self) -> io::Result<usize> {
        self.buffer.drain(..std::mem::take(&mut self.used));
        let (reader, buffer) = (&mut self.reader, &mut self.buffer);
        let mut keep = |bytes: &[u8]| {
            buffer.extend_from_slice(bytes);
            bytes.len()
        };
        poll_fn(|cx| poll_take::<MOST, _, _>(reader, cx, &mut keep)).await
    }

    fn consume(&mut self, bytes: usize) {
        self.used += bytes;
        // An idle connection holds no memory for a head that has been answered.
        if self.rest().is_empty() {
            (self.buffer, self.used) = (Vec::new(), 0);
        }
    }
}

/// Reads a body whole that comes in frames (HTTP/2).
pub(super) async fn collect(
    mut frames: Incoming,
    limits: &Limits,
    budget: &Arc<Budget>,
    time: Duration,
) -> Result<RequestBody, ReadFault> {
    let read = async {
        let (mut body, mut share) = (Vec::new(), Share::reserve(budget, 0)?);
        while let Some(frame) = frames.frame().await {
            // Trailers are dropped.
            let Ok(data) = frame.map_err(|_| ReadFault::Closed)?.into_data() else { continue };
            if body.len() + data.len() > limits.body {
                return Err(Refusal::new(Reason::BodyTooLarge).into());
            }
            while share.size() < body.len() + data.len() {
                share.grow(BUDGET_STEP)?;
            }
            body.extend_from_slice(&data);
        }
        Ok(RequestBody::new(body, 0, share))
    };
    timeout(time, read).await.map_err(|_| late())?
}

fn late() -> Refusal {
    Refusal::because(Reason::BadJsonRpc, "the body did not come to its end in time")
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    /// Requests that come one behind the other, so that the beginning of the next is nearly always there.
    #[tokio::test]
    async fn what_is_done_with_is_not_kept() {
        let one: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nX-Odd: 1234567\r\n\r\n";
        let all = one.repeat(8 * HEAD_BYTES / one.len());
        let limits = Limits { body: 0, body_budget: 0, head: 1024, connections: 1, sessions: 1 };
        let (mut inbound, mut patience) = (Inbound::new(all.as_slice(), Vec::new()), Patience::default());
        let (minute, mut heads, mut most) = (Duration::from_secs(60), 0, 0);
        while inbound.head(false, &limits, (minute, minute), &mut patience).await.is_ok() {
            heads += 1;
            most = most.max(inbound.buffer.len());
        }
        assert_eq!(heads, all.len() / one.len());
        assert!((HEAD_BYTES..HEAD_BYTES + one.len()).contains(&most), "{most} bytes were held");
    }

    /// With the last byte of a body may come the first of what is behind it.
    #[tokio::test]
    async fn behind_a_large_body_comes_the_next_request() {
        let (body, next) = (vec![b'x'; 3 * HEAD_BYTES], "GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        let first = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        let all = [first.as_bytes(), &body, next.as_bytes()].concat();
        let limits = Limits { body: body.len(), body_budget: 0, head: 1024, connections: 1, sessions: 1 };
        let (mut inbound, mut patience) = (Inbound::new(all.as_slice(), Vec::new()), Patience::default());
        let (minute, budget) = (Duration::from_secs(60), Budget::new(body.len()));
        for (method, path, expected) in [(Method::POST, "/", body.as_slice()), (Method::GET, "/next", b"")] {
            let Ok(Asked::Request(request)) = inbound.head(false, &limits, (minute, minute), &mut patience).await
            else {
                panic!("{path} is a request")
            };
            assert_eq!((request.method, request.target.path.as_str()), (method, path));
            let read = inbound.body(request.framing, &limits, &budget, (minute, &mut patience)).await.unwrap();
            assert_eq!(&*read, expected, "{path}");
        }
        assert!(!inbound.has_bytes());
    }
}
