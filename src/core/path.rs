//! Paths that every parser reads the same way.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// Not beginning with `/`.
    #[error("the path does not begin with '/'")]
    NotAbsolute,
    /// A byte outside RFC 3986's `pchar`, or a broken percent escape.
    #[error("the path holds a character that must be percent-encoded")]
    Character,
    /// An escape of `/`, `\`, `%` or a control byte: decoded twice, it is another path.
    #[error("the path holds an encoded slash, backslash, percent sign or control character")]
    Encoded,
    /// `.` or `..`, plain or encoded, also before parameters: some servers cut those off first.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// `//`, or nothing but parameters.
    #[error("the path holds an empty segment")]
    EmptySegment,
}

/// Accepts a path that cannot be read as another one: no dot segments, no empty segments
/// (a trailing slash is fine), no escape that hides a separator (RFC 3986 sections 3.3 and 6).
pub fn check(path: &str) -> Result<(), PathFault> {
    if is_plain(path) { Ok(()) } else { check_segments(path) }
}

fn check_segments(path: &str) -> Result<(), PathFault> {
    let rest = path.strip_prefix('/').ok_or(PathFault::NotAbsolute)?;
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            if segments.peek().is_some() {
                return Err(PathFault::EmptySegment);
            }
            break;
        }
        check_segment(segment)?;
    }
    Ok(())
}

/// Whether the path is as nearly all are: letters, digits and little else, no segment but the last
/// empty, and none that begins with a dot. Told byte by byte.
fn is_plain(path: &str) -> bool {
    let mut before = b' ';
    path.starts_with('/')
        && path.bytes().all(|byte| {
            let begins = std::mem::replace(&mut before, byte) == b'/';
            matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~')
                || !begins && matches!(byte, b'/' | b'.')
        })
}

fn check_segment(segment: &str) -> Result<(), PathFault> {
    let bytes = segment.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%' {
            let decoded = bytes.get(at + 1..at + 3).and_then(hex_pair).ok_or(PathFault::Character)?;
            if matches!(decoded, b'/' | b'\\' | b'%') || decoded.is_ascii_control() {
                return Err(PathFault::Encoded);
            }
            at += 3;
        } else if is_pchar(byte) {
            at += 1;
        } else {
            return Err(PathFault::Character);
        }
    }
    match &*plain(segment) {
        "." | ".." => Err(PathFault::DotSegment),
        "" => Err(PathFault::EmptySegment),
        _ => Ok(()),
    }
}

/// A segment as the most generous server reads it: escapes undone, and parameters (`;x=1`) cut off.
pub fn plain(segment: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'%', b';', segment.as_bytes()).is_none() {
        return Cow::Borrowed(segment);
    }
    let cut = |text: &str| text.find(';').unwrap_or(text.len());
    match percent_decode_str(segment).decode_utf8_lossy() {
        Cow::Borrowed(text) => Cow::Borrowed(text.get(..cut(text)).unwrap_or_default()),
        Cow::Owned(mut text) => {
            text.truncate(cut(&text));
            Cow::Owned(text)
        }
    }
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let digit = |b: u8| (b as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
    match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

/// RFC 3986 `pchar` without the percent sign.
fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ambiguous_paths_are_refused() {
        use PathFault::*;
        let rows: [(&str, Result<(), PathFault>); 28] = [
            ("/", Ok(())),
            ("/mcp", Ok(())),
            ("/mcp/", Ok(())),
            ("/a/b-c_d~e/%20x", Ok(())),
            ("/a...b/...", Ok(())),
            ("/~u/@v:1", Ok(())),
            ("", Err(NotAbsolute)),
            ("mcp", Err(NotAbsolute)),
            ("/a//b", Err(EmptySegment)),
            ("//", Err(EmptySegment)),
            ("/./a", Err(DotSegment)),
            ("/a/..", Err(DotSegment)),
            ("/a/%2e%2E/b", Err(DotSegment)),
            ("/a/.%2e", Err(DotSegment)),
            ("/a/..;x/b", Err(DotSegment)),
            ("/a/%2e%2e;x/b", Err(DotSegment)),
            ("/a/.%2e;/b", Err(DotSegment)),
            ("/a/..%3bx/b", Err(DotSegment)),
            ("/a/.;", Err(DotSegment)),
            ("/a/;x/b", Err(EmptySegment)),
            ("/a/b;x=../.b;c", Ok(())),
            ("/a%2fb", Err(Encoded)),
            ("/a%5Cb", Err(Encoded)),
            ("/a%252e", Err(Encoded)),
            ("/a%00", Err(Encoded)),
            ("/a\\b", Err(Character)),
            ("/a b", Err(Character)),
            ("/a%2", Err(Character)),
        ];
        for (path, expected) in rows {
            assert_eq!(check(path), expected, "{path}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8192))]

        /// What is accepted at first sight is accepted at the second.
        #[test]
        fn no_path_is_plain_that_would_be_refused(path in "[/.a]{0,6}|/[a-z/]{0,9}[!-~]{0,2}[A-Z0-9_~/.-]{0,9}|.{0,3}") {
            prop_assert_eq!(check(&path), check_segments(&path), "{:?}", path);
        }
    }
}
