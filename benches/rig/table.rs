//! The page: what was measured, in tables.

use super::report::{Machine, Measured, Results, Summary};
use super::subject::{ALL, Subject};
use super::workload::Shape;

/// A column: its name, and what stands in it for a subject.
type Column = (String, Box<dyn Fn(&Measured, Subject) -> Option<String>>);

/// docs/performance.md.
pub fn page(results: &Results) -> String {
    let mut page = String::from("# Performance\n\n");
    if results.quick {
        page.push_str("**A smoke run: it shows that the rig works, and proves nothing about speed.**\n\n");
    } else if results.machine.was_busy() {
        let busy = &results.machine.busy;
        page.push_str(&format!(
            "**The machine had other work (load {busy}) when this began: no figure here may be relied on.**\n\n"
        ));
    }
    page.push_str(
        "What a request costs that gets its credential on the way, and what the same costs with others. All do the same \
         job: they drop the agent's `Authorization`, set the upstream's, verify its certificate, and keep connections \
         open. `splice` copies bytes and `direct` is no proxy at all: there the agent speaks TLS and has the credential \
         itself. Postern does all that it always does: decision, mask, metrics, access lines.\n\n\
         Absolute times hold for this machine alone. Ratios are of rounds next to each other, and hold better.\n\n",
    );
    page.push_str(&setting(&results.machine, results));
    if results.measured.iter().any(|measured| measured.summary(Subject::Postern, "cpu_us").is_some()) {
        page.push_str("![Processor time, as multiples of Postern's](performance.svg)\n\n");
    }
    for measured in results.measured.iter().filter(|measured| !measured.workload.is_curve()) {
        page.push_str(&table(measured));
    }
    page.push_str(&curve(results));
    page.push_str(
        "## How to read it\n\n\
         Each cell: median, and least to greatest of the rounds. **CPU** is the proxy's, with its children, as the \
         kernel counts it. **Postern takes** is Postern's CPU over theirs. **Core** says how busy the proxy's core was: \
         well below 100 % in a closed loop means that agents and upstream were the limit, so that the rate says nothing \
         of the proxy. **Added** is the delay beyond `direct`'s in the same round. At 2,000/s it counts from when a \
         request was due, sent or not, so that waiting shows; with streams it counts from the upstream's write of an \
         event. **New upstream connections** \
         are those of the time that counts: none, where all is reused. Memory is resident memory; pages that two \
         processes share count twice.\n",
    );
    page
}

fn setting(machine: &Machine, results: &Results) -> String {
    let versions: Vec<String> = machine.versions.iter().map(|(name, version)| format!("{name}: {version}")).collect();
    let mut text = format!(
        "| | |\n|---|---|\n| run | {} |\n| machine | {}, {} cores, Linux {}; load before it began: {} |\n| versions | {} |\n\
         | rounds | {} each, interleaved, {} s after {} s of warm-up; the proxy alone on one core |\n",
        machine.told,
        machine.processor,
        machine.cores,
        machine.kernel,
        machine.busy,
        versions.join("; "),
        results.rounds,
        results.times.counted.as_secs_f64(),
        results.times.warm.as_secs_f64(),
    );
    if !machine.missing.is_empty() {
        text.push_str(&format!("| left out | {}: cannot be had here |\n", machine.missing.join(", ")));
    }
    text.push('\n');
    text
}

/// A figure with its range.
fn show(summary: Summary) -> String {
    let digits = if summary.median.abs() < 10.0 { 2 } else { usize::from(summary.median.abs() < 1000.0) };
    let Summary { least, median, greatest } = summary;
    if least == greatest {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} [{least:.digits$}-{greatest:.digits$}]")
}

fn plain(name: &str, figure: &'static str) -> Column {
    (name.to_owned(), Box::new(move |measured, subject| measured.summary(subject, figure).map(show)))
}

fn added(name: &str, figure: &'static str) -> Column {
    let cell = move |measured: &Measured, subject| {
        // In a closed loop the delay is what the load makes it; and who opens TLS connections does not compare.
        let comparable = matches!(measured.workload.shape, Shape::Open { .. } | Shape::Streams { .. });
        if subject == Subject::Direct || !comparable { None } else { measured.added(subject, figure).map(show) }
    };
    (name.to_owned(), Box::new(cell))
}

fn columns(measured: &Measured) -> Vec<Column> {
    let unit = measured.workload.unit();
    let ratio = |measured: &Measured, subject| {
        if subject == Subject::Postern { None } else { measured.ratio(Subject::Postern, subject, "cpu_us").map(show) }
    };
    let mut columns = vec![
        plain(&format!("CPU us per {unit}"), "cpu_us"),
        ("Postern takes".to_owned(), Box::new(ratio) as Box<_>),
        plain("core %", "core_percent"),
        plain(&format!("{unit}s/s"), "per_second"),
        plain("p50 us", "p50_us"),
        added("added p50", "p50_us"),
        plain("p99 us", "p99_us"),
        added("added p99", "p99_us"),
        plain("new upstream connections", "dialled"),
        plain("idle MiB", "idle_mib"),
        plain("peak MiB", "peak_mib"),
    ];
    if let Shape::Streams { .. } | Shape::Idle { .. } = measured.workload.shape {
        let held = if matches!(measured.workload.shape, Shape::Idle { .. }) { "connection" } else { "stream" };
        columns.push(plain(&format!("KiB per {held}"), "kib_each"));
    }
    columns.push(plain("ready ms", "ready_ms"));
    columns
}

fn table(measured: &Measured) -> String {
    let workload = &measured.workload;
    let there: Vec<Subject> = ALL.into_iter().filter(|subject| measured.rounds.contains_key(subject)).collect();
    // A column that says nothing of anybody is left out.
    let mut columns = columns(measured);
    columns.retain(|(_, cell)| there.iter().any(|subject| cell(measured, *subject).is_some()));
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = format!("## {}\n\n{}.\n\n", workload.name, capital(workload.about));
    text.push_str(&format!("| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len())));
    for subject in &there {
        let cells: Vec<String> =
            columns.iter().map(|(_, cell)| cell(measured, *subject).unwrap_or_else(|| "-".to_owned())).collect();
        text.push_str(&format!("| {} | {} |\n", subject.name(), cells.join(" | ")));
    }
    text.push('\n');
    text.push_str(&remarks(measured, &there));
    text
}

/// Who is not in the table, or not with all rounds, and why.
fn remarks(measured: &Measured, there: &[Subject]) -> String {
    let mut lines = Vec::new();
    for subject in there {
        let void = measured.void(*subject);
        if let Some(first) = void.first() {
            lines.push(format!("{}: {} rounds do not count ({first})", subject.name(), void.len()));
        }
    }
    for subject in ALL.into_iter().filter(|subject| !there.contains(subject)) {
        if let Some(why) = subject.unfit(&measured.workload) {
            lines.push(format!("{}: not here, {why}", subject.name()));
        }
    }
    if lines.is_empty() { String::new() } else { format!("{}.\n\n", lines.join(". ")) }
}

/// Postern alone, over the number of its bindings.
fn curve(results: &Results) -> String {
    let of_curve: Vec<&Measured> = results.measured.iter().filter(|measured| measured.workload.is_curve()).collect();
    if of_curve.is_empty() {
        return String::new();
    }
    let figures = ["cpu_us", "per_second", "p50_us", "p99_us", "dialled", "idle_mib", "peak_mib", "ready_ms"];
    let mut text = String::from(
        "## bindings\n\nSmall calls to each of so many servers in turn, one binding each, Postern alone.\n\n\
         | bindings | CPU us per request | requests/s | p50 us | p99 us | new upstream connections | idle MiB | peak MiB \
         | ready ms |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for measured in &of_curve {
        let cell = |figure: &&str| measured.summary(Subject::Postern, figure).map_or("-".to_owned(), show);
        let cells: Vec<String> = figures.iter().map(cell).collect();
        text.push_str(&format!("| {} | {} |\n", measured.workload.bindings, cells.join(" | ")));
    }
    text.push('\n');
    for measured in of_curve {
        text.push_str(&remarks(measured, &ALL));
    }
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}
