//! YAML text into documents, with the line of each fault where it can be had.

use serde::Deserialize;
use serde_yaml::Value;

use super::binding::{Document, FIELDS};
use super::shape::{self, Fault, Fields};
use crate::core::binding::Binding;

/// One thing wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the user named it.
    pub file: String,
    /// The line, counted from 1, where it can be had.
    pub line: Option<usize>,
    /// What and where in the document.
    pub fault: Fault,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if !self.fault.path.is_empty() {
            write!(f, "{}: ", self.fault.path)?;
        }
        write!(f, "expected {}", self.fault.expected)
    }
}

/// A binding and where it stands.
#[derive(Debug, Clone)]
pub struct Located {
    /// The binding.
    pub binding: Binding,
    /// Its file.
    pub file: String,
    /// The line its document begins at.
    pub line: usize,
}

impl Located {
    /// A problem with this binding as a whole.
    pub fn problem(&self, path: &str, expected: impl ToString) -> Problem {
        Problem { file: self.file.clone(), line: Some(self.line), fault: Fault::new(path, expected) }
    }
}

/// Reads every document of a file: the good bindings, and all problems of the others.
pub fn read_bindings(file: &str, text: &str) -> (Vec<Located>, Vec<Problem>) {
    let (mut bindings, mut problems) = (Vec::new(), Vec::new());
    for part in parts(text) {
        match read_binding(&part) {
            Ok(Some(binding)) => bindings.push(Located { binding, file: file.to_owned(), line: part.line }),
            Ok(None) => {}
            Err(faults) => {
                problems.extend(faults.into_iter().map(|(line, fault)| Problem { file: file.to_owned(), line, fault }))
            }
        }
    }
    (bindings, problems)
}

type Faults = Vec<(Option<usize>, Fault)>;

fn read_binding(part: &Part<'_>) -> Result<Option<Binding>, Faults> {
    let Some((document, faults)) = read::<Document>(part, FIELDS)? else { return Ok(None) };
    match merge(faults, Binding::try_from(document)) {
        Ok(binding) => Ok(Some(binding)),
        Err(faults) => Err(part.located(faults)),
    }
}

/// Reads a binding as the API server delivers it, by the same rules as a file.
pub fn read_object(object: &serde_json::Value) -> Result<Binding, Vec<Fault>> {
    let unreadable = |_| vec![Fault::new("", "a JSON object")];
    let mut value = serde_yaml::to_value(object).map_err(unreadable)?;
    let mut faults = Vec::new();
    shape::check(&mut value, FIELDS, "", &mut faults);
    let document: Document = serde_yaml::from_value(value).map_err(unreadable)?;
    merge(faults, Binding::try_from(document))
}

/// A field that was removed for its shape is missing now; it is told once.
fn merge(mut faults: Vec<Fault>, binding: Result<Binding, Vec<Fault>>) -> Result<Binding, Vec<Fault>> {
    match binding {
        Ok(binding) if faults.is_empty() => Ok(binding),
        Ok(_) => Err(faults),
        Err(more) => {
            let known: Vec<String> = faults.iter().map(|fault| fault.path.clone()).collect();
            faults.extend(more.into_iter().filter(|fault| !known.contains(&fault.path)));
            Err(faults)
        }
    }
}

/// Reads a file of one document with the given fields. `T` must accept any subset of them.
pub fn read_one<T: for<'de> Deserialize<'de>>(file: &str, text: &str, fields: Fields) -> (Option<T>, Vec<Problem>) {
    let problem = |(line, fault)| Problem { file: file.to_owned(), line, fault };
    let mut all = parts(text);
    if all.len() > 1 {
        let second = all.remove(1);
        return (None, vec![problem((Some(second.line), Fault::new("", "a single document")))]);
    }
    let Some(part) = all.first() else {
        return (None, vec![problem((None, Fault::new("", "a document; the file is empty")))]);
    };
    match read(part, fields) {
        Ok(Some((value, faults))) => (Some(value), part.located(faults).into_iter().map(problem).collect()),
        Ok(None) => (None, vec![problem((None, Fault::new("", "a document; the file is empty")))]),
        Err(faults) => (None, faults.into_iter().map(problem).collect()),
    }
}

/// Where `path` stands in a file of one document.
pub fn line_of(text: &str, path: &str) -> Option<usize> {
    parts(text).first()?.locate(path)
}

fn read<T: for<'de> Deserialize<'de>>(part: &Part<'_>, fields: Fields) -> Result<Option<(T, Vec<Fault>)>, Faults> {
    // The parser's own message may quote a value; only its place is told.
    let broken = |error: &serde_yaml::Error| {
        // It counts one more at the end of the text, and more at line ends that editors do not know.
        let line = error.location().map(|at| (at.line() + part.line - 1).min(part.last_line()));
        vec![(line, Fault::new("", "valid YAML without duplicate keys"))]
    };
    let mut value: Value = serde_yaml::from_str(part.text).map_err(|error| broken(&error))?;
    if value.is_null() {
        return Ok(None);
    }
    let mut faults = Vec::new();
    shape::check(&mut value, fields, "", &mut faults);
    let typed = serde_yaml::from_value(value).map_err(|error| broken(&error))?;
    Ok(Some((typed, faults)))
}

/// One document of a file.
struct Part<'a> {
    text: &'a str,
    line: usize,
}

/// What ends a line, and so a comment, to the parser.
const LINE_ENDS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

/// Splits at the lines that begin with `---`; YAML allows them nowhere else. A document may begin on
/// such a line.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let end = at + line.len();
        if let Some(rest) = behind_marker(line) {
            parts.push(Part { text: text.get(start..at).unwrap_or_default(), line: start_line });
            (start, start_line) = if rest.trim().is_empty() { (end, number + 2) } else { (at, number + 1) };
        }
        at = end;
    }
    parts.push(Part { text: text.get(start..).unwrap_or_default(), line: start_line });
    let tells =
        |line: &str| !matches!(behind_marker(line).unwrap_or(line).trim_start().chars().next(), None | Some('#'));
    parts.retain(|part| part.text.split(LINE_ENDS).any(tells));
    parts
}

/// What follows the marker of a new document, if the line begins with one.
fn behind_marker(line: &str) -> Option<&str> {
    line.strip_prefix("---").filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

impl Part<'_> {
    fn last_line(&self) -> usize {
        self.line + self.text.lines().count().saturating_sub(1)
    }

    fn located(&self, faults: Vec<Fault>) -> Faults {
        faults.into_iter().map(|fault| (self.locate(&fault.path), fault)).collect()
    }

    /// The line of the deepest part of `path` found as a block mapping's key; keys inside
    /// `{...}` are found by their parent's line.
    fn locate(&self, path: &str) -> Option<usize> {
        let wanted: Vec<&str> = path.split('.').map(|step| step.split('[').next().unwrap_or_default()).collect();
        let mut open: Vec<(usize, &str)> = Vec::new();
        let mut best: Option<(usize, usize)> = None;
        for (number, line) in self.text.lines().enumerate() {
            let trimmed = line.trim_start();
            let Some((key, _)) = trimmed.split_once(':') else { continue };
            let key = key.trim_matches(|c| c == '"' || c == '\'');
            if trimmed.starts_with(['#', '-']) || key.contains(char::is_whitespace) {
                continue;
            }
            let indent = line.len() - trimmed.len();
            open.retain(|(column, _)| *column < indent);
            open.push((indent, key));
            let depth = open.len();
            let matches = open.iter().map(|(_, key)| *key).eq(wanted.iter().copied().take(depth));
            if matches && best.is_none_or(|(deepest, _)| depth > deepest) {
                best = Some((depth, number + self.line));
            }
        }
        best.map(|(_, line)| line).or(Some(self.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_tell_file_line_and_path() {
        let text = "# two documents\n---\napiVersion: postern.dev/v1alpha1\nkind: CredentialBinding\nmetadata: {name: a, namespace: ns}\nspec:\n  serviceAccounts: [sa]\n  server:\n    name: a\n    url: file:///x\n    command: npx\n  credential:\n    type: Bearer\n    secretRef: {name: s, key: token}\n---\n- 1\n---\na: b: c\n";
        let (bindings, problems) = read_bindings("x.yaml", text);
        assert!(bindings.is_empty());
        let lines: Vec<_> = problems.iter().map(|p| (p.line, p.fault.path.as_str())).collect();
        assert_eq!(lines.get(..2), Some([(Some(11), "spec.server.command"), (Some(10), "spec.server.url")].as_slice()));
        assert!(lines.iter().any(|(line, path)| *line == Some(16) && path.is_empty()), "{lines:?}");
        assert_eq!(lines.last().map(|l| l.0), Some(Some(18)));
        assert!(problems.first().unwrap().to_string().starts_with("x.yaml:11: spec.server.command: expected no stdio"));
    }

    #[test]
    fn a_document_may_begin_on_the_line_of_its_marker() {
        let text = "# none\n--- # none either\n---\n--- {spec: 1}\n---\t[]\n--- |\n  text\n";
        let (bindings, problems) = read_bindings("x.yaml", text);
        assert!(bindings.is_empty());
        let mut lines: Vec<_> = problems.iter().filter_map(|problem| problem.line).collect();
        lines.dedup();
        assert_eq!(lines, [4, 5, 6], "{problems:?}");
        let (_, problems) = read_bindings("x.yaml", "---x: 1\n");
        assert_eq!(problems.first().and_then(|problem| problem.line), Some(1), "no marker");
        let (_, problems) = read_bindings("x.yaml", "# a comment\rspec: 1\r");
        assert_eq!(problems.first().and_then(|problem| problem.line), Some(1), "no comment");
    }

    #[test]
    fn a_fault_is_told_at_a_line_that_there_is() {
        for text in ["a: 2\nb", "a: [\n", "a: 1\r\r\r- b\n", "---\na: 1\n---\na: 2\n$2A"] {
            let (_, problems) = read_bindings("x.yaml", text);
            let line = problems.last().and_then(|problem| problem.line);
            assert_eq!(line, Some(text.lines().count()), "{text:?}: {problems:?}");
        }
    }
}
