//! One character, however it is written.

use memchr::memmem::Finder;

/// How a form compares with a text from a place on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// Where it ends, in the longest way to read it, if it stands there.
    pub(super) end: Option<usize>,
    /// Whether more text could make it end there, or later.
    pub(super) open: bool,
}

/// Compares `form` with `text` from `start` on.
pub(super) fn reach(form: &[u8], text: &[u8], start: usize) -> Reach {
    let mut at = start;
    let mut rest = form;
    // As long as no sign of an escape is met, there is one way to read.
    while let Some((&wanted, behind)) = rest.split_first() {
        match text.get(at) {
            None => return Reach { end: None, open: true },
            Some(b'%' | b'\\') => return reach_in_all_ways(rest, text, at),
            Some(&byte) if is_plainly(wanted, byte) => (at, rest) = (at + 1, behind),
            Some(_) => return Reach { end: None, open: false },
        }
    }
    Reach { end: Some(at), open: false }
}

/// Finds the escapes in a text that can be part of a form. JSON in JSON is full of others.
pub(super) struct Escapes {
    backslashes: Vec<Finder<'static>>,
}

/// The longest beginning of an escape that is not a whole one, counted from its last backslash.
const LONGEST_BEGINNING: usize = "\\u002".len();

impl Escapes {
    /// For forms that hold the characters which `wanted` knows.
    pub(super) fn new(wanted: impl Fn(u8) -> bool) -> Self {
        let needles: &[&str] = if wanted(b'\\') { &["\\"] } else { &["\\u00", "\\\"", "\\/"] };
        let of_use = |needle: &&&str| !matches!(needle.as_bytes(), [_, byte] if !wanted(*byte));
        Self { backslashes: needles.iter().filter(of_use).map(Finder::new).collect() }
    }

    /// The places, in order, of signs that can be read as one of those characters, alone or as the
    /// beginning of an escape, also with more text. Of several backslashes the last one answers for all.
    pub(super) fn of(&self, wanted: impl Fn(u8) -> bool, text: &[u8]) -> Vec<usize> {
        let Some(first) = memchr::memchr2(b'%', b'\\', text) else { return Vec::new() };
        let rest = text.get(first..).unwrap_or_default();
        let may_be = |at: &usize| may_be(&wanted, rest, *at);
        let mut found: Vec<usize> = memchr::memchr_iter(b'%', rest).filter(may_be).collect();
        if memchr::memchr(b'\\', rest).is_some() {
            found.extend(self.backslashes.iter().flat_map(|finder| finder.find_iter(rest)).filter(may_be));
            let end = rest.len().saturating_sub(LONGEST_BEGINNING);
            found.extend(
                memchr::memchr_iter(b'\\', rest.get(end..).unwrap_or_default()).map(|at| end + at).filter(may_be),
            );
        }
        found.sort_unstable();
        found.iter_mut().for_each(|at| *at += first);
        found
    }
}

fn may_be(wanted: &impl Fn(u8) -> bool, text: &[u8], at: usize) -> bool {
    let Some(&sign) = text.get(at) else { return false };
    match (sign, text.get(at + 1)) {
        _ if wanted(sign) => true,
        (_, None) => true,
        (b'%', Some(_)) => may_be_hex(wanted, 2, text, at + 1),
        (b'\\', Some(b'u')) => may_be_hex(wanted, 4, text, at + 2),
        (b'\\', Some(&byte @ (b'"' | b'/'))) => wanted(byte),
        _ => false,
    }
}

fn may_be_hex(wanted: &impl Fn(u8) -> bool, count: usize, text: &[u8], at: usize) -> bool {
    let mut number = 0;
    for offset in 0..count {
        match text.get(at + offset).map(|byte| (*byte as char).to_digit(16)) {
            None => return true,
            Some(None) => return false,
            Some(Some(digit)) => number = number << 4 | digit,
        }
    }
    u8::try_from(number).is_ok_and(wanted)
}

/// Goes on from all places that the characters so far may end at: a value of backslashes can be
/// read in very many ways, which meet again in few places.
fn reach_in_all_ways(form: &[u8], text: &[u8], start: usize) -> Reach {
    let (mut places, mut next, mut open) = (vec![start], Vec::new(), false);
    for &wanted in form {
        for &at in &places {
            open |= ends(wanted, text, at, &mut next);
        }
        next.sort_unstable();
        next.dedup();
        places.clear();
        std::mem::swap(&mut places, &mut next);
    }
    Reach { end: places.last().copied(), open }
}

fn is_plainly(wanted: u8, byte: u8) -> bool {
    byte == wanted || (wanted == b' ' && byte == b'+')
}

/// Adds where `wanted` may end that begins at `at`; tells whether more text could add to that.
fn ends(wanted: u8, text: &[u8], at: usize, ends: &mut Vec<usize>) -> bool {
    let Some(&byte) = text.get(at) else { return true };
    if is_plainly(wanted, byte) {
        ends.push(at + 1);
    }
    match byte {
        // `%2F` or `%2f`.
        b'%' => hex(&[wanted >> 4, wanted & 15], text, at + 1, ends),
        b'\\' => backslash(wanted, text, at, ends),
        _ => false,
    }
}

/// As many backslashes as JSON inside JSON inside JSON makes. Bounded, or an upstream could keep
/// us counting.
pub(super) const MAX_BACKSLASHES: usize = 8;

/// `\"`, `\\`, `\/` or `\u002f`, behind more backslashes where JSON lies inside JSON.
fn backslash(wanted: u8, text: &[u8], at: usize, ends: &mut Vec<usize>) -> bool {
    let run = text.iter().skip(at).take(MAX_BACKSLASHES + 1).take_while(|byte| **byte == b'\\').count();
    if wanted == b'\\' {
        // Each level doubles them. More than that belong to what follows.
        ends.extend([2, 4, 8].iter().filter(|count| **count <= run).map(|count| at + count));
    }
    match text.get(at + run) {
        _ if run > MAX_BACKSLASHES => false,
        None => true,
        Some(b'u') => hex(&[0, 0, wanted >> 4, wanted & 15], text, at + run + 1, ends),
        Some(&byte) if byte == wanted && matches!(wanted, b'"' | b'/') => {
            ends.push(at + run + 1);
            false
        }
        Some(_) => false,
    }
}

fn hex(digits: &[u8], text: &[u8], at: usize, ends: &mut Vec<usize>) -> bool {
    for (offset, digit) in digits.iter().enumerate() {
        match text.get(at + offset).map(|byte| (*byte as char).to_digit(16)) {
            None => return true,
            Some(found) if found == Some(u32::from(*digit)) => {}
            Some(_) => return false,
        }
    }
    ends.push(at + digits.len());
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends there, and more text makes no difference.
    fn whole(end: usize) -> Reach {
        Reach { end: Some(end), open: false }
    }

    const OPEN: Reach = Reach { end: None, open: true };
    const NOT_THERE: Reach = Reach { end: None, open: false };

    #[test]
    fn a_character_is_known_in_each_of_its_forms() {
        let rows: [(&str, &str, Reach); 27] = [
            ("a/b", "a/b", whole(3)),
            ("a/b", "a%2Fb", whole(5)),
            ("a/b", "a%2fb", whole(5)),
            ("a/b", "%61%2f%62", whole(9)),
            ("a/b", "a\\/b", whole(4)),
            ("a/b", "a\\\\/b", whole(5)),
            ("a/b", "a\\u002Fb", whole(8)),
            ("a/b", "a\\\\u002fb", whole(9)),
            ("a b", "a+b", whole(3)),
            ("a+b", "a b", NOT_THERE),
            ("a%b", "a%b", whole(3)),
            ("a%b", "a%25b", whole(5)),
            ("a\\b", "a\\b", whole(3)),
            ("a\\b", "a\\\\b", whole(4)),
            ("a\\b", "a\\\\\\\\b", whole(6)),
            ("a\\b", "a\\\\\\b", NOT_THERE),
            ("a\\b", "a\\u005cb", whole(8)),
            ("a\"b", "a\\\\\\\"b", whole(6)),
            ("a/b", "a%2", OPEN),
            ("a/b", "a\\u00", OPEN),
            ("a/b", "a\\", OPEN),
            ("a/b", "a%3", NOT_THERE),
            ("a/b", "ax", NOT_THERE),
            // The longest way counts, and may get longer yet.
            ("a\\", "a\\x", whole(2)),
            ("a\\", "a\\\\x", whole(3)),
            ("a\\", "a\\", Reach { end: Some(2), open: true }),
            ("a\\", "a\\\\\\", Reach { end: Some(3), open: true }),
        ];
        for (form, text, expected) in rows {
            assert_eq!(reach(form.as_bytes(), text.as_bytes(), 0), expected, "{form} {text}");
        }
    }

    #[test]
    fn many_ways_to_read_a_value_do_not_hide_it() {
        for backslashes in [1, 2, 3, 8, 9, 40, 400] {
            let form = vec![b'\\'; backslashes];
            let text = [form.as_slice(), b"x"].concat();
            assert_eq!(reach(&form, &text, 0), whole(backslashes));
            assert_eq!(reach(&[form.as_slice(), b"y"].concat(), &text, 0), NOT_THERE);
        }
    }
}
