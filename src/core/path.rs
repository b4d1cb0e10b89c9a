//! Paths that every parser reads the same way.

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
    /// `.` or `..`, plain or encoded.
    #[error("the path holds a dot segment")]
    DotSegment,
    /// `//`.
    #[error("the path holds an empty segment")]
    EmptySegment,
}

/// Accepts a path that cannot be read as another one: no dot segments, no empty segments
/// (a trailing slash is fine), no escape that hides a separator (RFC 3986 sections 3.3 and 6).
pub fn check(path: &str) -> Result<(), PathFault> {
    let rest = path.strip_prefix('/').ok_or(PathFault::NotAbsolute)?;
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            if segments.peek().is_some() {
                return Err(PathFault::EmptySegment);
            }
            break;
        }
        check_segment(segment.as_bytes())?;
    }
    Ok(())
}

fn check_segment(segment: &[u8]) -> Result<(), PathFault> {
    let mut dots = 0;
    let mut length = 0;
    let mut at = 0;
    while let Some(&byte) = segment.get(at) {
        let decoded = if byte == b'%' {
            let decoded = segment.get(at + 1..at + 3).and_then(hex_pair).ok_or(PathFault::Character)?;
            if matches!(decoded, b'/' | b'\\' | b'%') || decoded.is_ascii_control() {
                return Err(PathFault::Encoded);
            }
            at += 3;
            decoded
        } else if is_pchar(byte) {
            at += 1;
            byte
        } else {
            return Err(PathFault::Character);
        };
        length += 1;
        dots += usize::from(decoded == b'.');
    }
    // `..;x` is a dot segment to servers that cut path parameters off.
    let bare = segment.split(|b| *b == b';').next().unwrap_or_default();
    if (length <= 2 && dots == length) || matches!(bare, b"." | b"..") {
        return Err(PathFault::DotSegment);
    }
    Ok(())
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

    #[test]
    fn ambiguous_paths_are_refused() {
        use PathFault::*;
        let rows: [(&str, Result<(), PathFault>); 22] = [
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
}
