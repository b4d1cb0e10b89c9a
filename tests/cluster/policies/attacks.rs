//! What somebody might try who may create or change pods, or has got hold of a user who may.

use std::process::Output;

use serde_json::{Value, json};

use super::{captured, good, hardened, plain, token};
use crate::support::ApiServer;
use crate::support::admission::create;

mod captures;

/// One attempt.
pub struct Attack {
    pub what: &'static str,
    /// What the namespace says; nothing if empty.
    pub mode: &'static str,
    how: How,
    /// Whether it is a connection: those cannot be tried only.
    pub connects: bool,
    /// Parts of the messages of the rules that it breaks.
    pub rules: &'static [&'static str],
}

enum How {
    /// By creating this pod.
    Create(Value),
    /// By a command of kubectl.
    Kubectl(Vec<String>),
    /// By posting nothing to a path below the namespace.
    Post(&'static str),
    /// By asking for a token.
    Token,
}

impl Attack {
    /// Tries it, without lasting effect.
    pub fn run(&self, server: &ApiServer, namespace: &str) -> Output {
        match &self.how {
            How::Create(pod) => create(server, namespace, pod, &["--dry-run=server"]),
            How::Kubectl(arguments) => {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                server.try_kubectl(&[&arguments, &["--dry-run=server", "--namespace", namespace][..]].concat(), "")
            }
            How::Post(path) => {
                let path = format!("/api/v1/namespaces/{namespace}/{path}");
                server.try_kubectl(&["create", "--raw", &path, "--filename", "-"], "")
            }
            How::Token => token(server, namespace, "postern.dev/broker", &[]),
        }
    }
}

const OPTED_IN: &str = "only pods for which the webhook is called";
const LOST: &str = "the pod asks for a sidecar and has none";

/// A good pod with one thing changed.
fn tampered(place: &str, value: Value) -> Value {
    changed(good("pod"), place, value)
}

fn changed(mut pod: Value, place: &str, value: Value) -> Value {
    put(&mut pod, place, value);
    pod
}

/// Sets what is there, or adds it; null removes it.
fn put(pod: &mut Value, place: &str, value: Value) {
    let (above, last) = place.rsplit_once('/').expect("a pointer");
    let last = last.replace("~1", "/");
    match pod.pointer_mut(above).unwrap_or_else(|| panic!("no {above}")) {
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => list[last.parse::<usize>().expect("an index")] = value,
        Value::Object(map) if value.is_null() => drop(map.remove(&last)),
        other => other[last.as_str()] = value,
    }
}

fn pod(what: &'static str, pod: Value, rules: &'static [&'static str]) -> Attack {
    Attack { what, mode: "", how: How::Create(pod), connects: false, rules }
}

fn kubectl(what: &'static str, arguments: &[&str], rules: &'static [&'static str]) -> Attack {
    let arguments = arguments.iter().map(|one| (*one).to_owned()).collect();
    Attack { what, mode: "", how: How::Kubectl(arguments), connects: false, rules }
}

/// An ephemeral container in the pod `name`, with these fields.
fn debug(what: &'static str, name: &str, fields: Value, rules: &'static [&'static str]) -> Attack {
    let mut container = json!({"name": "debugger", "image": "none.invalid/debugger"});
    for (field, value) in fields.as_object().expect("fields") {
        container[field] = value.clone();
    }
    let patch = json!({"spec": {"ephemeralContainers": [container]}}).to_string();
    kubectl(what, &["patch", "pod", name, "--subresource=ephemeralcontainers", "--patch", &patch], rules)
}

pub fn attacks() -> Vec<Attack> {
    [
        forged(),
        look_alikes(),
        tokens(),
        reaching_in(),
        taking_its_place(),
        later(),
        debuggers(),
        connections(),
        captures::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Pods that were never opted in, or lost what they should have.
fn forged() -> Vec<Attack> {
    let mut label_only = plain("pod", None);
    label_only["metadata"]["labels"]["postern.dev/injected"] = json!("true");
    let mut unlabelled = good("pod");
    put(&mut unlabelled, "/metadata/labels/postern.dev~1inject", Value::Null);
    let mut mirror = plain("pod", Some("true"));
    mirror["metadata"]["labels"]["postern.dev/injected"] = json!("true");
    mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!("x");
    mirror["spec"]["serviceAccountName"] = Value::Null;
    mirror["spec"]["nodeName"] = json!("node");
    let in_mode = |mode, attack: Attack| Attack { mode, ..attack };
    vec![
        pod("the label on a pod of any kind", label_only, &[OPTED_IN, "spec.initContainers has no postern"]),
        pod("the whole sidecar in a pod that did not opt in", unlabelled.clone(), &[OPTED_IN]),
        in_mode("disabled", pod("the whole sidecar where the webhook is not called", good("pod"), &[OPTED_IN])),
        in_mode("enabled", {
            let mut opted_out = good("pod");
            put(&mut opted_out, "/metadata/labels/postern.dev~1inject", json!("false"));
            pod("the whole sidecar in a pod that opted out", opted_out, &[OPTED_IN])
        }),
        pod("the label on a pod that claims to be a static one", mirror, &["spec.initContainers has no postern"]),
        pod("a webhook after ours takes the sidecar away", plain("pod", Some("true")), &[LOST]),
        pod("a switch that is none", plain("pod", Some("yes")), &[LOST]),
        in_mode("enabled", pod("no sidecar in an enabled namespace", plain("pod", None), &[LOST])),
        in_mode("enforce", pod("opting out of an enforcing namespace", plain("pod", Some("false")), &[LOST])),
    ]
}

const SIDECAR: &str = "/spec/initContainers/0";

/// Containers that are called as the sidecar, and are not it.
fn look_alikes() -> Vec<Attack> {
    let sidecar = |field: &str, value: Value| tampered(&format!("{SIDECAR}{field}"), value);
    let mut once = sidecar("/restartPolicy", Value::Null);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        put(&mut once, &format!("{SIDECAR}/{probe}"), Value::Null);
    }
    let mut mounted = sidecar("/volumeMounts/-", json!({"name": "more", "mountPath": "/more"}));
    put(&mut mounted, "/spec/volumes/-", json!({"name": "more", "emptyDir": {}}));
    let exec = json!({"exec": {"command": ["cat", "/var/run/secrets/postern/token"]}});
    const RUNS: &[&str] = &["runs what its image runs"];
    const HOOKS: &[&str] = &["no lifecycle hooks"];
    const VARIABLES: &[&str] = &["no other POSTERN_ variable"];
    const MOUNTS: &[&str] = &["exactly the mounts"];
    const PRIVILEGE: &[&str] = &["without any privilege"];
    const IMAGE: &[&str] = &["another image than the administrator's"];
    vec![
        pod("a look-alike image", sidecar("/image", json!("registry.example/postern:0.1.0-1")), IMAGE),
        pod("an image of the same name elsewhere", sidecar("/image", json!("evil.example/postern:0.1.0")), IMAGE),
        pod("a sidecar that ends", once, &["must restart always"]),
        pod("another command", sidecar("/command", json!(["sh"])), RUNS),
        pod("another argument", sidecar("/args", json!(["sidecar", "--config=/x"])), RUNS),
        pod("a hook", sidecar("/lifecycle", json!({"postStart": exec})), HOOKS),
        pod("a terminal", sidecar("/stdin", json!(true)), HOOKS),
        pod("a probe that runs a command", sidecar("/startupProbe", exec.clone()), &["probed over HTTP only"]),
        pod(
            "a variable that the webhook never sets",
            sidecar("/env/-", json!({"name": "POSTERN_PUBLIC_DIRECTORY", "value": "/x"})),
            VARIABLES,
        ),
        pod("variables from a Secret", sidecar("/envFrom", json!([{"secretRef": {"name": "s"}}])), VARIABLES),
        pod("one more mount", mounted, MOUNTS),
        pod("a mount of a part", sidecar("/volumeMounts/1/subPath", json!("x")), MOUNTS),
        pod("a mount that is missing", sidecar("/volumeMounts", json!([])), MOUNTS),
        pod("root", sidecar("/securityContext/runAsUser", json!(0)), PRIVILEGE),
        pod("a capability", sidecar("/securityContext/capabilities/add", json!(["NET_RAW"])), PRIVILEGE),
        pod("a writable root", sidecar("/securityContext/readOnlyRootFilesystem", Value::Null), PRIVILEGE),
        pod("no security context", sidecar("/securityContext", Value::Null), PRIVILEGE),
    ]
}

/// The token for the broker in other hands.
fn tokens() -> Vec<Attack> {
    let audience = json!({"serviceAccountToken": {"path": "t", "audience": "postern.dev/broker"}});
    let mine =
        json!({"name": "mine", "projected": {"sources": [{"secret": {"name": "s", "optional": true}}, audience]}});
    let mount = |name: &str| json!({"name": name, "mountPath": "/token"});
    let mut unlabelled = plain("pod", None);
    unlabelled["spec"]["volumes"] = json!([mine]);
    unlabelled["spec"]["containers"][0]["volumeMounts"] = json!([mount("mine")]);
    let mut beside = tampered("/spec/volumes/-", mine.clone());
    put(&mut beside, "/spec/containers/0/volumeMounts/-", mount("mine"));
    let mut in_init = tampered("/spec/initContainers/-", json!({"name": "i", "image": "none.invalid/i"}));
    put(&mut in_init, "/spec/initContainers/1/volumeMounts", json!([mount("postern-token")]));
    const VOLUME: &str = "stand in the volume postern-token and in no other";
    const MOUNTED: &str = "no container but the sidecar mounts a token";
    vec![
        pod("our audience in an unlabelled pod", unlabelled, &[OPTED_IN, "has no postern", VOLUME, MOUNTED]),
        pod(
            "a mount of the token, declared beforehand",
            tampered("/spec/containers/0/volumeMounts/-", mount("postern-token")),
            &[MOUNTED],
        ),
        pod("the same in an init container", in_init, &[MOUNTED]),
        pod("a second volume with our audience", tampered("/spec/volumes/-", mine), &[VOLUME]),
        pod("the same, mounted by the agent", beside, &[VOLUME, MOUNTED]),
        pod(
            "another token beside ours in its volume",
            tampered(
                "/spec/volumes/0/projected/sources/-",
                json!({"serviceAccountToken": {"path": "x", "audience": "api"}}),
            ),
            &[VOLUME],
        ),
    ]
}

/// What could look into the sidecar from beside it.
fn reaching_in() -> Vec<Attack> {
    let agent = |context: Value| tampered("/spec/containers/0/securityContext", context);
    let add = |name: &str| agent(json!({"capabilities": {"add": [name]}}));
    let mut init = tampered("/spec/initContainers/-", json!({"name": "i", "image": "none.invalid/i"}));
    put(&mut init, "/spec/initContainers/1/securityContext", json!({"privileged": true}));
    const CAPABILITY: &[&str] = &["capability: "];
    const HOST: &[&str] = &["host_namespaces: "];
    const WINDOWS: &[&str] = &["windows: "];
    vec![
        pod("privileged", agent(json!({"privileged": true})), &["privileged: "]),
        pod("a privileged init container", init, &["privileged: "]),
        pod("hostNetwork", tampered("/spec/hostNetwork", json!(true)), HOST),
        pod("hostPID", tampered("/spec/hostPID", json!(true)), HOST),
        pod("hostIPC", tampered("/spec/hostIPC", json!(true)), HOST),
        pod(
            "a path of the node",
            tampered("/spec/volumes/-", json!({"name": "h", "hostPath": {"path": "/var/lib/kubelet"}})),
            &["host_path: "],
        ),
        pod("SYS_ADMIN", add("SYS_ADMIN"), CAPABILITY),
        pod("SYS_PTRACE, as some runtimes take it", add("cap_sys_ptrace"), CAPABILITY),
        pod("NET_ADMIN", add("NET_ADMIN"), CAPABILITY),
        pod("SYS_MODULE", add("SYS_MODULE"), CAPABILITY),
        pod("ALL", add("ALL"), CAPABILITY),
        pod("shared processes", tampered("/spec/shareProcessNamespace", json!(true)), &["shared_processes: "]),
        pod("Windows nodes", tampered("/spec/nodeSelector", json!({"kubernetes.io/os": "windows"})), WINDOWS),
        pod("a container for Windows", agent(json!({"windowsOptions": {"runAsUserName": "x"}})), WINDOWS),
    ]
}

/// What is the sidecar's own, in other hands; and annotations that mean nothing.
fn taking_its_place() -> Vec<Attack> {
    let agent = |context: Value| tampered("/spec/containers/0/securityContext", context);
    let mut mounted = tampered("/spec/volumes/-", json!({"name": "own", "emptyDir": {}}));
    put(&mut mounted, "/spec/containers/0/volumeMounts/-", json!({"name": "own", "mountPath": "/run/postern/x"}));
    let mut named = plain("pod", Some("true"));
    named["spec"]["containers"][0]["name"] = json!("postern");
    let init_name = tampered("/spec/containers/0/name", json!("postern-init"));
    const UID: &[&str] = &["reserved_uid: "];
    const NAME: &[&str] = &["reserved_name: "];
    vec![
        pod("the sidecar's user", agent(json!({"runAsUser": 64321})), UID),
        pod(
            "the sidecar's user for the whole pod",
            tampered("/spec/securityContext", json!({"runAsUser": 64321})),
            UID,
        ),
        pod(
            "writing where the sidecar publishes",
            tampered("/spec/containers/0/volumeMounts/0/readOnly", json!(false)),
            NAME,
        ),
        pod("standing where the sidecar publishes", mounted, NAME),
        pod(
            "the volume without a token",
            tampered("/spec/containers/0/volumeMounts/-", json!({"name": "postern-noapi", "mountPath": "/x"})),
            NAME,
        ),
        pod("an agent with the sidecar's name", named, &["reserved_name: ", LOST]),
        pod("an agent with the init container's name", init_name, NAME),
        pod(
            "an annotation that does not exist",
            tampered("/metadata/annotations/config.postern.dev~1x", json!("1")),
            &["invalid_config: "],
        ),
    ]
}

/// Changes to pods that run.
fn later() -> Vec<Attack> {
    const LABEL: &[&str] = &["cannot be set or removed later"];
    const IMAGE: &[&str] = &["can only be changed to the administrator's"];
    vec![
        kubectl("the label, later", &["label", "pod", "agent-plain", "postern.dev/injected=true"], LABEL),
        kubectl("hiding from the label", &["label", "pod", "agent-good", "postern.dev/injected-"], LABEL),
        kubectl(
            "another image, later",
            &["set", "image", "pod/agent-good", "postern=evil.example/postern:0.1.0"],
            IMAGE,
        ),
        kubectl(
            "another image of the init container, later",
            &["set", "image", "pod/agent-redirected", "postern-init=evil.example/postern:0.1.0"],
            IMAGE,
        ),
    ]
}

/// `kubectl debug`, and what it could ask for.
fn debuggers() -> Vec<Attack> {
    let mount = |name: &str| json!({"volumeMounts": [{"name": name, "mountPath": "/x"}]});
    let context = |context: Value| json!({"securityContext": context});
    const MOUNT: &[&str] = &["may not mount the sidecar's volumes"];
    const WEAK: &[&str] = &["this one must be, too"];
    const CAPABILITY: &[&str] = &["capability: beside a sidecar no ephemeral container"];
    vec![
        debug("an ephemeral container that mounts the token", "agent-good", mount("postern-token"), MOUNT),
        debug("one that writes where the sidecar publishes", "agent-good", mount("postern-public"), MOUNT),
        debug(
            "one in the sidecar's processes",
            "agent-good",
            json!({"targetContainerName": "postern"}),
            &["may not target the sidecar"],
        ),
        debug(
            "a privileged one",
            "agent-good",
            context(json!({"privileged": true})),
            &["privileged: beside a sidecar no ephemeral"],
        ),
        debug("one that traces", "agent-good", context(json!({"capabilities": {"add": ["SYS_PTRACE"]}})), CAPABILITY),
        debug(
            "one that is the sidecar's user",
            "agent-good",
            context(json!({"runAsUser": 64321})),
            &["reserved_uid: "],
        ),
        debug("a root one in a hardened pod", "agent-hard", json!({}), WEAK),
        debug(
            "one that may become root there",
            "agent-hard",
            context(json!({"runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}})),
            WEAK,
        ),
        debug(
            "one that keeps its capabilities there",
            "agent-hard",
            context(json!({"runAsUser": 1000, "allowPrivilegeEscalation": false})),
            WEAK,
        ),
    ]
}

/// Ways into the sidecar, and to its token without it.
fn connections() -> Vec<Attack> {
    let connect = |what, path| Attack {
        what,
        mode: "",
        how: How::Post(path),
        connects: true,
        rules: &["nobody may exec into the sidecar or attach to it"],
    };
    let token = Attack {
        what: "a token for the broker without a sidecar",
        mode: "",
        how: How::Token,
        connects: false,
        rules: &["given to nodes alone"],
    };
    vec![
        connect("exec into the sidecar", "pods/agent-good/exec?container=postern&command=cat&stdout=true"),
        connect("attach to the sidecar", "pods/agent-good/attach?container=postern&stdout=true"),
        token,
    ]
}
