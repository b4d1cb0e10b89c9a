//! Times as users write them.

use std::time::Duration;

/// The expected form of a duration.
pub const DURATION: &str = "a time such as 500ms, 30s, 5m or 1h, of 1ms to 24h";

/// Reads `500ms`, `30s`, `5m`, `1h`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let millis = number.checked_mul(factor)?;
    (1..=86_400_000).contains(&millis).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, expected) in
            [("500ms", Some(500)), ("2s", Some(2_000)), ("5m", Some(300_000)), ("24h", Some(86_400_000))]
        {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), expected, "{text}");
        }
        for bad in ["", "5", "s", "0s", "25h", "-1s", "1.5s", "1d", "99999999999999999999s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
