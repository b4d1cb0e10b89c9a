//! The page: what was measured, in tables.

use super::report::{Machine, Measured, Results, Summary};
use super::subject::{ALL, Subject};
use super::targets;
use super::workload::{Shape, Workload};

/// A column: its name, and what stands in it for a subject.
type Column = (String, Box<dyn Fn(&Measured, Subject) -> Option<String>>);

/// Below this, in percent, a closed loop did not fill the proxy's core.
const FULL: f64 = 90.0;

/// docs/performance.md.
pub fn page(results: &Results) -> String {
    let mut page = String::from("# Performance\n\n");
    if results.quick {
        page.push_str("**A smoke run: it shows that the rig works, and proves nothing about speed.**\n\n");
    } else if results.was_busy() {
        let busy = results.others().map_or("unknown".to_owned(), |others| format!("{:.0} % of a core", others.median));
        page.push_str(&format!(
            "**The machine had other work meanwhile ({busy}): no figure here may be relied on.**\n\n"
        ));
    }
    page.push_str(
        "What a request costs that gets its credential on the way, and what the same costs with others. All do the same \
         job: they drop the agent's `Authorization`, set the upstream's, verify its certificate, and keep connections \
         open at both sides. `splice` copies bytes and `direct` is no proxy at all: there the agent speaks TLS and has \
         the credential itself. Postern does all that it always does: decision, JSON check, mask, metrics, access lines. \
         The others do less: they write no access line, read no body, mask nothing. The proxy is alone on one core; \
         agents and upstream are one process on the others. Rounds are interleaved (A B C, A B C), each with a fresh \
         proxy, and a ratio is of two rounds next to each other, so that it holds where absolute times hold for this \
         machine alone. Each cell is the median, with the least and the greatest of the rounds. This page is written by \
         the run, none of it by hand; performance.json has every figure of every round.\n\n",
    );
    page.push_str(&setting(&results.machine, results));
    page.push_str(&targets::section(results));
    page.push_str("## Processor time\n\n");
    if results.measured.iter().any(|measured| measured.summary(Subject::Postern, "cpu_us").is_some()) {
        page.push_str("![Processor time, as multiples of Postern's](performance.svg)\n\n");
    }
    for measured in results.measured.iter().filter(|measured| has_table(measured)) {
        page.push_str(&table(measured));
    }
    page.push_str(&weight(results));
    page.push_str(&courses(results));
    page.push_str(&broker(results));
    page.push_str(LEGEND);
    page
}

/// What stands below all tables.
const LEGEND: &str = "## How to read it\n\n\
     **CPU** is the proxy's, with its children, as the scheduler counts it: all threads, in user space and in the kernel. \
     **Postern / it** is Postern's CPU over theirs, round by round. **Core** says how full the proxy's core was, **rig** \
     how full the one of agents and upstream. A † marks a closed loop that did not fill the proxy's core: there the rig \
     was the limit, so the rate says nothing of the proxy, and its CPU per request is rather too high, because it is \
     woken more often for less. **Added** is the delay beyond `direct`'s in the same round. At 2,000/s a delay counts from \
     when the request was due, sent or not, so that waiting shows; that of an event from when the upstream wrote it. \
     **New upstream connections** are those of the time that counts: none, where all is reused. Memory is resident \
     memory, of all processes of a proxy; pages that two of them share count twice. **Ready** is from the start of the \
     process to the first call that was served, TLS to the upstream and all.\n\n\
     ## Limits\n\n\
     One virtual machine and its loopback: no network, no network card, no node with other pods; one version of each, \
     as Debian and PyPI have them. A p50 is good to about 5 us here, a p99 hardly at all: at low load its rounds differ by \
     more than proxies do. nginx and haproxy link the distribution's OpenSSL, so a newer one may give them other figures. \
     haproxy holds events back by default; here it is told not to (`option http-no-delay`). All take the machine's \
     congestion control, but Postern towards its agents, where it asks for `reno`: beside `bbr`, which paces, that is \
     worth about one percent of a small call. agentgateway is in neither \
     registry and is not measured. Not measured either: `redirect`, tool policies, bodies that are compressed, upstreams \
     that are slow or far away, more than one core for a proxy. mitmproxy takes part in some workloads, with one round.\n";

fn setting(machine: &Machine, results: &Results) -> String {
    let versions: Vec<String> = machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let mut rounds: Vec<usize> = results.measured.iter().flat_map(|one| one.rounds.values().map(Vec::len)).collect();
    rounds.sort_unstable();
    let usual = rounds.get(rounds.len() / 2).copied().unwrap_or(0);
    let seconds = results.measured.first().map_or((0.0, 0.0), |one| (one.warm, one.counted));
    let mut text = format!(
        "| | |\n|---|---|\n| run | {}; it took {:.0} minutes |\n\
         | machine | {}, {} cores, Linux {}, TCP by {}; other work on it meanwhile: {} % of a core |\n| versions | {} |\n\
         | rounds | {usual} each where a table does not say otherwise, {} s after {} s of warm-up |\n",
        machine.run,
        machine.seconds / 60.0,
        machine.processor,
        machine.cores,
        machine.kernel,
        machine.congestion_control,
        results.others().map_or("-".to_owned(), show),
        versions.join(", "),
        seconds.1,
        seconds.0,
    );
    if !machine.missing.is_empty() {
        text.push_str(&format!("| left out | {}: cannot be had here |\n", machine.missing.join(", ")));
    }
    text.push('\n');
    text
}

/// A figure with its range.
pub fn show(summary: Summary) -> String {
    let digits = if summary.median.abs() < 10.0 { 2 } else { usize::from(summary.median.abs() < 1000.0) };
    let Summary { least, median, greatest } = summary;
    let one = |value: f64| {
        if value >= 1000.0 { targets::grouped(value.round() as u64) } else { format!("{value:.digits$}") }
    };
    // Where a sign is, a dash would be another one.
    let dash = if least < 0.0 { " to " } else { "-" };
    if least == greatest { one(median) } else { format!("{} [{}{dash}{}]", one(median), one(least), one(greatest)) }
}

fn plain(name: &str, figure: &'static str) -> Column {
    (name.to_owned(), Box::new(move |measured, subject| measured.summary(subject, figure).map(show)))
}

fn added(name: &str, figure: &'static str) -> Column {
    let cell = move |measured: &Measured, subject| {
        // In a closed loop the delay is what the load makes it; and who opens TLS connections does not compare.
        let comparable = matches!(measured.workload.shape, Shape::Open { .. } | Shape::Streams { .. });
        if subject == Subject::Direct || !comparable {
            return None;
        }
        measured.beyond(subject, Subject::Direct, figure).map(show)
    };
    (name.to_owned(), Box::new(cell))
}

/// How full the proxy's core was, marked where the load was what did not suffice.
fn core(measured: &Measured, subject: Subject) -> Option<String> {
    let found = measured.summary(subject, "core_percent")?;
    let starved = measured.workload.is_closed() && found.median < FULL;
    Some(format!("{}{}", show(found), if starved { " †" } else { "" }))
}

fn columns(measured: &Measured) -> Vec<Column> {
    let unit = measured.workload.unit();
    let ratio = |measured: &Measured, subject| {
        if subject == Subject::Postern { None } else { measured.ratio(Subject::Postern, subject, "cpu_us").map(show) }
    };
    let mut columns = vec![
        plain(&format!("CPU us per {unit}"), "cpu_us"),
        ("Postern / it".to_owned(), Box::new(ratio) as Box<_>),
        ("core %".to_owned(), Box::new(core)),
        plain("rig %", "rig_percent"),
        plain(&format!("{unit}s/s"), "per_second"),
        plain("p50 us", "p50_us"),
        added("added p50", "p50_us"),
        plain("p99 us", "p99_us"),
        added("added p99", "p99_us"),
    ];
    if let Shape::Streams { .. } = measured.workload.shape {
        columns.push(plain("slowest us", "max_us"));
        columns.push(plain("KiB per stream", "kib_each"));
    } else {
        columns.push(plain("new upstream connections", "dialled"));
    }
    columns.push(plain("peak MiB", "peak_mib"));
    columns
}

/// Whether a workload has a table of its own, rather than a line of another one.
fn has_table(measured: &Measured) -> bool {
    let alone = measured.workload.cast.len() == 1 && measured.rounds.keys().all(|one| *one == Subject::Postern);
    !alone && !matches!(measured.workload.shape, Shape::Idle { .. })
}

fn table(measured: &Measured) -> String {
    let workload = &measured.workload;
    let there: Vec<Subject> = ALL.into_iter().filter(|subject| measured.rounds.contains_key(subject)).collect();
    let rows: Vec<(String, Subject)> = there.iter().map(|subject| (named(measured, *subject), *subject)).collect();
    format!(
        "### {}\n\n{}.\n\n{}{}",
        workload.name,
        capital(workload.about),
        grid(measured, &rows, columns(measured)),
        remarks(measured, &there)
    )
}

/// A subject's name, with its rounds where others had more.
fn named(measured: &Measured, subject: Subject) -> String {
    let of = |rounds: Option<usize>| rounds.unwrap_or(0);
    let (own, most) =
        (of(measured.rounds.get(&subject).map(Vec::len)), of(measured.rounds.values().map(Vec::len).max()));
    match own {
        1 if most > 1 => format!("{} (one round)", subject.name()),
        _ if own < most => format!("{} ({own} rounds)", subject.name()),
        _ => subject.name().to_owned(),
    }
}

/// Rows and columns; a column that says nothing of anybody is left out.
fn grid(measured: &Measured, rows: &[(String, Subject)], mut columns: Vec<Column>) -> String {
    columns.retain(|(_, cell)| rows.iter().any(|(_, subject)| cell(measured, *subject).is_some()));
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = format!("| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for (name, subject) in rows {
        let cells = columns.iter().map(|(_, cell)| cell(measured, *subject).unwrap_or_else(|| "-".to_owned()));
        text.push_str(&format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
    }
    text.push('\n');
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
    for subject in measured.workload.cast.iter().filter(|subject| !there.contains(subject)) {
        if let Some(why) = subject.unfit(&measured.workload) {
            lines.push(format!("{}: not here, {why}", subject.name()));
        }
    }
    if lines.is_empty() { String::new() } else { format!("{}.\n\n", lines.join(". ")) }
}

/// What each weighs: from the workloads that show it.
fn weight(results: &Results) -> String {
    let figures = [
        ("idle MiB", "small-h1", "idle_mib"),
        ("ready ms", "small-h1", "ready_ms"),
        ("KiB per event stream", "sse-1000x1", "kib_each"),
        ("KiB per idle agent connection", "idle-1000", "kib_each"),
    ];
    let cells = |subject: Subject| {
        figures.map(|(_, workload, figure)| results.of(workload).and_then(|one| one.summary(subject, figure)).map(show))
    };
    let mut rows = String::new();
    for subject in ALL {
        let cells = cells(subject);
        if cells.iter().any(Option::is_some) {
            let cells = cells.map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
            rows.push_str(&format!("| {} | {} |\n", subject.name(), cells.join(" | ")));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let names = figures.map(|(name, ..)| name).join(" | ");
    let mut text = format!(
        "## Weight\n\nAt rest after the first call; with 1,000 event streams over TLS (`sse-1000x1`); with 1,000 agent \
         connections that made one call each and then say nothing (`idle-1000`).\n\n\
         | | {names} |\n|---|---|---|---|---|\n{rows}\n"
    );
    if let Some(idle) = results.of("idle-1000") {
        text.push_str(&remarks(idle, &ALL));
    }
    text
}

/// Postern alone, over the number of its bindings and of its streams.
fn courses(results: &Results) -> String {
    let figures = ["cpu_us", "core_percent", "per_second", "p50_us", "p99_us", "idle_mib", "peak_mib", "ready_ms"];
    let bindings = course(results, &figures, |workload| workload.is_curve().then_some(workload.bindings));
    let figures = ["cpu_us", "core_percent", "per_second", "p50_us", "p99_us", "max_us", "kib_each", "peak_mib"];
    let events = course(results, &figures, |workload| workload.streams().map(|(count, _)| count));
    if bindings.is_empty() && events.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "## Course\n\nPostern alone: what one request costs with so many servers bound, called in turn, and what one event \
         costs with so many streams open, at 1,000 events a second of all together and at 5,000: the more come at \
         once, the less each costs. A level line is a cost that grows with the work and with nothing else.\n\n\
         ![CPU per request over bindings, and per event over streams](performance-course.svg)\n\n",
    );
    if !bindings.is_empty() {
        text.push_str(
            "| bindings | CPU us per request | core % | requests/s | p50 us | p99 us | idle MiB | peak MiB | ready ms |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        text.push_str(&bindings);
        text.push('\n');
    }
    if !events.is_empty() {
        text.push_str(
            "| streams | CPU us per event | core % | events/s | p50 us | p99 us | slowest us | KiB per stream | peak MiB |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        text.push_str(&events);
        text.push('\n');
    }
    let point = |workload: &Workload| workload.is_curve() || workload.streams().is_some();
    for measured in results.measured.iter().filter(|one| point(&one.workload) && !has_table(one)) {
        text.push_str(&remarks(measured, &[Subject::Postern]));
    }
    text
}

fn course(results: &Results, figures: &[&str], place: impl Fn(&Workload) -> Option<usize>) -> String {
    let row = |measured: &Measured| {
        let place = place(&measured.workload)?;
        let cell = |figure: &&str| measured.summary(Subject::Postern, figure).map_or("-".to_owned(), show);
        let cells: Vec<String> = figures.iter().map(cell).collect();
        Some(format!("| {} | {} |\n", targets::grouped(place as u64), cells.join(" | ")))
    };
    results.measured.iter().filter_map(row).collect()
}

/// One broker and its sidecars.
fn broker(results: &Results) -> String {
    let rows = [
        ("sidecars", "sidecars", ""),
        ("all hold their values after", "held_ms", " ms"),
        ("CPU of the broker for that, each", "held_cpu_us", " us"),
        ("memory without any", "idle_mib", " MiB"),
        ("memory with all", "resident_mib", " MiB"),
        ("memory, each", "kib_each", " KiB"),
        ("CPU at rest, each, per second", "rest_cpu_us", " us"),
        ("half have a rotated value after", "rotated_half_ms", " ms"),
        ("all have it after", "rotated_ms", " ms"),
        ("after a restart of the broker all are back after", "back_ms", " ms"),
    ];
    let of_broker = |measured: &&Measured| matches!(measured.workload.shape, Shape::Broker { .. });
    let mut text = String::new();
    for measured in results.measured.iter().filter(of_broker) {
        text.push_str(&format!(
            "## {}\n\n{}: a real API server, a pod and a token for each, the sidecar's own source of credentials, ten \
             namespaces with a Secret each. The broker is alone on the proxy's core; API server and sidecars share the \
             others, and so do the ten runs of `kubectl`, one after the other, that write the rotated values.\n\n\
             | | |\n|---|---|\n",
            measured.workload.name,
            capital(measured.workload.about)
        ));
        for (what, figure, unit) in rows {
            let found = measured.summary(Subject::Postern, figure);
            text.push_str(&format!("| {what} | {}{unit} |\n", found.map_or("-".to_owned(), show)));
        }
        text.push('\n');
        text.push_str(&remarks(measured, &[Subject::Postern]));
    }
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}
