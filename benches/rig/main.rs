//! The bench rig: what an injected request costs, Postern's and its peers', in one run. `benches/run` starts it.
//!
//! Upstream and agents are this process, on one core; the proxy is another process, alone on its core. Rounds are
//! interleaved (A B C, A B C), so that what the machine does meanwhile hits all alike, and ratios are of pairs.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is what it is for")]
#![expect(clippy::expect_used, reason = "a rig that cannot go on has to fail")]
#![expect(clippy::disallowed_methods, reason = "the rig starts tasks and reads clocks of its own")]
#![expect(unreachable_pub, reason = "one binary: pub means that every part may use it")]

pub(crate) mod agent;
mod guard;
pub(crate) mod load;
pub(crate) mod message;
pub(crate) mod plan;
pub(crate) mod plot;
mod proxy;
pub(crate) mod report;
pub(crate) mod round;
mod splice;
pub(crate) mod subject;
pub(crate) mod swarm;
pub(crate) mod table;
pub(crate) mod targets;
pub(crate) mod upstream;
pub(crate) mod usage;
pub(crate) mod workload;

/// What tests/suite makes its authorities with.
#[path = "../../tests/suite/support/certificates.rs"]
#[expect(dead_code, reason = "the rig uses a part of it")]
mod certificates;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use plan::{Args, Plan};
use report::{Machine, Results};
use round::Bench;
use subject::{ALL, Program, Programs, Subject};
use upstream::Upstream;

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
    let done = match (&args.from, args.list) {
        (_, true) => Plan::of(&args).map(|plan| println!("{}", plan::listing(&plan))).map(|()| ExitCode::SUCCESS),
        (Some(file), _) => again(file, &args.out).map(|()| ExitCode::SUCCESS),
        (None, _) => run(&args).map(|results| results.code()),
    };
    match done {
        Ok(code) => code,
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
    let begun = Instant::now();
    let plan = Plan::of(args)?;
    let setup = args.peers.as_ref().map(fs::read_to_string).transpose();
    let mut programs = subject::programs(&setup.map_err(|error| error.to_string())?.unwrap_or_default());
    if let Some(path) = &args.postern {
        programs.insert(Subject::Postern, Program { path: path.clone(), libraries: String::new() });
    }
    let mut machine = Machine::new(&args.told, &programs);
    let there =
        |subject: &Subject| matches!(subject, Subject::Splice | Subject::Direct) || programs.contains_key(subject);
    let wanted = |subject: &Subject| plan.workloads.iter().any(|workload| plan.cast(workload).contains(subject));
    let missing = ALL.iter().filter(|subject| wanted(subject) && !there(subject));
    machine.missing = missing.map(|subject| subject.name().to_owned()).collect();

    eprintln!("it takes about {:.0} minutes", plan.estimate().as_secs_f64() / 60.0);
    let mut results = measure(&plan, programs, args, machine)?;
    results.machine.seconds = begun.elapsed().as_secs_f64();
    write(&results, &args.out, true)?;
    Ok(results)
}

/// The page of an earlier run.
fn again(file: &Path, out: &Path) -> Result<(), String> {
    let named = |why: String| format!("{}: {why}", file.display());
    let text = fs::read_to_string(file).map_err(|error| named(error.to_string()))?;
    let results = Results::read(&text).map_err(named)?;
    write(&results, out, false)
}

fn write(results: &Results, out: &Path, measured: bool) -> Result<(), String> {
    fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
    let mut files = vec![
        ("performance.md", table::page(results)),
        ("performance.svg", plot::bars(results)),
        ("performance-course.svg", plot::courses(results)),
    ];
    if measured {
        files.push(("performance.json", results.json()));
        println!("{}", table::page(results));
    }
    for (name, text) in files {
        let file = out.join(name);
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    eprintln!("written to {}", out.display());
    Ok(())
}

fn measure(plan: &Plan, programs: Programs, args: &Args, machine: Machine) -> Result<Results, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let missing = machine.missing.clone();
    runtime.map_err(|error| error.to_string())?.block_on(async {
        let epoch = Instant::now();
        let upstream = Upstream::start(epoch).await;
        let bench = Bench { upstream, programs, epoch, core: args.core, swarm: args.swarm.clone() };
        let mut results = Results::new(machine, args.quick);
        for workload in &plan.workloads {
            let (rounds, times, mut cast) = (plan.rounds(workload), plan.times(workload), plan.cast(workload));
            cast.retain(|subject| !missing.iter().any(|missing| missing == subject.name()));
            for round in 0..rounds {
                for subject in cast.iter().filter(|subject| round < subject.rounds(rounds)) {
                    let figures = bench.round(*subject, workload, times).await;
                    let told = match &figures {
                        Ok(figures) => report::line(figures),
                        Err(why) => format!("VOID: {why}"),
                    };
                    eprintln!("{} {}/{rounds} {}: {told}", workload.name, round + 1, subject.name());
                    results.add(workload, times, *subject, figures);
                }
            }
        }
        Ok(results)
    })
}
