//! The policies of manifests/base/policies.yaml against attacks. Each rule has one that nothing but this rule stops.
//!
//! They are installed twice: denying as the manifest says, and only warning. A denial names one rule that is broken,
//! the warnings name all.

use std::collections::BTreeSet;
use std::process::Output;
use std::sync::OnceLock;

use postern::control::admission::NamespaceMeta;
use postern::control::webhook::ConfigMapSearch;
use serde_json::{Value, json};

use crate::support::admission::{Golden, Hook, OWNER, create, eventually, injected, manifests, namespace, stderr};
use crate::support::{ApiServer, kind};

mod attacks;

use attacks::attacks;

/// Label of the namespaces for which the policies hold: other tests share the server.
const SCOPE: &str = "tests.postern.dev/policies";

/// The server with the policies in force.
fn server() -> &'static ApiServer {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    let server = kind::server();
    INSTALLED.get_or_init(|| {
        let documents = manifests("policies.yaml");
        for document in &documents {
            install(server, document);
        }
        let last = &documents[documents.len() - 2]["metadata"]["name"];
        assert_eq!(last, "postern-token", "the last policy is the one that is waited for");
        // The API server sees them in the order in which they came.
        let spaces = Spaces::new(server, "installed", &json!({}));
        for namespace in [&spaces.deny, &spaces.warn] {
            eventually("the policies are in force", || {
                let said = stderr(&token(server, namespace, "postern.dev/broker", &[]));
                if said.contains("given to nodes alone") { Ok(()) } else { Err(said) }
            });
        }
    });
    server
}

/// What the administrator allows, as the golden reviews take it for granted.
const ALLOWED: [(&str, &str); 3] =
    [("passthroughHosts", "['*.pypi.example']"), ("skipPorts", "['5432']"), ("skipCidrs", "['10.0.0.0/8']")];

fn install(server: &ApiServer, document: &Value) {
    let mut document = document.clone();
    for variable in document["spec"]["variables"].as_array_mut().into_iter().flatten() {
        if let Some((_, list)) = ALLOWED.iter().find(|(name, _)| variable["name"] == *name) {
            assert_eq!(variable["expression"], "[]", "nothing is allowed at first");
            variable["expression"] = json!(list);
        }
    }
    let document = &document;
    let post = |kind: &str, object: &Value| {
        server.create(&format!("/apis/admissionregistration.k8s.io/v1/{kind}"), object);
    };
    if document["kind"] == "ValidatingAdmissionPolicy" {
        return post("validatingadmissionpolicies", document);
    }
    assert_eq!(document["spec"]["validationActions"], json!(["Deny"]));
    for (action, scope) in [("Deny", "deny"), ("Warn", "warn")] {
        let mut binding = document.clone();
        binding["metadata"]["name"] = json!(format!("{}-{scope}", text(document, "/metadata/name")));
        binding["spec"]["validationActions"] = json!([action]);
        let selector = &mut binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"];
        let mut expressions = selector.as_array().cloned().unwrap_or_default();
        expressions.push(json!({"key": SCOPE, "operator": "In", "values": [scope]}));
        *selector = json!(expressions);
        post("validatingadmissionpolicybindings", &binding);
    }
}

/// A namespace for each way in which the policies are installed.
struct Spaces {
    deny: String,
    warn: String,
}

impl Spaces {
    fn new(server: &ApiServer, what: &str, meta: &Value) -> Self {
        let one = |scope| namespace(server, &format!("{what}-{scope}"), meta, Some((SCOPE, scope)));
        Self { deny: one("deny"), warn: one("warn") }
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

fn token(server: &ApiServer, namespace: &str, audience: &str, more: &[&str]) -> Output {
    let arguments = ["create", "token", "agent", "--namespace", namespace, "--audience", audience];
    server.try_kubectl(&[&arguments, more].concat(), "")
}

/// Every rule: its policy and its message.
fn rules() -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for document in manifests("policies.yaml") {
        for rule in document["spec"]["validations"].as_array().into_iter().flatten() {
            all.insert((text(&document, "/metadata/name").to_owned(), text(rule, "/message").to_owned()));
        }
    }
    assert!(all.len() > 25, "{all:?}");
    all
}

/// The rules that were warned of.
fn warned(output: &Output) -> BTreeSet<(String, String)> {
    let said = stderr(output);
    let warnings = said.lines().filter_map(|line| line.strip_prefix("Warning: Validation failed for "));
    let rule = |warning: &str| {
        let (policy, rest) = warning.strip_prefix("ValidatingAdmissionPolicy '")?.split_once('\'')?;
        Some((policy.to_owned(), rest.split_once("': ")?.1.to_owned()))
    };
    warnings.map(|warning| rule(warning).unwrap_or_else(|| panic!("{warning}"))).collect()
}

/// A pod that opted in, or did not.
fn plain(name: &str, label: Option<&str>) -> Value {
    let labels = label.map_or_else(|| json!({}), |label| json!({"postern.dev/inject": label}));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": {}},
        "spec": {"serviceAccountName": "agent", "containers": [{"name": "agent", "image": "none.invalid/agent"}]},
    })
}

fn good(name: &str) -> Value {
    injected(&plain(name, Some("true")), &NamespaceMeta::default())
}

/// A good pod with this capture, in which no other container gets past it.
fn captured(name: &str, capture: &str) -> Value {
    let mut pod = plain(name, Some("true"));
    pod["metadata"]["annotations"]["config.postern.dev/capture"] = json!(capture);
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["NET_RAW", "SETUID", "SETGID"]}});
    injected(&pod, &NamespaceMeta::default())
}

/// A good pod in which no other container could change what is shared.
fn hardened(name: &str) -> Value {
    let mut pod = plain(name, Some("true"));
    pod["spec"]["containers"][0]["securityContext"] =
        json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    injected(&pod, &NamespaceMeta::default())
}

#[test]
fn each_attack_is_stopped_by_its_rules_and_each_rule_stops_one_alone() {
    let server = server();
    let spaces = Spaces::new(server, "attacked", &json!({}));
    let disabled = Spaces::new(server, "disabled", &json!({"labels": {"postern.dev/inject": "disabled"}}));
    let enabled = Spaces::new(server, "enabled", &json!({"labels": {"postern.dev/inject": "enabled"}}));
    let enforce = Spaces::new(server, "enforce", &json!({"labels": {"postern.dev/inject": "enforce"}}));
    let redirect = Spaces::new(server, "redirect", &json!({"annotations": {"config.postern.dev/capture": "redirect"}}));
    let targets = [
        ("agent-plain", plain("agent-plain", None)),
        ("agent-good", good("agent-good")),
        ("agent-hard", hardened("agent-hard")),
        ("agent-proxied", captured("agent-proxied", "proxy")),
        ("agent-redirected", captured("agent-redirected", "redirect")),
    ];
    for (name, pod) in &targets {
        for namespace in [&spaces.deny, &spaces.warn] {
            let output = create(server, namespace, pod, &[]);
            assert!(output.status.success(), "{name}: {}", stderr(&output));
            assert!(warned(&output).is_empty(), "{name}: {}", stderr(&output));
        }
    }
    let mut alone = BTreeSet::new();
    let all = rules();
    for attack in attacks() {
        let within = match attack.mode {
            "disabled" => &disabled,
            "enabled" => &enabled,
            "enforce" => &enforce,
            "redirect" => &redirect,
            _ => &spaces,
        };
        let denied = attack.run(server, &within.deny);
        let said = stderr(&denied);
        assert!(!denied.status.success(), "{}: not stopped", attack.what);
        assert!(said.contains("denied request: postern: "), "{}: {said}", attack.what);
        // A connection cannot be tried without being made, and there is no node to make it to.
        let broken = if attack.connects { named(&said, &all) } else { warned(&attack.run(server, &within.warn)) };
        let messages: Vec<&str> = broken.iter().map(|(_, message)| message.as_str()).collect();
        for rule in attack.rules {
            assert!(
                messages.iter().any(|message| message.contains(rule)),
                "{}: {rule} is not in {messages:?}",
                attack.what
            );
        }
        assert_eq!(messages.len(), attack.rules.len(), "{}: {messages:?}", attack.what);
        if broken.len() == 1 {
            alone.extend(broken);
        }
    }
    let author = |rule: &&(String, String)| rule.0 != "postern-binding-author";
    let missing: Vec<_> = all.difference(&alone).filter(author).collect();
    assert!(missing.is_empty(), "no attack is stopped by these alone: {missing:#?}");
}

/// The rule that a denial names.
fn named(said: &str, all: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    all.iter().filter(|(_, message)| said.contains(message.as_str())).cloned().collect()
}

#[test]
fn what_the_webhook_writes_is_let_through() {
    let server = server();
    let mut count = 0;
    for golden in Golden::all("patch-") {
        // It has the pod's own way to say that it is no pod of ours: the webhook overwrites it.
        let spaces = Spaces::new(server, "golden", &golden.namespace);
        let map = |key: &str| serde_json::from_value(golden.namespace.get(key).cloned().unwrap_or_else(|| json!({})));
        let meta =
            NamespaceMeta { labels: map("labels").expect("texts"), annotations: map("annotations").expect("texts") };
        let pod = injected(&golden.object, &meta);
        for namespace in [&spaces.deny, &spaces.warn] {
            let output = create(server, namespace, &pod, &[]);
            assert!(output.status.success(), "{}: {}", golden.name, stderr(&output));
            assert!(warned(&output).is_empty(), "{}: {}", golden.name, stderr(&output));
            count += 1;
        }
    }
    assert!(count >= 20, "{count}");
}

#[test]
fn pods_that_are_none_of_ours_are_let_through() {
    let server = server();
    let spaces = Spaces::new(server, "others", &json!({}));
    let enabled = Spaces::new(server, "others", &json!({"labels": {"postern.dev/inject": "enabled"}}));
    let disabled = Spaces::new(server, "others", &json!({"labels": {"postern.dev/inject": "disabled"}}));
    let changed = |name: &str, label: Option<&str>, spec: Value| {
        let mut pod = plain(name, label);
        for (field, value) in spec.as_object().expect("fields") {
            pod["spec"][field] = value.clone();
        }
        pod
    };
    let wild = json!({
        "hostNetwork": true, "hostPID": true, "hostIPC": true,
        "securityContext": {"runAsUser": 64321},
        "volumes": [
            {"name": "h", "hostPath": {"path": "/"}},
            {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}},
        ],
        "containers": [{
            "name": "a", "image": "none.invalid/a",
            "securityContext": {"privileged": true, "capabilities": {"add": ["SYS_ADMIN"]}},
            "volumeMounts": [{"name": "t", "mountPath": "/var/run/postern"}],
        }],
    });
    let bare = json!({"securityContext": null, "volumes": null, "initContainers": null});
    let mut unmarked = plain("unmarked", None);
    unmarked["metadata"] = json!({"name": "unmarked"});
    let cases = [
        (&spaces, changed("wild", None, wild.clone())),
        (&spaces, changed("wild-false", Some("false"), wild.clone())),
        (&enabled, changed("wild-false", Some("false"), wild.clone())),
        (&disabled, changed("wild-true", Some("true"), wild)),
        (&spaces, changed("shared", None, json!({"shareProcessNamespace": true}))),
        (&spaces, changed("bare", None, bare)),
        (&spaces, unmarked),
    ];
    for (within, pod) in cases {
        for namespace in [&within.deny, &within.warn] {
            let output = create(server, namespace, &pod, &[]);
            assert!(output.status.success(), "{pod}: {}", stderr(&output));
            assert!(warned(&output).is_empty(), "{pod}: {}", stderr(&output));
        }
    }
}

#[test]
fn what_may_be_done_to_a_pod_of_ours_is_let_through() {
    let server = server();
    let spaces = Spaces::new(server, "later", &json!({}));
    for namespace in [&spaces.deny, &spaces.warn] {
        for pod in [good("ours"), captured("redirected", "redirect"), plain("unmarked", None)] {
            let output = create(server, namespace, &pod, &[]);
            assert!(output.status.success(), "{}", stderr(&output));
        }
        let debug = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "none.invalid/d", "targetContainerName": "agent"}]}});
        let debug = debug.to_string();
        let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}});
        let confined = json!({"name": "d", "image": "none.invalid/d", "securityContext": context});
        let confined = json!({"spec": {"ephemeralContainers": [confined]}}).to_string();
        for arguments in [
            &["label", "pod", "ours", "team=x"][..],
            &["annotate", "pod", "ours", "postern.dev/status=mine", "--overwrite"],
            &["set", "image", "pod/ours", "agent=none.invalid/other"],
            &["patch", "pod", "ours", "--subresource=ephemeralcontainers", "--patch", &debug],
            &["patch", "pod", "redirected", "--subresource=ephemeralcontainers", "--patch", &confined],
            &["label", "pod", "unmarked", "team=x"],
        ] {
            let output = server.try_kubectl(&[arguments, &["--namespace", namespace]].concat(), "");
            assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
            assert!(warned(&output).is_empty(), "{arguments:?}: {}", stderr(&output));
        }
        // There is no node, so a connection that is let through gets no further than this.
        let exec = format!("/api/v1/namespaces/{namespace}/pods/ours/exec?container=agent&command=x&stdout=true");
        let said = stderr(&server.try_kubectl(&["create", "--raw", &exec, "--filename", "-"], ""));
        assert!(said.contains("does not have a host assigned"), "{said}");
        assert!(token(server, namespace, "vault.example", &[]).status.success());
        let node = ["--as", "someone", "--as-group", "system:masters", "--as-group", "system:nodes"];
        let output = token(server, namespace, "postern.dev/broker", &node);
        assert!(output.status.success(), "a node: {}", stderr(&output));
    }
}

#[test]
fn webhook_and_policies_agree() {
    let server = server();
    let hook = Hook::start(ConfigMapSearch::Deny);
    for golden in Golden::all("patch-") {
        let mut meta = golden.namespace.clone();
        meta["labels"][OWNER] = json!(hook.owner);
        let spaces = Spaces::new(server, "both", &meta);
        for namespace in [&spaces.deny, &spaces.warn] {
            let output = create(server, namespace, &golden.object, &[]);
            assert!(output.status.success(), "{}: {}", golden.name, stderr(&output));
            assert!(warned(&output).is_empty(), "{}: {}", golden.name, stderr(&output));
        }
    }
}

#[test]
fn who_writes_a_binding_may_read_its_secret() {
    let server = server();
    let spaces = Spaces::new(server, "author", &json!({}));
    for namespace in [&spaces.deny, &spaces.warn] {
        let rights = |name: &str, rules: Value| {
            let base = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}");
            server.create(&format!("{base}/roles"), &json!({"metadata": {"name": name}, "rules": rules}));
            let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name});
            let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
            let binding = json!({"metadata": {"name": name}, "roleRef": role, "subjects": [subject]});
            server.create(&format!("{base}/rolebindings"), &binding);
        };
        let bindings = json!({"apiGroups": ["postern.dev"], "resources": ["credentialbindings"], "verbs": ["create", "update", "patch", "get"]});
        let secret = |name: &str| json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get"]});
        rights("writer", json!([bindings]));
        rights("other", json!([bindings, secret("other")]));
        rights("owner", json!([bindings, secret("secret")]));
    }
    let apply = |namespace: &str, user: &str, document: &Value, verb: &str| {
        server.try_kubectl(&[verb, "--as", user, "--namespace", namespace, "--filename", "-"], &document.to_string())
    };
    let rule = "who writes a binding must be allowed to get its Secret";
    for user in ["writer", "other"] {
        let denied = apply(&spaces.deny, user, &kind::binding(&spaces.deny, "one", |_| ()), "create");
        let words = format!("postern: {user} may not get the Secret secret, and so may not bind it");
        assert!(!denied.status.success() && stderr(&denied).contains(&words), "{}", stderr(&denied));
        let warned = apply(&spaces.warn, user, &kind::binding(&spaces.warn, user, |_| ()), "create");
        assert!(warned.status.success() && stderr(&warned).contains(&words), "{rule}: {}", stderr(&warned));
    }
    for namespace in [&spaces.deny, &spaces.warn] {
        let one = |change: &dyn Fn(&mut Value)| kind::binding(namespace, "one", |document| change(document));
        let good = |output: Output| {
            assert!(output.status.success(), "{}", stderr(&output));
            assert!(!stderr(&output).contains("postern: "), "{}", stderr(&output));
        };
        good(apply(namespace, "owner", &one(&|_| ()), "create"));
        // Whoever may not read the Secret may label the binding, and no more.
        let label = ["label", "credentialbinding", "one", "team=x", "--as", "writer", "--namespace", namespace];
        good(server.try_kubectl(&label, ""));
    }
    let tools = r#"{"spec": {"tools": {"allow": ["*"]}}}"#;
    let patch = ["patch", "credentialbinding", "one", "--type=merge", "--patch", tools, "--as", "writer"];
    let denied = server.try_kubectl(&[&patch, &["--namespace", &spaces.deny][..]].concat(), "");
    assert!(stderr(&denied).contains("writer may not get the Secret secret"), "{}", stderr(&denied));
    let other = r#"{"spec": {"credential": {"secretRef": {"name": "other"}}}}"#;
    let patch = ["patch", "credentialbinding", "one", "--type=merge", "--patch", other, "--as", "owner"];
    let denied = server.try_kubectl(&[&patch, &["--namespace", &spaces.deny][..]].concat(), "");
    assert!(stderr(&denied).contains("owner may not get the Secret other"), "{}", stderr(&denied));
}
