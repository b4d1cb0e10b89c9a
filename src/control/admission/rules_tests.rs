//! The rules as tables: what is refused, and what is close to it and is not.

use serde_json::json;

use super::*;

fn reasons(spec: Value, allowed: &Allowed) -> Vec<&'static str> {
    let mut pod = json!({"spec": {"containers": [{"name": "a"}]}});
    for (name, value) in spec.as_object().unwrap() {
        pod["spec"][name] = value.clone();
    }
    let faults = check(Pod::read(&pod).unwrap(), allowed);
    faults.iter().map(|fault| fault.reason.as_str()).collect()
}

fn container(context: Value) -> Value {
    json!({"containers": [{"name": "a", "securityContext": context}]})
}

#[test]
fn what_reaches_into_the_sidecar_is_refused() {
    let add = |name: &str| container(json!({"capabilities": {"add": [name]}}));
    let audience = |name: &str| json!({"name": name, "projected": {"sources": [{"secret": {}}, {"serviceAccountToken": {"audience": "postern.dev/broker"}}]}});
    let cases = [
        (json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}), vec!["host_namespaces"; 3]),
        (json!({"hostNetwork": false, "hostPID": null}), vec![]),
        (json!({"shareProcessNamespace": true}), vec!["shared_processes"]),
        (json!({"os": {"name": "windows"}}), vec!["windows"]),
        (json!({"os": {"name": "linux"}, "nodeSelector": {"kubernetes.io/os": "linux"}}), vec![]),
        (json!({"nodeSelector": {"kubernetes.io/os": "Windows"}}), vec!["windows"]),
        (json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}), vec!["windows"]),
        (container(json!({"windowsOptions": {}})), vec!["windows"]),
        (json!({"securityContext": {"runAsUser": 64321}}), vec!["reserved_uid"]),
        (json!({"securityContext": {"runAsUser": 64320, "runAsGroup": 64321}}), vec![]),
        (container(json!({"runAsUser": 64321})), vec!["reserved_uid"]),
        (container(json!({"privileged": true})), vec!["privileged"]),
        (container(json!({"privileged": false})), vec![]),
        (add("SYS_ADMIN"), vec!["capability"]),
        (add("cap_sys_ptrace"), vec!["capability"]),
        (add("Net_Admin"), vec!["capability"]),
        (add("SYS_MODULE"), vec!["capability"]),
        (add("ALL"), vec!["capability"]),
        (add("NET_RAW"), vec![]),
        (json!({"volumes": [{"name": "h", "hostPath": {"path": "/var/log"}}]}), vec!["host_path"]),
        (json!({"volumes": [audience("mine")]}), vec!["reserved_audience"]),
        (json!({"volumes": [audience("postern-token")]}), vec![]),
        (json!({"initContainers": [{"name": "postern", "securityContext": {"runAsUser": 64321}}]}), vec![]),
        (json!({"initContainers": [{"name": "i", "securityContext": {"privileged": true}}]}), vec!["privileged"]),
    ];
    for (spec, expected) in cases {
        assert_eq!(reasons(spec.clone(), &Allowed::default()), expected, "{spec}");
    }
}

#[test]
fn paths_of_the_node_pass_where_the_administrator_says_so() {
    let allowed = Allowed { host_paths: vec!["/var/log/".into(), "/dev/fuse".into()], ..Allowed::default() };
    let path = |path: &str| json!({"volumes": [{"name": "h", "hostPath": {"path": path}}]});
    for good in ["/var/log", "/var/log/app", "//var//log/./app/", "/dev/fuse"] {
        assert!(reasons(path(good), &allowed).is_empty(), "{good}");
    }
    for bad in ["/", "/var", "/var/log2", "/var/log/../lib/kubelet", "/dev", ""] {
        assert_eq!(reasons(path(bad), &allowed), ["host_path"], "{bad}");
    }
}

#[test]
fn a_pod_is_hardened_only_where_every_other_container_is() {
    let hard = json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let pod = |pod_context: Value, context: Value| {
        let sidecar = json!({"name": "postern", "securityContext": {"runAsUser": 0}});
        let pod = json!({"spec": {
            "securityContext": pod_context,
            "initContainers": [sidecar],
            "containers": [{"name": "a", "securityContext": context}],
        }});
        is_hardened(Pod::read(&pod).unwrap())
    };
    let changed = |name: &str, value: Value| {
        let mut context = hard.clone();
        context[name] = value;
        context
    };
    let none = Value::Null;
    assert!(pod(none.clone(), hard.clone()));
    assert!(pod(json!({"runAsNonRoot": true}), changed("runAsNonRoot", none.clone())));
    assert!(pod(json!({"runAsUser": 1000}), changed("runAsNonRoot", none.clone())));
    assert!(pod(json!({"runAsUser": 0}), changed("runAsUser", json!(1000))));
    assert!(pod(none.clone(), changed("capabilities", json!({"drop": ["all"], "add": ["NET_BIND_SERVICE"]}))));

    let mixed = json!({"spec": {"containers": [{"name": "a", "securityContext": hard}, {"name": "b"}]}});
    assert!(!is_hardened(Pod::read(&mixed).unwrap()));
    assert!(!pod(none.clone(), none.clone()));
    assert!(!pod(none.clone(), changed("runAsNonRoot", json!(false))));
    assert!(!pod(json!({"runAsNonRoot": true}), changed("runAsNonRoot", json!(false))));
    assert!(!pod(json!({"runAsUser": 1000}), changed("runAsUser", json!(0))));
    assert!(!pod(json!({"runAsUser": 0}), changed("runAsUser", none.clone())));
    assert!(!pod(none.clone(), changed("allowPrivilegeEscalation", none.clone())));
    assert!(!pod(none.clone(), changed("capabilities", json!({"drop": ["NET_RAW"]}))));
    assert!(!pod(none.clone(), changed("capabilities", json!({"drop": ["ALL"], "add": ["NET_RAW"]}))));
}

/// `redirect` tells the sidecar by its user. What lets another process become it, or send without a socket, is told.
#[test]
fn a_pod_is_redirected_only_where_no_other_container_could_get_past() {
    let told = |spec: Value| -> Vec<String> {
        let pod = json!({"spec": spec});
        let faults = redirected(Pod::read(&pod).unwrap());
        assert!(faults.iter().all(|fault| fault.reason == Reason::Unconfined), "{faults:?}");
        faults.into_iter().map(|fault| fault.cause.replace("spec.containers[a]", "a")).collect()
    };
    let one = |context: Value| json!({"containers": [{"name": "a", "securityContext": context}]});
    let capabilities = |drop: &[&str], add: &[&str]| {
        told(one(json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": drop, "add": add}})))
    };
    assert_eq!(capabilities(&["ALL"], &[]), [""; 0]);
    assert_eq!(capabilities(&["all"], &["NET_BIND_SERVICE", "CHOWN"]), [""; 0]);
    assert_eq!(capabilities(&["NET_RAW", "cap_setuid", "CAP_SETGID"], &[]), [""; 0]);
    assert_eq!(capabilities(&["NET_RAW", "SETGID"], &[]), ["a does not drop SETUID"]);
    assert_eq!(capabilities(&[], &["SETGID"]), ["a does not drop NET_RAW, SETUID, SETGID", "a adds SETGID"]);
    assert_eq!(capabilities(&["ALL"], &["cap_net_raw", "SETUID"]), ["a adds NET_RAW, SETUID"]);
    let may_escalate = ["a.securityContext.allowPrivilegeEscalation is not false"];
    let drops = json!({"drop": ["ALL"]});
    assert_eq!(told(one(json!({"capabilities": drops}))), may_escalate);
    assert_eq!(told(one(json!({"allowPrivilegeEscalation": true, "capabilities": drops}))), may_escalate);
    assert_eq!(told(json!({"containers": [{"name": "a"}]})).len(), 2);
    // Ours are none of those; one that only has the name is.
    let ours = |list: &str| {
        let mut spec = one(json!({"allowPrivilegeEscalation": false, "capabilities": drops}));
        let named = json!([{"name": "postern-init"}, {"name": "postern"}]);
        spec[list] = named;
        told(spec).len()
    };
    assert_eq!((ours("initContainers"), ours("containers")), (0, 4));
}
