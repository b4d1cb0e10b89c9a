//! The event stream of 2024-11-05: each `endpoint` event leads to our path, everything else stays
//! as it is, in whatever pieces it comes, and no complete event waits.

use std::sync::LazyLock;

use postern::core::sse::{Endpoints, StreamFault, resolve};
use postern::core::upstream::UpstreamUrl;

use super::pieces;

const OURS: &str = "/old/.sse/0123456789abcdef";
const TARGET: &str = "/a/sse?x=1";
static SERVER: LazyLock<UpstreamUrl> =
    LazyLock::new(|| UpstreamUrl::parse("https://old.example/a/sse").expect("a good URL"));

/// The lines of an event.
type Event = Vec<Vec<u8>>;

pub fn check(data: &[u8]) -> &'static str {
    let whole = run(&[data]).map(|pieces| pieces.concat());
    for pieces in pieces::ways(data) {
        assert_eq!(run(&pieces).map(|out| out.concat()), whole, "depends on the pieces {pieces:?}");
    }
    let stream = Stream::read(data);
    let expected = stream.rewritten();
    let (Ok(out), Some(expected)) = (&whole, &expected) else {
        assert_eq!((whole.err(), expected), (Some(StreamFault::ForeignEndpoint), None));
        return "refused";
    };
    let out_stream = Stream::read(out);
    assert_eq!(&out_stream.events, expected, "other events");
    assert_eq!(out_stream.rest, b"", "an event that is not complete");
    no_event_waits(data, &stream);
    if stream.events == *expected {
        assert_eq!(out, &data[..data.len() - stream.rest.len()], "not byte by byte what came");
        "unchanged"
    } else {
        "rewritten"
    }
}

/// What comes out for each piece.
fn run(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, StreamFault> {
    let mut endpoints = Endpoints::default();
    let name = |reference: &str| {
        let resolved = resolve(reference, &SERVER, TARGET)?;
        assert_on_the_server(reference, &resolved);
        Some(OURS.to_owned())
    };
    let feed = |piece: &&[u8]| {
        let mut out = Vec::new();
        endpoints.feed(piece, &mut out, name).map(|()| out)
    };
    pieces.iter().map(feed).collect()
}

/// After the byte that completes an event, the event is out.
fn no_event_waits(data: &[u8], stream: &Stream) {
    let bytes: Vec<&[u8]> = data.chunks(1).collect();
    let out = run(&bytes).expect("as one piece it passed");
    let before = stream.events.len().saturating_sub(16);
    for (number, end) in stream.ends.iter().enumerate().skip(before) {
        let passed = out[..*end].concat();
        assert_eq!(Stream::read(&passed).events.len(), number + 1, "an event waits for what comes after it");
    }
}

/// A resolved reference is a path on the server: it names no host, and cannot be read to.
fn assert_on_the_server(reference: &str, resolved: &str) {
    let path = resolved.split('?').next().unwrap_or_default();
    assert!(path.starts_with('/') && !path.starts_with("//"), "{reference} became {resolved}");
    assert!(resolved.bytes().all(|byte| byte.is_ascii_graphic()), "{reference} became {resolved}");
    assert!(!path.contains(['\\', '#']) && path.split('/').all(|segment| segment != ".."), "{reference}: {resolved}");
    let reference = reference.trim().to_ascii_lowercase();
    let place = reference.split(['?', '#']).next().unwrap_or_default();
    if let Some((scheme, rest)) =
        place.split_once("//").filter(|(before, _)| before.is_empty() || before.ends_with(':'))
    {
        let authority = rest.split('/').next().unwrap_or_default();
        assert!(["", "https:"].contains(&scheme), "{reference} was taken for this server's");
        assert!(["old.example", "old.example:443"].contains(&authority), "{reference} was taken for this server's");
    }
}

/// A stream, read as HTML's event stream interpretation says, by another hand: all at once.
struct Stream<'a> {
    /// Those of at least one line.
    events: Vec<Event>,
    /// Where each is complete.
    ends: Vec<usize>,
    /// What is no complete event.
    rest: &'a [u8],
}

impl<'a> Stream<'a> {
    fn read(data: &'a [u8]) -> Self {
        let mut stream = Self { events: Vec::new(), ends: Vec::new(), rest: data };
        let (mut event, mut line, mut passed) = (Event::new(), Vec::new(), 0);
        for (at, byte) in data.iter().enumerate() {
            let second_half = *byte == b'\n' && at > 0 && data[at - 1] == b'\r';
            if second_half {
                passed += usize::from(passed == at);
            } else if matches!(byte, b'\r' | b'\n') {
                let ended: Vec<u8> = std::mem::take(&mut line);
                // The byte order mark, at the beginning of the first line.
                let ended = ended.strip_prefix(b"\xef\xbb\xbf").filter(|_| at == ended.len()).unwrap_or(&ended);
                if !ended.is_empty() {
                    event.push(ended.to_vec());
                    continue;
                }
                passed = at + 1;
                if !event.is_empty() {
                    stream.events.push(std::mem::take(&mut event));
                    stream.ends.push(passed);
                }
            } else {
                line.push(*byte);
            }
        }
        stream.rest = &data[passed..];
        stream
    }

    /// With our path in each endpoint event; `None` if one of them leads elsewhere.
    fn rewritten(&self) -> Option<Vec<Event>> {
        self.events.iter().map(rewritten).collect()
    }
}

fn rewritten(event: &Event) -> Option<Event> {
    let fields: Vec<(&[u8], &[u8])> = event.iter().map(|line| field(line)).collect();
    let all = |name: &[u8]| fields.iter().filter(|(field, _)| *field == name).map(|(_, value)| *value).collect();
    let kinds: Vec<&[u8]> = all(b"event");
    if !kinds.contains(&b"endpoint".as_slice()) {
        return Some(event.clone());
    }
    let data: Vec<&[u8]> = all(b"data");
    let leads_here = std::str::from_utf8(&data.join(&b'\n')).is_ok_and(|text| resolve(text, &SERVER, TARGET).is_some());
    let unanimous = kinds.last() == Some(&b"endpoint".as_slice());
    (unanimous && leads_here).then(|| vec![b"event: endpoint".to_vec(), format!("data: {OURS}").into_bytes()])
}

fn field(line: &[u8]) -> (&[u8], &[u8]) {
    match line.iter().position(|byte| *byte == b':') {
        None => (line, b""),
        Some(colon) => {
            let value = &line[colon + 1..];
            (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
        }
    }
}
