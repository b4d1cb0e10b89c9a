//! The simulated sidecars: real pods and tokens, and the sidecar's own source of credentials, many in one process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::iter;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, PostParams};
use postern::core::name::{Caller, CallerKey};
use postern::core::upstream::UpstreamUrl;
use postern::credential::broker::{BrokerSource, Pod as OfPod, Settings};
use postern::credential::cache::Credentials;
use postern::telemetry::exchange::Telemetry;
use postern::telemetry::logs::AccessLog;
use postern::telemetry::metrics::Metrics;
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::suite::broker::account as key;
use crate::suite::documents::Binding;
use crate::suite::reader::Called as _;
use crate::suite::secrets::unique_secret;
use crate::support::deployed::{Deployed, OURS};
use crate::support::kind;
use crate::support::tenant::Tenant;

/// Namespaces, each with one Secret and one binding for all of its service accounts,
const NAMESPACES: usize = 10;
/// service accounts of each.
const ACCOUNTS: usize = 10;
/// Requests to the API server under way while objects are made.
const AT_ONCE: usize = 16;

/// The sidecars.
pub struct Fleet {
    tenants: Vec<Tenant>,
    directory: TempDir,
    /// One for each sidecar.
    accounts: Vec<CallerKey>,
    sidecars: Vec<watch::Receiver<Seen>>,
    tasks: JoinSet<()>,
}

/// What a sidecar has seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    snapshots: usize,
    generation: u64,
    /// When that generation came.
    since: Instant,
}

impl Fleet {
    /// Makes everything that `size` sidecars need on the API server.
    pub async fn new(broker: &Deployed, size: usize) -> Self {
        let tenants: Vec<Tenant> = (0..NAMESPACES).map(|_| Tenant::new(broker, "swarm")).collect();
        for tenant in &tenants {
            tenant.secret("github-secret", &unique_secret(), "api.example");
            let names: Vec<String> = (0..ACCOUNTS).map(|number| format!("agent-{number}")).collect();
            let binding = Binding::new("github").url("https://api.example/mcp").set("/serviceAccounts", json!(names));
            tenant.apply(&serde_json::from_str(&binding.json()).expect("JSON"));
        }
        let client = kind::client(broker.server).await;
        let directory = TempDir::new().expect("a temporary directory can be made");
        let place = |number: usize| {
            let namespace = tenants[number % NAMESPACES].namespace.clone();
            (namespace, format!("agent-{}", number / NAMESPACES % ACCOUNTS))
        };
        let accounts = iter((0..NAMESPACES * ACCOUNTS).map(|number| {
            let ((namespace, account), client) = (place(number), client.clone());
            async move {
                let api: Api<ServiceAccount> = Api::namespaced(client, &namespace);
                let object = serde_json::from_value(json!({"metadata": {"name": account}})).expect("an account");
                api.create(&PostParams::default(), &object).await.expect("it is made");
            }
        }));
        accounts.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        let tokens = iter((0..size).map(|number| {
            let ((namespace, account), client) = (place(number), client.clone());
            let file = directory.path().join(number.to_string());
            async move { std::fs::write(file, token(client, &namespace, &account, number).await).expect("writable") }
        }));
        tokens.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        let accounts = (0..size).map(|number| {
            let (namespace, account) = place(number);
            key(&namespace, &account)
        });
        let accounts = accounts.collect();
        Self { tenants, directory, accounts, sidecars: Vec::new(), tasks: JoinSet::new() }
    }

    /// Starts all of them at once.
    pub fn start(&mut self, broker: &Deployed) {
        let ca: Arc<[u8]> = broker.ca().into_bytes().into();
        for (number, account) in self.accounts.iter().enumerate() {
            let caller = Caller { key: account.clone(), pod: None };
            let metrics = Metrics::new().expect("the families can be declared");
            let telemetry = Arc::new(Telemetry::new(metrics, AccessLog::discard(), &caller));
            let settings = Settings {
                url: UpstreamUrl::parse(&broker.url()).expect("a URL"),
                ca: Arc::clone(&ca),
                token_file: self.directory.path().join(number.to_string()),
                max_stale: Duration::from_secs(3600),
                resolvers: Vec::new(),
                pod: OfPod::default(),
            };
            let source = BrokerSource::new(settings, telemetry).expect("a source can be made");
            let seen = watch::Sender::new(Seen { snapshots: 0, generation: 0, since: Instant::now() });
            self.sidecars.push(seen.subscribe());
            let told = move |credentials: &Credentials, _problems| {
                let view = credentials.view();
                let generation = view.credentials().filter_map(|(_, one)| one.ok()).map(|one| one.generation).max();
                seen.send_modify(|seen| {
                    seen.snapshots += 1;
                    let generation = generation.unwrap_or(0);
                    if generation != seen.generation {
                        (seen.generation, seen.since) = (generation, Instant::now());
                    }
                });
            };
            self.tasks.spawn(source.run(Box::new(told)));
        }
    }

    /// Writes a new value into every Secret.
    pub async fn rotate(&self) {
        for tenant in &self.tenants {
            tenant.secret("github-secret", &unique_secret(), "api.example");
        }
    }

    /// Waits until all hold their value number so and so; tells when each did.
    pub async fn until_generation(&self, generation: u64) -> Vec<Instant> {
        let mut times = Vec::new();
        for sidecar in &self.sidecars {
            let mut sidecar = sidecar.clone();
            let seen = sidecar.wait_for(|seen| seen.generation >= generation).await.expect("it runs");
            times.push(seen.since);
        }
        times
    }

    /// How many snapshots each has seen.
    pub fn snapshots(&self) -> Vec<usize> {
        self.sidecars.iter().map(|sidecar| sidecar.borrow().snapshots).collect()
    }

    /// Waits until each has seen more than that.
    pub async fn until_told_again(&self, counts: &[usize]) {
        for (sidecar, count) in self.sidecars.iter().zip(counts) {
            let mut sidecar = sidecar.clone();
            sidecar.wait_for(|seen| seen.snapshots > *count).await.expect("it runs");
        }
    }
}

/// Makes a pod and a token as its kubelet would mount it.
async fn token(client: kube::Client, namespace: &str, account: &str, number: usize) -> String {
    let name = format!("pod-{number}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let container = json!({"name": "agent", "image": "none.invalid/agent"});
    let pod = json!({"metadata": {"name": name}, "spec": {"serviceAccountName": account, "containers": [container]}});
    let pod = serde_json::from_value(pod).expect("a pod");
    let pod = pods.create(&PostParams::default(), &pod).await.expect("it is made");
    let spec = TokenRequestSpec {
        audiences: vec![OURS.into()],
        bound_object_ref: Some(BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(name),
            uid: pod.metadata.uid,
        }),
        expiration_seconds: Some(3600),
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(client, namespace);
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.expect("a token");
    answer.status.expect("a status").token
}
