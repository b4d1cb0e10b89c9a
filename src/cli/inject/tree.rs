//! A manifest as a tree that keeps what a value type would lose: the order of keys, and how each
//! scalar was written. `0644`, `yes` and `"yes"` go out as they came in.

use serde_json::{Map, Number, Value};

use crate::core::patch::Patch;

/// One node of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A scalar without quotes: what it means depends on its text.
    Plain(String),
    /// A scalar in quotes or a block: always a string.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) text: String,
    /// Whether it goes without quotes.
    pub(super) plain: bool,
}

impl Node {
    /// What stands below a key.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
    }

    /// Likewise, to be changed.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter_mut().find(|(key, _)| key.text == name).map(|(_, node)| node)
    }

    /// The text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Plain(text) | Self::Text(text) => Some(text),
            Self::List(_) | Self::Map(_) => None,
        }
    }

    /// What the API server would get.
    pub(super) fn value(&self) -> Value {
        match self {
            Self::Plain(text) => resolved(text),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(nodes) => nodes.iter().map(Self::value).collect(),
            Self::Map(entries) => {
                entries.iter().map(|(key, node)| (key.text.clone(), node.value())).collect::<Map<_, _>>().into()
            }
        }
    }

    /// Applies a patch. `None` if it does not fit, which a patch made for [`value`](Self::value) does.
    pub(super) fn apply(&mut self, patch: &Patch) -> Option<()> {
        for operation in patch.operations() {
            let steps: Vec<String> = operation.path.steps().collect();
            let (last, above) = steps.split_last()?;
            let place = above.iter().try_fold(&mut *self, |node, step| node.step(step))?;
            let added = Self::from_value(&operation.value);
            match place {
                Self::List(nodes) if last == "-" => nodes.push(added),
                Self::List(nodes) => {
                    let index = last.parse().ok().filter(|index| *index <= nodes.len())?;
                    nodes.insert(index, added);
                }
                Self::Map(entries) => match entries.iter_mut().find(|(key, _)| key.text == *last) {
                    Some((_, there)) => *there = added,
                    None => entries.push((Key::new(last), added)),
                },
                Self::Plain(_) | Self::Text(_) => return None,
            }
        }
        Some(())
    }

    fn step(&mut self, step: &str) -> Option<&mut Self> {
        match self {
            Self::List(nodes) => nodes.get_mut(step.parse::<usize>().ok()?),
            other => other.get_mut(step),
        }
    }

    fn from_value(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(list) => Self::List(list.iter().map(Self::from_value).collect()),
            Value::Object(map) => {
                let mut entries: Vec<_> =
                    map.iter().map(|(name, value)| (Key::new(name), Self::from_value(value))).collect();
                // A thing begins with its name.
                entries.sort_by_key(|(key, _)| key.text != "name");
                Self::Map(entries)
            }
            other => Self::Plain(other.to_string()),
        }
    }
}

impl Key {
    /// A key that needs no quotes where its text allows that.
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.to_owned(), plain: is_plain_string(text) }
    }
}

/// Whether a string is read back as that string, by every reader, if it is written without quotes.
pub(super) fn is_plain_string(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/' || b == b'_');
    let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    let letters = ["y", "n"].iter().any(|letter| text.eq_ignore_ascii_case(letter));
    first && rest && !letters && matches!(resolved(text), Value::String(_))
}

/// What a scalar without quotes means to kubectl, whose YAML is older than 1.2. A text about which
/// its versions differ stays a string: where a rule wants a flag or a number, it is refused then.
fn resolved(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let first = digits.bytes().next()?;
    if !first.is_ascii_digit() && first != b'.' {
        return None;
    }
    let digits = digits.replace('_', "");
    let of = |prefixes: [&str; 2], radix| {
        prefixes.iter().find_map(|prefix| i64::from_str_radix(digits.strip_prefix(prefix)?, radix).ok())
    };
    let whole = of(["0x", "0X"], 16)
        .or_else(|| of(["0b", "0B"], 2))
        .or_else(|| of(["0o", "0O"], 8))
        .or_else(|| of(["0", "00"], 8).filter(|_| digits.len() > 1))
        .or_else(|| digits.parse::<i64>().ok());
    match whole {
        Some(whole) => Some(Number::from(if negative { -whole } else { whole })),
        None if digits.bytes().all(|b| b.is_ascii_digit()) && !negative => digits.parse::<u64>().ok().map(Number::from),
        None => {
            let is_float = digits.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
            let float = digits.parse::<f64>().ok().filter(|_| is_float)?;
            Number::from_f64(if negative { -float } else { float })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::patch::Pointer;

    #[test]
    fn scalars_mean_what_they_mean_to_kubectl() {
        for (text, value) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("y", json!("y")),
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("0x10", json!(16)),
            ("64_321", json!(64321)),
            ("-1", json!(-1)),
            ("18446744073709551615", json!(u64::MAX)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            ("0.1.0", json!("0.1.0")),
            ("10m", json!("10m")),
            ("08", json!(8)),
            ("-", json!("-")),
            ("a: b", json!("a: b")),
        ] {
            assert_eq!(Node::Plain(text.into()).value(), value, "{text}");
            assert_eq!(Node::Text(text.into()).value(), json!(text));
        }
    }

    #[test]
    fn only_harmless_strings_go_without_quotes() {
        for plain in ["name", "a/b.c-d_e", "/var/run", "_x", "TRUE1"] {
            assert!(is_plain_string(plain), "{plain}");
        }
        for quoted in ["", "yes", "NO", "y", "null", "1", "1a", "-", ".5", "a b", "a:", "#", "é", "*a", "true", "1e3"]
        {
            assert!(!is_plain_string(quoted), "{quoted}");
        }
    }

    #[test]
    fn a_patch_is_applied_in_place() {
        let key = |text: &str| Key::new(text);
        let mut tree = Node::Map(vec![
            (key("z"), Node::Plain("1".into())),
            (key("l"), Node::List(vec![Node::Map(vec![])])),
            (key("n"), Node::Plain(String::new())),
        ]);
        let mut patch = Patch::default();
        let root = Pointer::root();
        patch.add(root.member("l").element(0).member("a/b"), json!("x"));
        patch.add(root.member("l").element(0), json!({"b": 1, "name": "first"}));
        patch.add(root.member("l").end(), json!(true));
        patch.add(root.member("n"), json!([]));
        tree.apply(&patch).unwrap();
        assert_eq!(tree.value(), json!({"z": 1, "l": [{"name": "first", "b": 1}, {"a/b": "x"}, true], "n": []}));
        let Node::Map(entries) = &tree else { panic!() };
        let keys: Vec<_> = entries.iter().map(|(key, _)| key.text.as_str()).collect();
        assert_eq!(keys, ["z", "l", "n"]);
        let mut nowhere = Patch::default();
        nowhere.add(root.member("z").member("deep"), json!(1));
        assert_eq!(tree.apply(&nowhere), None);
    }
}
