//! JSON is held against a well-known reader of it.

use super::*;
use proptest::prelude::*;
use serde::de::IgnoredAny;

fn passes(text: &str) -> bool {
    let mut reader = Reader::new(text);
    reader.pass().and_then(|()| reader.end()).is_some()
}

#[test]
fn texts_are_unescaped_or_told_not_to_be() {
    let rows = [
        (r#""a""#, Some(Some("a"))),
        (r#" "é\n\u00e9\ud83d\ude00" "#, Some(Some("é\né\u{1f600}"))),
        (r#""\ud83d""#, Some(None)),
        ("[1]", Some(None)),
        (r#""\x""#, None),
        ("\"\n\"", None),
        (r#""a"#, None),
    ];
    for (text, expected) in rows {
        let read = Reader::new(text).text_or_other();
        assert_eq!(read.as_ref().map(Option::as_deref), expected, "{text}");
        assert_eq!(Reader::new(text).text().as_deref(), expected.flatten(), "{text}");
    }
}

fn is_special(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < 0x20
}

#[test]
fn every_byte_is_told_at_every_place() {
    for byte in 0..=u8::MAX {
        // Beside bytes that are plain by little.
        for other in [b'!', b'#', b' ', b'[', b']', 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
            for place in 0..8 {
                let mut eight = [other; 8];
                eight[place] = byte;
                assert_eq!(first_special(&eight), is_special(byte).then_some(place), "{eight:?}");
            }
        }
    }
}

const TOKENS: [&str; 42] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "\n",
    "\t",
    "\u{b}",
    "\"",
    "\"a\"",
    "\"k\":",
    "\"é\"",
    "\"\\n\"",
    "\"\\u00e9\"",
    "\"\\ud800\"",
    "\"\\u00e\"",
    "\"\\a\"",
    "\"\u{1f}\"",
    "\"\u{7f}\"",
    "\\",
    "0",
    "-",
    "1",
    "12",
    "01",
    "-0",
    "1.",
    "1.5",
    ".5",
    "1e",
    "1e5",
    "1E+5",
    "1e-",
    "true",
    "tru",
    "false",
    "null",
    "nul",
    "{}",
    "[]",
];

/// In texts of several blocks, at both sides of each edge; and where nothing ends them, nothing is found.
#[test]
fn blocks_hide_nothing() {
    let plain = vec![b'x'; SHORT + 2 * BLOCK + 9];
    for edge in [SHORT, SHORT + BLOCK, SHORT + 2 * BLOCK, plain.len() - 1] {
        for at in edge.saturating_sub(1)..(edge + 2).min(plain.len()) {
            for special in [b'"', b'\\', 0x1f] {
                let mut text = plain.clone();
                text[at] = special;
                // Of a control character it may be told as well that there is no end.
                let told = special >= 0x20 || at < SHORT;
                assert_eq!(end_of_plain(&text), told.then_some(at), "{special} at {at}");
                text.push(b'"');
                assert_eq!(end_of_plain(&text), told.then_some(at), "{special} at {at}, and a quote behind all");
            }
        }
    }
    assert_eq!(end_of_plain(&plain), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Strings of every length, with much or little behind them, are read as a well-known reader does.
    #[test]
    fn strings_are_read_and_passed(parts in proptest::collection::vec(part(), 0..5), behind in 0usize..20, cut in 0usize..3) {
        let text = format!("\"{}\"", parts.concat());
        let text = text.get(..text.len().saturating_sub(cut)).unwrap_or(&text);
        let padded = format!("{text}{}", " ".repeat(behind));
        let is_json = serde_json::from_str::<IgnoredAny>(&padded).is_ok();
        let meant: Option<Cow<'_, str>> = serde_json::from_str(&padded).ok().map(Cow::Owned);
        prop_assert_eq!(passes(&padded), is_json, "{:?}", padded);
        let mut reader = Reader::new(&padded);
        let read = reader.text_or_other().filter(|_| reader.end().is_some());
        prop_assert_eq!(read, is_json.then(|| meant.clone()), "{:?}", padded);
        let mut reader = Reader::new(&padded);
        let read = reader.text().filter(|_| reader.end().is_some());
        prop_assert_eq!(read, meant, "{:?}", padded);
    }

    /// The first byte that is not plain is found, wherever it is.
    #[test]
    fn what_is_plain_ends_at_the_first_that_is_not(plain in "[ -!#-\\[\\]-\u{7f}é\u{2028}]{0,300}", rest in "[\"\\\\\u{0}-\u{1f}a]{0,20}") {
        let text = [plain, rest].concat().into_bytes();
        let first = text.iter().position(|byte| is_special(*byte));
        // Of a control character it may be told as well that there is no end.
        let end = end_of_plain(&text);
        prop_assert!(end == first || end.is_none() && first.is_some_and(|first| text[first] < 0x20), "{:?}", text);
    }

    /// However deep, each bracket is closed by its own.
    #[test]
    fn depth_is_kept_in_mind(opened in proptest::collection::vec(any::<bool>(), 0..300), wrong in any::<Option<prop::sample::Index>>()) {
        let opening: String = opened.iter().map(|object| if *object { "{\"\":" } else { "[" }).collect();
        let mut closing: Vec<u8> = opened.iter().rev().map(|object| if *object { b'}' } else { b']' }).collect();
        if let (Some(wrong), false) = (wrong, closing.is_empty()) {
            let wrong = wrong.index(closing.len());
            closing[wrong] ^= b'}' ^ b']';
        }
        let text = format!("{opening}0{}", String::from_utf8(closing).unwrap());
        prop_assert_eq!(passes(&text), wrong.is_none() || opened.is_empty(), "{}", text);
    }

    /// What passes is what a well-known reader takes for JSON.
    #[test]
    fn only_json_passes(tokens in proptest::collection::vec(proptest::sample::select(TOKENS.to_vec()), 0..9)) {
        let text = tokens.concat();
        prop_assert_eq!(passes(&text), serde_json::from_str::<IgnoredAny>(&text).is_ok(), "{:?}", text);
    }

    /// Documents, and documents with one byte more or less.
    #[test]
    fn documents_pass_and_broken_ones_do_not(value in document(), at in any::<prop::sample::Index>(), byte in proptest::sample::select(b"{}[],:\"\\ 0a\x1f\n".to_vec())) {
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            prop_assert!(passes(&text), "{}", text);
            let at = at.index(text.len());
            let (mut more, mut less) = (text.clone().into_bytes(), text.into_bytes());
            more.insert(at, byte);
            less.remove(at);
            for broken in [more, less].into_iter().filter_map(|bytes| String::from_utf8(bytes).ok()) {
                prop_assert_eq!(passes(&broken), serde_json::from_str::<IgnoredAny>(&broken).is_ok(), "{:?}", broken);
            }
        }
    }
}

fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z ]{0,50}",
        "[é\u{7f}\u{1f600}!#]{0,9}",
        Just("\\".to_owned()),
        Just("\"".to_owned()),
        proptest::sample::select(
            ["\\n", "\\u00e9", "\\ud83d\\ude00", "\\ud83d", "\\x", "\n", "\0", "\u{1f}"].map(str::to_owned).to_vec()
        ),
    ]
}

fn document() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "[a\"\\\\\n\u{0}é\u{1f600}]{0,9}".prop_map(Into::into),
        // Long enough to be searched.
        "a{20,60}[\"é\u{7f}]?".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::btree_map("[a\"é]{0,3}", inner, 0..4)
                .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
        ]
    })
}
