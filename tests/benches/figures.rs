//! What a process has used, and what follows from many rounds.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::rig::report::{Machine, Measured, Results, Summary};
use crate::rig::round::{Figures, Times, kept_up};
use crate::rig::subject::Subject;
use crate::rig::swarm;
use crate::rig::targets::{self, Of, Target};
use crate::rig::usage::{Usage, busy_us, kib, stat, tree};
use crate::rig::workload::{self, Shape, Workload};

pub fn workload_of(name: &str) -> Workload {
    workload::all().into_iter().find(|workload| workload.name == name).expect("there is this workload")
}

pub const TIMES: Times = Times { warm: Duration::from_millis(500), counted: Duration::from_secs(2) };

/// Rounds of one workload: who, which figure, and its value in each; `None` is a void round.
pub fn measured(name: &str, rounds: &[(Subject, &'static str, &[Option<f64>])]) -> Results {
    let mut results = Results::new(Machine::default(), false);
    add(&mut results, name, rounds);
    results
}

pub fn add(results: &mut Results, name: &str, rounds: &[(Subject, &'static str, &[Option<f64>])]) {
    let workload = workload_of(name);
    for (subject, figure, values) in rounds {
        for value in *values {
            let round = value.map(|value| Figures::from([(*figure, value)]));
            results.add(&workload, TIMES, *subject, round.ok_or_else(|| "it leaked".to_owned()));
        }
    }
}

fn only(results: &Results) -> &Measured {
    assert_eq!(results.measured.len(), 1);
    &results.measured[0]
}

fn summary(least: f64, median: f64, greatest: f64) -> Option<Summary> {
    Some(Summary { least, median, greatest })
}

// === What the kernel says ===

#[test]
fn the_fields_behind_a_process_name_are_found_whatever_it_is_called() {
    let fields = stat("7 (a) R (b)) S 1 7 7 0 -1 4 5 0 0 0 250 50 0 0 20").expect("there is a name");
    assert_eq!(fields[1], 1, "its parent");
    assert_eq!(fields[11..13], [250, 50], "its ticks in user space and in the kernel");
    assert_eq!(stat("no process"), None);
}

#[test]
fn the_machine_is_busy_with_all_but_waiting_and_counts_guests_once() {
    // user nice system idle iowait irq softirq steal guest guest_nice
    assert_eq!(busy_us("cpu  1 2 4 1000 1000 8 16 32 1000 1000\ncpu0 9 9 9 9\n"), 630_000.0);
    assert_eq!(busy_us(""), 0.0);
}

#[test]
fn a_size_is_found_by_its_whole_name() {
    let status = "Name:\tVmRSS\nVmRSSx:\t  1 kB\nVmHWM:\t   400 kB\nVmRSS:\t   300 kB\n";
    assert_eq!((kib(status, "VmRSS"), kib(status, "VmHWM"), kib(status, "VmSwap")), (300, 400, 0));
}

fn usage(threads: &[(u32, u64)], ticks_us: u64) -> Usage {
    Usage { threads: threads.iter().copied().collect(), ticks_us, ..Usage::default() }
}

#[test]
fn time_is_that_of_all_threads_also_of_new_ones() {
    let (before, after) = (usage(&[(1, 1_000), (2, 5_000)], 0), usage(&[(1, 4_000), (2, 5_500), (3, 2_000)], 10_000));
    assert_eq!(after.cpu_us_since(&before), 5.5);
}

#[test]
fn where_a_thread_has_ended_the_kernels_coarse_count_has_its_time() {
    let (before, after) = (usage(&[(1, 1_000), (2, 5_000)], 20_000), usage(&[(1, 4_000)], 50_000));
    assert_eq!(after.cpu_us_since(&before), 30_000.0);
    assert_eq!(usage(&[], 30_000).cpu_us_since(&usage(&[], 20_000)), 10_000.0);
}

struct Family(Child);

impl Drop for Family {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_kernel_is_asked_for_a_process_and_all_below_it() {
    // `cat` ends when its stdin does, with the parent.
    let shell = Command::new("sh").args(["-c", "cat; :"]).stdin(Stdio::piped()).spawn().expect("a shell is there");
    let family = Family(shell);
    let pid = family.0.id();
    while Usage::of(&tree(pid)).threads.len() < 2 {
        std::thread::yield_now();
    }
    let (all, alone) = (Usage::of(&tree(pid)), Usage::of(&[pid]));
    assert_eq!(alone.threads.len(), 1);
    assert!(all.resident_kib > alone.resident_kib, "{all:?} {alone:?}");
    assert!(all.peak_kib >= all.resident_kib, "{all:?}");
}

#[test]
fn the_kernel_counts_what_a_process_does() {
    let before = Usage::of(&[std::process::id()]);
    let mut work = 0_u64;
    while Usage::of(&[std::process::id()]).cpu_us_since(&before) < 20_000.0 {
        (0..100_000).for_each(|number| work = std::hint::black_box(work.wrapping_add(number)));
    }
    let after = Usage::of(&[std::process::id()]);
    assert!(after.resident_kib > 0 && !after.threads.is_empty(), "{after:?}");
}

// === Statistics ===

#[test]
fn the_median_is_the_middle_or_between_the_two_middles() {
    assert_eq!(Summary::of(vec![9.0, 1.0, 4.0]), summary(1.0, 4.0, 9.0));
    assert_eq!(Summary::of(vec![9.0, 1.0, 4.0, 6.0]), summary(1.0, 5.0, 9.0));
    assert_eq!(Summary::of(vec![]), None);
}

#[test]
fn a_ratio_is_of_rounds_with_the_same_number() {
    let all = measured(
        "small-h1",
        &[
            (Subject::Postern, "cpu_us", &[Some(10.0), Some(40.0), Some(30.0)]),
            (Subject::Nginx, "cpu_us", &[Some(20.0), Some(40.0), Some(10.0)]),
        ],
    );
    // The ratio of the medians would be 1.5.
    assert_eq!(only(&all).ratio(Subject::Postern, Subject::Nginx, "cpu_us"), summary(0.5, 1.0, 3.0));
    assert_eq!(only(&all).beyond(Subject::Postern, Subject::Nginx, "cpu_us"), summary(-10.0, 0.0, 20.0));
    assert_eq!(only(&all).ratio(Subject::Postern, Subject::Envoy, "cpu_us"), None);
}

#[test]
fn a_void_round_takes_its_partner_with_it_and_no_other() {
    let all = measured(
        "small-h1",
        &[
            (Subject::Postern, "cpu_us", &[Some(10.0), None, Some(30.0)]),
            (Subject::Nginx, "cpu_us", &[Some(20.0), Some(1.0), Some(10.0)]),
            (Subject::Mitmproxy, "cpu_us", &[Some(100.0)]),
        ],
    );
    assert_eq!(only(&all).ratio(Subject::Postern, Subject::Nginx, "cpu_us"), summary(0.5, 1.75, 3.0));
    assert_eq!(only(&all).ratio(Subject::Postern, Subject::Mitmproxy, "cpu_us"), summary(0.1, 0.1, 0.1));
    assert_eq!(only(&all).void(Subject::Postern), ["it leaked"]);
    assert_eq!(format!("{:?}", all.code()), format!("{:?}", std::process::ExitCode::FAILURE));
}

#[test]
fn what_is_added_is_compared_within_a_round() {
    let all = measured(
        "open-2000",
        &[
            (Subject::Postern, "p50_us", &[Some(300.0), Some(250.0), Some(400.0)]),
            (Subject::Nginx, "p50_us", &[Some(400.0), Some(350.0), Some(99.0)]),
            (Subject::Direct, "p50_us", &[Some(200.0), Some(150.0), Some(100.0)]),
        ],
    );
    // In the third round nginx added nothing: nothing follows from that.
    assert_eq!(only(&all).added_ratio(Subject::Postern, Subject::Nginx, "p50_us"), summary(0.5, 0.5, 0.5));
}

#[test]
fn an_open_loop_that_falls_behind_is_none() {
    let open = Shape::Open { per_second: 2000, connections: 32 };
    assert!(kept_up(open, 3990, Duration::from_secs(2)).is_ok());
    assert!(kept_up(open, 3000, Duration::from_secs(2)).unwrap_err().contains("1500 of 2000"));
    assert!(kept_up(Shape::Closed { connections: 1 }, 1, Duration::from_secs(2)).is_ok());
}

#[test]
fn all_that_was_measured_is_read_again_as_it_was_written() {
    let mut all = measured(
        "small-h1",
        &[(Subject::Postern, "cpu_us", &[Some(10.125), None]), (Subject::Direct, "p50_us", &[Some(20.0), Some(1.0)])],
    );
    all.machine.versions = BTreeMap::from([("nginx".to_owned(), "1.22.1".to_owned())]);
    let again = Results::read(&all.json()).expect("it reads what it wrote");
    assert_eq!(again.json(), all.json());
    assert_eq!(only(&again).summary(Subject::Postern, "cpu_us"), summary(10.125, 10.125, 10.125));
    assert_eq!(only(&again).void(Subject::Postern), ["it leaked"]);
    assert!(all.json().lines().count() < 40, "a round takes one line:\n{}", all.json());
    assert_eq!(
        Results::read(&all.json().replace("small-h1", "small-h9")).err().unwrap(),
        "there is no workload small-h9"
    );
}

#[test]
fn what_the_swarm_says_is_taken_by_the_names_that_the_rig_knows() {
    let figures = swarm::figures("{\"sidecars\":1000.0,\"kib_each\":45.5,\"else\":1.0}\n").expect("it is JSON");
    assert_eq!(figures, Figures::from([("sidecars", 1000.0), ("kib_each", 45.5)]));
    assert!(swarm::figures("panicked").is_err());
}

// === Targets ===

const TARGET: Target = Target {
    what: "",
    workload: "small-h1",
    of: Of::Own("cpu_us"),
    unit: "x",
    target: Some(0.9),
    moonshot: Some(0.75),
};

#[test]
fn a_verdict_is_by_the_median_and_says_where_rounds_differ() {
    let cases = [
        ((0.5, 0.75, 0.75), "met, and the moonshot"),
        ((0.5, 0.75, 0.8), "met, and the moonshot, not in each round"),
        ((0.5, 0.8, 0.9), "met"),
        ((0.5, 0.9, 0.91), "met, not in each round"),
        ((0.91, 0.92, 0.95), "**not met**"),
        ((0.9, 0.92, 0.95), "**not met**, but in some rounds"),
    ];
    for ((least, median, greatest), expected) in cases {
        assert_eq!(TARGET.verdict(summary(least, median, greatest)), expected);
    }
    assert_eq!(TARGET.verdict(None), "not measured");
    let moonshot = Target { target: None, ..TARGET };
    assert_eq!(moonshot.verdict(summary(0.7, 0.7, 0.7)), "moonshot met");
    assert_eq!(moonshot.verdict(summary(0.8, 0.8, 0.8)), "moonshot not met");
    // More is better, and more than were tried is not known.
    let sidecars = Target { of: Of::Sidecars, target: Some(10_000.0), moonshot: Some(30_000.0), ..TARGET };
    assert_eq!(sidecars.verdict(summary(1000.0, 1000.0, 1000.0)), "not shown: more were not tried");
    assert_eq!(sidecars.verdict(summary(10_000.0, 10_000.0, 10_000.0)), "met");
}

#[test]
fn each_target_finds_what_it_is_about_in_what_a_run_measures() {
    for target in targets::all() {
        let mut all = Results::new(Machine { binary_bytes: 20 << 20, ..Machine::default() }, false);
        assert!(matches!(target.of, Of::Binary) || target.measured(&all).is_none(), "{}", target.what);
        if !target.workload.is_empty() {
            let workload = workload_of(target.workload);
            for (number, subject) in workload.cast.iter().enumerate() {
                let worth = if *subject == Subject::Direct { 1.0 } else { 3.0 + number as f64 };
                let figures = ["cpu_us", "p50_us", "max_us", "idle_mib", "kib_each", "ready_ms", "sidecars"];
                all.add(&workload, TIMES, *subject, Ok(figures.map(|figure| (figure, worth)).into()));
            }
        }
        assert!(target.measured(&all).is_some(), "{} has nothing to go by in {}", target.what, target.workload);
    }
}

#[test]
fn a_ratio_below_its_target_is_met_and_beyond_it_is_not() {
    let target = targets::all().into_iter().find(|target| target.what == "CPU per request / nginx").unwrap();
    for (postern, expected) in [(8.9, "met"), (9.1, "**not met**"), (7.4, "met, and the moonshot")] {
        let rounds: &[_] =
            &[(Subject::Postern, "cpu_us", &[Some(postern)][..]), (Subject::Nginx, "cpu_us", &[Some(10.0)][..])];
        let all = measured("small-h1", rounds);
        assert_eq!(target.verdict(target.measured(&all)), expected, "{postern} of 10");
    }
}

#[test]
fn beside_the_targets_the_best_peer_counts() {
    let all = measured(
        "answer-64k",
        &[
            (Subject::Postern, "cpu_us", &[Some(10.0)]),
            (Subject::Nginx, "cpu_us", &[Some(20.0)]),
            (Subject::Haproxy, "cpu_us", &[Some(8.0)]),
            (Subject::Splice, "cpu_us", &[Some(1.0)]),
        ],
    );
    let (peer, ratio) = targets::hardest(only(&all)).expect("there are peers");
    assert_eq!((peer, ratio.median), (Subject::Haproxy, 1.25));
    assert!(targets::section(&all).contains("| answer-64k | haproxy | 1.25 x | **not met** |"));
}
