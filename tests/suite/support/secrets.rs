//! Values that can be searched for: long, random from the first character on, unlike any other.

use std::sync::{Mutex, PoisonError};

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const PLAIN: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const AWKWARD: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghkmnpqrstuvwxyz23456789+/=%&?~\"\\<>:; ";

/// Values at least this long are searched for; shorter ones would be found by chance.
pub const SEARCHABLE: usize = 20;

fn random(alphabet: &[u8], length: usize) -> String {
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes).expect("the system has randomness");
    bytes.iter().map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()])).collect()
}

/// Every upstream secret of this run, whichever test made it.
static KNOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Remembers an upstream secret.
pub fn remember(secret: &str) {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).push(secret.to_owned());
}

/// Fails if any upstream secret of this run stands in `text`, in any form.
pub fn assert_none_in(place: &str, text: &[u8]) {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(find_leak(text, &known), None, "a secret stands in {place}");
}

/// An upstream credential of letters and digits.
pub fn unique_secret() -> String {
    random(PLAIN, 40)
}

/// An upstream credential that percent- and base64-encodes to something else than itself.
pub fn awkward_secret() -> String {
    format!("{}{}+/=%{}", random(PLAIN, 8), random(AWKWARD, 40), random(PLAIN, 8))
}

/// A token of the agent's own: it must never reach an upstream.
pub fn sentinel() -> String {
    format!("agent{}", random(PLAIN, 24))
}

/// What RFC 3986 leaves as it is.
pub const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Every form in which `secret` would give itself away: plain, its first eight characters,
/// percent-encoded, base64 at each of the three alignments.
pub fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![
        secret.to_owned(),
        secret.chars().take(8).collect(),
        utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string(),
        utf8_percent_encode(secret, &UNRESERVED).to_string(),
    ];
    for skip in 0..3 {
        // Inside a longer text the value may begin at any of three positions of a base64 group;
        // the characters that depend on the neighbours are cut off.
        let shifted = [&vec![b'x'; skip][..], secret.as_bytes()].concat();
        let start = if skip == 0 { 0 } else { 4 };
        for alphabet in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            let text = alphabet.encode(&shifted);
            forms.push(text[start..text.len() - 4].to_owned());
        }
    }
    forms
}

/// The first form of any of `secrets` that stands in `text`.
pub fn find_leak(text: &[u8], secrets: &[String]) -> Option<String> {
    secrets.iter().flat_map(|secret| forms(secret)).find(|form| contains(text, form.as_bytes()))
}

/// Whether `needle` stands anywhere in `hay`.
pub fn contains(hay: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(hay, needle).is_some()
}
