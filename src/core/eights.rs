//! Eight bytes looked at together: a search of its own kind has to prepare itself for longer than most names and
//! values are long.

const EACH: u64 = u64::MAX / 0xff;
const HIGHEST: u64 = EACH << 7;

/// Marks the bytes below `least`, which is at most 0x80, each by its highest bit.
///
/// Of several marks only the lowest is sure: what is taken off a byte may borrow from the next.
pub fn below(eight: u64, least: u8) -> u64 {
    eight.wrapping_sub(EACH * u64::from(least)) & !eight & HIGHEST
}

/// Marks the bytes that are this one. The lowest mark is sure.
pub fn equal(eight: u64, byte: u8) -> u64 {
    below(eight ^ (EACH * u64::from(byte)), 1)
}

/// Marks control characters. The lowest mark is sure.
pub fn control(eight: u64) -> u64 {
    below(eight, 0x20) | equal(eight, 0x7f)
}

/// Which of eight bytes is the first that `marks` marks; the lowest byte is the first.
pub fn first(eight: [u8; 8], marks: impl Fn(u64) -> u64) -> Option<usize> {
    let marks = marks(u64::from_le_bytes(eight));
    (marks != 0).then_some(marks.trailing_zeros() as usize / 8)
}

/// Where the first byte is that `marks` marks.
pub fn find(bytes: &[u8], marks: impl Fn(u64) -> u64) -> Option<usize> {
    let (eights, rest) = bytes.as_chunks::<8>();
    for (at, eight) in eights.iter().enumerate() {
        if let Some(place) = first(*eight, &marks) {
            return Some(at * 8 + place);
        }
    }
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    // What fills it up may be marked too.
    first(last, marks).filter(|place| *place < rest.len()).map(|place| bytes.len() - rest.len() + place)
}

/// Puts capital ASCII letters in lower case.
pub fn lower(bytes: &mut [u8]) {
    let (eights, _) = bytes.as_chunks_mut::<8>();
    eights.iter_mut().for_each(|eight| *eight = lowered(*eight));
    match bytes.last_chunk_mut::<8>() {
        // It may overlap the one before: what is in lower case stays so.
        Some(last) => *last = lowered(*last),
        None => bytes.make_ascii_lowercase(),
    }
}

fn lowered(eight: [u8; 8]) -> [u8; 8] {
    let eight = u64::from_le_bytes(eight);
    // Without their highest bits, no sum of two bytes carries into the next.
    let above = |byte: u8| (eight & !HIGHEST) + EACH * u64::from(0x7f - byte);
    let capitals = above(b'A' - 1) & !above(b'Z') & !eight & HIGHEST;
    (eight | capitals >> 2).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_byte_is_told_from_each_other() {
        for byte in 0..=u8::MAX {
            let eight = u64::from_le_bytes([byte; 8]);
            for other in 0..=u8::MAX {
                assert_eq!(equal(eight, other) != 0, byte == other, "{byte} {other}");
                assert_eq!(other <= 0x80 && below(eight, other.min(0x80)) != 0, other <= 0x80 && byte < other);
            }
            assert_eq!(control(eight) != 0, byte.is_ascii_control());
        }
    }

    proptest! {
        #[test]
        fn the_first_is_found(bytes in proptest::collection::vec(prop_oneof![4 => 0x1fu8..0x22, 1 => any::<u8>()], 0..40)) {
            let found = |is: fn(&u8) -> bool| bytes.iter().position(is);
            prop_assert_eq!(find(&bytes, control), found(u8::is_ascii_control));
            prop_assert_eq!(find(&bytes, |eight| equal(eight, b' ')), found(|byte| *byte == b' '));
            prop_assert_eq!(find(&bytes, |eight| below(eight, 0x80)), found(u8::is_ascii));
        }

        #[test]
        fn letters_are_lowered(mut bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let expected = bytes.to_ascii_lowercase();
            lower(&mut bytes);
            prop_assert_eq!(bytes, expected);
        }
    }
}
