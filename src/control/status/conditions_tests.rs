//! Cases: what is known of a binding, and what is said of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::conditions::{conditions, is_ready, is_unread};
use super::{ConditionKind, Reach, SAYINGS, Verb};
use crate::api::shape::Fault;
use crate::control::condition::Condition;
use crate::control::index::{Facts, Lack, Missing, Standing};
use crate::core::name::{BindingId, Namespace, ObjectName, ServiceAccount};
use crate::core::routes::{Conflict, Overlap};

fn id(name: &str) -> BindingId {
    BindingId { namespace: Namespace::parse("ns").unwrap(), name: ObjectName::parse(name).unwrap() }
}

fn account(name: &str) -> ServiceAccount {
    ServiceAccount::parse(name).unwrap()
}

fn now() -> Timestamp {
    "2026-11-26T10:20:30.4Z".parse().unwrap()
}

fn lack(lack: Lack, text: &str) -> Missing {
    Missing { lack, text: text.into() }
}

fn lacks(kind: Lack, text: &str) -> Standing {
    Standing::Lacks(lack(kind, text))
}

fn lost(winner: &str, over: Overlap) -> Standing {
    Standing::Lost(Conflict { loser: id("git"), winner: id(winner), over })
}

fn facts(missing: &[Missing], standing: &[(&str, Standing)]) -> Facts {
    Facts {
        id: id("git"),
        uid: "u".into(),
        version: String::new(),
        generation: 3,
        faults: Vec::new(),
        secret: Some(ObjectName::parse("secret").unwrap()),
        missing: missing.to_vec(),
        standing: standing.iter().map(|(name, standing)| (account(name), standing.clone())).collect(),
        reported: Vec::new(),
        reported_generation: None,
    }
}

fn unreadable(faults: &[(&str, &str)]) -> Facts {
    let faults = faults.iter().map(|(path, expected)| Fault::new(*path, expected)).collect();
    Facts { faults, secret: None, ..facts(&[], &[]) }
}

/// What the whole of a namespace or Secret lacks, its accounts lack too.
fn all_lack(kind: Lack, text: &str) -> Facts {
    facts(&[lack(kind, text)], &[("a", lacks(kind, text)), ("b", lacks(kind, text))])
}

fn reach(may: &[(&str, &[Verb])], complete: bool) -> Reach {
    let may = may.iter().map(|(name, verbs)| (account(name), verbs.iter().copied().collect::<BTreeSet<_>>()));
    Reach { may: may.collect(), complete }
}

fn said(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{} {} {}: {}", c.kind, c.status, c.reason, c.message)).collect()
}

const SERVED: Standing = Standing::Served;
const GOOD: &str = "Accepted True Accepted: the document is good";
const RESOLVED: &str = "ResolvedRefs True Resolved: all that it refers to is there";
const PROGRAMMED: &str = "Programmed True Programmed: served for all of its service accounts";

/// What is known, and the first three conditions.
type Case = (Facts, [String; 3]);

fn three(texts: [&str; 3]) -> [String; 3] {
    texts.map(str::to_owned)
}

fn cases() -> Vec<Case> {
    [whole(), partial(), lacking()].concat()
}

/// What is so for all of its service accounts.
fn whole() -> Vec<Case> {
    vec![
        (facts(&[], &[("a", SERVED)]), three([GOOD, RESOLVED, PROGRAMMED])),
        (
            unreadable(&[("spec.server.url", "an https URL"), ("spec.x", "no such field")]),
            three([
                "Accepted False Invalid: spec.server.url: expected an https URL; spec.x: expected no such field",
                "ResolvedRefs Unknown Invalid: nothing was looked up: the document cannot be read",
                "Programmed False Invalid: not served: the document cannot be read",
            ]),
        ),
        (
            facts(&[], &[("a", lost("old", Overlap::Name)), ("b", lost("old", Overlap::Name))]),
            three([
                "Accepted False Conflicted: binding old has the same spec.server.name (or covers it) for a, b and is older",
                RESOLVED,
                "Programmed False Conflicted: served for 0 of 2 service accounts: Conflicted for a, b",
            ]),
        ),
        (
            all_lack(Lack::Unread, "not read yet"),
            three([
                GOOD,
                "ResolvedRefs Unknown Pending: not read yet",
                "Programmed False Pending: served for 0 of 2 service accounts: Pending for a, b",
            ]),
        ),
    ]
}

/// What is so for some of them, or in part.
fn partial() -> Vec<Case> {
    vec![
        (
            facts(&[], &[("a", lost("old", Overlap::Url)), ("b", SERVED), ("c", lost("elder", Overlap::Name))]),
            three([
                "Accepted True PartlyConflicted: binding elder has the same spec.server.name (or covers it) for c and is \
                 older; binding old has the same spec.server.url (or covers it) for a and is older",
                RESOLVED,
                "Programmed False Conflicted: served for 1 of 3 service accounts: Conflicted for a, c",
            ]),
        ),
        // The Secret of one that lost to all others is told of too, but is not why it is not served.
        (
            facts(&[lack(Lack::SecretNotFound, "no Secret")], &[("a", lost("old", Overlap::Name))]),
            three([
                "Accepted False Conflicted: binding old has the same spec.server.name (or covers it) for a and is older",
                "ResolvedRefs False SecretNotFound: no Secret",
                "Programmed False Conflicted: served for 0 of 1 service accounts: Conflicted for a",
            ]),
        ),
        (
            facts(&[], &[("a", SERVED), ("b", lacks(Lack::NotConsented, "not b"))]),
            three([
                GOOD,
                "ResolvedRefs False NotConsented: not b",
                "Programmed False NotConsented: served for 1 of 2 service accounts: NotConsented for b",
            ]),
        ),
        // Most of them lack consent.
        (
            facts(
                &[],
                &[
                    ("a", lost("old", Overlap::Name)),
                    ("b", lacks(Lack::NotConsented, "not b")),
                    ("c", lacks(Lack::NotConsented, "not c")),
                ],
            ),
            three([
                "Accepted True PartlyConflicted: binding old has the same spec.server.name (or covers it) for a and is \
                 older",
                "ResolvedRefs False NotConsented: not b; not c",
                "Programmed False NotConsented: served for 0 of 3 service accounts: Conflicted for a; NotConsented for \
                 b, c",
            ]),
        ),
        // One thing is known to be missing, another has not been looked at.
        (
            facts(
                &[lack(Lack::Unread, "not read yet"), lack(Lack::BundleNotFound, "no ConfigMap")],
                &[("a", lacks(Lack::Unread, "not read yet"))],
            ),
            three([
                GOOD,
                "ResolvedRefs False BundleNotFound: not read yet; no ConfigMap",
                "Programmed False Pending: served for 0 of 1 service accounts: Pending for a",
            ]),
        ),
    ]
}

/// What the references can lack.
fn lacking() -> Vec<Case> {
    let lacks = [
        (Lack::NotGranted, "NotGranted"),
        (Lack::SecretNotFound, "SecretNotFound"),
        (Lack::NotConsented, "NotConsented"),
        (Lack::KeyNotFound, "KeyNotFound"),
        (Lack::InvalidValue, "InvalidValue"),
        (Lack::BundleNotFound, "BundleNotFound"),
        (Lack::InvalidBundle, "InvalidBundle"),
    ];
    let case = |(kind, reason): (Lack, &str)| {
        let refs = format!("ResolvedRefs False {reason}: words");
        let programmed = format!("Programmed False {reason}: served for 0 of 2 service accounts: {reason} for a, b");
        (all_lack(kind, "words"), [GOOD.to_owned(), refs, programmed])
    };
    lacks.map(case).into()
}

#[test]
fn each_state_is_told_as_it_is() {
    for (facts, expected) in cases() {
        let told = conditions(&facts, None, now());
        assert_eq!(said(&told)[..3], expected, "{facts:?}");
        assert_eq!(is_ready(&told), expected[2] == PROGRAMMED, "{facts:?}");
        assert!(told.iter().all(|condition| condition.observed_generation == 3));
    }
}

/// What its service accounts may read, and the last condition.
fn reaches() -> Vec<(Option<Reach>, &'static str)> {
    const ASKED: &str =
        "Isolated Unknown NotReviewed: whether a service account may read Secret secret could not be asked";
    vec![
        (None, ASKED),
        (Some(reach(&[], false)), ASKED),
        (
            Some(reach(&[], true)),
            "Isolated True Isolated: none of its service accounts may get, list or watch Secret secret",
        ),
        (
            Some(reach(&[("a", &[Verb::Get]), ("b", &[Verb::List, Verb::Watch])], true)),
            "Isolated False AgentCanReadSecret: the agents can read Secret secret themselves, by the rights of their \
             service accounts: a may get; b may list, watch; take the right from them",
        ),
        // One answer is enough to know that it is not so.
        (
            Some(reach(&[("a", &[Verb::Watch])], false)),
            "Isolated False AgentCanReadSecret: the agents can read Secret secret themselves, by the rights of their \
             service accounts: a may watch; take the right from them",
        ),
    ]
}

#[test]
fn what_agents_can_read_themselves_is_told() {
    for (reach, expected) in reaches() {
        let told = conditions(&facts(&[], &[("a", SERVED), ("b", SERVED)]), reach.as_ref(), now());
        assert_eq!(said(&told)[3], expected, "{reach:?}");
    }
    let told = conditions(&unreadable(&[("spec", "an object")]), Some(&reach(&[], true)), now());
    let expected = "Isolated Unknown Invalid: which Secret it names is not known: the document cannot be read";
    assert_eq!(said(&told)[3], expected);
}

#[test]
fn nothing_is_said_that_is_not_in_the_list_and_all_of_it_can_be_said() {
    let good = facts(&[], &[("a", SERVED)]);
    let mut told: BTreeSet<(String, String, String)> = BTreeSet::new();
    let states = cases().into_iter().map(|(facts, _)| (facts, None));
    for (facts, reach) in states.chain(reaches().into_iter().map(|(reach, _)| (good.clone(), reach))) {
        told.extend(conditions(&facts, reach.as_ref(), now()).into_iter().map(|c| (c.kind, c.status, c.reason)));
    }
    let listed = SAYINGS
        .iter()
        .map(|(kind, truth, reason)| (kind.as_str().to_owned(), truth.as_str().to_owned(), reason.as_str().to_owned()));
    assert_eq!(told, listed.collect());
    let kinds: BTreeSet<ConditionKind> = SAYINGS.iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, ConditionKind::ALL.into_iter().collect());
}

#[test]
fn the_time_is_that_of_the_last_change_of_status() {
    let before = conditions(&all_lack(Lack::SecretNotFound, "words"), Some(&reach(&[], true)), now());
    assert!(before.iter().all(|condition| condition.last_transition_time == "2026-11-26T10:20:30Z"));
    let later: Timestamp = "2026-11-27T00:00:00Z".parse().unwrap();
    let told = conditions(&Facts { reported: before, ..all_lack(Lack::KeyNotFound, "words") }, None, later);
    let times: BTreeMap<&str, (&str, &str)> =
        told.iter().map(|c| (c.kind.as_str(), (c.status.as_str(), c.last_transition_time.as_str()))).collect();
    let (old, new) = ("2026-11-26T10:20:30Z", "2026-11-27T00:00:00Z");
    assert_eq!(times["Accepted"], ("True", old));
    assert_eq!(times["ResolvedRefs"], ("False", old), "only its reason has changed");
    assert_eq!(times["Isolated"], ("Unknown", new));
}

#[test]
fn no_message_is_longer_than_an_event_takes() {
    let names: Vec<String> = (0..64).map(|n| format!("{}-{n}", "a".repeat(250))).collect();
    let standing = |standing: Standing| names.iter().map(|name| (name.as_str(), standing.clone())).collect::<Vec<_>>();
    let long = "\u{e9}".repeat(5000);
    let may: Vec<(&str, &[Verb])> = names.iter().map(|name| (name.as_str(), &Verb::ALL[..])).collect();
    for facts in [
        facts(&[], &standing(lost("old", Overlap::Name))),
        facts(&[lack(Lack::KeyNotFound, &long)], &standing(lacks(Lack::KeyNotFound, &long))),
        unreadable(&[("spec", &long)]),
    ] {
        let told = conditions(&facts, Some(&reach(&may, true)), now());
        assert!(told.iter().all(|condition| condition.message.len() <= 1000), "{:?}", said(&told));
        assert!(told.iter().any(|condition| condition.message.ends_with(" ...")), "{:?}", said(&told));
    }
}

#[test]
fn a_message_names_five_and_counts_the_others() {
    let accounts = ["a", "b", "c", "d", "e", "f", "g"];
    let told = conditions(&facts(&[], &accounts.map(|name| (name, lost("old", Overlap::Name)))), None, now());
    assert!(told[0].message.contains("for a, b, c, d, e and 2 more and is older"), "{}", told[0].message);
    let may = reach(&accounts.map(|name| (name, &[Verb::Get][..])), true);
    let told = conditions(&facts(&[], &accounts.map(|name| (name, SERVED))), Some(&may), now());
    assert!(told[3].message.contains("e may get and 2 more; take"), "{}", told[3].message);
}

#[test]
fn unread_is_what_may_be_read_in_a_moment() {
    assert!(is_unread(&all_lack(Lack::Unread, "not read yet")));
    assert!(!is_unread(&all_lack(Lack::NotGranted, "not granted")));
    assert!(!is_unread(&facts(&[], &[("a", SERVED)])));
}
