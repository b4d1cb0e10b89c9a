//! HTTP/2 as a client speaks it (RFC 9113): frames, packed fields, and the state of one connection.
//!
//! Nothing here reads or writes a socket, and nothing waits: bytes come in, bytes are left to be sent.

use std::fmt;

pub mod answer;
pub mod hpack;
pub mod session;

mod huffman;
mod stream;

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most bytes of a frame's payload, of ours and, as we never say otherwise, of theirs.
pub const MAX_FRAME: usize = 16 * 1024;
/// How long the head of a frame is.
pub const FRAME_HEAD: usize = 9;

/// An error's code (RFC 9113 section 7).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code(pub u32);

impl Code {
    /// Nothing is wrong.
    pub const NO_ERROR: Self = Self(0);
    /// A rule was broken.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// More was sent than a window had room for.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// A frame has a size that it cannot have.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// Nobody wants it any more.
    pub const CANCEL: Self = Self(8);
    /// Packed fields cannot be read, nor any that follow.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// The other side makes more work than it may.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0).ok().and_then(|code| CODES.get(code)) {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a frame is (RFC 9113 section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

/// What is special about a frame.
mod flag {
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const PADDED: u8 = 8;
    pub(super) const PRIORITY: u8 = 32;
}

/// A frame as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame<'a> {
    kind: u8,
    flags: u8,
    /// The stream's number; 0 is the connection.
    id: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The first frame of `bytes`, and how many bytes it takes; `None` where it is not whole.
    fn read(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, Code> {
        let Some(([a, b, c, kind, flags, id @ ..], rest)) = bytes.split_first_chunk::<FRAME_HEAD>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if length > MAX_FRAME {
            return Err(Code::FRAME_SIZE_ERROR);
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let id = u32::from_be_bytes(*id) & MAX_ID;
        Ok(Some((Self { kind: *kind, flags: *flags, id, payload }, FRAME_HEAD + length)))
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without what only makes it longer.
    fn unpadded(self) -> Result<&'a [u8], Code> {
        if !self.has(flag::PADDED) {
            return Ok(self.payload);
        }
        let (padding, rest) = self.payload.split_first().ok_or(Code::FRAME_SIZE_ERROR)?;
        let length = rest.len().checked_sub(usize::from(*padding)).ok_or(Code::PROTOCOL_ERROR)?;
        Ok(rest.get(..length).unwrap_or_default())
    }

    /// The payload as one number, which is all that it must be.
    fn number(self) -> Result<u32, Code> {
        self.payload.try_into().map(u32::from_be_bytes).map_err(|_| Code::FRAME_SIZE_ERROR)
    }
}

/// The greatest number of a stream, and the greatest size of a window.
const MAX_ID: u32 = u32::MAX >> 1;

/// The head of a frame of ours. No payload of ours is longer than [`MAX_FRAME`].
fn frame_head(length: usize, kind: u8, flags: u8, id: u32) -> [u8; FRAME_HEAD] {
    let [_, a, b, c] = u32::try_from(length).unwrap_or_default().to_be_bytes();
    let [d, e, f, g] = id.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

/// Writes a frame.
fn put(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    out.extend_from_slice(&frame_head(payload.len(), kind, flags, id));
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_a_frame_is_read_as_it() {
        let mut bytes = Vec::new();
        put(&mut bytes, kind::PING, flag::ACK, 0, b"12345678");
        let frame = Frame { kind: kind::PING, flags: flag::ACK, id: 0, payload: b"12345678" };
        assert_eq!(bytes, b"\0\0\x08\x06\x01\0\0\0\x0012345678");
        for end in 0..bytes.len() {
            assert_eq!(Frame::read(&bytes[..end]), Ok(None), "{end}");
        }
        bytes.push(b'x');
        assert_eq!(Frame::read(&bytes), Ok(Some((frame, bytes.len() - 1))));
    }

    #[test]
    fn a_frame_that_is_too_long_is_told_by_its_head() {
        for (length, expected) in [(MAX_FRAME, Ok(None)), (MAX_FRAME + 1, Err(Code::FRAME_SIZE_ERROR))] {
            assert_eq!(Frame::read(&frame_head(length, kind::DATA, 0, 1)), expected, "{length}");
        }
    }

    #[test]
    fn the_highest_bit_of_a_number_says_nothing() {
        let head = frame_head(0, kind::DATA, 0, u32::MAX);
        assert_eq!(Frame::read(&head).unwrap().unwrap().0.id, MAX_ID);
    }

    #[test]
    fn padding_is_taken_off() {
        for (flags, payload, expected) in [
            (0, b"\x01ab".as_slice(), Ok(b"\x01ab".as_slice())),
            (flag::PADDED, b"\x01ab", Ok(b"a")),
            (flag::PADDED, b"\x02ab", Ok(b"")),
            (flag::PADDED, b"\x00ab", Ok(b"ab")),
            (flag::PADDED, b"\x03ab", Err(Code::PROTOCOL_ERROR)),
            (flag::PADDED, b"", Err(Code::FRAME_SIZE_ERROR)),
        ] {
            assert_eq!(Frame { kind: kind::DATA, flags, id: 1, payload }.unpadded(), expected, "{flags} {payload:?}");
        }
    }

    #[test]
    fn codes_are_told_by_their_names() {
        let told = [0, 7, 13, 14].map(|code| Code(code).to_string());
        assert_eq!(told, ["NO_ERROR", "REFUSED_STREAM", "HTTP_1_1_REQUIRED", "code 14"]);
    }
}
