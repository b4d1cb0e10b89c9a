//! What a sidecar writes: lines as they come, access lines as JSON, metrics as samples.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::observed::Observed;

/// Lines of one stream of a process.
#[derive(Default)]
pub struct Lines {
    pub lines: Vec<String>,
    /// Which of them a test has taken.
    taken: Vec<bool>,
    pub ended: bool,
}

impl Lines {
    /// Takes the first line that `wanted` makes something of and nobody has taken.
    pub fn take<R>(&mut self, wanted: impl Fn(&str) -> Option<R>) -> Option<R> {
        self.taken.resize(self.lines.len(), false);
        let mut untaken = self.lines.iter().zip(&mut self.taken).filter(|(_, taken)| !**taken);
        untaken.find_map(|(line, taken)| {
            let found = wanted(line);
            *taken = found.is_some();
            found
        })
    }

    pub fn text(&self) -> String {
        self.lines.join("\n")
    }
}

/// Reads `stream` to its end on a thread of its own.
pub fn collect(stream: impl Read + Send + 'static) -> (Arc<Observed<Lines>>, JoinHandle<()>) {
    let lines = Arc::new(Observed::new(Lines::default()));
    let sink = Arc::clone(&lines);
    let thread = std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            sink.update(|lines| lines.lines.push(text));
            line.clear();
        }
        sink.update(|lines| lines.ended = true);
    });
    (lines, thread)
}

/// One scrape in the Prometheus text format.
#[derive(Debug)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    pub fn new(text: String) -> Self {
        Self { text }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every series: name and labels as they stand, without the value.
    pub fn series(&self) -> Vec<&str> {
        self.samples().map(|(series, _)| series).collect()
    }

    /// The sum of the samples of `name` that carry all of `labels`; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |series: &str| {
            let (own, rest) = series.split_once('{').unwrap_or((series, ""));
            let has = |(key, value): &(&str, &str)| {
                let label = format!("{key}=\"{value}\"");
                rest.trim_end_matches('}').split(',').any(|part| part == label)
            };
            own == name && labels.iter().all(has)
        };
        self.samples().filter(|(series, _)| carries(series)).map(|(_, value)| value).sum()
    }

    fn samples(&self) -> impl Iterator<Item = (&str, f64)> {
        let lines = self.text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            (series, value.parse().expect("a value is a number"))
        })
    }
}
