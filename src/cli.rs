//! The command line (layer 6): one file per subcommand, each wires the parts it needs.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command's output; everything else logs")]

mod broker;
mod check;
mod cluster;
mod controller;
mod demo;
mod init_net;
mod inject;
mod injection;
mod sidecar;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use crate::api::document::Problem;
use crate::api::duration::{DURATION, parse_duration};
use crate::telemetry::logs::LogSettings;

/// Everything went as asked.
const OK: u8 = 0;
/// It could not be done: a port in use, a file that cannot be written. For `check`: a call
/// would be refused, or a credential is not usable.
const FAILED: u8 = 1;
/// What was given is wrong: the command line, the configuration or a document.
const INVALID: u8 = 2;

#[derive(Debug, Parser)]
#[command(name = "postern", version, about, long_about = LONG, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const LONG: &str = "\
Postern holds the credentials an AI agent needs for its MCP servers, so that the agent never does.

The agent calls http://127.0.0.1:15101/<server> without a credential; Postern finds the one bound
to the caller, replaces the auth header and forwards over TLS. Everything else is refused, with a
reason.

Exit codes: 0 done; 1 it could not be done (for check: a call would be refused); 2 the command
line, the configuration or a document is wrong.";

#[derive(Debug, Subcommand)]
enum Command {
    Sidecar(sidecar::Args),
    Broker(Box<broker::Args>),
    Controller(Box<controller::Args>),
    InitNet(init_net::Args),
    Check(Box<check::Args>),
    Inject(Box<inject::Args>),
    Demo(demo::Args),
}

/// Parses the command line and runs what it asks for.
pub fn run() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Sidecar(args) => sidecar::run(&args),
        Command::Broker(args) => broker::run(&args),
        Command::Controller(args) => controller::run(&args),
        Command::InitNet(args) => init_net::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Inject(args) => inject::run(&args),
        Command::Demo(args) => demo::run(&args),
    };
    ExitCode::from(code)
}

/// Says on standard error what is wrong with what was given.
fn tell(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
    let count = problems.len();
    eprintln!("postern: {count} problem{} in what was given; nothing was started", if count == 1 { "" } else { "s" });
}

fn level(text: &str) -> Result<LevelFilter, &'static str> {
    LogSettings::level(text).ok_or("error, warn, info, debug or trace")
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or(DURATION)
}

/// A variable of the environment that is set to something.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment; config says which variables")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// One thread for each core, up to four.
fn runtime() -> Result<tokio::runtime::Runtime, u8> {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    built(tokio::runtime::Builder::new_multi_thread().worker_threads(workers))
}

/// One thread: for what stands beside each agent, where threads that hand work to each other would only cost. One core
/// bears far more calls than an agent makes.
fn small_runtime() -> Result<tokio::runtime::Runtime, u8> {
    built(&mut tokio::runtime::Builder::new_current_thread())
}

fn built(builder: &mut tokio::runtime::Builder) -> Result<tokio::runtime::Runtime, u8> {
    builder.enable_all().build().map_err(|error| {
        eprintln!("postern: the runtime cannot be started: {error}");
        FAILED
    })
}
