//! The head of a request: what is accepted is one request to everybody, and nothing that is one is
//! refused.
//!
//! Held against the rule in its plainest words: lines, three words, names and values.

use std::collections::BTreeMap;

use postern::core::request::{self, Framing, Head, HeadFault, Target};
use postern::core::upstream::Scheme;

use super::pieces;

/// More than any input here.
const ROOM: usize = 1 << 20;

pub fn check(data: &[u8]) -> &'static str {
    let found = request::find_end(data, 0, ROOM);
    for pieces in pieces::ways(data) {
        assert_eq!(end_in_pieces(&pieces), found, "the end depends on the pieces {pieces:?}");
    }
    let end = match found {
        Ok(Some(end)) => end,
        Ok(None) => return "incomplete",
        Err(_) => return "refused",
    };
    assert_eq!(request::find_end(data, 0, end), Ok(Some(end)), "a head of just that size fits");
    assert_eq!(request::find_end(data, 0, end - 1), Err(HeadFault::TooLarge), "a larger one does not");

    let bytes = &data[..end];
    let expected = read_plainly(bytes);
    match (request::parse(bytes), expected) {
        (Ok(head), Some(plain)) => {
            assert_eq!(told(&head), plain, "read differently");
            let again = written(&head);
            let reread = request::parse(&again).expect("what was accepted is accepted again");
            assert_eq!(told(&reread), plain, "written anew, it is another request");
            assert_eq!(again.iter().filter(|byte| matches!(byte, b'\r' | b'\n')).count(), 2 * (head.headers.len() + 2));
            "accepted"
        }
        (Err(_), None) => "refused",
        (Ok(head), None) => panic!("accepted, against the rule: {head:?}"),
        (Err(fault), Some(plain)) => panic!("refused with {fault:?}, but it is plainly {plain:?}"),
    }
}

/// As a connection looks for it: again with each piece, from where it looked last.
fn end_in_pieces(pieces: &[&[u8]]) -> Result<Option<usize>, HeadFault> {
    let (mut buffer, mut seen) = (Vec::new(), 0);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let found = request::find_end(&buffer, seen, ROOM)?;
        if found.is_some() {
            return Ok(found);
        }
        seen = buffer.len();
    }
    Ok(None)
}

/// A request as both readers tell it.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    method: String,
    target: Target,
    fields: BTreeMap<String, Vec<Vec<u8>>>,
    framing: Framing,
}

fn told(head: &Head) -> Told {
    let mut fields: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for field in head.headers.iter() {
        let name = String::from_utf8_lossy(field.name()).into_owned();
        fields.entry(name).or_default().push(field.value().to_vec());
    }
    Told { method: head.method.to_string(), target: head.target.clone(), fields, framing: head.framing }
}

fn written(head: &Head) -> Vec<u8> {
    let Target { authority, path, query } = &head.target;
    let authority =
        authority.as_ref().map(|(scheme, authority)| format!("{}://{authority}", scheme.as_str())).unwrap_or_default();
    let query = query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let mut text = format!("{} {authority}{path}{query} HTTP/1.1\r\n", head.method).into_bytes();
    for field in head.headers.iter() {
        text.extend([field.name(), b": ", field.value(), b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    text
}

/// The rule, in one line for each of its sentences. `None`: not one request to everybody.
fn read_plainly(bytes: &[u8]) -> Option<Told> {
    // One character for each byte.
    let text: String = bytes.iter().map(|byte| char::from(*byte)).collect();
    let lines: Vec<&str> = text.strip_suffix("\r\n\r\n")?.split("\r\n").collect();
    if lines.iter().any(|line| line.contains(['\r', '\n', '\0'])) {
        return None;
    }
    let words: Vec<&str> = lines[0].split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else { return None };
    if !is_token(method) || method == "CONNECT" {
        return None;
    }
    let target = read_target(target)?;
    let mut fields: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    if lines.len() - 1 > request::MAX_FIELDS {
        return None;
    }
    for line in &lines[1..] {
        let (name, value) = line.split_once(':')?;
        let value = value.trim_matches([' ', '\t']);
        if !is_token(name) || value.chars().any(|c| c.is_ascii_control() && c != '\t') {
            return None;
        }
        let value = value.chars().map(|c| u8::try_from(u32::from(c))).collect::<Result<_, _>>().ok()?;
        fields.entry(name.to_ascii_lowercase()).or_default().push(value);
    }
    let all = |name: &str| fields.get(name).map(Vec::as_slice).unwrap_or_default();
    if all("host").len() != 1 || all("upgrade").iter().any(|value| !value.eq_ignore_ascii_case(b"h2c")) {
        return None;
    }
    let framing = match (all("content-length"), all("transfer-encoding")) {
        ([], []) => Framing::Length(0),
        ([length], []) if (1..=18).contains(&length.len()) && length.iter().all(u8::is_ascii_digit) => {
            Framing::Length(length.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        _ => return None,
    };
    Some(Told { method: method.to_owned(), target, fields, framing })
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() && !"\"(),/:;<=>?@[\\]{}".contains(c))
}

fn read_target(text: &str) -> Option<Target> {
    if !text.chars().all(|c| c.is_ascii_graphic() && c != '#') {
        return None;
    }
    let (authority, rest) = if text.starts_with('/') || text == "*" {
        (None, text)
    } else {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = match &*scheme.to_ascii_lowercase() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let authority = rest.split(['/', '?']).next()?;
        (Some((scheme, authority.to_owned())), &rest[authority.len()..])
    };
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query.to_owned())));
    Some(Target { authority, path: if path.is_empty() { "/" } else { path }.to_owned(), query })
}
