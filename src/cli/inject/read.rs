//! From text to trees: the documents of a file, each with the bytes it was written in.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle, Tag};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::tree::{Key, Node};

/// More nodes than any manifest has: an alias may stand for many, and those for many more.
const MAX_NODES: usize = 200_000;
const MAX_DEPTH: usize = 200;

/// How a document was written, and is to be written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// Its bytes in the file. What is between documents belongs to none.
    pub(super) range: Range<usize>,
    /// The line it begins at, counted from 1.
    pub(super) line: usize,
    pub(super) format: Format,
    /// `None` if there are only comments.
    pub(super) tree: Option<Node>,
}

/// Why a file cannot be read. Says where, and never what was found there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) line: usize,
    pub(super) expected: &'static str,
}

/// Every document of a file.
pub(super) fn documents(text: &str) -> Result<Vec<Document>, Unreadable> {
    if text.trim_start().starts_with('{')
        && let Some(documents) = json_documents(text)
    {
        return Ok(documents);
    }
    let mut documents = Vec::new();
    for (range, line) in yaml_ranges(text) {
        let tree = yaml(text.get(range.clone()).unwrap_or_default())
            .map_err(|fault| Unreadable { line: fault.line + line - 1, expected: fault.expected })?;
        documents.push(Document { range, line, format: Format::Yaml, tree });
    }
    Ok(documents)
}

/// The documents of a YAML stream: what is between lines that begin with `---`.
fn yaml_ranges(text: &str) -> Vec<(Range<usize>, usize)> {
    let mut ranges = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if let Some(rest) = line.strip_prefix("---")
            && (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        {
            ranges.push((start..at, start_line));
            let inline = rest.trim();
            // A document may begin on the marker's own line.
            let is_marker = inline.is_empty() || inline.starts_with('#');
            start = if is_marker { at + line.len() } else { at + "---".len() };
            start_line = if is_marker { number + 2 } else { number + 1 };
        }
        at += line.len();
    }
    ranges.push((start..text.len(), start_line));
    ranges
}

// ---- YAML ----

struct Builder {
    anchors: HashMap<usize, Node>,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

struct Open {
    anchor: usize,
    holds: Holds,
}

enum Holds {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, seen: HashSet<String>, key: Option<Key> },
}

fn yaml(text: &str) -> Result<Option<Node>, Unreadable> {
    let mut options = Options::default();
    options.emit_comments = false;
    let mut builder = Builder { anchors: HashMap::new(), open: Vec::new(), root: None, nodes: 0 };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match event {
            Ok(found) => found,
            Err(error) => return Err(Unreadable { line: error.marker().line(), expected: "YAML" }),
        };
        // What is left out is told as a `~` that nobody wrote.
        let event = match event {
            Event::Scalar(_, ScalarStyle::Plain, anchor, tag) if span.is_empty() => {
                Event::Scalar(Cow::Borrowed(""), ScalarStyle::Plain, anchor, tag)
            }
            other => other,
        };
        builder.take(event).map_err(|expected| Unreadable { line: span.start.line(), expected })?;
    }
    Ok(builder.root.filter(|root| *root != Node::Plain(String::new())))
}

impl Builder {
    fn take(&mut self, event: Event<'_>) -> Result<(), &'static str> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = scalar(text.into_owned(), style, tag.as_deref())?;
                self.remember(anchor, &node);
                self.put(node)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or("an anchor before its alias")?;
                self.nodes += size(&node);
                self.put(node)
            }
            Event::SequenceStart(_, anchor, tag) => self.open(anchor, tag.as_deref(), Holds::List(Vec::new())),
            Event::MappingStart(_, anchor, tag) => {
                self.open(anchor, tag.as_deref(), Holds::Map { entries: Vec::new(), seen: HashSet::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Err("YAML") };
                let node = match open.holds {
                    Holds::List(nodes) => Node::List(nodes),
                    Holds::Map { entries, .. } => Node::Map(entries),
                };
                self.remember(open.anchor, &node);
                self.put(node)
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, anchor: usize, tag: Option<&Tag>, holds: Holds) -> Result<(), &'static str> {
        if tag.is_some_and(|tag| !tag.is_yaml_core_schema()) {
            return Err("no tags");
        }
        if self.open.len() >= MAX_DEPTH {
            return Err("fewer levels");
        }
        self.open.push(Open { anchor, holds });
        Ok(())
    }

    fn remember(&mut self, anchor: usize, node: &Node) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
    }

    fn put(&mut self, node: Node) -> Result<(), &'static str> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err("fewer nodes");
        }
        match self.open.last_mut().map(|open| &mut open.holds) {
            None => self.root = Some(node),
            Some(Holds::List(nodes)) => nodes.push(node),
            Some(Holds::Map { entries, seen, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(key_of(node, seen)?),
            },
        }
        Ok(())
    }
}

fn key_of(node: Node, seen: &mut HashSet<String>) -> Result<Key, &'static str> {
    let (text, plain) = match node {
        Node::Plain(text) if text == "<<" => return Err("no merge keys (<<); write out what they stand for"),
        Node::Plain(text) => (text, true),
        Node::Text(text) => (text, false),
        Node::List(_) | Node::Map(_) => return Err("a key that is a string"),
    };
    if !seen.insert(text.clone()) {
        return Err("each key once");
    }
    Ok(Key { text, plain })
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Result<Node, &'static str> {
    let plain = style == ScalarStyle::Plain && !text.contains('\n');
    match tag {
        None if plain => Ok(Node::Plain(text)),
        None => Ok(Node::Text(text)),
        Some(tag) if tag.is_yaml_core_schema_tag("str") => Ok(Node::Text(text)),
        Some(tag) if plain && ["int", "bool", "float", "null"].iter().any(|name| tag.is_yaml_core_schema_tag(name)) => {
            Ok(Node::Plain(text))
        }
        Some(_) => Err("no tags"),
    }
}

fn size(node: &Node) -> usize {
    match node {
        Node::Plain(_) | Node::Text(_) => 1,
        Node::List(nodes) => 1 + nodes.iter().map(size).sum::<usize>(),
        Node::Map(entries) => 1 + entries.iter().map(|(_, node)| size(node)).sum::<usize>(),
    }
}

// ---- JSON ----

/// The documents of a stream of JSON; `None` if it is none, such as YAML in braces.
fn json_documents(text: &str) -> Option<Vec<Document>> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Node>();
    let mut documents = Vec::new();
    let mut from = 0;
    while let Some(value) = values.next() {
        let tree = value.ok()?;
        let end = values.byte_offset();
        let blank = text.get(from..end)?;
        let start = end - blank.trim_start().len();
        let line = text.get(..start)?.matches('\n').count() + 1;
        documents.push(Document { range: start..end, line, format: Format::Json, tree: Some(tree) });
        from = end;
    }
    Some(documents)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Plain("null".into()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Plain(value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Plain(serde_json::Value::from(value).to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let (mut entries, mut seen) = (Vec::new(), HashSet::new());
        while let Some((name, node)) = map.next_entry::<String, Node>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom("each key once"));
            }
            entries.push((Key::new(&name), node));
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ranges(text: &str) -> Vec<&str> {
        documents(text).unwrap().into_iter().map(|document| text.get(document.range).unwrap()).collect()
    }

    #[test]
    fn documents_are_found_with_their_bytes() {
        let text = "# first\na: 1\n--- # second\nb: |\n  x\n  ---\n  y\n---\n--- {c: 3}\n";
        assert_eq!(ranges(text), ["# first\na: 1\n", "b: |\n  x\n  ---\n  y\n", "", " {c: 3}\n"]);
        assert_eq!(ranges("---x: 4\n---\n"), ["---x: 4\n", ""]);
        let found = documents("a: 1\r\n---\r\nb: 2\r\n").unwrap();
        let values: Vec<_> = found.iter().map(|one| one.tree.as_ref().unwrap().value()).collect();
        assert_eq!(values, [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(found.iter().map(|one| one.line).collect::<Vec<_>>(), [1, 3]);
        let json = documents(" {\"a\": 1}\n\n{\"b\": \"\\ud83d\\ude00\"} ").unwrap();
        assert_eq!(
            json.iter().map(|one| (one.line, one.format)).collect::<Vec<_>>(),
            [(1, Format::Json), (3, Format::Json)]
        );
        assert_eq!(json[1].tree.as_ref().unwrap().value(), json!({"b": "\u{1f600}"}));
        assert_eq!(documents("{a: 1}\n").unwrap()[0].format, Format::Yaml);
        assert!(documents("# nothing\n").unwrap()[0].tree.is_none());
    }

    #[test]
    fn what_two_readers_could_read_differently_is_told_with_its_line() {
        for (text, line, expected) in [
            ("a: 1\na: 2\n", 2, "each key once"),
            ("x: 1\n---\na: {b: 1, b: 2}\n", 3, "each key once"),
            ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "no merge keys (<<); write out what they stand for"),
            ("a: !secret x\n", 1, "no tags"),
            ("a: !!binary eA==\n", 1, "no tags"),
            ("? [a]\n: 1\n", 1, "a key that is a string"),
            ("b: 1\na: [\n", 2, "YAML"),
            ("a: 1\n b: 2\n", 2, "YAML"),
            ("a: *x\n", 1, "YAML"),
        ] {
            assert_eq!(documents(text).unwrap_err(), Unreadable { line, expected }, "{text}");
        }
        let bomb = (1..12).fold("a0: &a0 [x, x, x, x]\n".to_owned(), |text, n| {
            let m = n - 1;
            format!("{text}a{n}: &a{n} [*a{m}, *a{m}, *a{m}, *a{m}, *a{m}, *a{m}, *a{m}, *a{m}]\n")
        });
        assert_eq!(documents(&bomb).unwrap_err().expected, "fewer nodes");
        assert_eq!(documents(&"- ".repeat(300)).unwrap_err().expected, "fewer levels");
    }

    #[test]
    fn aliases_stand_for_what_they_name() {
        let found = documents("a: &x {b: !!str 1}\nc: *x\n").unwrap();
        assert_eq!(found[0].tree.as_ref().unwrap().value(), json!({"a": {"b": "1"}, "c": {"b": "1"}}));
    }
}
