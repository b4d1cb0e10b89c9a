//! From snapshots to views: generations, revisions, and the end of what is replaced or withdrawn.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use base64::Engine as _;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::source::{Entry, Missing, Snapshot, Value};
use super::{Credential, Life, LifeCell, Slot, View};
use crate::core::binding::{Binding, Material};
use crate::core::decide::Refusal;
use crate::core::mask::{Mask, SHORT};
use crate::core::name::{BindingId, ServerName};
use crate::core::reason::Reason;
use crate::core::routes::{Conflict, Overlap, Route, Routes};
use crate::core::secret::{SecretValue, header_value};
use crate::runtime::alarm::Alarm;
use crate::tls::client::parse_bundle;

/// The readers' handle.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    view: Arc<ArcSwap<View>>,
    alarm: Alarm,
}

impl Credentials {
    /// The view of this moment. Hold it for one decision, not longer.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Rings when a credential may be used no longer, or not for long.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }
}

/// The single writer.
#[derive(Default)]
pub struct Cache {
    readers: Credentials,
    known: HashMap<BindingId, Known>,
    next_revision: u64,
    /// What the snapshot under way takes away.
    withdrawn: Vec<Known>,
}

/// What is remembered of a binding between snapshots.
struct Known {
    entry: Entry,
    revision: u64,
    generation: u64,
    /// Of the present value, for as long as it is the same.
    age: Option<Age>,
    credential: Option<Arc<Credential>>,
    /// Replaced values that running answers still hold: a revocation has to reach them too.
    superseded: Vec<Weak<Credential>>,
    /// The last entry that had a value, and the last that had another one: what a server may still
    /// hold. Both outlast an absence.
    valued: Option<Entry>,
    former: Option<Entry>,
}

/// When a value changed, and how long it took to come into use.
#[derive(Debug, Clone, Copy)]
struct Age {
    changed: SystemTime,
    lag: Option<f64>,
}

impl Age {
    fn of(value: &Value, generation: u64, now: SystemTime) -> Self {
        // A value that was there before us tells nothing about our own lag.
        let changed = value.changed.filter(|_| generation > 1);
        let lag = changed.and_then(|at| now.duration_since(at).ok()).map(|lag| lag.as_secs_f64());
        Self { changed: value.changed.unwrap_or(now), lag }
    }
}

impl Known {
    fn new(entry: Entry) -> Self {
        Self {
            entry,
            revision: 0,
            generation: 0,
            age: None,
            credential: None,
            superseded: Vec::new(),
            valued: None,
            former: None,
        }
    }

    /// Takes note of an entry's value.
    fn note(&mut self, entry: &Entry) {
        if entry.value.is_err() {
            return;
        }
        let last = self.valued.replace(entry.clone());
        if let Some(other) = last.filter(|last| !same_value(last, entry)) {
            self.former = Some(other);
        }
    }

    /// With a new value, or the same one for a changed binding.
    fn replaced(mut self, entry: Entry, generation: u64, credential: Arc<Credential>) -> Self {
        let age = Some(Age { changed: credential.changed, lag: credential.lag });
        self.superseded.retain(|old| old.strong_count() > 0);
        if let Some(old) = self.credential.replace(credential) {
            old.life.set(Life::Superseded);
            self.superseded.push(Arc::downgrade(&old));
        }
        Self { entry, generation, age, ..self }
    }

    /// Ends every answer that holds a value of this binding.
    fn end(&self, life: Life) {
        let old = self.superseded.iter().filter_map(Weak::upgrade);
        for credential in self.credential.iter().cloned().chain(old) {
            credential.life.set(life);
        }
    }
}

/// How many server names are remembered as withdrawn.
const MAX_GONE: usize = 1024;

impl Cache {
    /// The handle for readers.
    pub fn readers(&self) -> Credentials {
        self.readers.clone()
    }

    /// Puts a snapshot in force: from the next request on, nothing of the former one is used.
    /// `now` is the time of day. Returns the bindings that lost to another.
    pub fn apply(&mut self, snapshot: Snapshot, now: SystemTime) -> Vec<Conflict> {
        let (entries, mut conflicts) = self.single_out(snapshot.entries);
        let mut before = std::mem::take(&mut self.known);
        let (mut routes, mut slots) = (Vec::new(), foldhash::HashMap::default());
        let mut order = entries;
        // Whoever is served already is the older one.
        order.sort_by_key(|entry| before.get(&entry.binding.id).map_or(u64::MAX, |known| known.revision));
        for entry in order {
            let id = entry.binding.id.clone();
            let (known, slot) = self.admit(before.remove(&id), entry, now);
            routes.push(Route { binding: Arc::clone(&known.entry.binding), revision: known.revision });
            slots.insert(id.clone(), (known.revision, slot));
            self.known.insert(id, known);
        }
        let gone = self.gone(&before);
        let (routes, overlaps) = Routes::build(routes, gone);
        conflicts.extend(overlaps);
        self.readers.view.store(Arc::new(View { routes, slots }));
        // Only now: a stream that ends must not find the old view when it comes back.
        self.withdrawn.drain(..).chain(before.into_values()).for_each(|known| known.end(Life::Revoked));
        self.readers.alarm.ring();
        conflicts
    }

    /// Serves nothing until the next snapshot, and ends what runs: the source cannot vouch for
    /// what it told last.
    pub fn bar(&mut self, bar: Refusal) {
        let view = self.readers.view();
        let unusable =
            |(id, (revision, _)): (&BindingId, &(u64, Slot))| (id.clone(), (*revision, Slot::Unusable(bar.clone())));
        let slots = view.slots.iter().map(unusable).collect();
        self.readers.view.store(Arc::new(View { routes: view.routes.barred(bar.clone()), slots }));
        for known in self.known.values_mut() {
            known.end(Life::Barred(bar.reason));
            known.credential = None;
            known.superseded.clear();
        }
        self.readers.alarm.ring();
    }

    /// Leaves one entry for each binding: the one in force, or the first. Two with one name would
    /// give one server the other's credential.
    pub fn single_out(&self, entries: Vec<Entry>) -> (Vec<Entry>, Vec<Conflict>) {
        let in_force =
            |entry: &Entry| self.known.get(&entry.binding.id).is_some_and(|known| known.entry.binding == entry.binding);
        let (first, second): (Vec<_>, Vec<_>) = entries.into_iter().partition(in_force);
        let (mut single, mut conflicts, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for entry in first.into_iter().chain(second) {
            let id = entry.binding.id.clone();
            if seen.insert(id.clone()) {
                single.push(entry);
            } else {
                conflicts.push(Conflict { loser: id.clone(), winner: id, over: Overlap::Object });
            }
        }
        (single, conflicts)
    }

    fn gone(&self, withdrawn: &HashMap<BindingId, Known>) -> HashSet<ServerName> {
        let view = self.readers.view();
        let mut gone: HashSet<ServerName> =
            withdrawn.values().map(|known| known.entry.binding.server.name.clone()).collect();
        let room = MAX_GONE.saturating_sub(gone.len());
        gone.extend(view.routes.gone().iter().take(room).cloned());
        gone
    }

    fn admit(&mut self, before: Option<Known>, entry: Entry, now: SystemTime) -> (Known, Slot) {
        let same_place = before.as_ref().is_some_and(|known| same_place(&known.entry, &entry));
        let same_value = before.as_ref().is_some_and(|known| same_value(&known.entry, &entry));
        let mut known = before.unwrap_or_else(|| Known::new(entry.clone()));
        if !same_place || known.revision == 0 {
            self.next_revision += 1;
            known.revision = self.next_revision;
        }
        if let Some(credential) = known.credential.as_ref().filter(|_| same_place && same_value) {
            let slot = Slot::Usable(Arc::clone(credential));
            return (Known { entry, ..known }, slot);
        }
        let generation = if same_value { known.generation } else { known.generation + 1 };
        let age = known.age.filter(|_| same_value);
        known.note(&entry);
        match build(&entry, known.former.as_ref(), generation, age, now) {
            Ok(credential) => {
                let credential = Arc::new(credential);
                let slot = Slot::Usable(Arc::clone(&credential));
                (known.replaced(entry, generation, credential), slot)
            }
            Err(refusal) => {
                // "Was there, is gone" outlasts the moment it went.
                let was_there = known.generation > 0 && matches!(entry.value, Err(Missing::Absent(_)));
                let reason = if was_there { Reason::CredentialRevoked } else { refusal.reason };
                let emptied = Known {
                    entry,
                    credential: None,
                    superseded: Vec::new(),
                    valued: known.valued.clone(),
                    former: known.former.clone(),
                    ..known
                };
                self.withdrawn.push(known);
                (emptied, Slot::Unusable(Refusal { reason, ..refusal }))
            }
        }
    }
}

/// Same binding, same trust: connections may be kept.
fn same_place(a: &Entry, b: &Entry) -> bool {
    a.binding == b.binding && a.ca_bundle == b.ca_bundle
}

fn same_value(a: &Entry, b: &Entry) -> bool {
    match (&a.value, &b.value) {
        (Ok(a), Ok(b)) => a.secret.same_as(&b.secret),
        _ => false,
    }
}

fn build(
    entry: &Entry,
    former: Option<&Entry>,
    generation: u64,
    age: Option<Age>,
    now: SystemTime,
) -> Result<Credential, Refusal> {
    let value = entry.value.as_ref().map_err(|missing| Refusal::because(reason(missing), missing))?;
    let ca_bundle = trust(entry)?;
    let header = header_for(&entry.binding, value)
        .ok_or_else(|| Refusal::because(Reason::CredentialInvalid, "the header value cannot be built"))?;
    let Age { changed, lag } = age.unwrap_or_else(|| Age::of(value, generation, now));
    Ok(Credential {
        header: entry.binding.credential.header.clone(),
        value: header,
        mask: mask_for(entry, former),
        short: is_short(entry),
        generation,
        secret: entry.binding.credential.secret_name().to_string(),
        version: value.version.clone(),
        ca_bundle,
        changed,
        lag,
        life: LifeCell::new(Life::Current),
    })
}

fn reason(missing: &Missing) -> Reason {
    match missing {
        Missing::Absent(_) | Missing::Unreadable(..) | Missing::Withheld(_) => Reason::NoCredential,
        Missing::Invalid(..) | Missing::Unusable(_) => Reason::CredentialInvalid,
        Missing::NotConsented(_) => Reason::NotConsented,
        Missing::PodTooWeak => Reason::PodTooWeak,
    }
}

fn trust(entry: &Entry) -> Result<Option<Arc<[u8]>>, Refusal> {
    match &entry.ca_bundle {
        None => Ok(None),
        Some(Err(missing)) => Err(Refusal::because(Reason::UpstreamTls, format!("tls.caBundle: {missing}"))),
        Some(Ok(pem)) => match parse_bundle(pem) {
            Ok(_) => Ok(Some(Arc::clone(pem))),
            Err(error) => Err(Refusal::because(Reason::UpstreamTls, format!("tls.caBundle: {error}"))),
        },
    }
}

fn header_for(binding: &Binding, value: &Value) -> Option<HeaderValue> {
    match &binding.credential.material {
        Material::Token { format, .. } => header_value(&format.prefix, exposed(&value.secret), &format.suffix),
        Material::Basic { .. } => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(exposed(&value.secret));
            let encoded = Zeroizing::new(encoded);
            header_value("Basic ", encoded.as_bytes(), "")
        }
    }
}

/// What must not come back: this value, and the one before it, which a server may still hold and
/// the issuer still accept.
fn mask_for(entry: &Entry, former: Option<&Entry>) -> Mask {
    let texts: Vec<_> = former.into_iter().chain([entry]).flat_map(mask_texts).collect();
    Mask::new(texts.iter().map(|text| text.as_slice()))
}

/// Whether the mask would find the value in text that has nothing to do with it.
pub fn is_short(entry: &Entry) -> bool {
    mask_texts(entry).iter().any(|text| text.len() < SHORT)
}

/// The token itself, or of `Basic` the password and the encoded pair.
fn mask_texts(entry: &Entry) -> Vec<Zeroizing<Vec<u8>>> {
    let Ok(value) = &entry.value else { return Vec::new() };
    let text = exposed(&value.secret);
    match &entry.binding.credential.material {
        Material::Token { .. } => vec![Zeroizing::new(text.to_vec())],
        Material::Basic { .. } => {
            let password = text.iter().position(|b| *b == b':').and_then(|colon| text.get(colon + 1..));
            let pair = base64::engine::general_purpose::STANDARD.encode(text).into_bytes();
            vec![Zeroizing::new(password.unwrap_or(text).to_vec()), Zeroizing::new(pair)]
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads a secret: for its header and its mask")]
fn exposed(secret: &SecretValue) -> &[u8] {
    secret.expose()
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
