//! Who may do what with the rights of a service account: what is asked of the API server, and what its answers mean.

use std::collections::{BTreeMap, BTreeSet};

use super::bindings::Known;
use super::finding::{Finding, Place, Seen, Topic, Unseen, Why};
use super::installation::Guards;
use crate::control::access::{Question, Right};
use crate::control::index::Kind;
use crate::control::status::Verb;
use crate::core::name::{Namespace, ObjectName, ServiceAccount};

/// The broker's service account, in the namespace of the installation.
pub const BROKER_ACCOUNT: &str = "postern-broker";
/// The ClusterRole that a namespace grants the broker.
const READER_ROLE: &str = "postern-credential-reader";

/// What the API server answered.
#[derive(Default)]
pub(super) struct Answers {
    known: BTreeMap<Question, bool>,
    /// Why some have no answer: the first reason.
    unanswered: Option<Unseen>,
}

impl Answers {
    pub(super) fn take(&mut self, question: Question, answer: Result<bool, Why>) {
        match answer {
            Ok(allowed) => drop(self.known.insert(question, allowed)),
            Err(why) => {
                let tried = "create SubjectAccessReviews".to_owned();
                self.unanswered.get_or_insert(Unseen { tried, why });
            }
        }
    }

    /// Whether it is allowed, as far as the API server said.
    pub(super) fn get(&self, question: &Question) -> Seen<bool> {
        let unasked = || Unseen { tried: "create SubjectAccessReviews".into(), why: Why::Failed("not asked".into()) };
        let answer = self.known.get(question).copied();
        answer.ok_or_else(|| self.unanswered.clone().unwrap_or_else(unasked))
    }
}

/// What follows from the bindings of one namespace.
struct Space {
    /// The service accounts that are bound there, and the Secrets of their bindings.
    accounts: BTreeMap<ServiceAccount, BTreeSet<ObjectName>>,
    kinds: BTreeSet<Kind>,
}

fn spaces(known: &[Known]) -> BTreeMap<Namespace, Space> {
    let mut spaces = BTreeMap::new();
    for Known { facts, kinds, .. } in known {
        let space = spaces
            .entry(facts.id.namespace.clone())
            .or_insert_with(|| Space { accounts: BTreeMap::new(), kinds: kinds.clone() });
        for account in facts.standing.keys() {
            space.accounts.entry(account.clone()).or_default().extend(facts.secret.clone());
        }
    }
    spaces
}

fn own(namespace: &Namespace, account: &ServiceAccount, right: Right) -> Question {
    Question { home: namespace.clone(), account: account.to_string(), right }
}

/// A detour to a credential: a right of an agent that leads there without the Secret itself.
struct Detour {
    topic: Topic,
    /// Any of them is enough.
    rights: Vec<Right>,
    what: String,
    /// What stops it all the same, if a policy does.
    guard: Option<(&'static str, bool)>,
}

fn detours(namespace: &Namespace, account: &ServiceAccount, guards: Guards) -> [Detour; 3] {
    let right =
        |verb, resource, subresource, name| Right { namespace: namespace.clone(), verb, resource, subresource, name };
    [
        Detour {
            topic: Topic::TokenAccess,
            rights: vec![right("create", "serviceaccounts", Some("token"), Some(account.to_string()))],
            what: "may create tokens of itself: one for the broker would prove a pod that is none".into(),
            guard: Some(("postern-token", guards.token)),
        },
        Detour {
            topic: Topic::ExecAccess,
            // By WebSocket it is a get.
            rights: vec![right("create", "pods", Some("exec"), None), right("get", "pods", Some("exec"), None)],
            what: format!("may exec into the pods of {namespace}: also of other service accounts, and into sidecars"),
            guard: Some(("postern-exec", guards.exec)),
        },
        Detour {
            topic: Topic::PodAccess,
            rights: vec![right("create", "pods", None, None)],
            what: format!("may create pods in {namespace}: they can mount any Secret there"),
            guard: None,
        },
    ]
}

/// What the broker needs in a namespace.
pub(super) fn of_broker(home: &Namespace, namespace: &Namespace, kinds: &BTreeSet<Kind>) -> Vec<Question> {
    let resources = kinds.iter().map(|kind| match kind {
        Kind::Secrets => "secrets",
        Kind::Bundles => "configmaps",
    });
    let right = |resource, verb| Right { namespace: namespace.clone(), verb, resource, subresource: None, name: None };
    let question = |right| Question { home: home.clone(), account: BROKER_ACCOUNT.into(), right };
    resources.flat_map(|resource| ["list", "watch"].map(|verb| question(right(resource, verb)))).collect()
}

/// Whether the broker may read one kind in a namespace.
pub(super) fn may_broker(answers: &Answers, home: &Namespace, namespace: &Namespace, kind: Kind) -> Seen<bool> {
    let mut all = true;
    for question in of_broker(home, namespace, &BTreeSet::from([kind])) {
        all &= answers.get(&question)?;
    }
    Ok(all)
}

/// All that is to be asked.
pub(super) fn questions(known: &[Known], home: &Namespace) -> Vec<Question> {
    let mut all = BTreeSet::new();
    for (namespace, Space { accounts, kinds }) in spaces(known) {
        all.extend(of_broker(home, &namespace, &kinds));
        for (account, secrets) in accounts {
            let reading =
                |secret| Verb::ALL.map(|verb| Question::of_secret(&namespace, &account, secret, verb.as_str()));
            all.extend(secrets.iter().flat_map(reading));
            let detours = detours(&namespace, &account, Guards::default());
            let rights = detours.into_iter().flat_map(|detour| detour.rights);
            all.extend(rights.map(|right| own(&namespace, &account, right)));
        }
    }
    all.into_iter().collect()
}

/// What the answers mean.
pub(super) fn judge(known: &[Known], home: &Namespace, answers: &Answers, guards: Guards) -> Vec<Finding> {
    let spaces = spaces(known);
    if let (Some(why), true, false) = (&answers.unanswered, answers.known.is_empty(), spaces.is_empty()) {
        let place = || Place::all("ServiceAccounts");
        return vec![
            Finding::unchecked(Topic::Grant, Place::within("ServiceAccount", home.as_str(), BROKER_ACCOUNT), why),
            Finding::unchecked(Topic::SecretAccess, place(), why),
        ];
    }
    let mut findings = Vec::new();
    for (namespace, Space { accounts, kinds }) in &spaces {
        findings.push(grant(home, namespace, kinds, answers));
        for (account, secrets) in accounts {
            of_account(namespace, account, secrets, answers, guards, &mut findings);
        }
    }
    findings
}

fn grant(home: &Namespace, namespace: &Namespace, kinds: &BTreeSet<Kind>, answers: &Answers) -> Finding {
    let place = Place::of_cluster("Namespace", namespace.as_str());
    let (mut lacking, mut unanswered) = (Vec::new(), None);
    for question in of_broker(home, namespace, kinds) {
        match answers.get(&question) {
            Ok(true) => {}
            Ok(false) => lacking.push(format!("{} {}", question.right.verb, question.right.resource)),
            Err(why) => unanswered = Some(why),
        }
    }
    if let (true, Some(why)) = (lacking.is_empty(), &unanswered) {
        return Finding::unchecked(Topic::Grant, place, why);
    }
    if lacking.is_empty() {
        return Finding::good(
            Topic::Grant,
            place,
            format!("the broker ({home}/{BROKER_ACCOUNT}) may read what its bindings name"),
        );
    }
    let what = format!("the broker ({home}/{BROKER_ACCOUNT}) may not {} here: calls are refused", lacking.join(", "));
    let fix = format!(
        "kubectl create rolebinding postern --namespace {namespace} --clusterrole {READER_ROLE} --serviceaccount \
         {home}:{BROKER_ACCOUNT}"
    );
    Finding::wrong(Topic::Grant, place, what, fix)
}

fn of_account(
    namespace: &Namespace,
    account: &ServiceAccount,
    secrets: &BTreeSet<ObjectName>,
    answers: &Answers,
    guards: Guards,
    findings: &mut Vec<Finding>,
) {
    let place = || Place::within("ServiceAccount", namespace.as_str(), account.as_str());
    let before = findings.len();
    for secret in secrets {
        let verbs = Verb::ALL.map(|verb| {
            let verb = verb.as_str();
            (verb, answers.get(&Question::of_secret(namespace, account, secret, verb)))
        });
        let may: Vec<&str> = verbs.iter().filter(|(_, answer)| *answer == Ok(true)).map(|(verb, _)| *verb).collect();
        if !may.is_empty() {
            let what = format!("may {} Secret {secret} itself: the agent needs no Postern to have it", may.join(", "));
            let fix = "take the right from it; kubectl auth can-i --list --as tells where it comes from";
            findings.push(Finding::wrong(Topic::SecretAccess, place(), what, fix));
        } else if let Some(why) = verbs.iter().find_map(|(_, answer)| answer.as_ref().err()) {
            findings.push(Finding::unchecked(Topic::SecretAccess, place(), why));
        }
    }
    for Detour { topic, rights, what, guard } in detours(namespace, account, guards) {
        let answers: Vec<Seen<bool>> =
            rights.into_iter().map(|right| answers.get(&own(namespace, account, right))).collect();
        if answers.contains(&Ok(true)) {
            findings.push(match guard {
                Some((policy, true)) => {
                    let what = format!("{what}; policy {policy} denies that");
                    Finding::warning(topic, place(), what, "take the right from it all the same")
                }
                Some((policy, false)) => {
                    let what = format!("{what}; policy {policy}, which would deny that, is not known to be in force");
                    Finding::wrong(topic, place(), what, "take the right from it, or install the policy")
                }
                None => Finding::wrong(topic, place(), what, "take the right from it"),
            });
        } else if let Some(why) = answers.iter().find_map(|answer| answer.as_ref().err()) {
            findings.push(Finding::unchecked(topic, place(), why));
        }
    }
    if findings.len() == before {
        let names: Vec<&str> = secrets.iter().map(ObjectName::as_str).collect();
        let what = format!("has no way of its own to Secret {}", names.join(", "));
        findings.push(Finding::good(Topic::SecretAccess, place(), what));
    }
}
