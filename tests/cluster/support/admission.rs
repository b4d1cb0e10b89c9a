//! The webhook in this process, called by the real API server, and the golden reviews of
//! tests/golden/admission.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use postern::control::admission::settings::{Allowed, InjectionSettings, PullPolicy, Resources};
use postern::control::admission::{NamespaceMeta, Outcome, decide};
use postern::control::webhook::look_up::{LiveConfigMaps, WatchedNamespaces};
use postern::control::webhook::{ConfigMapSearch, PATH, Webhook, WebhookSettings};
use postern::core::capture::HostPattern;
use postern::core::network::Cidr;
use postern::runtime::drain::DrainTrigger;
use postern::telemetry::admission::AdmissionLog;
use postern::telemetry::logs::AccessLog;
use postern::telemetry::metrics::controller::ControllerMetrics;
use postern::tls::authority::Authority;
use postern::tls::server::{ServerCertificate, Versions, settings};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::ApiServer;

/// The settings that the golden reviews were written for.
pub fn injection() -> InjectionSettings {
    InjectionSettings {
        image: "registry.example/postern:0.1.0".into(),
        image_pull_policy: PullPolicy::IfNotPresent,
        image_pull_secrets: Vec::new(),
        broker: "https://postern-broker.postern-system.svc:8443".into(),
        broker_ca: Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into()),
        extra_roots: None,
        resolvers: vec!["10.96.0.10".parse().expect("an address")],
        resources: Resources::default(),
        allowed: Allowed {
            passthrough_hosts: HostPattern::parse("*.pypi.example").into_iter().collect(),
            skip_ports: vec![5432],
            skip_cidrs: Cidr::parse("10.0.0.0/8").into_iter().collect(),
            ..Allowed::default()
        },
    }
}

/// What the webhook makes of a pod.
pub fn injected(pod: &Value, namespace: &NamespaceMeta) -> Value {
    let verdict = decide(pod, namespace, &[], &injection());
    let Outcome::Patched(patch) = verdict.outcome else { panic!("{verdict:?}") };
    let patch: json_patch::Patch =
        serde_json::from_value(serde_json::to_value(&patch).expect("JSON")).expect("a patch");
    let mut after = pod.clone();
    json_patch::patch(&mut after, &patch).expect("it fits");
    after
}

/// The documents of a file of manifests/base.
pub fn manifests(name: &str) -> Vec<Value> {
    let text = read(&root().join("manifests/base").join(name));
    let documents = serde_yaml::Deserializer::from_str(&text);
    let parse = |document| serde::Deserialize::deserialize(document).expect("YAML");
    documents.map(parse).filter(|document: &Value| !document.is_null()).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// One golden review.
pub struct Golden {
    pub name: String,
    /// The pod.
    pub object: Value,
    pub response: Value,
    /// Labels and annotations of its namespace.
    pub namespace: Value,
    pub config_maps: Vec<Value>,
}

impl Golden {
    /// Those whose name begins with `prefix`.
    pub fn all(prefix: &str) -> Vec<Self> {
        let entries = std::fs::read_dir(root().join("tests/golden/admission")).expect("there are golden reviews");
        let files = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
        let names: BTreeSet<String> =
            files.filter_map(|file| Some(file.strip_suffix(".request.json")?.to_owned())).collect();
        names.into_iter().filter(|name| name.starts_with(prefix)).map(Self::one).collect()
    }

    fn one(name: String) -> Self {
        let file = |kind: &str| {
            let path = root().join(format!("tests/golden/admission/{name}.{kind}.json"));
            path.exists().then(|| serde_json::from_str::<Value>(&read(&path)).expect("JSON"))
        };
        let mut request = file("request").expect("a request");
        let config_maps = file("configmaps").and_then(|maps| maps.as_array().cloned()).unwrap_or_default();
        Self {
            object: request["request"]["object"].take(),
            response: file("response").expect("a response")["response"].take(),
            namespace: file("namespace").unwrap_or_else(|| json!({})),
            config_maps,
            name,
        }
    }

    /// What whoever creates the pod is told.
    pub fn message(&self) -> &str {
        self.response.pointer("/status/message").and_then(Value::as_str).unwrap_or_default()
    }
}

/// A namespace with its service account `agent`.
pub fn namespace(server: &ApiServer, what: &str, meta: &Value, label: Option<(&str, &str)>) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut metadata = meta.clone();
    metadata["name"] = json!(name);
    if let Some((key, value)) = label {
        metadata["labels"][key] = json!(value);
    }
    server.create("/api/v1/namespaces", &json!({"metadata": metadata}));
    // No controller makes the `default` one.
    let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
    server.create(&accounts, &json!({"metadata": {"name": "agent"}}));
    name
}

/// Creates an object as a user does, with what `kubectl` is told besides.
pub fn create(server: &ApiServer, namespace: &str, object: &Value, more: &[&str]) -> Output {
    let arguments = ["create", "--namespace", namespace, "--filename", "-", "--validate=ignore"];
    server.try_kubectl(&[&arguments, more].concat(), &object.to_string())
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks until the answer is there. What the API server was told becomes true for it a little later.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if begun.elapsed() > Duration::from_secs(60) => panic!("not within a minute: {what}: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Lines that the webhook wrote.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panics with it").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The label by which a test's namespaces are told from those of others.
pub const OWNER: &str = "tests.postern.dev/webhook";

/// A webhook that the API server calls for the namespaces of one test.
pub struct Hook {
    pub server: &'static ApiServer,
    /// The value of [`OWNER`].
    pub owner: String,
    metrics: Arc<ControllerMetrics>,
    lines: Lines,
    runtime: Option<Runtime>,
    _drain: DrainTrigger,
}

impl Hook {
    /// Serves, and is called as manifests/base/webhook.yaml says.
    pub fn start(search: ConfigMapSearch) -> Self {
        Self::start_as(search, None)
    }

    /// Likewise, with the rights of a service account, by its token.
    pub fn start_as(search: ConfigMapSearch, token: Option<&str>) -> Self {
        let server = ApiServer::start();
        let runtime = Runtime::new().expect("a runtime");
        let now = SystemTime::now();
        let authority = Authority::new("test", Duration::from_secs(3600), now).expect("an authority");
        let certificate = Arc::new(ServerCertificate::default());
        certificate.put(authority.issue(&["127.0.0.1".to_owned()], Duration::from_secs(600), now).expect("a leaf"));
        let tls = settings(certificate, Versions::Both, &[b"http/1.1"]).expect("settings");
        let metrics = Arc::new(ControllerMetrics::new().expect("metrics"));
        let lines = Lines::default();
        let log = AdmissionLog::new(Arc::clone(&metrics), AccessLog::writing_to(lines.clone()).expect("a thread"));
        let drain = DrainTrigger::new();
        let address = runtime.block_on(async {
            let client = client(server, token).await;
            let namespaces = WatchedNamespaces::start(client.clone());
            let settings = WebhookSettings {
                injection: Arc::new(ArcSwap::from_pointee(injection())),
                config_maps: search,
                linger: Duration::from_secs(1),
            };
            let webhook = Webhook::new(settings, Box::new(namespaces), Box::new(LiveConfigMaps::new(client)), log);
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            tokio::spawn(webhook.run(listener, tls, drain.watch()));
            address
        });
        let url = format!("https://{address}{PATH}");
        let owner = owner();
        configure(server, &owner, &url, Some(authority.certificate()));
        let hook = Self { server, owner, metrics, lines, runtime: Some(runtime), _drain: drain };
        hook.await_calls();
        hook
    }

    /// Waits until the API server knows the webhook.
    fn await_calls(&self) {
        let namespace = self.namespace("probe", &json!({}));
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "probe", "labels": {"postern.dev/inject": "not a switch".replace(' ', "-")}},
            "spec": {"serviceAccountName": "agent", "containers": [{"name": "a", "image": "none.invalid/a"}]},
        });
        eventually("the webhook is called", || {
            let said = stderr(&create(self.server, &namespace, &pod, &["--dry-run=server"]));
            if said.contains("postern: ") { Ok(()) } else { Err(said) }
        });
    }

    /// A namespace of this test.
    pub fn namespace(&self, what: &str, meta: &Value) -> String {
        namespace(self.server, what, meta, Some((OWNER, &self.owner)))
    }

    /// Creates an object as a user does.
    pub fn create(&self, namespace: &str, object: &Value) -> Output {
        create(self.server, namespace, object, &[])
    }

    /// A pod that is stored.
    pub fn pod(&self, namespace: &str, name: &str) -> Value {
        self.server.get(&["pod", name, "--namespace", namespace])
    }

    /// How often an admission ended so.
    pub fn count(&self, result: &str, reason: &str) -> u64 {
        let text = String::from_utf8(self.metrics.expose().expect("text")).expect("UTF-8");
        let series = format!("postern_admissions_total{{reason=\"{reason}\",result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
    }

    /// The lines about a namespace. The writer's thread may be behind.
    pub fn lines(&self, namespace: &str, at_least: usize) -> Vec<Value> {
        eventually("the lines are written", || {
            let bytes = self.lines.0.lock().expect("nobody panics with it").clone();
            let text = String::from_utf8(bytes).expect("UTF-8");
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            let lines: Vec<Value> = lines.filter(|line| line["namespace"] == namespace).collect();
            if lines.len() >= at_least { Ok(lines) } else { Err(format!("{} lines", lines.len())) }
        })
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.server.try_kubectl(&["delete", "mutatingwebhookconfiguration", &self.owner, "--wait=false"], "");
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A value of [`OWNER`] that no other test has.
pub fn owner() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("postern-injector-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Makes the API server call `url` as manifests/base/webhook.yaml says, for namespaces with a label of their own:
/// other tests share the server. The configuration is called like the label's value.
pub fn configure(server: &ApiServer, owner: &str, url: &str, ca: Option<&str>) {
    let mut document = manifests("webhook.yaml").remove(0);
    document["metadata"]["name"] = json!(owner);
    for webhook in document["webhooks"].as_array_mut().expect("webhooks") {
        assert_eq!(webhook["clientConfig"]["service"]["path"], PATH, "the manifest names our path");
        assert!(webhook["clientConfig"].get("caBundle").is_none(), "that is the controller's to write");
        webhook["clientConfig"] = json!({"url": url});
        if let Some(ca) = ca {
            webhook["clientConfig"]["caBundle"] = json!(BASE64_STANDARD.encode(ca));
        }
        let namespaces = webhook["namespaceSelector"]["matchExpressions"].as_array_mut().expect("a selector");
        namespaces.push(json!({"key": OWNER, "operator": "In", "values": [owner]}));
    }
    server.create("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", &document);
}

/// A client with the administrator's rights, or those of a token.
pub async fn client(server: &ApiServer, token: Option<&str>) -> kube::Client {
    let mut kubeconfig = Kubeconfig::read_from(server.kubeconfig()).expect("a kubeconfig");
    if let Some(token) = token {
        let user = kubeconfig.auth_infos.first_mut().expect("a user");
        user.auth_info = Some(serde_json::from_value(json!({"token": token})).expect("a user"));
    }
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    kube::Client::try_from(config.expect("a configuration")).expect("a client")
}
