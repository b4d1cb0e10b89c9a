//! The chunked coding (RFC 9112 section 7.1), read strictly and in any pieces.

use std::ops::Range;

/// Why a chunked body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// A size, line end or trailer that is not as the grammar says.
    #[error("the chunked body is malformed")]
    Malformed,
    /// More data than allowed.
    #[error("the chunked body is too large")]
    TooLarge,
}

/// A decoder; feed it until [`Progress::done`].
#[derive(Debug)]
pub struct Decoder {
    state: State,
    room: usize,
    line: Vec<u8>,
    trailer_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    SizeLine,
    Data(usize),
    DataEnd,
    Trailer,
    Done,
}

/// What one step consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belong to this body.
    pub consumed: usize,
    /// Whether the body is complete.
    pub done: bool,
}

const MAX_LINE: usize = 256;
const MAX_TRAILER_BYTES: usize = 8 * 1024;

impl Decoder {
    /// A decoder for a body of at most `max` bytes of data.
    pub fn new(max: usize) -> Self {
        Self { state: State::SizeLine, room: max, line: Vec::new(), trailer_bytes: 0 }
    }

    /// Decodes `input`, appending data to `out`. Trailers are checked and dropped.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, ChunkFault> {
        let mut consumed = 0;
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let (progress, data) = self.next(rest)?;
            out.extend_from_slice(rest.get(data).unwrap_or_default());
            consumed += progress.consumed;
            if progress.done || consumed == input.len() {
                return Ok(Progress { consumed, ..progress });
            }
        }
    }

    /// Decodes one stretch of data and what stands around it, up to the next stretch. Where it is in `input`.
    pub fn next(&mut self, input: &[u8]) -> Result<(Progress, Range<usize>), ChunkFault> {
        let (mut at, mut data) = (0, 0..0);
        while self.state != State::Done {
            let rest = input.get(at..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            at += match self.state {
                State::Data(_) if !data.is_empty() => break,
                State::Data(left) => {
                    let length = rest.len().min(left);
                    data = at..at + length;
                    self.state = if length == left { State::DataEnd } else { State::Data(left - length) };
                    length
                }
                _ => self.line(rest)?,
            };
        }
        Ok((Progress { consumed: at, done: self.state == State::Done }, data))
    }

    fn line(&mut self, rest: &[u8]) -> Result<usize, ChunkFault> {
        let end = memchr::memchr(b'\n', rest).map(|at| at + 1);
        let piece = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if self.line.len() + piece.len()
            > MAX_LINE.max(if self.state == State::Trailer { MAX_TRAILER_BYTES } else { 0 })
        {
            return Err(ChunkFault::Malformed);
        }
        if end.is_some() && self.line.is_empty() {
            self.end_of_line(piece)?;
        } else {
            self.line.extend_from_slice(piece);
            if end.is_some() {
                let line = std::mem::take(&mut self.line);
                self.end_of_line(&line)?;
            }
        }
        Ok(piece.len())
    }

    fn end_of_line(&mut self, line: &[u8]) -> Result<(), ChunkFault> {
        let line = line.strip_suffix(b"\r\n").ok_or(ChunkFault::Malformed)?;
        if line.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
            return Err(ChunkFault::Malformed);
        }
        self.state = match self.state {
            State::SizeLine => match self.size(line)? {
                0 => State::Trailer,
                size => State::Data(size),
            },
            State::DataEnd if line.is_empty() => State::SizeLine,
            State::Trailer if line.is_empty() => State::Done,
            State::Trailer => {
                self.trailer_bytes += line.len();
                let field = line.iter().position(|b| *b == b':').is_some_and(|colon| colon > 0);
                if !field || self.trailer_bytes > MAX_TRAILER_BYTES {
                    return Err(ChunkFault::Malformed);
                }
                State::Trailer
            }
            _ => return Err(ChunkFault::Malformed),
        };
        Ok(())
    }

    /// `1*HEXDIG [ ";" ext ]`; extensions are ignored, as the RFC asks.
    fn size(&mut self, line: &[u8]) -> Result<usize, ChunkFault> {
        let digits = line.split(|b| *b == b';').next().unwrap_or_default();
        let plain = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(digits).ok().filter(|_| plain).ok_or(ChunkFault::Malformed)?;
        let size = usize::from_str_radix(text, 16).map_err(|_| ChunkFault::Malformed)?;
        self.room = self.room.checked_sub(size).ok_or(ChunkFault::TooLarge)?;
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), ChunkFault> {
        let (mut decoder, mut out, mut consumed, mut done) = (Decoder::new(64), Vec::new(), 0, false);
        for part in input.chunks(piece.max(1)) {
            let progress = decoder.feed(part, &mut out)?;
            consumed += progress.consumed;
            done = progress.done;
            if done {
                break;
            }
        }
        Ok((out, consumed, done))
    }

    #[test]
    fn bodies_decode_and_leave_what_follows() {
        let rows: [(&[u8], &[u8], usize); 4] = [
            (b"0\r\n\r\n", b"", 5),
            (b"5\r\nhello\r\n0\r\n\r\nNEXT", b"hello", 15),
            (b"2;x=\"y\"\r\nhe\r\n3\r\nllo\r\n0\r\nT: v\r\n\r\n", b"hello", 32),
            (b"00A\r\n0123456789\r\n000\r\n\r\n", b"0123456789", 24),
        ];
        for (input, expected, length) in rows {
            assert_eq!(decode(input, 1000), Ok((expected.to_vec(), length, true)), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        let rows: [&[u8]; 14] = [
            b"\r\n",
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\na\r\n",
            b"0x1\r\na\r\n",
            b" 1\r\na\r\n",
            b"1 \r\na\r\n",
            b"1\na\n0\n\n",
            b"1\r\nab\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1\r\na\r\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\n: x\r\n\r\n",
            b"fffffffff\r\n",
        ];
        for input in rows {
            assert_eq!(decode(input, 1000), Err(ChunkFault::Malformed), "{}", input.escape_ascii());
        }
        assert_eq!(decode(b"41\r\n", 10), Err(ChunkFault::TooLarge));
        assert_eq!(decode(b"40\r\n", 10).map(|d| d.2), Ok(false));
    }

    proptest! {
        /// Split anywhere, the same bytes decode to the same body.
        #[test]
        fn pieces_do_not_matter(chunks in proptest::collection::vec("[a-z\r\n]{1,9}", 0..5), piece in 1usize..12) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend(format!("{:x}\r\n{chunk}\r\n", chunk.len()).bytes());
            }
            wire.extend(b"0\r\n\r\n");
            prop_assert_eq!(decode(&wire, piece), Ok((chunks.concat().into_bytes(), wire.len(), true)));
        }
    }
}
