//! A credential value: valid for an HTTP header, unprintable, wiped when the last holder lets go.

use bytes::Bytes;
use http::HeaderValue;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The longest credential value accepted, in bytes.
pub const MAX_VALUE_BYTES: usize = 16 * 1024;

/// A credential value.
///
/// Deliberately without `Debug`, `Display`, `Serialize`, `Clone` and `PartialEq`: what cannot be
/// formatted cannot be logged. [`expose`](Self::expose) is banned by clippy but for the sites that
/// build the header.
pub struct SecretValue(Zeroizing<Box<[u8]>>);

/// Why a value cannot be a credential. Names the rule, never the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    /// Nothing there, or only white space.
    #[error("the value is empty")]
    Empty,
    /// The commonest mistake: `echo` instead of `printf`.
    #[error(
        "the value ends with a line break; write it without one (printf '%s', or kubectl create secret --from-literal)"
    )]
    TrailingNewline,
    /// RFC 9110 section 5.5 forbids these in a field value; they would split the header.
    #[error("the value contains a line break or NUL")]
    ControlBytes,
    /// Only printable ASCII travels unchanged through every HTTP stack.
    #[error("the value contains a byte that is not printable ASCII")]
    NotPrintable,
    /// White space at an edge is stripped by the receiver: not the same credential any more.
    #[error("the value begins or ends with white space")]
    EdgeSpace,
    /// RFC 7617: it would move the border between name and password.
    #[error("the user name contains a colon")]
    Colon,
    /// More than [`MAX_VALUE_BYTES`].
    #[error("the value is longer than 16384 bytes")]
    TooLong,
}

impl SecretValue {
    /// Takes the bytes of a Secret's key; they are wiped also when refused.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, SecretFault> {
        let bytes = Zeroizing::new(bytes.into_boxed_slice());
        if bytes.len() > MAX_VALUE_BYTES {
            return Err(SecretFault::TooLong);
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(SecretFault::Empty);
        }
        let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let body = body.strip_suffix(b"\r").unwrap_or(body);
        if body.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err(SecretFault::ControlBytes);
        }
        if body.len() < bytes.len() {
            return Err(SecretFault::TrailingNewline);
        }
        if !bytes.iter().all(|b| (0x20..=0x7e).contains(b)) {
            return Err(SecretFault::NotPrintable);
        }
        if bytes.first() == Some(&b' ') || bytes.last() == Some(&b' ') {
            return Err(SecretFault::EdgeSpace);
        }
        Ok(Self(bytes))
    }

    /// Whether both hold the same value; takes the same time wherever they differ.
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The bytes themselves, to build a header from and nothing else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// What a key of a Secret holds, as it was found: not checked yet, as unprintable as a [`SecretValue`], and wiped.
pub struct SecretBytes(Zeroizing<Box<[u8]>>);

impl SecretBytes {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes.into_boxed_slice()))
    }

    /// The value, if it can be one.
    pub fn value(&self) -> Result<SecretValue, SecretFault> {
        SecretValue::parse(self.0.to_vec())
    }

    /// Whether it can be the user name of RFC 7617.
    pub fn check_user(&self) -> Result<(), SecretFault> {
        self.value()?;
        if self.0.contains(&b':') { Err(SecretFault::Colon) } else { Ok(()) }
    }

    /// User, colon, password; the user name was checked before.
    pub fn pair(&self, password: &Self) -> Result<SecretValue, SecretFault> {
        let (user, password): (&[u8], &[u8]) = (&self.0, &password.0);
        SecretValue::parse([user, b":", password].concat())
    }
}

/// Makes the header value `prefix + value + suffix`, marked sensitive, wiped on its last drop.
///
/// What it cannot wipe: copies in the HTTP, TLS and kernel write buffers (the threat model says so).
pub fn header_value(prefix: &str, value: &[u8], suffix: &str) -> Option<HeaderValue> {
    let mut whole = Vec::with_capacity(prefix.len() + value.len() + suffix.len());
    whole.extend_from_slice(prefix.as_bytes());
    whole.extend_from_slice(value);
    whole.extend_from_slice(suffix.as_bytes());
    let owner = Bytes::from_owner(Zeroizing::new(whole.into_boxed_slice()));
    let mut header = HeaderValue::from_maybe_shared(owner).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(bytes: &[u8]) -> Option<SecretFault> {
        SecretValue::parse(bytes.to_vec()).err()
    }

    #[test]
    fn each_rule_refuses_its_value() {
        let long = vec![b'a'; MAX_VALUE_BYTES + 1];
        let rows: [(&[u8], Option<SecretFault>); 14] = [
            (b"s3cret", None),
            (b"with inner space", None),
            (b"", Some(SecretFault::Empty)),
            (b" \t\n", Some(SecretFault::Empty)),
            (b"s3cret\n", Some(SecretFault::TrailingNewline)),
            (b"s3cret\r\n", Some(SecretFault::TrailingNewline)),
            (b"a\nb", Some(SecretFault::ControlBytes)),
            (b"a\rb", Some(SecretFault::ControlBytes)),
            (b"a\0b", Some(SecretFault::ControlBytes)),
            (b"a\tb", Some(SecretFault::NotPrintable)),
            (b"caf\xc3\xa9", Some(SecretFault::NotPrintable)),
            (b"a\x7f", Some(SecretFault::NotPrintable)),
            (b" lead", Some(SecretFault::EdgeSpace)),
            (&long, Some(SecretFault::TooLong)),
        ];
        for (value, expected) in rows {
            assert_eq!(
                fault(value),
                expected,
                "{:?}",
                value.escape_ascii().to_string().chars().take(20).collect::<String>()
            );
        }
        assert_eq!(fault(&vec![b'a'; MAX_VALUE_BYTES]), None);
    }

    #[test]
    fn a_header_does_not_print_its_value() {
        let header = header_value("Bearer ", b"s3cret", "").unwrap();
        assert_eq!(header.as_bytes(), b"Bearer s3cret");
        assert_eq!(format!("{header:?}"), "Sensitive");
    }

    #[test]
    fn equality_is_by_value() {
        let value = |text: &str| SecretValue::parse(text.into()).ok().unwrap();
        assert!(value("abc").same_as(&value("abc")));
        assert!(!value("abc").same_as(&value("abd")));
        assert!(!value("abc").same_as(&value("abcd")));
    }
}
