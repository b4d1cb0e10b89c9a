//! The only place that reads a clock. Everything below takes time as an argument.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// The time of day, as an argument.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "the one reader of the monotonic clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day, for log lines and ages.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Now as RFC 3339 in UTC with milliseconds.
pub fn rfc3339() -> String {
    jiff::Timestamp::try_from(wall()).map(|now| format!("{now:.3}")).unwrap_or_default()
}
