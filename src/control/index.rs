//! What each service account may have, from the objects of the cluster.
//!
//! Nothing here waits, asks or looks at a clock: changes go in, and the views of the service accounts that they concern
//! come out. What a binding, a Secret or a ConfigMap says now is all that counts; one that can no longer be read is
//! withdrawn, not kept as it was. A whole list replaces what was there in one step.

mod facts;
mod object;
#[cfg(test)]
mod property_tests;
mod refs;
#[cfg(test)]
mod scenario_tests;
mod space;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

pub use facts::{Facts, Standing};
pub use object::{BundleObject, SecretObject, consent, identity};
pub use refs::{Lack, Missing};
pub use store::Access;

use self::object::BindingObject;
use self::space::{Space, Touched};
use super::views::Views;
use crate::core::name::{BindingId, Namespace, ObjectName};

/// A kind of objects that bindings refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Secrets.
    Secrets,
    /// ConfigMaps with CA certificates.
    Bundles,
}

/// One kind in one namespace: what is granted, listed and watched as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The kind.
    pub kind: Kind,
    /// The namespace.
    pub namespace: Namespace,
}

/// Something that became known.
pub enum Change {
    /// A binding as it stands now.
    Binding(Value),
    /// A binding is gone.
    BindingGone(BindingId),
    /// All bindings of the cluster.
    Bindings(Vec<Value>),
    /// Whether we may read a scope.
    Access(Scope, Access),
    /// A Secret as it stands now.
    Secret(Namespace, SecretObject),
    /// A Secret is gone.
    SecretGone(Namespace, ObjectName),
    /// All Secrets of a namespace.
    Secrets(Namespace, Vec<SecretObject>),
    /// A ConfigMap as it stands now.
    Bundle(Namespace, BundleObject),
    /// A ConfigMap is gone.
    BundleGone(Namespace, ObjectName),
    /// All ConfigMaps of a namespace.
    Bundles(Namespace, Vec<BundleObject>),
}

/// The index.
pub struct Index {
    views: Views,
    spaces: BTreeMap<Namespace, Space>,
    /// Whether the bindings were listed.
    listed: bool,
}

impl Index {
    /// An index that knows nothing yet and writes to `views`.
    pub fn new(views: Views) -> Self {
        Self { views, spaces: BTreeMap::new(), listed: false }
    }

    /// Takes a change at `now`, in milliseconds since 1970, and puts every view that it changes in force. Tells the
    /// bindings whose [`facts`](Self::facts) may have changed.
    pub fn apply(&mut self, change: Change, now: u64) -> BTreeSet<BindingId> {
        match change {
            Change::Binding(raw) => self.binding(&raw, now),
            Change::BindingGone(id) => {
                self.within(id.namespace, now, |space, touched| space.put(id.name, None, touched))
            }
            Change::Bindings(list) => self.bindings(&list, now),
            Change::Access(Scope { kind, namespace }, access) => self.within(namespace, now, |space, touched| {
                match kind {
                    Kind::Secrets => space.secrets.access(access),
                    Kind::Bundles => space.bundles.access(access),
                }
                space.touch(kind, None, touched);
            }),
            Change::Secret(namespace, object) => {
                let name = object.name.clone();
                self.secret(namespace, name, Some(object), now)
            }
            Change::SecretGone(namespace, name) => self.secret(namespace, name, None, now),
            Change::Secrets(namespace, list) => self.within(namespace, now, |space, touched| {
                space.secrets.list(list.into_iter().map(|object| (object.name.clone(), object)));
                space.touch(Kind::Secrets, None, touched);
            }),
            Change::Bundle(namespace, object) => {
                let name = object.name.clone();
                self.bundle(namespace, name, Some(object), now)
            }
            Change::BundleGone(namespace, name) => self.bundle(namespace, name, None, now),
            Change::Bundles(namespace, list) => self.within(namespace, now, |space, touched| {
                space.bundles.list(list.into_iter().map(|object| (object.name.clone(), object)));
                space.touch(Kind::Bundles, None, touched);
            }),
        }
    }

    fn binding(&mut self, raw: &Value, now: u64) -> BTreeSet<BindingId> {
        // The API server stores no object without a good name and namespace.
        let Some(id) = identity(raw) else { return BTreeSet::new() };
        let object = BindingObject::read(id.clone(), raw);
        self.within(id.namespace, now, |space, touched| space.put(id.name, object, touched))
    }

    fn bindings(&mut self, list: &[Value], now: u64) -> BTreeSet<BindingId> {
        let mut all: BTreeMap<Namespace, BTreeMap<ObjectName, BindingObject>> =
            self.spaces.keys().map(|namespace| (namespace.clone(), BTreeMap::new())).collect();
        for raw in list {
            let object = identity(raw).and_then(|id| BindingObject::read(id, raw));
            let Some(object) = object else { continue };
            all.entry(object.id.namespace.clone()).or_default().insert(object.id.name.clone(), object);
        }
        self.listed = true;
        let lists = all.into_iter();
        let taken = lists
            .map(|(namespace, objects)| self.within(namespace, now, |space, touched| space.list(objects, touched)));
        taken.flatten().collect()
    }

    fn secret(
        &mut self,
        namespace: Namespace,
        name: ObjectName,
        object: Option<SecretObject>,
        now: u64,
    ) -> BTreeSet<BindingId> {
        self.within(namespace, now, |space, touched| {
            space.touch(Kind::Secrets, Some(&name), touched);
            space.secrets.put(name, object);
        })
    }

    fn bundle(
        &mut self,
        namespace: Namespace,
        name: ObjectName,
        object: Option<BundleObject>,
        now: u64,
    ) -> BTreeSet<BindingId> {
        self.within(namespace, now, |space, touched| {
            space.touch(Kind::Bundles, Some(&name), touched);
            space.bundles.put(name, object);
        })
    }

    /// Makes a change in one namespace and draws its consequences.
    fn within(
        &mut self,
        namespace: Namespace,
        now: u64,
        change: impl FnOnce(&mut Space, &mut Touched),
    ) -> BTreeSet<BindingId> {
        let space = self.spaces.entry(namespace.clone()).or_insert_with(|| Space::new(namespace.clone()));
        let mut touched = Touched::default();
        change(space, &mut touched);
        space.settle(&mut touched, &self.views, now);
        if space.is_idle() {
            self.spaces.remove(&namespace);
        }
        touched.bindings.into_iter().map(|name| BindingId { namespace: namespace.clone(), name }).collect()
    }

    /// What has to be read for the bindings that there are.
    pub fn wanted(&self) -> BTreeSet<Scope> {
        let scopes = |(namespace, space): (&Namespace, &Space)| {
            let namespace = namespace.clone();
            space.wanted().map(move |kind| Scope { kind, namespace: namespace.clone() }).collect::<Vec<_>>()
        };
        self.spaces.iter().flat_map(scopes).collect()
    }

    /// Whether everything that is wanted was listed, or may not be.
    pub fn is_settled(&self) -> bool {
        self.listed && self.spaces.values().all(Space::is_settled)
    }

    /// What is known of a binding; `None` once it is gone.
    pub fn facts(&self, id: &BindingId) -> Option<Facts> {
        self.spaces.get(&id.namespace)?.facts(&id.name)
    }

    /// Every binding.
    pub fn ids(&self) -> impl Iterator<Item = BindingId> {
        self.spaces.iter().flat_map(|(namespace, space)| {
            space.names().map(|name| BindingId { namespace: namespace.clone(), name: name.clone() })
        })
    }

    /// How many Secrets are held in memory.
    pub fn secrets(&self) -> usize {
        self.spaces.values().map(|space| space.secrets.len()).sum()
    }
}
