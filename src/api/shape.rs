//! The shape of a document: which fields there are and what kind each has.
//!
//! Checked before serde reads it, because serde stops at the first fault and quotes the value it
//! found there. Here every fault is collected, and none quotes a value: a token pasted into the
//! wrong field must not end up in a log.

use serde_yaml::{Mapping, Value};

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A string.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number, not negative.
    Number,
    /// A list of strings.
    Texts,
    /// Anything, not looked at.
    Any,
    /// An object with exactly these fields.
    Map(Fields),
    /// An object with these fields and any others.
    Open(Fields),
}

/// The fields of an object.
pub type Fields = &'static [(&'static str, Shape)];

/// One thing wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where: `spec.server.url`.
    pub path: String,
    /// What must be there instead.
    pub expected: String,
}

impl Fault {
    /// A fault at `path`; `expected` reads after "must be" or stands alone.
    pub fn new(path: impl Into<String>, expected: impl ToString) -> Self {
        Self { path: path.into(), expected: expected.to_string() }
    }
}

/// The text for anything that asks for a stdio server.
pub const NO_STDIO: &str = "no stdio server: stdio_unsupported, Postern guards network calls only. Run the server behind Streamable HTTP and give its https url in server.url";

/// Collects every fault of `value`, and removes what is faulty so that the rest can still be read.
pub fn check(value: &mut Value, fields: Fields, path: &str, faults: &mut Vec<Fault>) {
    let Value::Mapping(map) = value else {
        faults.push(Fault::new(path, "an object"));
        *value = Value::Mapping(Mapping::new());
        return;
    };
    check_map(map, fields, false, path, faults);
}

fn check_map(map: &mut Mapping, fields: Fields, open: bool, path: &str, faults: &mut Vec<Fault>) {
    let keys: Vec<Value> = map.keys().cloned().collect();
    for key in keys {
        let name = key.as_str().unwrap_or_default();
        let at = join(path, &printable(name));
        let shape = fields.iter().find(|(field, _)| *field == name).map(|(_, shape)| *shape);
        let keep = match (shape, map.get_mut(&key)) {
            (Some(shape), Some(value)) => check_value(value, shape, &at, faults),
            _ if open => true,
            _ => {
                faults.push(Fault::new(at, unknown(name, fields)));
                false
            }
        };
        if !keep {
            map.remove(&key);
        }
    }
}

fn check_value(value: &mut Value, shape: Shape, path: &str, faults: &mut Vec<Fault>) -> bool {
    let expected = match (shape, &mut *value) {
        (Shape::Any, _)
        | (Shape::Text, Value::String(_))
        | (Shape::Bool, Value::Bool(_))
        // `field:` with nothing behind it is a field left out.
        | (_, Value::Null) => return true,
        (Shape::Number, Value::Number(number)) if number.is_u64() => return true,
        (Shape::Texts, Value::Sequence(items)) if items.iter().all(Value::is_string) => return true,
        (Shape::Map(fields), Value::Mapping(map)) => {
            check_map(map, fields, false, path, faults);
            return true;
        }
        (Shape::Open(fields), Value::Mapping(map)) => {
            check_map(map, fields, true, path, faults);
            return true;
        }
        (Shape::Text, _) => "a string",
        (Shape::Bool, _) => "true or false",
        (Shape::Number, _) => "a whole number",
        (Shape::Texts, _) => "a list of strings",
        (Shape::Map(_) | Shape::Open(_), _) => "an object",
    };
    faults.push(Fault::new(path, expected));
    false
}

fn unknown(name: &str, fields: Fields) -> String {
    if matches!(name, "command" | "args" | "stdio" | "transport" | "cmd") {
        return NO_STDIO.to_owned();
    }
    let known: Vec<&str> = fields.iter().map(|(field, _)| *field).collect();
    format!("no such field; the fields here are {}", known.join(", "))
}

/// `a.b`.
pub fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// A key as it may be printed: a name, not whatever someone pasted there. No field has a digit in
/// its name, and a token has.
fn printable(key: &str) -> String {
    let name = |b: u8| b.is_ascii_alphabetic() || matches!(b, b'-' | b'_');
    if !key.is_empty() && key.len() <= 40 && key.bytes().all(name) {
        key.to_owned()
    } else {
        "(unprintable key)".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: Fields = &[
        ("name", Shape::Text),
        ("on", Shape::Bool),
        ("list", Shape::Texts),
        ("sub", Shape::Map(&[("port", Shape::Number)])),
    ];

    #[test]
    fn every_fault_is_found_and_no_value_is_quoted() {
        let mut value: Value = serde_yaml::from_str("name: [sk-live-1]\non: sk-live-2\nlist: [1]\nsub: {port: -1, x: sk-live-3}\ncommand: sk-live-4\nsk live 5: 1\nsk-live-6: 1").unwrap();
        let mut faults = Vec::new();
        check(&mut value, FIELDS, "", &mut faults);
        let text = format!("{faults:?}");
        assert!(!text.contains("sk"), "{text}");
        let paths: Vec<_> = faults.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(
            paths,
            ["name", "on", "list", "sub.port", "sub.x", "command", "(unprintable key)", "(unprintable key)"]
        );
        assert_eq!(faults.get(5).map(|f| f.expected.as_str()), Some(NO_STDIO));
        assert_eq!(serde_yaml::to_string(&value).unwrap().trim(), "sub: {}");
    }
}
