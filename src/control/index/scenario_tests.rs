//! Scenarios: changes go in, and what each service account is told comes out.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;

use super::*;
use crate::core::name::{CallerKey, DataKey, ServiceAccount};
use crate::core::secret::SecretBytes;
use crate::core::wire::{Item, Snapshot};

pub(super) const HOST: &str = "h.example";

pub(super) fn namespace(name: &str) -> Namespace {
    Namespace::parse(name).unwrap()
}

pub(super) fn object(name: &str) -> ObjectName {
    ObjectName::parse(name).unwrap()
}

pub(super) fn id(namespace: &str, name: &str) -> BindingId {
    BindingId { namespace: self::namespace(namespace), name: object(name) }
}

pub(super) fn scope(kind: Kind, namespace: &str) -> Scope {
    Scope { kind, namespace: self::namespace(namespace) }
}

fn caller(who: &str) -> CallerKey {
    let (namespace, account) = who.split_once('/').unwrap();
    CallerKey {
        namespace: self::namespace(namespace),
        service_account: ServiceAccount::parse(account).unwrap(),
        user: None,
    }
}

/// The server is named like the binding and lies at a path of that name; the Secret is `s`, created at second `born`.
pub(super) fn binding(at: &str, accounts: &[&str], born: u32) -> Value {
    let (namespace, name) = at.split_once('/').unwrap();
    json!({
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "CredentialBinding",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": format!("{name}-{born}"),
            "generation": 1,
            "creationTimestamp": format!("2026-01-01T00:00:{born:02}Z"),
        },
        "spec": {
            "serviceAccounts": accounts,
            "server": {"name": name, "url": format!("https://{HOST}/{name}")},
            "credential": {"type": "Bearer", "secretRef": {"name": "s", "key": "token"}},
        },
    })
}

pub(super) fn with(mut binding: Value, at: &str, value: Value) -> Value {
    let (parent, field) = at.rsplit_once('/').unwrap();
    binding.pointer_mut(parent).unwrap()[field] = value;
    binding
}

pub(super) fn secret(name: &str, version: u32, token: &str) -> SecretObject {
    consenting(name, version, token, Some(HOST), None)
}

pub(super) fn consenting(
    name: &str,
    version: u32,
    token: &str,
    hosts: Option<&str>,
    accounts: Option<&str>,
) -> SecretObject {
    SecretObject {
        name: object(name),
        version: version.to_string(),
        consent: crate::core::consent::Consent::read(Some("true"), hosts, accounts),
        data: [(DataKey::parse("token").unwrap(), SecretBytes::new(token.into()))].into(),
    }
}

#[expect(clippy::disallowed_methods, reason = "a test looks at what is told")]
fn told(item: &Item) -> String {
    let document: Value = serde_json::from_str(item.document.get()).unwrap();
    let server = document["spec"]["server"]["name"].as_str().unwrap();
    let bundle = match &item.ca_bundle {
        None => String::new(),
        Some(Ok(pem)) => format!(" ca:{}", pem.len()),
        Some(Err(gap)) => format!(" ca!{:?}", gap.cause),
    };
    match &item.value {
        Ok(value) => {
            let text = std::str::from_utf8(value.secret.expose()).unwrap();
            let changed = value.changed.map_or(String::new(), |at| format!(" at {at}"));
            format!("{server}={text} v{}{changed}{bundle}", value.version)
        }
        Err(gap) => format!("{server}!{:?}{bundle}", gap.cause),
    }
}

pub(super) fn shown(view: &Snapshot) -> Vec<String> {
    view.items.iter().map(told).collect()
}

/// An index with readers that hear whether they were told anything.
pub(super) struct World {
    index: Index,
    pub(super) readers: BTreeMap<String, watch::Receiver<Arc<Snapshot>>>,
    now: u64,
}

impl World {
    pub(super) fn new(accounts: &[&str]) -> Self {
        let views = Views::default();
        let readers = accounts.iter().map(|who| ((*who).to_owned(), views.subscribe(&caller(who)))).collect();
        Self { index: Index::new(views), readers, now: 0 }
    }

    /// A world in which `ns` may be read and has been: `binding`s first, then the Secret `s` with the value `one`.
    fn settled(accounts: &[&str], bindings: Vec<Value>) -> Self {
        let mut world = Self::new(accounts);
        world.apply(Change::Bindings(bindings));
        world.apply(Change::Access(scope(Kind::Secrets, "ns"), Access::Granted));
        world.apply(Change::Secrets(namespace("ns"), vec![secret("s", 1, "one")]));
        assert!(world.index.is_settled());
        world
    }

    /// Makes a change; those whose view was published, each with what it is now.
    pub(super) fn apply(&mut self, change: Change) -> Vec<String> {
        self.now += 1;
        self.index.apply(change, self.now);
        let heard = self.readers.iter_mut().filter(|(_, reader)| reader.has_changed().unwrap());
        heard.map(|(who, reader)| format!("{who}: {}", shown(&reader.borrow_and_update()).join(", "))).collect()
    }

    fn facts(&self, name: &str) -> Facts {
        self.index.facts(&id("ns", name)).unwrap()
    }

    fn standing(&self, name: &str) -> Vec<String> {
        let each = |(account, standing): (&ServiceAccount, &Standing)| match standing {
            Standing::Served => format!("{account}: served"),
            Standing::Lacks(missing) => format!("{account}: {:?}", missing.lack),
            Standing::Lost(conflict) => format!("{account}: lost to {} over {:?}", conflict.winner, conflict.over),
        };
        self.facts(name).standing.iter().map(each).collect()
    }
}

/// Plays `steps` one after the other; each says who is told what.
fn play(mut world: World, steps: Vec<(&str, Change, &[&str])>) -> World {
    for (what, change, expected) in steps {
        assert_eq!(world.apply(change), expected, "{what}");
    }
    world
}

#[test]
fn a_credential_comes_step_by_step() {
    let world = World::new(&["ns/a", "ns/b", "other/a"]);
    let secrets = || scope(Kind::Secrets, "ns");
    let steps: Vec<(&str, Change, &[&str])> = vec![
        ("nothing yet", Change::Bindings(vec![]), &[]),
        ("bound, unread", Change::Binding(binding("ns/git", &["a"], 1)), &["ns/a: git!Absent"]),
        ("not granted", Change::Access(secrets(), Access::Denied), &["ns/a: git!NotGranted"]),
        ("still not", Change::Access(secrets(), Access::Denied), &[]),
        ("granted, unread", Change::Access(secrets(), Access::Granted), &["ns/a: git!Absent"]),
        ("read, not there", Change::Secrets(namespace("ns"), vec![]), &["ns/a: git!Absent"]),
        ("created", Change::Secret(namespace("ns"), secret("s", 7, "one")), &["ns/a: git=one v7 at 7"]),
        ("another one", Change::Secret(namespace("ns"), secret("t", 8, "x")), &[]),
        ("one elsewhere", Change::Secret(namespace("other"), secret("s", 9, "x")), &[]),
        ("rotated", Change::Secret(namespace("ns"), secret("s", 10, "two")), &["ns/a: git=two v10 at 10"]),
        ("touched", Change::Secret(namespace("ns"), secret("s", 11, "two")), &["ns/a: git=two v11 at 10"]),
        ("told again", Change::Secret(namespace("ns"), secret("s", 11, "two")), &[]),
        (
            "bound twice",
            Change::Binding(binding("ns/git", &["a", "b"], 1)),
            &["ns/a: git=two v11 at 10", "ns/b: git=two v11 at 10"],
        ),
        ("unbound", Change::Binding(binding("ns/git", &["b"], 1)), &["ns/a: ", "ns/b: git=two v11 at 10"]),
        ("deleted", Change::SecretGone(namespace("ns"), object("s")), &["ns/b: git!Absent"]),
        ("created again", Change::Secret(namespace("ns"), secret("s", 12, "two")), &["ns/b: git=two v12 at 16"]),
        ("withdrawn", Change::BindingGone(id("ns", "git")), &["ns/b: "]),
        ("withdrawn again", Change::BindingGone(id("ns", "git")), &[]),
    ];
    let world = play(world, steps);
    assert_eq!(world.index.wanted(), BTreeSet::new());
}

#[test]
fn a_value_that_was_there_before_has_no_date() {
    let mut world = World::new(&["ns/a"]);
    world.apply(Change::Bindings(vec![binding("ns/git", &["a"], 1)]));
    world.apply(Change::Access(scope(Kind::Secrets, "ns"), Access::Granted));
    assert_eq!(world.apply(Change::Secrets(namespace("ns"), vec![secret("s", 1, "one")])), ["ns/a: git=one v1"]);
    // A whole list tells of changes too.
    assert_eq!(world.apply(Change::Secrets(namespace("ns"), vec![secret("s", 1, "one")])), [""; 0]);
    assert_eq!(world.apply(Change::Secrets(namespace("ns"), vec![secret("s", 2, "two")])), ["ns/a: git=two v2 at 5"]);
}

#[test]
fn consent_is_the_owners() {
    let world = World::settled(&["ns/a", "ns/b"], vec![binding("ns/git", &["a", "b"], 1)]);
    let put = |hosts, accounts| Change::Secret(namespace("ns"), consenting("s", 1, "one", hosts, accounts));
    let steps: Vec<(&str, Change, &[&str])> = vec![
        ("for another host", put(Some("evil.example"), None), &["ns/a: git!NotConsented", "ns/b: git!NotConsented"]),
        ("for no host", put(None, None), &["ns/a: git!NotConsented", "ns/b: git!NotConsented"]),
        ("for this one", put(Some(HOST), None), &["ns/a: git=one v1 at 6", "ns/b: git=one v1 at 6"]),
        ("for one account", put(Some(HOST), Some("b")), &["ns/a: git!NotConsented"]),
        ("for the other", put(Some(HOST), Some("a")), &["ns/a: git=one v1 at 6", "ns/b: git!NotConsented"]),
        ("for none", put(Some(HOST), Some("")), &["ns/a: git!NotConsented"]),
    ];
    let mut world = play(world, steps);
    assert_eq!(world.standing("git"), ["a: NotConsented", "b: NotConsented"]);
    let unlabelled = SecretObject {
        consent: consent(&BTreeMap::new(), &[("postern.dev/allowed-hosts".into(), HOST.into())].into()),
        ..secret("s", 1, "one")
    };
    world.apply(Change::Secret(namespace("ns"), unlabelled));
    assert_eq!(world.standing("git"), ["a: NotConsented", "b: NotConsented"]);
    let told = &world.facts("git").missing;
    assert_eq!(
        told.iter().map(|missing| missing.text.as_str()).collect::<Vec<_>>(),
        ["Secret s does not carry the label postern.dev/credential: \"true\""]
    );
}

#[test]
fn what_can_no_longer_be_read_is_withdrawn() {
    let world = World::settled(&["ns/a"], vec![binding("ns/git", &["a"], 1)]);
    let good = || binding("ns/git", &["a"], 1);
    let steps: Vec<(&str, Change, &[&str])> = vec![
        ("nonsense", Change::Binding(with(good(), "/spec/server/url", json!("ftp://h"))), &["ns/a: "]),
        ("more of it", Change::Binding(with(good(), "/spec", json!(null))), &[]),
        ("mended", Change::Binding(good()), &["ns/a: git=one v1"]),
        (
            "being deleted",
            Change::Binding(with(good(), "/metadata/deletionTimestamp", json!("2026-01-01T00:00:09Z"))),
            &["ns/a: "],
        ),
        ("again", Change::Binding(good()), &["ns/a: git=one v1"]),
        (
            "nonsense in a list",
            Change::Bindings(vec![with(good(), "/spec/serviceAccounts", json!(["*"]))]),
            &["ns/a: "],
        ),
    ];
    let world = play(world, steps);
    let facts = world.facts("git");
    assert_eq!(facts.faults.iter().map(|fault| fault.path.as_str()).collect::<Vec<_>>(), ["spec.serviceAccounts[0]"]);
    assert!(facts.standing.is_empty() && facts.secret.is_none());
}

#[test]
fn a_value_that_breaks_a_rule_is_a_gap() {
    let mut world = World::settled(&["ns/a"], vec![binding("ns/git", &["a"], 1)]);
    assert_eq!(world.apply(Change::Secret(namespace("ns"), secret("s", 2, "t\n"))), ["ns/a: git!Invalid"]);
    assert_eq!(world.standing("git"), ["a: InvalidValue"]);
    let no_key = SecretObject { data: BTreeMap::new(), ..secret("s", 3, "") };
    assert_eq!(world.apply(Change::Secret(namespace("ns"), no_key)), ["ns/a: git!Absent"]);
    assert_eq!(world.standing("git"), ["a: KeyNotFound"]);
}

#[test]
fn the_oldest_of_two_bindings_wins() {
    let named = |at: &str, server: &str, accounts: &[&str], born| {
        with(
            binding(at, accounts, born),
            "/spec/server",
            json!({"name": server, "url": format!("https://{HOST}/{server}")}),
        )
    };
    let at = |at: &str, url: &str, born| {
        with(binding(at, &["a"], born), "/spec/server/url", json!(format!("https://{HOST}{url}")))
    };
    let rows: Vec<(&str, Vec<Value>, &str)> = vec![
        ("same name", vec![named("ns/x", "git", &["a"], 2), named("ns/y", "git", &["a"], 1)], "y"),
        ("same second: by name", vec![named("ns/y", "git", &["a"], 1), named("ns/x", "git", &["a"], 1)], "x"),
        ("same url", vec![at("ns/x", "/m", 2), at("ns/y", "/m/", 1)], "y"),
        ("below it", vec![with(at("ns/x", "/m", 2), "/spec/server/subpaths", json!(true)), at("ns/y", "/m/n", 1)], "y"),
        (
            "without a time: the youngest",
            vec![
                with(named("ns/x", "git", &["a"], 1), "/metadata/creationTimestamp", json!(null)),
                named("ns/y", "git", &["a"], 9),
            ],
            "y",
        ),
    ];
    for (what, bindings, winner) in rows {
        let loser = if winner == "x" { "y" } else { "x" };
        let mut world = World::settled(&["ns/a"], bindings);
        assert_eq!(world.standing(winner), ["a: served"], "{what}");
        assert_eq!(world.facts(loser).standing.len(), 1, "{what}");
        assert!(world.standing(loser)[0].starts_with(&format!("a: lost to ns/{winner} over")), "{what}");
        assert_eq!(world.readers["ns/a"].borrow().items.len(), 1, "{what}");
        assert_eq!(world.apply(Change::BindingGone(id("ns", winner))).len(), 1, "{what}: the other takes its place");
        assert_eq!(world.standing(loser), ["a: served"], "{what}");
    }
}

#[test]
fn a_conflict_concerns_its_account_only() {
    let named =
        |at: &str, accounts: &[&str], born| with(binding(at, accounts, born), "/spec/server/name", json!("git"));
    let mut world =
        World::settled(&["ns/a", "ns/b", "ns/c"], vec![named("ns/x", &["a", "b"], 1), named("ns/y", &["b", "c"], 2)]);
    assert_eq!(world.standing("x"), ["a: served", "b: served"]);
    assert_eq!(world.standing("y"), ["b: lost to ns/x over Name", "c: served"]);
    // The winner wins also with nothing in its hands: who is served does not depend on Secrets.
    let broken = with(named("ns/x", &["a", "b"], 1), "/spec/credential/secretRef/name", json!("none"));
    assert_eq!(world.apply(Change::Binding(broken)), ["ns/a: git!Absent", "ns/b: git!Absent"]);
    // Unreadable, it is none.
    let nonsense = with(named("ns/x", &["a", "b"], 1), "/spec/server/url", json!("x"));
    assert_eq!(world.apply(Change::Binding(nonsense)), ["ns/a: ", "ns/b: git=one v1"]);
}

#[test]
fn a_list_replaces_what_was_there_in_one_step() {
    let mut world =
        World::settled(&["ns/a", "ns/b"], vec![binding("ns/x", &["a"], 1), binding("ns/y", &["a", "b"], 2)]);
    let list = vec![binding("ns/y", &["a"], 2), binding("ns/z", &["b"], 3)];
    assert_eq!(world.apply(Change::Bindings(list)), ["ns/a: y=one v1", "ns/b: z=one v1"]);
    assert_eq!(
        world.apply(Change::Secrets(namespace("ns"), vec![secret("t", 9, "x")])),
        ["ns/a: y!Absent", "ns/b: z!Absent"]
    );
    assert_eq!(world.index.ids().map(|id| id.to_string()).collect::<Vec<_>>(), ["ns/y", "ns/z"]);
    assert_eq!(world.apply(Change::Bindings(vec![])), ["ns/a: ", "ns/b: "]);
}

#[test]
fn without_the_right_to_read_nothing_is_held() {
    let mut world = World::settled(&["ns/a"], vec![binding("ns/git", &["a"], 1)]);
    assert_eq!(world.index.secrets(), 1);
    let access = |access| Change::Access(scope(Kind::Secrets, "ns"), access);
    assert_eq!(world.apply(access(Access::Denied)), ["ns/a: git!NotGranted"]);
    assert_eq!(world.index.secrets(), 0);
    // What was under way when the right went.
    assert_eq!(world.apply(Change::Secret(namespace("ns"), secret("s", 2, "two"))), [""; 0]);
    assert_eq!(world.apply(Change::Secrets(namespace("ns"), vec![secret("s", 2, "two")])), [""; 0]);
    assert_eq!(world.index.secrets(), 0);
    assert_eq!(world.apply(access(Access::Granted)), ["ns/a: git!Absent"]);
    assert!(!world.index.is_settled());
    // One change does not make a list.
    assert_eq!(world.apply(Change::Secret(namespace("ns"), secret("s", 2, "two"))), [""; 0]);
    assert_eq!(world.apply(Change::Secrets(namespace("ns"), vec![secret("s", 2, "two")])), ["ns/a: git=two v2"]);
    world.apply(Change::BindingGone(id("ns", "git")));
    world.apply(access(Access::Unasked));
    assert_eq!((world.index.secrets(), world.index.spaces.len()), (0, 0));
}

#[test]
fn certificates_come_from_a_config_map() {
    let pem: Arc<str> = rcgen::generate_simple_self_signed(vec![HOST.into()]).unwrap().cert.pem().into();
    let key = DataKey::parse("ca.crt").unwrap();
    let bundle = |text: &Arc<str>| BundleObject { name: object("ca"), data: [(key.clone(), Arc::clone(text))].into() };
    let tls = json!({"caBundle": {"configMapRef": {"name": "ca", "key": "ca.crt"}}});
    let bound = || with(binding("ns/git", &["a"], 1), "/spec/server/tls", tls.clone());
    let mut world = World::settled(&["ns/a"], vec![binding("ns/git", &["a"], 1)]);
    assert_eq!(world.apply(Change::Binding(bound())), ["ns/a: git=one v1 ca!Absent"]);
    assert_eq!(world.index.wanted(), [scope(Kind::Secrets, "ns"), scope(Kind::Bundles, "ns")].into());
    assert!(!world.index.is_settled());
    let good = format!("ns/a: git=one v1 ca:{}", pem.len());
    let good: &[&str] = &[&good];
    let steps: Vec<(&str, Change, &[&str])> = vec![
        ("denied", Change::Access(scope(Kind::Bundles, "ns"), Access::Denied), &["ns/a: git=one v1 ca!NotGranted"]),
        ("granted", Change::Access(scope(Kind::Bundles, "ns"), Access::Granted), &["ns/a: git=one v1 ca!Absent"]),
        ("listed", Change::Bundles(namespace("ns"), vec![bundle(&pem)]), good),
        ("bad", Change::Bundle(namespace("ns"), bundle(&"x".into())), &["ns/a: git=one v1 ca!Invalid"]),
        ("gone", Change::BundleGone(namespace("ns"), object("ca")), &["ns/a: git=one v1 ca!Absent"]),
        ("back", Change::Bundle(namespace("ns"), bundle(&pem)), good),
    ];
    let world = play(world, steps);
    assert_eq!(world.standing("git"), ["a: served"]);
}

#[test]
fn a_status_is_no_news() {
    let mut world = World::settled(&["ns/a"], vec![binding("ns/git", &["a"], 1)]);
    let condition = json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let reported = with(
        with(binding("ns/git", &["a"], 1), "/metadata/resourceVersion", json!("7")),
        "/status",
        json!({"conditions": [condition, {"type": "Half"}], "observedGeneration": 1}),
    );
    assert_eq!(world.apply(Change::Binding(reported)), [""; 0]);
    let facts = world.facts("git");
    assert_eq!((facts.reported.len(), facts.reported[0].kind.as_str()), (1, "Accepted"));
    assert_eq!((facts.reported_generation, facts.version.as_str()), (Some(1), "7"));
    assert_eq!(world.standing("git"), ["a: served"]);
}
