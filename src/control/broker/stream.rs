//! One stream: the snapshot of this moment, then each change as a whole, and a heartbeat between.
//!
//! Only the newest snapshot is ever waiting: a reader that is slow gets fewer, and one that does
//! not read at all is let go.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::Times;
use super::encoding::{Encodings, line};
use crate::control::heard::Heard;
use crate::core::name::CallerKey;
use crate::core::wire::{Message, Snapshot, Terms};
use crate::runtime::clock;
use crate::runtime::drain::{Drain, Phase};
use crate::telemetry::session::{Cause, Session};

/// What a connection sends in one piece.
const PIECE: usize = 16 * 1024;

/// A stream under way.
pub(super) struct Stream {
    pub(super) account: CallerKey,
    pub(super) view: watch::Receiver<Arc<Snapshot>>,
    pub(super) heard: watch::Receiver<Heard>,
    pub(super) encodings: Arc<Encodings>,
    pub(super) times: Times,
    /// The token ends after this.
    pub(super) good_for: Duration,
    pub(super) drain: Drain,
    pub(super) out: mpsc::Sender<Bytes>,
    /// Closes the connection, for a reader that does not read.
    pub(super) stalled: Arc<Notify>,
    pub(super) session: Session,
}

impl Stream {
    /// Runs to its end.
    pub(super) async fn run(mut self) {
        let life = self.times.life.min(self.good_for);
        let cause = if life < self.times.life { Cause::TokenExpired } else { Cause::Life };
        let end = Instant::from(clock::now() + life);
        let mut drain = self.drain.clone();
        let cause = tokio::select! {
            biased;
            () = sleep_until(end) => cause,
            () = drain.reached(Phase::Closing) => Cause::Drained,
            cause = self.pump(life, end) => cause,
        };
        if cause == Cause::Stalled {
            self.stalled.notify_one();
        }
        self.session.end(cause);
    }

    async fn pump(&mut self, life: Duration, end: Instant) -> Cause {
        match self.try_pump(life, end).await {
            Err(cause) => cause,
            Ok(never) => match never {},
        }
    }

    async fn try_pump(&mut self, life: Duration, end: Instant) -> Result<std::convert::Infallible, Cause> {
        let Times { heartbeat, settle, overlap, .. } = self.times;
        self.send(line(&Message::Hello(Terms { heartbeat, life }))).await?;
        let goodbye = end - overlap.min(life / 4);
        let mut drain = self.drain.clone();
        let (mut said_goodbye, mut changed) = (false, true);
        // The first one goes out at once; what changes while one is sent is one change.
        let begun = Instant::from(clock::now());
        let (mut next_snapshot, mut next_beat) = (begun, begun + heartbeat);
        loop {
            tokio::select! {
                () = sleep_until(next_snapshot), if changed => {
                    changed = false;
                    self.snapshot().await?;
                    let now = Instant::from(clock::now());
                    (next_snapshot, next_beat) = (now + settle, now + heartbeat);
                }
                // The views live as long as the broker: a closed channel is its end.
                seen = self.view.changed(), if !changed => match seen {
                    Ok(()) => changed = true,
                    Err(_) => return Err(Cause::Drained),
                },
                () = sleep_until(next_beat) => {
                    // Who cannot hear the cluster cannot vouch for what was told last.
                    if self.heard.borrow().vouches_for(&self.account.namespace) {
                        self.send(line(&Message::Heartbeat)).await?;
                        self.session.heartbeat();
                    }
                    next_beat = Instant::from(clock::now()) + heartbeat;
                }
                () = farewell(&mut drain, goodbye), if !said_goodbye => {
                    said_goodbye = true;
                    self.send(line(&Message::Goodbye)).await?;
                }
                () = self.out.closed() => return Err(Cause::Closed),
            }
        }
    }

    async fn snapshot(&mut self) -> Result<(), Cause> {
        let snapshot = Arc::clone(&self.view.borrow_and_update());
        let encoded = self.encodings.of(&self.account, &snapshot);
        drop(snapshot);
        self.send(encoded.line.clone()).await?;
        self.session.snapshot();
        Ok(())
    }

    /// Hands a line over piece by piece, as the reader takes it.
    async fn send(&mut self, mut line: Bytes) -> Result<(), Cause> {
        while !line.is_empty() {
            let piece = line.split_to(line.len().min(PIECE));
            self.session.sent(piece.len());
            match timeout(self.times.stall, self.out.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Cause::Closed),
                Err(_) => return Err(Cause::Stalled),
            }
        }
        Ok(())
    }
}

/// Waits until it is time to send the reader elsewhere.
async fn farewell(drain: &mut Drain, goodbye: Instant) {
    tokio::select! {
        () = sleep_until(goodbye) => {}
        () = drain.reached(Phase::Draining) => {}
    }
}
