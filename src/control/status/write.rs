//! Writes the status of one binding, and tells what changed in it as Events.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use serde_json::json;

use super::door::{Door, Failed};
use super::reason::{ConditionKind, Truth};
use crate::api::{API_VERSION, KIND};
use crate::control::condition::Condition;
use crate::control::index::Facts;
use crate::control::watch::bindings;

/// Who owns the fields that are applied: all replicas are one.
const MANAGER: &str = "postern-broker-status";
/// Who reports Events.
const REPORTER: &str = "postern.dev/broker";

pub(super) struct Writer {
    client: kube::Client,
    kind: ApiResource,
    recorder: Recorder,
}

impl Writer {
    /// `replica` is whom Events name.
    pub(super) fn new(client: kube::Client, replica: &str) -> Self {
        let reporter = Reporter { controller: REPORTER.into(), instance: Some(replica.to_owned()) };
        Self { recorder: Recorder::new(client.clone(), reporter), kind: bindings(), client }
    }

    /// Puts `conditions` into the status of the binding that `facts` are of, whoever wrote there before. Conditions of
    /// other types stay as they are. `false` if the binding is not the same any more: it has changed, is gone, or is
    /// another one of that name.
    pub(super) async fn write(&self, door: &Door, facts: &Facts, conditions: &[Condition]) -> Result<bool, Failed> {
        let (namespace, name) = (facts.id.namespace.as_str(), facts.id.name.as_str());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &self.kind);
        let applied = json!({
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": facts.version},
            "status": {"observedGeneration": facts.generation, "conditions": conditions},
        });
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&applied));
        match door.pass(api.patch_status(name, &params, &patch)).await {
            Ok(_) => Ok(true),
            // A conflict over who owns a field is forced: this one is over the version.
            Err(Failed::Said(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => Ok(false),
            Err(failed) => Err(failed),
        }
    }

    /// Tells what is new in `conditions`. Best effort: what matters stands in the status.
    pub(super) async fn tell(&self, door: &Door, facts: &Facts, conditions: &[Condition]) {
        let regarding = ObjectReference {
            api_version: Some(API_VERSION.into()),
            kind: Some(KIND.into()),
            namespace: Some(facts.id.namespace.to_string()),
            name: Some(facts.id.name.to_string()),
            uid: Some(facts.uid.clone()),
            ..ObjectReference::default()
        };
        for condition in news(&facts.reported, conditions) {
            let good = condition.status == Truth::True.as_str();
            let event = Event {
                type_: if good { EventType::Normal } else { EventType::Warning },
                reason: condition.reason.clone(),
                note: Some(condition.message.clone()),
                action: condition.kind.clone(),
                secondary: None,
            };
            if let Err(why) = door.pass(self.recorder.publish(&event, &regarding)).await {
                tracing::warn!(binding = %facts.id, reason = event.reason, %why, "an Event could not be written");
            }
        }
    }
}

/// The conditions to be told of: those whose status or reason is new, each reason once. Of a binding that had none yet,
/// whatever is wrong, or that it is served.
fn news<'a>(before: &[Condition], now: &'a [Condition]) -> Vec<&'a Condition> {
    let is_new = |condition: &&Condition| match before.iter().find(|before| before.kind == condition.kind) {
        Some(before) => (&before.status, &before.reason) != (&condition.status, &condition.reason),
        None => condition.status != Truth::True.as_str() || condition.kind == ConditionKind::Programmed.as_str(),
    };
    let mut news: Vec<&Condition> = Vec::new();
    for condition in now.iter().filter(is_new) {
        if !news.iter().any(|told| told.reason == condition.reason) {
            news.push(condition);
        }
    }
    news
}

/// Whether `stands` says all of `now`, of the same generation.
pub(super) fn says(stands: &[Condition], now: &[Condition]) -> bool {
    let same = |condition: &Condition| stands.iter().any(|stands| stands == condition);
    now.iter().all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &str, status: &str, reason: &str) -> Condition {
        Condition {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: "m".into(),
            observed_generation: 1,
            last_transition_time: "2026-01-01T00:00:00Z".into(),
        }
    }

    fn four(accepted: &str, refs: (&str, &str), programmed: (&str, &str)) -> Vec<Condition> {
        vec![
            condition("Accepted", "True", accepted),
            condition("ResolvedRefs", refs.0, refs.1),
            condition("Programmed", programmed.0, programmed.1),
            condition("Isolated", "True", "Isolated"),
        ]
    }

    #[test]
    fn news_are_what_has_changed_each_reason_once() {
        let good = four("Accepted", ("True", "Resolved"), ("True", "Programmed"));
        let bad = four("Accepted", ("False", "KeyNotFound"), ("False", "KeyNotFound"));
        let told = |before: &[Condition], now: &[Condition]| -> Vec<String> {
            news(before, now).iter().map(|told| format!("{} {}", told.kind, told.reason)).collect()
        };
        assert_eq!(told(&[], &good), ["Programmed Programmed"], "a new one that is good");
        assert_eq!(told(&[], &bad), ["ResolvedRefs KeyNotFound"]);
        assert_eq!(told(&good, &bad), ["ResolvedRefs KeyNotFound"]);
        assert_eq!(told(&bad, &good), ["ResolvedRefs Resolved", "Programmed Programmed"]);
        assert_eq!(told(&good, &good), [""; 0]);
        let partly = four("PartlyConflicted", ("True", "Resolved"), ("True", "Programmed"));
        assert_eq!(told(&good, &partly), ["Accepted PartlyConflicted"], "the status is the same");
    }

    #[test]
    fn what_stands_must_say_all_of_it() {
        let now = four("Accepted", ("True", "Resolved"), ("True", "Programmed"));
        let mut stands = now.clone();
        stands.push(condition("Theirs", "True", "Whatever"));
        assert!(says(&stands, &now), "conditions of others are theirs");
        for change in [
            |condition: &mut Condition| condition.message.push('x'),
            |condition: &mut Condition| condition.observed_generation += 1,
            |condition: &mut Condition| condition.reason.push('x'),
        ] {
            let mut stands = now.clone();
            change(&mut stands[2]);
            assert!(!says(&stands, &now));
        }
        assert!(!says(&now[1..], &now));
    }
}
