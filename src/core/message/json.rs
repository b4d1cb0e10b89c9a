//! JSON (RFC 8259), read once from front to back: what is asked for is borrowed, the rest is passed
//! over. `None` where the text is not JSON, or not what was asked for.
//!
//! By our own hand, since a tool's arguments may be a file: a library looks at each of their bytes
//! for what a search finds in a tenth of the time.

use std::borrow::Cow;

/// A text, and how far it is read.
pub(super) struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads a text that is UTF-8 throughout.
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The first byte of what comes next.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.byte() {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Nothing comes any more.
    pub(super) fn end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// An object; `field` is given each key, and reads the value.
    pub(super) fn object(&mut self, mut field: impl FnMut(&mut Self, Cow<'a, str>) -> Option<()>) -> Option<()> {
        self.take(b'{')?;
        if self.peek()? == b'}' {
            return self.take(b'}');
        }
        loop {
            let key = self.text()?;
            self.take(b':')?;
            field(self, key)?;
            if self.goes_on(b'}')? == Next::End {
                return Some(());
            }
        }
    }

    /// An array; `element` reads each.
    pub(super) fn array(&mut self, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(b'[')?;
        if self.peek()? == b']' {
            return self.take(b']');
        }
        loop {
            element(self)?;
            if self.goes_on(b']')? == Next::End {
                return Some(());
            }
        }
    }

    /// A string, borrowed where it has no escapes.
    pub(super) fn text(&mut self) -> Option<Cow<'a, str>> {
        self.token().and_then(unescaped)
    }

    /// A string, or anything else; then, and where half of a surrogate pair is escaped, it is no text.
    pub(super) fn text_or_other(&mut self) -> Option<Option<Cow<'a, str>>> {
        match self.peek()? {
            b'"' => self.token().map(unescaped),
            _ => self.pass().map(|()| None),
        }
    }

    /// Any value, as it stands there.
    pub(super) fn raw(&mut self) -> Option<&'a str> {
        self.peek()?;
        let from = self.at;
        self.pass()?;
        std::str::from_utf8(self.text.get(from..self.at)?).ok()
    }

    /// Passes over any value, however deep.
    pub(super) fn pass(&mut self) -> Option<()> {
        let mut open = Vec::new();
        loop {
            let close = match self.peek()? {
                b'{' => Some(b'}'),
                b'[' => Some(b']'),
                _ => None,
            };
            match close {
                None => self.scalar()?,
                Some(close) => {
                    self.at += 1;
                    if self.peek()? == close {
                        self.at += 1;
                    } else {
                        open.push(close);
                        self.key_in(close)?;
                        continue;
                    }
                }
            }
            loop {
                let Some(close) = open.last().copied() else { return Some(()) };
                match self.goes_on(close)? {
                    Next::Another => {
                        self.key_in(close)?;
                        break;
                    }
                    Next::End => open.pop(),
                };
            }
        }
    }

    /// The key before a value, in what `close` ends.
    fn key_in(&mut self, close: u8) -> Option<()> {
        if close == b'}' {
            self.token()?;
            self.take(b':')?;
        }
        Some(())
    }

    fn scalar(&mut self) -> Option<()> {
        match self.peek()? {
            b'"' => self.token().map(|_| ()),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    /// A string. Which code points are escaped is not looked at.
    fn token(&mut self) -> Option<Token<'a>> {
        self.peek()?;
        let from = self.at;
        self.take(b'"')?;
        let mut escaped = false;
        loop {
            let rest = self.text.get(self.at..)?;
            let end = end_of_plain(rest)?;
            self.at += end + 1;
            match rest.get(end)? {
                b'"' => return Some(Token { quoted: self.text.get(from..self.at)?, escaped }),
                b'\\' => escaped = true,
                _ => return None,
            }
            let escape = self.byte()?;
            self.at += 1;
            match escape {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                b'u' => {
                    let digits = self.text.get(self.at..self.at + 4)?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return None;
                    }
                    self.at += 4;
                }
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte()? {
            // A digit behind it is nothing that may follow a value.
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// One at least.
    fn digits(&mut self) -> Option<()> {
        let count = self.text.get(self.at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        (count > 0).then_some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        let there = self.text.get(self.at..)?.starts_with(word);
        self.at += word.len();
        there.then_some(())
    }

    fn goes_on(&mut self, close: u8) -> Option<Next> {
        let next = self.peek()?;
        self.at += 1;
        match next {
            b',' => Some(Next::Another),
            _ => (next == close).then_some(Next::End),
        }
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        let there = self.peek()? == wanted;
        self.at += 1;
        there.then_some(())
    }

    fn byte(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }
}

/// What follows a value inside an object or an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Another,
    End,
}

/// A string with its quotes.
struct Token<'a> {
    quoted: &'a [u8],
    escaped: bool,
}

/// Strings are mostly short, and a search has to prepare itself.
const SHORT: usize = 24;

/// Where a quote, a backslash or a control character, which a string only has escaped, is first met.
fn end_of_plain(text: &[u8]) -> Option<usize> {
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    if let Some(at) = text.iter().take(SHORT).position(special) {
        return Some(at);
    }
    let rest = text.get(SHORT..)?;
    let end = memchr::memchr2(b'"', b'\\', rest)?;
    // Looks at all of a piece, so that the compiler can do so for many bytes at once.
    let plain = |piece: &[u8]| !piece.iter().fold(false, |found, byte| found | (*byte < 0x20));
    rest.get(..end)?.chunks(256).all(plain).then_some(SHORT + end)
}

/// What a string means; `None` where half of a surrogate pair is escaped.
fn unescaped(token: Token<'_>) -> Option<Cow<'_, str>> {
    if token.escaped {
        return serde_json::from_slice(token.quoted).ok().map(Cow::Owned);
    }
    let inner = token.quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    std::str::from_utf8(inner).ok().map(Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    fn passes(text: &str) -> bool {
        let mut reader = Reader::new(text.as_bytes());
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
            let read = Reader::new(text.as_bytes()).text_or_other();
            assert_eq!(read.as_ref().map(Option::as_deref), expected, "{text}");
            assert_eq!(Reader::new(text.as_bytes()).text().as_deref(), expected.flatten(), "{text}");
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

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
}
