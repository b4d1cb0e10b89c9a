//! The event stream of MCP 2024-11-05: its `endpoint` event names where the agent posts to.
//!
//! The event is replaced by a path of ours, whatever chunks it comes in. It may only lead to the
//! upstream's own origin: anywhere else, the agent's next post would carry the credential there.

use super::path;
use super::upstream::UpstreamUrl;

/// The path segment below a server's name under which posts of its streams arrive.
pub const SEGMENT: &str = ".sse";

/// The largest event held; the SDKs stop at 1 or 16 MiB.
const MAX_EVENT: usize = 16 << 20;

/// Why a stream is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// The `endpoint` event leads elsewhere, or nowhere.
    #[error("the endpoint event does not lead to the server's own origin")]
    ForeignEndpoint,
    /// An event larger than any client takes.
    #[error("an event of more than 16 MiB")]
    TooLarge,
}

/// Watches one stream. An event is passed on, unchanged, as soon as it is complete; not before,
/// since its last line may be the one that makes it an `endpoint` event.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// The event so far, as it came.
    raw: Vec<u8>,
    /// The line so far, without its end.
    line: Vec<u8>,
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
        chunk: &[u8],
        out: &mut Vec<u8>,
        mut name: impl FnMut(&str) -> Option<String>,
    ) -> Result<(), StreamFault> {
        for &byte in chunk {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                // The second half of a line end: it goes where the first half went.
                if self.raw.is_empty() {
                    out.push(byte)
                } else {
                    self.raw.push(byte)
                }
                continue;
            }
            self.raw.push(byte);
            match byte {
                b'\r' | b'\n' => {
                    self.after_cr = byte == b'\r';
                    self.end_of_line(out, &mut name)?;
                }
                _ => self.line.push(byte),
            }
            if self.raw.len() > MAX_EVENT {
                return Err(StreamFault::TooLarge);
            }
        }
        Ok(())
    }

    fn end_of_line(
        &mut self,
        out: &mut Vec<u8>,
        name: &mut impl FnMut(&str) -> Option<String>,
    ) -> Result<(), StreamFault> {
        let line = std::mem::take(&mut self.line);
        // A byte order mark may stand at the very beginning (HTML, "event stream interpretation").
        let line = if std::mem::replace(&mut self.begun, true) {
            &*line
        } else {
            line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line)
        };
        if line.is_empty() {
            return self.end_of_event(out, name);
        }
        let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
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
        Ok(())
    }

    fn end_of_event(
        &mut self,
        out: &mut Vec<u8>,
        name: &mut impl FnMut(&str) -> Option<String>,
    ) -> Result<(), StreamFault> {
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
