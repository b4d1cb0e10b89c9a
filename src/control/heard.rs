//! Whether what the views say is what the cluster says: written by the watch, asked by whoever would vouch for a view.

use std::collections::BTreeSet;

use crate::core::name::Namespace;

/// How far the cluster is heard at this moment.
///
/// A namespace whose objects cannot be read for now silences nobody but its own service accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Whether the bindings are: without them nothing can be said of anyone.
    pub bindings: bool,
    /// Where what they refer to is not, or not yet.
    pub deaf: BTreeSet<Namespace>,
}

impl Heard {
    /// Everything is.
    pub fn all() -> Self {
        Self { bindings: true, deaf: BTreeSet::new() }
    }

    /// Whether a view of this namespace can be vouched for.
    pub fn vouches_for(&self, namespace: &Namespace) -> bool {
        self.bindings && !self.deaf.contains(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_namespace_silences_only_itself() {
        let namespace = |name: &str| Namespace::parse(name).unwrap();
        let heard = |bindings, deaf: &[&str]| Heard { bindings, deaf: deaf.iter().map(|one| namespace(one)).collect() };
        for (heard, a, b) in [
            (Heard::default(), false, false),
            (Heard::all(), true, true),
            (heard(true, &["a"]), false, true),
            (heard(false, &["a"]), false, false),
        ] {
            assert_eq!((heard.vouches_for(&namespace("a")), heard.vouches_for(&namespace("b"))), (a, b), "{heard:?}");
        }
    }
}
