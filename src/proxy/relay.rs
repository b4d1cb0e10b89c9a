//! The upstream's answer, streamed as it comes: every piece flushed, nothing held, backpressure
//! by waiting for the agent's socket.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderMap, Method, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use tokio::io::AsyncWrite;
use tokio::sync::watch;
use tokio::time::timeout;

use super::outbound::{BodyFrame, Outbound};
use super::upstream::Hold;
use crate::credential::{Lease, Life};
use crate::runtime::drain::{Drain, Phase};
use crate::telemetry::exchange::{Exchange, Outcome};

/// An answer to stream, and all that may end it.
pub(super) struct Relay {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Incoming,
    pub(super) hold: Hold,
    /// Whether it is an event stream, which may be ended anywhere between two writes.
    pub(super) events: bool,
    pub(super) idle: Duration,
    pub(super) grace: Duration,
    /// Kept to the end: whoever can withdraw the credential must be able to reach this answer.
    pub(super) lease: Lease,
    pub(super) drain: Drain,
    pub(super) exchange: Exchange,
}

/// Whether the connection can take another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Keep,
    Close,
}

/// After the agent has closed, its upstream answer may be at its end already: some clients close
/// at the last event. Waiting this long for that saves the upstream connection.
const LAST_WORD: Duration = Duration::from_millis(10);

impl Relay {
    /// Streams the answer. `closed` ends when the agent closes its side; `close` asks for the
    /// last answer of the connection.
    pub(super) async fn run<W>(
        mut self,
        out: &mut Outbound<W>,
        method: &Method,
        close: bool,
        closed: impl Future<Output = ()>,
    ) -> Next
    where
        W: AsyncWrite + Unpin,
    {
        let frame = self.frame(method);
        out.head(self.status, &self.headers, frame, close);
        let (mut life, mut drain, grace) = (self.lease.life(), self.drain.clone(), self.grace);
        let midway = AtomicBool::new(false);
        let outcome = tokio::select! {
            biased;
            outcome = end_of_life(&mut life, grace) => outcome,
            () = drain.reached(Phase::Closing) => Outcome::Drained,
            outcome = self.pump(out, frame, &midway) => outcome,
            () = closed => Outcome::ClientClosed,
        };
        match outcome {
            Outcome::Ok => {
                self.hold.release();
                self.exchange.finish(Outcome::Ok);
                if close { Next::Close } else { Next::Keep }
            }
            Outcome::ClientClosed => {
                self.last_word().await;
                Next::Close
            }
            // An event stream may end here as it may anywhere: the client connects again and is
            // told why. Any other body must be seen to be cut.
            cut => {
                if self.events
                    && frame == BodyFrame::Chunked
                    && !midway.load(Ordering::Relaxed)
                    && cut != Outcome::UpstreamGone
                {
                    out.end_chunks();
                    // The agent may have gone as well.
                    let _gone = timeout(Duration::from_secs(1), out.flush()).await;
                }
                self.exchange.finish(cut);
                Next::Close
            }
        }
    }

    fn frame(&self, method: &Method) -> BodyFrame {
        if method == Method::HEAD || matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return BodyFrame::Empty;
        }
        self.body.size_hint().exact().map_or(BodyFrame::Chunked, BodyFrame::Length)
    }

    /// Moves the body until it ends. `midway` is set while a write is under way.
    async fn pump<W: AsyncWrite + Unpin>(
        &mut self,
        out: &mut Outbound<W>,
        frame: BodyFrame,
        midway: &AtomicBool,
    ) -> Outcome {
        loop {
            // What is there already goes out in one write with the head; but nothing waits.
            let next = match self.body.frame().now_or_never() {
                Some(next) => next,
                None => {
                    if let Err(outcome) = self.write(midway, out.flush()).await {
                        return outcome;
                    }
                    match timeout(self.idle, self.body.frame()).await {
                        Ok(next) => next,
                        Err(_) => return Outcome::Idle,
                    }
                }
            };
            let data = match next {
                None => break,
                Some(Err(_)) => return Outcome::UpstreamGone,
                // Trailers are not passed on.
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            if let Err(outcome) = self.pass(out, data, frame, midway).await {
                return outcome;
            }
        }
        if frame == BodyFrame::Chunked {
            out.end_chunks();
        }
        match self.write(midway, out.flush()).await {
            Ok(()) => Outcome::Ok,
            Err(outcome) => outcome,
        }
    }

    async fn pass<W: AsyncWrite + Unpin>(
        &mut self,
        out: &mut Outbound<W>,
        data: Bytes,
        frame: BodyFrame,
        midway: &AtomicBool,
    ) -> Result<(), Outcome> {
        if data.is_empty() {
            return Ok(());
        }
        self.exchange.sent(data.len());
        if out.buffer_data(&data, frame) {
            return Ok(());
        }
        self.write(midway, out.data(data, frame)).await
    }

    async fn write(&self, midway: &AtomicBool, write: impl Future<Output = io::Result<()>>) -> Result<(), Outcome> {
        midway.store(true, Ordering::Relaxed);
        let written = timeout(self.idle, write).await;
        midway.store(false, Ordering::Relaxed);
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Outcome::ClientClosed),
            Err(_) => Err(Outcome::Idle),
        }
    }

    async fn last_word(mut self) {
        if let Ok(None) = timeout(LAST_WORD, self.body.frame()).await {
            self.hold.release();
            self.exchange.finish(Outcome::Ok);
        } else {
            self.exchange.finish(Outcome::ClientClosed);
        }
    }
}

/// Waits until the credential of this answer may not be used any more. The lease keeps the
/// sender alive, so that a closed channel cannot happen; it would mean "nobody can tell".
async fn end_of_life(life: &mut watch::Receiver<Life>, grace: Duration) -> Outcome {
    let reached = life.wait_for(|life| *life != Life::Current).await.map(|life| *life);
    if let Ok(Life::Superseded) = reached {
        let revoked = life.wait_for(|life| *life == Life::Revoked);
        if timeout(grace, revoked).await.is_err() {
            return Outcome::Rotated;
        }
    }
    Outcome::Revoked
}
