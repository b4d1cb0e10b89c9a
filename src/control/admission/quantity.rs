//! Quantities as Kubernetes writes them: `100m`, `1.5Gi`, `2e3`.

/// The expected form.
pub(super) const QUANTITY: &str = "a quantity above zero such as 10m, 0.5, 96Mi or 1Gi";

/// A quantity in thousand-millionths, so that two ways to write it compare equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Quantity(i128);

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// Reads one; zero and what no machine has are refused.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let number = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, suffix) = text.split_at(number);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() + fraction.len() > 15 || fraction.contains('.') {
            return None;
        }
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let below = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let nano = digits.checked_mul(factor(suffix)?)? / below;
        (nano > 0).then_some(Self(nano))
    }
}

/// How many thousand-millionths a suffix stands for.
fn factor(suffix: &str) -> Option<i128> {
    let decimal = |exponent: u32| NANO.checked_mul(10_i128.checked_pow(exponent)?);
    let binary = |exponent: u32| NANO.checked_mul(1024_i128.checked_pow(exponent)?);
    match suffix {
        "n" => Some(1),
        "u" => Some(1_000),
        "m" => Some(1_000_000),
        "" => Some(NANO),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (NANO % power == 0).then_some(NANO / power) } else { NANO.checked_mul(power) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_quantities_are_equal_however_they_are_written() {
        for (one, other) in [
            ("0.5", "500m"),
            ("1Gi", "1024Mi"),
            ("1.5k", "1500"),
            ("2e3", "2k"),
            ("1E", "1e18"),
            ("10e-1", "1"),
            ("1.", "1"),
        ] {
            assert_eq!(Quantity::parse(one).unwrap(), Quantity::parse(other).unwrap(), "{one} {other}");
        }
        assert!(Quantity::parse("100m") < Quantity::parse("0.2"));
        assert!(Quantity::parse("999M") < Quantity::parse("1Gi"));
        for bad in ["", "0", "-1", "1 Mi", "1mi", "Mi", ".", "1.2.3", "1e99", "ten", "1Ki1", "1e", "+1", "0.0000000001"]
        {
            assert_eq!(Quantity::parse(bad), None, "{bad}");
        }
    }
}
