//! Clusters to be looked at, and what was said of them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use postern::control::admission::NamespaceMeta;
use postern::tls::authority::Authority;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::suite::evidence;
use crate::suite::secrets::{assert_none_in, remember, unique_secret};
use crate::support::admission::{eventually, injected, manifests};
use crate::support::pod::account;
use crate::support::rights::kubeconfig;
use crate::support::{ApiServer, kind};

/// The namespace that the manifests name.
pub const INSTALLATION: &str = "postern-system";
/// Label of namespaces whose pods the webhook is not called for: nobody answers.
const UNCALLED: &str = "tests.postern.dev/uncalled";
const IMAGE: &str = "registry.example/postern:0.1.0";

/// A cluster of its own, so that all of it can be looked at.
pub struct Cluster {
    pub server: &'static ApiServer,
    /// The certificate that the broker signs with.
    pub signer: String,
}

/// A certificate that may sign others.
pub fn certificate() -> String {
    let authority = Authority::new("broker", Duration::from_secs(3600), SystemTime::now()).expect("an authority");
    authority.certificate().to_owned()
}

/// `postern check` without an environment.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.env_clear().env("HOME", "/nonexistent").arg("check").args(arguments);
    command
}

impl Cluster {
    /// With nothing of ours.
    pub fn empty() -> Self {
        // As long as the process, and no longer: its stdin goes with it.
        Self { server: Box::leak(Box::new(ApiServer::separate())), signer: certificate() }
    }

    /// One for all tests that look at a namespace, with everything installed.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            let cluster = Self::empty();
            cluster.install();
            cluster
        })
    }

    /// Installs the manifests, and what the broker and the controller write.
    pub fn install(&self) {
        self.kubectl(&["create", "namespace", INSTALLATION]);
        for file in ["crd.yaml", "rbac.yaml", "rbac-broker.yaml", "policies.yaml"] {
            self.apply(file);
        }
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd/credentialbindings.postern.dev"]);
        self.configure_webhook();
        self.tell_signers(&self.signer);
        let arguments =
            json!(["controller", "--image", IMAGE, "--broker=https://postern-broker.postern-system.svc:8443"]);
        let labels = json!({"app": "controller"});
        let containers = json!([{"name": "controller", "image": "registry.example/any:1", "args": arguments}]);
        let spec = json!({
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
        });
        let deployment = json!({"metadata": {"name": "postern-controller"}, "spec": spec});
        self.server.create(&format!("/apis/apps/v1/namespaces/{INSTALLATION}/deployments"), &deployment);
    }

    /// Applies a manifest, with one more image in the policies, as while sidecars are renewed.
    pub fn apply(&self, file: &str) {
        for document in manifests(file) {
            let images = format!("['{IMAGE}']");
            let text = document.to_string().replace(&images, &format!("['{IMAGE}', 'registry.example/postern:0.0.9']"));
            let output = self.server.try_kubectl(&["apply", "--filename", "-"], &text);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    pub fn configure_webhook(&self) {
        let mut document = manifests("webhook.yaml").remove(0);
        for webhook in document["webhooks"].as_array_mut().expect("webhooks") {
            webhook["clientConfig"]["caBundle"] = json!(BASE64_STANDARD.encode(&self.signer));
            let selector = webhook["namespaceSelector"]["matchExpressions"].as_array_mut().expect("a selector");
            selector.push(json!({"key": UNCALLED, "operator": "DoesNotExist"}));
        }
        self.server.create("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", &document);
    }

    pub fn tell_signers(&self, pem: &str) {
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "postern-broker-ca", "namespace": INSTALLATION},
            "data": {"ca.crt": pem},
        });
        let output = self.server.try_kubectl(&["apply", "--filename", "-"], &map.to_string());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn kubectl(&self, arguments: &[&str]) {
        self.server.kubectl(arguments);
    }

    pub fn patch(&self, object: &str, patch: Value) {
        self.kubectl(&["patch", object, "--type", "json", "--patch", &patch.to_string()]);
    }

    /// A namespace in which all is well: a binding, its Secret, the grant, a pod.
    pub fn space(&self, what: &str) -> Space<'_> {
        let name = self.server.namespace(what);
        self.kubectl(&[
            "label",
            &format!("namespace/{name}"),
            &format!("{UNCALLED}=true"),
            "postern.dev/inject=enabled",
        ]);
        account(self.server, &name, "agent");
        let space = Space { cluster: self, name, value: unique_secret() };
        let to = format!("--serviceaccount={INSTALLATION}:postern-broker");
        let role = ["create", "rolebinding", "postern", "--clusterrole=postern-credential-reader", &to];
        self.kubectl(&[&role[..], &["--namespace", &space.name]].concat());
        space.secret(&space.value, &json!({"postern.dev/allowed-hosts": "api.example"}));
        space.bind("github", |_| {});
        // The policies know a new namespace a little later than its pods.
        eventually("a pod is admitted", || space.try_pod("pod", "agent", |_| {}));
        space
    }

    /// Runs `postern check`, and scans what it says for any value.
    pub fn run(&self, config: &Path, arguments: &[&str]) -> (i32, String) {
        let output = command(arguments).arg("--kubeconfig").arg(config).output().expect("it ends");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        for (stream, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            assert_none_in(stream, bytes);
            evidence::keep(stream, bytes);
        }
        (output.status.code().expect("it ends by itself"), text(output.stdout))
    }

    /// What an administrator is told.
    pub fn check(&self, arguments: &[&str]) -> Checked {
        self.check_as(self.server.kubeconfig(), arguments)
    }

    pub fn check_as(&self, config: &Path, arguments: &[&str]) -> Checked {
        let (code, text) = self.run(config, &[&["--cluster", "--output", "json"], arguments].concat());
        let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
        let findings = document["findings"].as_array().expect("findings").clone();
        let count: u64 = document["counts"].as_object().expect("counts").values().filter_map(Value::as_u64).sum();
        assert_eq!(count, findings.len() as u64, "all are counted");
        Checked { code, findings }
    }
}

/// A service account that asks.
pub struct Auditor {
    pub config: PathBuf,
    pub to: String,
    _directory: TempDir,
}

/// A namespace.
pub struct Space<'a> {
    cluster: &'a Cluster,
    pub name: String,
    /// Of the Secret `github-secret`.
    pub value: String,
}

impl Space<'_> {
    fn apply(&self, mut document: Value) {
        document["metadata"]["namespace"] = json!(self.name);
        let output = self
            .cluster
            .server
            .try_kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &document.to_string());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn secret(&self, value: &str, annotations: &Value) {
        evidence::secret(value);
        if value.len() >= crate::suite::secrets::SEARCHABLE {
            remember(value);
        }
        self.apply(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "github-secret", "labels": {"postern.dev/credential": "true"}, "annotations": annotations},
            "data": {"token": BASE64_STANDARD.encode(value)},
        }));
    }

    /// A binding of `agent` to a server of its own.
    pub fn bind(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.apply(kind::binding(&self.name, name, |document| {
            document["spec"]["server"]["url"] = json!(format!("https://api.example/{name}"));
            document["spec"]["credential"]["secretRef"]["name"] = json!(format!("{name}-secret"));
            change(&mut document["spec"]);
        }));
    }

    fn try_pod(&self, name: &str, account: &str, change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let meta = NamespaceMeta {
            labels: [("postern.dev/inject".to_owned(), "enabled".to_owned())].into(),
            ..NamespaceMeta::default()
        };
        self.try_injected(&bare(name, account), &meta, change)
    }

    fn try_injected(&self, pod: &Value, meta: &NamespaceMeta, change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let mut pod = injected(pod, meta);
        let containers = pod["spec"]["initContainers"].as_array_mut().expect("init containers");
        let container = containers.iter_mut().find(|one| one["name"] == "postern").expect("a sidecar");
        set_ca(container, &self.cluster.signer);
        change(container);
        self.create(&pod)
    }

    /// A pod with a sidecar; `change` has the last word about its container.
    pub fn pod(&self, name: &str, account: &str, change: impl FnOnce(&mut Value)) {
        self.try_pod(name, account, change).unwrap_or_else(|said| panic!("{name}: {said}"));
    }

    /// A pod with this capture, of which a node has told: how often its sidecar was started again and when, and when its
    /// agent was.
    pub fn captured(&self, name: &str, capture: &str, restarts: u32, sidecar: &str, agent: &str) {
        let mut pod = bare(name, "agent");
        pod["metadata"]["labels"]["postern.dev/inject"] = json!("true");
        pod["metadata"]["annotations"]["config.postern.dev/capture"] = json!(capture);
        let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        pod["spec"]["containers"][0]["securityContext"] = context;
        let created = self.try_injected(&pod, &NamespaceMeta::default(), |_| {});
        created.unwrap_or_else(|said| panic!("{name}: {said}"));
        let status = |name: &str, restarts: u32, since: &str| {
            let state = json!({"running": {"startedAt": since}});
            json!([{"name": name, "restartCount": restarts, "state": state, "ready": true, "image": "i", "imageID": ""}])
        };
        let told = json!({"status": {
            "phase": "Running",
            "initContainerStatuses": status("postern", restarts, sidecar),
            "containerStatuses": status("agent", 0, agent),
        }});
        let patch =
            ["patch", "pod", name, "--namespace", &self.name, "--subresource=status", "--type=merge", "--patch"];
        self.cluster.kubectl(&[&patch[..], &[&told.to_string()]].concat());
    }

    /// A pod without one, made while the namespace had none.
    pub fn plain(&self, name: &str) {
        self.label("postern.dev/inject=disabled");
        // The policies know of a new label a little later.
        eventually("a pod without a sidecar is admitted", || self.create(&bare(name, "agent")));
        self.label("postern.dev/inject=enabled");
    }

    pub fn label(&self, label: &str) {
        self.cluster.kubectl(&["label", "--overwrite", &format!("namespace/{}", self.name), label]);
    }

    fn create(&self, pod: &Value) -> Result<(), String> {
        let output =
            self.cluster.server.try_kubectl(&["create", "--namespace", &self.name, "-f", "-"], &pod.to_string());
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Gives a service account these rights here: the arguments of `kubectl create role`. Named, so that they can be
    /// taken back.
    pub fn allow(&self, to: &str, rights: &str) {
        let within = ["--namespace", self.name.as_str()];
        let role: Vec<&str> =
            ["create", "role", "granted"].into_iter().chain(rights.split(' ')).chain(within).collect();
        self.cluster.kubectl(&role);
        self.cluster.kubectl(&[&["create", "rolebinding", "granted", "--role=granted", to][..], &within].concat());
    }

    /// Takes them back.
    pub fn disallow(&self) {
        self.cluster.kubectl(&["delete", "role/granted", "rolebinding/granted", "--namespace", &self.name]);
    }

    /// A caller without rights, and how that is told who grants some.
    pub fn auditor(&self) -> Auditor {
        let server = self.cluster.server;
        account(server, &self.name, "auditor");
        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().join("kubeconfig");
        let text = kubeconfig(server, &self.name, "auditor", server.url());
        std::fs::write(&config, text).expect("it is writable");
        Auditor { to: format!("--serviceaccount={}:auditor", self.name), config, _directory: directory }
    }

    /// More labelled Secrets, all before `github-secret`.
    pub async fn fill(&self, count: usize) {
        let api: Api<Secret> = Api::namespaced(kind::client(self.cluster.server).await, &self.name);
        let secret = |number: usize| {
            let metadata = json!({"name": format!("a-{number}"), "labels": {"postern.dev/credential": "true"}});
            serde_json::from_value::<Secret>(json!({"metadata": metadata})).expect("a Secret")
        };
        let api = &api;
        let creating = futures_util::stream::iter((0..count).map(|number| async move {
            api.create(&PostParams::default(), &secret(number)).await.expect("it is created");
        }));
        creating.buffer_unordered(16).collect::<Vec<()>>().await;
    }
}

fn bare(name: &str, account: &str) -> Value {
    let containers = json!([{"name": "agent", "image": "none.invalid/agent"}]);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"serviceAccountName": account, "containers": containers},
    })
}

/// Has a sidecar trust this broker.
pub fn set_ca(container: &mut Value, pem: &str) {
    let env = container["env"].as_array_mut().expect("an environment");
    let ca = env.iter_mut().find(|one| one["name"] == "POSTERN_BROKER_CA").expect("the broker's CA");
    ca["value"] = json!(pem);
}

/// What was said.
pub struct Checked {
    code: i32,
    findings: Vec<Value>,
}

/// What was looked at, and the name of the object; empty for all of a kind.
type About<'a> = (&'a str, &'a str);

impl Checked {
    fn about(&self, (topic, name): About<'_>) -> Vec<&Value> {
        let is = |finding: &&Value| finding["check"] == topic && finding["name"].as_str().unwrap_or_default() == name;
        self.findings.iter().filter(is).collect()
    }

    /// `result: what` of each finding of a topic.
    pub fn of(&self, topic: &str) -> Vec<String> {
        self.findings.iter().filter(|finding| finding["check"] == topic).map(line).collect()
    }

    /// What to do about it.
    pub fn fix(&self, about: About<'_>) -> String {
        let fixes = self.about(about).into_iter().filter_map(|finding| finding["fix"].as_str());
        fixes.collect::<Vec<_>>().join("|")
    }

    #[track_caller]
    pub fn assert_code(&self, code: i32) {
        assert_eq!(self.code, code, "{:#?}", self.findings);
    }

    #[track_caller]
    pub fn assert_all(&self, result: &str) {
        let others: Vec<_> = self.findings.iter().filter(|finding| finding["result"] != result).collect();
        assert!(others.is_empty(), "{others:#?}");
    }

    /// Says this, or more.
    #[track_caller]
    pub fn assert_says(&self, about: About<'_>, expected: &str) {
        let found = self.about(about);
        assert!(found.iter().any(|finding| line(finding).starts_with(expected)), "{about:?}: {:#?}", self.findings);
    }

    /// Says this, and nothing else is wrong.
    #[track_caller]
    pub fn assert_only(&self, about: About<'_>, expected: &str) {
        self.assert_code(1);
        self.assert_says(about, expected);
        let bad: Vec<_> = self.findings.iter().filter(|finding| finding["result"] != "ok").collect();
        let others = bad.iter().filter(|finding| finding["result"] != "warning").count();
        assert_eq!(others, 1, "{bad:#?}");
    }
}

fn line(finding: &Value) -> String {
    let text = |field: &str| finding[field].as_str().unwrap_or_default();
    format!("{}: {}", text("result"), text("what"))
}
