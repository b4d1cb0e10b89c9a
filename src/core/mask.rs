//! The echo mask: whatever an upstream says back, the injected value does not reach the agent.
//!
//! The value and its base64, percent and JSON forms are overwritten by `*` of equal length, so
//! that lengths and framing stay as they are. A form may be split over any number of chunks:
//! bytes at a chunk's end that could be the beginning of one are held back until the next chunk
//! tells. No form contains a line break, so a complete SSE event is never held.
//!
//! Best effort by nature: what an upstream transforms otherwise (hashes, reverses, spells out)
//! passes. The threat model says so.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::HeaderValue;
use memchr::memmem::Finder;
use zeroize::Zeroizing;

/// A derived form shorter than this is left out: it would mask innocent text.
const MIN_DERIVED: usize = 6;

/// The forms of one credential; wiped when dropped.
pub struct Mask {
    forms: Vec<Form>,
    longest: usize,
}

struct Form {
    text: Zeroizing<Box<[u8]>>,
    first: u8,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mask")
    }
}

impl Mask {
    /// The forms of each of `values`.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut texts: Vec<Zeroizing<Vec<u8>>> = Vec::new();
        for value in values.into_iter().filter(|value| !value.is_empty()) {
            texts.push(Zeroizing::new(value.to_vec()));
            let derived = base64_forms(value).into_iter().chain(percent_forms(value)).chain(json_forms(value));
            texts.extend(derived.filter(|form| form.len() >= MIN_DERIVED).map(Zeroizing::new));
        }
        // Longest first: where one form lies inside another, the whole is masked.
        texts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.as_slice().cmp(b.as_slice())));
        texts.dedup();
        let form = |text: Zeroizing<Vec<u8>>| {
            let text = Zeroizing::new(text.to_vec().into_boxed_slice());
            text.first().copied().map(|first| Form { text, first })
        };
        let forms: Vec<Form> = texts.into_iter().filter_map(form).collect();
        Self { longest: forms.iter().map(|form| form.text.len()).max().unwrap_or(0), forms }
    }

    /// Where forms begin and end in `text`.
    fn matches(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for form in &self.forms {
            let finder = Finder::new(&*form.text);
            let mut from = 0;
            // Step by one: forms may overlap themselves.
            while let Some(at) = text.get(from..).and_then(|rest| finder.find(rest)) {
                found.push((from + at, from + at + form.text.len()));
                from += at + 1;
            }
        }
        found
    }

    /// How many bytes at the end of `text` could be the beginning of a form.
    fn open_end(&self, text: &[u8]) -> usize {
        let tail = text.get(text.len().saturating_sub(self.longest.saturating_sub(1))..).unwrap_or_default();
        let mut open = 0;
        for form in &self.forms {
            for at in memchr::memchr_iter(form.first, tail) {
                let suffix = tail.get(at..).unwrap_or_default();
                if suffix.len() <= open {
                    break;
                }
                if suffix.len() < form.text.len() && form.text.starts_with(suffix) {
                    open = suffix.len();
                    break;
                }
            }
        }
        open
    }

    /// A header value without any form; `None` where nothing had to be masked.
    pub fn header(&self, value: &HeaderValue) -> Option<HeaderValue> {
        let found = self.matches(value.as_bytes());
        if found.is_empty() {
            return None;
        }
        let mut masked = value.as_bytes().to_vec();
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
        self.covered =
            found.iter().filter(|(from, _)| *from < ready).map(|(_, to)| to.saturating_sub(ready)).max().unwrap_or(0);
        overwrite(&mut text, &found);
        Bytes::from(text)
    }

    /// The end of the body: what is held back was no form after all.
    pub fn finish(&mut self, mask: &Mask) -> Bytes {
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

/// The value with every byte escaped that a URL component must escape (RFC 3986 unreserved stay),
/// and the same as a form field (space as `+`), in upper and lower case.
fn percent_forms(value: &[u8]) -> Vec<Vec<u8>> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let encode = |upper: bool, plus: bool| -> Vec<u8> {
        let mut out = Vec::new();
        for &byte in value {
            match byte {
                b' ' if plus => out.push(b'+'),
                _ if plain(byte) => out.push(byte),
                _ if upper => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                _ => out.extend_from_slice(format!("%{byte:02x}").as_bytes()),
            }
        }
        out
    };
    [(true, false), (false, false), (true, true), (false, true)].map(|(upper, plus)| encode(upper, plus)).into()
}

/// The value inside a JSON string, with and without the slash escaped.
fn json_forms(value: &[u8]) -> Vec<Vec<u8>> {
    let encode = |slash: bool| -> Vec<u8> {
        let mut out = Vec::new();
        for &byte in value {
            if matches!(byte, b'"' | b'\\') || (slash && byte == b'/') {
                out.push(b'\\');
            }
            out.push(byte);
        }
        out
    };
    vec![encode(false), encode(true)]
}

#[cfg(test)]
#[path = "mask_tests.rs"]
mod tests;
