//! When to look again: soon after a failure, later after many, and seldom while all is well.

use std::time::Duration;

use crate::runtime::random;

/// After a failure, at first. It doubles.
const SOON: Duration = Duration::from_millis(200);
/// So many times; then it is likely to last.
const FAST: u32 = 5;
const SLOW: Duration = Duration::from_secs(30);

/// How fast rounds follow one another.
#[derive(Debug)]
pub struct Pace {
    calm: Duration,
    failures: u32,
}

impl Pace {
    /// While all is well, a round comes every `calm`.
    pub fn new(calm: Duration) -> Self {
        Self { calm, failures: 0 }
    }

    /// The pause after a round that went well or did not, the half of it drawn by lot: replicas are
    /// not to move in step.
    pub fn after(&mut self, well: bool) -> Duration {
        self.failures = if well { 0 } else { self.failures.saturating_add(1) };
        let pause = match self.failures {
            0 => self.calm,
            soon @ 1..=FAST => SOON * 2_u32.pow(soon - 1),
            _ => SLOW,
        };
        pause.mul_f64(0.5 + 0.5 * random::fraction())
    }

    /// Whether it went wrong so often that only time may help.
    pub fn is_slow(&self) -> bool {
        self.failures > FAST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_fast_and_then_slowly() {
        let mut pace = Pace::new(Duration::from_secs(300));
        let mut within = |well: bool, most: u64| {
            let (pause, most) = (pace.after(well), Duration::from_millis(most));
            assert!(pause <= most && pause >= most / 2, "{pause:?} {most:?}");
            pace.is_slow()
        };
        for most in [200, 400, 800, 1600, 3200] {
            assert!(!within(false, most));
        }
        assert!(within(false, 30_000) && within(false, 30_000));
        assert!(!within(true, 300_000) && !within(false, 200));
    }
}
