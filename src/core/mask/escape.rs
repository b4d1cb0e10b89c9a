//! One character, however it is written.

/// How a form compares with a text from a place on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// It ends here.
    Whole(usize),
    /// The text ends before it does.
    Open,
    /// It does not stand there.
    None,
}

/// More ways than this are not tried: a value of nothing but backslashes can be read in many.
const MAX_STEPS: usize = 1 << 16;

/// Compares `form` with `text` from `start` on.
pub(super) fn match_at(form: &[u8], text: &[u8], start: usize) -> Match {
    let mut ways = vec![(0, start)];
    let (mut open, mut steps) = (false, 0);
    while let Some((done, at)) = ways.pop() {
        let Some(&wanted) = form.get(done) else { return Match::Whole(at) };
        let Some(&byte) = text.get(at) else {
            open = true;
            continue;
        };
        steps += 1;
        if steps > MAX_STEPS {
            break;
        }
        if byte == wanted || (wanted == b' ' && byte == b'+') {
            ways.push((done + 1, at + 1));
        }
        let escape = match byte {
            b'%' => percent(wanted, text, at),
            b'\\' => backslash(wanted, text, at),
            _ => Match::None,
        };
        match escape {
            Match::Whole(end) => ways.push((done + 1, end)),
            Match::Open => open = true,
            Match::None => {}
        }
    }
    if open { Match::Open } else { Match::None }
}

/// `%2F` or `%2f`.
fn percent(wanted: u8, text: &[u8], at: usize) -> Match {
    hex(&[wanted >> 4, wanted & 15], text, at + 1)
}

/// As many backslashes as JSON inside JSON inside JSON makes. Bounded, or an upstream could keep
/// us counting.
const MAX_BACKSLASHES: usize = 8;

/// `\"`, `\\`, `\/` or `\u002f`, behind more backslashes where JSON lies inside JSON.
fn backslash(wanted: u8, text: &[u8], at: usize) -> Match {
    let rest = text.get(at..).unwrap_or_default();
    let run = rest.iter().take(MAX_BACKSLASHES + 1).take_while(|byte| **byte == b'\\').count();
    if wanted == b'\\' {
        // Written by two of them; more belong to what follows.
        return match rest.get(1) {
            Some(b'\\') => Match::Whole(at + 2),
            Some(b'u') => hex(&[0, 0, 5, 12], text, at + 2),
            Some(_) => Match::None,
            None => Match::Open,
        };
    }
    match rest.get(run) {
        _ if run > MAX_BACKSLASHES => Match::None,
        None => Match::Open,
        Some(b'u') => hex(&[0, 0, wanted >> 4, wanted & 15], text, at + run + 1),
        Some(&byte) if byte == wanted && matches!(wanted, b'"' | b'/') => Match::Whole(at + run + 1),
        Some(_) => Match::None,
    }
}

fn hex(digits: &[u8], text: &[u8], at: usize) -> Match {
    for (offset, digit) in digits.iter().enumerate() {
        match text.get(at + offset).map(|byte| (*byte as char).to_digit(16)) {
            None => return Match::Open,
            Some(found) if found == Some(u32::from(*digit)) => {}
            Some(_) => return Match::None,
        }
    }
    Match::Whole(at + digits.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_known_in_each_of_its_forms() {
        let rows: [(&str, &str, Match); 20] = [
            ("a/b", "a/b", Match::Whole(3)),
            ("a/b", "a%2Fb", Match::Whole(5)),
            ("a/b", "a%2fb", Match::Whole(5)),
            ("a/b", "%61%2f%62", Match::Whole(9)),
            ("a/b", "a\\/b", Match::Whole(4)),
            ("a/b", "a\\\\/b", Match::Whole(5)),
            ("a/b", "a\\u002Fb", Match::Whole(8)),
            ("a/b", "a\\\\u002fb", Match::Whole(9)),
            ("a b", "a+b", Match::Whole(3)),
            ("a+b", "a b", Match::None),
            ("a%b", "a%b", Match::Whole(3)),
            ("a%b", "a%25b", Match::Whole(5)),
            ("a\\b", "a\\b", Match::Whole(3)),
            ("a\\b", "a\\\\b", Match::Whole(4)),
            ("a\"b", "a\\\\\\\"b", Match::Whole(6)),
            ("a/b", "a%2", Match::Open),
            ("a/b", "a\\u00", Match::Open),
            ("a/b", "a\\", Match::Open),
            ("a/b", "a%3", Match::None),
            ("a/b", "ax", Match::None),
        ];
        for (form, text, expected) in rows {
            assert_eq!(match_at(form.as_bytes(), text.as_bytes(), 0), expected, "{form} {text}");
        }
    }

    #[test]
    fn many_ways_to_read_a_value_do_not_take_forever() {
        let form = vec![b'\\'; 4096];
        let text = [vec![b'\\'; 8000], vec![b'x']].concat();
        assert_ne!(match_at(&form, &text, 0), Match::Open);
    }
}
