//! The one door through which the leader's requests go: not too many a second, and none after its term.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::leader::Term;
use crate::control::broker::kind;
use crate::runtime::clock;

/// Requests at once, after a while without any.
const BURST: u32 = 100;
/// Between two requests otherwise: 50 a second.
const GAP: Duration = Duration::from_millis(20);

/// The API server is given this long: less than another one needs that takes the Lease of a leader that fell silent.
const PATIENCE: Duration = Duration::from_secs(4);

/// Why a request came to nothing.
pub(super) enum Failed {
    /// The API server says so, or cannot be reached.
    Said(kube::Error),
    /// It says nothing.
    Late,
}

/// The kind of it. What it quotes could be of the request.
impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(error) => f.write_str(&kind(error)),
            Self::Late => write!(f, "no answer within {PATIENCE:?}"),
        }
    }
}

/// Holds requests back.
pub(super) struct Door {
    term: Term,
    turns: Turns,
}

impl Door {
    pub(super) fn new(term: Term) -> Self {
        Self { term, turns: Turns::default() }
    }

    /// Makes a request when it may go; never, once the term is over.
    pub(super) async fn pass<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
        self.turn().await;
        match tokio::time::timeout(PATIENCE, request).await {
            Ok(answer) => answer.map_err(Failed::Said),
            Err(_) => Err(Failed::Late),
        }
    }

    async fn turn(&self) {
        let now = clock::now();
        tokio::time::sleep(self.turns.next(now).saturating_duration_since(now)).await;
        if !self.term.holds(clock::now()) {
            std::future::pending::<()>().await;
        }
    }
}

/// Gives each request its time.
#[derive(Default)]
struct Turns(Mutex<Option<Instant>>);

impl Turns {
    /// When the request that is asked for at `now` may go. Each turn is given once.
    fn next(&self, now: Instant) -> Instant {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // As if there were no burst; the burst is how much earlier than that one may go.
        let regular = next.map_or(now, |next| next.max(now));
        *next = Some(regular + GAP);
        regular.checked_sub(GAP * (BURST - 1)).map_or(now, |early| early.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_keep_their_pace() {
        let (turns, now) = (Turns::default(), clock::now());
        let waits = |now: Instant, count: u32| -> Vec<Duration> {
            (0..count).map(|_| turns.next(now).saturating_duration_since(now)).collect()
        };
        let first = waits(now, BURST + 50);
        assert!(first.iter().take(100).all(Duration::is_zero), "a hundred at once");
        let rest: Vec<Duration> = (1..=50).map(|n| Duration::from_millis(20) * n).collect();
        assert_eq!(first[100..], rest, "then fifty a second");
        // Two seconds later the fifty are gone, and one second's worth is free again.
        let later = waits(now + Duration::from_secs(2), 60);
        assert_eq!(later.iter().filter(|wait| wait.is_zero()).count(), 50);
        let rested = waits(now + Duration::from_secs(3600), 150);
        assert_eq!(rested.iter().filter(|wait| wait.is_zero()).count(), 100, "never more than the burst");
    }
}
