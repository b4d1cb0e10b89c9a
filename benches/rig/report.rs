//! What all rounds gave, and what follows from it: least, median and greatest, and ratios pair by pair.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::round::{FIGURES, Figures, Times};
use super::subject::{self, ALL, Programs, Subject};
use super::workload::{self, Workload};

/// Where and with what it was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// What benches/run says: the command, the commit, the date.
    pub run: String,
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    /// By which rule TCP finds out how fast it may send, where nobody chooses another.
    #[serde(default)]
    pub congestion_control: String,
    /// How many processes wanted to run before it began, as an average of a minute.
    pub load_before: String,
    pub versions: BTreeMap<String, String>,
    /// Bytes of Postern's program.
    pub binary_bytes: u64,
    /// Who was asked for and cannot be had here.
    pub missing: Vec<String>,
    /// How long the whole run took.
    pub seconds: f64,
}

impl Machine {
    pub fn new(run: &str, programs: &Programs) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let models: Vec<&str> = info
            .lines()
            .filter(|line| line.starts_with("model name"))
            .filter_map(|line| line.split(": ").nth(1))
            .collect();
        let version = |(one, program): (&Subject, &subject::Program)| {
            subject::version(*one, program).map(|version| (one.name().to_owned(), version))
        };
        let postern = programs.get(&Subject::Postern).and_then(|program| fs::metadata(&program.path).ok());
        Self {
            run: run.to_owned(),
            processor: models.first().copied().unwrap_or("unknown").to_owned(),
            cores: info.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
            load_before: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            versions: programs.iter().filter_map(version).collect(),
            binary_bytes: postern.map_or(0, |file| file.len()),
            missing: Vec::new(),
            seconds: 0.0,
        }
    }
}

/// The rounds of one subject; in words why one does not count.
pub type Rounds = Vec<Result<Figures, String>>;

/// One workload's rounds, by subject.
pub struct Measured {
    pub workload: Workload,
    /// How long a round ran before it counted, and then did, in seconds.
    pub warm: f64,
    pub counted: f64,
    pub rounds: BTreeMap<Subject, Rounds>,
}

/// All that was measured.
pub struct Results {
    pub machine: Machine,
    pub quick: bool,
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
        self.together([subject], figure, |[one]| Some(one))
    }

    /// Some subjects' figures of the same round, as `how` puts them together. A round in which one of them is void, or
    /// was not measured, does not count; nor does one of which `how` makes nothing.
    pub fn together<const N: usize>(
        &self,
        subjects: [Subject; N],
        figure: &str,
        how: impl Fn([f64; N]) -> Option<f64>,
    ) -> Option<Summary> {
        let value =
            |subject: Subject, round: usize| self.rounds.get(&subject)?.get(round)?.as_ref().ok()?.get(figure).copied();
        let rounds = self.rounds.values().map(Vec::len).max().unwrap_or(0);
        let one = |round| {
            let values: Vec<f64> = subjects.iter().filter_map(|subject| value(*subject, round)).collect();
            how(values.try_into().ok()?)
        };
        Summary::of((0..rounds).filter_map(one).collect())
    }

    /// How many times the other's figure it has.
    pub fn ratio(&self, one: Subject, other: Subject, figure: &str) -> Option<Summary> {
        self.together([one, other], figure, |[one, other]| (other > 0.0).then(|| one / other))
    }

    /// How much more than the other it has.
    pub fn beyond(&self, one: Subject, other: Subject, figure: &str) -> Option<Summary> {
        self.together([one, other], figure, |[one, other]| Some(one - other))
    }

    /// How much more than without a proxy, as a multiple of what another one has more.
    pub fn added_ratio(&self, one: Subject, other: Subject, figure: &str) -> Option<Summary> {
        self.together([one, other, Subject::Direct], figure, |[one, other, direct]| {
            (other > direct).then(|| (one - direct) / (other - direct))
        })
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
    pub fn new(machine: Machine, quick: bool) -> Self {
        Self { machine, quick, measured: Vec::new() }
    }

    pub fn add(&mut self, workload: &Workload, times: Times, subject: Subject, round: Result<Figures, String>) {
        if self.measured.last().is_none_or(|last| last.workload.name != workload.name) {
            let (warm, counted) = (times.warm.as_secs_f64(), times.counted.as_secs_f64());
            self.measured.push(Measured { workload: workload.clone(), warm, counted, rounds: BTreeMap::new() });
        }
        if let Some(last) = self.measured.last_mut() {
            last.rounds.entry(subject).or_default().push(round);
        }
    }

    /// What one workload gave.
    pub fn of(&self, workload: &str) -> Option<&Measured> {
        self.measured.iter().find(|measured| measured.workload.name == workload)
    }

    /// What else the machine did meanwhile, in percent of a core. Of closed loops: the kernel looks who is at work at its
    /// ticks, and what works in bursts may be there at each or at none.
    pub fn others(&self) -> Option<Summary> {
        let closed = self.measured.iter().filter(|measured| measured.workload.is_closed());
        let rounds = closed.flat_map(|measured| measured.rounds.values().flatten());
        Summary::of(rounds.filter_map(|round| round.as_ref().ok()?.get("others_percent").copied()).collect())
    }

    /// Whether that was too much for the figures to be of use.
    pub fn was_busy(&self) -> bool {
        self.others().is_none_or(|others| others.median > 10.0)
    }

    /// Failure if a round of Postern does not count. That of a peer is told.
    pub fn code(&self) -> ExitCode {
        let sound = self.measured.iter().all(|measured| measured.void(Subject::Postern).is_empty());
        if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Every figure of every round, a round on a line.
    pub fn json(&self) -> String {
        let document = json!({
            "provesSpeed": !self.quick && !self.was_busy(),
            "smoke": self.quick,
            "machine": self.machine,
            "workloads": self.measured.iter().map(written).collect::<Vec<_>>(),
        });
        let mut text = String::new();
        lines(&document, 0, &mut text);
        text.push('\n');
        text
    }

    /// Reads what `json` wrote.
    pub fn read(text: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let measured = document.workloads.into_iter().map(OfWorkload::measured);
        Ok(Self { machine: document.machine, quick: document.smoke, measured: measured.collect::<Result<_, _>>()? })
    }
}

fn written(measured: &Measured) -> Value {
    let short = |value: f64| (value * 1000.0).round() / 1000.0;
    let round = |round: &Result<Figures, String>| match round {
        Ok(figures) => json!(figures.iter().map(|(name, value)| (*name, short(*value))).collect::<Figures>()),
        Err(why) => json!({"void": why}),
    };
    let rounds: BTreeMap<&str, Vec<Value>> =
        measured.rounds.iter().map(|(subject, rounds)| (subject.name(), rounds.iter().map(round).collect())).collect();
    let name = measured.workload.name;
    json!({"name": name, "warmSeconds": measured.warm, "countedSeconds": measured.counted, "rounds": rounds})
}

/// Writes a value so that whatever holds no further list or object is on one line.
fn lines(value: &Value, depth: usize, text: &mut String) {
    let (open, close, items): (_, _, Vec<(String, &Value)>) = match value {
        Value::Array(items) => ('[', ']', items.iter().map(|item| (String::new(), item)).collect()),
        Value::Object(fields) => {
            ('{', '}', fields.iter().map(|(name, value)| (format!("{}: ", json!(name)), value)).collect())
        }
        single => return text.push_str(&single.to_string()),
    };
    if items.iter().all(|(_, item)| !item.is_array() && !item.is_object()) {
        return text.push_str(&value.to_string());
    }
    text.push(open);
    for (number, (name, item)) in items.into_iter().enumerate() {
        text.push_str(if number == 0 { "\n" } else { ",\n" });
        text.push_str(&"  ".repeat(depth + 1));
        text.push_str(&name);
        lines(item, depth + 1, text);
    }
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
    text.push(close);
}

#[derive(Deserialize)]
struct Document {
    smoke: bool,
    machine: Machine,
    workloads: Vec<OfWorkload>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfWorkload {
    name: String,
    warm_seconds: f64,
    counted_seconds: f64,
    rounds: BTreeMap<String, Vec<OfRound>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OfRound {
    Void { void: String },
    Figures(BTreeMap<String, f64>),
}

impl OfWorkload {
    fn measured(self) -> Result<Measured, String> {
        let workload = workload::all().into_iter().find(|workload| workload.name == self.name);
        let workload = workload.ok_or_else(|| format!("there is no workload {}", self.name))?;
        let subject = |(name, rounds): (String, Vec<OfRound>)| {
            let subject = ALL.into_iter().find(|subject| subject.name() == name);
            let subject = subject.ok_or_else(|| format!("there is no {name}"))?;
            Ok::<_, String>((subject, rounds.into_iter().map(OfRound::round).collect()))
        };
        let rounds = self.rounds.into_iter().map(subject).collect::<Result<_, _>>()?;
        Ok(Measured { workload, warm: self.warm_seconds, counted: self.counted_seconds, rounds })
    }
}

impl OfRound {
    fn round(self) -> Result<Figures, String> {
        match self {
            Self::Void { void } => Err(void),
            Self::Figures(figures) => Ok(known(figures)),
        }
    }
}

/// Those of some figures that the rig knows.
pub fn known(figures: BTreeMap<String, f64>) -> Figures {
    let known = |(name, value): (String, f64)| Some((*FIGURES.iter().find(|figure| **figure == name)?, value));
    figures.into_iter().filter_map(known).collect()
}

/// One round in a line.
pub fn line(figures: &Figures) -> String {
    figures.iter().map(|(name, value)| format!("{name} {value:.1}")).collect::<Vec<_>>().join(", ")
}
