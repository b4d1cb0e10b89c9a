//! The bindings: whether each is served, and what is missing where it is not.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::finding::{Finding, Place, Seen, Topic, Unseen};
use crate::api::{ALLOWED_ACCOUNTS, ALLOWED_HOSTS, CA_BUNDLE_LABEL, CREDENTIAL_LABEL, KIND};
use crate::control::index::{
    Access, BundleObject, Change, Facts, Index, Kind, Lack, Missing, Scope, SecretObject, Standing,
};
use crate::control::views::Views;
use crate::core::name::{BindingId, CallerKey, Namespace, ObjectName, ServiceAccount};
use crate::core::upstream::{Scheme, UpstreamUrl};
use crate::core::wire::Snapshot;
use crate::credential::broker::{Pod, entries};
use crate::credential::cache::is_short;

/// A binding, after a look at what it refers to.
pub(super) struct Known {
    pub(super) facts: Facts,
    /// What the bindings of its namespace refer to.
    pub(super) kinds: BTreeSet<Kind>,
    /// Whether its value is so short that masking it changes ordinary text.
    pub(super) short: bool,
    /// What of its namespace could not be read.
    pub(super) unseen: Vec<Unseen>,
}

/// What was read of one scope.
pub(super) enum Contents {
    Secrets(Vec<SecretObject>),
    Bundles(Vec<BundleObject>),
}

/// Of a binding: the host of its https URL, and when it was created.
pub(super) struct Dated {
    pub(super) host: Option<String>,
    pub(super) created: Option<Time>,
}

/// That of each, as far as it can be read.
pub(super) fn hosts(list: &[serde_json::Value]) -> BTreeMap<BindingId, Dated> {
    let dated = |object: &serde_json::Value| {
        let text = |at: &str| object.pointer(at).and_then(serde_json::Value::as_str);
        let namespace = Namespace::parse(text("/metadata/namespace")?).ok()?;
        let id = BindingId { namespace, name: ObjectName::parse(text("/metadata/name")?).ok()? };
        let url = text("/spec/server/url").and_then(|url| UpstreamUrl::parse(url).ok());
        let https = url.filter(|url| url.scheme == Scheme::Https);
        let created = object.pointer("/metadata/creationTimestamp").cloned();
        let created = created.and_then(|time| serde_json::from_value(time).ok());
        Some((id, Dated { host: https.map(|url| url.host.to_string()), created }))
    };
    list.iter().filter_map(dated).collect()
}

/// The bindings, and what they refer to as it is read, a namespace at a time.
pub(super) struct Bindings {
    index: Index,
    views: Views,
}

impl Bindings {
    pub(super) fn new(list: Vec<serde_json::Value>) -> Self {
        let views = Views::default();
        let mut index = Index::new(views.clone());
        index.apply(Change::Bindings(list), 0);
        Self { index, views }
    }

    /// Which scopes are to be read for them. One without a readable binding has none.
    pub(super) fn wanted(&self) -> BTreeMap<Namespace, BTreeSet<Kind>> {
        let mut wanted: BTreeMap<Namespace, BTreeSet<Kind>> =
            self.index.ids().map(|id| (id.namespace, BTreeSet::new())).collect();
        for Scope { kind, namespace } in self.index.wanted() {
            wanted.entry(namespace).or_default().insert(kind);
        }
        wanted
    }

    /// Takes what was read. What could not be read stays as not read yet: it is ours to read, not the broker's.
    pub(super) fn fill(&mut self, namespace: &Namespace, read: Vec<Seen<Contents>>) -> Vec<Unseen> {
        let mut unseen = Vec::new();
        for contents in read {
            match contents {
                Ok(Contents::Secrets(list)) => {
                    self.access(Kind::Secrets, namespace, Access::Granted);
                    self.index.apply(Change::Secrets(namespace.clone(), list), 0);
                }
                Ok(Contents::Bundles(list)) => {
                    self.access(Kind::Bundles, namespace, Access::Granted);
                    self.index.apply(Change::Bundles(namespace.clone(), list), 0);
                }
                Err(why) => unseen.push(why),
            }
        }
        unseen
    }

    /// Says that the broker may not read these: what it serves lacks them, whatever was read.
    pub(super) fn deny(&mut self, kind: Kind, namespace: &Namespace) {
        self.access(kind, namespace, Access::Denied);
    }

    fn access(&mut self, kind: Kind, namespace: &Namespace, access: Access) {
        self.index.apply(Change::Access(Scope { kind, namespace: namespace.clone() }, access), 0);
    }

    /// What a sidecar of this account would be told.
    pub(super) fn view(&self, caller: &CallerKey) -> Snapshot {
        self.views.subscribe(caller).borrow().as_ref().clone()
    }

    /// What is known of the bindings of a namespace now. Its Secrets are let go.
    pub(super) fn settle(&mut self, namespace: &Namespace, kinds: &BTreeSet<Kind>, unseen: &[Unseen]) -> Vec<Known> {
        let ids: Vec<BindingId> = self.index.ids().filter(|id| id.namespace == *namespace).collect();
        let facts: Vec<Facts> = ids.iter().filter_map(|id| self.index.facts(id)).collect();
        let accounts: BTreeSet<&ServiceAccount> = facts.iter().flat_map(|facts| facts.standing.keys()).collect();
        let short: BTreeSet<BindingId> =
            accounts.into_iter().flat_map(|account| self.short(namespace, account)).collect();
        for kind in [Kind::Secrets, Kind::Bundles] {
            self.access(kind, namespace, Access::Unasked);
        }
        let known = |facts: Facts| Known {
            short: short.contains(&facts.id),
            kinds: kinds.clone(),
            unseen: unseen.to_vec(),
            facts,
        };
        facts.into_iter().map(known).collect()
    }

    fn short(&self, namespace: &Namespace, account: &ServiceAccount) -> Vec<BindingId> {
        let caller = CallerKey { namespace: namespace.clone(), service_account: account.clone(), user: None };
        // Whatever the pod is like.
        let pod = Pod { hardened: true, servers: None };
        let (view, _) = entries(self.view(&caller), &pod);
        view.entries.iter().filter(|entry| is_short(entry)).map(|entry| entry.binding.id.clone()).collect()
    }
}

/// How a binding stands.
pub(super) fn judge(known: &Known) -> Vec<Finding> {
    let Known { facts, short, unseen, .. } = known;
    let place = || Place::within(KIND, facts.id.namespace.as_str(), facts.id.name.as_str());
    let wrong = |what: String, fix: String| Finding::wrong(Topic::Binding, place(), what, fix);
    let mut findings = Vec::new();
    if !facts.faults.is_empty() {
        let faults = facts.faults.iter().map(|fault| format!("{}: expected {}", fault.path, fault.expected));
        let what = format!("cannot be read: {}", faults.collect::<Vec<_>>().join("; "));
        findings.push(wrong(what, "correct the document".into()));
    }
    findings.extend(conflicts(facts).map(|(what, fix)| wrong(what, fix)));
    let is_unread = |missing: &Missing| missing.lack == Lack::Unread;
    let lacks = lacks(facts);
    findings.extend(lacks.iter().filter(|(missing, _)| !is_unread(missing)).map(|(missing, accounts)| {
        let whom = if accounts.is_empty() { String::new() } else { format!(" (for {})", names(accounts)) };
        wrong(format!("{}{whom}", missing.text), fix(missing.lack, facts))
    }));
    if lacks.iter().any(|(missing, _)| is_unread(missing)) {
        findings.extend(unseen.iter().map(|why| Finding::unchecked(Topic::Binding, place(), why)));
    }
    if findings.is_empty() {
        let served: Vec<&ServiceAccount> = facts.standing.keys().collect();
        findings.push(Finding::good(Topic::Binding, place(), format!("served for {}", names(&served))));
    }
    if *short {
        let what = "its value has less than 8 characters: masking it in answers changes ordinary text";
        findings.push(Finding::warning(Topic::ShortValue, place(), what, "use a longer value"));
    }
    findings
}

/// What is missing, and for whom where it is not for all.
fn lacks(facts: &Facts) -> Vec<(&Missing, Vec<&ServiceAccount>)> {
    let mut lacks: Vec<(&Missing, Vec<&ServiceAccount>)> =
        facts.missing.iter().map(|missing| (missing, Vec::new())).collect();
    for (account, standing) in &facts.standing {
        let Standing::Lacks(missing) = standing else { continue };
        match lacks.iter_mut().find(|(known, _)| *known == missing) {
            // For all, so for this one.
            Some((_, accounts)) if accounts.is_empty() => {}
            Some((_, accounts)) => accounts.push(account),
            None => lacks.push((missing, vec![account])),
        }
    }
    lacks
}

/// Which older bindings have its server, over what, and for whom.
fn conflicts(facts: &Facts) -> impl Iterator<Item = (String, String)> {
    let mut lost: BTreeMap<(String, &'static str), Vec<&ServiceAccount>> = BTreeMap::new();
    for (account, standing) in &facts.standing {
        if let Standing::Lost(conflict) = standing {
            lost.entry((conflict.winner.to_string(), conflict.over.path())).or_default().push(account);
        }
    }
    lost.into_iter().map(|((winner, over), accounts)| {
        let what =
            format!("not served for {}: {winner} has the same {over} (or covers it) and is older", names(&accounts));
        (what, format!("delete one of the two, or change its {over} or spec.serviceAccounts"))
    })
}

fn fix(lack: Lack, facts: &Facts) -> String {
    let namespace = &facts.id.namespace;
    let secret = facts.secret.as_ref().map_or("", |secret| secret.as_str());
    match lack {
        Lack::SecretNotFound => {
            format!("create it, or kubectl label secret {secret} --namespace {namespace} {CREDENTIAL_LABEL}=true")
        }
        Lack::NotConsented => format!(
            "its owner can change {ALLOWED_HOSTS} or {ALLOWED_ACCOUNTS}: kubectl annotate secret {secret} --namespace \
             {namespace}"
        ),
        Lack::KeyNotFound => "add the key, or name another one in spec.credential".into(),
        Lack::InvalidValue => "write the value anew".into(),
        Lack::BundleNotFound => format!("create it with the label {CA_BUNDLE_LABEL}: \"true\" and that key"),
        Lack::InvalidBundle => "put PEM certificates there".into(),
        Lack::NotGranted | Lack::Unread => "grant the right to read it".into(),
    }
}

/// Names in a sentence, as many as are read.
fn names(accounts: &[&ServiceAccount]) -> String {
    const NAMED: usize = 5;
    let first: Vec<&str> = accounts.iter().take(NAMED).map(|account| account.as_str()).collect();
    let more = accounts.len().saturating_sub(NAMED);
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{rest}", first.join(", "))
}
