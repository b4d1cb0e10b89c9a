//! From pieces of a stream to whole lines, in memory that is wiped.

use zeroize::Zeroizing;

/// Collects pieces; hands out lines.
pub(super) struct Lines {
    buffer: Zeroizing<Vec<u8>>,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    max: usize,
}

/// A line is longer than it may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    /// With lines of at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { buffer: Zeroizing::new(Vec::new()), searched: 0, max }
    }

    /// Takes a piece of the stream.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), TooLong> {
        if self.buffer.len() + piece.len() > self.max + 1 && self.end().is_none() {
            return Err(TooLong);
        }
        self.reserve(piece.len());
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    /// Takes the first whole line out, without its end.
    pub(super) fn take(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let end = self.end()?;
        let line = self.buffer.get(..end).unwrap_or_default().to_vec();
        let rest = self.buffer.get(end + 1..).unwrap_or_default().to_vec();
        // The whole former buffer is wiped, not only what is cut off.
        self.buffer = Zeroizing::new(rest);
        self.searched = 0;
        Some(Zeroizing::new(line))
    }

    fn end(&mut self) -> Option<usize> {
        let found = self.buffer.iter().skip(self.searched).position(|byte| *byte == b'\n');
        let end = found.map(|at| at + self.searched);
        self.searched = end.unwrap_or(self.buffer.len());
        end
    }

    /// Makes room. A vector that grows by itself leaves its old memory behind unwiped.
    fn reserve(&mut self, more: usize) {
        let needed = self.buffer.len() + more;
        if needed > self.buffer.capacity() {
            let mut larger = Vec::with_capacity(needed.max(2 * self.buffer.capacity()).max(4096));
            larger.extend_from_slice(&self.buffer);
            self.buffer = Zeroizing::new(larger);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(lines: &mut Lines) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| lines.take()).map(|line| line.to_vec()).collect()
    }

    #[test]
    fn a_line_has_a_limit() {
        let mut lines = Lines::new(8);
        lines.push(b"12345678").unwrap();
        assert_eq!(lines.push(b"90"), Err(TooLong));
        lines.push(b"\n").unwrap();
        assert_eq!(all(&mut lines), [b"12345678"]);
        // Many short lines in one piece are no long one.
        lines.push(b"1\n").unwrap();
        lines.push(&b"2\n".repeat(20)).unwrap();
        assert_eq!(all(&mut lines).len(), 21);
        assert_eq!(lines.push(b"123456789012345"), Err(TooLong));
    }

    proptest! {
        /// However the stream is cut, the lines are the same.
        #[test]
        fn lines_do_not_depend_on_the_pieces(text in "[a-c\n]{0,60}", cuts in proptest::collection::vec(1usize..9, 0..60)) {
            let mut lines = Lines::new(1000);
            let (mut got, mut rest) = (Vec::new(), text.as_bytes());
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                lines.push(piece).unwrap();
                got.extend(all(&mut lines));
                rest = after;
            }
            lines.push(rest).unwrap();
            got.extend(all(&mut lines));
            let mut expected: Vec<Vec<u8>> = text.split('\n').map(|line| line.as_bytes().to_vec()).collect();
            expected.pop();
            prop_assert_eq!(got, expected);
        }
    }
}
