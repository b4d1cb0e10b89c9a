//! From trees to text: YAML that every version of YAML reads alike, or JSON.

use std::fmt::Write as _;

use super::tree::{Key, Node, is_plain_string};

/// As YAML, ending with a line break.
pub(super) fn yaml(node: &Node) -> String {
    let mut text = String::new();
    block(node, 0, &mut text);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// Writes what stands on lines of its own; the first line has been indented already.
fn block(node: &Node, indent: usize, out: &mut String) {
    match node {
        Node::Map(entries) if !entries.is_empty() => {
            for (index, (key, value)) in entries.iter().enumerate() {
                if index > 0 {
                    pad(indent, out);
                }
                write_key(key, out);
                out.push(':');
                below(value, indent, out);
            }
        }
        Node::List(nodes) if !nodes.is_empty() => {
            for (index, item) in nodes.iter().enumerate() {
                if index > 0 {
                    pad(indent, out);
                }
                out.push('-');
                if matches!(item, Node::Map(entries) if !entries.is_empty())
                    || matches!(item, Node::List(nodes) if !nodes.is_empty())
                {
                    out.push(' ');
                    block(item, indent + 2, out);
                } else {
                    below(item, indent, out);
                }
            }
        }
        other => {
            scalar(other, indent, out);
            out.push('\n');
        }
    }
}

/// Writes a value behind `key:` or `-`.
fn below(value: &Node, indent: usize, out: &mut String) {
    match value {
        Node::Map(entries) if !entries.is_empty() => {
            out.push('\n');
            pad(indent + 2, out);
            block(value, indent + 2, out);
        }
        // As kubectl writes them: not further in than their key.
        Node::List(nodes) if !nodes.is_empty() => {
            out.push('\n');
            pad(indent, out);
            block(value, indent, out);
        }
        Node::Plain(text) if text.is_empty() => out.push('\n'),
        other => {
            out.push(' ');
            scalar(other, indent + 2, out);
            out.push('\n');
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn write_key(key: &Key, out: &mut String) {
    if key.plain {
        out.push_str(&key.text);
    } else {
        quoted(&key.text, out);
    }
}

fn scalar(node: &Node, indent: usize, out: &mut String) {
    match node {
        Node::Plain(text) => out.push_str(text),
        Node::Text(text) if is_plain_string(text) => out.push_str(text),
        Node::Text(text) if is_literal(text) => literal(text, indent, out),
        Node::Text(text) => quoted(text, out),
        Node::List(_) => out.push_str("[]"),
        Node::Map(_) => out.push_str("{}"),
    }
}

/// Whether a text reads back the same from a literal block: nothing that is escaped, nothing that
/// would look like indentation.
fn is_literal(text: &str) -> bool {
    let lines = || text.trim_end_matches('\n').split('\n');
    text.contains('\n')
        && !text.starts_with(['\n', ' '])
        && !text.trim_end_matches('\n').is_empty()
        && text.chars().all(|c| c == '\n' || !needs_escape(c))
        && lines().all(|line| !line.starts_with('\t') && (line.is_empty() || !line.trim().is_empty()))
}

fn literal(text: &str, indent: usize, out: &mut String) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(indent, out);
            out.push_str(line);
        }
    }
    // The caller ends the last line.
    out.extend(std::iter::repeat_n('\n', (text.len() - body.len()).saturating_sub(1)));
}

/// Characters that some version of YAML breaks lines at, or does not print.
fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            // No control character lies beyond this plane.
            c if needs_escape(c) => {
                let _infallible = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// As JSON.
pub(super) fn json(node: &Node) -> String {
    let mut text = String::new();
    json_node(node, 0, &mut text);
    text
}

fn json_node(node: &Node, indent: usize, out: &mut String) {
    let inner = indent + 4;
    match node {
        Node::Plain(text) => out.push_str(text),
        Node::Text(text) => quoted(text, out),
        Node::List(nodes) => {
            let items = nodes.iter().map(|node| (None, node));
            json_items(items, ['[', ']'], inner, out);
        }
        Node::Map(entries) => {
            let items = entries.iter().map(|(key, node)| (Some(key), node));
            json_items(items, ['{', '}'], inner, out);
        }
    }
}

fn json_items<'a>(
    items: impl Iterator<Item = (Option<&'a Key>, &'a Node)>,
    [open, close]: [char; 2],
    indent: usize,
    out: &mut String,
) {
    out.push(open);
    let mut is_empty = true;
    for (key, node) in items {
        out.push_str(if is_empty { "\n" } else { ",\n" });
        is_empty = false;
        pad(indent, out);
        if let Some(key) = key {
            quoted(&key.text, out);
            out.push_str(": ");
        }
        json_node(node, indent, out);
    }
    if !is_empty {
        out.push('\n');
        pad(indent - 4, out);
    }
    out.push(close);
}

#[cfg(test)]
#[path = "round_trip_tests.rs"]
mod tests;
