//! What a run is asked for on its command line, and what it does then.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use super::round::Times;
use super::subject::{ALL, Subject};
use super::workload::{self, Shape, Workload};

/// Measures Postern and proxies that do the same job, in interleaved rounds.
#[derive(Parser)]
#[command(name = "benches/run")]
pub struct Args {
    /// A smoke run of seconds: it shows that the rig works, and proves nothing about speed
    #[arg(long)]
    pub quick: bool,
    /// Workloads, by name, parted by commas; all if not given: --list names them
    #[arg(long, value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// Who is measured, likewise, of postern, nginx, haproxy, envoy, mitmproxy, splice, direct; if not given, as --list
    /// says
    #[arg(long, value_delimiter = ',')]
    pub subjects: Vec<String>,
    /// How many times each is measured; if not given, as --list says
    #[arg(long)]
    pub rounds: Option<usize>,
    /// How many seconds a round counts; if not given, as --list says
    #[arg(long)]
    pub seconds: Option<f64>,
    /// How many seconds a round runs before it counts
    #[arg(long, default_value_t = 0.5)]
    pub warm: f64,
    /// Where performance.md, performance.json and two plots go
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
    /// Measures nothing, and makes the page and the plots anew of an earlier run's performance.json
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Tells what would be measured, who, how often and how long, and ends
    #[arg(long)]
    pub list: bool,
    /// Postern's binary; set by benches/run
    #[arg(long, hide = true)]
    pub postern: Option<PathBuf>,
    /// What benches/peers/setup printed; set by benches/run
    #[arg(long, hide = true)]
    pub peers: Option<PathBuf>,
    /// The program of benches/swarm; set by benches/run where there is an API server for it
    #[arg(long, hide = true)]
    pub swarm: Option<PathBuf>,
    /// The proxy's core; set by benches/run
    #[arg(long, hide = true, default_value_t = 1)]
    pub core: usize,
    /// What is said of the machine and the run; set by benches/run
    #[arg(long, hide = true, default_value = "")]
    pub told: String,
}

/// What is measured, how often and how long.
pub struct Plan {
    pub workloads: Vec<Workload>,
    /// Those who were asked for; each workload's own if none.
    pub subjects: Vec<Subject>,
    pub rounds: Option<usize>,
    pub seconds: Option<f64>,
    pub warm: f64,
}

impl Plan {
    pub fn of(args: &Args) -> Result<Self, String> {
        let workloads = chosen(&args.workloads, workload::all(), |workload| workload.name)?;
        let asked = chosen(&args.subjects, ALL.to_vec(), |subject| subject.name())?;
        let subjects = if args.subjects.is_empty() { Vec::new() } else { asked };
        if args.quick {
            return Ok(Self { workloads, subjects, rounds: Some(1), seconds: Some(0.5), warm: 0.2 });
        }
        Ok(Self { workloads, subjects, rounds: args.rounds, seconds: args.seconds, warm: args.warm })
    }

    /// Who takes part in a workload.
    pub fn cast(&self, workload: &Workload) -> Vec<Subject> {
        let asked = if self.subjects.is_empty() { workload.cast } else { &self.subjects };
        asked.iter().copied().filter(|subject| subject.unfit(workload).is_none()).collect()
    }

    pub fn rounds(&self, workload: &Workload) -> usize {
        self.rounds.unwrap_or(workload.rounds)
    }

    pub fn times(&self, workload: &Workload) -> Times {
        let counted = self.seconds.unwrap_or(workload.seconds);
        Times { warm: Duration::from_secs_f64(self.warm), counted: Duration::from_secs_f64(counted) }
    }

    /// How long it takes, roughly: with the start of each, its end, and what has to be opened first.
    pub fn estimate(&self) -> Duration {
        const AROUND: Duration = Duration::from_millis(600);
        let round = |workload: &Workload| {
            let Times { warm, counted } = self.times(workload);
            let opened = match workload.shape {
                Shape::Streams { count, .. } => Duration::from_millis(2) * count as u32,
                Shape::Idle { connections } => Duration::from_micros(200) * connections as u32,
                Shape::Broker { sidecars } => Duration::from_millis(20) * sidecars as u32,
                _ => Duration::ZERO,
            };
            AROUND + warm + counted + opened
        };
        let rounds = |workload: &Workload| {
            self.cast(workload).iter().map(|subject| subject.rounds(self.rounds(workload))).sum::<usize>()
        };
        self.workloads.iter().map(|workload| round(workload) * rounds(workload) as u32).sum()
    }
}

/// Those of a list that were asked for by name, in the order of the list.
pub fn chosen<T>(names: &[String], all: Vec<T>, name: impl Fn(&T) -> &'static str) -> Result<Vec<T>, String> {
    if let Some(unknown) = names.iter().find(|asked| !all.iter().any(|one| name(one) == **asked)) {
        let known: Vec<&str> = all.iter().map(&name).collect();
        return Err(format!("there is no {unknown}; there are {}", known.join(", ")));
    }
    Ok(all.into_iter().filter(|one| names.is_empty() || names.iter().any(|asked| asked == name(one))).collect())
}

/// What a plan is: each workload with who is measured, how often and how long.
pub fn listing(plan: &Plan) -> String {
    let one = |workload: &Workload| {
        let name = |subject: &Subject| match subject.rounds(plan.rounds(workload)) {
            own if own < plan.rounds(workload) => format!("{} ({own})", subject.name()),
            _ => subject.name().to_owned(),
        };
        let cast: Vec<String> = plan.cast(workload).iter().map(name).collect();
        let (rounds, seconds) = (plan.rounds(workload), plan.times(workload).counted.as_secs_f64());
        let often = if rounds == 1 { "one round".to_owned() } else { format!("{rounds} rounds") };
        format!("{:<14} {}\n{:14} {often} of {seconds} s: {}\n", workload.name, workload.about, "", cast.join(", "))
    };
    let lines: String = plan.workloads.iter().map(one).collect();
    format!("{lines}about {:.0} minutes", plan.estimate().as_secs_f64() / 60.0)
}
