//! The objects of one kind in one namespace, as far as we may read them.

use std::collections::BTreeMap;

use crate::core::name::ObjectName;

/// Whether we may read one kind in one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Not asked yet, or nobody needs to know any more.
    Unasked,
    /// We may not.
    Denied,
    /// We may.
    Granted,
}

/// The objects, or why there are none. Only what is granted and listed is held.
#[derive(Default)]
pub(super) enum Store<T> {
    #[default]
    Unasked,
    Denied,
    /// Granted, not listed yet.
    Waiting,
    Listed(BTreeMap<ObjectName, T>),
}

impl<T> Store<T> {
    /// What is held goes with the right to hold it.
    pub(super) fn access(&mut self, access: Access) {
        match (access, &self) {
            (Access::Unasked, _) => *self = Self::Unasked,
            (Access::Denied, _) => *self = Self::Denied,
            (Access::Granted, Self::Unasked | Self::Denied) => *self = Self::Waiting,
            (Access::Granted, Self::Waiting | Self::Listed(_)) => {}
        }
    }

    /// Takes a whole list. One that comes after the right to it has gone is not kept.
    pub(super) fn list(&mut self, objects: impl IntoIterator<Item = (ObjectName, T)>) {
        if matches!(self, Self::Waiting | Self::Listed(_)) {
            *self = Self::Listed(objects.into_iter().collect());
        }
    }

    /// Takes or removes one object, once there is a list that it can belong to.
    pub(super) fn put(&mut self, name: ObjectName, object: Option<T>) {
        if let Self::Listed(objects) = self {
            match object {
                Some(object) => drop(objects.insert(name, object)),
                None => drop(objects.remove(&name)),
            }
        }
    }

    /// Whether it is known what is there: all of it, or that we may not know.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self, Self::Denied | Self::Listed(_))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Listed(objects) => objects.len(),
            _ => 0,
        }
    }
}
