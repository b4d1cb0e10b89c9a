//! The chunked coding: the same body in whatever pieces it comes, and the body that the grammar
//! says.

use postern::core::chunked::{ChunkFault, Decoder, Progress};

use super::pieces;

/// Small, so that bodies beyond it are met.
const ROOM: usize = 200;
/// Of a line with its end: a chunk's size and extensions; a trailer field.
const LONGEST_LINE: usize = 256;
const LONGEST_TRAILER: usize = 8 * 1024;

/// How far a body could be read.
#[derive(Debug, PartialEq, Eq)]
struct Body {
    data: Vec<u8>,
    /// Bytes that belong to it.
    length: usize,
    complete: bool,
}

pub fn check(data: &[u8]) -> &'static str {
    any_payload_comes_back(data);
    let whole = decode(&[data], ROOM);
    assert_eq!(whole, read_plainly(data), "the grammar says otherwise");
    for pieces in pieces::ways(data) {
        assert_eq!(decode(&pieces, ROOM), whole, "depends on the pieces {pieces:?}");
    }
    match whole {
        Ok(Body { complete: true, .. }) => "complete",
        Ok(_) => "incomplete",
        Err(_) => "refused",
    }
}

fn decode(pieces: &[&[u8]], room: usize) -> Result<Body, ChunkFault> {
    let mut decoder = Decoder::new(room);
    let mut body = Body { data: Vec::new(), length: 0, complete: false };
    for piece in pieces {
        let Progress { consumed, done } = decoder.feed(piece, &mut body.data)?;
        body.length += consumed;
        assert!(done || consumed == piece.len(), "stopped before the end");
        if done {
            body.complete = true;
            break;
        }
    }
    Ok(body)
}

/// The input as a payload, chunked by another hand.
fn any_payload_comes_back(payload: &[u8]) {
    for chunks in pieces::ways(payload).iter().take(6) {
        let mut wire = Vec::new();
        for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
            wire.extend(format!("{:X}\r\n", chunk.len()).bytes());
            wire.extend_from_slice(chunk);
            wire.extend(b"\r\n");
        }
        wire.extend(b"0\r\n\r\n");
        let expected = Body { data: payload.to_vec(), length: wire.len(), complete: true };
        assert_eq!(decode(&[&wire, b"NEXT"], payload.len()), Ok(expected));
        if !payload.is_empty() {
            assert_eq!(decode(&[&wire], payload.len() - 1), Err(ChunkFault::TooLarge));
        }
    }
}

/// The grammar of RFC 9112 section 7.1 with our limits, on all the bytes at once.
fn read_plainly(wire: &[u8]) -> Result<Body, ChunkFault> {
    let mut body = Body { data: Vec::new(), length: wire.len(), complete: false };
    let mut rest = wire;
    loop {
        let Some(line) = take_line(&mut rest, LONGEST_LINE)? else { return Ok(body) };
        let size = line.split(';').next().unwrap_or_default();
        if !(1..=8).contains(&size.len()) || !size.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(ChunkFault::Malformed);
        }
        let size = usize::from_str_radix(size, 16).map_err(|_| ChunkFault::Malformed)?;
        if size == 0 {
            break;
        }
        // What was announced counts, also if it has not come yet.
        if body.data.len() + size > ROOM {
            return Err(ChunkFault::TooLarge);
        }
        let here = size.min(rest.len());
        body.data.extend_from_slice(&rest[..here]);
        rest = &rest[here..];
        if here < size {
            return Ok(body);
        }
        match take_line(&mut rest, LONGEST_LINE)?.as_deref() {
            None => return Ok(body),
            Some("") => {}
            Some(_) => return Err(ChunkFault::Malformed),
        }
    }
    let mut trailers = 0;
    while let Some(line) = take_line(&mut rest, LONGEST_TRAILER)? {
        trailers += line.chars().count();
        if line.is_empty() {
            body.length = wire.len() - rest.len();
            body.complete = true;
            return Ok(body);
        }
        if line.find(':').is_none_or(|colon| colon == 0) || trailers > LONGEST_TRAILER {
            return Err(ChunkFault::Malformed);
        }
    }
    Ok(body)
}

/// The next line without its end, a character for each byte; `None` if it has not come whole.
fn take_line(rest: &mut &[u8], longest: usize) -> Result<Option<String>, ChunkFault> {
    let end = rest.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
    if end.unwrap_or(rest.len()) > longest {
        return Err(ChunkFault::Malformed);
    }
    let Some(end) = end else { return Ok(None) };
    let (line, behind) = rest.split_at(end);
    *rest = behind;
    let line: String = line.iter().map(|byte| char::from(*byte)).collect();
    let line = line.strip_suffix("\r\n").ok_or(ChunkFault::Malformed)?;
    // Above ASCII, no character of the bytes' own is one of control here.
    if line.chars().any(|c| c.is_ascii_control() && c != '\t') {
        Err(ChunkFault::Malformed)
    } else {
        Ok(Some(line.to_owned()))
    }
}
