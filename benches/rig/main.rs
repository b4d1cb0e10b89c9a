//! The bench rig: what an injected request costs, Postern's and its peers', in one run. `benches/run` starts it.
//!
//! Upstream and agents are this process, on one core; the proxy is another process, alone on its core. Rounds are
//! interleaved (A B C, A B C), so that what the machine does meanwhile hits all alike, and ratios are of pairs.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is what it is for")]
#![expect(clippy::expect_used, reason = "a rig that cannot go on has to fail")]
#![expect(clippy::disallowed_methods, reason = "the rig starts tasks and reads clocks of its own")]
#![expect(unreachable_pub, reason = "one binary: pub means that every part may use it")]

mod agent;
mod guard;
mod load;
mod message;
mod plot;
mod proxy;
mod report;
mod round;
mod splice;
mod subject;
mod table;
mod upstream;
mod usage;
mod workload;

/// What tests/suite makes its authorities with.
#[path = "../../tests/suite/support/certificates.rs"]
#[expect(dead_code, reason = "the rig uses a part of it")]
mod certificates;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use report::{Machine, Results};
use round::{Bench, Times};
use subject::{Program, Programs, Subject};
use upstream::Upstream;
use workload::Workload;

/// Measures Postern and proxies that do the same job, in interleaved rounds.
#[derive(Parser)]
#[command(name = "benches/run")]
struct Args {
    /// A smoke run of seconds: it shows that the rig works, and proves nothing about speed
    #[arg(long)]
    quick: bool,
    /// Workloads, by name, parted by commas; all if not given
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Who is measured, likewise: postern, nginx, haproxy, envoy, mitmproxy, splice, direct
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// How many times each is measured
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long a round counts
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// How long a round runs before it counts
    #[arg(long, default_value_t = 1.0)]
    warm: f64,
    /// Where performance.md, .json and .svg go
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Names the workloads and ends
    #[arg(long)]
    list: bool,
    /// Postern's binary; set by benches/run
    #[arg(long, hide = true)]
    postern: Option<PathBuf>,
    /// What benches/peers/setup printed; set by benches/run
    #[arg(long, hide = true)]
    peers: Option<PathBuf>,
    /// The proxy's core; set by benches/run
    #[arg(long, hide = true, default_value_t = 1)]
    core: usize,
    /// What is said of the machine and the run; set by benches/run
    #[arg(long, hide = true, default_value = "")]
    told: String,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    // `cargo test --all-targets` and `cargo bench` start it as well.
    if words.is_empty() {
        println!("nothing is run unasked: see benches/run");
        return ExitCode::SUCCESS;
    }
    if let [command, listen, upstream] = &words[..]
        && command == "splice"
    {
        splice::run(listen.parse().expect("a port"), upstream.parse().expect("a port"));
        return ExitCode::SUCCESS;
    }
    if words.first().is_some_and(|word| word == "guard") {
        return match guard::run(&guard::Args::parse_from(words)) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(why) => {
                eprintln!("benches/guard: {why}");
                ExitCode::FAILURE
            }
        };
    }
    let args = Args::parse_from([String::from("benches/run")].into_iter().chain(words));
    if args.list {
        workload::all().iter().for_each(|workload| println!("{:<14} {}", workload.name, workload.about));
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(results) => results.code(),
        Err(why) => {
            eprintln!("benches/run: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Results, String> {
    if args.quick && args.out.ends_with("docs") {
        return Err("a quick run proves nothing about speed, and does not go into docs".to_owned());
    }
    let workloads = chosen(&args.workloads, workload::all(), |workload| workload.name)?;
    let subjects = chosen(&args.subjects, subject::ALL.to_vec(), |subject| subject.name())?;
    let setup = args.peers.as_ref().map(fs::read_to_string).transpose();
    let mut programs = subject::programs(&setup.map_err(|error| error.to_string())?.unwrap_or_default());
    if let Some(path) = &args.postern {
        programs.insert(Subject::Postern, Program { path: path.clone(), libraries: String::new() });
    }
    let mut machine = Machine::new(&args.told, &programs);
    let there =
        |subject: &Subject| matches!(subject, Subject::Splice | Subject::Direct) || programs.contains_key(subject);
    let (subjects, missing): (Vec<_>, Vec<_>) = subjects.into_iter().partition(there);
    machine.missing = missing.iter().map(|subject| subject.name()).collect();
    let plan = Plan { workloads, subjects, rounds: if args.quick { 1 } else { args.rounds }, times: times(args) };

    let results = measure(&plan, programs, args, machine)?;
    fs::create_dir_all(&args.out).map_err(|error| format!("{}: {error}", args.out.display()))?;
    for (ending, text) in [("json", results.json()), ("md", table::page(&results)), ("svg", plot::draw(&results))] {
        let file = args.out.join(format!("performance.{ending}"));
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    println!("{}", table::page(&results));
    eprintln!("written to {}", args.out.display());
    Ok(results)
}

/// What is measured, how often and how long.
struct Plan {
    workloads: Vec<Workload>,
    subjects: Vec<Subject>,
    rounds: usize,
    times: Times,
}

fn times(args: &Args) -> Times {
    let (warm, counted) = if args.quick { (0.2, 0.5) } else { (args.warm, args.seconds) };
    Times { warm: Duration::from_secs_f64(warm), counted: Duration::from_secs_f64(counted) }
}

/// Those of a list that were asked for by name, in the order of the list.
fn chosen<T>(names: &[String], all: Vec<T>, name: impl Fn(&T) -> &'static str) -> Result<Vec<T>, String> {
    if let Some(unknown) = names.iter().find(|asked| !all.iter().any(|one| name(one) == **asked)) {
        let known: Vec<&str> = all.iter().map(&name).collect();
        return Err(format!("there is no {unknown}; there are {}", known.join(", ")));
    }
    Ok(all.into_iter().filter(|one| names.is_empty() || names.iter().any(|asked| asked == name(one))).collect())
}

fn measure(plan: &Plan, programs: Programs, args: &Args, machine: Machine) -> Result<Results, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let epoch = Instant::now();
        let bench = Bench { upstream: Upstream::start(epoch).await, programs, epoch, core: args.core };
        let mut results = Results::new(machine, args.quick, plan.rounds, plan.times);
        for workload in &plan.workloads {
            for round in 0..plan.rounds {
                for subject in plan.subjects.iter().filter(|subject| subject.unfit(workload).is_none()) {
                    let figures = bench.round(*subject, workload, plan.times).await;
                    let told = match &figures {
                        Ok(figures) => report::line(figures),
                        Err(why) => format!("VOID: {why}"),
                    };
                    eprintln!("{} {}/{} {}: {told}", workload.name, round + 1, plan.rounds, subject.name());
                    results.add(workload, *subject, figures);
                }
            }
        }
        Ok(results)
    })
}
