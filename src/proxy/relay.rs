//! The upstream's answer, streamed as it comes: every piece flushed, nothing held, backpressure
//! by waiting for the agent's socket.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use tokio::time::{Sleep, sleep, timeout};

use super::messages::Watch;
use super::outbound::{BodyFrame, Out};
use super::respond::Responder;
use super::upstream::{AnswerBody, Broken};
use super::waiting::Waiting;
use crate::core::answer;
use crate::core::decide::Refusal;
use crate::core::fields::FieldLines;
use crate::core::mask::Masker;
use crate::core::reason::Reason;
use crate::credential::{Lease, Life};
use crate::runtime::clock;
use crate::runtime::patience::{Late, Patience};
use crate::telemetry::exchange::{Exchange, Outcome};

/// An answer to stream, and all that may end it.
pub(super) struct Relay {
    pub(super) status: StatusCode,
    pub(super) headers: FieldLines,
    pub(super) body: AnswerBody,
    /// Whether it is an event stream, which may be ended anywhere between two writes.
    pub(super) events: bool,
    /// `None` where the binding lets a compressed answer pass as it is.
    pub(super) masker: Option<Masker>,
    /// Rewrites the `endpoint` events of a 2024-11-05 stream.
    pub(super) watch: Option<Watch>,
    pub(super) idle: Duration,
    pub(super) grace: Duration,
    /// Kept to the end: whoever can withdraw the credential must be able to reach this answer.
    pub(super) lease: Lease,
    pub(super) exchange: Exchange,
    /// For an answer that is cut before its first byte: there is still time to say why.
    pub(super) request_id: Option<String>,
    pub(super) respond: Responder,
}

/// Whether the connection can take another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
}

/// How far the writing is.
#[derive(Default)]
struct Progress {
    /// Something went out.
    begun: AtomicBool,
    /// A write is under way.
    midway: AtomicBool,
}

/// After the agent has closed, its upstream answer may be at its end already: some clients close
/// at the last event. Waiting this long for that saves the upstream connection.
const LAST_WORD: Duration = Duration::from_millis(10);

/// For the last bytes of an answer that is cut.
const LAST_WRITE: Duration = Duration::from_secs(1);

impl Relay {
    /// Streams the answer. `closed` ends when the agent closes its side; `close` asks for the
    /// last answer of the connection.
    pub(super) async fn run<O: Out>(
        mut self,
        out: &mut O,
        method: &Method,
        close: bool,
        closed: impl Future<Output = ()>,
        waiting: &mut Waiting,
    ) -> Next {
        let frame = self.frame(method);
        // A stream may last for days: what has been said is not kept.
        out.head(self.status, &std::mem::take(&mut self.headers), frame, close);
        let Waiting { patience, ends } = waiting;
        let (lease, progress, mut grace) = (self.lease.clone(), Progress::default(), Grace::Lasting(self.grace));
        let ended = lease.life().over().map(ended_by);
        let outcome = match ended.or_else(|| ends.is_closing().then_some(Outcome::Drained)) {
            Some(ended) => ended,
            None => {
                let (mut pump, mut closed) = (pin!(self.pump(out, frame, (&progress, patience))), pin!(closed));
                poll_fn(|cx| {
                    // An answer that is here already, whole, is through before anybody waits for its end.
                    if let Poll::Ready(outcome) = pump.as_mut().poll(cx) {
                        return Poll::Ready(outcome);
                    }
                    if let Poll::Ready(outcome) = grace.poll_end(ends.life(cx, &lease), cx) {
                        return Poll::Ready(outcome);
                    }
                    if ends.is_closing() {
                        return Poll::Ready(Outcome::Drained);
                    }
                    closed.as_mut().poll(cx).map(|()| Outcome::ClientClosed)
                })
                .await
            }
        };
        let masked = self.masker.as_ref().map_or(0, Masker::count);
        self.exchange.masked(masked);
        match outcome {
            Outcome::Ok => {
                self.through();
                if close { Next::Close } else { Next::Keep }
            }
            Outcome::ClientClosed => {
                self.last_word().await;
                Next::Close
            }
            cut => {
                self.cut(out, frame, cut, &progress).await;
                Next::Close
            }
        }
    }

    /// Ends early. Before the first byte, the agent is told why. An event stream may end here as
    /// it may anywhere: the client connects again and is told then. Any other body must be seen
    /// to be cut.
    async fn cut<O: Out>(self, out: &mut O, frame: BodyFrame, cut: Outcome, progress: &Progress) {
        let between_writes = !progress.midway.load(Ordering::Relaxed);
        if !progress.begun.load(Ordering::Relaxed)
            && let Some(reason) = reason_for(cut)
        {
            let refusal = Refusal { server: self.exchange.server_name().cloned(), ..Refusal::new(reason) };
            let response = self.respond.refuse(self.exchange, &refusal, self.request_id.as_deref());
            out.forget();
            // The agent may have gone as well.
            let _gone = timeout(LAST_WRITE, out.whole(&response, true, false)).await;
            return;
        }
        if self.events
            && frame == BodyFrame::Chunked
            && between_writes
            && !matches!(cut, Outcome::UpstreamGone | Outcome::BadStream)
        {
            out.end_chunks();
            let _gone = timeout(LAST_WRITE, out.flush()).await;
        }
        self.exchange.finish(cut);
    }

    fn frame(&self, method: &Method) -> BodyFrame {
        if method == Method::HEAD || answer::is_bodiless(self.status) {
            return BodyFrame::Empty;
        }
        // A rewritten stream has another length.
        let length = self.body.length().filter(|_| self.watch.is_none());
        length.map_or(BodyFrame::Chunked, BodyFrame::Length)
    }

    /// Moves the body until it ends.
    async fn pump<O: Out>(&mut self, out: &mut O, frame: BodyFrame, way: (&Progress, &mut Patience)) -> Outcome {
        match self.try_pump(out, frame, way).await {
            Ok(()) => Outcome::Ok,
            Err(outcome) => outcome,
        }
    }

    async fn try_pump<O: Out>(
        &mut self,
        out: &mut O,
        frame: BodyFrame,
        (progress, patience): (&Progress, &mut Patience),
    ) -> Result<(), Outcome> {
        loop {
            // What is there already goes out in one write with the head; but nothing waits.
            let next = match poll_fn(|cx| Poll::Ready(self.body.poll_piece(cx))).await {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    let at_once = self.flush(out, (progress, &mut *patience)).await?;
                    patience.within(self.idle, pin!(self.piece(at_once))).await.map_err(|Late| Outcome::Idle)?
                }
            };
            let data = match next {
                None => break,
                Some(Ok(data)) => data,
                Some(Err(Broken)) => return Err(Outcome::UpstreamGone),
            };
            let data = match &mut self.masker {
                Some(masker) => masker.pass(&self.lease.credential.mask, data),
                None => data,
            };
            let data = match &mut self.watch {
                Some(watch) => watch.pass(&data).map(Bytes::from).map_err(|_| Outcome::BadStream)?,
                None => data,
            };
            self.pass(out, data, frame, (progress, &mut *patience)).await?;
        }
        if let Some(masker) = &mut self.masker {
            let mut held = masker.finish(&self.lease.credential.mask);
            if let Some(watch) = &mut self.watch {
                held = watch.pass(&held).map(Bytes::from).map_err(|_| Outcome::BadStream)?;
            }
            self.pass(out, held, frame, (progress, &mut *patience)).await?;
        }
        if frame == BodyFrame::Chunked {
            out.end_chunks();
        }
        self.flush(out, (progress, &mut *patience)).await.map(drop)
    }

    /// The next piece of the body; `None` at its end. `looked`: it was not there, a moment ago in this poll.
    fn piece(&mut self, mut looked: bool) -> impl Future<Output = Option<Result<Bytes, Broken>>> {
        poll_fn(move |cx| if std::mem::take(&mut looked) { Poll::Pending } else { self.body.poll_piece(cx) })
    }

    /// Sends what is to be sent. Whether that was done at once, without a wait.
    async fn flush<O: Out>(&self, out: &mut O, way: (&Progress, &mut Patience)) -> Result<bool, Outcome> {
        let mut at_once = true;
        self.write(way, pin!(watched(&mut at_once, pin!(out.flush())))).await?;
        Ok(at_once)
    }

    async fn pass<O: Out>(
        &mut self,
        out: &mut O,
        data: Bytes,
        frame: BodyFrame,
        way: (&Progress, &mut Patience),
    ) -> Result<(), Outcome> {
        if data.is_empty() {
            return Ok(());
        }
        self.exchange.sent(data.len());
        if out.buffer_data(&data, frame) {
            return Ok(());
        }
        self.write(way, pin!(out.data(data, frame))).await
    }

    async fn write(
        &self,
        (progress, patience): (&Progress, &mut Patience),
        write: impl Future<Output = io::Result<()>> + Unpin,
    ) -> Result<(), Outcome> {
        progress.begun.store(true, Ordering::Relaxed);
        progress.midway.store(true, Ordering::Relaxed);
        let written = patience.within(self.idle, write).await;
        progress.midway.store(false, Ordering::Relaxed);
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Outcome::ClientClosed),
            Err(Late) => Err(Outcome::Idle),
        }
    }

    /// The answer has been read to its end, and is with the agent.
    fn through(self) {
        let now = clock::now();
        self.body.release(now);
        self.exchange.finish_at(now, Outcome::Ok);
    }

    async fn last_word(mut self) {
        if let Ok(None) = timeout(LAST_WORD, self.piece(false)).await {
            self.through();
        } else {
            self.exchange.finish(Outcome::ClientClosed);
        }
    }
}

/// Sees whether `work` is done when it is first asked.
fn watched<T>(at_once: &mut bool, mut work: impl Future<Output = T> + Unpin) -> impl Future<Output = T> {
    poll_fn(move |cx| {
        let done = Pin::new(&mut work).poll(cx);
        *at_once &= done.is_ready();
        done
    })
}

/// What an end before the first byte is called.
fn reason_for(cut: Outcome) -> Option<Reason> {
    match cut {
        Outcome::Revoked | Outcome::Rotated => Some(Reason::CredentialRevoked),
        Outcome::Barred(reason) => Some(reason),
        Outcome::Drained => Some(Reason::Draining),
        Outcome::UpstreamGone | Outcome::BadStream => Some(Reason::UpstreamUnreachable),
        Outcome::Idle => Some(Reason::UpstreamTimeout),
        Outcome::Ok | Outcome::UpstreamError | Outcome::Refused | Outcome::ClientClosed | Outcome::Panicked => None,
    }
}

/// How long an answer may go on with a credential that has been replaced.
enum Grace {
    /// So long, once it has been.
    Lasting(Duration),
    Running(Pin<Box<Sleep>>),
}

impl Grace {
    /// Whether the credential may be used for this answer no more.
    fn poll_end(&mut self, life: Life, cx: &mut Context<'_>) -> Poll<Outcome> {
        if let Some(reason) = life.over() {
            return Poll::Ready(ended_by(reason));
        }
        if life == Life::Current {
            return Poll::Pending;
        }
        if let Self::Lasting(time) = *self {
            *self = Self::Running(Box::pin(sleep(time)));
        }
        match self {
            Self::Running(rest) => rest.as_mut().poll(cx).map(|()| Outcome::Rotated),
            Self::Lasting(_) => Poll::Pending,
        }
    }
}

fn ended_by(reason: Reason) -> Outcome {
    match reason {
        Reason::CredentialRevoked => Outcome::Revoked,
        other => Outcome::Barred(other),
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    /// What has come during a wait would otherwise not be looked for until more comes.
    #[tokio::test]
    async fn what_had_to_wait_was_not_done_at_once() {
        let mut at_once = true;
        assert_eq!(watched(&mut at_once, ready("done")).await, "done");
        assert!(at_once);
        watched(&mut at_once, pin!(tokio::task::yield_now())).await;
        assert!(!at_once);
    }
}
