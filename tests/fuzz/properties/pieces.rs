//! The ways in which a network may cut a text.

/// Up to this length, a text is cut in two at each of its places.
const SHORT: usize = 32;

/// Each way is a list of pieces, which together are `text`: single bytes, twos and threes, some
/// irregular ones with empty pieces among them, and where it is short, all ways into two.
pub fn ways(text: &[u8]) -> Vec<Vec<&[u8]>> {
    let mut ways: Vec<Vec<&[u8]>> = [1, 2, 3].iter().map(|size| text.chunks(*size).collect()).collect();
    let mut random = Random::of(text);
    ways.extend([4, 16, 64].map(|most| irregular(text, most, &mut random)));
    if text.len() <= SHORT {
        ways.extend((1..text.len()).map(|at| Vec::from(<[&[u8]; 2]>::from(text.split_at(at)))));
    }
    ways
}

fn irregular<'a>(mut text: &'a [u8], most: usize, random: &mut Random) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let (piece, rest) = text.split_at(random.below(most + 1).min(text.len()));
        pieces.push(piece);
        text = rest;
    }
    pieces
}

/// Numbers that depend on the input alone: the same input always fails or passes alike.
struct Random(u64);

impl Random {
    /// FNV-1a of the text.
    fn of(text: &[u8]) -> Self {
        let hash = text
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        Self(hash | 1)
    }

    /// Xorshift.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }
}
