//! One strict look at a JSON-RPC body: what it is, who it is for, and whether two parsers could
//! read it differently.
//!
//! SDK servers accept duplicate keys (the last wins) and some match keys without regard to case;
//! a policy that reads the first `method` while the server runs the second is no policy. So such
//! bodies are refused. Only the fields that decide are read, borrowed from the body.

use std::borrow::Cow;

use json::Reader;

mod json;

/// What a POST body holds.
#[derive(Debug)]
pub enum Body<'a> {
    /// One message.
    One(Message<'a>),
    /// A JSON-RPC array (MCP 2025-03-26), each element strictly read.
    Batch(Vec<Message<'a>>),
}

/// The deciding fields of one JSON-RPC message.
#[derive(Debug, Default)]
pub struct Message<'a> {
    /// Request, notification or response; `None` where it is none of them.
    pub kind: Option<Kind>,
    /// The id exactly as it stands in the body: a string or a whole number.
    pub id: Option<&'a str>,
    /// The method.
    pub method: Option<Cow<'a, str>>,
    /// What of `params` counts.
    pub params: Params<'a>,
    /// The first thing wrong with the message, if anything.
    pub fault: Option<BodyFault>,
}

/// The deciding fields of `params`.
#[derive(Debug, Default)]
pub struct Params<'a> {
    /// `name`: the tool or prompt.
    pub name: Option<Cow<'a, str>>,
    /// `uri`: the resource.
    pub uri: Option<Cow<'a, str>>,
    /// `taskId`.
    pub task_id: Option<Cow<'a, str>>,
    /// `_meta["io.modelcontextprotocol/protocolVersion"]`.
    pub version: Option<Cow<'a, str>>,
}

/// The kinds of JSON-RPC message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `method` and `id`: wants an answer.
    Request,
    /// `method` without `id`.
    Notification,
    /// `result` or `error` with an `id`: answers a server's request.
    Response,
}

/// Why a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Not JSON, or a field of the wrong type.
    #[error("the body is not JSON-RPC 2.0")]
    NotJsonRpc,
    /// A key twice in the same object.
    #[error("the body has a key twice")]
    DuplicateKey,
    /// A key that differs from one that counts only by case.
    #[error("the body has a key in the wrong case")]
    KeyCase,
    /// An id that is neither a string nor a whole number, or too long to echo.
    #[error("the id is not a string or a whole number of at most 1024 bytes")]
    Id,
    /// More keys than any MCP message has.
    #[error("the body has too many keys")]
    TooManyKeys,
    /// An array where the binding does not allow one, or an empty one.
    #[error("batches are not allowed here")]
    Batch,
}

const MAX_KEYS: usize = 256;
const MAX_ID_BYTES: usize = 1024;
const MAX_BATCH: usize = 64;
const TOP_KEYS: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const PARAM_KEYS: &[&str] = &["name", "uri", "taskId", "_meta"];
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// Reads a body. `Err` means nothing of it can be trusted, not even the id; a
/// [`Message::fault`] means it is refused, but its id may be echoed.
pub fn parse(bytes: &[u8]) -> Result<Body<'_>, BodyFault> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| BodyFault::NotUtf8)?;
    let mut json = Reader::new(text);
    if json.peek() == Some(b'[') {
        let messages = batch(&mut json).ok_or(BodyFault::NotJsonRpc)?;
        return Ok(Body::Batch(messages));
    }
    let mut message = Message::default();
    message.read(&mut json).and_then(|()| json.end()).ok_or(BodyFault::NotJsonRpc)?;
    Ok(Body::One(message))
}

fn batch<'a>(json: &mut Reader<'a>) -> Option<Vec<Message<'a>>> {
    let mut messages = Vec::new();
    json.array(|json| {
        let mut message = Message::default();
        message.read(json)?;
        messages.push(message);
        (messages.len() <= MAX_BATCH).then_some(())
    })?;
    json.end()?;
    Some(messages)
}

impl<'a> Message<'a> {
    fn read(&mut self, json: &mut Reader<'a>) -> Option<()> {
        let mut keys = Keys::new(TOP_KEYS);
        let (mut version, mut answer) = (false, false);
        json.object(|json, key| {
            let mut counts = true;
            match key.as_ref() {
                "jsonrpc" => version = json.text()? == "2.0",
                "id" => self.set_id(json.raw()?),
                "method" => self.method = Some(json.text()?),
                "params" => self.read_params(json)?,
                "result" | "error" => {
                    answer = true;
                    json.pass()?;
                }
                _ => {
                    counts = false;
                    json.pass()?;
                }
            }
            self.note(keys.admit(key, counts));
            Some(())
        })?;
        self.kind = match (&self.method, self.id, answer) {
            (Some(_), Some(_), false) => Some(Kind::Request),
            (Some(_), None, false) => Some(Kind::Notification),
            (None, Some(_), true) => Some(Kind::Response),
            _ => None,
        };
        if self.kind.is_none() || !version {
            self.note(Some(BodyFault::NotJsonRpc));
        }
        Some(())
    }

    fn set_id(&mut self, raw: &'a str) {
        let digits = raw.strip_prefix('-').unwrap_or(raw);
        let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if raw.len() <= MAX_ID_BYTES && (raw.starts_with('"') || whole) {
            self.id = Some(raw);
        } else {
            self.note(Some(BodyFault::Id));
        }
    }

    fn read_params(&mut self, json: &mut Reader<'a>) -> Option<()> {
        // Of `params` that come twice the last are told, as of any other key.
        self.params = Params::default();
        let mut keys = Keys::new(PARAM_KEYS);
        json.object(|json, key| {
            let mut counts = true;
            match key.as_ref() {
                "name" => self.params.name = json.text_or_other()?,
                "uri" => self.params.uri = json.text_or_other()?,
                "taskId" => self.params.task_id = json.text_or_other()?,
                "_meta" => self.params.version = self.read_meta(json)?,
                _ => {
                    counts = false;
                    json.pass()?;
                }
            }
            self.note(keys.admit(key, counts));
            Some(())
        })
    }

    /// The revision in `_meta`, which may be null.
    fn read_meta(&mut self, json: &mut Reader<'a>) -> Option<Option<Cow<'a, str>>> {
        if json.peek()? != b'{' {
            return (json.raw()? == "null").then_some(None);
        }
        let mut version = None;
        let mut keys = Keys::new(&[VERSION_KEY]);
        json.object(|json, key| {
            let counts = key == VERSION_KEY;
            if counts {
                version = json.text_or_other()?;
            } else {
                json.pass()?;
            }
            self.note(keys.admit(key, counts));
            Some(())
        })?;
        Some(version)
    }

    fn note(&mut self, fault: Option<BodyFault>) {
        self.fault = self.fault.or(fault);
    }
}

/// The keys of one object, to find duplicates and case variants.
struct Keys<'a> {
    known: &'static [&'static str],
    /// A bit for each key, which it shares with some others: where it is missing, so is the key.
    marks: u64,
    /// The first that have no escapes, which in most objects are all.
    few: [&'a str; 4],
    filled: usize,
    others: Vec<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    fn new(known: &'static [&'static str]) -> Self {
        Self { known, marks: 0, few: [""; 4], filled: 0, others: Vec::new() }
    }

    /// Takes the next key; `counts` tells that it is one of the known.
    fn admit(&mut self, key: Cow<'a, str>, counts: bool) -> Option<BodyFault> {
        if self.filled + self.others.len() == MAX_KEYS {
            return Some(BodyFault::TooManyKeys);
        }
        let first = key.bytes().next().unwrap_or_default();
        let mark = 1u64.rotate_left((key.len() as u32).wrapping_add(first.into()));
        let fault = if self.marks & mark != 0 && self.holds(&key) {
            Some(BodyFault::DuplicateKey)
        } else if !counts && is_variant(&key, self.known) {
            Some(BodyFault::KeyCase)
        } else {
            None
        };
        self.marks |= mark;
        match (key, self.few.get_mut(self.filled)) {
            (Cow::Borrowed(key), Some(place)) => {
                *place = key;
                self.filled += 1;
            }
            (key, _) => self.others.push(key),
        }
        fault
    }

    fn holds(&self, key: &str) -> bool {
        self.few.iter().take(self.filled).any(|held| *held == key) || self.others.iter().any(|held| held == key)
    }
}

/// Whether a parser that ignores case would take `key` for one of `known` (ASCII).
fn is_variant(key: &str, known: &[&str]) -> bool {
    known.iter().any(|known| key.eq_ignore_ascii_case(known))
        || !key.is_ascii() && known.iter().any(|known| folds_to(key, known))
}

/// The same, of a key outside ASCII. Four of its characters fold into it: the long s and the
/// Kelvin sign, which Go's encoding/json knows, and the i without a dot and the capital one with a
/// dot, which Java's equalsIgnoreCase takes for an i.
fn folds_to(key: &str, known: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(known.chars().map(fold))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(text: &str) -> Message<'_> {
        match parse(text.as_bytes()) {
            Ok(Body::One(message)) => message,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn messages_are_classified_and_read() {
        let call = one(
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"se\u0061rch","arguments":{"a":1},"_meta":{"progressToken":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#,
        );
        assert_eq!(call.fault, None);
        assert_eq!(call.kind, Some(Kind::Request));
        assert_eq!(call.id, Some("7"));
        assert_eq!(call.method.as_deref(), Some("tools/call"));
        assert_eq!(call.params.name.as_deref(), Some("search"));
        assert_eq!(call.params.version.as_deref(), Some("2026-07-28"));
        assert_eq!(one(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).kind, Some(Kind::Notification));
        assert_eq!(one(r#"{"jsonrpc":"2.0","id":"x","result":{}}"#).kind, Some(Kind::Response));
        assert_eq!(one(r#"{"jsonrpc":"2.0","id":"x","error":{"code":1,"message":""}}"#).kind, Some(Kind::Response));
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        use BodyFault::*;
        let rows = [
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}"#, DuplicateKey),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","m\u0065thod":"b"}"#, DuplicateKey),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#, DuplicateKey),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"params":{"name":"b"}}"#,
                DuplicateKey,
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","x":1,"x":2}"#, DuplicateKey),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","Method":"b"}"#, KeyCase),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","PARAMS":{"name":"b"}}"#, KeyCase),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","param\u017f":{}}"#, KeyCase),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#, KeyCase),
            (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"tas\u212aId":"b"}}"#, KeyCase),
            (r#"{"jsonrpc":"2.0","id":1,"\u0131d":2,"method":"a"}"#, KeyCase),
            (r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a","ur\u0130":"b"}}"#, KeyCase),
            (r#"{"jsonrpc":"2.0","id":null,"method":"a"}"#, Id),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"a"}"#, Id),
            (r#"{"jsonrpc":"2.0","id":{},"method":"a"}"#, Id),
            (r#"{"jsonrpc":"1.0","id":1,"method":"a"}"#, NotJsonRpc),
            (r#"{"id":1,"method":"a"}"#, NotJsonRpc),
            (r#"{"jsonrpc":"2.0","id":1}"#, NotJsonRpc),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","result":1}"#, NotJsonRpc),
        ];
        for (text, expected) in rows {
            assert_eq!(one(text).fault, Some(expected), "{text}");
        }
    }

    #[test]
    fn a_refused_message_still_tells_its_id() {
        assert_eq!(one(r#"{"jsonrpc":"2.0","method":"a","method":"b","id":"q\"1"}"#).id, Some(r#""q\"1""#));
    }

    #[test]
    fn what_is_not_json_rpc_is_refused_whole() {
        for bad in ["", "{", "1", "\"x\"", "null", "{\"jsonrpc\":\"2.0\"} x", "\u{feff}{}", r#"{"method":1}"#, r#"[1]"#]
        {
            assert_eq!(parse(bad.as_bytes()).err(), Some(BodyFault::NotJsonRpc), "{bad}");
        }
        assert_eq!(parse(b"{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}").err(), Some(BodyFault::NotUtf8));
        let deep = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":{{\"x\":{}}}}}", "[".repeat(100_000));
        assert_eq!(parse(deep.as_bytes()).err(), Some(BodyFault::NotJsonRpc));
    }

    #[test]
    fn a_batch_is_read_element_by_element() {
        let Ok(Body::Batch(batch)) =
            parse(br#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b","method":"c"}]"#)
        else {
            panic!("not a batch")
        };
        assert_eq!(batch.iter().map(|m| m.fault).collect::<Vec<_>>(), [None, Some(BodyFault::DuplicateKey)]);
    }

    #[test]
    fn more_keys_than_any_message_has_are_refused() {
        let with = |count: usize| {
            let keys: String = (0..count).map(|number| format!(",\"x{number}\":0")).collect();
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"name":"a"{keys}}}}}"#)
        };
        assert_eq!(one(&with(MAX_KEYS - 1)).fault, None);
        assert_eq!(one(&with(MAX_KEYS)).fault, Some(BodyFault::TooManyKeys));
    }

    /// The rule of [`folds_to`] for any key.
    fn is_alike(key: &str, known: &str) -> bool {
        key.eq_ignore_ascii_case(known) || folds_to(key, known)
    }

    /// A key that counts, or one that looks like it, or one that shares its mark with others.
    fn key() -> impl Strategy<Value = String> {
        let fold = |c: char, by: usize| match (c, by) {
            (_, 0) => c.to_ascii_uppercase(),
            ('s', 1) => '\u{17f}',
            ('k', 1) => '\u{212a}',
            ('i', 1) => '\u{131}',
            ('i', 2) => '\u{130}',
            ('e', 1) => 'é',
            _ => c,
        };
        let known = proptest::sample::select([TOP_KEYS, PARAM_KEYS, &[VERSION_KEY]].concat());
        let folded = (known, proptest::collection::vec(0usize..12, 42))
            .prop_map(move |(known, by)| known.chars().zip(by).map(|(c, by)| fold(c, by)).collect());
        prop_oneof![folded, "[ab]{0,2}", "[a-d]b{0,3}", "é?[a-z\"]{0,9}"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        /// What the marks and the two lists tell of keys is what one list of all of them tells.
        #[test]
        fn keys_are_held_against_all_before(keys in proptest::collection::vec((key(), any::<bool>()), 0..12)) {
            for known in [TOP_KEYS, PARAM_KEYS, &[VERSION_KEY]] {
                let mut admitted = Keys::new(known);
                for (number, (key, escaped)) in keys.iter().enumerate() {
                    let as_read = if *escaped { Cow::Owned(key.clone()) } else { Cow::Borrowed(key.as_str()) };
                    let counts = known.contains(&key.as_str());
                    let expected = if keys[..number].iter().any(|(before, _)| before == key) {
                        Some(BodyFault::DuplicateKey)
                    } else if !counts && known.iter().any(|known| is_alike(key, known)) {
                        Some(BodyFault::KeyCase)
                    } else {
                        None
                    };
                    prop_assert_eq!(admitted.admit(as_read, counts), expected, "{:?} of {:?}", key, keys);
                }
            }
        }
    }
}
