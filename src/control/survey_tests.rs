//! What is decided of what was seen.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::bindings::Contents;
use super::installation::Guards;
use super::rights::Answers;
use super::*;
use crate::api::crd;
use crate::control::index::Kind;
use crate::control::watch::{bundle, secret};
use crate::core::name::ServiceAccount;
use crate::runtime::clock;
use crate::tls::authority::Authority;

fn namespace(name: &str) -> Namespace {
    Namespace::parse(name).unwrap()
}

pub(super) fn unseen(tried: &str) -> Unseen {
    Unseen { tried: tried.into(), why: Why::Forbidden }
}

/// `topic result place: what`, or of that the beginning.
fn told(findings: &[Finding]) -> Vec<String> {
    let line = |finding: &Finding| {
        let Finding { topic, grade, place, what, .. } = finding;
        format!("{} {} {place}: {what}", topic.as_str(), grade.as_str())
    };
    findings.iter().map(line).collect()
}

#[track_caller]
pub(super) fn assert_told(findings: &[Finding], expected: &[&str]) {
    let told = told(findings);
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\nbegins otherwise than\n{expected}");
    }
    for finding in findings {
        let needs_fix = matches!(finding.grade, Grade::Wrong | Grade::Warning);
        assert_eq!(finding.fix.is_some(), needs_fix, "{finding:?}");
    }
}

#[test]
fn names_are_stable_and_their_own() {
    let names: BTreeSet<&str> = Topic::ALL.iter().map(|topic| topic.as_str()).collect();
    assert_eq!(names.len(), Topic::ALL.len());
    assert_eq!(unseen("list Secrets in a").to_string(), "may not list Secrets in a");
}

// ---- the installation ----

#[test]
fn the_policies_are_those_of_the_manifest() {
    let text = include_str!("../../manifests/base/policies.yaml");
    let mut names = BTreeSet::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let document: Value = serde::Deserialize::deserialize(document).unwrap();
        if document["kind"] == "ValidatingAdmissionPolicy" {
            names.insert(document["metadata"]["name"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(names, POLICIES.map(str::to_owned).into());
}

#[test]
fn the_definition_must_be_ours() {
    let mut ours = crd::definition();
    ours["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
    let with = |at: &str, value: Value| {
        let mut changed = ours.clone();
        *changed.pointer_mut(at).unwrap() = value;
        Ok(Some(changed))
    };
    let schema = "/spec/versions/0/schema/openAPIV3Schema/description";
    for (seen, expected) in [
        (Ok(Some(ours.clone())), "ok"),
        (Ok(None), "wrong"),
        (with("/spec/versions/0/served", json!(false)), "wrong"),
        (with("/spec/versions/0/name", json!("v1")), "wrong"),
        (with("/spec/versions", json!([])), "wrong"),
        (with(schema, json!("another")), "wrong"),
        (with("/status/conditions/0/status", json!("False")), "wrong"),
        (Err(unseen("get it")), "not checked"),
    ] {
        assert_eq!(installation::definition(&seen).grade.as_str(), expected, "{seen:?}");
    }
}

fn configuration(name: &str, hooks: &[(&str, Option<&str>, &str)]) -> MutatingWebhookConfiguration {
    let hook = |(name, bundle, policy): &(&str, Option<&str>, &str)| {
        let config = bundle.map_or_else(|| json!({}), |pem| json!({"caBundle": pem}));
        json!({"name": name, "clientConfig": config, "failurePolicy": policy, "sideEffects": "None", "admissionReviewVersions": []})
    };
    let hooks: Vec<Value> = hooks.iter().map(hook).collect();
    serde_json::from_value(json!({"metadata": {"name": name}, "webhooks": hooks})).unwrap()
}

#[test]
fn a_webhook_must_be_believed_and_strict() {
    let (a, b) = ("a.injector.postern.dev", "b.injector.postern.dev");
    let of = |configurations: Vec<MutatingWebhookConfiguration>| installation::webhooks(&Ok(configurations));
    let theirs = || configuration("theirs", &[("x.injector.example", None, "Fail")]);
    assert_told(&of(vec![]), &["webhook wrong MutatingWebhookConfiguration: none of Postern's"]);
    assert_told(&of(vec![theirs()]), &["webhook wrong MutatingWebhookConfiguration: none of Postern's"]);
    let good = configuration("ours", &[(a, Some("AAAA"), "Fail"), (b, Some("AAAA"), "Fail")]);
    assert_told(&of(vec![theirs(), good]), &["webhook ok MutatingWebhookConfiguration ours: 2 webhooks"]);
    for (bundle, policy, expected) in [
        (None, "Fail", "no caBundle in b: pods"),
        (Some(""), "Fail", "no caBundle in b: pods"),
        (Some("AAAA"), "Ignore", "failurePolicy Ignore in b: while"),
    ] {
        let found = of(vec![configuration("ours", &[(a, Some("AAAA"), "Fail"), (b, bundle, policy)])]);
        assert_told(&found, &[&format!("webhook wrong MutatingWebhookConfiguration ours: {expected}")]);
    }
    assert_told(
        &installation::webhooks(&Err(unseen("list them"))),
        &["webhook not checked MutatingWebhookConfiguration: may not list them"],
    );
}

#[test]
fn a_policy_counts_where_something_makes_it_deny() {
    let policy = |name: &str| serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let binding = |name: &str, action: &str| {
        let spec = json!({"policyName": name, "validationActions": [action]});
        serde_json::from_value(json!({"metadata": {"name": "any"}, "spec": spec})).unwrap()
    };
    let seen = |without: &str, lenient: &str| {
        let bind = |name: &str| binding(name, if name == lenient { "Warn" } else { "Deny" });
        let there = POLICIES.iter().filter(|name| **name != without);
        let (policies, bindings) = (there.map(|name| policy(name)).collect(), POLICIES.map(bind).into());
        installation::policies(&Ok(Policies { policies, bindings }))
    };
    let (findings, guards) = seen("", "");
    assert!(findings.iter().all(|finding| finding.grade == Grade::Good), "{findings:?}");
    assert_eq!(guards, Guards { token: true, exec: true });
    let (findings, guards) = seen("postern-token", "postern-exec");
    let wrong: Vec<&Finding> = findings.iter().filter(|finding| finding.grade == Grade::Wrong).collect();
    let named: Vec<&str> = wrong.iter().filter_map(|finding| finding.place.name.as_deref()).collect();
    assert_eq!(named, ["postern-exec", "postern-token"]);
    assert_eq!(guards, Guards { token: false, exec: false });
    let (findings, guards) = installation::policies(&Err(unseen("list policies")));
    assert_told(&findings, &["policy not checked ValidatingAdmissionPolicy: may not list policies"]);
    assert_eq!(guards, Guards::default(), "what is not known guards nothing");
}

pub(super) fn certificate() -> String {
    Authority::new("test", Duration::from_secs(3600), clock::wall()).unwrap().certificate().to_owned()
}

#[test]
fn the_signers_must_be_told() {
    for (seen, expected) in [
        (Ok(Some(format!("{}{}", certificate(), certificate()))), "ok ConfigMap home/postern-broker-ca: tells 2"),
        (Ok(None), "wrong ConfigMap home/postern-broker-ca: is not there"),
        (Ok(Some("not PEM".into())), "wrong ConfigMap home/postern-broker-ca: holds no"),
        (Err(unseen("get it")), "not checked ConfigMap home/postern-broker-ca: may not get it"),
    ] {
        assert_told(&[installation::signers("home", &seen)], &[&format!("signer {expected}")]);
    }
}

// ---- bindings ----

fn binding(name: &str, accounts: &[&str], born: u32, change: impl FnOnce(&mut Value)) -> Value {
    let mut document = json!({
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "CredentialBinding",
        "metadata": {"name": name, "namespace": "ns", "creationTimestamp": format!("2026-01-01T00:00:{born:02}Z")},
        "spec": {
            "serviceAccounts": accounts,
            "server": {"name": name, "url": format!("https://h.example/{name}")},
            "credential": {"type": "Bearer", "secretRef": {"name": "s", "key": "token"}},
        },
    });
    change(&mut document["spec"]);
    document
}

/// A consenting Secret `s` with this token, in base64.
fn secrets(token: &str, annotations: Value) -> Vec<Seen<Contents>> {
    let object = json!({
        "metadata": {"name": "s", "labels": {"postern.dev/credential": "true"}, "annotations": annotations},
        "data": {"token": token},
    });
    let object: Secret = serde_json::from_value(object).unwrap();
    vec![Ok(Contents::Secrets(secret(object).into_iter().collect()))]
}

const LONG: &str = "bG9uZyBlbm91Z2g=";

fn known(list: Vec<Value>, read: Vec<Seen<Contents>>) -> Vec<Known> {
    let (mut bindings, ns) = (Bindings::new(list), namespace("ns"));
    let kinds = bindings.wanted().remove(&ns).unwrap();
    let unseen = bindings.fill(&ns, read);
    bindings.settle(&ns, &kinds, &unseen)
}

fn judged(list: Vec<Value>, read: Vec<Seen<Contents>>) -> Vec<Finding> {
    known(list, read).iter().flat_map(bindings::judge).collect()
}

/// A host is bound by whichever binding came first; one that is called in clear text needs no certificate.
#[test]
fn hosts_are_bound_by_the_oldest_of_their_bindings() {
    let one = |name: &str, url: &str, born: u32| {
        binding(name, &["x"], born, |spec| {
            spec["server"]["url"] = json!(url);
            spec["server"]["allowPlaintext"] = json!(url.starts_with("http:"));
        })
    };
    let list = vec![
        one("a", "https://api.example/a", 7),
        one("b", "https://api.example/b", 3),
        one("c", "https://other.example/", 5),
        one("d", "http://clear.example/", 1),
    ];
    let hosts = bindings::hosts(&list);
    let bound = bound(&known(list, Vec::new()), &hosts);
    let told: Vec<String> = bound[&("ns".to_owned(), "x".to_owned())]
        .iter()
        .map(|(host, born)| format!("{host} {}", serde_json::to_value(born).unwrap().as_str().unwrap()))
        .collect();
    assert_eq!(told, ["api.example 2026-01-01T00:00:03Z", "other.example 2026-01-01T00:00:05Z"]);
    assert_eq!(bound.len(), 1);
}

#[test]
fn each_lack_of_a_binding_is_told() {
    let one = || vec![binding("a", &["x", "y"], 1, |_| {})];
    let consent = || json!({"postern.dev/allowed-hosts": "h.example"});
    let trusting = || {
        let reference = json!({"configMapRef": {"name": "ca", "key": "ca.crt"}});
        vec![binding("a", &["x"], 1, |spec| spec["server"]["tls"] = json!({"caBundle": reference}))]
    };
    let with_bundle = |pem: &str| {
        let object =
            json!({"metadata": {"name": "ca", "labels": {"postern.dev/ca-bundle": "true"}}, "data": {"ca.crt": pem}});
        let mut read = secrets(LONG, consent());
        read.push(Ok(Contents::Bundles(bundle(serde_json::from_value(object).unwrap()).into_iter().collect())));
        read
    };
    assert_told(&judged(one(), secrets(LONG, consent())), &["binding ok CredentialBinding ns/a: served for x, y"]);
    let rows = [
        (one(), vec![Ok(Contents::Secrets(vec![]))], "Secret s does not exist, or does not carry the label"),
        (one(), secrets(LONG, json!({})), "Secret s has no annotation postern.dev/allowed-hosts"),
        (one(), secrets("", consent()), "Secret s/token: the value is empty"),
        (
            one(),
            secrets(
                LONG,
                json!({"postern.dev/allowed-hosts": "h.example", "postern.dev/allowed-service-accounts": "y"}),
            ),
            "postern.dev/allowed-service-accounts of Secret s does not name x (for x)",
        ),
        (
            vec![binding("a", &["x"], 1, |spec| spec["credential"]["secretRef"]["key"] = json!("other"))],
            secrets(LONG, consent()),
            "Secret s has no usable key other",
        ),
        (trusting(), with_bundle("nothing"), "ConfigMap ca/ca.crt: the CA bundle holds no usable PEM"),
        (
            vec![binding("a", &["x"], 1, |spec| spec["later"] = json!(1))],
            vec![],
            "cannot be read: spec.later: expected",
        ),
    ];
    for (list, read, expected) in rows {
        assert_told(&judged(list, read), &[&format!("binding wrong CredentialBinding ns/a: {expected}")]);
    }
    assert_told(&judged(trusting(), with_bundle(&certificate())), &["binding ok CredentialBinding ns/a: served for x"]);
    assert_told(
        &judged(one(), secrets("c2hvcnQ=", consent())),
        &["binding ok", "short_value warning CredentialBinding ns/a: its value has less than 8"],
    );
}

#[test]
fn what_could_not_be_read_is_neither_good_nor_missing() {
    let one = vec![binding("a", &["x"], 1, |_| {})];
    let findings = judged(one, vec![Err(unseen("list Secrets in ns"))]);
    assert_told(&findings, &["binding not checked CredentialBinding ns/a: may not list Secrets in ns"]);
}

#[test]
fn a_conflict_names_the_older_one() {
    let younger = binding("b", &["x", "y"], 2, |spec| spec["server"]["name"] = json!("a"));
    let findings = judged(
        vec![younger, binding("a", &["x"], 1, |_| {})],
        secrets(LONG, json!({"postern.dev/allowed-hosts": "h.example"})),
    );
    assert_told(
        &findings,
        &[
            "binding ok CredentialBinding ns/a: served for x",
            "binding wrong CredentialBinding ns/b: not served for x: ns/a has the same spec.server.name",
        ],
    );
}

#[test]
fn secrets_are_let_go_with_their_namespace() {
    let (mut bindings, ns) = (Bindings::new(vec![binding("a", &["x"], 1, |_| {})]), namespace("ns"));
    bindings.fill(&ns, secrets(LONG, json!({"postern.dev/allowed-hosts": "h.example"})));
    let caller = CallerKey { namespace: ns.clone(), service_account: ServiceAccount::parse("x").unwrap(), user: None };
    assert!(bindings.view(&caller).items[0].value.is_ok());
    bindings.settle(&ns, &[Kind::Secrets].into(), &[]);
    assert!(bindings.view(&caller).items[0].value.is_err());
}

// ---- rights ----

/// The findings, where these questions are answered yes: `account verb resource[/subresource]`.
fn rights_of(yes: &[&str], guards: Guards) -> Vec<Finding> {
    let known = known(vec![binding("a", &["x"], 1, |_| {})], vec![]);
    let home = namespace("home");
    let mut answers = Answers::default();
    for question in rights::questions(&known, &home) {
        let right = &question.right;
        let sub = right.subresource.map_or_else(String::new, |sub| format!("/{sub}"));
        let asked = format!("{} {} {}{sub}", question.account, right.verb, right.resource);
        answers.take(question, Ok(yes.contains(&asked.as_str())));
    }
    rights::judge(&known, &home, &answers, guards)
}

#[test]
fn each_way_to_a_credential_is_told() {
    let grant = ["postern-broker list secrets", "postern-broker watch secrets"];
    let all = Guards { token: true, exec: true };
    let good = "grant ok Namespace ns";
    let agent = |yes: &str, guards| rights_of(&[&grant[..], &[yes]].concat(), guards);
    assert_told(&agent("", all), &[good, "secret_access ok ServiceAccount ns/x: has no way of its own to Secret s"]);
    for verb in ["get", "list", "watch"] {
        let expected = format!("secret_access wrong ServiceAccount ns/x: may {verb} Secret s itself");
        assert_told(&agent(&format!("x {verb} secrets"), all), &[good, &expected]);
    }
    for (yes, topic) in [
        ("x create serviceaccounts/token", "token_access"),
        ("x create pods/exec", "exec_access"),
        ("x get pods/exec", "exec_access"),
    ] {
        assert_told(&agent(yes, all), &[good, &format!("{topic} warning ServiceAccount ns/x")]);
        assert_told(&agent(yes, Guards::default()), &[good, &format!("{topic} wrong ServiceAccount ns/x")]);
    }
    assert_told(&agent("x create pods", all), &[good, "pod_access wrong ServiceAccount ns/x: may create pods in ns"]);
    for lacking in [0, 1] {
        let expected = format!(
            "grant wrong Namespace ns: the broker (home/postern-broker) may not {} secrets",
            ["watch", "list"][lacking]
        );
        assert_told(&rights_of(&[grant[lacking]], all), &[&expected, "secret_access ok"]);
    }
}

#[test]
fn a_question_without_an_answer_is_never_good() {
    let known = known(vec![binding("a", &["x"], 1, |_| {})], vec![]);
    let home = namespace("home");
    let questions = rights::questions(&known, &home);
    let judge = |answer: &dyn Fn(usize) -> Result<bool, Why>| {
        let mut answers = Answers::default();
        questions.iter().enumerate().for_each(|(at, question)| answers.take(question.clone(), answer(at)));
        rights::judge(&known, &home, &answers, Guards::default())
    };
    let none = judge(&|_| Err(Why::Forbidden));
    assert_eq!(none.len(), 2, "said once, not for each account: {none:?}");
    assert!(none.iter().all(|finding| finding.what == "may not create SubjectAccessReviews"), "{none:?}");
    assert!(none.iter().all(|finding| finding.grade == Grade::Unchecked), "{none:?}");
    for (lost, question) in questions.iter().enumerate() {
        let findings = judge(&|at| if at == lost { Err(Why::Failed("lost".into())) } else { Ok(false) });
        // What the broker surely lacks is said, whatever else is not known.
        let expected = if question.account == "x" { "not checked" } else { "wrong" };
        let is_it = |finding: &&Finding| (finding.topic == Topic::Grant) != (question.account == "x");
        let grades: BTreeSet<&str> = findings.iter().filter(is_it).map(|finding| finding.grade.as_str()).collect();
        assert_eq!(grades, [expected].into(), "{question:?}: {findings:?}");
    }
}
#[test]
fn a_flag_is_read_in_either_form() {
    let of =
        |arguments: &[&str]| argument(&arguments.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>(), "--image");
    assert_eq!(of(&["controller", "--image", "a:1", "--broker"]), Some("a:1".into()));
    assert_eq!(of(&["controller", "--image=a@sha256:b=c"]), Some("a@sha256:b=c".into()));
    assert_eq!(of(&["--image-pull-policy=Never", "--image"]), None);
    assert_eq!(of(&[]), None);
}
