//! Which binding is looked at next.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Instant;

use crate::core::name::BindingId;

/// Each binding stands in it once, and is handed out once at a time.
#[derive(Default)]
pub(super) struct Queue {
    changed: VecDeque<BindingId>,
    due: VecDeque<BindingId>,
    /// Those that wait, and where. Whatever else stands in a lane was handed out from the other one.
    waiting: HashMap<BindingId, Lane>,
    next: Lane,
    /// Those that were handed out and not given back.
    out: HashSet<BindingId>,
    /// Those of `out` that have changed since.
    again: HashSet<BindingId>,
    later: BTreeSet<(Instant, BindingId)>,
    when: HashMap<BindingId, Instant>,
}

/// The lanes take turns: neither a few bindings that change all the time nor thousands that are due hold up the others.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Lane {
    #[default]
    Changed,
    Due,
}

impl Queue {
    /// One that has changed.
    pub(super) fn changed(&mut self, id: BindingId) {
        if self.waiting.insert(id.clone(), Lane::Changed) != Some(Lane::Changed) {
            self.changed.push_back(id);
        }
    }

    /// One that is due.
    pub(super) fn due(&mut self, id: BindingId) {
        if !self.waiting.contains_key(&id) {
            self.waiting.insert(id.clone(), Lane::Due);
            self.due.push_back(id);
        }
    }

    /// One that will be due at `at`, and not at another time.
    fn due_at(&mut self, id: BindingId, at: Instant) {
        self.not_due(&id);
        self.when.insert(id.clone(), at);
        self.later.insert((at, id));
    }

    fn not_due(&mut self, id: &BindingId) {
        if let Some(at) = self.when.remove(id) {
            self.later.remove(&(at, id.clone()));
        }
    }

    /// The next one.
    pub(super) fn next(&mut self, now: Instant) -> Option<BindingId> {
        while let Some((at, id)) = self.later.pop_first() {
            if at > now {
                self.later.insert((at, id));
                break;
            }
            self.when.remove(&id);
            self.due(id);
        }
        while let Some(id) = self.take() {
            if self.out.contains(&id) {
                self.again.insert(id);
                continue;
            }
            self.not_due(&id);
            self.out.insert(id.clone());
            return Some(id);
        }
        None
    }

    /// The first of the lane whose turn it is; where nobody waits in it, of the other one.
    fn take(&mut self) -> Option<BindingId> {
        let (first, second) = match self.next {
            Lane::Changed => (Lane::Changed, Lane::Due),
            Lane::Due => (Lane::Due, Lane::Changed),
        };
        self.next = second;
        self.take_from(first).or_else(|| self.take_from(second))
    }

    fn take_from(&mut self, lane: Lane) -> Option<BindingId> {
        loop {
            let id = match lane {
                Lane::Changed => self.changed.pop_front(),
                Lane::Due => self.due.pop_front(),
            }?;
            if self.waiting.get(&id) == Some(&lane) {
                self.waiting.remove(&id);
                return Some(id);
            }
        }
    }

    /// One that was handed out is given back, and is due again at `at`.
    pub(super) fn done(&mut self, id: BindingId, at: Option<Instant>) {
        self.out.remove(&id);
        if self.again.remove(&id) {
            self.changed(id);
        } else if let Some(at) = at {
            self.due_at(id, at);
        }
    }

    /// When one is due that is not yet.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::name::{Namespace, ObjectName};
    use crate::runtime::clock;

    fn id(name: &str) -> BindingId {
        BindingId { namespace: Namespace::parse("ns").unwrap(), name: ObjectName::parse(name).unwrap() }
    }

    fn all(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.next(now)).map(|id| id.name.to_string()).collect()
    }

    #[test]
    fn what_has_changed_and_what_is_due_take_turns_and_each_is_handed_out_once() {
        let (mut queue, now) = (Queue::default(), clock::now());
        for name in ["a", "b", "c", "d", "a"] {
            queue.due(id(name));
        }
        for name in ["d", "d", "e", "f"] {
            queue.changed(id(name));
        }
        queue.due(id("e"));
        assert_eq!(all(&mut queue, now), ["d", "a", "e", "b", "f", "c"]);
    }

    /// Three that change whenever they were looked at leave half of the looks to a hundred that are due.
    #[test]
    fn nobody_holds_up_the_others() {
        let (mut queue, now) = (Queue::default(), clock::now());
        let busy = ["a", "b", "c"];
        (0..100).for_each(|n| queue.due(id(&format!("due-{n}"))));
        busy.iter().for_each(|name| queue.changed(id(name)));
        let mut seen: HashMap<String, u32> = HashMap::new();
        for _ in 0..198 {
            let next = queue.next(now).unwrap();
            let name = next.name.to_string();
            queue.done(next.clone(), None);
            if busy.contains(&name.as_str()) {
                queue.changed(next);
            }
            *seen.entry(name).or_default() += 1;
        }
        assert_eq!(busy.map(|name| seen.remove(name)), [Some(33); 3]);
        assert_eq!((seen.len(), seen.values().max()), (99, Some(&1)));
    }

    #[test]
    fn one_that_is_out_waits_until_it_is_back() {
        let (mut queue, now) = (Queue::default(), clock::now());
        queue.changed(id("a"));
        assert_eq!(queue.next(now), Some(id("a")));
        queue.changed(id("a"));
        assert_eq!(queue.next(now), None);
        queue.done(id("a"), Some(now + Duration::from_secs(60)));
        assert_eq!(queue.next(now), Some(id("a")), "it has changed while it was out");
        queue.done(id("a"), None);
        assert_eq!((queue.next(now), queue.wake()), (None, None));
    }

    #[test]
    fn one_is_due_at_the_last_time_that_was_told() {
        let (mut queue, now) = (Queue::default(), clock::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        for seconds in [5, 9] {
            queue.changed(id("a"));
            queue.next(now);
            queue.done(id("a"), Some(at(seconds)));
        }
        assert_eq!((queue.next(at(5)), queue.wake()), (None, Some(at(9))));
        assert_eq!(all(&mut queue, at(9)), ["a"]);
        queue.done(id("a"), None);
        assert_eq!((all(&mut queue, at(100)).len(), queue.wake()), (0, None));
    }
}
