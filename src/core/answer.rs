//! The head of an upstream's HTTP/1.1 answer: what it says, and where its body ends.

use std::mem::MaybeUninit;

use http::{Method, StatusCode};

use super::fields::{Fields, Known, decimal};

/// The most fields an answer's head may have.
const MAX_FIELDS: usize = 100;

/// An answer's head.
#[derive(Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// The status; of 100 and above.
    pub status: StatusCode,
    /// The fields as they came.
    pub headers: Fields,
    /// Where the body ends.
    pub extent: Extent,
    /// Whether the connection may be used again after the body.
    pub keeps: bool,
}

/// Where the body of an answer ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// Why an answer cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// Not HTTP/1.0 or 1.1, or a line that is none.
    #[error("the answer is not HTTP/1.1")]
    NotHttp,
    /// More fields than are read.
    #[error("the answer's head is too large")]
    TooLarge,
    /// Two readers could take different ends for the body's.
    #[error("the answer's length is not clear")]
    Length,
}

/// Finds the end of a head: the offset behind its empty line. `seen` bytes were looked at before, so that a head
/// that comes in very many pieces is not read anew with each of them.
pub fn find_end(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let rest = bytes.get(from..).unwrap_or_default();
    memchr::memchr_iter(b'\n', rest).find_map(|at| match rest.get(at + 1..)? {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

/// Reads a whole head, the empty line included: the answer to a request with `method`.
pub fn read(head: &[u8], method: &Method) -> Result<AnswerHead, AnswerFault> {
    let (is_current, status, headers) = match read_plain(head) {
        Some((status, headers)) => (true, status, headers),
        None => read_any(head)?,
    };
    let (extent, clear) = extent(&headers, status, method, is_current)?;
    let keeps = is_current && clear && extent != Extent::Close && !headers.say_close();
    Ok(AnswerHead { status, headers, extent, keeps })
}

/// Reads a head as nearly all servers write it.
fn read_plain(head: &[u8]) -> Option<(StatusCode, Fields)> {
    let text = head.strip_suffix(b"\r\n\r\n")?;
    let line = text.strip_prefix(b"HTTP/1.1 ")?;
    let status = StatusCode::from_bytes(line.get(..3)?).ok()?;
    let reason = line.get(3..)?;
    let end = reason.iter().position(|byte| !matches!(byte, b' ' | b'A'..=b'Z' | b'a'..=b'z'))?;
    let (b"" | [b' ', ..], [b'\r', b'\n', ..]) = reason.split_at(end) else { return None };
    Some((status, Fields::read_plain(text, head.len() - 4 - reason.len() + end + 2, MAX_FIELDS)?))
}

/// Reads whatever a well-known library takes for a head.
fn read_any(head: &[u8]) -> Result<(bool, StatusCode, Fields), AnswerFault> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut answer, head, &mut fields) {
        Ok(httparse::Status::Complete(taken)) if taken == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(AnswerFault::TooLarge),
        _ => return Err(AnswerFault::NotHttp),
    }
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(AnswerFault::NotHttp)?;
    let mut headers = Fields::within(head.to_vec());
    for field in answer.headers.iter() {
        let place = |part: &[u8]| {
            let from = part.as_ptr().addr().wrapping_sub(head.as_ptr().addr());
            from..from.wrapping_add(part.len())
        };
        let added = headers.add(place(field.name.as_bytes()), place(field.value));
        added.map_err(|_| AnswerFault::NotHttp)?;
    }
    Ok((answer.version == Some(1), status, headers))
}

/// The body's end, and whether nobody could read another one.
fn extent(
    headers: &Fields,
    status: StatusCode,
    method: &Method,
    is_current: bool,
) -> Result<(Extent, bool), AnswerFault> {
    if status.is_informational() || is_bodiless(status) || method == Method::HEAD {
        return Ok((Extent::Length(0), true));
    }
    let length = length(headers)?;
    if let Some(last) = headers.all(Known::TransferEncoding).last() {
        // Version 1.0 knows no chunks: whoever put them there, somebody before us may have read past them.
        if !is_current {
            return Err(AnswerFault::Length);
        }
        let coding = last.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        let extent = if coding.eq_ignore_ascii_case(b"chunked") { Extent::Chunked } else { Extent::Close };
        // A length beside it does not count, but what follows on the connection is not to be trusted either.
        return Ok((extent, length.is_none()));
    }
    Ok((length.map_or(Extent::Close, Extent::Length), true))
}

/// Whether an answer of this status has no body, whatever its fields say (RFC 9110 section 6.4.1).
pub fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What all fields together say of the length.
pub fn length(headers: &Fields) -> Result<Option<u64>, AnswerFault> {
    let mut said = None;
    for value in headers.all(Known::ContentLength) {
        // Servers have been seen to send the same one twice, in one field or in two.
        for digits in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            let length = decimal(digits).filter(|_| digits.len() <= 19).ok_or(AnswerFault::Length)?;
            if said.replace(length).is_some_and(|before| before != length) {
                return Err(AnswerFault::Length);
            }
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Result<AnswerHead, AnswerFault> {
        read(text.as_bytes(), &Method::POST)
    }

    #[test]
    fn the_end_of_the_body_is_where_the_rfc_puts_it() {
        use Extent::{Chunked, Close, Length};
        let rows: [(&str, Extent, bool); 20] = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\n", Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n", Length(5), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Length(0), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Chunked, true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n", Chunked, true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n", Chunked, true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n", Close, false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n", Close, false),
            // Both: the chunks count, and the connection serves no more.
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n", Chunked, false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", Chunked, false),
            ("HTTP/1.1 200 OK\r\n\r\n", Close, false),
            ("HTTP/1.1 200\r\ncontent-length: 1\r\n\r\n", Length(1), true),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", Length(0), true),
            ("HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", Length(0), true),
            ("HTTP/1.1 100 Continue\r\n\r\n", Length(0), true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n", Length(5), false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: x, Close\r\n\r\n", Length(5), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n", Length(5), false),
            ("HTTP/1.0 200 OK\r\n\r\n", Close, false),
        ];
        for (text, extent, keeps) in rows {
            let head = head(text).unwrap();
            assert_eq!((head.extent, head.keeps), (extent, keeps), "{text}");
        }
    }

    #[test]
    fn an_answer_to_head_has_no_body() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        assert_eq!(read(text, &Method::HEAD).unwrap().extent, Extent::Length(0));
    }

    #[test]
    fn what_two_could_read_in_two_ways_is_refused() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1));
        let rows: [(&str, AnswerFault); 15] = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", AnswerFault::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\n", AnswerFault::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n", AnswerFault::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n", AnswerFault::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5 5\r\n\r\n", AnswerFault::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", AnswerFault::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 00000000000000000005\r\n\r\n", AnswerFault::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\ntransfer-encoding: chunked\r\n\r\n", AnswerFault::Length),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", AnswerFault::Length),
            ("HTTP/2 200 OK\r\n\r\n", AnswerFault::NotHttp),
            ("HTTP/1.1 99 No\r\n\r\n", AnswerFault::NotHttp),
            ("HTTP/1.1 200 OK\r\na : b\r\n\r\n", AnswerFault::NotHttp),
            ("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", AnswerFault::NotHttp),
            ("{\"jsonrpc\": \"2.0\"}\r\n\r\n", AnswerFault::NotHttp),
            (&many, AnswerFault::TooLarge),
        ];
        for (text, fault) in rows {
            assert_eq!(head(text), Err(fault), "{text}");
        }
    }

    const PARTS: [&str; 22] = [
        "200",
        "099",
        "999",
        "20",
        " ",
        " OK",
        " No\tt",
        "é",
        "\r\n",
        "\n",
        "\r",
        "\r\nA: b",
        "\r\nc:d ",
        "\r\n e: f",
        ":",
        "X",
        "\u{7f}",
        "\r\ng:\t h\t ",
        "\r\n:",
        "\r\nK k: l",
        "\r\nM: n  o",
        "\0",
    ];

    proptest! {
        /// However a head is cut, its end is found once it is there, and not before.
        #[test]
        fn the_end_is_found_when_it_is_there(cut in 0usize..60, lf in any::<bool>(), body in "[a-z\r\n]{0,8}") {
            let text = "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 3\r\n\r\n";
            let text = if lf { text.replace('\r', "") } else { text.to_owned() };
            let all = format!("{text}{body}");
            let cut = cut.min(text.len() - 1);
            prop_assert_eq!(find_end(&all.as_bytes()[..cut], 0), None);
            prop_assert_eq!(find_end(all.as_bytes(), cut), Some(text.len()));
            prop_assert!(head(&text).is_ok());
            prop_assert_eq!(read(&text.as_bytes()[..cut], &Method::POST), Err(AnswerFault::NotHttp));
        }

        /// What is read at first sight is what a well-known library reads.
        #[test]
        fn a_plain_head_is_read_as_any(parts in proptest::collection::vec(proptest::sample::select(PARTS.to_vec()), 0..9)) {
            let text = format!("HTTP/1.1 {}\r\n\r\n", parts.concat());
            if let Some((status, headers)) = read_plain(text.as_bytes()) {
                let (is_current, same, any) = read_any(text.as_bytes()).unwrap();
                let told = |fields: &Fields| -> Vec<_> {
                    fields.iter().map(|field| (field.name().to_vec(), field.value().to_vec())).collect()
                };
                prop_assert_eq!((true, status, told(&headers)), (is_current, same, told(&any)), "{:?}", text);
            }
        }

        #[test]
        fn nothing_that_is_sent_is_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
            text.extend(bytes);
            let end = find_end(&text, 0).unwrap_or(text.len());
            let _read_or_refused = read(&text[..end], &Method::GET);
        }
    }
}
