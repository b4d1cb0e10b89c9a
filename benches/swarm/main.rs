//! How many sidecars one broker bears: `cargo bench --bench swarm`.
//!
//! A real API server, `postern broker` as a process with the rights of its manifest, and for each simulated sidecar a
//! pod, its token, and the sidecar's own source of credentials. What is measured is the broker's process alone; all
//! share the machine.
//!
//! `benches/run --workloads broker-1000` runs it with the broker on a core of its own, and has its figures in its report.
//!
//! ```text
//! cargo bench --bench swarm                 100, 300 and 1,000 sidecars
//! cargo bench --bench swarm -- 3000         so many
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the report is what it is for")]
#![expect(clippy::expect_used, clippy::panic, reason = "a rig that cannot go on has to fail")]
#![expect(clippy::disallowed_methods, reason = "the rig starts tasks and reads clocks of its own")]
#![expect(unreachable_pub, reason = "one binary: pub means that every part may use it")]

mod fleet;

/// What a process has used.
#[path = "../rig/usage.rs"]
#[expect(dead_code, reason = "the rig looks at more")]
mod usage;

/// What tests/suite is built from.
#[path = "../../tests/suite/support"]
#[expect(dead_code, clippy::string_slice, reason = "the rig uses a part of it")]
mod suite {
    pub mod agent;
    pub mod answer;
    pub mod broker;
    pub mod capture;
    pub mod certificates;
    pub mod documents;
    pub mod evidence;
    pub mod files;
    pub mod message;
    pub mod observed;
    pub mod output;
    pub mod reader;
    pub mod secrets;
    pub mod sidecar;
    pub mod upstream_h1;
    pub mod upstream_h2;
}

/// What tests/cluster is built from.
#[path = "../../tests/cluster/support"]
#[expect(dead_code, reason = "the rig uses a part of it")]
mod support {
    pub mod admission;
    pub mod apiserver;
    pub mod deployed;
    pub mod kind;
    pub mod pod;
    pub mod rights;
    pub mod tenant;

    pub use apiserver::ApiServer;
}

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::json;

use fleet::Fleet;
use support::deployed::{Deployed, Deployment};
use usage::Usage;

/// Measures how many sidecars one broker bears.
#[derive(Parser)]
struct Args {
    /// How many sidecars; several sizes one after the other
    #[arg(default_values_t = [100, 300, 1000])]
    sizes: Vec<usize>,
    /// How long nothing happens while the cost of heartbeats is looked at
    #[arg(long, default_value_t = 30.0)]
    quiet: f64,
    /// The core that the broker has for itself; it shares all if not given
    #[arg(long)]
    core: Option<usize>,
    /// Another binary than the one that was built together with this
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Prints the figures of each size as a line of JSON
    #[arg(long)]
    json: bool,
    /// What cargo says
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was seen of one size, each by the name that it has in the rig.
type Figures = BTreeMap<&'static str, f64>;

const COLUMNS: [&str; 8] = [
    "sidecars",
    "all hold their values after",
    "CPU for that, each",
    "memory, empty / with all",
    "memory, each",
    "CPU at rest, each",
    "a rotated value: half / 99 % / all hold it after",
    "after a restart all are back after",
];

fn main() {
    let args = Args::parse();
    postern::tls::client::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be made").block_on(async {
        if !args.json {
            println!("| {} |\n|{}", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
        }
        for size in &args.sizes {
            let figures = measure(*size, &args).await;
            println!("{}", if args.json { json!(figures).to_string() } else { row(&figures) });
        }
    });
}

fn row(figures: &Figures) -> String {
    let of = |name: &str| figures.get(name).copied().unwrap_or_default();
    let seconds = |name: &str| of(name) / 1000.0;
    let rotated = ["rotated_half_ms", "rotated_most_ms", "rotated_ms"].map(|name| format!("{:.1}", seconds(name)));
    format!(
        "| {} | {:.2} s | {:.0} us | {:.1} / {:.1} MiB | {:.1} KiB | {:.1} us/s | {} s | {:.2} s |",
        of("sidecars"),
        seconds("held_ms"),
        of("held_cpu_us"),
        of("idle_mib"),
        of("resident_mib"),
        of("kib_each"),
        of("rest_cpu_us"),
        rotated.join(" / "),
        seconds("back_ms"),
    )
}

/// Puts a broker on the core that it has for itself: threads that it starts later stay there.
fn pin(broker: &Deployed, core: Option<usize>) {
    let Some(core) = core else { return };
    let (core, pid) = (core.to_string(), broker.process().pid().to_string());
    let pinned = Command::new("taskset").args(["--all-tasks", "--cpu-list", "--pid", &core, &pid]).output();
    assert!(pinned.expect("taskset starts").status.success(), "the broker is put on core {core}");
}

async fn measure(size: usize, args: &Args) -> Figures {
    eprintln!("{size} sidecars: making their namespaces, pods and tokens");
    // As a user runs it, but for the names in its certificate.
    let mut deployment = Deployment { arguments: Vec::new(), ..Deployment::default() };
    if let Some(binary) = &args.binary {
        deployment.program.clone_from(binary);
    }
    let mut broker = deployment.start().await;
    pin(&broker, args.core);
    let mut fleet = Fleet::new(&broker, size).await;
    broker.ready().await;
    let pid = broker.process().pid();
    let empty = Usage::of(&[pid]);

    let begun = Instant::now();
    fleet.start(&broker);
    fleet.until_generation(1).await;
    let (held, holding) = (begun.elapsed(), Usage::of(&[pid]));
    let quiet = Duration::from_secs_f64(args.quiet);
    eprintln!("{size} sidecars: all hold their values after {held:.2?}; quiet for {quiet:?}");

    tokio::time::sleep(quiet).await;
    let rested = Usage::of(&[pid]);

    let begun = Instant::now();
    fleet.rotate().await;
    let mut times = fleet.until_generation(2).await;
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].saturating_duration_since(begun);
    eprintln!("{size} sidecars: all have the rotated value after {:.2?}", at(1.0));

    let counts = fleet.snapshots();
    broker.process().signal("KILL");
    broker.process().exit().await;
    broker.run().await;
    pin(&broker, args.core);
    let begun = Instant::now();
    fleet.until_told_again(&counts).await;
    let back = begun.elapsed();

    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let mib = |usage: &Usage| usage.resident_kib as f64 / 1024.0;
    let grown = holding.resident_kib.max(rested.resident_kib).saturating_sub(empty.resident_kib);
    Figures::from([
        ("sidecars", size as f64),
        ("held_ms", ms(held)),
        ("held_cpu_us", holding.cpu_us_since(&empty) / size as f64),
        ("idle_mib", mib(&empty)),
        ("resident_mib", mib(&rested)),
        ("peak_mib", rested.peak_kib as f64 / 1024.0),
        ("kib_each", grown as f64 / size as f64),
        ("rest_cpu_us", rested.cpu_us_since(&holding) / args.quiet / size as f64),
        ("rotated_half_ms", ms(at(0.5))),
        ("rotated_most_ms", ms(at(0.99))),
        ("rotated_ms", ms(at(1.0))),
        ("back_ms", ms(back)),
    ])
}
