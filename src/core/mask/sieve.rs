//! A first look for forms, of which nearly all texts are innocent.
//!
//! Each form has a character that is rare in ordinary text, if possible one that other forms have
//! too: one pass finds them all. Where one is met, a bounded piece of the form is compared. So
//! whatever a text holds, looking takes time in proportion to its length.

use std::cmp::Reverse;

use zeroize::Zeroizing;

/// How much of a form is looked at: enough that hardly anything else has it.
const PIECE: usize = 24;

/// Where the rare characters are in the forms. The characters themselves are only there.
pub(super) struct Sieve {
    signs: Vec<Sign>,
}

/// One rare character, by the places of the forms where it stands; at least one.
struct Sign {
    places: Vec<Place>,
    /// By character, whether one of the forms has it next.
    next: Zeroizing<Vec<bool>>,
}

#[derive(Clone, Copy)]
struct Place {
    form: usize,
    offset: usize,
}

type Forms = [Zeroizing<Box<[u8]>>];

impl Sieve {
    /// For these forms, none of them empty. Takes the character first that stands in the most forms
    /// for its frequency, until all forms have one.
    pub(super) fn new(forms: &Forms) -> Self {
        let mut left: Vec<Place> = (0..forms.len()).flat_map(|form| Place::all(form, forms)).collect();
        let mut signs = Vec::new();
        while !left.is_empty() {
            let mut counts = Zeroizing::new([0; 256]);
            for place in &left {
                if let Some(count) = counts.get_mut(usize::from(place.byte(forms))) {
                    *count += 1;
                }
            }
            let count = |byte: u8| counts.get(usize::from(byte)).copied().unwrap_or_default();
            let worth = |byte| (count(byte) * 1000 / frequency(byte), Reverse(byte));
            let Some(best) = left.iter().map(|place| place.byte(forms)).max_by_key(|byte| worth(*byte)) else { break };
            let places: Vec<Place> = left.iter().copied().filter(|place| place.byte(forms) == best).collect();
            left.retain(|other| !places.iter().any(|place| place.form == other.form));
            signs.push(Sign::new(places, forms));
        }
        Self { signs }
    }

    /// Whether one of the forms may stand in `text`, plainly written; false only if none does.
    pub(super) fn lets_through(&self, forms: &Forms, text: &[u8]) -> bool {
        let byte = |sign: &Sign| sign.places.first().map_or(0, |place| place.byte(forms));
        self.signs.chunks(3).any(|signs| {
            let begins = |at: usize| {
                let of_sign = |sign: &&Sign| text.get(at) == Some(&byte(sign));
                signs.iter().filter(of_sign).any(|sign| sign.begins(forms, text, at))
            };
            match signs {
                [a] => memchr::memchr_iter(byte(a), text).any(begins),
                [a, b] => memchr::memchr2_iter(byte(a), byte(b), text).any(begins),
                [a, b, c, ..] => memchr::memchr3_iter(byte(a), byte(b), byte(c), text).any(begins),
                [] => false,
            }
        })
    }
}

impl Sign {
    fn new(places: Vec<Place>, forms: &Forms) -> Self {
        // Behind the last character of a form there may be any.
        let open = places.iter().any(|place| place.next(forms).is_none());
        let mut next = Zeroizing::new(vec![open; 256]);
        for byte in places.iter().filter_map(|place| place.next(forms)) {
            if let Some(known) = next.get_mut(usize::from(byte)) {
                *known = true;
            }
        }
        Self { places, next }
    }

    /// Whether one of its forms begins so that its character is the one at `at`.
    fn begins(&self, forms: &Forms, text: &[u8], at: usize) -> bool {
        // Tells nearly always.
        let goes_on = text.get(at + 1).is_none_or(|next| self.next.get(usize::from(*next)) == Some(&true));
        goes_on && self.places.iter().any(|place| place.begins(forms, text, at))
    }
}

impl Place {
    /// Where each character of the looked at piece of a form is first met.
    fn all(form: usize, forms: &Forms) -> impl Iterator<Item = Self> {
        let piece: &[u8] = forms.get(form).map(|form| form.get(..PIECE).unwrap_or(form)).unwrap_or_default();
        let first = |offset: &usize| piece.iter().position(|byte| piece.get(*offset) == Some(byte)) == Some(*offset);
        (0..piece.len()).filter(first).map(move |offset| Self { form, offset })
    }

    fn byte(self, forms: &Forms) -> u8 {
        forms.get(self.form).and_then(|form| form.get(self.offset)).copied().unwrap_or_default()
    }

    fn next(self, forms: &Forms) -> Option<u8> {
        forms.get(self.form)?.get(self.offset + 1).copied()
    }

    fn begins(self, forms: &Forms, text: &[u8], at: usize) -> bool {
        let Some(form) = forms.get(self.form) else { return false };
        let piece = form.get(..PIECE).unwrap_or(form);
        at.checked_sub(self.offset).and_then(|start| text.get(start..)).is_some_and(|rest| rest.starts_with(piece))
    }
}

/// How often a character is met in a thousand of what servers send, roughly: prose, JSON, code, some
/// base64.
fn frequency(byte: u8) -> usize {
    match byte {
        b' ' | b'"' | b'e' | b't' | b'a' | b'o' | b'i' | b'n' | b's' | b'r' => 60,
        b'h' | b'l' | b'd' | b'c' | b'u' | b'm' | b'p' | b',' | b':' => 30,
        b'f' | b'g' | b'w' | b'y' | b'b' | b'v' | b'.' | b'/' | b'-' | b'_' | b'0'..=b'2' => 15,
        b'k' | b'=' | b'3'..=b'9' => 10,
        b'A' | b'C' | b'D' | b'E' | b'I' | b'M' | b'N' | b'O' | b'P' | b'R' | b'S' | b'T' => 6,
        _ => 4,
    }
}
