//! Generations, revisions and ends, snapshot by snapshot.

use super::*;
use crate::api::document::read_bindings;
use crate::core::binding::Server;
use crate::credential::Lease;

fn binding(name: &str, url: &str) -> Arc<Binding> {
    let text = format!(
        "apiVersion: postern.dev/v1alpha1\nkind: CredentialBinding\nmetadata: {{name: {name}, namespace: ns}}\nspec:\n  serviceAccounts: [sa]\n  server: {{name: {name}, url: '{url}'}}\n  credential: {{type: Bearer, secretRef: {{name: s, key: t}}}}\n"
    );
    Arc::new(read_bindings("x", &text).0.remove(0).binding)
}

fn entry(binding: &Arc<Binding>, value: Option<&str>) -> Entry {
    let value = value.map_or(Err(Missing::Absent("Secret s/t".into())), |text| {
        let secret = SecretValue::parse(text.into()).ok().unwrap();
        Ok(Value { secret: Arc::new(secret), version: "1".into(), changed: None })
    });
    Entry { binding: Arc::clone(binding), value, ca_bundle: None }
}

struct Rig(Cache);

impl Rig {
    fn apply(&mut self, entries: Vec<Entry>) -> Vec<Conflict> {
        self.0.apply(Snapshot { entries }, SystemTime::UNIX_EPOCH)
    }

    fn lease(&self, name: &str) -> Result<Lease, Reason> {
        let view = self.0.readers().view();
        match view.routes.find(name) {
            crate::core::routes::Lookup::Route(route) => view.lease(route).map_err(|refusal| refusal.reason),
            crate::core::routes::Lookup::Gone(_) => Err(Reason::CredentialRevoked),
            crate::core::routes::Lookup::Unknown => Err(Reason::UnboundServer),
        }
    }
}

fn life(lease: &Lease) -> Life {
    lease.life()
}

#[test]
fn each_life_is_kept_as_it_is() {
    let barred = Reason::ALL.iter().map(|reason| Life::Barred(*reason));
    for each in [Life::Current, Life::Superseded, Life::Revoked].into_iter().chain(barred) {
        let cell = LifeCell::new(Life::Current);
        cell.set(each);
        assert_eq!(cell.get(), each);
    }
}

#[test]
fn a_new_value_is_a_new_generation_and_supersedes_the_old() {
    let (mut rig, a) = (Rig(Cache::default()), binding("a", "https://h/"));
    rig.apply(vec![entry(&a, Some("one"))]);
    let first = rig.lease("a").unwrap();
    rig.apply(vec![entry(&a, Some("one"))]);
    assert!(Arc::ptr_eq(&first.credential, &rig.lease("a").unwrap().credential));
    rig.apply(vec![entry(&a, Some("two"))]);
    let second = rig.lease("a").unwrap();
    assert_eq!((first.credential.generation, second.credential.generation), (1, 2));
    assert_eq!(second.credential.value.as_bytes(), b"Bearer two");
    assert_eq!((life(&first), life(&second)), (Life::Superseded, Life::Current));
}

#[test]
fn what_is_withdrawn_is_revoked() {
    let (mut rig, a) = (Rig(Cache::default()), binding("a", "https://h/"));
    rig.apply(vec![entry(&a, None)]);
    assert_eq!(rig.lease("a").err(), Some(Reason::NoCredential));
    rig.apply(vec![entry(&a, Some("one"))]);
    let lease = rig.lease("a").unwrap();
    rig.apply(vec![entry(&a, None)]);
    assert_eq!((rig.lease("a").err(), life(&lease)), (Some(Reason::CredentialRevoked), Life::Revoked));
    rig.apply(vec![entry(&a, Some("one"))]);
    let again = rig.lease("a").unwrap();
    assert_eq!(again.credential.generation, 2);
    rig.apply(vec![]);
    assert_eq!((rig.lease("a").err(), life(&again)), (Some(Reason::CredentialRevoked), Life::Revoked));
    rig.apply(vec![]);
    assert_eq!(rig.lease("a").err(), Some(Reason::CredentialRevoked));
    assert_eq!(rig.lease("b").err(), Some(Reason::UnboundServer));
}

/// A stream of a replaced value is within its grace when the binding goes: it must end too.
#[test]
fn a_revocation_reaches_values_already_replaced() {
    let (mut rig, a) = (Rig(Cache::default()), binding("a", "https://h/"));
    rig.apply(vec![entry(&a, Some("one"))]);
    let (first, kept) = (rig.lease("a").unwrap(), rig.lease("a").unwrap());
    rig.apply(vec![entry(&a, Some("two"))]);
    rig.apply(vec![entry(&a, Some("three"))]);
    assert_eq!(life(&kept), Life::Superseded);
    rig.apply(vec![]);
    assert_eq!((life(&first), life(&kept)), (Life::Revoked, Life::Revoked));
}

#[test]
fn a_changed_binding_is_another_revision_of_the_same_generation() {
    let (mut rig, old, new) = (Rig(Cache::default()), binding("a", "https://h/"), binding("a", "https://i/"));
    rig.apply(vec![entry(&old, Some("one"))]);
    let lease = rig.lease("a").unwrap();
    rig.apply(vec![entry(&new, Some("one"))]);
    assert_eq!((life(&lease), rig.lease("a").unwrap().credential.generation), (Life::Superseded, 1));
    let view = rig.0.readers().view();
    assert_eq!(view.routes.iter().map(|route| route.revision).collect::<Vec<_>>(), [2]);
}

#[test]
fn whoever_is_served_wins_a_conflict() {
    let (mut rig, a, b) = (Rig(Cache::default()), binding("a", "https://h/"), binding("b", "https://h/"));
    assert!(rig.apply(vec![entry(&b, Some("one"))]).is_empty());
    let conflicts = rig.apply(vec![entry(&a, Some("two")), entry(&b, Some("one"))]);
    assert_eq!(conflicts.first().map(|c| c.loser.name.to_string()).as_deref(), Some("a"));
    assert!(rig.lease("b").is_ok());
    assert_eq!(rig.lease("a").err(), Some(Reason::UnboundServer));
}

/// A copy of a document with another server must not give the first one its credential.
#[test]
fn a_second_binding_of_the_same_name_changes_nothing() {
    let (mut rig, a) = (Rig(Cache::default()), binding("a", "https://h/"));
    let copy = Binding { server: Server { name: ServerName::parse("b").unwrap(), ..a.server.clone() }, ..(*a).clone() };
    let copy = Arc::new(copy);
    rig.apply(vec![entry(&a, Some("one"))]);
    for order in [[(&copy, "two"), (&a, "one")], [(&a, "one"), (&copy, "two")]] {
        let conflicts = rig.apply(order.into_iter().map(|(binding, value)| entry(binding, Some(value))).collect());
        assert_eq!(conflicts.first().map(|conflict| conflict.over), Some(Overlap::Object));
        assert_eq!(rig.lease("a").unwrap().credential.value.as_bytes(), b"Bearer one");
        assert_eq!(rig.lease("b").err(), Some(Reason::UnboundServer));
    }
}

#[test]
fn an_unusable_trust_disables_the_binding_only() {
    let (mut rig, a, b) = (Rig(Cache::default()), binding("a", "https://h/"), binding("b", "https://i/"));
    let mut broken = entry(&a, Some("one"));
    broken.ca_bundle = Some(Ok(Arc::from(b"text".as_slice())));
    rig.apply(vec![broken, entry(&b, Some("one"))]);
    assert_eq!(rig.lease("a").err(), Some(Reason::UpstreamTls));
    assert!(rig.lease("b").is_ok());
}

/// An edit of the binding is no rotation: what is told about the value stays as it was.
#[test]
fn the_age_of_a_value_outlasts_a_change_of_its_binding() {
    let (mut cache, old, new) = (Cache::default(), binding("a", "https://h/"), binding("a", "https://i/"));
    let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let dated = |binding, value, changed| {
        let mut entry = entry(binding, Some(value));
        entry.value.as_mut().unwrap().changed = changed;
        vec![entry]
    };
    let told = |cache: &Cache| {
        let view = cache.readers().view();
        let (_, credential) = view.credentials().next().unwrap();
        let credential = credential.unwrap();
        (credential.changed(), credential.lag(), credential.generation)
    };
    cache.apply(Snapshot { entries: dated(&old, "one", None) }, at(10));
    assert_eq!(told(&cache), (at(10), None, 1));
    cache.apply(Snapshot { entries: dated(&old, "two", Some(at(20))) }, at(21));
    cache.apply(Snapshot { entries: dated(&new, "two", Some(at(20))) }, at(5000));
    assert_eq!(told(&cache), (at(20), Some(1.0), 2));
}

/// A source that cannot vouch for what it told: nothing is leased, what runs ends with that
/// reason, and the next snapshot serves the same value as the same generation.
#[test]
fn a_bar_ends_everything_until_the_next_snapshot() {
    let (mut rig, a) = (Rig(Cache::default()), binding("a", "https://h/"));
    rig.apply(vec![entry(&a, Some("one"))]);
    rig.apply(vec![entry(&a, Some("two"))]);
    let (first, kept) = (rig.lease("a").unwrap(), rig.lease("a").unwrap());
    rig.0.bar(Refusal::because(Reason::CredentialStale, "since when"));
    assert_eq!(rig.lease("a").err(), Some(Reason::CredentialStale));
    let stale = Life::Barred(Reason::CredentialStale);
    assert_eq!((life(&first), life(&kept)), (stale, stale));
    let view = rig.0.readers().view();
    assert_eq!(view.routes.bar().map(|bar| bar.reason), Some(Reason::CredentialStale));
    assert_eq!(view.credentials().filter(|(_, state)| state.is_ok()).count(), 0);

    rig.apply(vec![entry(&a, Some("two"))]);
    let again = rig.lease("a").unwrap();
    assert_eq!((again.credential.generation, life(&again)), (2, Life::Current));
    assert_eq!(rig.0.readers().view().routes.bar(), None);
    rig.0.bar(Refusal::new(Reason::UnidentifiedCaller));
    rig.apply(vec![]);
    assert_eq!(rig.lease("a").err(), Some(Reason::CredentialRevoked));
}

/// What the mask of this lease overwrites of three values.
fn masks(lease: &Lease) -> [bool; 3] {
    ["value-one", "value-two", "value-three"].map(|value| {
        let echo = HeaderValue::from_str(&format!("<{value}>")).unwrap();
        lease.credential.mask.header(echo.as_bytes()).is_some()
    })
}

#[test]
fn the_former_value_stays_masked_over_an_absence_and_a_changed_binding() {
    let (mut rig, a, moved) = (Rig(Cache::default()), binding("a", "https://h/"), binding("a", "https://i/"));
    rig.apply(vec![entry(&a, Some("value-one"))]);
    assert_eq!(masks(&rig.lease("a").unwrap()), [true, false, false]);
    rig.apply(vec![entry(&a, None)]);
    rig.apply(vec![entry(&a, None)]);
    rig.apply(vec![entry(&a, Some("value-two"))]);
    assert_eq!(masks(&rig.lease("a").unwrap()), [true, true, false]);
    rig.apply(vec![entry(&moved, Some("value-two"))]);
    assert_eq!(masks(&rig.lease("a").unwrap()), [true, true, false]);
    rig.apply(vec![entry(&moved, Some("value-three"))]);
    assert_eq!(masks(&rig.lease("a").unwrap()), [false, true, true]);
}

#[test]
fn a_short_value_is_known_as_such() {
    let (mut rig, a) = (Rig(Cache::default()), binding("a", "https://h/"));
    for (value, expected) in [("1234567", true), ("12345678", false)] {
        rig.apply(vec![entry(&a, Some(value))]);
        assert_eq!(rig.lease("a").unwrap().credential.short, expected, "{value}");
    }
}
