//! The look at a JSON-RPC body: what it tells of an accepted message is what any JSON reader would
//! tell, and accepted is just what all readers read alike.

use std::fmt;

use postern::core::message::{Body, BodyFault, Kind, Message, parse};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const MOST_KEYS: usize = 256;
const LONGEST_ID: usize = 1024;
const LONGEST_BATCH: usize = 64;

pub fn check(data: &[u8]) -> &'static str {
    let parsed = parse(data);
    let Ok(text) = std::str::from_utf8(data) else {
        assert_eq!(parsed.err(), Some(BodyFault::NotUtf8));
        return "refused";
    };
    match parsed {
        Ok(Body::One(message)) => compare(&message, text),
        Ok(Body::Batch(messages)) => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).expect("a JSON array");
            assert_eq!(elements.len(), messages.len());
            assert!(messages.len() <= LONGEST_BATCH);
            for (element, message) in elements.iter().zip(&messages) {
                compare(message, element.get());
            }
            "batch"
        }
        Err(_) => {
            assert_eq!(Plain::read(text).filter(Plain::is_accepted), None, "refused, but it is plainly a message");
            "refused"
        }
    }
}

fn compare(message: &Message<'_>, text: &str) -> &'static str {
    let plain = Plain::read(text).expect("an object");
    assert_eq!(message.fault.is_none(), plain.is_accepted(), "{:?}, but {plain:?}", message.fault);
    if message.fault.is_some() {
        return "refused";
    }
    let params = plain.object("params").unwrap_or_default();
    let version = params.object("_meta").unwrap_or_default().text(VERSION);
    assert_eq!(message.kind, plain.kind());
    assert_eq!(message.id, plain.raw("id"));
    assert_eq!(message.method.as_deref(), plain.text("method").as_deref());
    assert_eq!(message.params.name.as_deref(), params.text("name").as_deref());
    assert_eq!(message.params.uri.as_deref(), params.text("uri").as_deref());
    assert_eq!(message.params.task_id.as_deref(), params.text("taskId").as_deref());
    assert_eq!(message.params.version.as_deref(), version.as_deref());
    // A reader that takes in the whole knows it no otherwise. (This one refuses numbers beyond a
    // float's range and halves of surrogate pairs; others do not.)
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        assert_eq!(value["method"].as_str(), message.method.as_deref());
        assert_eq!(value["params"]["name"].as_str(), message.params.name.as_deref());
        let id = message.id.map(|id| serde_json::from_str(id).expect("an id is JSON"));
        assert_eq!(value.get("id"), id.as_ref());
    }
    "accepted"
}

/// An object's fields in their order, each value as it stands there.
#[derive(Debug, Default, PartialEq)]
struct Plain<'a>(Vec<(String, &'a str)>);

impl<'a> Plain<'a> {
    /// `None` where the text is no object.
    fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    fn raw(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    fn text(&self, key: &str) -> Option<String> {
        serde_json::from_str(self.raw(key)?).ok()
    }

    fn object(&self, key: &str) -> Option<Self> {
        Self::read(self.raw(key)?)
    }

    fn kind(&self) -> Option<Kind> {
        let answer = self.raw("result").is_some() || self.raw("error").is_some();
        match (self.raw("method").is_some(), self.raw("id").is_some(), answer) {
            (true, true, false) => Some(Kind::Request),
            (true, false, false) => Some(Kind::Notification),
            (false, true, true) => Some(Kind::Response),
            _ => None,
        }
    }

    /// The rule, sentence by sentence.
    fn is_accepted(&self) -> bool {
        // Left out, or of that type.
        let text = |key: &str| self.raw(key).is_none() || self.text(key).is_some();
        let object = |of: &Self, key: &str| of.raw(key).is_none() || of.object(key).is_some();
        let id = self.raw("id").is_none_or(|id| {
            let digits = id.strip_prefix('-').unwrap_or(id);
            id.len() <= LONGEST_ID && (id.starts_with('"') || digits.chars().all(|c| c.is_ascii_digit()))
        });
        let params = self.object("params").unwrap_or_default();
        let no_meta = params.raw("_meta") == Some("null");
        let meta = params.object("_meta").unwrap_or_default();
        self.text("jsonrpc").as_deref() == Some("2.0")
            && text("method")
            && id
            && self.kind().is_some()
            && object(self, "params")
            && (no_meta || object(&params, "_meta"))
            && self.is_read_alike(&["jsonrpc", "id", "method", "params", "result", "error"])
            && params.is_read_alike(&["name", "uri", "taskId", "_meta"])
            && meta.is_read_alike(&[VERSION])
    }

    /// Not many keys, none twice, and none that ignoring case would make one of `known`.
    fn is_read_alike(&self, known: &[&str]) -> bool {
        let keys: Vec<&str> = self.0.iter().map(|(key, _)| key.as_str()).collect();
        let twice = keys.iter().enumerate().any(|(at, key)| keys[..at].contains(key));
        let variant = |key: &&str| known.iter().any(|known| known != key && folds_to(key, known));
        keys.len() <= MOST_KEYS && !twice && !keys.iter().any(variant)
    }
}

/// Whether some reader that ignores case takes `key` for `known`: character by character, by the
/// small letter of either, or the small letter of the capital one.
fn folds_to(key: &str, known: &str) -> bool {
    let small = |c: char| c.to_lowercase().next();
    let capital = |c: char| c.to_uppercase().next().filter(|_| c.to_uppercase().count() == 1);
    let alike = |(c, known): (char, char)| small(c) == small(known) || capital(c).and_then(small) == small(known);
    key.chars().count() == known.chars().count() && key.chars().zip(known.chars()).all(alike)
}

impl<'de> Deserialize<'de> for Plain<'de> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Plain<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Plain<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                    fields.push((key, value.get()));
                }
                Ok(Plain(fields))
            }
        }
        json.deserialize_map(Fields)
    }
}
