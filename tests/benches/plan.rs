//! What the command line of benches/run says and does.

use clap::Parser as _;

use crate::rig::plan::{Args, Plan, listing};
use crate::rig::subject::{ALL, Subject};
use crate::rig::targets::{self, Of};
use crate::rig::workload;

fn args(words: &[&str]) -> Args {
    Args::try_parse_from([&["benches/run"], words].concat()).unwrap_or_else(|error| panic!("{error}"))
}

fn plan(words: &[&str]) -> Result<Plan, String> {
    Plan::of(&args(words))
}

#[test]
fn help_names_every_switch_and_everybody_who_can_be_measured() {
    let help = Args::try_parse_from(["benches/run", "--help"]).err().expect("help ends it").to_string();
    let switches =
        ["--quick", "--workloads", "--subjects", "--rounds", "--seconds", "--warm", "--out", "--from", "--list"];
    for word in switches.into_iter().chain(ALL.map(Subject::name)) {
        assert!(help.contains(word), "no {word} in\n{help}");
    }
    assert!(!help.contains("--peers"), "what benches/run sets itself is not the user's:\n{help}");
}

#[test]
fn the_list_names_every_workload_with_who_how_often_and_how_long() {
    let listing = listing(&plan(&[]).unwrap());
    for workload in workload::all() {
        let begins = |line: &&str| line.split(' ').next() == Some(workload.name);
        assert_eq!(listing.lines().filter(begins).count(), 1, "{}:\n{listing}", workload.name);
        assert!(listing.contains(workload.about), "{}", workload.name);
    }
    assert!(listing.contains("7 rounds of 2 s: postern, nginx, haproxy, envoy, splice, direct"), "{listing}");
    let narrow =
        super::rig::plan::listing(&plan(&["--workloads", "fresh", "--rounds", "9", "--seconds", "1"]).unwrap());
    assert_eq!(narrow.lines().nth(1).map(str::trim), Some("9 rounds of 1 s: postern, nginx, haproxy, envoy"));
}

#[test]
fn a_name_that_is_none_is_told_with_those_that_are() {
    for (switch, known) in [("--workloads", "small-h1, small-h2"), ("--subjects", "postern, nginx")] {
        let why = plan(&[switch, "small-h1,nginx,smal"]).err().expect("there is none of that name");
        let why = if switch == "--subjects" { plan(&[switch, "smal"]).err().unwrap() } else { why };
        assert!(why.starts_with("there is no ") && why.contains(known), "{why}");
    }
}

#[test]
fn who_is_asked_for_takes_part_where_that_is_possible() {
    let plan = plan(&["--subjects", "mitmproxy,postern", "--workloads", "fresh,small-h2"]).unwrap();
    let casts: Vec<Vec<Subject>> = plan.workloads.iter().map(|workload| plan.cast(workload)).collect();
    assert_eq!(casts, [vec![Subject::Postern], vec![Subject::Postern, Subject::Mitmproxy]]);
}

#[test]
fn the_default_run_has_seven_rounds_for_each_target_and_ends_within_25_minutes() {
    let plan = plan(&[]).unwrap();
    assert!(plan.estimate().as_secs() < 25 * 60, "{:?}", plan.estimate());
    for target in targets::all().iter().filter(|target| !matches!(target.of, Of::Binary | Of::Sidecars)) {
        let workload = plan.workloads.iter().find(|workload| workload.name == target.workload).unwrap();
        assert!(plan.rounds(workload) >= 7, "{}", workload.name);
    }
}

#[test]
fn a_smoke_run_has_one_short_round_of_everything() {
    let plan = plan(&["--quick"]).unwrap();
    assert_eq!(plan.workloads.len(), workload::all().len());
    assert!(
        plan.workloads.iter().all(|workload| plan.rounds(workload) == 1 && plan.times(workload).counted.as_secs() < 1)
    );
}
