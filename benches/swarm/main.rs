//! How many sidecars one broker bears: `cargo bench --bench swarm`.
//!
//! A real API server, `postern broker` as a process with the rights of its manifest, and for each simulated sidecar a
//! pod, its token, and the sidecar's own source of credentials. What is measured is the broker's process alone; all
//! share the machine.
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
mod process;

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

use std::time::{Duration, Instant};

use fleet::Fleet;
use process::Usage;
use support::deployed::Deployment;

/// How long nothing happens while the cost of heartbeats is looked at.
const QUIET: Duration = Duration::from_secs(30);

/// What was seen of one size.
struct Row {
    sidecars: usize,
    cells: Vec<String>,
}

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
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![100, 300, 1000] } else { sizes };
    postern::tls::client::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let rows = runtime.expect("a runtime can be made").block_on(async {
        let mut rows = Vec::new();
        for size in sizes {
            rows.push(measure(size).await);
        }
        rows
    });
    println!("| {} |", COLUMNS.join(" | "));
    println!("|{}", "---|".repeat(COLUMNS.len()));
    for Row { sidecars, cells } in rows {
        println!("| {sidecars} | {} |", cells.join(" | "));
    }
}

async fn measure(size: usize) -> Row {
    eprintln!("{size} sidecars: making their namespaces, pods and tokens");
    // As a user runs it, but for the names in its certificate.
    let mut broker = Deployment { arguments: Vec::new(), ..Deployment::default() }.start().await;
    let mut fleet = Fleet::new(&broker, size).await;
    broker.ready().await;
    let pid = broker.process().pid();
    let empty = Usage::of(pid);

    let begun = Instant::now();
    fleet.start(&broker);
    fleet.until_generation(1).await;
    let (connected, holding) = (begun.elapsed(), Usage::of(pid));
    eprintln!("{size} sidecars: all hold their values after {connected:.2?}; quiet for {QUIET:?}");

    tokio::time::sleep(QUIET).await;
    let quiet = Usage::of(pid);

    let begun = Instant::now();
    fleet.rotate().await;
    let mut times = fleet.until_generation(2).await;
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].saturating_duration_since(begun);
    let rotated = format!("{:.0?} / {:.0?} / {:.0?}", at(0.5), at(0.99), at(1.0));
    eprintln!("{size} sidecars: rotated, {rotated}");

    let counts = fleet.snapshots();
    broker.process().signal("KILL");
    broker.process().exit().await;
    broker.run().await;
    let begun = Instant::now();
    fleet.until_told_again(&counts).await;
    let back = begun.elapsed();

    let each = |cpu: Duration| format!("{:.0} us", cpu.as_secs_f64() * 1e6 / size as f64);
    let memory = |usage: &Usage| usage.resident as f64 / 1024.0;
    let grown = holding.resident.max(quiet.resident).saturating_sub(empty.resident);
    Row {
        sidecars: size,
        cells: vec![
            format!("{connected:.2?}"),
            each(holding.cpu - empty.cpu),
            format!("{:.1} / {:.1} MiB", memory(&empty), memory(&quiet)),
            format!("{:.1} KiB", grown as f64 / size as f64),
            format!("{}/s", each((quiet.cpu - holding.cpu).div_f64(QUIET.as_secs_f64()))),
            rotated,
            format!("{back:.2?}"),
        ],
    }
}
