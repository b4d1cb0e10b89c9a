//! The status of bindings: what became of each, told where its author looks.
//!
//! ```text
//! index -> [ Board: latest facts ] -> leader: [ reach ] -> conditions -> /status, Events
//! ```
//! All replicas know everything; the one that holds the Lease writes. It writes what differs from what stands, so that
//! a cluster in which nothing happens sees no write.

mod board;
mod conditions;
#[cfg(test)]
mod conditions_tests;
mod door;
mod leader;
mod queue;
mod reach;
mod reason;
mod work;
mod write;

use std::sync::Arc;
use std::time::Duration;

pub use self::board::Board;
pub use self::conditions::conditions;
use self::door::Door;
use self::leader::{Candidate, Term};
pub use self::leader::{LEASE, LeaseSettings, LeaseTimes};
pub use self::reach::{Reach, Verb};
pub use self::reason::{ConditionKind, SAYINGS, StatusReason, Truth};
use self::work::{Desk, Work};
use self::write::Writer;
use crate::runtime::clock::Clock;
use crate::runtime::drain::{Drain, Phase};
use crate::telemetry::session::SessionLog;

/// How soon things are looked at.
#[derive(Debug, Clone, Copy)]
pub struct StatusTimes {
    /// How long a namespace may be unread before that is told.
    pub unread: Duration,
    /// After this time at most, who may read a Secret is asked again.
    pub review: Duration,
}

impl Default for StatusTimes {
    fn default() -> Self {
        Self { unread: Duration::from_secs(10), review: Duration::from_secs(600) }
    }
}

/// What became of a write, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteResult {
    /// It stands.
    Written,
    /// The binding had changed or gone since it was looked at.
    Outdated,
    /// The API server said no, or nothing.
    Failed,
}

impl WriteResult {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Written, Self::Outdated, Self::Failed];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Outdated => "outdated",
            Self::Failed => "failed",
        }
    }
}

/// Keeps the status of every binding of the board true, while this replica leads.
pub struct StatusKeeper {
    /// For the Lease, the bindings, the reviews and the Events.
    pub client: kube::Client,
    /// What is known.
    pub board: Board,
    /// By which one of all replicas leads.
    pub lease: LeaseSettings,
    /// What people know this replica by: the name of its pod.
    pub replica: String,
    /// How soon things are looked at.
    pub times: StatusTimes,
    /// Where it is counted.
    pub log: Arc<SessionLog>,
    /// The time of day.
    pub clock: Clock,
    /// Once it has begun, nothing is written any more, and the Lease is released. It waits for that.
    pub drain: Drain,
}

impl StatusKeeper {
    /// Keeps it until the drain begins.
    pub async fn run(self) {
        let Some(_busy) = self.drain.enter() else { return };
        let (client, clock) = (self.client.clone(), Arc::clone(&self.clock));
        let mut candidate = Candidate::new(client, self.lease.clone(), &self.replica, clock);
        tracing::info!(identity = candidate.identity(), "standing for the Lease by which one replica writes status");
        let (term, mut drain) = (candidate.term(), self.drain.clone());
        tokio::select! {
            () = drain.reached(Phase::Draining) => {}
            () = self.lead(term) => {}
            () = candidate.run() => {}
        }
        self.log.metrics.leads(false);
        candidate.release().await;
    }

    async fn lead(&self, mut term: Term) {
        loop {
            self.log.metrics.leads(false);
            self.wait(&mut term).await;
            self.log.metrics.leads(true);
            tracing::info!("this replica writes the status of bindings");
            let desk = Desk {
                client: self.client.clone(),
                door: Door::new(term.clone()),
                writer: Writer::new(self.client.clone(), &self.replica),
                times: self.times,
                clock: Arc::clone(&self.clock),
                log: Arc::clone(&self.log),
            };
            let work = Work { board: self.board.clone(), desk };
            tokio::select! {
                biased;
                () = term.over() => tracing::info!("another replica writes the status of bindings, or none"),
                () = work.run() => {}
            }
        }
    }

    /// Waits for the Lease. What changes meanwhile is for whoever leads to look at.
    async fn wait(&self, term: &mut Term) {
        tokio::select! {
            () = term.begun() => {}
            () = async {
                loop {
                    self.board.changed().await;
                    self.board.take_dirty();
                }
            } => {}
        }
    }
}
