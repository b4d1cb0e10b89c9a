//! The code that shortens texts by how often each byte is in one (RFC 7541 section 5.2).

/// How many bits each byte takes, and the mark of the end, which is the last (RFC 7541 appendix B).
///
/// The code follows from that: it is counted up from 0 through the bytes in the order of their lengths, and of their
/// own value where the lengths are the same.
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];
const SYMBOLS: usize = 257;
const END: u16 = 256;
const LONGEST: usize = 30;
/// Codes are compared where their first bit is the highest of so many.
const WINDOW: u32 = 32;

/// The code, made to be read.
struct Codes {
    /// By the next eight bits: the byte that a code of at most so many stands for, and its length; 0 where it is longer.
    short: [(u8, u8); 256],
    /// By length: where codes of that length begin, which of `symbols` the first one is, and where longer ones begin.
    long: [(u64, usize, u64); LONGEST + 1],
    /// In the order of their codes.
    symbols: [u16; SYMBOLS],
}

static CODES: Codes = Codes::new();

impl Codes {
    #[expect(clippy::indexing_slicing, reason = "what panics here is not compiled")]
    const fn new() -> Self {
        let mut codes = Self { short: [(0, 0); 256], long: [(0, 0, 0); LONGEST + 1], symbols: [0; SYMBOLS] };
        let (mut next, mut count, mut length) = (0u64, 0, 1);
        while length <= LONGEST {
            let (from, first) = (next, count);
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if LENGTHS[symbol] as usize == length {
                    codes.symbols[count] = symbol as u16;
                    count += 1;
                    let step = 1 << (WINDOW as usize - length);
                    let mut eight = next >> (WINDOW - 8);
                    next += step;
                    while length <= 8 && eight < next >> (WINDOW - 8) {
                        codes.short[eight as usize] = (symbol as u8, length as u8);
                        eight += 1;
                    }
                }
                symbol += 1;
            }
            codes.long[length] = (from, first, next);
            length += 1;
        }
        codes
    }

    /// The symbol that `window` begins with, and how many bits it takes.
    fn first(&self, window: u32) -> (u16, u32) {
        let [eight, ..] = window.to_be_bytes();
        let (byte, length) = self.short.get(usize::from(eight)).copied().unwrap_or_default();
        if length != 0 {
            return (u16::from(byte), u32::from(length));
        }
        let window = u64::from(window);
        for (length, (from, first, end)) in (0u32..).zip(self.long).skip(9) {
            if window < end {
                let nth = usize::try_from((window - from) >> (WINDOW - length)).unwrap_or(usize::MAX);
                return (self.symbols.get(first.saturating_add(nth)).copied().unwrap_or(END), length);
            }
        }
        (END, LONGEST as u32)
    }
}

/// Appends to `out` what `bytes` stand for. `None` where they are no text in this code: it has the mark of the end
/// in it, or ends with anything but the beginning of it, shorter than a byte.
pub(super) fn decode(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut bytes = bytes.iter();
    // The bits that are not used yet are the lowest `count`.
    let (mut held, mut count) = (0u64, 0u32);
    loop {
        while count <= WINDOW {
            let Some(byte) = bytes.next() else { break };
            held = held << 8 | u64::from(*byte);
            count += 8;
        }
        if count == 0 {
            return Some(());
        }
        // What is missing is filled up as the end of a text is: with ones.
        let window = match count.checked_sub(WINDOW) {
            Some(more) => held >> more,
            None => (held << (WINDOW - count)) | (u64::from(u32::MAX) >> count),
        };
        let window = u32::try_from(window & u64::from(u32::MAX)).unwrap_or_default();
        let (symbol, length) = CODES.first(window);
        if length > count {
            return (count < 8 && window == u32::MAX).then_some(());
        }
        out.push(u8::try_from(symbol).ok()?);
        count -= length;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The code of each symbol, counted up as the comment on the lengths tells.
    fn codes() -> Vec<(u64, u8)> {
        let mut order: Vec<usize> = (0..SYMBOLS).collect();
        order.sort_by_key(|symbol| LENGTHS[*symbol]);
        let mut codes = vec![(0, 0); SYMBOLS];
        let (mut code, mut before) = (0u64, LENGTHS[order[0]]);
        for symbol in order {
            code <<= LENGTHS[symbol] - before;
            before = LENGTHS[symbol];
            codes[symbol] = (code, before);
            code += 1;
        }
        codes
    }

    fn encode(symbols: impl IntoIterator<Item = usize>) -> Vec<u8> {
        let codes = codes();
        let bits: String = symbols
            .into_iter()
            .map(|symbol| format!("{:0width$b}", codes[symbol].0, width = codes[symbol].1 as usize))
            .collect();
        let ones = (8 - bits.len() % 8) % 8;
        let bits = bits + &"1".repeat(ones);
        bits.as_bytes()
            .chunks(8)
            .map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap())
            .collect()
    }

    fn decoded(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(bytes, &mut out)?;
        Some(out)
    }

    /// Some lines of the table in RFC 7541 appendix B: of each length one, where there is one.
    #[test]
    fn the_codes_are_those_of_the_table() {
        let codes = codes();
        for (symbol, code, length) in [
            (usize::from(b'0'), 0x0, 5),
            (usize::from(b' '), 0x14, 6),
            (usize::from(b':'), 0x5c, 7),
            (usize::from(b'&'), 0xf8, 8),
            (usize::from(b'!'), 0x3f8, 10),
            (usize::from(b'+'), 0x7fb, 11),
            (usize::from(b'#'), 0xffa, 12),
            (usize::from(b'$'), 0x1ff9, 13),
            (usize::from(b'^'), 0x3ffc, 14),
            (usize::from(b'<'), 0x7ffc, 15),
            (usize::from(b'\\'), 0x7fff0, 19),
            (128, 0xfffe6, 20),
            (153, 0x1fffdc, 21),
            (129, 0x3f_ffd2, 22),
            (1, 0x7f_ffd8, 23),
            (9, 0xff_ffea, 24),
            (199, 0x1ff_ffec, 25),
            (192, 0x3ff_ffe0, 26),
            (203, 0x7ff_ffde, 27),
            (2, 0xfff_ffe2, 28),
            (10, 0x3fff_fffc, 30),
            (256, 0x3fff_ffff, 30),
        ] {
            assert_eq!(codes[symbol], (code, length), "{symbol}");
        }
    }

    /// RFC 7541 appendix C.4 and C.6.
    #[test]
    fn the_examples_are_read() {
        for (bytes, text) in [
            (b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff".as_slice(), "www.example.com"),
            (b"\xa8\xeb\x10\x64\x9c\xbf", "no-cache"),
            (b"\x64\x02", "302"),
            (
                b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff",
                "Mon, 21 Oct 2013 20:13:21 GMT",
            ),
        ] {
            assert_eq!(decoded(bytes).as_deref(), Some(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_text_ends_as_it_must() {
        for (bytes, expected) in [
            (b"".as_slice(), Some(b"".as_slice())),
            // "0" is 00000; what follows must be ones,
            (b"\x07", Some(b"0")),
            (b"\x06", None),
            (b"\x03", None),
            // and be less than a byte.
            (b"\x07\xff", None),
            (b"\xff", None),
            // The mark of the end may not be there, with or without something behind it.
            (b"\xff\xff\xff\xff", None),
            (b"\xff\xff\xff\xfc\x07", None),
        ] {
            assert_eq!(decoded(bytes).as_deref(), expected, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(decoded(&encode(text.iter().map(|byte| usize::from(*byte)))), Some(text));
        }

        #[test]
        fn what_is_decoded_is_encoded(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Some(text) = decoded(&bytes) {
                prop_assert_eq!(encode(text.iter().map(|byte| usize::from(*byte))), bytes);
            }
        }
    }
}
