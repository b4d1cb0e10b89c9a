//! `postern inject` as users call it: manifests in, manifests out.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::certificates::Authority;
use crate::support::secrets::contains;
use crate::support::unique_secret;

struct Inject {
    directory: TempDir,
    arguments: Vec<String>,
}

/// What has to be given.
const REQUIRED: [&str; 8] = [
    "--image",
    "registry.example/postern:1",
    "--broker",
    "https://broker.example:8443",
    "--broker-ca",
    "ca.pem",
    "--resolvers",
    "10.96.0.10,fd00::a",
];

impl Inject {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("ca.pem"), Authority::new().pem()).expect("it can be written");
        Self { directory, arguments: REQUIRED.map(str::to_owned).to_vec() }
    }

    /// With another value for an argument that has to be given.
    fn instead(mut self, name: &str, value: &str) -> Self {
        let at = self.arguments.iter().position(|one| one == name).expect("a required argument");
        self.arguments[at + 1] = value.to_owned();
        self
    }

    fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|one| (*one).to_owned()));
        self
    }

    fn run(&self, input: &[u8]) -> Output {
        let mut process = Command::new(env!("CARGO_BIN_EXE_postern"))
            .current_dir(self.directory.path())
            .arg("inject")
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdin = process.stdin.take().expect("a pipe");
        // One that reads files only may be gone by now.
        let _ = stdin.write_all(input);
        drop(stdin);
        process.wait_with_output().expect("it ends")
    }

    /// What is printed and told; it must go well.
    fn good(&self, input: &str) -> (String, String) {
        let output = self.run(input.as_bytes());
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{}: {err}", output.status);
        (out, err)
    }

    /// What is told; it must be refused, and nothing printed.
    fn refused(&self, input: &str) -> String {
        let output = self.run(input.as_bytes());
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(text(output.stdout), "");
        text(output.stderr)
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

fn parsed(yaml: &str) -> Value {
    serde_yaml::from_str(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

/// Checks a pod or a template that has been injected; `containers` are its own.
fn assert_injected(pod: &Value, containers: &[&str]) {
    assert_eq!(pod["metadata"]["labels"]["postern.dev/injected"], "true", "{pod}");
    let names = |list: &str| -> Vec<String> {
        let all = pod["spec"][list].as_array().into_iter().flatten();
        all.map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names("initContainers"), ["postern"]);
    assert_eq!(names("containers"), containers);
    assert_eq!(names("volumes"), ["postern-token", "postern-public", "postern-noapi"]);
    for container in pod["spec"]["containers"].as_array().into_iter().flatten() {
        let mount = json!([{"name": "postern-public", "mountPath": "/var/run/postern", "readOnly": true}]);
        assert_eq!(container["volumeMounts"], mount);
    }
    let sidecar = &pod["spec"]["initContainers"][0];
    assert_eq!(sidecar["image"], "registry.example/postern:1");
    assert_eq!(sidecar["restartPolicy"], "Always");
    let variable = |name: &str| {
        let all = sidecar["env"].as_array().into_iter().flatten();
        all.filter(|one| one["name"] == name).map(|one| one["value"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(variable("POSTERN_BROKER"), ["https://broker.example:8443"]);
    assert_eq!(variable("POSTERN_RESOLVERS"), ["10.96.0.10,fd00::a"]);
    assert!(
        variable("POSTERN_BROKER_CA")[0].as_str().is_some_and(|pem| pem.starts_with("-----BEGIN CERTIFICATE-----\n"))
    );
}

const TEMPLATE: &str = "{metadata: {labels: {postern.dev/inject: \"true\"}}, spec: {containers: [{name: agent}]}}";

/// Kinds with their `apiVersion`, and the way to the pod.
const KINDS: [(&str, &str, &[&str]); 7] = [
    ("v1", "Pod", &[]),
    ("apps/v1", "Deployment", &["spec", "template"]),
    ("apps/v1", "StatefulSet", &["spec", "template"]),
    ("apps/v1", "DaemonSet", &["spec", "template"]),
    ("apps/v1", "ReplicaSet", &["spec", "template"]),
    ("batch/v1", "Job", &["spec", "template"]),
    ("batch/v1", "CronJob", &["spec", "jobTemplate", "spec", "template"]),
];

/// A manifest of a kind, as JSON, which is YAML too.
fn manifest(version: &str, kind: &str, path: &[&str]) -> Value {
    let mut below = parsed(TEMPLATE);
    for step in path.iter().rev() {
        below = json!({*step: below});
    }
    below["apiVersion"] = json!(version);
    below["kind"] = json!(kind);
    below["metadata"]["name"] = json!("one");
    below
}

fn at<'a>(document: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(document, |value, step| &value[*step])
}

#[test]
fn every_kind_that_makes_pods_gets_the_sidecar() {
    for (version, kind, path) in KINDS {
        let document = manifest(version, kind, path);
        let yaml = serde_yaml::to_string(&document).expect("YAML");
        let (out, err) = Inject::new().good(&yaml);
        assert_injected(at(&parsed(&out), path), &["agent"]);
        assert_eq!(err, format!("standard input:1: {kind} one: injected\n"));
        let (json, _) = Inject::new().good(&document.to_string());
        assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON in, JSON out")["kind"], kind);
        let (list, _) =
            Inject::new().good(&json!({"apiVersion": "v1", "kind": "List", "items": [document]}).to_string());
        assert_injected(at(&parsed(&list)["items"][0], path), &["agent"]);
    }
}

#[test]
fn what_is_not_changed_is_printed_byte_for_byte() {
    let service = "apiVersion: v1\nkind:   Service   # odd  spacing\nmetadata: {name: \"s\"}\n";
    let foreign = "apiVersion: example.org/v1\nkind: Pod\nspec: {containers: []}\n";
    let unasked = "kind: Pod\napiVersion: v1\nmetadata: {name: p}\nspec: {containers: [{name: a, x: 0644}]}\n";
    let pod = format!(
        "# about the pod\n\nkind: Pod\napiVersion: v1\n{}",
        "metadata: {name: z, labels: {postern.dev/inject: \"true\"}}\nspec:\n  containers:\n  - {name: agent, mode: 0644, flag: yes}\n"
    );
    let before = format!("# head\n---\n{service}--- # of the pod\n");
    let after = format!("---\n{foreign}---\n{unasked}---\n# nothing\n");
    let (out, err) = Inject::new().good(&format!("{before}{pod}{after}"));
    let injected = out.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
    let injected = injected.unwrap_or_else(|| panic!("the others are changed:\n{out}"));
    assert!(injected.starts_with("# about the pod\n\nkind: Pod\napiVersion: v1\n"), "{injected}");
    assert!(injected.contains("mode: 0644\n") && injected.contains("flag: yes\n"), "{injected}");
    assert_injected(&parsed(injected), &["agent"]);
    assert!(err.contains("standard input:7: Pod z: injected\n"), "{err}");
    assert!(err.contains("Pod p: left alone: not_asked\n"), "{err}");
    // Windows' line ends and a missing last one are bytes, too.
    for text in [format!("{service}---\r\n").replace('\n', "\r\n"), "a: 1".into(), String::new(), "\n---\n".into()] {
        assert_eq!(Inject::new().good(&text).0, text);
    }
}

#[test]
fn injecting_twice_is_injecting_once() {
    let all: Vec<String> = KINDS
        .iter()
        .map(|(version, kind, path)| serde_yaml::to_string(&manifest(version, kind, path)).expect("YAML"))
        .collect();
    let (once, _) = Inject::new().good(&all.join("---\n"));
    let inject = Inject::new();
    // The CA is a new one, and with it what would be injected.
    let told = inject.refused(&once);
    assert!(told.contains("differs from the sidecar in env POSTERN_BROKER_CA"), "{told}");
    let (once, _) = inject.good(&all.join("---\n"));
    let (twice, told) = inject.good(&once);
    assert_eq!(twice, once);
    assert_eq!(told.matches("left alone: already_injected").count(), KINDS.len(), "{told}");
}

#[test]
fn files_are_joined_and_labels_of_the_namespace_count() {
    let inject = Inject::new().with(&["--namespace-label", "postern.dev/inject=enabled"]);
    let inject =
        inject.with(&["--namespace-annotation", "config.postern.dev/log-level=debug", "a.yaml", "b.yaml", "-"]);
    let pod = |name: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: agent}}]}}")
    };
    for name in ["a", "b"] {
        std::fs::write(inject.directory.path().join(format!("{name}.yaml")), pod(name)).expect("it can be written");
    }
    let (out, err) = inject.good(&format!("---\n{}", pod("c")));
    let documents: Vec<&str> = out.split("---\napiVersion").collect();
    assert_eq!(documents.len(), 3, "{out}");
    assert_eq!(out.matches("value: debug").count(), 3, "{out}");
    assert_eq!(err, "a.yaml:1: Pod a: injected\nb.yaml:1: Pod b: injected\nstandard input:2: Pod c: injected\n");
}

#[test]
fn refusals_name_their_place_and_nothing_is_printed() {
    let secret = unique_secret();
    let good = manifest("v1", "Pod", &[]);
    let mut bad = manifest("apps/v1", "Deployment", &["spec", "template"]);
    bad["metadata"]["namespace"] = json!("research");
    bad["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    bad["spec"]["template"]["spec"]["containers"][0]["env"] = json!([
        {"name": "TOKEN", "value": secret},
        {"name": "MCP", "value": format!(r#"{{"mcpServers": {{"files": {{"command": "npx", "env": {{"T": "{secret}"}}}}}}}}"#)},
    ]);
    let stream = format!("{good}\n---\n{bad}\n").replace("}\n{", "}\n---\n{");
    let told = Inject::new().refused(&stream);
    let lines: Vec<&str> = told.lines().collect();
    let place = "standard input:3: Deployment research/one: ";
    assert_eq!(lines.len(), 3, "{told}");
    assert!(lines[0].starts_with(&format!("{place}host_namespaces: spec.hostNetwork is true; ")), "{told}");
    assert!(lines[1].starts_with(&format!("{place}stdio_unsupported: spec.containers[agent].env MCP ")), "{told}");
    assert_eq!(lines[2], "postern: 2 problems; nothing was printed");
    assert!(!contains(told.as_bytes(), secret.as_bytes()), "a value of the pod is printed");

    // What kubectl reads as true is true here, whatever YAML's latest version says.
    let yes = "apiVersion: v1\nkind: Pod\nmetadata: {labels: {postern.dev/inject: \"true\"}}\nspec:\n  hostPID: yes\n  containers: [{name: a}]\n";
    assert!(Inject::new().refused(yes).contains("host_namespaces: spec.hostPID is true"));
    let unquoted = yes.replace("\"true\"", "true").replace("hostPID: yes", "x: 1");
    assert!(Inject::new().refused(&unquoted).contains("malformed_pod: metadata.labels must be an object of strings"));
    assert!(Inject::new().refused("a: 1\n---\nb: 1\nb: 2\n").contains("standard input:4: expected each key once"));
    let host_path = "apiVersion: v1\nkind: Pod\nmetadata: {labels: {postern.dev/inject: \"true\"}}\nspec: {containers: [{name: agent}], volumes: [{name: l, hostPath: {path: /var/log/x}}]}\n";
    assert!(Inject::new().refused(host_path).contains("host_path: volume l is a hostPath"));
    Inject::new().with(&["--allow-host-path", "/var/log"]).good(host_path);
}

#[test]
fn wrong_arguments_are_told() {
    for (inject, told) in [
        (Inject::new().instead("--broker", "http://broker.example"), "expected an https URL"),
        (Inject::new().instead("--broker", "https://broker.ns.svc:8443"), "with the cluster's domain behind .svc"),
        (Inject::new().instead("--resolvers", "dns.example"), "invalid value 'dns.example'"),
        (Inject::new().instead("--image", "two words"), "expected the name of an image"),
        (Inject::new().with(&["--image-pull-policy", "Sometimes"]), "expected Always, IfNotPresent or Never"),
        (Inject::new().with(&["--namespace-label", "x"]), "expected KEY=VALUE"),
    ] {
        let found = inject.refused("");
        assert!(found.contains(told), "{found}");
    }
    let inject = Inject::new();
    std::fs::write(inject.directory.path().join("ca.pem"), "no certificate").expect("it can be written");
    assert!(inject.refused("").contains("--broker-ca ca.pem: expected PEM certificates"));
    let missing = Inject::new().with(&["absent.yaml"]).run(b"");
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(missing.stderr).contains("absent.yaml cannot be read"));
}
