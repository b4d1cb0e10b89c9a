//! The guard: how many instructions an exchange takes, against a baseline that is part of the repository.
//!
//! Time depends on the machine and on what else it does; instructions hardly do. Callgrind counts those of the whole
//! process, so each kind of exchange is run twice, a few and many times, and the difference is theirs alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::time::timeout;

use super::agent::Route;
use super::proxy::{Proxy, free_port};
use super::round::Bench;
use super::subject::{Job, Program, Programs, Subject};
use super::upstream::Upstream;
use super::workload::{self, Shape, Workload};

/// How far a count may be from its baseline, either way, in percent.
const TOLERANCE: f64 = 4.0;
/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Between two events: long enough that each is relayed before the next one comes, counted slowly as it is.
const EVENTS: Duration = Duration::from_millis(15);

/// Counts the instructions of a fixed set of exchanges, and compares them with the baseline.
#[derive(Parser)]
#[command(name = "benches/guard")]
pub struct Args {
    /// Postern's binary
    #[arg(long)]
    postern: PathBuf,
    /// What it was built with
    #[arg(long)]
    compiler: String,
    /// What this machine's can do, as far as it changes what runs
    #[arg(long)]
    processor: String,
    #[arg(long)]
    valgrind: PathBuf,
    #[arg(long)]
    baseline: PathBuf,
    /// Writes the baseline anew
    #[arg(long)]
    update: bool,
}

/// What is in the repository.
#[derive(Debug, Serialize, Deserialize)]
struct Baseline {
    /// Another compiler makes other instructions.
    compiler: String,
    /// On another one, the C library and the cryptography choose other code.
    processor: String,
    /// Of one exchange, by the workload's name.
    instructions: BTreeMap<String, u64>,
}

/// What is counted: each workload's kind of exchange, one after the other on one connection.
const COUNTED: [&str; 6] = ["small-h1", "small-h2", "answer-64k", "request-1m", "agent-tls", "sse-100x10"];

/// Whether all counts are what they are to be.
pub fn run(args: &Args) -> Result<bool, String> {
    let known: Option<Baseline> = match fs::read_to_string(&args.baseline) {
        Ok(text) => Some(serde_json::from_str(&text).map_err(|error| format!("the baseline: {error}"))?),
        Err(_) if args.update => None,
        Err(error) => return Err(format!("the baseline: {error}")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let instructions = runtime.map_err(|error| error.to_string())?.block_on(count(args))?;
    let found = Baseline { compiler: args.compiler.clone(), processor: args.processor.clone(), instructions };
    if args.update {
        let text = serde_json::to_string_pretty(&found).map_err(|error| error.to_string())?;
        fs::write(&args.baseline, text + "\n").map_err(|error| error.to_string())?;
    }
    Ok(tell(&found, known.as_ref()) || args.update)
}

/// Prints all counts; whether they are within the tolerance.
fn tell(found: &Baseline, known: Option<&Baseline>) -> bool {
    let mut sound = true;
    for (name, count) in &found.instructions {
        let before = known.and_then(|known| known.instructions.get(name));
        let change = before.map(|before| (*count as f64 / *before as f64 - 1.0) * 100.0);
        let verdict = match change {
            None => "new".to_owned(),
            Some(change) if change.abs() <= TOLERANCE => format!("{change:+.1} %"),
            Some(change) => format!("{change:+.1} %, BEYOND {TOLERANCE} %"),
        };
        sound &= change.is_some_and(|change| change.abs() <= TOLERANCE);
        println!("{name:<12} {count:>9} instructions {verdict}");
    }
    let same = known.is_none_or(|known| (&known.compiler, &known.processor) == (&found.compiler, &found.processor));
    if !same {
        println!(
            "NOT COMPARED: the baseline is of another compiler or kind of processor; benches/guard --update makes one of these"
        );
    } else if !sound {
        println!(
            "more is a regression; less, or more with a reason, is told by benches/guard --update in the same commit"
        );
    }
    sound || !same
}

async fn count(args: &Args) -> Result<BTreeMap<String, u64>, String> {
    let epoch = Instant::now();
    let program = Program { path: args.postern.clone(), libraries: String::new() };
    let programs = Programs::from([(Subject::Postern, program)]);
    let bench = Bench { upstream: Upstream::start(epoch).await, programs, epoch, core: 0, swarm: None };
    let mut counts = BTreeMap::new();
    for workload in workload::all().iter().filter(|workload| COUNTED.contains(&workload.name)) {
        let (few, many) = match workload.shape {
            // An event is little beside what a start differs by from another.
            Shape::Streams { .. } => (50, 1050),
            _ if workload.request > 100_000 => (4, 24),
            _ => (50, 250),
        };
        let less = total(args, &bench, workload, few).await?;
        let more = total(args, &bench, workload, many).await?;
        let each = more.saturating_sub(less) / (many - few) as u64;
        counts.insert(workload.name.to_owned(), each);
    }
    Ok(counts)
}

/// The instructions of a whole life with so many exchanges.
async fn total(args: &Args, bench: &Bench, workload: &Workload, exchanges: usize) -> Result<u64, String> {
    let directory = TempDir::new().map_err(|error| error.to_string())?;
    let log = directory.path().join("count.log");
    let job = Job {
        workload,
        directory: directory.path(),
        listen: free_port(),
        upstream: bench.upstream.address(workload.protocol).port(),
        ca_pem: &bench.upstream.ca_pem,
        program: bench.programs.get(&Subject::Postern),
    };
    bench.upstream.prepare(workload, EVENTS);
    let mut command = vec![
        args.valgrind.display().to_string(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", directory.path().join("profile").display()),
        format!("--log-file={}", log.display()),
    ];
    command.extend(job.command(Subject::Postern).unwrap_or_default());
    let mut proxy = Proxy::start(&command, None, bench.core, directory.path());
    let route = bench.served(Subject::Postern, &job, Some(&mut proxy)).await?;
    let done = timeout(LIMIT, exchange(bench, &job, &route, exchanges)).await;
    done.map_err(|_| format!("{}: not done in {LIMIT:?}", workload.name))?
        .map_err(|error| format!("{}: {error}", workload.name))?;
    // It tells the count when it ends.
    drop(proxy);
    collected(&log).ok_or_else(|| format!("{}: no count", workload.name))
}

async fn exchange(bench: &Bench, job: &Job<'_>, route: &Route, exchanges: usize) -> std::io::Result<()> {
    let requests = bench.requests(Subject::Postern, job);
    let mut connection = route.open().await?;
    if matches!(job.workload.shape, Shape::Streams { .. }) {
        let mut stream = connection.listen(&requests.listen).await?;
        let mut events = 0;
        while events < exchanges {
            stream.next(|_| events += 1).await?;
        }
        return Ok(());
    }
    for _ in 0..exchanges {
        let (status, length) = connection.call(&requests.calls[0]).await?;
        if (status, length) != (200, job.workload.answer) {
            return Err(std::io::Error::other(format!("answered {status} with {length} bytes")));
        }
    }
    Ok(())
}

/// The count in what valgrind wrote.
fn collected(log: &Path) -> Option<u64> {
    let text = fs::read_to_string(log).ok()?;
    let line = text.lines().find_map(|line| line.split_once("Collected : "))?;
    line.1.trim().parse().ok()
}
