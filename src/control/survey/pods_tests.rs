//! What is decided of pods.

use serde_json::{Value, json};

use super::*;
use crate::control::survey::tests::{assert_told, certificate, unseen};

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Option<PodSeen> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "labels": {}, "annotations": {}},
        "spec": {"serviceAccountName": "x", "containers": [{"name": "agent"}]},
        "status": {"phase": "Running"},
    });
    change(&mut pod);
    PodSeen::read(serde_json::from_value(pod).unwrap())
}

fn with_sidecar(pod: &mut Value, image: &str, ca: &str) {
    pod["metadata"]["labels"]["postern.dev/injected"] = json!("true");
    let env = json!([{"name": "POD_NAME"}, {"name": "POSTERN_BROKER_CA", "value": ca}]);
    pod["spec"]["initContainers"] = json!([{"name": "first"}, {"name": "postern", "image": image, "env": env}]);
}

struct Around {
    namespaces: Seen<BTreeMap<String, NamespaceSeen>>,
    bound: Seen<Bound>,
    image: Seen<Option<String>>,
    signers: Seen<Option<String>>,
}

fn bound_to(callers: &[(&str, &str)]) -> Bound {
    callers.iter().map(|(namespace, account)| (((*namespace).into(), (*account).into()), BTreeMap::new())).collect()
}

impl Around {
    fn good(signers: &str) -> Self {
        Self {
            namespaces: Ok([("ns".to_owned(), NamespaceSeen::default())].into()),
            bound: Ok(bound_to(&[("ns", "x")])),
            image: Ok(None),
            signers: Ok(Some(signers.to_owned())),
        }
    }

    fn judge(&self, pods: Vec<Option<PodSeen>>) -> Vec<Finding> {
        let Self { namespaces, bound, image, signers } = self;
        judge(&Ok(pods.into_iter().flatten().collect()), &Measure { home: "home", namespaces, bound, image, signers })
    }
}

#[test]
fn sidecars_are_held_against_what_is_injected_now() {
    let (old, new) = (certificate(), certificate());
    let mut around = Around::good(&format!("{new}{}", certificate()));
    let one = |name: &str, image: &str, ca: &str| pod(name, |pod| with_sidecar(pod, image, ca));
    let three = || vec![one("a", "v1", &new), one("b", "v2", &format!("{old}{new}")), one("c", "v2", &old)];
    let signer = "pod_signer wrong Pod ns/c: its sidecar does not know";
    let all = "injection ok Pods: 3 with a sidecar";
    assert_told(
        &around.judge(three()),
        &[all, signer, "image warning Pod ns/a: its sidecar is v1; the one that most have is v2"],
    );
    around.image = Ok(Some("v1".into()));
    let stale =
        |name: &str| format!("image warning Pod ns/{name}: its sidecar is v2; the one that is injected now is v1");
    assert_told(&around.judge(three()), &[all, signer, &stale("b"), &stale("c")]);
    around.image = Err(unseen("get it"));
    around.signers = Err(unseen("get it"));
    assert_told(
        &around.judge(three()),
        &[
            all,
            "pod_signer not checked",
            "image warning Pod ns/a",
            "image not checked Image that is injected now: may not get it",
        ],
    );
    let two = vec![one("b", "v2", &new), one("c", "v2", &new)];
    assert_told(
        &Around::good(&new).judge(two),
        &[
            "injection ok",
            "pod_signer ok Pods: the broker's present signer is known to 2 sidecars",
            "image ok Pods: v2, the one that most have, in 2 sidecars",
        ],
    );
    assert_told(&Around::good("").judge(vec![one("a", "v1", &new)]), &["injection ok", "image ok"]);
    // Neither a certificate in another place nor text that is no PEM counts.
    for ca in ["", "text", &old] {
        assert_told(&Around::good(&new).judge(vec![one("c", "v1", ca)]), &["injection ok", signer, "image ok"]);
    }
}

#[test]
fn a_pod_that_nothing_is_bound_to_is_told() {
    let ca = certificate();
    let one = || vec![pod("a", |pod| with_sidecar(pod, "v1", &ca))];
    let mut around = Around::good(&ca);
    around.bound = Ok(bound_to(&[("ns", "y"), ("other", "x")]));
    let before = ["injection ok", "pod_signer ok", "image ok"];
    assert_told(
        &around.judge(one()),
        &[&before[..], &["unbound warning Pod ns/a: nothing is bound to its service account x"]].concat(),
    );
    around.bound = Err(unseen("list CredentialBindings"));
    assert_told(&around.judge(one()), &[&before[..], &["unbound not checked Pods: may not list"]].concat());
}

#[test]
fn a_pod_that_should_have_a_sidecar_and_has_none_is_told() {
    let plain = json!({});
    let asks = json!({"labels": {"postern.dev/inject": "true"}});
    let refuses = json!({"annotations": {"postern.dev/inject": "false"}});
    let bad = json!({"labels": {"postern.dev/inject": "yes"}});
    let lacking = "injection wrong Pod ns/a: is to have a sidecar and has none";
    let fine = "injection ok Pods: 0 with a sidecar, and none lacks one";
    let rows = [
        (None, &plain, fine),
        (None, &asks, lacking),
        (None, &bad, "injection wrong Pod ns/a: has no sidecar: bad_switch"),
        (Some("enabled"), &plain, lacking),
        (Some("enabled"), &refuses, fine),
        (Some("enforce"), &refuses, "injection wrong Pod ns/a: has no sidecar: opt_out_forbidden"),
        (Some("disabled"), &asks, fine),
        (Some("disabled"), &bad, fine),
    ];
    for (label, switch, expected) in rows {
        let one = || {
            pod("a", |pod| {
                pod["metadata"] = switch.clone();
                pod["metadata"]["name"] = json!("a");
                pod["metadata"]["namespace"] = json!("ns");
            })
        };
        let mut around = Around::good("");
        let seen = NamespaceSeen { switch: label.map(str::to_owned), ..NamespaceSeen::default() };
        around.namespaces = Ok([("ns".to_owned(), seen)].into());
        assert_told(&around.judge(vec![one()]), &[expected]);
        around.namespaces = Err(unseen("list Namespaces"));
        let unknown = "injection not checked Pods without a sidecar: may not list Namespaces";
        assert_told(&around.judge(vec![one()]), &[unknown]);
    }
    let labelled = |pod: &mut Value| pod["metadata"]["labels"]["postern.dev/injected"] = json!("true");
    let forged = "injection wrong Pod ns/a: has the label postern.dev/injected and no sidecar";
    assert_told(&Around::good("").judge(vec![pod("a", labelled)]), &[forged]);
    assert_told(
        &judge(
            &Err(unseen("list Pods")),
            &Measure {
                home: "home",
                namespaces: &Ok(BTreeMap::new()),
                bound: &Ok(Bound::new()),
                image: &Ok(None),
                signers: &Ok(None),
            },
        ),
        &["injection not checked Pods: may not list Pods"],
    );
}

#[test]
fn pods_that_do_not_count_are_left_out() {
    for (at, value) in [
        ("/status/phase", json!("Succeeded")),
        ("/status/phase", json!("Failed")),
        ("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")),
        ("/metadata/annotations/kubernetes.io~1config.mirror", json!("x")),
    ] {
        let left = pod("a", |pod| {
            let (parent, field) = at.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[field.replace("~1", "/")] = value.clone();
        });
        assert_eq!(left, None, "{at}");
    }
    assert!(pod("a", |_| {}).is_some());
    let asks = |namespace: &'static str| {
        pod("a", move |pod| {
            pod["metadata"]["labels"]["postern.dev/inject"] = json!("true");
            pod["metadata"]["namespace"] = json!(namespace);
        })
    };
    let spared = vec![asks("home"), asks("kube-system"), asks("kube-public"), asks("kube-node-lease")];
    assert_told(&Around::good("").judge(spared), &["injection ok"]);
}

// ---- captures ----

fn time(second: u32) -> Value {
    json!(format!("2026-01-01T00:00:{second:02}Z"))
}

/// A pod with this capture whose sidecar, started `restarts` times more, runs since a second, and its agent.
fn captured(capture: &str, restarts: u32, since: Option<u32>, agent: Option<u32>) -> Option<PodSeen> {
    let running = |second: u32| json!({"running": {"startedAt": time(second)}});
    pod("a", |pod| {
        with_sidecar(pod, "v1", "");
        if capture != "endpoint" {
            let variable = json!({"name": "POSTERN_CAPTURE", "value": capture});
            pod["spec"]["initContainers"][1]["env"].as_array_mut().unwrap().push(variable);
        }
        let ended = json!({"terminated": {"exitCode": 0, "startedAt": time(0)}});
        let state = since.map_or_else(|| json!({"waiting": {}}), running);
        let one = |name: &str, state: Value, restarts: u32| json!({"name": name, "state": state, "restartCount": restarts, "image": "", "imageID": "", "ready": true});
        pod["status"]["initContainerStatuses"] =
            json!([one("first", ended.clone(), 0), one("postern", state, restarts)]);
        let agent = agent.map_or_else(|| json!({"running": {}}), running);
        pod["status"]["containerStatuses"] = json!([one("agent", agent, 0), one("done", ended, 0)]);
    })
}

fn of(topic: Topic, findings: Vec<Finding>) -> Vec<Finding> {
    findings.into_iter().filter(|finding| finding.topic == topic).collect()
}

#[test]
fn what_trusts_the_authority_of_before_is_told() {
    let told =
        "pod_authority warning Pod ns/a: its sidecar was started again and has a new authority; agent began before";
    let fine = "pod_authority ok Pods: what runs beside 1 sidecar began after it";
    for (capture, restarts, since, agent, expected) in [
        ("proxy", 0, Some(1), Some(2), &[fine][..]),
        ("proxy", 1, Some(5), Some(2), &[told]),
        ("redirect", 3, Some(5), Some(2), &[told]),
        // It began anew itself.
        ("proxy", 1, Some(5), Some(6), &[fine]),
        // Not known, so likely.
        ("proxy", 1, Some(5), None, &[told]),
        ("redirect", 1, None, Some(6), &[told]),
        ("endpoint", 1, Some(5), Some(2), &[]),
    ] {
        let findings = Around::good("").judge(vec![captured(capture, restarts, since, agent)]);
        assert_told(&of(Topic::PodAuthority, findings), expected);
    }
}

#[test]
fn a_host_that_was_bound_later_is_told() {
    let born = |second: u32| serde_json::from_value::<Time>(time(second)).ok();
    let with = |hosts: &[(&str, Option<Time>)]| {
        let mut around = Around::good("");
        let hosts = hosts.iter().map(|(host, born)| ((*host).to_owned(), born.clone())).collect();
        around.bound = Ok([(("ns".to_owned(), "x".to_owned()), hosts)].into());
        around
    };
    let told = |around: &Around, capture: &str, since: Option<u32>| {
        of(Topic::BoundLater, around.judge(vec![captured(capture, 0, since, Some(9))]))
    };
    let later = with(&[("early.example", born(1)), ("late.example", born(6)), ("unknown.example", None)]);
    let expected =
        "bound_later warning Pod ns/a: late.example was bound after its sidecar started: with capture proxy such calls";
    assert_told(&told(&later, "proxy", Some(5)), &[expected]);
    let fine = "bound_later ok Pods: every https host that is bound was so before 1 sidecar";
    assert_told(&told(&later, "proxy", Some(6)), &[fine]);
    assert_told(&told(&later, "redirect", None), &[fine]);
    assert_told(&told(&later, "endpoint", Some(5)), &[]);
    let mut unknown = with(&[]);
    unknown.bound = Err(unseen("list CredentialBindings"));
    assert_told(&told(&unknown, "proxy", Some(5)), &["bound_later not checked Pods: may not list"]);
}

#[test]
fn a_namespace_that_forbids_what_it_asks_for_is_told() {
    let told = |seen: NamespaceSeen, pods: Vec<Option<PodSeen>>| {
        let mut around = Around::good("");
        around.namespaces = Ok([("ns".to_owned(), seen)].into());
        of(Topic::PodSecurity, around.judge(pods))
    };
    let text = |text: &str| Some(text.to_owned());
    let seen = |capture: Option<&str>, standard: Option<&str>| NamespaceSeen {
        capture: capture.map(str::to_owned),
        standard: standard.map(str::to_owned),
        switch: None,
    };
    let forbidden = |standard: &str| {
        format!("pod_security wrong Namespace ns: pod-security.kubernetes.io/enforce is {standard}, which forbids")
    };
    for standard in ["baseline", "restricted"] {
        assert_told(&told(seen(Some(" redirect"), Some(standard)), Vec::new()), &[&forbidden(standard)]);
        assert_told(&told(seen(Some("proxy"), Some(standard)), Vec::new()), &[]);
        // Where only the pods say it.
        let running = || vec![captured("redirect", 0, Some(1), Some(2))];
        assert_told(&told(seen(None, Some(standard)), running()), &[&forbidden(standard)]);
        let off = NamespaceSeen { switch: text("disabled"), ..seen(Some("redirect"), Some(standard)) };
        assert_told(&told(off, Vec::new()), &[]);
    }
    let fine = "pod_security ok Namespaces: capture redirect is not forbidden by a label in ns";
    for standard in [None, Some("privileged")] {
        assert_told(&told(seen(Some("redirect"), standard), Vec::new()), &[fine]);
    }
    let mut around = Around::good("");
    around.namespaces = Err(unseen("list Namespaces"));
    let findings = around.judge(vec![captured("redirect", 0, Some(1), Some(2))]);
    assert_told(&of(Topic::PodSecurity, findings), &["pod_security not checked Namespaces: may not list"]);
}
