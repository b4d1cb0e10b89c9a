//! JSON (RFC 8259), read once from front to back: what is asked for is borrowed, the rest is passed
//! over. `None` where the text is not JSON, or not what was asked for.
//!
//! By our own hand, since a tool's arguments may be a file: a library looks at each of their bytes
//! for what a search finds in a tenth of the time.

use std::borrow::Cow;

use crate::core::eights;

/// A text, and how far it is read.
pub(super) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads a text from its beginning.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The first byte of what comes next.
    pub(super) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.byte()? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
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
        self.string()?
    }

    /// A string, or anything else; then, and where half of a surrogate pair is escaped, it is no text.
    pub(super) fn text_or_other(&mut self) -> Option<Option<Cow<'a, str>>> {
        match self.peek()? {
            b'"' => self.string(),
            _ => self.pass().map(|()| None),
        }
    }

    /// Any value, as it stands there.
    pub(super) fn raw(&mut self) -> Option<&'a str> {
        self.peek()?;
        let from = self.at;
        self.pass()?;
        self.text.get(from..self.at)
    }

    /// Passes over any value, however deep.
    pub(super) fn pass(&mut self) -> Option<()> {
        match self.peek()? {
            b'{' | b'[' => self.nested(),
            other => self.scalar(other),
        }
    }

    /// Passes over an object or an array.
    fn nested(&mut self) -> Option<()> {
        let mut open = Open::default();
        loop {
            let next = self.peek()?;
            let close = match next {
                b'{' => Some(b'}'),
                b'[' => Some(b']'),
                _ => None,
            };
            match close {
                None => self.scalar(next)?,
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
                let Some(close) = open.last() else { return Some(()) };
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
            self.pass_string()?;
            self.take(b':')?;
        }
        Some(())
    }

    /// Passes over what is neither an object nor an array, and begins with `first`.
    fn scalar(&mut self, first: u8) -> Option<()> {
        match first {
            b'"' => self.pass_string(),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    /// A string, and what it means.
    fn string(&mut self) -> Option<Option<Cow<'a, str>>> {
        self.take(b'"')?;
        let from = self.at;
        match self.short() {
            Some(end) => self.text.get(from..end).map(|text| Some(Cow::Borrowed(text))),
            None => self.long(from),
        }
    }

    /// The same, where its quote is not near.
    fn long(&mut self, from: usize) -> Option<Option<Cow<'a, str>>> {
        if self.pass_long()? {
            return self.text.get(from - 1..self.at).map(|quoted| serde_json::from_str(quoted).ok().map(Cow::Owned));
        }
        self.text.get(from..self.at - 1).map(|text| Some(Cow::Borrowed(text)))
    }

    /// Passes over a string. Which code points are escaped is not looked at.
    fn pass_string(&mut self) -> Option<()> {
        self.take(b'"')?;
        match self.short() {
            Some(_) => Some(()),
            None => self.pass_long().map(|_| ()),
        }
    }

    /// Passes over the rest of a string that is short and has no escapes, as most do. Where its quote is.
    fn short(&mut self) -> Option<usize> {
        let rest = self.rest()?;
        let (eight, after) = rest.split_first_chunk()?;
        let end = match first_special(eight) {
            Some(end) => end,
            None => 8 + first_special(after.first_chunk()?)?,
        };
        if *rest.get(end)? != b'"' {
            return None;
        }
        let end = self.at + end;
        self.at = end + 1;
        Some(end)
    }

    /// Passes over the rest of a string. Whether it has escapes.
    fn pass_long(&mut self) -> Option<bool> {
        let mut escaped = false;
        loop {
            self.at += end_of_plain(self.rest()?)?;
            let special = self.byte()?;
            self.at += 1;
            match special {
                b'"' => return Some(escaped),
                b'\\' => self.escape()?,
                _ => return None,
            }
            escaped = true;
        }
    }

    /// Passes over what follows a backslash.
    fn escape(&mut self) -> Option<()> {
        let escape = self.byte()?;
        self.at += 1;
        match escape {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
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
        let from = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let there = self.rest()?.starts_with(word.as_bytes());
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
        if self.byte()? != wanted && self.peek()? != wanted {
            return None;
        }
        self.at += 1;
        Some(())
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> Option<&'a [u8]> {
        self.text.as_bytes().get(self.at..)
    }
}

/// What follows a value inside an object or an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Another,
    End,
}

/// The objects and arrays that a value lies in: a bit for each, set for an object. Values are
/// seldom deep, hence only what 64 bits do not hold is allocated.
#[derive(Debug, Default)]
struct Open {
    depth: usize,
    /// The innermost, the last of them the lowest.
    inner: u64,
    /// 64 in each, the outermost first.
    outer: Vec<u64>,
}

impl Open {
    /// Goes into what `close` ends.
    fn push(&mut self, close: u8) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.inner);
        }
        self.inner = self.inner << 1 | u64::from(close == b'}');
        self.depth += 1;
    }

    /// What ends the innermost.
    fn last(&self) -> Option<u8> {
        let close = if self.inner & 1 == 1 { b'}' } else { b']' };
        (self.depth > 0).then_some(close)
    }

    /// Leaves the innermost.
    fn pop(&mut self) {
        self.inner >>= 1;
        self.depth = self.depth.saturating_sub(1);
        if self.depth.is_multiple_of(64) {
            self.inner = self.outer.pop().unwrap_or_default();
        }
    }
}

/// Strings are mostly short, and a search has to prepare itself: so many bytes are looked at before.
const SHORT: usize = 32;

/// Where a quote, a backslash or a control character, which a string only has escaped, is first met.
fn end_of_plain(text: &[u8]) -> Option<usize> {
    let (mut at, mut rest) = (0, text);
    while let Some((eight, after)) = rest.split_first_chunk() {
        if let Some(found) = first_special(eight) {
            return Some(at + found);
        }
        (at, rest) = (at + 8, after);
        if at == SHORT {
            return searched(rest).map(|end| at + end);
        }
    }
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).map(|end| at + end)
}

/// How much is looked at for one thing and then for the other: so much is near to the processor still.
const BLOCK: usize = 4 * 1024;

/// The same, where it is far.
fn searched(text: &[u8]) -> Option<usize> {
    // The least of all of a block, which the compiler finds for many bytes at once.
    let plain = |bytes: &[u8]| bytes.iter().fold(u8::MAX, |least, byte| least.min(*byte)) >= 0x20;
    let mut at = 0;
    for block in text.chunks(BLOCK) {
        let end = memchr::memchr2(b'"', b'\\', block);
        if !block.get(..end.unwrap_or(block.len())).is_some_and(plain) {
            return None;
        }
        match end {
            Some(end) => return Some(at + end),
            None => at += block.len(),
        }
    }
    None
}

/// Which of eight bytes is the first that is not plain.
fn first_special(eight: &[u8; 8]) -> Option<usize> {
    // One bit turned makes a quote a space; what is less stays less, and what is more stays more.
    let quote_or_control = |eight| eights::below(eight ^ u64::from_ne_bytes([0x02; 8]), 0x21);
    eights::first(*eight, |eight| quote_or_control(eight) | eights::equal(eight, b'\\'))
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
