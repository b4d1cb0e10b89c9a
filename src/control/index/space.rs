//! One namespace: its bindings, what they refer to, and what follows for each service account.
//!
//! ```text
//! [ Secret ] ----\
//! [ ConfigMap ] --> [ binding: refs ] --> [ service account: view ] --> Views
//!                          \------------> [ standing ] --> Facts
//! ```
//! All references stay within the namespace, so nothing outside it is ever looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Kind;
use super::facts::{Facts, Standing};
use super::object::{BindingObject, BundleObject, SecretObject};
use super::refs::{Refs, by_account};
use super::store::Store;
use crate::control::views::Views;
use crate::core::binding::Binding;
use crate::core::name::{CallerKey, Namespace, ObjectName, ServiceAccount};
use crate::core::routes::{Conflict, overlap};
use crate::core::wire::{Item, Snapshot};

pub(super) struct Space {
    namespace: Namespace,
    pub(super) secrets: Store<SecretObject>,
    pub(super) bundles: Store<BundleObject>,
    bindings: BTreeMap<ObjectName, Known>,
    /// As published. Empty ones are left out.
    views: BTreeMap<ServiceAccount, Arc<Snapshot>>,
}

struct Known {
    object: BindingObject,
    /// `None` before they were followed, and where the document cannot be read.
    refs: Option<Refs>,
    standing: BTreeMap<ServiceAccount, Standing>,
}

/// What a change may have changed.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) bindings: BTreeSet<ObjectName>,
    accounts: BTreeSet<ServiceAccount>,
}

impl Space {
    pub(super) fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            secrets: Store::default(),
            bundles: Store::default(),
            bindings: BTreeMap::new(),
            views: BTreeMap::new(),
        }
    }

    /// Takes, replaces or withdraws a binding.
    pub(super) fn put(&mut self, name: ObjectName, object: Option<BindingObject>, touched: &mut Touched) {
        let before = self.bindings.remove(&name);
        touched.bindings.insert(name.clone());
        let known = match (before, object) {
            // Only its status is new, as a rule because we wrote it.
            (Some(before), Some(object)) if before.object.says_the_same(&object) => Known { object, ..before },
            (before, object) => {
                touched.accounts.extend(before.iter().flat_map(|known| known.object.accounts()).cloned());
                let Some(object) = object else { return };
                touched.accounts.extend(object.accounts().iter().cloned());
                Known { object, refs: before.and_then(|known| known.refs), standing: BTreeMap::new() }
            }
        };
        self.bindings.insert(name, known);
    }

    /// Takes the whole list of bindings; what is not in it is withdrawn.
    pub(super) fn list(&mut self, mut objects: BTreeMap<ObjectName, BindingObject>, touched: &mut Touched) {
        let names: BTreeSet<ObjectName> = self.bindings.keys().chain(objects.keys()).cloned().collect();
        for name in names {
            let object = objects.remove(&name);
            self.put(name, object, touched);
        }
    }

    /// Marks the bindings that refer to an object of that kind, or to one of these.
    pub(super) fn touch(&self, kind: Kind, named: Option<&ObjectName>, touched: &mut Touched) {
        let refers = |binding: &Binding| {
            let name = match kind {
                Kind::Secrets => Some(binding.credential.secret_name()),
                Kind::Bundles => binding.server.ca_bundle.as_ref().map(|reference| &reference.name),
            };
            name.is_some_and(|name| named.is_none_or(|named| named == name))
        };
        for (name, known) in &self.bindings {
            if known.object.binding().is_some_and(|binding| refers(binding)) {
                touched.bindings.insert(name.clone());
                touched.accounts.extend(known.object.accounts().iter().cloned());
            }
        }
    }

    /// Draws the consequences of a change, and marks the bindings whose standing it may have changed.
    pub(super) fn settle(&mut self, touched: &mut Touched, views: &Views, now: u64) {
        for name in &touched.bindings {
            let Some(known) = self.bindings.get_mut(name) else { continue };
            let follow = |binding| Refs::follow(binding, &self.secrets, &self.bundles, known.refs.as_ref(), now);
            known.refs = known.object.binding().map(|binding| follow(binding));
        }
        for account in &touched.accounts {
            let (view, standings) = self.view(account);
            for (name, standing) in standings {
                if let Some(known) = self.bindings.get_mut(&name) {
                    known.standing.insert(account.clone(), standing);
                }
                touched.bindings.insert(name);
            }
            self.publish(account, view, views);
        }
    }

    /// What the account has, and how each binding that names it stands with it.
    fn view(&self, account: &ServiceAccount) -> (Snapshot, Vec<(ObjectName, Standing)>) {
        let names = |known: &&Known| known.object.accounts().contains(account);
        let mut candidates: Vec<&Known> = self.bindings.values().filter(names).collect();
        candidates.sort_by(|a, b| a.object.age(&b.object));
        let (mut items, mut served, mut standings) = (Vec::new(), Vec::<&Binding>::new(), Vec::new());
        for known in candidates {
            let (Ok(read), Some(refs)) = (&known.object.read, &known.refs) else { continue };
            let standing = match served.iter().find_map(|winner| conflict(winner, &read.binding)) {
                Some(conflict) => Standing::Lost(conflict),
                None => {
                    let (item, missing) = refs.item(read, by_account(&read.binding, &self.secrets, account));
                    items.push(item);
                    served.push(&read.binding);
                    missing.map_or(Standing::Served, Standing::Lacks)
                }
            };
            standings.push((known.object.id.name.clone(), standing));
        }
        (Snapshot { items }, standings)
    }

    fn publish(&mut self, account: &ServiceAccount, view: Snapshot, views: &Views) {
        let before = self.views.get(account).map_or(&[][..], |view| &view.items);
        if before.len() == view.items.len() && before.iter().zip(&view.items).all(|(a, b)| same_item(a, b)) {
            return;
        }
        let view = Arc::new(view);
        if view.items.is_empty() {
            self.views.remove(account);
        } else {
            self.views.insert(account.clone(), Arc::clone(&view));
        }
        let caller = CallerKey { namespace: self.namespace.clone(), service_account: account.clone(), user: None };
        views.publish(&caller, view);
    }

    /// Which kinds have to be read for these bindings.
    pub(super) fn wanted(&self) -> impl Iterator<Item = Kind> {
        let mut bindings = self.bindings.values().filter_map(|known| known.object.binding());
        let bundles = bindings.clone().any(|binding| binding.server.ca_bundle.is_some());
        let secrets = bindings.next().is_some();
        [secrets.then_some(Kind::Secrets), bundles.then_some(Kind::Bundles)].into_iter().flatten()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.wanted().all(|kind| match kind {
            Kind::Secrets => self.secrets.is_settled(),
            Kind::Bundles => self.bundles.is_settled(),
        })
    }

    /// Whether there is nothing to remember of it.
    pub(super) fn is_idle(&self) -> bool {
        let unasked = matches!(self.secrets, Store::Unasked) && matches!(self.bundles, Store::Unasked);
        self.bindings.is_empty() && unasked
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.bindings.keys()
    }

    pub(super) fn facts(&self, name: &ObjectName) -> Option<Facts> {
        let Known { object, refs, standing } = self.bindings.get(name)?;
        let missing = refs.iter().flat_map(|refs| {
            let bundle = refs.ca_bundle.as_ref().and_then(|bundle| bundle.as_ref().err());
            refs.value.as_ref().err().into_iter().chain(bundle)
        });
        Some(Facts {
            id: object.id.clone(),
            uid: object.uid.clone(),
            version: object.version.clone(),
            generation: object.generation,
            faults: object.read.as_ref().err().cloned().unwrap_or_default(),
            secret: object.binding().map(|binding| binding.credential.secret_name().clone()),
            missing: missing.cloned().collect(),
            standing: standing.clone(),
            reported: object.reported.clone(),
            reported_generation: object.reported_generation,
        })
    }
}

fn conflict(winner: &Binding, loser: &Binding) -> Option<Conflict> {
    overlap(winner, loser).map(|over| Conflict { loser: loser.id.clone(), winner: winner.id.clone(), over })
}

fn same_item(a: &Item, b: &Item) -> bool {
    let value = match (&a.value, &b.value) {
        (Ok(a), Ok(b)) => a.version == b.version && a.changed == b.changed && a.secret.same_as(&b.secret),
        (Err(a), Err(b)) => a == b,
        _ => false,
    };
    value && a.document.get() == b.document.get() && a.ca_bundle == b.ca_bundle
}
