//! What is known of each binding now, and which of them have to be looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::control::index::Facts;
use crate::core::name::BindingId;

/// The latest facts of every binding. Whoever writes never waits for whoever reads: what changes several times before
/// it is looked at is looked at once.
#[derive(Clone, Default)]
pub struct Board(Arc<Shared>);

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    facts: BTreeMap<BindingId, Arc<Facts>>,
    dirty: BTreeSet<BindingId>,
}

impl Board {
    /// Takes what is known of a binding now; `None` if it is gone. What says nothing new changes nothing.
    pub fn put(&self, id: BindingId, facts: Option<Facts>) {
        let mut known = self.known();
        let same = match (known.facts.get(&id), &facts) {
            (Some(before), Some(now)) => **before == *now,
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        match facts {
            Some(facts) => drop(known.facts.insert(id.clone(), Arc::new(facts))),
            None => drop(known.facts.remove(&id)),
        }
        known.dirty.insert(id);
        drop(known);
        self.0.changed.notify_one();
    }

    /// What is known of a binding.
    pub fn facts(&self, id: &BindingId) -> Option<Arc<Facts>> {
        self.known().facts.get(id).cloned()
    }

    /// The bindings that have changed or gone since this was last called.
    pub fn take_dirty(&self) -> BTreeSet<BindingId> {
        std::mem::take(&mut self.known().dirty)
    }

    /// Has every binding that there is looked at again.
    pub fn mark_all_dirty(&self) {
        let mut known = self.known();
        known.dirty = known.facts.keys().cloned().collect();
        drop(known);
        self.0.changed.notify_one();
    }

    /// Waits until there is something to look at. For one reader at a time.
    pub async fn changed(&self) {
        loop {
            let notified = self.0.changed.notified();
            if !self.known().dirty.is_empty() {
                return;
            }
            notified.await;
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::name::{Namespace, ObjectName};

    fn id(name: &str) -> BindingId {
        BindingId { namespace: Namespace::parse("ns").unwrap(), name: ObjectName::parse(name).unwrap() }
    }

    fn facts(name: &str, generation: i64) -> Facts {
        Facts {
            id: id(name),
            uid: "u".into(),
            version: String::new(),
            generation,
            faults: Vec::new(),
            secret: None,
            missing: Vec::new(),
            standing: BTreeMap::new(),
            reported: Vec::new(),
            reported_generation: None,
        }
    }

    #[test]
    fn a_burst_is_looked_at_once_and_as_it_stands_last() {
        let board = Board::default();
        for generation in 1..=1000 {
            board.put(id("a"), Some(facts("a", generation)));
        }
        assert_eq!(board.take_dirty(), BTreeSet::from([id("a")]));
        assert_eq!(board.facts(&id("a")).unwrap().generation, 1000);
        assert!(board.take_dirty().is_empty());
    }

    #[test]
    fn what_says_nothing_new_is_not_looked_at() {
        let board = Board::default();
        board.put(id("a"), Some(facts("a", 1)));
        board.take_dirty();
        board.put(id("a"), Some(facts("a", 1)));
        board.put(id("never"), None);
        assert!(board.take_dirty().is_empty());
        board.put(id("a"), Some(facts("a", 2)));
        assert_eq!(board.take_dirty().len(), 1);
    }

    #[test]
    fn one_that_is_gone_is_looked_at_and_forgotten() {
        let board = Board::default();
        board.put(id("a"), Some(facts("a", 1)));
        board.put(id("b"), Some(facts("b", 1)));
        board.take_dirty();
        board.put(id("a"), None);
        assert_eq!(board.take_dirty(), BTreeSet::from([id("a")]));
        assert!(board.facts(&id("a")).is_none());
        board.mark_all_dirty();
        assert_eq!(board.take_dirty(), BTreeSet::from([id("b")]));
    }

    #[tokio::test]
    async fn a_change_wakes_whoever_waits() {
        let board = Board::default();
        let waiting = crate::runtime::task::spawn({
            let board = board.clone();
            async move {
                board.changed().await;
                board.take_dirty()
            }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "there is nothing yet");
        board.put(id("a"), Some(facts("a", 1)));
        assert_eq!(waiting.await.unwrap(), BTreeSet::from([id("a")]));
        // What was put before somebody waits is not lost either.
        board.put(id("a"), None);
        board.changed().await;
    }
}
