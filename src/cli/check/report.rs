//! What a survey found, as it is printed, and the exit code that it is.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cli::{FAILED, OK};
use crate::control::survey::{Finding, Grade};

/// A form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// A line for each finding.
    Text,
    /// One document.
    Json,
}

/// What was found, and where.
pub(super) struct Report {
    /// The API server's URL.
    pub(super) cluster: String,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    /// Warnings fail nothing.
    pub(super) fn code(&self) -> u8 {
        if self.count(Grade::Wrong) + self.count(Grade::Unchecked) == 0 { OK } else { FAILED }
    }

    pub(super) fn print(&self, output: Output) -> String {
        match output {
            Output::Text => self.text(),
            Output::Json => format!("{:#}\n", self.json()),
        }
    }

    fn count(&self, grade: Grade) -> usize {
        self.findings.iter().filter(|finding| finding.grade == grade).count()
    }

    /// By part and in it by what was looked at, as they came.
    fn ordered(&self) -> Vec<&Finding> {
        let mut findings: Vec<&Finding> = self.findings.iter().collect();
        findings.sort_by_key(|finding| (finding.topic.section(), finding.topic));
        findings
    }

    fn text(&self) -> String {
        let (mut text, mut section) = (String::new(), None);
        for finding in self.ordered() {
            let of = finding.topic.section();
            if section != Some(of) {
                let gap = if section.is_some() { "\n" } else { "" };
                let _infallible = writeln!(text, "{gap}{}", of.as_str());
                section = Some(of);
            }
            let fix = finding.fix.as_ref().map_or_else(String::new, |fix| format!(" -> {fix}"));
            let _infallible =
                writeln!(text, "  {:<12} {}: {}{fix}", finding.grade.as_str(), finding.place, finding.what);
        }
        let counts = Grade::ALL.map(|grade| format!("{} {}", self.count(grade), grade.as_str()));
        let _infallible = writeln!(text, "\n{}: {}", self.cluster, counts.join(", "));
        text
    }

    fn json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "section": finding.topic.section().as_str(),
                "check": finding.topic.as_str(),
                "result": finding.grade.as_str(),
                "kind": finding.place.kind,
                "namespace": finding.place.namespace,
                "name": finding.place.name,
                "what": finding.what,
                "fix": finding.fix,
            })
        };
        let findings: Vec<Value> = self.ordered().into_iter().map(finding).collect();
        let counts = Grade::ALL.map(|grade| (grade.as_str().to_owned(), json!(self.count(grade))));
        json!({"cluster": self.cluster, "findings": findings, "counts": serde_json::Map::from_iter(counts)})
    }
}
