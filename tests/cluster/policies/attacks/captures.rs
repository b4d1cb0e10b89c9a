//! Attacks on what catches calls: the init container of `redirect`, what the sidecar is told, and processes beside it.

use super::*;

pub fn all() -> Vec<Attack> {
    [redirectors(), captures(), unconfined()].into_iter().flatten().collect()
}

const INIT: &str = "/spec/initContainers/0";
const ORDER: &str = "postern-init is the first init container";

/// Containers that are called as the one that redirects, and are not it.
fn redirectors() -> Vec<Attack> {
    let init = |field: &str, value: Value| changed(captured("pod", "redirect"), &format!("{INIT}{field}"), value);
    let variable = |name: &str, value: &str| init("/env/-", json!({"name": name, "value": value}));
    let ours = || captured("pod", "redirect")["spec"]["initContainers"][0].take();
    let mut swapped = captured("pod", "redirect");
    swapped["spec"]["initContainers"].as_array_mut().expect("a list").reverse();
    let mut missing = captured("pod", "redirect");
    missing["spec"]["initContainers"].as_array_mut().expect("a list").remove(0);
    let mut late = captured("pod", "redirect");
    let first = json!({"name": "first", "image": "none.invalid/first", "securityContext": late["spec"]["containers"][0]["securityContext"]});
    late["spec"]["initContainers"].as_array_mut().expect("a list").insert(0, first);
    let mut unlabelled = plain("pod", None);
    unlabelled["spec"]["initContainers"] = json!([ours()]);
    unlabelled["spec"]["volumes"] = json!([{"name": "postern-noapi", "emptyDir": {}}]);
    let mut mounted = init("/volumeMounts/-", json!({"name": "more", "mountPath": "/more"}));
    put(&mut mounted, "/spec/volumes/-", json!({"name": "more", "emptyDir": {}}));
    let mut twice = variable("POSTERN_SKIP_PORTS", "5432");
    put(&mut twice, &format!("{INIT}/env/-"), json!({"name": "POSTERN_SKIP_PORTS", "value": "5432"}));
    let elsewhere = json!({"name": "POSTERN_RESOLVERS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}});
    const IMAGE: &[&str] = &["postern-init has another image"];
    const RUNS: &[&str] = &["postern-init runs what its image runs"];
    const VARIABLES: &[&str] = &["postern-init gets no other POSTERN_ variable"];
    const SKIPS: &[&str] = &["leaves no other ports and networks uncaptured"];
    const MOUNT: &[&str] = &["exactly the mount that keeps"];
    const PRIVILEGE: &[&str] = &["without any other privilege"];
    vec![
        pod("the init container in a pod that did not opt in", unlabelled, &[OPTED_IN, "has no postern", ORDER]),
        pod(
            "the init container where nothing is redirected",
            changed(good("pod"), "/spec/initContainers/-", ours()),
            &[ORDER],
        ),
        pod("redirect without its init container", missing, &[ORDER]),
        pod("the sidecar before it", swapped, &[ORDER]),
        pod("somebody else before it", late, &[ORDER]),
        pod("its name with another image", init("/image", json!("evil.example/postern:0.1.0")), IMAGE),
        pod("another command of it", init("/command", json!(["sh"])), RUNS),
        pod("another argument of it", init("/args", json!(["init-net", "--skip-ports=443"])), RUNS),
        pod("one that stays", init("/restartPolicy", json!("Always")), RUNS),
        pod("a terminal of it", init("/stdin", json!(true)), RUNS),
        pod("a variable that it never gets", variable("POSTERN_LOG_LEVEL", "debug"), VARIABLES),
        pod("a variable of it from a Secret", init("/env/0", elsewhere), VARIABLES),
        pod("its variables from a Secret", init("/envFrom", json!([{"secretRef": {"name": "s"}}])), VARIABLES),
        pod("the same thing told twice", twice, &["told each thing once"]),
        pod("a port of the author's choice", variable("POSTERN_SKIP_PORTS", "5432,443"), SKIPS),
        pod("a network of the author's choice", variable("POSTERN_SKIP_CIDRS", "0.0.0.0/0"), SKIPS),
        pod("a part of an allowed network", variable("POSTERN_SKIP_CIDRS", "10.1.0.0/16"), SKIPS),
        pod("one more mount of it", mounted, MOUNT),
        pod("the token for the API server", init("/volumeMounts", json!([])), MOUNT),
        pod("one more capability", init("/securityContext/capabilities/add/-", json!("NET_RAW")), PRIVILEGE),
        pod("all that root has", init("/securityContext/capabilities/drop", Value::Null), PRIVILEGE),
        pod("a writable root of it", init("/securityContext/readOnlyRootFilesystem", Value::Null), PRIVILEGE),
        pod("system calls of every kind", init("/securityContext/seccompProfile", Value::Null), PRIVILEGE),
        pod("a user without the capability", init("/securityContext/runAsUser", json!(1000)), PRIVILEGE),
        pod("no security context of it", init("/securityContext", Value::Null), PRIVILEGE),
    ]
}

/// Sidecars that are told something else than pod, namespace and administrator say.
fn captures() -> Vec<Attack> {
    let annotation = "/metadata/annotations/config.postern.dev~1capture";
    let told = |pod: Value, name: &str, value: &str| {
        let index = pod["spec"]["initContainers"].as_array().map_or(0, |list| list.len() - 1);
        changed(pod, &format!("/spec/initContainers/{index}/env/-"), json!({"name": name, "value": value}))
    };
    let passing = |hosts: &str| told(captured("pod", "proxy"), "POSTERN_PASSTHROUGH_HOSTS", hosts);
    const OTHER: &[&str] = &["another capture than the annotations"];
    const PASSED: &[&str] = &["passes on no other hosts"];
    vec![
        pod("proxy that the sidecar is not told", changed(good("pod"), annotation, json!("proxy")), OTHER),
        pod("a proxy that nobody asked for", changed(captured("pod", "proxy"), annotation, Value::Null), OTHER),
        pod("redirect that is only said", changed(hardened("pod"), annotation, json!("redirect")), OTHER),
        Attack { mode: "redirect", ..pod("what the namespace says, left out", hardened("pod"), OTHER) },
        pod(
            "a capture that is not there",
            changed(told(good("pod"), "POSTERN_CAPTURE", "none"), annotation, json!("none")),
            &["not_allowed: "],
        ),
        pod("a host of the author's choice", passing("evil.example"), PASSED),
        pod("one behind an allowed host", passing("a.pypi.example,evil.example"), PASSED),
        pod("the suffix itself", passing("pypi.example"), PASSED),
        pod("a name that ends like it", passing("evil-pypi.example"), PASSED),
        pod("more than the suffix", passing("*.example"), PASSED),
    ]
}

/// With `redirect`: processes that could get past it.
fn unconfined() -> Vec<Attack> {
    let agent = |context: Value| changed(captured("pod", "redirect"), "/spec/containers/0/securityContext", context);
    let with = |drop: &[&str], add: &[&str]| json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": drop, "add": add}});
    let debugger = |what, context: Value| {
        debug(
            what,
            "agent-redirected",
            json!({"securityContext": context}),
            &["unconfined: where postern-init redirects"],
        )
    };
    let unconfined = json!({"name": "i", "image": "none.invalid/i"});
    const POD: &[&str] = &["unconfined: with capture redirect"];
    vec![
        pod("an agent as it is", agent(json!({})), POD),
        pod("a program that runs as its owner", agent(json!({"capabilities": {"drop": ["ALL"]}})), POD),
        pod("packets that no socket made", agent(with(&["SETUID", "SETGID"], &[])), POD),
        pod("becoming the sidecar's user", agent(with(&["NET_RAW", "SETGID"], &[])), POD),
        pod("the same, added again", agent(with(&["ALL"], &["cap_setuid"])), POD),
        pod(
            "the same in an init container",
            changed(captured("pod", "redirect"), "/spec/initContainers/-", unconfined),
            POD,
        ),
        debugger("an ephemeral container that may all of that", json!({})),
        debugger("one that runs programs as their owner", json!({"capabilities": {"drop": ["ALL"]}})),
        debugger("one that sends packets", with(&["SETUID", "SETGID"], &[])),
        debugger("one that adds again", with(&["ALL"], &["SETGID"])),
    ]
}
