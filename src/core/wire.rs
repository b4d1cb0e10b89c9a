//! What a broker tells a sidecar: one JSON document a line, versioned.
//!
//! A snapshot is everything that its caller has, and replaces the one before: there is no change
//! to lose. An empty one is a valid answer. A line of a type that the reader does not know is
//! passed over, and so is a field; only another `v` ends the talk. Values travel as base64 and are
//! never held in a type that could be printed.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::secret::{SecretFault, SecretValue};

/// The version this side writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// The longest line a reader takes: a thousand bindings with values of ordinary length.
pub const MAX_LINE_BYTES: usize = 8 << 20;

/// One line.
pub enum Message {
    /// The first line: what the reader can count on.
    Hello(Terms),
    /// Everything the caller has.
    Snapshot(Snapshot),
    /// The broker is alive, and so is what it told last.
    Heartbeat,
    /// The broker is about to end this stream: its time is over, or it shuts down.
    Goodbye,
    /// Of a type that came after this reader.
    Unknown,
}

/// What a reader of a stream can count on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Something comes at least this often.
    pub heartbeat: Duration,
    /// The stream ends after this long, or shortly before.
    pub life: Duration,
}

/// What one caller has, oldest binding first.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The bindings with their values.
    pub items: Vec<Item>,
}

/// One binding and what its references lead to.
#[derive(Clone)]
pub struct Item {
    /// The binding's document as JSON: `apiVersion`, `kind`, `metadata` (name, namespace), `spec`.
    pub document: Arc<RawValue>,
    /// Its value, or why there is none. For `Basic`: user, colon, password.
    pub value: Result<Value, Gap>,
    /// Its CA bundle as PEM, if it names one.
    pub ca_bundle: Option<Result<Arc<str>, Gap>>,
}

/// A value and what is known about it.
#[derive(Clone)]
pub struct Value {
    /// The secret itself.
    pub secret: Arc<SecretValue>,
    /// The Secret's resourceVersion.
    pub version: String,
    /// When the broker saw it change, in milliseconds since 1970; not known for one that was
    /// there when the broker started.
    pub changed: Option<u64>,
}

/// Why a reference leads to nothing usable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The kind of it.
    pub cause: Cause,
    /// For people: what exactly is missing or wrong. Never a value.
    pub text: String,
}

/// The closed list of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// There is no such Secret, ConfigMap or key.
    Absent,
    /// The value breaks a rule.
    Invalid,
    /// The Secret's owner has not consented to this use.
    NotConsented,
    /// The broker has no right to read in that namespace.
    NotGranted,
    /// A cause that came after this reader: refused like the others.
    #[serde(other)]
    Other,
}

/// Why a line cannot be read. Quotes nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not the JSON that was expected.
    #[error("the line is not a message")]
    Malformed,
    /// Another protocol.
    #[error("the broker speaks another version of the protocol")]
    Version,
    /// A value that the broker should not have sent.
    #[error("a value is not usable: {0}")]
    Value(#[from] SecretFault),
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    v: u32,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    items: Option<Vec<LineItem<'a>>>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "heartbeatMs")]
    heartbeat_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "lifeMs")]
    life_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Head<'a> {
    v: u32,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct LineItem<'a> {
    #[serde(borrow)]
    document: &'a RawValue,
    /// Base64.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gap: Option<Gap>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none", rename = "caBundle")]
    ca_bundle: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "caBundleGap")]
    ca_bundle_gap: Option<Gap>,
}

/// Writes a message as one line, line end included. Wipe the result: the type sees to it.
pub fn encode(message: &Message) -> Zeroizing<Vec<u8>> {
    let (kind, snapshot, terms) = match message {
        Message::Hello(terms) => ("hello", None, Some(terms)),
        Message::Snapshot(snapshot) => ("snapshot", Some(snapshot), None),
        Message::Heartbeat => ("heartbeat", None, None),
        Message::Goodbye | Message::Unknown => ("goodbye", None, None),
    };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (heartbeat_ms, life_ms) = (terms.map(|terms| millis(terms.heartbeat)), terms.map(|terms| millis(terms.life)));
    let values: Vec<Option<Zeroizing<String>>> = snapshot
        .iter()
        .flat_map(|snapshot| &snapshot.items)
        .map(|item| item.value.as_ref().ok().map(encoded))
        .collect();
    let items = snapshot.map(|snapshot| snapshot.items.iter().zip(&values).map(line_item).collect());
    // Sized beforehand: a buffer that grows leaves copies behind that nobody wipes.
    let size = 96 + snapshot.map_or(0, |snapshot| snapshot.items.iter().zip(&values).map(size).sum());
    let mut out = Zeroizing::new(Vec::with_capacity(size));
    // Writing to memory cannot fail, and these types always serialise.
    let _written = serde_json::to_writer(&mut *out, &Line { v: VERSION, kind, items, heartbeat_ms, life_ms });
    out.push(b'\n');
    out
}

fn line_item<'a>((item, encoded): (&'a Item, &'a Option<Zeroizing<String>>)) -> LineItem<'a> {
    let known = item.value.as_ref().ok();
    let bundle = item.ca_bundle.as_ref();
    LineItem {
        document: &item.document,
        value: encoded.as_ref().map(|text| text.as_str()),
        version: known.map(|value| value.version.clone()),
        changed: known.and_then(|value| value.changed),
        gap: item.value.as_ref().err().cloned(),
        ca_bundle: bundle.and_then(|bundle| bundle.as_deref().ok()).map(Cow::Borrowed),
        ca_bundle_gap: bundle.and_then(|bundle| bundle.as_ref().err()).cloned(),
    }
}

/// At most this many bytes; texts may double when escaped.
fn size((item, value): (&Item, &Option<Zeroizing<String>>)) -> usize {
    let gap = |gap: &Gap| 2 * gap.text.len();
    let bundle = item.ca_bundle.as_ref().map_or(0, |bundle| bundle.as_ref().map_or_else(gap, |pem| 2 * pem.len()));
    let version = item.value.as_ref().map_or_else(gap, |value| 2 * value.version.len());
    256 + item.document.get().len() + value.as_ref().map_or(0, |text| text.len()) + version + bundle
}

#[expect(clippy::disallowed_methods, reason = "the broker's answer to the one caller whose value it is")]
fn encoded(value: &Value) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(value.secret.expose()))
}

/// Reads one line, with or without its end.
pub fn decode(line: &[u8]) -> Result<Message, WireError> {
    // Before the rest: of another version or type, its fields may mean anything.
    let head: Head<'_> = serde_json::from_slice(line).map_err(|_| WireError::Malformed)?;
    if head.v != VERSION {
        return Err(WireError::Version);
    }
    if !["hello", "heartbeat", "goodbye", "snapshot"].contains(&&*head.kind) {
        return Ok(Message::Unknown);
    }
    let line: Line<'_> = serde_json::from_slice(line).map_err(|_| WireError::Malformed)?;
    match line.kind {
        "hello" => {
            let millis = |millis: Option<u64>| millis.map(Duration::from_millis).ok_or(WireError::Malformed);
            Ok(Message::Hello(Terms { heartbeat: millis(line.heartbeat_ms)?, life: millis(line.life_ms)? }))
        }
        "heartbeat" => Ok(Message::Heartbeat),
        "goodbye" => Ok(Message::Goodbye),
        "snapshot" => {
            let items = line.items.ok_or(WireError::Malformed)?;
            let items = items.into_iter().map(item).collect::<Result<_, _>>()?;
            Ok(Message::Snapshot(Snapshot { items }))
        }
        _ => Ok(Message::Unknown),
    }
}

fn item(line: LineItem<'_>) -> Result<Item, WireError> {
    let value = match (line.value, line.gap) {
        (Some(text), None) => Ok(Value {
            secret: Arc::new(secret(text)?),
            version: line.version.unwrap_or_default(),
            changed: line.changed,
        }),
        (None, Some(gap)) => Err(gap),
        _ => return Err(WireError::Malformed),
    };
    let ca_bundle = match (line.ca_bundle, line.ca_bundle_gap) {
        (Some(pem), None) => Some(Ok(pem.into())),
        (None, Some(gap)) => Some(Err(gap)),
        (None, None) => None,
        (Some(_), Some(_)) => return Err(WireError::Malformed),
    };
    Ok(Item { document: Arc::from(line.document.to_owned()), value, ca_bundle })
}

fn secret(text: &str) -> Result<SecretValue, WireError> {
    // Room for all of it at once, for the same reason as above.
    let mut bytes = Vec::with_capacity(text.len());
    match STANDARD.decode_vec(text, &mut bytes) {
        Ok(()) => Ok(SecretValue::parse(bytes)?),
        Err(_) => {
            drop(Zeroizing::new(bytes));
            Err(WireError::Malformed)
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
