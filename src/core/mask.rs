//! The echo mask: whatever an upstream says back, the injected value does not reach the agent.
//!
//! The value and its base64 forms are overwritten by `*` of equal length, so that lengths and
//! framing stay as they are, with each character written plainly or escaped as URLs and JSON
//! strings do (`%2F`, `+`, `\/`, `\u002f`, more backslashes for JSON inside JSON). A form may be
//! split over any number of chunks: bytes at a chunk's end that could be the beginning of one are
//! held back until the next chunk tells. No form contains a line break, so a complete SSE event
//! is never held.
//!
//! Best effort by nature: what an upstream transforms otherwise (hashes, reverses, spells out)
//! passes. The threat model says so.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::HeaderValue;
use memchr::memmem;
use zeroize::Zeroizing;

mod escape;
mod sieve;

use escape::Escapes;
use sieve::Sieve;

/// A value shorter than this is found in ordinary text, which is then overwritten. It is masked all
/// the same: whether it is a secret is not ours to judge.
pub const SHORT: usize = 8;

/// A derived form shorter than this is left out: it would mask innocent text.
const MIN_DERIVED: usize = 6;

/// The forms of one credential; wiped when dropped.
pub struct Mask {
    forms: Vec<Zeroizing<Box<[u8]>>>,
    /// By character, whether it stands in a form.
    letters: Zeroizing<Vec<bool>>,
    sieve: Sieve,
    escapes: Escapes,
    shortest: usize,
    longest: usize,
    /// A blank may be written `+`: then an escaped form need not hold an escape sign.
    blanks: bool,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mask")
    }
}

/// The longest way to write one character: `u002f` behind eight backslashes.
const LONGEST_ESCAPE: usize = 13;

impl Mask {
    /// The forms of each of `values`.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut forms: Vec<Zeroizing<Box<[u8]>>> = Vec::new();
        for value in values.into_iter().filter(|value| !value.is_empty()) {
            forms.push(Zeroizing::new(value.into()));
            let derived = base64_forms(value).into_iter().filter(|form| form.len() >= MIN_DERIVED);
            forms.extend(derived.map(|form| Zeroizing::new(form.into_boxed_slice())));
        }
        forms.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        forms.dedup();
        let mut letters = Zeroizing::new(vec![false; 256]);
        for byte in forms.iter().flat_map(|form| form.iter()) {
            if let Some(letter) = letters.get_mut(usize::from(*byte)) {
                *letter = true;
            }
        }
        let lengths = || forms.iter().map(|form| form.len());
        Self {
            sieve: Sieve::new(&forms),
            escapes: Escapes::new(|byte| letters.get(usize::from(byte)).copied().unwrap_or_default()),
            shortest: lengths().min().unwrap_or(usize::MAX),
            longest: lengths().max().unwrap_or(0),
            blanks: letters.get(usize::from(b' ')).copied().unwrap_or_default(),
            letters,
            forms,
        }
    }

    fn is_letter(&self, byte: u8) -> bool {
        self.letters.get(usize::from(byte)).copied().unwrap_or_default()
    }

    /// Where forms begin and end in `text`.
    fn matches(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        // However it is written, each of its characters takes one at least.
        if text.len() < self.shortest {
            return found;
        }
        let near = self.near_escapes(text);
        if self.sieve.lets_through(&self.forms, text) {
            self.find_plain(text, &near, &mut found);
        }
        for starts in near {
            for form in &self.forms {
                let starts = starts_in(form, text, starts.clone());
                found.extend(starts.filter_map(|at| Some((at, escape::reach(form, text, at).end?))));
            }
        }
        found
    }

    /// The places, in order, from which a form can reach an escape of one of its characters. From all
    /// others a form is only met plainly written.
    fn near_escapes(&self, text: &[u8]) -> Vec<Range<usize>> {
        if self.blanks {
            return std::iter::once(0..text.len()).collect();
        }
        let mut near: Vec<Range<usize>> = Vec::new();
        for at in self.escapes.of(|byte| self.is_letter(byte), text) {
            // The backslashes before it may be part of it.
            let from = at.saturating_sub(self.longest + escape::MAX_BACKSLASHES);
            match near.last_mut() {
                Some(last) if from <= last.end => last.end = at + 1,
                _ => near.push(from..at + 1),
            }
        }
        near
    }

    /// Adds the forms that are plainly written and do not begin `near` an escape.
    fn find_plain(&self, text: &[u8], near: &[Range<usize>], found: &mut Vec<(usize, usize)>) {
        let is_near = |at: usize| {
            let next = near.get(near.partition_point(|range| range.end <= at));
            next.is_some_and(|range| range.start <= at)
        };
        for form in &self.forms {
            let finder = memmem::Finder::new(&**form);
            let mut from = 0;
            // Step by one: a form may overlap itself.
            while let Some(at) = text.get(from..).and_then(|rest| finder.find(rest)) {
                if !is_near(from + at) {
                    found.push((from + at, from + at + form.len()));
                }
                from += at + 1;
            }
        }
    }

    /// How many bytes at the end of `text` could be the beginning of a form.
    fn open_end(&self, text: &[u8]) -> usize {
        let reach = self.longest.saturating_mul(LONGEST_ESCAPE);
        let from = text.len().saturating_sub(reach);
        let tail = text.get(from..).unwrap_or_default();
        // No form holds a line break: what comes before the last one is decided.
        let from = memchr::memrchr2(b'\n', b'\r', tail).map_or(0, |at| at + 1);
        let tail = tail.get(from..).unwrap_or_default();
        if tail.is_empty() {
            return 0;
        }
        if !self.blanks && self.escapes.of(|byte| self.is_letter(byte), tail).is_empty() {
            return self.plain_open_end(tail);
        }
        let first = |form: &Zeroizing<Box<[u8]>>| {
            starts_in(form, tail, 0..tail.len()).find(|at| escape::reach(form, tail, *at).open)
        };
        self.forms.iter().filter_map(first).min().map_or(0, |at| tail.len() - at)
    }

    /// The same where no escape can be part of a form.
    fn plain_open_end(&self, tail: &[u8]) -> usize {
        let letters = tail.iter().rev().take(self.longest - 1).take_while(|byte| self.is_letter(**byte)).count();
        let tail = tail.get(tail.len() - letters..).unwrap_or_default();
        let open = |form: &Zeroizing<Box<[u8]>>| {
            let first = form.first().copied().unwrap_or_default();
            let from = tail.len().saturating_sub(form.len() - 1);
            let tail = tail.get(from..).unwrap_or_default();
            let begins = |at: &usize| tail.get(*at..).is_some_and(|rest| form.starts_with(rest));
            memchr::memchr_iter(first, tail).find(begins).map(|at| tail.len() - at)
        };
        self.forms.iter().filter_map(open).max().unwrap_or(0)
    }

    /// Whether a form stands in a header's name, whose case is nobody's to keep.
    pub fn is_in_name(&self, name: &[u8]) -> bool {
        let stands = |form: &[u8]| name.windows(form.len()).any(|part| part.eq_ignore_ascii_case(form));
        name.len() >= self.shortest && self.forms.iter().any(|form| stands(form))
    }

    /// A header value without any form; `None` where nothing had to be masked.
    pub fn header(&self, value: &[u8]) -> Option<HeaderValue> {
        let found = self.matches(value);
        if found.is_empty() {
            return None;
        }
        let mut masked = value.to_vec();
        overwrite(&mut masked, &found);
        HeaderValue::from_bytes(&masked).ok()
    }
}

fn overwrite(text: &mut [u8], places: &[(usize, usize)]) {
    for (from, to) in places {
        // What lies behind the end is held back, and masked when it goes out.
        let to = (*to).min(text.len());
        if let Some(place) = text.get_mut(*from..to) {
            place.fill(b'*');
        }
    }
}

/// Masks one body, chunk by chunk.
#[derive(Debug, Default)]
pub struct Masker {
    /// As it came: a byte of a form that was found may also begin another.
    held: Vec<u8>,
    /// How much of `held`, from its beginning, belongs to a form that was found.
    covered: usize,
    count: u64,
}

impl Masker {
    /// Takes the next chunk; returns what may go out now, which may be nothing.
    pub fn pass(&mut self, mask: &Mask, chunk: Bytes) -> Bytes {
        let text: Cow<'_, [u8]> = if self.held.is_empty() {
            Cow::Borrowed(&chunk)
        } else {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(&chunk);
            Cow::Owned(joined)
        };
        let open = mask.open_end(&text);
        let mut found = mask.matches(&text);
        if found.is_empty() && self.covered == 0 && matches!(text, Cow::Borrowed(_)) {
            // The common case: nothing is copied but what is held back.
            self.held = chunk.slice(chunk.len() - open..).to_vec();
            return chunk.slice(..chunk.len() - open);
        }
        let mut text = text.into_owned();
        let ready = text.len() - open;
        self.count += found.iter().filter(|(from, _)| *from < ready).count() as u64;
        found.push((0, self.covered));
        self.held = text.split_off(ready);
        // What was covered before is covered still, also where nothing could go out.
        let decided = found.iter().filter(|(from, _)| *from < ready).map(|(_, to)| *to);
        self.covered = decided.chain([self.covered]).max().unwrap_or(0).saturating_sub(ready);
        overwrite(&mut text, &found);
        Bytes::from(text)
    }

    /// The end of the body: what is held back was no form after all.
    pub fn finish(&mut self, mask: &Mask) -> Bytes {
        if self.held.is_empty() {
            return Bytes::new();
        }
        let mut rest = std::mem::take(&mut self.held);
        let mut found = mask.matches(&rest);
        self.count += found.len() as u64;
        found.push((0, std::mem::take(&mut self.covered)));
        overwrite(&mut rest, &found);
        Bytes::from(rest)
    }

    /// How many forms were masked.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// The middle of the value's base64 at each of the three places it can begin in a longer text:
/// the characters that depend on no neighbour.
fn base64_forms(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = Vec::new();
    for before in 0..3usize {
        let mut text = Zeroizing::new(vec![0; before]);
        text.extend_from_slice(value);
        let bits = text.len() * 8;
        // The first character free of the bytes before; the last free of the bytes behind.
        let (from, to) = ((before * 8).div_ceil(6), bits / 6);
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let encoded = Zeroizing::new(engine.encode(&*text));
            forms.extend(encoded.as_bytes().get(from..to).map(<[u8]>::to_vec));
        }
    }
    forms
}

/// Where a form may begin within `range`: at its first character, or at the sign of an escape.
fn starts_in<'a>(form: &'a [u8], text: &'a [u8], range: Range<usize>) -> impl Iterator<Item = usize> + 'a {
    let (from, part) = (range.start, text.get(range).unwrap_or_default());
    let first = form.first().copied().unwrap_or_default();
    let blank = (first == b' ').then(|| memchr::memchr_iter(b'+', part)).into_iter().flatten();
    memchr::memchr3_iter(first, b'%', b'\\', part).chain(blank).map(move |at| from + at)
}

#[cfg(test)]
#[path = "mask_tests.rs"]
mod tests;
