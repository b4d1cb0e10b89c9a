//! The objects that Postern brings to a cluster: the kind, the webhook configuration, the policies, the broker's
//! certificates.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use serde_json::Value;

use super::finding::{Finding, Grade, Place, Seen, Topic};
use crate::api::GROUP;
use crate::api::crd::{self, PLURAL, VERSION};
use crate::tls::client::certificates;

/// The ConfigMap in which the broker tells its certificates.
pub const SIGNERS: &str = "postern-broker-ca";
/// The key in it.
pub const SIGNERS_KEY: &str = "ca.crt";
/// What the name of each of our webhooks ends with.
const WEBHOOK: &str = ".injector.postern.dev";
/// The policies of manifests/base/policies.yaml.
pub const POLICIES: [&str; 7] = [
    "postern-sidecar",
    "postern-sidecar-update",
    "postern-pod",
    "postern-ephemeral",
    "postern-exec",
    "postern-binding-author",
    "postern-token",
];

/// Which policies are surely in force, of those that make a right harmless.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Guards {
    pub(super) token: bool,
    pub(super) exec: bool,
}

/// The policies and what puts them in force.
pub(super) struct Policies {
    pub(super) policies: Vec<ValidatingAdmissionPolicy>,
    pub(super) bindings: Vec<ValidatingAdmissionPolicyBinding>,
}

/// What the name of our CustomResourceDefinition is.
pub(super) fn definition_name() -> String {
    format!("{PLURAL}.{GROUP}")
}

/// The kind of bindings: there, served, and with the schema that this program has.
pub(super) fn definition(seen: &Seen<Option<Value>>) -> Finding {
    let place = Place::of_cluster("CustomResourceDefinition", definition_name());
    let wrong =
        |what: &str| Finding::wrong(Topic::Definition, place.clone(), what, "kubectl apply -f manifests/base/crd.yaml");
    let found = match seen {
        Err(why) => return Finding::unchecked(Topic::Definition, place, why),
        Ok(None) => return wrong("is not installed: there can be no bindings"),
        Ok(Some(found)) => found,
    };
    let versions = found.pointer("/spec/versions").and_then(Value::as_array);
    let ours = versions.into_iter().flatten().find(|version| version["name"] == VERSION);
    let Some(ours) = ours.filter(|version| version["served"] == true) else {
        return wrong(&format!("does not serve version {VERSION}"));
    };
    let definition = crd::definition();
    if Some(&ours["schema"]) != definition.pointer("/spec/versions/0/schema") {
        return wrong("is that of another version of Postern: it accepts other documents than this one reads");
    }
    let conditions = found.pointer("/status/conditions").and_then(Value::as_array);
    let is_established = |condition: &Value| condition["type"] == "Established" && condition["status"] == "True";
    if !conditions.into_iter().flatten().any(is_established) {
        return wrong("is not established: its status says why");
    }
    Finding::good(Topic::Definition, place, format!("version {VERSION}, as this program has it"))
}

/// What makes the API server call us for pods.
pub(super) fn webhooks(seen: &Seen<Vec<MutatingWebhookConfiguration>>) -> Vec<Finding> {
    const KIND: &str = "MutatingWebhookConfiguration";
    let all = match seen {
        Err(why) => return vec![Finding::unchecked(Topic::Webhook, Place::all(KIND), why)],
        Ok(all) => all,
    };
    let hooks = |configuration: &MutatingWebhookConfiguration| -> Vec<MutatingWebhook> {
        let hooks = configuration.webhooks.iter().flatten();
        hooks.filter(|hook| hook.name.ends_with(WEBHOOK)).cloned().collect()
    };
    let ours = all.iter().map(|one| (one.metadata.name.clone().unwrap_or_default(), hooks(one)));
    let findings: Vec<Finding> = ours
        .filter(|(_, hooks)| !hooks.is_empty())
        .map(|(name, hooks)| webhook(Place::of_cluster(KIND, name), &hooks))
        .collect();
    if findings.is_empty() {
        let what = "none of Postern's: no pod gets a sidecar";
        return vec![Finding::wrong(
            Topic::Webhook,
            Place::all(KIND),
            what,
            "kubectl apply -f manifests/base/webhook.yaml",
        )];
    }
    findings
}

fn webhook(place: Place, hooks: &[MutatingWebhook]) -> Finding {
    let those = |is: &dyn Fn(&MutatingWebhook) -> bool| -> String {
        let names = hooks.iter().filter(|hook| is(hook)).map(|hook| hook.name.trim_end_matches(WEBHOOK));
        names.collect::<Vec<_>>().join(", ")
    };
    let trusting = |hook: &MutatingWebhook| hook.client_config.ca_bundle.as_ref().is_some_and(|pem| !pem.0.is_empty());
    let distrusting = those(&|hook| !trusting(hook));
    if !distrusting.is_empty() {
        let what = format!("no caBundle in {distrusting}: pods that ask for a sidecar cannot be created");
        return Finding::wrong(
            Topic::Webhook,
            place,
            what,
            "the controller writes it: see that it runs, and what it logs",
        );
    }
    let lenient = those(&|hook| hook.failure_policy.as_deref() == Some("Ignore"));
    if !lenient.is_empty() {
        let what =
            format!("failurePolicy Ignore in {lenient}: while the controller is away, pods start without a sidecar");
        return Finding::wrong(Topic::Webhook, place, what, "set it to Fail");
    }
    Finding::good(Topic::Webhook, place, format!("{} webhooks, each with a caBundle", hooks.len()))
}

/// Every policy is there, and denies.
pub(super) fn policies(seen: &Seen<Policies>) -> (Vec<Finding>, Guards) {
    const KIND: &str = "ValidatingAdmissionPolicy";
    let seen = match seen {
        Err(why) => return (vec![Finding::unchecked(Topic::Policy, Place::all(KIND), why)], Guards::default()),
        Ok(seen) => seen,
    };
    let findings: Vec<Finding> = POLICIES.iter().map(|name| policy(name, seen)).collect();
    let stands = |name: &str| {
        let is_it = |finding: &Finding| finding.place.name.as_deref() == Some(name);
        findings.iter().any(|finding| is_it(finding) && finding.grade == Grade::Good)
    };
    let guards = Guards { token: stands("postern-token"), exec: stands("postern-exec") };
    (findings, guards)
}

fn policy(name: &str, seen: &Policies) -> Finding {
    let place = Place::of_cluster("ValidatingAdmissionPolicy", name);
    let fix = "kubectl apply -f manifests/base/policies.yaml";
    if !seen.policies.iter().any(|policy| policy.metadata.name.as_deref() == Some(name)) {
        return Finding::wrong(Topic::Policy, place, "is not installed: what it forbids is possible", fix);
    }
    let specs = seen.bindings.iter().filter_map(|binding| binding.spec.as_ref());
    let denies = |actions: &Option<Vec<String>>| actions.iter().flatten().any(|action| action == "Deny");
    if !specs.filter(|spec| spec.policy_name.as_deref() == Some(name)).any(|spec| denies(&spec.validation_actions)) {
        return Finding::wrong(Topic::Policy, place, "no ValidatingAdmissionPolicyBinding makes it deny", fix);
    }
    Finding::good(Topic::Policy, place, "in force")
}

/// The certificates that the broker tells: the first is the one that signs now.
pub(super) fn signers(home: &str, seen: &Seen<Option<String>>) -> Finding {
    let place = Place::within("ConfigMap", home, SIGNERS);
    let fix = "the broker writes it (--ca-config-map): see that it runs, and what it logs";
    match seen {
        Err(why) => Finding::unchecked(Topic::Signer, place, why),
        Ok(None) => Finding::wrong(Topic::Signer, place, format!("is not there, or has no key {SIGNERS_KEY}"), fix),
        Ok(Some(pem)) => match certificates(pem.as_bytes()) {
            Ok(list) if !list.is_empty() => {
                Finding::good(Topic::Signer, place, format!("tells {} of the broker's signers", list.len()))
            }
            _ => Finding::wrong(Topic::Signer, place, format!("holds no PEM certificates in {SIGNERS_KEY}"), fix),
        },
    }
}
