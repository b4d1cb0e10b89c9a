//! What Postern aims at, and whether it got there: computed from the rounds, like everything else.

use super::report::{Measured, Results, Summary};
use super::subject::Subject;
use super::table::show;
use super::workload::{Shape, Workload};

/// What is compared with a target. The lower it is the better, but for `Sidecars`.
#[derive(Debug, Clone, Copy)]
pub enum Of {
    /// Postern's figure over another one's, of the same round.
    Ratio(&'static str, Subject),
    /// Likewise what Postern adds to no proxy at all, over what the other one adds.
    AddedRatio(&'static str, Subject),
    /// Postern's figure less another one's, of the same round.
    Beyond(&'static str, Subject),
    /// Postern's own figure.
    Own(&'static str),
    /// Its greatest, of all rounds.
    Greatest(&'static str),
    /// The size of its program, in MiB.
    Binary,
    /// How many sidecars a broker served. More were not tried, so it is a lower bound.
    Sidecars,
}

/// One target. Either bound may be missing.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub what: &'static str,
    pub workload: &'static str,
    pub of: Of,
    pub unit: &'static str,
    pub target: Option<f64>,
    pub moonshot: Option<f64>,
}

/// All targets, in the order of the page.
pub fn all() -> Vec<Target> {
    let mut all = work();
    all.extend(delays());
    all.extend(weight());
    all
}

fn times(what: &'static str, workload: &'static str, peer: Subject, target: f64, moonshot: Option<f64>) -> Target {
    Target { what, workload, of: Of::Ratio("cpu_us", peer), unit: "x", target: Some(target), moonshot }
}

fn work() -> Vec<Target> {
    vec![
        times("CPU per request / nginx", "small-h1", Subject::Nginx, 0.9, Some(0.75)),
        times("CPU per request / haproxy", "small-h1", Subject::Haproxy, 0.9, None),
        times("CPU per request / Envoy", "small-h1", Subject::Envoy, 0.3, None),
        times("CPU per request, HTTP/2 upstream / haproxy", "small-h2", Subject::Haproxy, 1.1, Some(0.9)),
        times("CPU per request of 64 KiB / nginx", "request-64k", Subject::Nginx, 0.6, Some(0.5)),
        times("CPU per request of 1 MiB / nginx", "request-1m", Subject::Nginx, 0.65, Some(0.5)),
        times("CPU per event / nginx", "sse-100x10", Subject::Nginx, 0.75, Some(0.6)),
    ]
}

fn delays() -> Vec<Target> {
    vec![
        Target {
            what: "added p50 at 2,000/s / nginx's",
            workload: "open-2000",
            of: Of::AddedRatio("p50_us", Subject::Nginx),
            unit: "x",
            target: Some(1.0),
            moonshot: None,
        },
        Target {
            what: "p50 at 2,000/s beyond a copy of bytes",
            workload: "open-2000",
            of: Of::Beyond("p50_us", Subject::Splice),
            unit: "us",
            target: None,
            moonshot: Some(5.0),
        },
        Target {
            what: "added p50 of an event / nginx's",
            workload: "sse-100x10",
            of: Of::AddedRatio("p50_us", Subject::Nginx),
            unit: "x",
            target: Some(1.0),
            moonshot: Some(0.9),
        },
        Target {
            what: "no event waits for the next one, 100 ms later: the slowest of all",
            workload: "sse-100x10",
            of: Of::Greatest("max_us"),
            unit: "us",
            target: Some(100_000.0),
            moonshot: None,
        },
    ]
}

fn weight() -> Vec<Target> {
    let own = |what, workload, figure, unit, target, moonshot| Target {
        what,
        workload,
        of: Of::Own(figure),
        unit,
        target: Some(target),
        moonshot: Some(moonshot),
    };
    vec![
        own("memory, idle", "small-h1", "idle_mib", "MiB", 10.0, 8.0),
        own("memory per event stream", "sse-1000x1", "kib_each", "KiB", 20.0, 12.0),
        own("memory per idle agent connection", "idle-1000", "kib_each", "KiB", 5.0, 2.0),
        own("ready, credentials from files", "small-h1", "ready_ms", "ms", 50.0, 13.0),
        Target {
            what: "program, stripped",
            workload: "",
            of: Of::Binary,
            unit: "MiB",
            target: Some(16.0),
            moonshot: Some(10.0),
        },
        Target {
            what: "sidecars on one broker",
            workload: "broker-10000",
            of: Of::Sidecars,
            unit: "",
            target: Some(10_000.0),
            moonshot: Some(30_000.0),
        },
    ]
}

impl Target {
    /// What was measured of it.
    pub fn measured(&self, results: &Results) -> Option<Summary> {
        let single = |value: f64| Summary::of(vec![value]);
        if let Of::Binary = self.of {
            let bytes = results.machine.binary_bytes;
            return (bytes > 0).then(|| single(bytes as f64 / f64::from(1 << 20)))?;
        }
        let measured = results.of(self.workload)?;
        match self.of {
            Of::Ratio(figure, peer) => measured.ratio(Subject::Postern, peer, figure),
            Of::AddedRatio(figure, peer) => measured.added_ratio(Subject::Postern, peer, figure),
            Of::Beyond(figure, peer) => measured.beyond(Subject::Postern, peer, figure),
            Of::Own(figure) => measured.summary(Subject::Postern, figure),
            Of::Greatest(figure) => single(measured.summary(Subject::Postern, figure)?.greatest),
            Of::Sidecars => measured.summary(Subject::Postern, "sidecars"),
            Of::Binary => None,
        }
    }

    /// What is said of a figure: by the median, and whether other rounds say otherwise.
    pub fn verdict(&self, found: Option<Summary>) -> String {
        let Some(found) = found else { return "not measured".to_owned() };
        if let Of::Sidecars = self.of {
            let reached = self.target.is_some_and(|target| found.median >= target);
            return if reached { "met".to_owned() } else { "not shown: more were not tried".to_owned() };
        }
        let below = |bound: Option<f64>| bound.is_some_and(|bound| found.median <= bound);
        let (word, bound) = match (below(self.target), below(self.moonshot)) {
            (true, true) => ("met, and the moonshot", self.moonshot),
            (true, false) => ("met", self.target),
            (false, true) => ("moonshot met", self.moonshot),
            (false, false) if self.target.is_none() => ("moonshot not met", self.moonshot),
            (false, false) => ("**not met**", self.target),
        };
        format!("{word}{}", bound.map_or("", |bound| doubt(found, bound)))
    }
}

/// Whether some rounds are beyond a bound and some are not.
fn doubt(found: Summary, bound: f64) -> &'static str {
    match (found.least <= bound && bound < found.greatest, found.median <= bound) {
        (false, _) => "",
        (true, true) => ", not in each round",
        (true, false) => ", but in some rounds",
    }
}

/// The tables of targets.
pub fn section(results: &Results) -> String {
    let mut text = String::from(
        "## Targets\n\n\
         | | workload | target | moonshot | measured | |\n|---|---|---|---|---|---|\n",
    );
    for target in all() {
        let found = target.measured(results);
        let bound = |bound: Option<f64>| bound.map_or("-".to_owned(), |bound| number(bound, target.unit));
        let cell = found.map_or("-".to_owned(), |found| with_unit(show(found), target.unit));
        text.push_str(&format!(
            "| {} | {} | {} | {} | {cell} | {} |\n",
            target.what,
            if target.workload.is_empty() { "-" } else { target.workload },
            bound(target.target),
            bound(target.moonshot),
            target.verdict(found),
        ));
    }
    text.push('\n');
    let others = others(results);
    if !others.is_empty() {
        text.push_str(
            "In the other workloads Postern is to take no more of the processor than any peer. Compared is the one that \
             takes least:\n\n| workload | least of the peers | Postern / it | |\n|---|---|---|---|\n",
        );
        text.push_str(&others);
        text.push('\n');
    }
    text
}

fn number(value: f64, unit: &str) -> String {
    let plain = if value >= 1000.0 && value.fract() == 0.0 { grouped(value as u64) } else { value.to_string() };
    with_unit(plain, unit)
}

fn with_unit(text: String, unit: &str) -> String {
    if unit.is_empty() { text } else { format!("{text} {unit}") }
}

/// With a comma between thousands.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let places = digits.len();
    let one = |(at, digit): (usize, char)| {
        let comma = at > 0 && (places - at).is_multiple_of(3);
        if comma { format!(",{digit}") } else { digit.to_string() }
    };
    digits.chars().enumerate().map(one).collect()
}

/// The workloads that have no target of their own, each against the best of its peers.
fn others(results: &Results) -> String {
    let targeted = |workload: &Workload| {
        all().iter().any(|target| target.workload == workload.name && matches!(target.of, Of::Ratio("cpu_us", _)))
    };
    let other = |workload: &Workload| matches!(workload.shape, Shape::Broker { .. } | Shape::Idle { .. });
    let rows =
        results.measured.iter().filter(|one| !targeted(&one.workload) && !other(&one.workload)).filter_map(|one| {
            let (peer, ratio) = hardest(one)?;
            let word = if ratio.median <= 1.0 { "met" } else { "**not met**" };
            let doubt = doubt(ratio, 1.0);
            Some(format!("| {} | {} | {} x | {word}{doubt} |\n", one.workload.name, peer.name(), show(ratio)))
        });
    rows.collect()
}

/// The peer that Postern compares worst with, in processor time.
pub fn hardest(measured: &Measured) -> Option<(Subject, Summary)> {
    let peers = [Subject::Nginx, Subject::Haproxy, Subject::Envoy, Subject::Mitmproxy];
    let ratio = |peer| Some((peer, measured.ratio(Subject::Postern, peer, "cpu_us")?));
    peers.into_iter().filter_map(ratio).max_by(|one, other| one.1.median.total_cmp(&other.1.median))
}
