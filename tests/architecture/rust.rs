//! Reads as much Rust as the house rules need: words and the paths they make.

/// A word, `::`, a single sign, or `"` for any literal.
#[derive(Debug)]
pub struct Token {
    pub line: usize,
    pub text: String,
}

/// Words, `::`, and single signs. Comments are left out; a literal is one `"`.
pub fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let literal = literal_length(rest);
        let (length, text) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), "")
        } else if rest.starts_with("/*") {
            (block_comment_length(rest), "")
        } else if literal > 0 {
            (literal, "\"")
        } else if is_word(first) {
            let length = rest.find(|sign| !is_word(sign)).unwrap_or(rest.len());
            (length, &rest[..length])
        } else if rest.starts_with("::") {
            (2, "::")
        } else if first.is_whitespace() {
            (first.len_utf8(), "")
        } else {
            (first.len_utf8(), &rest[..first.len_utf8()])
        };
        if !text.is_empty() {
            tokens.push(Token { line, text: text.to_owned() });
        }
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

fn is_word(sign: char) -> bool {
    sign.is_alphanumeric() || sign == '_'
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of the string or character that `text` begins with; 0 when it begins with none.
fn literal_length(text: &str) -> usize {
    let body = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - body.len();
    let raw = body.strip_prefix('r').unwrap_or(body);
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if prefix > 1 {
        0
    } else if body.starts_with('r') && raw[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix + 1 + hashes + 1;
        text[start..].find(&end).map_or(text.len(), |at| start + at + end.len())
    } else if body.starts_with('"') {
        prefix + quoted_length(body, '"')
    } else if body.starts_with('\'') && is_character(body) {
        prefix + quoted_length(body, '\'')
    } else {
        0
    }
}

/// `'a'` and `'\n'` are characters, `'a` is a lifetime.
fn is_character(text: &str) -> bool {
    let mut signs = text.chars().skip(1);
    signs.next() == Some('\\') || signs.next() == Some('\'')
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, sign) in text.char_indices().skip(1) {
        if sign == quote && !escaped {
            return at + 1;
        }
        escaped = sign == '\\' && !escaped;
    }
    text.len()
}

/// The tokens without the items that `#[cfg(test)]` stands before, and how many lines those take.
pub fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, usize) {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut lines = 0;
    let mut tokens = tokens.into_iter().peekable();
    let mut recent: Vec<Token> = Vec::new();
    while let Some(token) = tokens.next() {
        recent.push(token);
        let begins = recent.iter().map(|token| token.text.as_str()).eq(ATTRIBUTE[..recent.len()].iter().copied());
        if !begins {
            kept.append(&mut recent);
        } else if recent.len() == ATTRIBUTE.len() {
            let first = recent[0].line;
            let last = skip_item(&mut tokens);
            lines += last.unwrap_or(first) + 1 - first;
            recent.clear();
        }
    }
    kept.append(&mut recent);
    (kept, lines)
}

/// Takes the tokens of one item, further attributes included; the line of its last one.
fn skip_item(tokens: &mut impl Iterator<Item = Token>) -> Option<usize> {
    let mut depth = 0_usize;
    let mut last = None;
    for token in tokens {
        last = Some(token.line);
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth = depth.saturating_sub(1),
            "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    break;
                }
            }
            ";" if depth == 0 => break,
            _ => {}
        }
    }
    last
}

/// A path that the source names, written out: `a::{b, c}` is two.
#[derive(Debug)]
pub struct NamedPath {
    pub line: usize,
    pub segments: Vec<String>,
    /// Stands in a `use`.
    pub used: bool,
    /// Stands in a `pub use`, restricted or not.
    pub exported: bool,
}

/// Every path in the tokens; a `use` with braces is each of its paths.
pub fn paths(tokens: &[Token]) -> Vec<NamedPath> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let before = |back: usize| at.checked_sub(back).map_or("", text);
        let is_visibility = before(1) == "pub" && text(at) == "(" && (text(at + 1) == "in" || text(at + 2) == ")");
        // A field or method, unlike what follows the two points of a range.
        let is_member = before(1) == "." && before(2) != ".";
        if is_visibility {
            // `pub(crate)` and `pub(in crate::x)` say where a thing may be seen, not what is used.
            while at < tokens.len() && text(at) != ")" {
                at += 1;
            }
        } else if text(at) == "use" {
            let exported = matches!(before(1), "pub" | ")");
            at = tree(tokens, at + 1, &[], &mut |line, segments| {
                paths.push(NamedPath { line, segments, used: true, exported });
            });
            continue;
        } else if text(at).starts_with(is_word) && !is_member {
            at = tree(tokens, at, &[], &mut |line, segments| {
                paths.push(NamedPath { line, segments, used: false, exported: false });
            });
            continue;
        }
        at += 1;
    }
    paths
}

/// Reads one path, or the paths of a group, that begins at `at`; the place after it.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut dyn FnMut(usize, Vec<String>)) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut segments = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    if text(at) == "::" {
        at += 1;
    }
    loop {
        match text(at) {
            "{" => {
                at += 1;
                while !matches!(text(at), "}" | "") {
                    at = tree(tokens, at, &segments, found);
                    if text(at) == "," {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "self" if !segments.is_empty() => {}
            word if word.starts_with(is_word) || word == "*" => segments.push(word.to_owned()),
            _ => return at + 1,
        }
        at += 1;
        let goes_on = text(at) == "::" && (text(at + 1).starts_with(is_word) || matches!(text(at + 1), "{" | "*"));
        if !goes_on {
            break;
        }
        at += 1;
    }
    found(line, segments);
    if text(at) == "as" { at + 2 } else { at }
}
