//! The mask, whole and in pieces.

use super::*;
use proptest::prelude::*;

const VALUE: &str = "s3cr/t+\"va lue\"=9x";

fn masked(mask: &Mask, text: &[u8], piece: usize) -> (Vec<u8>, u64) {
    let (mut masker, mut out) = (Masker::default(), Vec::new());
    for chunk in text.chunks(piece.max(1)) {
        out.extend_from_slice(&masker.pass(mask, Bytes::copy_from_slice(chunk)));
    }
    out.extend_from_slice(&masker.finish(mask));
    (out, masker.count())
}

/// In pieces of these lengths, over and over.
fn masked_unevenly(mask: &Mask, text: &[u8], lengths: &[usize]) -> Vec<u8> {
    let (mut masker, mut out, mut rest) = (Masker::default(), Vec::new(), text);
    for length in lengths.iter().cycle() {
        let (piece, behind) = rest.split_at((*length).min(rest.len()));
        out.extend_from_slice(&masker.pass(mask, Bytes::copy_from_slice(piece)));
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    out.extend_from_slice(&masker.finish(mask));
    out
}

/// Each form by a hand that is not the code's.
fn forms() -> Vec<String> {
    let b64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    vec![
        VALUE.into(),
        b64(VALUE),
        b64(&format!("a{VALUE}")),
        b64(&format!("user:{VALUE}")),
        b64(&format!("xy{VALUE}z")),
        base64::engine::general_purpose::URL_SAFE.encode(VALUE),
        "s3cr%2Ft%2B%22va%20lue%22%3D9x".into(),
        "s3cr%2ft%2b%22va%20lue%22%3d9x".into(),
        "s3cr%2Ft%2B%22va+lue%22%3D9x".into(),
        "s3cr/t+\\\"va lue\\\"=9x".into(),
        "s3cr\\/t+\\\"va lue\\\"=9x".into(),
        "s3cr\\u002ft\\u002b\\u0022va lue\\u0022\\u003d9x".into(),
        "s3cr/t%2B%22va+lue%22=9x".into(),
    ]
}

#[test]
fn every_form_is_masked_at_every_split() {
    let mask = Mask::new([VALUE.as_bytes()]);
    for form in forms() {
        let text = format!("data: {{\"echo\":\"{form}\"}}\n\n");
        let (whole, count) = masked(&mask, text.as_bytes(), usize::MAX);
        assert_eq!((whole.len(), count), (text.len(), 1), "{form}");
        // Enough of it is gone that the value cannot be had back: at most the edge characters of
        // a base64 text, which mix with their neighbours, remain.
        let left = String::from_utf8(whole.clone()).unwrap();
        assert!(left.matches('*').count() + 12 >= form.len(), "{left}");
        assert!(!left.contains(&form), "{left}");
        for piece in 1..text.len() {
            assert_eq!(masked(&mask, text.as_bytes(), piece), (whole.clone(), 1), "{form} by {piece}");
        }
    }
}

#[test]
fn a_complete_event_is_never_held() {
    let mask = Mask::new([VALUE.as_bytes()]);
    for text in ["data: s3cr\n\n", "data: s\r\n\r\n", ": ping\n\n"] {
        let mut masker = Masker::default();
        assert_eq!(masker.pass(&mask, Bytes::from(text)).as_ref(), text.as_bytes());
    }
    let mut masker = Masker::default();
    assert_eq!(masker.pass(&mask, Bytes::from("data: s3cr")).as_ref(), b"data: ");
    assert_eq!(masker.pass(&mask, Bytes::from("ap\n\n")).as_ref(), b"s3crap\n\n");
}

#[test]
fn overlapping_and_repeated_values_are_all_masked() {
    let mask = Mask::new([b"abab".as_slice()]);
    for piece in 1..12 {
        assert_eq!(masked(&mask, b"xabababab-ababy", piece).0, b"x********-****y", "{piece}");
    }
    let two = Mask::new([b"user-pass".as_slice(), b"pass-word".as_slice()]);
    for piece in 1..14 {
        assert_eq!(masked(&two, b"[user-pass-word]", piece).0, b"[**************]", "{piece}");
    }
}

#[test]
fn headers_are_masked_too() {
    let mask = Mask::new([b"tok-123456".as_slice()]);
    let value = HeaderValue::from_static("Bearer tok-123456; x");
    assert_eq!(mask.header(value.as_bytes()).unwrap(), "Bearer **********; x");
    assert!(mask.header(b"Bearer tok-12345").is_none());
}

#[test]
fn names_of_headers_are_looked_at_in_any_case() {
    let mask = Mask::new([b"Tok-123456".as_slice()]);
    for (name, expected) in [("x-tok-123456-y", true), ("TOK-123456", true), ("tok-12345", false), ("x", false)] {
        assert_eq!(mask.is_in_name(name.as_bytes()), expected, "{name}");
    }
    assert!(!Mask::new([b"".as_slice()]).is_in_name(b"x"));
}

#[test]
fn a_piece_that_decides_nothing_uncovers_nothing() {
    let mask = Mask::new([b"abab".as_slice()]);
    for lengths in [[5, 1], [5, 0]] {
        assert_eq!(masked_unevenly(&mask, b"xababa-", &[lengths.as_slice(), &[1]].concat()), b"x****a-", "{lengths:?}");
    }
}

/// Where forms are, looked for at each place and in all ways.
fn matches_plainly(mask: &Mask, text: &[u8]) -> Vec<(usize, usize)> {
    let places = mask.forms.iter().flat_map(|form| (0..text.len()).map(move |at| (form, at)));
    let mut found: Vec<_> = places.filter_map(|(form, at)| Some((at, escape::reach(form, text, at).end?))).collect();
    found.sort_unstable();
    found
}

/// What could be the beginning of a form, looked for at each place behind the last line break.
fn open_end_plainly(mask: &Mask, text: &[u8]) -> usize {
    let from = text.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
    let open = |at: &usize| mask.forms.iter().any(|form| escape::reach(form, text, *at).open);
    (from..text.len()).find(open).map_or(0, |at| text.len() - at)
}

/// Values that are short, overlap themselves, hold signs of escapes and blanks; and an ordinary one.
const VALUES: [&str; 10] =
    ["x", "/6/", "aa", "abcabd", "a/b\"c", "a\\b", "a%b", "a b", "\\\\", "ghp_Zq7w0Xk9pL2mN4bV6cT1yR8sD3fG5hJ0kQ2w"];

/// Pieces of `value`'s forms, plain and escaped, and what stands around them.
fn pieces(value: &'static str) -> impl Strategy<Value = String> {
    let mask = Mask::new([value.as_bytes()]);
    let forms: Vec<String> = mask.forms.iter().map(|form| String::from_utf8(form.to_vec()).unwrap()).collect();
    let form = proptest::sample::select(forms);
    let cut = (form.clone(), 0usize..60, 0usize..60)
        .prop_map(|(form, from, to)| form.get(from.min(to)..to.min(form.len())).unwrap_or_default().to_owned());
    // From one of its characters on.
    let escaped = (form.clone(), 0usize..60, 0usize..5).prop_map(|(form, from, way)| {
        let one = |(at, byte): (usize, u8)| match way {
            _ if at < from => char::from(byte).to_string(),
            0 => format!("%{byte:02x}"),
            1 => format!("\\u{byte:04X}"),
            2 => format!("{}u{byte:04x}", "\\".repeat(8)),
            3 => char::from(byte).to_string().replace(['"', '/', '\\'], &format!("\\{}", char::from(byte))),
            _ => char::from(byte).to_string().replace(' ', "+"),
        };
        form.bytes().enumerate().map(one).collect()
    });
    let around = proptest::sample::select(vec![
        "\\",
        "\\\\",
        "\\\\\\\\\\\\\\\\\\",
        "%",
        "%6",
        "%61",
        "\\u",
        "\\u0",
        "\\u00",
        "\\u006",
        "\\u0061",
        "\\u4e2d",
        "\\n",
        "\\\"",
        "\\/",
        "\"",
        "/",
        "+",
        " ",
        "\n",
        "\r",
        "a",
        "b",
        "x",
        "quick brown fox",
    ]);
    proptest::collection::vec(prop_oneof![form, cut, escaped, around.prop_map(str::to_owned)], 0..9)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// The short ways to look find just what is there.
    #[test]
    fn no_shortcut_passes_over_a_form((value, text) in proptest::sample::select(VALUES.to_vec()).prop_flat_map(|value| (Just(value), pieces(value)))) {
        let mask = Mask::new([value.as_bytes()]);
        let mut found = mask.matches(text.as_bytes());
        found.sort_unstable();
        prop_assert_eq!(found, matches_plainly(&mask, text.as_bytes()));
        prop_assert_eq!(mask.open_end(text.as_bytes()), open_end_plainly(&mask, text.as_bytes()));
    }
}

proptest! {
    /// Whatever the text and wherever it is split, no value comes out, and nothing else changes.
    #[test]
    fn no_split_lets_a_value_through(
        parts in proptest::collection::vec("(abcabd|ab|c|abca|\n)", 0..12),
        lengths in proptest::collection::vec(0usize..9, 0..6),
    ) {
        let text = parts.concat();
        let mask = Mask::new([b"abcabd".as_slice()]);
        let out = masked_unevenly(&mask, text.as_bytes(), &[lengths, vec![1]].concat());
        let expected = text.replace("abcabd", "******");
        prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
