//! What is heard and what is not, told by hand. The followers themselves find nobody: what they say goes unread.

use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::core::name::{CallerKey, Namespace, ObjectName, ServiceAccount};
use crate::runtime::clock;
use crate::telemetry::logs::AccessLog;
use crate::telemetry::metrics::broker::BrokerMetrics;

/// A watch, what it tells of bindings, and how far it hears.
struct World {
    watch: Watch,
    told: Arc<Mutex<Vec<(String, bool)>>>,
    heard: watch::Receiver<Heard>,
    views: Views,
}

fn namespace(name: &str) -> Namespace {
    Namespace::parse(name).unwrap()
}

fn secrets(namespace: &str) -> Source {
    Source::Scope(Scope { kind: Kind::Secrets, namespace: self::namespace(namespace) })
}

fn binding(namespace: &str) -> serde_json::Value {
    json!({
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "CredentialBinding",
        "metadata": {"name": "git", "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "serviceAccounts": ["agent"],
            "server": {"name": "git", "url": "https://git.example/mcp"},
            "credential": {"type": "Bearer", "secretRef": {"name": "s", "key": "token"}},
        },
    })
}

impl World {
    fn new() -> Self {
        let nobody = kube::Config::new("https://127.0.0.1:1/".parse().unwrap());
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&told);
        let views = Views::default();
        let (watch, heard) = Watch::new(WatchParts {
            client: Client::try_from(nobody).unwrap(),
            views: views.clone(),
            on_facts: Box::new(move |id, facts| sink.lock().unwrap().push((id.to_string(), facts.is_some()))),
            log: Arc::new(SessionLog::new(BrokerMetrics::new().unwrap(), AccessLog::discard())),
            clock: Arc::new(clock::wall),
            renewal: Duration::from_secs(60),
        });
        let mut world = Self { watch, told, heard, views };
        world.watch.begin(Source::Bindings);
        world
    }

    /// A source's follower tells something.
    fn tell(&mut self, source: &Source, told: Told) {
        let number = self.watch.sources[source].number;
        self.watch.take(number, told);
        self.watch.attune();
    }

    fn list_bindings(&mut self, namespaces: &[&str]) {
        let all = namespaces.iter().map(|namespace| binding(namespace)).collect();
        self.tell(&Source::Bindings, Told::Listed(vec![Change::Bindings(all)]));
    }

    fn list_secrets(&mut self, of: &str) {
        let Source::Scope(scope) = secrets(of) else { return };
        let granted = Change::Access(scope, Access::Granted);
        self.tell(&secrets(of), Told::Listed(vec![granted, Change::Secrets(namespace(of), Vec::new())]));
    }

    /// Whether each of these is vouched for.
    fn vouched(&self, namespaces: &[&str]) -> Vec<bool> {
        namespaces.iter().map(|name| self.heard.borrow().vouches_for(&namespace(name))).collect()
    }

    fn series(&self, series: &str) -> String {
        let text = String::from_utf8(self.watch.log.metrics.expose(0).unwrap()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series)).unwrap_or_default();
        line.trim().to_owned()
    }
}

#[tokio::test]
async fn nobody_is_vouched_for_before_all_of_theirs_was_listed() {
    let mut world = World::new();
    assert_eq!(world.vouched(&["a", "b", "empty"]), [false, false, false]);
    world.list_bindings(&["a", "b"]);
    assert_eq!(world.vouched(&["a", "b", "empty"]), [false, false, true]);
    world.list_secrets("a");
    assert_eq!(world.vouched(&["a", "b", "empty"]), [true, false, true]);
    // A plain no is an answer.
    world.tell(&secrets("b"), Told::Denied);
    assert_eq!(world.vouched(&["a", "b", "empty"]), [true, true, true]);
    assert_eq!(world.series(r#"postern_broker_watches{kind="secrets",state="denied"}"#), "1");
    assert_eq!(world.series(r#"postern_broker_watches{kind="secrets",state="heard"}"#), "1");
    assert_eq!(world.series("postern_broker_bindings"), "2");
}

#[tokio::test]
async fn a_namespace_that_is_lost_keeps_its_views_and_loses_its_voucher() {
    let mut world = World::new();
    world.list_bindings(&["a", "b"]);
    world.list_secrets("a");
    world.list_secrets("b");
    let account =
        CallerKey { namespace: namespace("a"), service_account: ServiceAccount::parse("agent").unwrap(), user: None };
    let view = world.views.subscribe(&account);
    world.tell(&secrets("a"), Told::Lost(Lost::Unreachable));
    assert_eq!(world.vouched(&["a", "b"]), [false, true]);
    assert_eq!(view.borrow().items.len(), 1, "what was known last is still there");
    assert_eq!(world.series(r#"postern_broker_watch_failures_total{cause="unreachable",kind="secrets"}"#), "1");
    world.list_secrets("a");
    assert_eq!(world.vouched(&["a", "b"]), [true, true]);
    // Without the bindings nothing can be said of anyone.
    for lost in [Told::Lost(Lost::NotFound), Told::Denied] {
        world.tell(&Source::Bindings, lost);
        assert_eq!(world.vouched(&["a", "b", "empty"]), [false, false, false]);
        assert_eq!(view.borrow().items.len(), 1);
        world.list_bindings(&["a", "b"]);
        assert_eq!(world.vouched(&["a", "b", "empty"]), [true, true, true]);
    }
}

#[tokio::test]
async fn what_is_no_longer_wanted_is_not_followed_and_not_heeded() {
    let mut world = World::new();
    world.list_bindings(&["a"]);
    let first = world.watch.sources[&secrets("a")].number;
    world.list_secrets("a");
    let gone = BindingId { namespace: namespace("a"), name: ObjectName::parse("git").unwrap() };
    world.tell(&Source::Bindings, Told::Changed(Change::BindingGone(gone)));
    assert!(!world.watch.sources.contains_key(&secrets("a")));
    world.list_bindings(&["a"]);
    assert_ne!(world.watch.sources[&secrets("a")].number, first);
    // What the first follower said on its way out is not the second one's word.
    world.watch.take(first, Told::Denied);
    world.watch.attune();
    assert_eq!(world.vouched(&["a"]), [false]);
    world.list_secrets("a");
    assert_eq!(world.vouched(&["a"]), [true]);
}

#[tokio::test]
async fn each_binding_that_changed_is_told_and_each_that_went() {
    let mut world = World::new();
    let told = |world: &World| std::mem::take(&mut *world.told.lock().unwrap());
    world.list_bindings(&["a", "b"]);
    assert_eq!(told(&world), [("a/git".to_owned(), true), ("b/git".to_owned(), true)]);
    world.list_secrets("b");
    assert!(told(&world).contains(&("b/git".to_owned(), true)));
    world.list_bindings(&["b"]);
    assert!(told(&world).contains(&("a/git".to_owned(), false)));
}
