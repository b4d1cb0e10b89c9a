//! How long to wait before the next attempt, so that not all who wait come at once.

use std::time::Duration;

/// The first wait is somewhere below this; each further one may be twice as long,
const FIRST: Duration = Duration::from_millis(500);
/// up to this.
const CAP: Duration = Duration::from_secs(30);
/// Who was turned away for what they are need not hurry.
const REJECTED: Duration = Duration::from_secs(3);
/// As long as they may be told to wait.
const MAX_TOLD: Duration = Duration::from_secs(60);

/// Counts attempts that failed.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// The wait after one more failure: anything from none to all of it (`random` is from 0 to 1),
    /// and what the other side asked for on top.
    pub fn failed(&mut self, random: f64, told: Option<Duration>) -> Duration {
        self.wait(FIRST).mul_f64(random) + told.unwrap_or_default().min(MAX_TOLD)
    }

    /// The wait after one more rejection: never none.
    pub fn rejected(&mut self, random: f64) -> Duration {
        REJECTED + self.wait(REJECTED).mul_f64(random)
    }

    /// All is well again.
    pub fn reset(&mut self) {
        self.0 = 0;
    }

    fn wait(&mut self, first: Duration) -> Duration {
        let wait = first.saturating_mul(1 << self.0.min(16)).min(CAP);
        self.0 = self.0.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_cap_and_begin_again() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.failed(1.0, None).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        for _ in 0..100 {
            assert_eq!(backoff.failed(1.0, None), CAP);
        }
        assert_eq!(backoff.failed(0.0, None), Duration::ZERO, "full jitter");
        assert_eq!(backoff.failed(0.0, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(backoff.failed(0.0, Some(Duration::from_secs(86_400))), MAX_TOLD);
        backoff.reset();
        assert_eq!(backoff.failed(1.0, None), FIRST);
    }

    #[test]
    fn whoever_is_rejected_never_hurries() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..6).map(|_| backoff.rejected(1.0).as_secs()).collect();
        assert_eq!(waits, [6, 9, 15, 27, 33, 33]);
        assert_eq!(backoff.rejected(0.0), REJECTED);
    }
}
