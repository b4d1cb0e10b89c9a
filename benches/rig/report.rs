//! What all rounds gave, and what follows from it: least, median and greatest, and ratios pair by pair.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::round::{Figures, Times};
use super::subject::{self, Programs, Subject};
use super::workload::Workload;

/// Where and with what it was measured.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// What benches/run says: the command, the commit, the date.
    pub told: String,
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    /// How many processes wanted to run before it began, as an average of a minute.
    pub busy: String,
    pub versions: BTreeMap<&'static str, String>,
    /// Who was asked for and cannot be had here.
    pub missing: Vec<&'static str>,
}

impl Machine {
    pub fn new(told: &str, programs: &Programs) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let models: Vec<&str> = info
            .lines()
            .filter(|line| line.starts_with("model name"))
            .filter_map(|line| line.split(": ").nth(1))
            .collect();
        let versions = programs.iter().map(|(one, program)| (one.name(), subject::version(*one, program)));
        Self {
            told: told.to_owned(),
            processor: models.first().copied().unwrap_or("unknown").to_owned(),
            cores: info.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            busy: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            versions: versions.collect(),
            missing: Vec::new(),
        }
    }

    /// Whether something else wanted the cores.
    pub fn was_busy(&self) -> bool {
        self.busy.parse::<f64>().map_or(true, |busy| busy > 0.5)
    }
}

/// The rounds of one subject; in words why one does not count.
pub type Rounds = Vec<Result<Figures, String>>;

/// One workload's rounds, by subject.
pub struct Measured {
    pub workload: Workload,
    pub rounds: BTreeMap<Subject, Rounds>,
}

/// All that was measured.
pub struct Results {
    pub machine: Machine,
    pub quick: bool,
    pub rounds: usize,
    pub times: Times,
    pub measured: Vec<Measured>,
}

/// Least, median, greatest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    pub least: f64,
    pub median: f64,
    pub greatest: f64,
}

impl Summary {
    /// `None` of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { least, median, greatest })
    }
}

impl Measured {
    /// A figure over the rounds of a subject.
    pub fn summary(&self, subject: Subject, figure: &str) -> Option<Summary> {
        let rounds = self.rounds.get(&subject)?;
        Summary::of(rounds.iter().filter_map(|round| round.as_ref().ok()?.get(figure).copied()).collect())
    }

    /// Two subjects' figures of the same round, as `how` puts them together.
    fn pairs(&self, one: Subject, other: Subject, figure: &str, how: impl Fn(f64, f64) -> f64) -> Option<Summary> {
        let (ones, others) = (self.rounds.get(&one)?, self.rounds.get(&other)?);
        let pair = |(one, other): (&Result<Figures, String>, &Result<Figures, String>)| {
            Some(how(*one.as_ref().ok()?.get(figure)?, *other.as_ref().ok()?.get(figure)?))
        };
        Summary::of(ones.iter().zip(others).filter_map(pair).collect())
    }

    /// How many times the other's figure it has.
    pub fn ratio(&self, one: Subject, other: Subject, figure: &str) -> Option<Summary> {
        self.pairs(one, other, figure, |one, other| one / other)
    }

    /// How much more than without a proxy.
    pub fn added(&self, one: Subject, figure: &str) -> Option<Summary> {
        self.pairs(one, Subject::Direct, figure, |one, direct| one - direct)
    }

    /// Why rounds of a subject do not count.
    pub fn void(&self, subject: Subject) -> Vec<&str> {
        self.rounds
            .get(&subject)
            .into_iter()
            .flatten()
            .filter_map(|round| round.as_ref().err().map(String::as_str))
            .collect()
    }
}

impl Results {
    pub fn new(machine: Machine, quick: bool, rounds: usize, times: Times) -> Self {
        Self { machine, quick, rounds, times, measured: Vec::new() }
    }

    pub fn add(&mut self, workload: &Workload, subject: Subject, round: Result<Figures, String>) {
        if self.measured.last().is_none_or(|last| last.workload.name != workload.name) {
            self.measured.push(Measured { workload: workload.clone(), rounds: BTreeMap::new() });
        }
        if let Some(last) = self.measured.last_mut() {
            last.rounds.entry(subject).or_default().push(round);
        }
    }

    /// Failure if a round of Postern does not count. That of a peer is told.
    pub fn code(&self) -> ExitCode {
        let sound = self.measured.iter().all(|measured| measured.void(Subject::Postern).is_empty());
        if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Every figure of every round.
    pub fn json(&self) -> String {
        let machine = &self.machine;
        let document = json!({
            "provesSpeed": !self.quick && !machine.was_busy(),
            "run": machine.told,
            "machine": {
                "processor": machine.processor,
                "cores": machine.cores,
                "kernel": machine.kernel,
                "loadBefore": machine.busy,
            },
            "versions": machine.versions,
            "missing": machine.missing,
            "rounds": self.rounds,
            "warmSeconds": self.times.warm.as_secs_f64(),
            "countedSeconds": self.times.counted.as_secs_f64(),
            "workloads": self.measured.iter().map(workload).collect::<Vec<_>>(),
        });
        serde_json::to_string_pretty(&document).expect("numbers and text")
    }
}

fn workload(measured: &Measured) -> Value {
    let round = |round: &Result<Figures, String>| match round {
        Ok(figures) => json!(figures),
        Err(why) => json!({"void": why}),
    };
    let rounds: BTreeMap<&str, Vec<Value>> =
        measured.rounds.iter().map(|(subject, rounds)| (subject.name(), rounds.iter().map(round).collect())).collect();
    json!({"name": measured.workload.name, "about": measured.workload.about, "rounds": rounds})
}

/// One round in a line.
pub fn line(figures: &Figures) -> String {
    figures.iter().map(|(name, value)| format!("{name} {value:.1}")).collect::<Vec<_>>().join(", ")
}
