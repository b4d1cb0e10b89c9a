//! What the status says of a binding. Pure: the facts in, the conditions out.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::reach::Reach;
use super::reason::{ConditionKind, StatusReason, Truth};
use crate::control::condition::Condition;
use crate::control::index::{Facts, Lack, Missing, Standing};
use crate::core::name::ServiceAccount;

/// Bytes of a message at most: what an Event takes too.
const MESSAGE: usize = 1000;
/// Service accounts that a message names; the others are counted.
const NAMED: usize = 5;

/// One condition before it is dated.
struct Verdict {
    kind: ConditionKind,
    truth: Truth,
    reason: StatusReason,
    message: String,
}

/// The conditions of a binding. One whose status is what it says already keeps its time. Without a `reach` nobody knows
/// what its service accounts may read.
pub fn conditions(facts: &Facts, reach: Option<&Reach>, now: Timestamp) -> Vec<Condition> {
    [accepted(facts), resolved(facts), programmed(facts), isolated(facts, reach)]
        .into_iter()
        .map(|verdict| verdict.dated(facts, now))
        .collect()
}

/// The one condition of that kind.
fn find(conditions: &[Condition], kind: ConditionKind) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.kind == kind.as_str())
}

/// Whether the calls of all service accounts are served.
pub(super) fn is_ready(conditions: &[Condition]) -> bool {
    find(conditions, ConditionKind::Programmed).is_some_and(|condition| condition.status == Truth::True.as_str())
}

/// Whether nothing more can be said than that the namespace has not been read yet.
pub(super) fn is_unread(facts: &Facts) -> bool {
    lacks(facts).any(|missing| missing.lack == Lack::Unread)
}

impl Verdict {
    fn new(kind: ConditionKind, truth: Truth, reason: StatusReason, message: impl Into<String>) -> Self {
        Self { kind, truth, reason, message: message.into() }
    }

    fn dated(self, facts: &Facts, now: Timestamp) -> Condition {
        let status = self.truth.as_str();
        let since = find(&facts.reported, self.kind).filter(|before| before.status == status);
        Condition {
            kind: self.kind.as_str().to_owned(),
            status: status.to_owned(),
            reason: self.reason.as_str().to_owned(),
            message: bounded(self.message),
            observed_generation: facts.generation,
            last_transition_time: since
                .map_or_else(|| format!("{now:.0}"), |before| before.last_transition_time.clone()),
        }
    }
}

fn accepted(facts: &Facts) -> Verdict {
    let say = |truth, reason, message: String| Verdict::new(ConditionKind::Accepted, truth, reason, message);
    if !facts.faults.is_empty() {
        return say(Truth::False, StatusReason::Invalid, faults(facts));
    }
    let conflicts = conflicts(facts);
    let lost = facts.standing.values().filter(|standing| matches!(standing, Standing::Lost(_))).count();
    match lost {
        0 => say(Truth::True, StatusReason::Accepted, "the document is good".into()),
        _ if lost == facts.standing.len() => say(Truth::False, StatusReason::Conflicted, conflicts),
        _ => say(Truth::True, StatusReason::PartlyConflicted, conflicts),
    }
}

fn resolved(facts: &Facts) -> Verdict {
    let say = |truth, reason, message: String| Verdict::new(ConditionKind::ResolvedRefs, truth, reason, message);
    if !facts.faults.is_empty() {
        let message = "nothing was looked up: the document cannot be read";
        return say(Truth::Unknown, StatusReason::Invalid, message.into());
    }
    let mut texts: Vec<&str> = Vec::new();
    for missing in lacks(facts) {
        if !texts.contains(&missing.text.as_str()) {
            texts.push(&missing.text);
        }
    }
    // What is known to be wrong is told before what is not known yet.
    let known = lacks(facts).map(|missing| missing.lack).find(|lack| *lack != Lack::Unread);
    match (known, texts.is_empty()) {
        (Some(lack), _) => say(Truth::False, reason(lack), texts.join("; ")),
        (None, false) => say(Truth::Unknown, StatusReason::Pending, texts.join("; ")),
        (None, true) => say(Truth::True, StatusReason::Resolved, "all that it refers to is there".into()),
    }
}

fn programmed(facts: &Facts) -> Verdict {
    let say = |truth, reason, message: String| Verdict::new(ConditionKind::Programmed, truth, reason, message);
    if !facts.faults.is_empty() {
        let message = "not served: the document cannot be read";
        return say(Truth::False, StatusReason::Invalid, message.into());
    }
    let all = facts.standing.len();
    let served = facts.standing.values().filter(|standing| **standing == Standing::Served).count();
    if served == all && all > 0 {
        return say(Truth::True, StatusReason::Programmed, "served for all of its service accounts".into());
    }
    let mut why: BTreeMap<StatusReason, Vec<&ServiceAccount>> = BTreeMap::new();
    for (account, standing) in &facts.standing {
        let reason = match standing {
            Standing::Served => continue,
            Standing::Lost(_) => StatusReason::Conflicted,
            Standing::Lacks(missing) => reason(missing.lack),
        };
        why.entry(reason).or_default().push(account);
    }
    // The first one is what most of them want; of several that as many want, the first of the list.
    let most = why.iter().rev().max_by_key(|(_, accounts)| accounts.len()).map(|(reason, _)| *reason);
    let each = why.iter().map(|(reason, accounts)| format!("{reason} for {}", named(accounts)));
    let message = format!("served for {served} of {all} service accounts: {}", each.collect::<Vec<_>>().join("; "));
    say(Truth::False, most.unwrap_or(StatusReason::Pending), message)
}

fn isolated(facts: &Facts, reach: Option<&Reach>) -> Verdict {
    let say = |truth, reason, message: String| Verdict::new(ConditionKind::Isolated, truth, reason, message);
    let Some(secret) = &facts.secret else {
        let message = "which Secret it names is not known: the document cannot be read";
        return say(Truth::Unknown, StatusReason::Invalid, message.into());
    };
    let may = reach.map(|reach| &reach.may).filter(|may| !may.is_empty());
    match (may, reach.is_some_and(|reach| reach.complete)) {
        (Some(may), _) => {
            let each = may.iter().take(NAMED).map(|(account, verbs)| {
                let verbs: Vec<&str> = verbs.iter().map(|verb| verb.as_str()).collect();
                format!("{account} may {}", verbs.join(", "))
            });
            let message = format!(
                "the agents can read Secret {secret} themselves, by the rights of their service accounts: {}{}; take \
                 the right from them",
                each.collect::<Vec<_>>().join("; "),
                others(may.len()),
            );
            say(Truth::False, StatusReason::AgentCanReadSecret, message)
        }
        (None, true) => {
            let message = format!("none of its service accounts may get, list or watch Secret {secret}");
            say(Truth::True, StatusReason::Isolated, message)
        }
        (None, false) => {
            let message = format!("whether a service account may read Secret {secret} could not be asked");
            say(Truth::Unknown, StatusReason::NotReviewed, message)
        }
    }
}

/// What is missing, whoever asks and then for single accounts.
fn lacks(facts: &Facts) -> impl Iterator<Item = &Missing> {
    let single = facts.standing.values().filter_map(|standing| match standing {
        Standing::Lacks(missing) => Some(missing),
        Standing::Served | Standing::Lost(_) => None,
    });
    facts.missing.iter().chain(single)
}

const fn reason(lack: Lack) -> StatusReason {
    match lack {
        Lack::Unread => StatusReason::Pending,
        Lack::NotGranted => StatusReason::NotGranted,
        Lack::SecretNotFound => StatusReason::SecretNotFound,
        Lack::NotConsented => StatusReason::NotConsented,
        Lack::KeyNotFound => StatusReason::KeyNotFound,
        Lack::InvalidValue => StatusReason::InvalidValue,
        Lack::BundleNotFound => StatusReason::BundleNotFound,
        Lack::InvalidBundle => StatusReason::InvalidBundle,
    }
}

fn faults(facts: &Facts) -> String {
    let each = facts.faults.iter().map(|fault| format!("{}: expected {}", fault.path, fault.expected));
    each.collect::<Vec<_>>().join("; ")
}

/// Who won, over what, and for whom.
fn conflicts(facts: &Facts) -> String {
    let mut lost: BTreeMap<(&str, &str), Vec<&ServiceAccount>> = BTreeMap::new();
    for (account, standing) in &facts.standing {
        if let Standing::Lost(conflict) = standing {
            lost.entry((conflict.winner.name.as_str(), conflict.over.path())).or_default().push(account);
        }
    }
    let each = lost.iter().map(|((winner, over), accounts)| {
        format!("binding {winner} has the same {over} (or covers it) for {} and is older", named(accounts))
    });
    each.collect::<Vec<_>>().join("; ")
}

fn named(accounts: &[&ServiceAccount]) -> String {
    let names: Vec<&str> = accounts.iter().take(NAMED).map(|account| account.as_str()).collect();
    format!("{}{}", names.join(", "), others(accounts.len()))
}

fn others(all: usize) -> String {
    match all.saturating_sub(NAMED) {
        0 => String::new(),
        others => format!(" and {others} more"),
    }
}

fn bounded(mut text: String) -> String {
    const CUT: &str = " ...";
    if text.len() > MESSAGE {
        text.truncate(text.floor_char_boundary(MESSAGE - CUT.len()));
        text.push_str(CUT);
    }
    text
}
