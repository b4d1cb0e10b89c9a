//! A namespace with bindings, an index that is told what is in it, and replicas that keep the status of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DynamicObject, ListParams};
use postern::control::index::{Access, Change, Facts, Index, Kind, Scope};
use postern::control::status::{Board, LEASE, LeaseSettings, LeaseTimes, StatusKeeper, StatusTimes};
use postern::control::views::Views;
use postern::control::watch::{bundle, secret};
use postern::core::name::{BindingId, Namespace, ObjectName};
use postern::runtime::clock;
use postern::runtime::drain::DrainTrigger;
use postern::runtime::task::OwnedTask;
use postern::telemetry::logs::AccessLog;
use postern::telemetry::metrics::broker::BrokerMetrics;
use postern::telemetry::session::SessionLog;
use serde_json::{Value, json};

use crate::support::ApiServer;
use crate::support::admission::manifests;
use crate::support::kind::{self, binding, bindings, path};
use crate::support::pod::account;

/// The manifest of the Lease.
const LEASE_MANIFEST: &str = "status-lease.yaml";
/// Shorter than in earnest, and longer than a busy machine needs.
pub const TIMES: LeaseTimes =
    LeaseTimes { life: Duration::from_secs(6), belief: Duration::from_secs(4), pause: Duration::from_millis(200) };
/// What is asked is asked again so soon.
const REVIEW: Duration = Duration::from_secs(2);

/// A namespace.
pub struct Stage {
    pub server: &'static ApiServer,
    pub namespace: String,
    pub client: kube::Client,
    pub times: LeaseTimes,
    index: Index,
    boards: Vec<Board>,
}

/// A replica that keeps the status.
pub struct Replica {
    pub board: Board,
    pub log: Arc<SessionLog>,
    drain: DrainTrigger,
    task: OwnedTask,
}

impl Stage {
    /// Its Secrets and ConfigMaps may be read.
    pub async fn new(what: &str) -> Self {
        let stage = Self::unread(what).await;
        stage.with_access(Access::Granted)
    }

    /// Nobody has looked at its Secrets and ConfigMaps.
    pub async fn unread(what: &str) -> Self {
        let server = kind::server();
        let namespace = server.namespace(what);
        let mut lease = manifests(LEASE_MANIFEST).remove(0);
        assert_eq!(lease["metadata"]["namespace"], "postern-system");
        assert_eq!(lease["metadata"]["name"], LEASE);
        lease["metadata"]["namespace"] = json!(namespace);
        server.create(&format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"), &lease);
        account(server, &namespace, "agent");
        let client = kind::client(server).await;
        let index = Index::new(Views::default());
        Self { server, namespace, client, times: TIMES, index, boards: Vec::new() }
    }

    /// They may be read, or not.
    pub fn with_access(mut self, access: Access) -> Self {
        for kind in [Kind::Secrets, Kind::Bundles] {
            self.index.apply(Change::Access(Scope { kind, namespace: self.name() }, access), 0);
        }
        self
    }

    fn name(&self) -> Namespace {
        Namespace::parse(&self.namespace).expect("a namespace")
    }

    pub fn id(&self, name: &str) -> BindingId {
        BindingId { namespace: self.name(), name: ObjectName::parse(name).expect("a name") }
    }

    /// A replica with the administrator's rights.
    pub fn replica(&mut self, name: &str) -> Replica {
        let client = self.client.clone();
        self.replica_as(name, client)
    }

    pub fn replica_as(&mut self, name: &str, client: kube::Client) -> Replica {
        let metrics = BrokerMetrics::new().expect("metrics");
        let log = Arc::new(SessionLog::new(metrics, AccessLog::discard()));
        let (board, drain) = (Board::default(), DrainTrigger::new());
        let ids: Vec<BindingId> = self.index.ids().collect();
        ids.into_iter().for_each(|id| board.put(id.clone(), self.index.facts(&id)));
        self.boards.push(board.clone());
        let keeper = StatusKeeper {
            client,
            board: board.clone(),
            lease: LeaseSettings { namespace: self.namespace.clone(), name: LEASE.into(), times: self.times },
            replica: name.to_owned(),
            times: StatusTimes { unread: Duration::from_millis(100), review: REVIEW },
            log: Arc::clone(&log),
            clock: Arc::new(clock::wall),
            drain: drain.watch(),
        };
        Replica { board, log, drain, task: OwnedTask::spawn(keeper.run()) }
    }

    /// Creates the smallest good binding, with what `change` makes of it.
    pub fn bind(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.server.create(&path(&self.namespace), &binding(&self.namespace, name, change));
    }

    /// Creates or replaces a Secret whose owner consents to `hosts` and, if given, to `accounts` alone.
    pub fn secret(&self, name: &str, data: &Value, hosts: &str, accounts: Option<&str>) {
        let mut annotations = BTreeMap::from([("postern.dev/allowed-hosts", hosts)]);
        annotations.extend(accounts.map(|accounts| ("postern.dev/allowed-service-accounts", accounts)));
        let metadata = json!({"name": name, "labels": {"postern.dev/credential": "true"}, "annotations": annotations});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data});
        self.apply(&secret);
    }

    /// Applies an object as a user does.
    pub fn apply(&self, object: &Value) {
        let apply = ["apply", "--namespace", &self.namespace, "--filename", "-"];
        let output = self.server.try_kubectl(&apply, &object.to_string());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Tells the index, and through it every replica, what there is now.
    pub async fn tell(&mut self) {
        let namespace = self.name();
        let api = bindings(self.client.clone(), &self.namespace);
        let list = api.list(&ListParams::default()).await.expect("a list");
        let list = list.items.iter().map(|object: &DynamicObject| json!(object)).collect();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let labelled = ListParams::default().labels("postern.dev/credential=true");
        let secrets = secrets.list(&labelled).await.expect("a list").items.into_iter().filter_map(secret).collect();
        let bundles: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let labelled = ListParams::default().labels("postern.dev/ca-bundle=true");
        let bundles = bundles.list(&labelled).await.expect("a list").items.into_iter().filter_map(bundle).collect();
        for change in [
            Change::Bindings(list),
            Change::Secrets(namespace.clone(), secrets),
            Change::Bundles(namespace.clone(), bundles),
        ] {
            for id in self.index.apply(change, 0) {
                let facts = self.index.facts(&id);
                self.boards.iter().for_each(|board| board.put(id.clone(), facts.clone()));
            }
        }
    }

    /// What is known of a binding.
    pub fn facts(&self, name: &str) -> Facts {
        self.index.facts(&self.id(name)).expect("it is there")
    }

    pub fn binding(&self, name: &str) -> Value {
        self.server.get(&["credb", name, "--namespace", &self.namespace])
    }

    /// Every binding by its name.
    pub fn bindings(&self) -> BTreeMap<String, Value> {
        let list = self.server.get(&["credb", "--namespace", &self.namespace]);
        let items = list["items"].as_array().expect("a list").clone();
        items.into_iter().map(|item| (item["metadata"]["name"].as_str().expect("a name").to_owned(), item)).collect()
    }

    /// Tells what there is until `ask` has an answer.
    pub async fn until<T>(&mut self, what: &str, mut ask: impl FnMut(&Self) -> Result<T, String>) -> T {
        let begun = Instant::now();
        loop {
            self.tell().await;
            match ask(self) {
                Ok(answer) => return answer,
                Err(last) if begun.elapsed() > Duration::from_secs(60) => panic!("not within a minute: {what}: {last}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until the binding's conditions are these, each `type status reason`.
    pub async fn until_said(&mut self, name: &str, expected: &[&str]) -> Value {
        let what = format!("{name} is {expected:?}");
        self.until(&what, |stage| {
            let binding = stage.binding(name);
            let said = said(&binding);
            if said == expected { Ok(binding) } else { Err(format!("{said:?}")) }
        })
        .await
    }

    /// Who holds the Lease; nobody, if empty.
    pub fn holder(&self) -> String {
        let lease = self.server.get(&["lease", LEASE, "--namespace", &self.namespace]);
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }
}

impl Replica {
    /// One sample of its metrics.
    pub fn metric(&self, series: &str) -> Option<u64> {
        let text = String::from_utf8(self.log.metrics.expose(0).expect("text")).expect("UTF-8");
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    pub fn leads(&self) -> bool {
        self.metric("postern_broker_leader ") == Some(1)
    }

    /// How many writes ended so.
    pub fn writes(&self, result: &str) -> u64 {
        self.metric(&format!("postern_broker_status_writes_total{{result=\"{result}\"}}")).unwrap_or(0)
    }

    /// Whether all service accounts of a binding are served, if it was looked at.
    pub fn ready(&self, id: &BindingId) -> Option<u64> {
        let BindingId { namespace, name } = id;
        self.metric(&format!("postern_broker_binding_ready{{binding=\"{name}\",namespace=\"{namespace}\"}}"))
    }

    /// Ends it as SIGTERM does.
    pub async fn stop(self) {
        assert!(self.drain.run(Duration::from_secs(20)).await, "it ends by itself");
        drop(self.task);
    }

    /// Ends it as a failing node does.
    pub fn kill(self) {
        drop(self.task);
    }
}

/// The conditions in a status, each `type status reason`.
pub fn said(binding: &Value) -> Vec<String> {
    let conditions = binding["status"]["conditions"].as_array().into_iter().flatten();
    let word = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    conditions.map(|c| ["type", "status", "reason"].map(|field| word(c, field)).join(" ")).collect()
}
