//! The echo mask: in whatever pieces a body comes, of the credential comes through not one form
//! that the mask knows, and of all else every byte.
//!
//! The input is one or two values, a line each, then an empty line, then a body. In the body,
//! `${plain}` and the like stand for a form of the first value (`FORMS`), `${other}` for the second
//! value.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use http::HeaderValue;
use postern::core::mask::{Mask, Masker};
use postern::core::secret::SecretValue;

use super::pieces;

/// Longer ones say nothing new, and the plain way to look for them takes long.
const LONGEST_VALUE: usize = 64;
const LONGEST_BODY: usize = 1024;

pub fn check(data: &[u8]) -> &'static str {
    let Some((values, body)) = read(data) else { return "unusable" };
    let mask = Mask::new(values.iter().map(Vec::as_slice));
    let whole = masked(&mask, &[&body]);
    let (expected, found) = mask_plainly(&values, &body);
    assert_eq!((show(&whole.0), whole.1), (show(&expected), found), "of {}", show(&body));
    for pieces in pieces::ways(&body) {
        assert_eq!(masked(&mask, &pieces), whole, "depends on the pieces {pieces:?}");
    }
    as_a_header(&mask, &body, &whole);
    for (value, text) in values.iter().flat_map(|value| decodings(&whole.0).map(|text| (value, text))) {
        // Stars put where a form was are never part of a value without stars.
        let there = text.windows(value.len()).any(|part| part == value);
        assert!(!there || value.contains(&b'*'), "{} is in {}", show(value), show(&text));
    }
    if found > 0 { "masked" } else { "clean" }
}

fn show(text: &[u8]) -> String {
    text.escape_ascii().to_string()
}

fn read(data: &[u8]) -> Option<(Vec<Vec<u8>>, Vec<u8>)> {
    let cut = data.windows(2).position(|pair| pair == b"\n\n")?;
    let values: Vec<Vec<u8>> = data[..cut].split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let usable = |value: &Vec<u8>| value.len() <= LONGEST_VALUE && SecretValue::parse(value.clone()).is_ok();
    if values.len() > 2 || !values.iter().all(usable) {
        return None;
    }
    let mut body = data[cut + 2..].to_vec();
    for (name, form) in FORMS {
        body = replaced(&body, format!("${{{name}}}").as_bytes(), &form(&values[0]));
    }
    body = replaced(&body, b"${other}", values.last()?);
    body.truncate(LONGEST_BODY);
    Some((values, body))
}

fn replaced(text: &[u8], marker: &[u8], by: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(marker.len()).position(|part| part == marker) {
        out.extend([&rest[..at], by].concat());
        rest = &rest[at + marker.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// The output for these pieces, and how many forms were found.
fn masked(mask: &Mask, pieces: &[&[u8]]) -> (Vec<u8>, u64) {
    let (mut masker, mut out, mut taken) = (Masker::default(), Vec::new(), 0);
    for piece in pieces {
        taken += piece.len();
        out.extend_from_slice(&masker.pass(mask, Bytes::copy_from_slice(piece)));
        assert!(out.len() <= taken, "more came out than went in");
        let ends_a_line = piece.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n'));
        assert!(!ends_a_line || out.len() == taken, "what may be a whole event is held");
    }
    out.extend_from_slice(&masker.finish(mask));
    (out, masker.count())
}

/// A header's value is a body in one piece.
fn as_a_header(mask: &Mask, body: &[u8], (expected, found): &(Vec<u8>, u64)) {
    let Ok(value) = HeaderValue::from_bytes(body) else { return };
    let masked = mask.header(value.as_bytes());
    assert_eq!(masked.is_some(), *found > 0);
    assert_eq!(masked.as_ref().unwrap_or(&value).as_bytes(), expected);
}

/// Ways to write a value.
type Form = fn(&[u8]) -> Vec<u8>;
const FORMS: [(&str, Form); 12] = [
    ("plain", |value| value.to_vec()),
    ("base64", |value| STANDARD.encode(value).into_bytes()),
    ("base64-in-text", |value| STANDARD.encode([b"user:".as_slice(), value, b"!"].concat()).into_bytes()),
    ("base64-of-pair", |value| STANDARD.encode([b"user:x".as_slice(), value].concat()).into_bytes()),
    ("base64-url", |value| URL_SAFE.encode(value).into_bytes()),
    ("percent", |value| percent(value, |byte| !byte.is_ascii_alphanumeric(), true)),
    ("percent-all", |value| percent(value, |_| true, false)),
    ("form", |value| replaced(&percent(value, |byte| !byte.is_ascii_alphanumeric() && byte != b' ', true), b" ", b"+")),
    ("json", |value| json(value, 1)),
    ("json-in-json", |value| json(value, 2)),
    ("json-slashes", |value| replaced(&json(value, 1), b"/", b"\\/")),
    ("unicode", |value| value.iter().flat_map(|byte| format!("\\u{byte:04x}").into_bytes()).collect()),
];

fn percent(value: &[u8], escaped: fn(u8) -> bool, upper: bool) -> Vec<u8> {
    let one = |byte: &u8| match (escaped(*byte), upper) {
        (false, _) => vec![*byte],
        (true, true) => format!("%{byte:02X}").into_bytes(),
        (true, false) => format!("%{byte:02x}").into_bytes(),
    };
    value.iter().flat_map(one).collect()
}

/// As a JSON string's inside, this many times.
fn json(value: &[u8], times: usize) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(value).into_owned();
    for _ in 0..times {
        let quoted = serde_json::Value::from(text).to_string();
        text = quoted[1..quoted.len() - 1].to_owned();
    }
    text.into_bytes()
}

/// What readers make of a text: as it is, escapes of URLs, of forms, and of JSON undone.
fn decodings(text: &[u8]) -> [Vec<u8>; 4] {
    let percent: Vec<u8> = percent_encoding::percent_decode(text).collect();
    let form = percent_encoding::percent_decode(&replaced(text, b"+", b" ")).collect();
    let json = serde_json::from_slice::<String>(&[b"\"", text, b"\""].concat()).unwrap_or_default().into_bytes();
    [text.to_vec(), percent, form, json]
}

/// Looks for each form at each place, and how far it can reach from there; the form's characters
/// may be written in any mixture of ways.
fn mask_plainly(values: &[Vec<u8>], body: &[u8]) -> (Vec<u8>, u64) {
    let mut forms: Vec<Vec<u8>> = values.to_vec();
    forms.extend(values.iter().flat_map(|value| base64_cores(value)));
    forms.sort();
    forms.dedup();
    let (mut out, mut found) = (body.to_vec(), 0);
    for (form, start) in forms.iter().flat_map(|form| (0..body.len()).map(move |start| (form, start))) {
        let mut places = vec![start];
        for character in form {
            places = places
                .iter()
                .flat_map(|at| ends(*character, &body[*at..]).into_iter().map(move |end| at + end))
                .collect();
            places.sort_unstable();
            places.dedup();
        }
        if let Some(end) = places.last() {
            out[start..*end].fill(b'*');
            found += 1;
        }
    }
    (out, found)
}

/// How long the ways are in which `text` begins with this character.
fn ends(character: u8, text: &[u8]) -> Vec<usize> {
    let hex = |sign: String, digits: String| {
        let written = text.strip_prefix(sign.as_bytes())?.get(..digits.len())?;
        written.eq_ignore_ascii_case(digits.as_bytes()).then_some(sign.len() + digits.len())
    };
    let plain = |written: String| text.starts_with(written.as_bytes()).then_some(written.len());
    let mut ends = vec![plain(char::from(character).into()), hex("%".into(), format!("{character:02x}"))];
    if character == b' ' {
        ends.push(plain("+".into()));
    }
    // JSON, in JSON again and again.
    for backslashes in 1..=8 {
        let before = "\\".repeat(backslashes);
        ends.push(hex(format!("{before}u"), format!("{character:04x}")));
        match character {
            b'\\' if backslashes.is_power_of_two() && backslashes > 1 => ends.push(plain(before)),
            b'"' | b'/' => ends.push(plain(before + &char::from(character).to_string())),
            _ => {}
        }
    }
    ends.into_iter().flatten().collect()
}

/// The characters of a value's base64 that are the same whatever stands around it, at each of the
/// three places where it can begin; those too short to tell are left out.
fn base64_cores(value: &[u8]) -> Vec<Vec<u8>> {
    let mut cores = Vec::new();
    for (engine, before) in [&STANDARD, &URL_SAFE].into_iter().flat_map(|engine| (0..3).map(move |n| (engine, n))) {
        let around = |byte: u8| engine.encode([&vec![byte; before][..], value, &[byte; 3]].concat()).into_bytes();
        let (zeros, ones) = (around(0), around(255));
        let same = zeros.iter().zip(&ones).map(|(zero, one)| (zero == one).then_some(*zero));
        let core: Vec<u8> = same.skip_while(Option::is_none).map_while(|character| character).collect();
        cores.extend((core.len() >= 6).then_some(core));
    }
    cores
}
