//! What is written is read back as it was, by our reader and by another.

use proptest::prelude::*;
use serde_json::json;

use super::super::read::documents;
use super::*;

/// Texts that a careless writer gets wrong.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z/_.-]{0,10}",
        "[ -~]{0,12}",
        "[ \\t\\n#:a-]{0,10}",
        "[0-9xeo_.+-]{0,6}",
        ".{0,6}",
        "[a\\r\u{85}\u{2028}\u{feff}\u{7f}\\\\\"']{0,6}",
        Just("yes".to_owned()),
        Just("-----BEGIN X-----\nAAAA\n-----END X-----\n".to_owned()),
    ]
}

fn nodes() -> impl Strategy<Value = Node> {
    let plain = prop_oneof![
        Just("1"),
        Just("0644"),
        Just("true"),
        Just("no"),
        Just("~"),
        Just("1.50"),
        Just("10m"),
        Just("a b"),
        Just("null")
    ];
    let leaf = prop_oneof![plain.prop_map(|text| Node::Plain(text.into())), texts().prop_map(Node::Text)];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Node::List),
            prop::collection::btree_map(texts(), inner, 0..5)
                .prop_map(|map| Node::Map(map.into_iter().map(|(key, node)| (Key::new(&key), node)).collect())),
        ]
    })
}

/// The one document of a text.
fn read(text: &str) -> Node {
    let found = documents(text).unwrap_or_else(|fault| panic!("{fault:?}\n{text}"));
    let [document] = found.as_slice() else { panic!("{} documents\n{text}", found.len()) };
    document.tree.clone().unwrap_or_else(|| panic!("nothing\n{text}"))
}

/// Strings may have got or lost their quotes, where that changes nothing.
fn meaning(node: &Node) -> serde_json::Value {
    node.value()
}

proptest! {
    #[test]
    fn yaml_is_read_back_as_it_was(node in nodes()) {
        let root = Node::Map(vec![(Key::new("root"), node)]);
        let text = yaml(&root);
        let again = read(&text);
        prop_assert_eq!(meaning(&again), meaning(&root), "{}", text);
        prop_assert_eq!(yaml(&again), text);
    }

    #[test]
    fn json_is_read_back_as_it_was(value in nodes()) {
        // What JSON has no word for does not come from JSON.
        let root = json!({"root": meaning(&value)});
        let tree = read(&root.to_string());
        let text = json(&tree);
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), root.clone());
        prop_assert_eq!(meaning(&read(&text)), root);
    }

    #[test]
    fn another_reader_reads_the_same(value in nodes()) {
        // Only strings: what other scalars are is another reader's own matter.
        fn strings(node: &Node) -> Node {
            match node {
                Node::Plain(text) | Node::Text(text) => Node::Text(text.clone()),
                Node::List(nodes) => Node::List(nodes.iter().map(strings).collect()),
                Node::Map(entries) => Node::Map(entries.iter().map(|(key, node)| (key.clone(), strings(node))).collect()),
            }
        }
        let root = Node::Map(vec![(Key::new("root"), strings(&value))]);
        let text = yaml(&root);
        let other: serde_json::Value = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        prop_assert_eq!(other, meaning(&root), "{}", text);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,40}", yaml in "[a{}\\[\\]:&*<!|>\\n -]{0,40}") {
        let _ = documents(&text);
        let _ = documents(&yaml);
    }
}

#[test]
fn a_document_is_written_as_people_write_it() {
    let text = "\
kind: Pod
metadata:
  labels:
    a/b: \"true\"
    \"yes\": x
spec:
  empty: {}
  none:
  mode: 0644
  flag: yes
  containers:
  - name: a
    args:
    - --x=1
    - \"a: b\"
    - |-
      #!/bin/sh
      exec a
    env: []
  - - nested
    - 1
";
    let tree = read(text);
    assert_eq!(yaml(&tree), text);
}
