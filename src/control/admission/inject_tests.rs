//! The second call: what the API server, its plugins and other webhooks do to a pod in between,
//! and what somebody wrote there beforehand.

use serde_json::json;

use super::*;
use crate::control::admission::{NamespaceMeta, Outcome, decide, testing};

fn decided(pod: &Value) -> Outcome {
    decide(pod, &NamespaceMeta::default(), &[], &testing::settings()).outcome
}

fn applied(pod: &Value, outcome: &Outcome) -> Value {
    let Outcome::Patched(patch) = outcome else { panic!("{outcome:?}") };
    let mut after = pod.clone();
    let patch: json_patch::Patch = serde_json::from_value(serde_json::to_value(patch).unwrap()).unwrap();
    json_patch::patch(&mut after, &patch).unwrap();
    after
}

/// A pod after the first call.
fn injected() -> Value {
    injected_with("endpoint")
}

fn injected_with(capture: &str) -> Value {
    let hard = json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let pod = json!({
        "metadata": {"labels": {"postern.dev/inject": "true"}, "annotations": {
            "config.postern.dev/cpu-request": "0.5", "config.postern.dev/capture": capture,
        }},
        "spec": {"containers": [{"name": "agent", "securityContext": hard}]},
    });
    let after = applied(&pod, &decided(&pod));
    assert_eq!(decided(&after), Outcome::Unchanged(crate::control::admission::reason::Unchanged::AlreadyInjected));
    after
}

const SIDECAR: &str = "/spec/initContainers/0";

/// The pod with the value at a place below the sidecar replaced, or added where there is none.
fn changed(place: &str, value: Value) -> Value {
    changed_in(injected(), place, value)
}

/// Likewise of a pod whose init container at the same index is meant.
fn changed_in(mut pod: Value, place: &str, value: Value) -> Value {
    let (above, last) = place.rsplit_once('/').unwrap();
    match pod.pointer_mut(&format!("{SIDECAR}{above}")).unwrap_or_else(|| panic!("{place}")) {
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => list[last.parse::<usize>().unwrap()] = value,
        other => other[last] = value,
    }
    pod
}

#[test]
fn what_the_platform_adds_is_no_difference() {
    let limits = json!({"memory": "96Mi", "cpu": "2", "ephemeral-storage": "1Gi"});
    let proxy = json!({"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"});
    for (place, value) in [
        ("/resources/requests/cpu", json!("500m")),
        ("/resources/limits", limits),
        ("/resizePolicy", json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}])),
        ("/imagePullPolicy", json!("Always")),
        ("/env/-", proxy),
        ("/securityContext/seLinuxOptions", json!({"level": "s0:c1"})),
        ("/livenessProbe/terminationGracePeriodSeconds", json!(10)),
        ("/volumeMounts/1/readOnly", json!(false)),
        ("/notYetKnown", json!("default")),
    ] {
        let outcome = decided(&changed(place, value));
        assert!(matches!(outcome, Outcome::Unchanged(_)), "{place}: {outcome:?}");
    }
}

#[test]
fn whatever_changes_the_sidecar_is_refused_by_its_name() {
    let other = json!({"name": "POSTERN_BROKER", "value": "https://evil.example"});
    for (place, value, told) in [
        ("/image", json!("evil.example/postern:0.1.0"), "image"),
        ("/args", json!(["demo"]), "args"),
        ("/command", json!(["sh"]), "command"),
        ("/lifecycle", json!({"postStart": {"exec": {"command": ["sh"]}}}), "lifecycle"),
        ("/envFrom", json!([{"secretRef": {"name": "s"}}]), "envFrom"),
        ("/stdin", json!(true), "stdin"),
        ("/restartPolicy", json!(null), "restartPolicy"),
        ("/imagePullPolicy", json!("Never"), "imagePullPolicy"),
        ("/env/4", other.clone(), "env POSTERN_BROKER"),
        ("/env/-", other, "env POSTERN_BROKER"),
        ("/env/-", json!({"name": "POSTERN_SERVERS", "value": "a"}), "env POSTERN_SERVERS"),
        ("/env/-", json!({"name": "POSTERN_PUBLIC_DIRECTORY", "value": "/x"}), "env POSTERN_PUBLIC_DIRECTORY"),
        ("/env/0", json!({"name": "POD_NAME", "value": "other"}), "env POD_NAME"),
        ("/volumeMounts/1/readOnly", json!(true), "volumeMounts"),
        ("/volumeMounts/2/mountPath", json!("/elsewhere"), "volumeMounts"),
        ("/volumeMounts/-", json!({"name": "v", "mountPath": "/v"}), "volumeMounts"),
        ("/securityContext/runAsUser", json!(0), "securityContext"),
        ("/securityContext/privileged", json!(true), "securityContext"),
        ("/securityContext/capabilities/add", json!(["NET_ADMIN"]), "securityContext"),
        ("/securityContext/procMount", json!("Unmasked"), "securityContext"),
        ("/startupProbe/httpGet", json!(null), "startupProbe"),
        ("/readinessProbe/httpGet/port", json!(80), "readinessProbe"),
        ("/ports/0/containerPort", json!(1), "ports"),
        ("/resources/limits/memory", json!("1Ti"), "resources"),
        ("/resources/requests", json!(null), "resources"),
        ("/terminationMessagePolicy", json!("File"), "terminationMessagePolicy"),
    ] {
        let Outcome::Refused(faults) = decided(&changed(place, value)) else { panic!("{place} is not refused") };
        let causes: Vec<_> = faults.iter().map(|fault| fault.cause.as_str()).collect();
        let expected = format!("spec.initContainers[postern] is there and differs from the sidecar in {told}");
        assert_eq!(causes, [expected], "{place}");
    }
}

#[test]
fn a_container_that_came_later_gets_its_share_and_changes_what_is_true_of_the_pod() {
    let mut pod = injected();
    assert_eq!(pod.pointer(&format!("{SIDECAR}/env/7/value")), Some(&json!("true")));
    pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "mesh"}));
    let after = applied(&pod, &decided(&pod));
    assert_eq!(after.pointer(&format!("{SIDECAR}/env/7/value")), Some(&json!("false")));
    assert_eq!(after["spec"]["containers"][1]["volumeMounts"][0]["name"], "postern-public");
    assert_eq!(after["spec"]["containers"][0], pod["spec"]["containers"][0]);
    let status: Value = serde_json::from_str(after["metadata"]["annotations"][STATUS].as_str().unwrap()).unwrap();
    assert_eq!(status["hardened"], false);
    assert!(matches!(decided(&after), Outcome::Unchanged(_)));
}

#[test]
fn a_sidecar_that_another_webhook_moved_is_found() {
    let mut pod = injected();
    pod["spec"]["initContainers"].as_array_mut().unwrap().insert(0, json!({"name": "first", "securityContext": {"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}));
    let after = applied(&pod, &decided(&pod));
    let names: Vec<_> = objects(&after["spec"], "initContainers").iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["first", "postern"]);
}

#[test]
fn our_places_are_ours_by_whatever_path() {
    for (path, taken) in [
        ("/var/run/postern", true),
        ("/var/run/postern/", true),
        ("/var//run/./postern/deep", true),
        ("/var/x/../run/postern", true),
        ("/run/postern", true),
        ("/var/run/postern2", false),
        ("/var/run", false),
        ("/postern", false),
    ] {
        let pod = json!({
            "metadata": {"labels": {"postern.dev/inject": "true"}},
            "spec": {"volumes": [{"name": "v"}], "containers": [{"name": "a", "volumeMounts": [{"name": "v", "mountPath": path}]}]},
        });
        assert_eq!(matches!(decided(&pod), Outcome::Refused(_)), taken, "{path}");
    }
    // A skipped container gets nothing, and may take nothing.
    for (name, taken) in [("postern-token", true), ("postern-noapi", true), ("other", false)] {
        let pod = json!({
            "metadata": {"labels": {"postern.dev/inject": "true"}, "annotations": {"config.postern.dev/skip-containers": "a"}},
            "spec": {"containers": [{"name": "a", "volumeMounts": [{"name": name, "mountPath": "/x"}]}]},
        });
        assert_eq!(matches!(decided(&pod), Outcome::Refused(_)), taken, "{name}");
    }
}

/// The init container of `redirect`, as the second call may find it.
#[test]
fn whatever_changes_the_init_container_is_refused_by_its_name() {
    let redirected = || injected_with("redirect");
    let names =
        objects(&redirected()["spec"], "initContainers").iter().map(|one| one["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names, ["postern-init", "postern"]);
    let other = json!({"name": "POSTERN_RESOLVERS", "value": "203.0.113.1"});
    for (place, value, told) in [
        ("/image", json!("evil.example/postern:0.1.0"), "image"),
        ("/args", json!(["init-net", "--skip-ports=443"]), "args"),
        ("/command", json!(["sh"]), "command"),
        ("/envFrom", json!([{"secretRef": {"name": "s"}}]), "envFrom"),
        ("/lifecycle", json!({"preStop": {"exec": {"command": ["sh"]}}}), "lifecycle"),
        ("/restartPolicy", json!("Always"), "restartPolicy"),
        ("/env/0", other.clone(), "env POSTERN_RESOLVERS"),
        ("/env/-", other, "env POSTERN_RESOLVERS"),
        ("/env/-", json!({"name": "POSTERN_SKIP_PORTS", "value": "443"}), "env POSTERN_SKIP_PORTS"),
        ("/volumeMounts", json!([]), "volumeMounts"),
        ("/volumeMounts/-", json!({"name": "v", "mountPath": "/v"}), "volumeMounts"),
        ("/securityContext/privileged", json!(true), "securityContext"),
        ("/securityContext/capabilities/add", json!(["NET_ADMIN", "NET_RAW"]), "securityContext"),
        ("/securityContext/capabilities/add", json!([]), "securityContext"),
        ("/securityContext/capabilities/drop", json!([]), "securityContext"),
        ("/securityContext/runAsUser", json!(64321), "securityContext"),
        ("/securityContext/readOnlyRootFilesystem", json!(false), "securityContext"),
    ] {
        let Outcome::Refused(faults) = decided(&changed_in(redirected(), place, value)) else {
            panic!("{place} is not refused")
        };
        let causes: Vec<_> = faults.iter().map(|fault| fault.cause.as_str()).collect();
        let expected = format!("spec.initContainers[postern-init] is there and differs from Postern's in {told}");
        assert_eq!(causes, [expected], "{place}");
    }
    let proxy = json!({"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"});
    for (place, value) in [("/env/-", proxy), ("/imagePullPolicy", json!("Always")), ("/notYetKnown", json!(1))] {
        let outcome = decided(&changed_in(redirected(), place, value));
        assert!(matches!(outcome, Outcome::Unchanged(_)), "{place}: {outcome:?}");
    }
}

/// What another webhook, or another version of the manifest, made of the order.
#[test]
fn the_init_container_is_put_back_first_and_the_sidecar_behind_it() {
    let names = |pod: &Value| -> Vec<String> {
        let all = objects(&pod["spec"], "initContainers").iter();
        all.filter_map(|one| one["name"].as_str()).map(str::to_owned).collect()
    };
    let taken = |index: usize| {
        let mut pod = injected_with("redirect");
        let mut plain = pod["spec"]["containers"][0].clone();
        plain["name"] = json!("first");
        let list = pod["spec"]["initContainers"].as_array_mut().unwrap();
        list.push(plain);
        list.remove(index);
        pod
    };
    for lost in [0, 1] {
        let pod = taken(lost);
        let after = applied(&pod, &decided(&pod));
        assert_eq!(names(&after), ["postern-init", "postern", "first"], "{lost}");
        assert!(matches!(decided(&after), Outcome::Unchanged(_)));
    }
    let mut swapped = injected_with("redirect");
    swapped["spec"]["initContainers"].as_array_mut().unwrap().reverse();
    let Outcome::Refused(faults) = decided(&swapped) else { panic!("it is not refused") };
    let told: Vec<_> = faults.iter().map(|fault| (fault.reason.as_str(), fault.cause.as_str())).collect();
    assert_eq!(told, [("out_of_order", "spec.initContainers[postern] runs before spec.initContainers[postern-init]")]);
}

/// A pod that was injected for one capture is none of another.
#[test]
fn another_capture_than_that_of_the_sidecar_is_refused() {
    for (made, asked) in [("endpoint", "proxy"), ("proxy", "endpoint"), ("redirect", "proxy"), ("proxy", "redirect")] {
        let mut pod = injected_with(made);
        pod["metadata"]["annotations"]["config.postern.dev/capture"] = json!(asked);
        let Outcome::Refused(faults) = decided(&pod) else { panic!("{made} {asked}") };
        let told = "spec.initContainers[postern] is there and differs from the sidecar in env POSTERN_CAPTURE";
        assert!(faults.iter().any(|fault| fault.cause == told), "{faults:?}");
    }
}

/// The administrator's authorities reach the agents by way of the sidecar, where it makes a bundle for them.
#[test]
fn more_authorities_are_given_to_the_sidecar_alone() {
    let mut settings = testing::settings();
    settings.extra_roots = Some("-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n".into());
    for (capture, given) in [("endpoint", None), ("proxy", settings.extra_roots.as_deref())] {
        let pod = json!({
            "metadata": {
                "labels": {"postern.dev/inject": "true"},
                "annotations": {"config.postern.dev/capture": capture},
            },
            "spec": {"containers": [{"name": "agent"}]},
        });
        let after = applied(&pod, &decide(&pod, &NamespaceMeta::default(), &[], &settings).outcome);
        let sidecar = &after["spec"]["initContainers"][0];
        assert_eq!(value_of(sidecar, "POSTERN_EXTRA_ROOTS"), given, "{capture}");
        assert_eq!(after["spec"]["containers"][0].to_string().matches("BBBB").count(), 0);
    }
}
