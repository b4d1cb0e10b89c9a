//! JSON written straight to where it goes, in printable ASCII: agents choose some of these texts, and a
//! terminal or viewer would obey what JSON lets pass (C1 controls, bidirectional overrides, U+2028).

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

/// The text as a string, in its quotes.
pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    // A vector takes whatever is written to it.
    let _never = escaped(out, text);
    out.push(b'"');
}

/// The text as a string, in its quotes: one of which it is known that it holds nothing to escape.
pub(super) fn plain(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    out.push(b'"');
    out.extend_from_slice(text.as_ref());
    out.push(b'"');
}

/// The number in decimal.
pub(super) fn number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut unused = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = last_digit(number);
        number /= 10;
        unused -= 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(unused..).unwrap_or_default());
}

/// A time in milliseconds: as short as it is exact to the microsecond, with at least one digit after the point.
pub(super) fn milliseconds(out: &mut Vec<u8>, time: Duration) {
    let micros = time.as_secs().saturating_mul(1_000_000).saturating_add((u64::from(time.subsec_nanos()) + 500) / 1000);
    number(out, micros / 1000);
    out.extend_from_slice(&[b'.', last_digit(micros / 100)]);
    if !micros.is_multiple_of(100) {
        out.push(last_digit(micros / 10));
        if !micros.is_multiple_of(10) {
            out.push(last_digit(micros));
        }
    }
}

/// Of the number in decimal.
pub(super) fn last_digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

/// What a string may hold as it is.
fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\'
}

/// Whether all of it may stay as it is: nearly every text, hence looked at by eights.
fn is_all_plain(bytes: &[u8]) -> bool {
    let (eights, _) = bytes.as_chunks::<8>();
    match (bytes.last_chunk::<8>(), bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        // The last eight and the one before it may overlap; so may the two fours.
        (Some(last), ..) => eights.iter().chain([last]).all(|eight| are_plain(u64::from_ne_bytes(*eight))),
        (None, Some(first), Some(last)) => {
            are_plain(u64::from(u32::from_ne_bytes(*first)) << 32 | u64::from(u32::from_ne_bytes(*last)))
        }
        _ => bytes.iter().all(|byte| is_plain(*byte)),
    }
}

/// Whether each of eight bytes is plain: the highest bit of each tells.
fn are_plain(eight: u64) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGHEST: u64 = ONES << 7;
    let below = |eight: u64, least: u64| eight.wrapping_sub(ONES * least) & !eight;
    let is = |byte: u8| below(eight ^ (ONES * u64::from(byte)), 1);
    let not = eight | eight.wrapping_add(ONES) | below(eight, 0x20) | is(b'"') | is(b'\\');
    not & HIGHEST == 0
}

/// The text as it stands between the quotes of a string.
fn escaped<W: Write + ?Sized>(out: &mut W, text: &str) -> io::Result<()> {
    if is_all_plain(text.as_bytes()) {
        return out.write_all(text.as_bytes());
    }
    let mut rest = text;
    while let Some((plain, other)) = rest.bytes().position(|b| !is_plain(b)).and_then(|at| rest.split_at_checked(at)) {
        out.write_all(plain.as_bytes())?;
        let mut others = other.chars();
        if let Some(other) = others.next() {
            escaped_char(out, other)?;
        }
        rest = others.as_str();
    }
    out.write_all(rest.as_bytes())
}

fn escaped_char<W: Write + ?Sized>(out: &mut W, other: char) -> io::Result<()> {
    let short = match other {
        '"' => b"\\\"",
        '\\' => b"\\\\",
        '\n' => b"\\n",
        '\r' => b"\\r",
        '\t' => b"\\t",
        '\u{8}' => b"\\b",
        '\u{c}' => b"\\f",
        _ => {
            for unit in other.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            return Ok(());
        }
    };
    out.write_all(short)
}

/// One JSON object and a line feed.
pub(super) fn line(value: &impl Serialize) -> Option<Vec<u8>> {
    let mut line = Vec::with_capacity(512);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut line, Ascii)).ok()?;
    line.push(b'\n');
    Some(line)
}

struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // Quotes, backslashes and what lies below a space are not in it: those are escaped already.
        escaped(writer, fragment)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_printable_ascii_and_means_the_same() {
        let texts = ["plain \"quoted\" \\", "\u{1b}[2J\r\n\0", "\u{9b}31m\u{7f}", "\u{2028}\u{202e}é", "\u{1f600}"];
        let line = String::from_utf8(line(&texts).unwrap()).unwrap();
        assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\n'), "{line:?}");
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        assert_eq!(serde_json::from_str::<Vec<String>>(&line).unwrap(), texts);
    }

    #[test]
    fn a_text_is_escaped_in_its_shortest_form() {
        let rows = [
            ("", r#""""#),
            ("tools/call", r#""tools/call""#),
            ("\"r-1\"", r#""\"r-1\"""#),
            ("\\\n\r\t\u{8}\u{c}", r#""\\\n\r\t\b\f""#),
            ("\0\u{1f} ~\u{7f}", r#""\u0000\u001f ~\u007f""#),
            ("é…\u{1f600}a", r#""\u00e9\u2026\ud83d\ude00a""#),
        ];
        for (given, expected) in rows {
            assert_eq!(written(|out| text(out, given)), expected);
        }
    }

    /// Each character at each place of texts of each length.
    #[test]
    fn one_that_is_not_plain_is_found_wherever_it_is() {
        for (length, place) in (1..26_usize).flat_map(|length| (0..length).map(move |place| (length, place))) {
            for character in (0..0x250).filter_map(char::from_u32) {
                let given: String = (0..length).map(|at| if at == place { character } else { '~' }).collect();
                let plain = matches!(character, ' '..='~') && character != '"' && character != '\\';
                assert_eq!(is_all_plain(given.as_bytes()), plain, "{given:?}");
            }
        }
        assert!(is_all_plain(b""));
    }

    #[test]
    fn milliseconds_have_at_most_three_digits_after_the_point() {
        let rows = [
            (0, "0.0"),
            (499, "0.0"),
            (500, "0.001"),
            (10_000, "0.01"),
            (100_000, "0.1"),
            (101_000, "0.101"),
            (787_499, "0.787"),
            (999_500, "1.0"),
            (12_000_000, "12.0"),
            (1_182_000_000, "1182.0"),
            (86_400_000_010_000, "86400000.01"),
        ];
        for (nanos, expected) in rows {
            assert_eq!(written(|out| milliseconds(out, Duration::from_nanos(nanos))), expected, "{nanos}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_serde_json_writes(
            given in "[\\x00-\\x7f]{0,40}|.{0,40}", any: u64, micros in 0..10_u64.pow(15)
        ) {
            // But for what is not ASCII, which serde_json lets through.
            let mut line = line(&given).unwrap();
            line.pop();
            let own = written(|out| text(out, &given));
            prop_assert_eq!(&own, &String::from_utf8(line).unwrap());
            prop_assert_eq!(serde_json::from_str::<String>(&own).unwrap(), given);
            prop_assert_eq!(written(|out| number(out, any)), any.to_string());
            let expected = serde_json::to_string(&(micros as f64 / 1e3)).unwrap();
            prop_assert_eq!(written(|out| milliseconds(out, Duration::from_micros(micros))), expected);
        }
    }
}
