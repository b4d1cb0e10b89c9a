//! Fields as HTTP/2 packs them (RFC 7541).
//!
//! What we send is packed without the table that both sides could share: nothing of a request is kept in it, so that
//! no length tells an agent anything about the credential beside which its own fields stand.

use std::collections::VecDeque;

use super::huffman;

/// How many bytes the other side may have us keep (RFC 7541 section 4.1): what HTTP/2 begins with, as we never say
/// otherwise.
const TABLE_BYTES: usize = 4096;
/// What an entry takes beside its text (RFC 7541 section 4.1).
const ENTRY_BYTES: usize = 32;
/// How much room is kept between two lists.
const KEPT_BYTES: usize = 1024;

/// Packed fields cannot be read, nor any that follow on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// Reads the lists of one connection, in the order in which they come.
#[derive(Default)]
pub struct Unpacker {
    table: Table,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// What both sides keep: an entry may be meant instead of written.
struct Table {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    most: usize,
}

/// A name and a value in one.
struct Entry {
    text: Box<[u8]>,
    name: usize,
}

impl Unpacker {
    /// Reads a list and hands on each name and value; the same one may be meant very often.
    pub fn read(&mut self, mut list: &[u8], mut take: impl FnMut(&[u8], &[u8])) -> Result<(), Unreadable> {
        let mut begun = false;
        while let Some(first) = list.first().copied() {
            match first {
                0x80.. => {
                    let (name, value) = self.table.get(number(&mut list, 7)?)?;
                    take(name, value);
                }
                0x20..0x40 => {
                    let most = number(&mut list, 5)?;
                    // Only in front of a list (RFC 7541 section 4.2).
                    if begun || most > TABLE_BYTES {
                        return Err(Unreadable);
                    }
                    self.table.resize(most);
                    continue;
                }
                _ => self.literal(&mut list, first, &mut take)?,
            }
            begun = true;
        }
        for room in [&mut self.name, &mut self.value] {
            room.clear();
            room.shrink_to(KEPT_BYTES);
        }
        Ok(())
    }

    fn literal(&mut self, list: &mut &[u8], first: u8, take: impl FnOnce(&[u8], &[u8])) -> Result<(), Unreadable> {
        let is_kept = first >= 0x40;
        self.name.clear();
        match number(list, if is_kept { 6 } else { 4 })? {
            0 => text(list, &mut self.name)?,
            index => self.name.extend_from_slice(self.table.get(index)?.0),
        }
        self.value.clear();
        text(list, &mut self.value)?;
        take(&self.name, &self.value);
        if is_kept {
            self.table.insert(&self.name, &self.value);
        }
        Ok(())
    }
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, most: TABLE_BYTES }
    }
}

impl Table {
    fn get(&self, index: usize) -> Result<(&[u8], &[u8]), Unreadable> {
        let place = index.checked_sub(1).ok_or(Unreadable)?;
        if let Some((name, value)) = STATIC.get(place) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.entries.get(place - STATIC.len()).ok_or(Unreadable)?;
        entry.text.split_at_checked(entry.name).ok_or(Unreadable)
    }

    /// An entry larger than the table leaves it empty, and is not in it (RFC 7541 section 4.4).
    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + ENTRY_BYTES;
        self.evict(self.most.saturating_sub(size));
        if size <= self.most {
            self.entries.push_front(Entry { text: [name, value].concat().into(), name: name.len() });
            self.size += size;
        }
    }

    fn resize(&mut self, most: usize) {
        self.most = most;
        self.evict(most);
    }

    /// Drops the oldest until the others take no more than so much.
    fn evict(&mut self, most: usize) {
        while self.size > most {
            let Some(entry) = self.entries.pop_back() else { return };
            self.size -= entry.text.len() + ENTRY_BYTES;
        }
    }
}

/// Takes a number off the front, of which the first byte has the lowest `bits` (RFC 7541 section 5.1).
fn number(list: &mut &[u8], bits: u32) -> Result<usize, Unreadable> {
    let most = (1usize << bits) - 1;
    let mut number = usize::from(first(list)?) & most;
    if number < most {
        return Ok(number);
    }
    // Nothing that is counted here needs more.
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(first(list)?);
        number += (byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Unreadable)
}

fn first(list: &mut &[u8]) -> Result<u8, Unreadable> {
    list.split_off_first().copied().ok_or(Unreadable)
}

/// Takes a text off the front, and appends it to `out` (RFC 7541 section 5.2).
fn text(list: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Unreadable> {
    let is_short = list.first().is_some_and(|first| *first >= 0x80);
    let length = number(list, 7)?;
    let bytes = list.split_off(..length).ok_or(Unreadable)?;
    if is_short {
        return huffman::decode(bytes, out).ok_or(Unreadable);
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// Packs a field that stands as it is in the table that everybody has: the whole of it, by its number there.
pub fn put_known(out: &mut Vec<u8>, index: u8) {
    debug_assert!((1..=61).contains(&index));
    out.push(0x80 | index);
}

/// Packs a field of which the name has a number in the table that everybody has, which is below 15.
pub fn put_value(out: &mut Vec<u8>, index: u8, value: &[u8]) {
    debug_assert!((1..15).contains(&index));
    out.push(index);
    put_text(out, value);
}

/// Packs a field. Who passes on one that is never to be kept may not keep it either (RFC 7541 section 7.1.3).
pub fn put_field(out: &mut Vec<u8>, name: &[u8], value: &[u8], keep: Keep) {
    out.push(keep as u8);
    put_text(out, name);
    put_text(out, value);
}

/// Whether a field may be kept by whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is not, here.
    Not = 0x00,
    /// Nobody may, further on either: it is a secret.
    Never = 0x10,
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    let most = 0x7f;
    match u8::try_from(text.len()) {
        Ok(length) if length < most => out.push(length),
        _ => {
            out.push(most);
            let mut rest = text.len() - usize::from(most);
            while rest >= 0x80 {
                out.push(0x80 | u8::try_from(rest & 0x7f).unwrap_or_default());
                rest >>= 7;
            }
            out.push(u8::try_from(rest).unwrap_or_default());
        }
    }
    out.extend_from_slice(text);
}

/// The table that everybody has (RFC 7541 appendix A), from number 1 on.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;
