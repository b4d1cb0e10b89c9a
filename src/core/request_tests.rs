//! Tables and properties of the strict head parser.

use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Result<Head, HeadFault> {
    match find_end(text.as_bytes(), 0, 8192)? {
        Some(end) => parse(text.as_bytes().get(..end).unwrap()),
        None => panic!("no end in {text:?}"),
    }
}

#[test]
fn a_plain_head_is_read() {
    let head =
        read("POST /github?x=1 HTTP/1.1\r\nHost: 127.0.0.1:15101\r\nContent-Length: 12\r\nA:  b \t\r\n\r\n").unwrap();
    assert_eq!(head.method, Method::POST);
    assert_eq!(head.target, Target { authority: None, path: "/github".into(), query: Some("x=1".into()) });
    assert_eq!(head.framing, Framing::Length(12));
    let fields: Vec<_> = head.headers.iter().map(|field| [field.name(), field.value()]).collect();
    assert_eq!(fields, [[b"host".as_slice(), b"127.0.0.1:15101"], [b"content-length", b"12"], [b"a", b"b"]]);
    let absolute = read("GET http://localhost:1/x HTTP/1.1\r\nhost: localhost:1\r\n\r\n").unwrap();
    assert_eq!(absolute.target.authority, Some((Scheme::Http, "localhost:1".to_owned())));
    assert_eq!(absolute.framing, Framing::Length(0));
}

/// The request-smuggling corpus, head part.
#[test]
fn ambiguous_heads_are_malformed() {
    let rows = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0000000000000000001\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
        "POST / HTTP/1.1\nHost: a\n\n",
        "POST / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nX:\ra\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0cchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n",
        "POST / HTTP/1.1\r\nX: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.2\r\nHost: a\r\n\r\n",
        "POST  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "POST /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST a HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for text in rows {
        assert!(matches!(read(text), Err(Malformed(_))), "{text:?}: {:?}", read(text));
    }
}

#[test]
fn other_protocols_and_tunnels_have_their_own_fault() {
    for text in [
        "\x16\x03\x01\x02",
        "{\"jsonrpc\":\"2.0\"}\n",
        "\r\nPOST",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET\r\n\r\n",
        "GET / FTP/1\r\n\r\n",
    ] {
        assert_eq!(
            find_end(text.as_bytes(), 0, 8192).map(|_| ()).and_then(|()| read(text).map(|_| ())),
            Err(HeadFault::NotHttp),
            "{text:?}"
        );
    }
    for text in [
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\n\r\n",
    ] {
        assert_eq!(read(text).err(), Some(HeadFault::Tunnel), "{text:?}");
    }
    assert!(read("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n").is_ok());
}

#[test]
fn sizes_are_bounded() {
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(MAX_FIELDS));
    assert_eq!(read(&many).err(), Some(HeadFault::TooLarge));
    assert_eq!(find_end(&[b'a'; 64], 0, 64), Err(HeadFault::TooLarge));
    assert_eq!(find_end(b"GET / HTTP/1.1\r\n\r\n", 0, 17), Err(HeadFault::TooLarge));
}

const PARTS: [&str; 15] = [
    "Host: a",
    "\r\n",
    "\r\nHost:b ",
    "\r\nAccept:  c d ",
    "\r\nX-Y: \tz",
    "\r\nx : y",
    "\r\n z: y",
    "\r\n:",
    "\n",
    "\r",
    "é",
    "\u{7f}",
    "\r\n~: \u{80}",
    "\r\nContent-Length: 12345678901",
    "\t",
];

fn first_line() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1",
        "GET / HTTP/1.0\r\n",
        "EHLO a\r\n",
        "a\n",
        "\r\n",
    ])
}

fn end_by_lines(text: &str) -> Result<Option<usize>, HeadFault> {
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        end += line.len();
        if end == line.len() && line.starts_with('\r') {
            return Err(HeadFault::NotHttp);
        }
        if !line.ends_with("\r\n") {
            return Err(Malformed("a line ends without CR"));
        }
        if end == line.len() && !line.contains(" HTTP/") {
            return Err(HeadFault::NotHttp);
        }
        if line == "\r\n" {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

proptest! {
    /// The end and the faults before it are those that a look at one line after the other finds.
    #[test]
    fn the_end_is_where_the_lines_end(parts in proptest::collection::vec(proptest::sample::select(PARTS.to_vec()), 0..7), first in first_line()) {
        let text = format!("{first}{}\r\n\r\nbody\n", parts.concat());
        prop_assert_eq!(find_end(text.as_bytes(), 0, 4096), end_by_lines(&text), "{:?}", text);
    }

    /// What is read at first sight is what the whole rule reads.
    #[test]
    fn plain_fields_are_read_as_any(parts in proptest::collection::vec(proptest::sample::select(PARTS.to_vec()), 0..7)) {
        let text = format!("GET / HTTP/1.1\r\n{}", parts.concat());
        let lines = || Lines { text: text.as_bytes(), at: Some(16) };
        if let Some(plain) = Fields::read_plain(text.as_bytes(), 16, MAX_FIELDS) {
            prop_assert_eq!(Ok(plain), any_fields(lines()), "{:?}", text);
        }
    }

    /// However the bytes come in, the end is found at the same place.
    #[test]
    fn the_end_does_not_depend_on_the_pieces(text in "(GET|POST) /[a-z]{0,8} HTTP/1.1\r\n([A-Za-z-]{1,6}: [ -~]{0,6}\r\n){0,5}\r\n[a-z\r\n]{0,9}", cut in 0usize..80) {
        let bytes = text.as_bytes();
        let whole = find_end(bytes, 0, 4096);
        let cut = cut.min(bytes.len());
        let first = find_end(&bytes[..cut], 0, 4096);
        let pieces = match first {
            Ok(None) => find_end(bytes, cut, 4096),
            other => other,
        };
        prop_assert_eq!(pieces, whole);
    }

    /// No input makes the parser panic, and what passes has one Host and no control bytes.
    #[test]
    fn whatever_passes_is_clean(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut text = b"POST / HTTP/1.1\r\nHost: a\r\n".to_vec();
        text.extend(bytes);
        text.extend(b"\r\n\r\n");
        if let Ok(Some(end)) = find_end(&text, 0, 4096)
            && let Ok(head) = parse(&text[..end]) {
            prop_assert_eq!(head.headers.all(Known::Host).count(), 1);
            for value in head.headers.iter().map(|field| field.value()) {
                prop_assert!(!value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
            }
        }
    }
}
