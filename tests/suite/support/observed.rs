//! Waiting for events, never for time.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// How long any single event may take before the test says what it was waiting for.
/// Generous on purpose: it bounds a hang and measures nothing.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `event`, or fails naming what never came.
pub async fn within<F: Future>(what: &str, event: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Tries again and again until an attempt makes something of it, or fails naming what never came.
pub async fn repeated<R>(what: &str, mut attempt: impl AsyncFnMut() -> Option<R>) -> R {
    within(what, async {
        loop {
            if let Some(result) = attempt().await {
                return result;
            }
        }
    })
    .await
}

/// A value that others change and a test awaits.
pub struct Observed<T> {
    value: Mutex<T>,
    changed: watch::Sender<()>,
}

impl<T> Observed<T> {
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: watch::Sender::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    /// Returns the first `Some` that `look` finds, now or after a change.
    pub async fn until<R>(&self, what: &str, mut look: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut changes = self.changed.subscribe();
        within(what, async {
            loop {
                if let Some(found) = look(&mut self.lock()) {
                    return found;
                }
                changes.changed().await.expect("the sender lives as long as self");
            }
        })
        .await
    }
}
