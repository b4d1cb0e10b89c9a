//! Shutdown in two steps: first nothing new, then, after a grace, nothing at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::alarm::Alarm;

/// How far the shutdown is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Normal service.
    Running,
    /// New exchanges are refused, running ones go on.
    Draining,
    /// Running exchanges end now.
    Closing,
}

/// Starts the shutdown. Purposefully not `Clone`: one owner decides.
#[derive(Debug)]
pub struct DrainTrigger {
    phase: watch::Sender<Phase>,
    glance: Arc<Glance>,
    busy: mpsc::Sender<()>,
    idle: mpsc::Receiver<()>,
}

/// Sees the shutdown.
#[derive(Debug, Clone)]
pub struct Drain {
    phase: watch::Receiver<Phase>,
    glance: Arc<Glance>,
    busy: mpsc::WeakSender<()>,
}

/// The phase for those who look at it with every call.
#[derive(Debug)]
struct Glance {
    phase: AtomicU8,
    alarm: Alarm,
}

/// Held by an exchange while it runs; the shutdown waits for the last one.
#[derive(Debug)]
pub struct Busy {
    _alive: mpsc::Sender<()>,
}

impl DrainTrigger {
    /// A trigger in [`Phase::Running`].
    pub fn new() -> Self {
        let (busy, idle) = mpsc::channel(1);
        let glance = Glance { phase: AtomicU8::new(Phase::Running as u8), alarm: Alarm::default() };
        Self { phase: watch::Sender::new(Phase::Running), glance: Arc::new(glance), busy, idle }
    }

    /// A view of it.
    pub fn watch(&self) -> Drain {
        Drain { phase: self.phase.subscribe(), glance: Arc::clone(&self.glance), busy: self.busy.downgrade() }
    }

    /// Runs the shutdown: refuses new exchanges, waits for the running ones at most `grace`,
    /// then tells them to end and waits for that at most one more second. Returns whether all
    /// ended by themselves.
    pub async fn run(self, grace: Duration) -> bool {
        let Self { phase, glance, busy, mut idle } = self;
        let enter = |next| {
            glance.phase.store(next as u8, Ordering::Release);
            phase.send_replace(next);
            glance.alarm.ring();
        };
        enter(Phase::Draining);
        drop(busy);
        // Nothing is ever sent: `recv` returns once the last sender, held by an exchange, is gone.
        let quiet = tokio::time::timeout(grace, idle.recv()).await.is_ok();
        enter(Phase::Closing);
        if !quiet {
            let _ended_or_not = tokio::time::timeout(Duration::from_secs(1), idle.recv()).await;
        }
        quiet
    }
}

impl Default for DrainTrigger {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Registers a running exchange; `None` once the shutdown has begun.
    pub fn enter(&self) -> Option<Busy> {
        if self.has_reached(Phase::Draining) {
            return None;
        }
        self.busy.upgrade().map(|alive| Busy { _alive: alive })
    }

    /// Whether the shutdown has come to `phase`.
    pub fn has_reached(&self, phase: Phase) -> bool {
        self.glance.phase.load(Ordering::Acquire) >= phase as u8
    }

    /// Rings with each phase, for those who ask [`Self::has_reached`].
    pub fn alarm(&self) -> &Alarm {
        &self.glance.alarm
    }

    /// Waits until the shutdown has come to `phase`.
    pub async fn reached(&mut self, phase: Phase) {
        // An error means that the trigger is gone, and with it everything it guarded.
        let _closed = self.phase.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_the_busy_and_refuses_the_new() {
        let trigger = DrainTrigger::new();
        let mut drain = trigger.watch();
        let busy = drain.enter();
        assert!(busy.is_some());
        let run = crate::runtime::task::spawn(trigger.run(Duration::from_secs(60)));
        drain.reached(Phase::Draining).await;
        assert!(drain.enter().is_none());
        drop(busy);
        assert!(run.await.unwrap());
        drain.reached(Phase::Closing).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_after_its_grace() {
        let trigger = DrainTrigger::new();
        let mut drain = trigger.watch();
        let busy = drain.enter();
        let run = crate::runtime::task::spawn(trigger.run(Duration::from_secs(60)));
        drain.reached(Phase::Closing).await;
        assert!(!run.await.unwrap());
        drop(busy);
    }
}
