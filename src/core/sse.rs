//! The event stream of MCP 2024-11-05: its `endpoint` event names where the agent posts to.
//!
//! The event is replaced by a path of ours, whatever chunks it comes in. It may only lead to the
//! upstream's own origin: anywhere else, the agent's next post would carry the credential there.

use super::path;
use super::upstream::UpstreamUrl;

/// The path segment below a server's name under which posts of its streams arrive.
pub const SEGMENT: &str = ".sse";

/// The most of an event that is held. No endpoint event is that long; a longer one of another kind
/// is passed on as it comes.
const MAX_HELD: usize = 64 * 1024;

/// The longest line that can make an event an endpoint event: with a byte order mark and a line end.
const LONGEST_NAME: usize = "\u{feff}event: endpoint\r".len();

/// Why a stream is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// The `endpoint` event leads elsewhere, or nowhere.
    #[error("the endpoint event does not lead to the server's own origin")]
    ForeignEndpoint,
    /// An endpoint event larger than any reference.
    #[error("an endpoint event of more than 64 KiB")]
    TooLarge,
}

/// Watches one stream. An event is passed on, unchanged, as soon as it is complete; not before,
/// since its last line may be the one that makes it an `endpoint` event.
///
/// Of a very long event all lines are passed on but one that would make it an `endpoint` event:
/// that ends the stream, and the client, which never sees the event's end, has nothing to obey.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// What is held of the event, as it came.
    raw: Vec<u8>,
    /// Where the present line begins in it.
    line: usize,
    /// The event is too long to be held: only its present line is, while it may name an endpoint.
    passing: bool,
    /// The beginning of the present line has been passed on.
    line_passed: bool,
    after_cr: bool,
    begun: bool,
    kind: Vec<u8>,
    names_endpoint: bool,
    data: Vec<u8>,
}

impl Endpoints {
    /// Takes a chunk and appends to `out` what may go on. `name` is asked for the path to put in
    /// the place of an endpoint event's data.
    pub fn feed(
        &mut self,
        mut chunk: &[u8],
        out: &mut Vec<u8>,
        mut name: impl FnMut(&str) -> Option<String>,
    ) -> Result<(), StreamFault> {
        if let (true, Some((b'\n', rest))) = (self.after_cr, chunk.split_first()) {
            self.second_half(out);
            chunk = rest;
        }
        while !chunk.is_empty() {
            self.after_cr = false;
            let end = memchr::memchr2(b'\r', b'\n', chunk).map(|at| at + 1);
            let (part, rest) = chunk.split_at(end.unwrap_or(chunk.len()));
            chunk = rest;
            self.raw.extend_from_slice(part);
            if end.is_some() {
                self.end_of_line(out, &mut name)?;
                if part.ends_with(b"\r") {
                    self.after_cr = true;
                    if let Some((b'\n', rest)) = chunk.split_first() {
                        self.second_half(out);
                        chunk = rest;
                    }
                }
            }
            self.bound(out)?;
        }
        Ok(())
    }

    /// The second half of a line end: it goes where the first half went.
    fn second_half(&mut self, out: &mut Vec<u8>) {
        self.after_cr = false;
        if self.raw.is_empty() {
            out.push(b'\n');
        } else {
            self.raw.push(b'\n');
            self.line = self.raw.len();
        }
    }

    /// Passes on what is too much to hold.
    fn bound(&mut self, out: &mut Vec<u8>) -> Result<(), StreamFault> {
        if self.raw.len() > MAX_HELD && !self.passing {
            if self.names_endpoint {
                return Err(StreamFault::TooLarge);
            }
            self.passing = true;
        }
        if self.passing {
            let held = self.raw.len() - self.line;
            let harmless = self.line_passed || held > LONGEST_NAME;
            self.line_passed = harmless && held > 0;
            let until = if harmless { self.raw.len() } else { self.line };
            out.extend(self.raw.drain(..until));
            self.line = 0;
            // What one long event took is not kept for the next.
            self.raw.shrink_to(MAX_HELD);
        }
        Ok(())
    }

    fn end_of_line(
        &mut self,
        out: &mut Vec<u8>,
        name: &mut impl FnMut(&str) -> Option<String>,
    ) -> Result<(), StreamFault> {
        let line = self.raw.get(self.line..self.raw.len().saturating_sub(1)).unwrap_or_default();
        // A byte order mark may stand at the very beginning (HTML, "event stream interpretation").
        let line = if std::mem::replace(&mut self.begun, true) {
            line
        } else {
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line)
        };
        let is_rest = std::mem::take(&mut self.line_passed);
        if line.is_empty() && !is_rest {
            return self.end_of_event(out, name);
        }
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            _ if is_rest => {}
            // The last one counts.
            b"event" => {
                self.kind = value.to_vec();
                self.names_endpoint |= value == b"endpoint";
            }
            b"data" => {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                // Only an endpoint's data is looked at, and that is short.
                if self.data.len() < 16 * 1024 {
                    self.data.extend_from_slice(value);
                }
            }
            _ => {}
        }
        if self.passing && self.names_endpoint {
            return Err(StreamFault::TooLarge);
        }
        self.line = self.raw.len();
        Ok(())
    }

    fn end_of_event(
        &mut self,
        out: &mut Vec<u8>,
        name: &mut impl FnMut(&str) -> Option<String>,
    ) -> Result<(), StreamFault> {
        self.line = 0;
        self.passing = false;
        let raw = std::mem::take(&mut self.raw);
        let data = std::mem::take(&mut self.data);
        let kind = std::mem::take(&mut self.kind);
        if !std::mem::take(&mut self.names_endpoint) {
            out.extend_from_slice(&raw);
            return Ok(());
        }
        if kind != b"endpoint" {
            // One client may read the first type, another the last: no guess.
            return Err(StreamFault::ForeignEndpoint);
        }
        let path = std::str::from_utf8(&data).ok().and_then(name).ok_or(StreamFault::ForeignEndpoint)?;
        out.extend_from_slice(format!("event: endpoint\ndata: {path}\n\n").as_bytes());
        // The LF of a CR LF that ended the event belongs to what was replaced; as the beginning
        // of the next event it would be an empty line, which means nothing.
        Ok(())
    }
}

/// Splits `/<server>/.sse/<opaque>`.
pub fn parts(path: &str) -> Option<(&str, &str)> {
    let (server, rest) = path.strip_prefix('/')?.split_once('/')?;
    let opaque = rest.strip_prefix(SEGMENT)?.strip_prefix('/')?;
    Some((server, opaque))
}

/// Where an endpoint event leads: the upstream's path and query, if it stays on its origin.
/// `base` is the stream's own URL, `target` its path and query.
pub fn resolve(reference: &str, base: &UpstreamUrl, target: &str) -> Option<String> {
    let reference = Some(reference.trim()).filter(|reference| !reference.is_empty())?;
    let reference = reference.split('#').next().unwrap_or_default();
    let (place, query) = reference.split_once('?').map_or((reference, None), |(place, query)| (place, Some(query)));
    let path = if place.contains("://") {
        same_origin(place, base)?
    } else if place.starts_with("//") {
        same_origin(&format!("{}:{place}", base.scheme.as_str()), base)?
    } else if place.starts_with('/') {
        place.to_owned()
    } else {
        let own = target.split('?').next().unwrap_or_default();
        let directory = own.rfind('/').and_then(|slash| own.get(..=slash)).unwrap_or("/");
        format!("{directory}{place}")
    };
    path::check(&path).ok()?;
    let visible = query.is_none_or(|query| query.bytes().all(|b| b.is_ascii_graphic()));
    visible.then(|| query.map_or(path.clone(), |query| format!("{path}?{query}")))
}

fn same_origin(place: &str, base: &UpstreamUrl) -> Option<String> {
    UpstreamUrl::parse(place).ok().filter(|url| url.same_origin(base)).map(|url| url.path().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(text: &[u8], piece: usize) -> Result<String, StreamFault> {
        let (mut endpoints, mut out) = (Endpoints::default(), Vec::new());
        for chunk in text.chunks(piece.max(1)) {
            endpoints.feed(chunk, &mut out, |data| (data == "/m?s=1").then(|| "/srv/.sse/x".to_owned()))?;
        }
        Ok(String::from_utf8(out).unwrap())
    }

    const NEW: &str = "event: endpoint\ndata: /srv/.sse/x\n\n";

    #[test]
    fn the_endpoint_event_is_replaced_at_every_split() {
        let rows = [
            ("event: endpoint\ndata: /m?s=1\n\n", NEW.to_owned()),
            ("event:endpoint\r\ndata:/m?s=1\r\n\r\n: ping\r\n\r\n", format!("{NEW}\n: ping\r\n\r\n")),
            ("event: endpoint\rdata: /m?s=1\r\rdata: a\r\r", format!("{NEW}data: a\r\r")),
            ("data: /m?s=1\nevent: message\nevent: endpoint\n\n", NEW.to_owned()),
            ("\u{feff}event: endpoint\ndata: /m?s=1\n\n", NEW.to_owned()),
            (
                ": hello\n\nid: 1\ndata: é\n\nevent: endpoint\ndata: /m?s=1\n\ndata: x\n\n",
                format!(": hello\n\nid: 1\ndata: é\n\n{NEW}data: x\n\n"),
            ),
        ];
        for (text, expected) in rows {
            for piece in 1..=text.len() {
                assert_eq!(run(text.as_bytes(), piece).as_ref(), Ok(&expected), "{text:?} by {piece}");
            }
        }
    }

    /// Whatever an upstream sends, little is held; and what is too long to be held names no endpoint.
    #[test]
    fn a_long_event_is_passed_on_as_it_comes() {
        let (long, small) = ("x".repeat(3 * MAX_HELD), "y".repeat(100));
        let lines = format!("data: {small}\r\n").repeat(3 * MAX_HELD / 100);
        for text in [format!("data: {long}\n\n"), format!(":{long}\r\n{lines}\r\n"), format!("{lines}data: {long}\r\r")]
        {
            let text = format!("{text}event: endpoint\ndata: /m?s=1\n\ndata: {small}\n\n");
            for piece in [1, 19, 1000, MAX_HELD, text.len()] {
                let (mut endpoints, mut out) = (Endpoints::default(), Vec::new());
                for (number, chunk) in text.as_bytes().chunks(piece).enumerate() {
                    endpoints.feed(chunk, &mut out, |_| Some("/srv/.sse/x".to_owned())).unwrap();
                    let fed = (number * piece + chunk.len()).min(text.len());
                    assert!(endpoints.raw.capacity() <= 2 * MAX_HELD + 2 * piece, "{} held", endpoints.raw.capacity());
                    assert!(out.len() + MAX_HELD + 100 > fed, "{} of {fed} passed", out.len());
                }
                let expected = text.replace("event: endpoint\ndata: /m?s=1\n\n", NEW);
                assert!(String::from_utf8(out).unwrap() == expected, "by {piece}");
            }
        }
    }

    #[test]
    fn a_long_event_names_no_endpoint() {
        let long = "x".repeat(MAX_HELD);
        for text in [
            format!("data: {long}\nevent: endpoint\ndata: /m?s=1\n\n"),
            format!("data: {long}\r\nevent:endpoint\r\n\r\n"),
            format!("data: {long}\revent: endpoint\r\r"),
            format!("event: endpoint\ndata: /m?s=1\n: {long}\n\n"),
            format!("{}event: endpoint\n\n", "data: x\n".repeat(MAX_HELD / 8)),
        ] {
            for piece in [1, 7, 1000, text.len()] {
                let (mut endpoints, mut out) = (Endpoints::default(), Vec::new());
                let mut pieces = text.as_bytes().chunks(piece);
                let fault = pieces.find_map(|chunk| endpoints.feed(chunk, &mut out, |_| Some("/srv".to_owned())).err());
                assert_eq!(fault, Some(StreamFault::TooLarge), "by {piece}");
                assert!(!String::from_utf8(out).unwrap().contains("endpoint"), "by {piece}");
            }
        }
    }

    #[test]
    fn an_endpoint_elsewhere_ends_the_stream() {
        for text in [
            "event: endpoint\ndata: https://evil/\n\n",
            "event: endpoint\n\n",
            "event: endpoint\ndata: /m\ndata: ?s=1\n\n",
            "event: endpoint\nevent: message\ndata: /m?s=1\n\n",
        ] {
            assert_eq!(run(text.as_bytes(), 7), Err(StreamFault::ForeignEndpoint), "{text:?}");
        }
    }

    /// T9.
    #[test]
    fn references_stay_on_the_origin() {
        let base = UpstreamUrl::parse("https://h.example/a/sse").unwrap();
        let rows = [
            ("/messages?session_id=1", Some("/messages?session_id=1")),
            ("messages?x", Some("/a/messages?x")),
            ("", None),
            ("https://h.example/m?s#f", Some("/m?s")),
            ("https://h.example:443/m", Some("/m")),
            ("//h.example/m", Some("/m")),
            ("http://h.example/m", None),
            ("https://h.example:444/m", None),
            ("https://evil.example/m", None),
            ("https://h.example.evil.example/m", None),
            ("https://h.example@evil.example/m", None),
            ("https://u:p@h.example/m", None),
            ("//evil.example/m", None),
            ("/\\evil.example/m", None),
            ("/../m", None),
            ("/m?a b", None),
            ("javascript:x", Some("/a/javascript:x")),
        ];
        for (reference, expected) in rows {
            assert_eq!(resolve(reference, &base, "/a/sse?x").as_deref(), expected, "{reference}");
        }
    }

    proptest! {
        /// Streams without an endpoint event pass unchanged up to their last complete event.
        #[test]
        fn other_events_pass_unchanged(events in proptest::collection::vec("(data|id|event): [a-dé ]{0,5}(\n|\r\n)", 0..6), piece in 1usize..7) {
            let text: String = events.iter().map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(run(text.as_bytes(), piece), Ok(text));
        }
    }
}
