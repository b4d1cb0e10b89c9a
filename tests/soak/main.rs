//! The soak rig: the real sidecar between thousands of agent connections and real TLS upstreams
//! with faults, both ends in this process, so that every call can be accounted for.
//!
//! `tests/soak/run` and `tests/soak/hostile` start it; it ends non-zero if anything does not add up.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is what it is for")]
#![expect(clippy::expect_used, clippy::panic, reason = "a rig that cannot go on has to fail")]
#![expect(clippy::disallowed_methods, reason = "the rig starts tasks and reads clocks of its own")]
#![expect(clippy::string_slice, reason = "what is cut here is ASCII")]
#![expect(unreachable_pub, reason = "one binary: pub means that every part may use it")]

mod account;
mod callers;
mod calm;
mod draw;
mod footprint;
mod hostile;
mod judge;
mod load;
mod plan;
mod process;
mod streams;
mod tokens;
mod upstream;
mod world;

/// What tests/suite is built from, as it is.
#[path = "../suite"]
mod suite {
    #[expect(dead_code, unused_imports, reason = "the rig uses a part of it")]
    pub mod support;
}

use std::process::ExitCode;

use clap::Parser;

/// Soak, attack and measure the sidecar; ends non-zero if anything does not add up.
#[derive(Parser)]
enum Command {
    Load(load::Args),
    Hostile(hostile::Args),
    Footprint(footprint::Args),
}

fn main() -> ExitCode {
    // `cargo test --all-targets` and `cargo bench` start it as well.
    if !std::env::args().skip(1).any(|argument| argument != "--bench") {
        println!("nothing is run unasked: see tests/soak/run and tests/soak/hostile");
        return ExitCode::SUCCESS;
    }
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let report = runtime.block_on(async {
        match command {
            Command::Load(args) => load::run(args).await,
            Command::Hostile(args) => hostile::run(args).await,
            Command::Footprint(args) => footprint::run(args).await,
        }
    });
    report.tell()
}
