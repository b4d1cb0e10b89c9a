//! Which tools a binding lets an agent call.

/// Globs over tool names. `deny` wins; an empty `allow` allows everything not denied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolPolicy {
    allow: Vec<Glob>,
    deny: Vec<Glob>,
}

impl ToolPolicy {
    /// A policy of already parsed globs.
    pub fn new(allow: Vec<Glob>, deny: Vec<Glob>) -> Self {
        Self { allow, deny }
    }

    /// Whether `tool` may be called. Names are compared byte by byte, as MCP servers do.
    pub fn allows(&self, tool: &str) -> bool {
        let any = |globs: &[Glob]| globs.iter().any(|g| g.matches(tool));
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.deny)
    }

    /// The globs of `allow`, as written.
    pub fn allowed(&self) -> impl Iterator<Item = &str> {
        self.allow.iter().map(|glob| glob.0.as_str())
    }

    /// The globs of `deny`, as written.
    pub fn denied(&self) -> impl Iterator<Item = &str> {
        self.deny.iter().map(|glob| glob.0.as_str())
    }

    /// Whether every tool may be called.
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// A tool name in which `*` stands for any run of characters, an empty one too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// The expected form, for error texts.
    pub const EXPECTED: &'static str =
        "a tool name of 1 to 128 visible ASCII characters, in which * stands for any characters";

    /// Reads a glob.
    pub fn parse(text: &str) -> Option<Self> {
        let visible = text.bytes().all(|b| b.is_ascii_graphic());
        (visible && (1..=128).contains(&text.len())).then(|| Self(text.into()))
    }

    fn matches(&self, name: &str) -> bool {
        // Greedy with one backtrack point: linear in practice, never exponential.
        let (glob, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut g, mut n) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while let Some(&byte) = name.get(n) {
            match glob.get(g) {
                Some(b'*') => {
                    retry = Some((g + 1, n));
                    g += 1;
                }
                Some(&wanted) if wanted == byte => {
                    g += 1;
                    n += 1;
                }
                _ => match retry {
                    Some((after, from)) => {
                        retry = Some((after, from + 1));
                        g = after;
                        n = from + 1;
                    }
                    None => return false,
                },
            }
        }
        glob.iter().skip(g).all(|b| *b == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(texts: &[&str]) -> Vec<Glob> {
        texts.iter().map(|t| Glob::parse(t).unwrap()).collect()
    }

    #[test]
    fn globs_match_whole_names() {
        let rows = [
            ("search", "search", true),
            ("search", "searching", false),
            ("search_*", "search_code", true),
            ("search_*", "search_", true),
            ("search_*", "Search_code", false),
            ("*", "", true),
            ("*_read", "file_read", true),
            ("*_read", "file_read_all", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("**", "x", true),
        ];
        for (glob, name, expected) in rows {
            assert_eq!(Glob::parse(glob).unwrap().matches(name), expected, "{glob} {name}");
        }
    }

    #[test]
    fn deny_wins_and_no_list_allows_all() {
        let policy = |allow: &[&str], deny: &[&str]| ToolPolicy::new(globs(allow), globs(deny));
        assert!(policy(&[], &[]).allows("x"));
        assert!(policy(&["x*"], &[]).allows("x1"));
        assert!(!policy(&["x*"], &[]).allows("y"));
        assert!(!policy(&["x*"], &["x1"]).allows("x1"));
        assert!(!policy(&[], &["x1"]).allows("x1"));
    }
}
