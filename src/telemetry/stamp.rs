//! The time of day at the head of a line.

use std::time::{Duration, Instant, SystemTime};

use super::json::last_digit;
use crate::runtime::clock;

/// How long the time of day is told by what has passed since it was read: a step of the clock shows after this.
const RENEWAL: Duration = Duration::from_millis(50);

/// Tells moments as RFC 3339 in UTC with milliseconds. Keeps what the next moment has in common with the last one.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    /// When the time of day was read, and what it was: since 1970.
    read: Option<(Instant, Duration)>,
    second: u64,
    /// The second, without what is smaller.
    text: String,
}

impl Stamp {
    /// Writes the time of day at `now`, which is a moment ago.
    pub(super) fn write(&mut self, now: Instant, out: &mut Vec<u8>) {
        let moment = self.since_1970(now);
        self.tell(moment, out);
    }

    fn since_1970(&mut self, now: Instant) -> Duration {
        if let Some((read, moment)) = self.read {
            let passed = now.saturating_duration_since(read);
            if passed < RENEWAL {
                return moment + passed;
            }
        }
        let moment = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.read = Some((clock::now(), moment));
        moment
    }

    fn tell(&mut self, moment: Duration, out: &mut Vec<u8>) {
        if self.second != moment.as_secs() || self.text.is_empty() {
            self.second = moment.as_secs();
            let second = i64::try_from(self.second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
            self.text = second.map(|second| format!("{second:.0}")).unwrap_or_default();
            // The Z comes after what is smaller.
            self.text.pop();
        }
        out.extend_from_slice(self.text.as_bytes());
        let millis = u64::from(moment.subsec_millis());
        let digits = [b'.', last_digit(millis / 100), last_digit(millis / 10), last_digit(millis), b'Z'];
        out.extend_from_slice(&digits);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn told(stamp: &mut Stamp, moment: Duration) -> String {
        let mut out = Vec::new();
        stamp.tell(moment, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_moment_is_told_to_the_millisecond() {
        let mut stamp = Stamp::default();
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (999, "1970-01-01T00:00:00.999Z"),
            (1_000, "1970-01-01T00:00:01.000Z"),
            (1_772_323_199_007, "2026-02-28T23:59:59.007Z"),
            (1_772_323_199_070, "2026-02-28T23:59:59.070Z"),
            (1_772_323_200_000, "2026-03-01T00:00:00.000Z"),
            // The clock was set back.
            (1_772_323_199_070, "2026-02-28T23:59:59.070Z"),
        ] {
            assert_eq!(told(&mut stamp, Duration::from_micros(millis * 1000 + 999)), expected);
        }
    }

    #[test]
    fn the_time_of_day_is_read_now_and_then() {
        let (mut stamp, now, long_ago) = (Stamp::default(), clock::now(), Duration::from_secs(7));
        let before = clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let read = stamp.since_1970(now);
        assert!(before <= read && read <= clock::wall().duration_since(SystemTime::UNIX_EPOCH).unwrap());
        let last = RENEWAL - Duration::from_nanos(1);
        for (passed, expected) in [(Duration::ZERO, long_ago), (last, long_ago + last)] {
            stamp.read = Some((now, long_ago));
            assert_eq!(stamp.since_1970(now + passed), expected);
        }
        // Of an exchange that ended before, and was not the first to get here.
        assert_eq!(stamp.since_1970(now - last), long_ago);
        assert!(stamp.since_1970(now + RENEWAL) >= before);
    }

    proptest! {
        #[test]
        fn every_moment_is_told_as_jiff_does(moments in vec((0..253_402_207_200_u64, 0..1_000_000_000_u32), 1..4)) {
            let mut stamp = Stamp::default();
            for (second, nanos) in moments {
                let timestamp = jiff::Timestamp::new(second as i64, nanos as i32).unwrap();
                prop_assert_eq!(told(&mut stamp, Duration::new(second, nanos)), format!("{timestamp:.3}"));
            }
        }
    }
}
