//! Choices that a seed repeats.

use std::ops::Range;

/// SplitMix64: small, and random enough to choose from a handful.
#[derive(Debug, Clone)]
pub struct Draw(u64);

impl Draw {
    /// The choices of `who` under this seed.
    pub fn new(seed: u64, who: u64) -> Self {
        let mut draw = Self(seed ^ who.wrapping_mul(0xd134_2543_de82_ef95));
        draw.next();
        draw
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn between(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// True this often in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.between(0..100) < chance
    }

    /// One of these, by weight.
    pub fn weighted<T: Copy>(&mut self, table: &[(T, u64)]) -> T {
        let mut at = self.between(0..table.iter().map(|(_, weight)| weight).sum());
        for (item, weight) in table {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return *item,
            }
        }
        unreachable!("a draw below the sum falls on an item")
    }

    /// Cuts `bytes` at up to `most` places.
    pub fn cut(&mut self, bytes: bytes::Bytes, most: u64) -> Vec<bytes::Bytes> {
        let mut places: Vec<usize> =
            (0..self.between(0..most + 1)).map(|_| self.between(0..bytes.len() as u64 + 1) as usize).collect();
        places.sort_unstable();
        places.push(bytes.len());
        let mut from = 0;
        let mut pieces = Vec::new();
        for place in places {
            if place > from {
                pieces.push(bytes.slice(from..place));
                from = place;
            }
        }
        pieces
    }
}
