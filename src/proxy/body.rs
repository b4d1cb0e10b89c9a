//! A request's body, read whole: its bytes, and its share of what all bodies together may take.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::decide::Refusal;
use crate::core::reason::Reason;

/// A body and its share of the budget, given back together when the last of those who hold it has gone.
#[derive(Clone, Default)]
pub(super) struct RequestBody(Option<Arc<Held>>);

struct Held {
    bytes: Vec<u8>,
    from: usize,
    share: Share,
}

impl RequestBody {
    /// What stands behind `from`.
    pub(super) fn new(bytes: Vec<u8>, from: usize, share: Share) -> Self {
        Self(Some(Arc::new(Held { bytes, from, share })))
    }
}

impl Deref for RequestBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_ref().and_then(|held| held.bytes.get(held.from..)).unwrap_or_default()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.share.budget.keep(std::mem::take(&mut self.bytes));
    }
}

/// How many bytes all bodies together may take.
pub(super) struct Budget {
    left: AtomicUsize,
    rooms: Mutex<Rooms>,
}

/// Where large bodies were, for the next ones: memory that the system has to give anew for each of them, page by page,
/// takes longer than to send them.
#[derive(Default)]
struct Rooms {
    /// The one used last is the last.
    free: Vec<Vec<u8>>,
    /// Whether one was wanted since the last [`Budget::tidy`].
    wanted: bool,
}

/// From so many bytes on. The allocator keeps smaller ones itself.
const LARGE: usize = 128 * 1024;
/// How many bytes are kept at most, until nobody has wanted any for a while.
const MAX_KEPT: usize = 8 * 1024 * 1024;

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes), rooms: Mutex::default() })
    }

    /// How many bytes nobody has.
    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    fn rooms(&self) -> std::sync::MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a body of so many bytes.
    pub(super) fn room(&self, bytes: usize) -> Vec<u8> {
        if bytes >= LARGE {
            let mut rooms = self.rooms();
            rooms.wanted = true;
            if let Some(fits) = rooms.free.iter().rposition(|room| room.capacity() >= bytes) {
                return rooms.free.remove(fits);
            }
        }
        Vec::with_capacity(bytes)
    }

    fn keep(&self, mut room: Vec<u8>) {
        let size = room.capacity();
        if !(LARGE..=MAX_KEPT).contains(&size) {
            return;
        }
        room.clear();
        let mut rooms = self.rooms();
        let kept: usize = rooms.free.iter().map(Vec::capacity).sum();
        let mut over = (kept + size).saturating_sub(MAX_KEPT);
        rooms.free.retain(|old| {
            let stays = over == 0;
            over = over.saturating_sub(old.capacity());
            stays
        });
        rooms.free.push(room);
    }

    /// Gives back what nobody has wanted since the last time.
    pub(super) fn tidy(&self) {
        let mut rooms = self.rooms();
        if !std::mem::take(&mut rooms.wanted) {
            rooms.free = Vec::new();
        }
    }
}

/// A share of the budget.
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Share {
    /// Of so many bytes.
    pub(super) fn reserve(budget: &Arc<Budget>, bytes: usize) -> Result<Self, Refusal> {
        let mut share = Self { budget: Arc::clone(budget), bytes: 0 };
        share.grow(bytes)?;
        Ok(share)
    }

    /// So many more.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let taken = self.budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.map_err(|_| Refusal::because(Reason::Overloaded, "limits.bodyBudgetBytes are in use"))?;
        self.bytes += bytes;
        Ok(())
    }

    /// How many bytes it is good for.
    pub(super) fn size(&self) -> usize {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(budget: &Arc<Budget>, bytes: usize) -> RequestBody {
        let share = Share::reserve(budget, bytes).unwrap();
        let mut room = budget.room(bytes);
        assert!(room.is_empty(), "what another body was is not in it");
        room.resize(bytes, b'x');
        RequestBody::new(room, 0, share)
    }

    #[test]
    fn a_share_is_given_back_with_the_last_who_holds_the_body() {
        let budget = Budget::new(10);
        let (first, mut more) = (body(&budget, 6), Share::reserve(&budget, 0).unwrap());
        let shared = first.clone();
        assert_eq!((more.grow(5).unwrap_err().reason, more.size(), budget.left()), (Reason::Overloaded, 0, 4));
        drop(first);
        more.grow(4).unwrap();
        assert_eq!((&shared[..], more.size(), budget.left()), (b"xxxxxx".as_slice(), 4, 0));
        drop(shared);
        assert_eq!(budget.left(), 6);
        drop(more);
        assert_eq!(budget.left(), 10);
    }

    #[test]
    fn a_large_body_gets_the_room_of_one_before_until_none_is_wanted() {
        let budget = Budget::new(usize::MAX);
        let kept = || budget.rooms().free.iter().map(Vec::capacity).collect::<Vec<_>>();
        let place = |body: &RequestBody| body.as_ptr();
        let first = body(&budget, 2 * LARGE);
        let was = place(&first);
        drop((first, body(&budget, LARGE - 1)));
        assert_eq!(kept(), [2 * LARGE]);
        let second = body(&budget, LARGE);
        assert_eq!((place(&second), kept()), (was, vec![]));
        let third = body(&budget, 3 * LARGE);
        drop((second, third));
        assert_eq!(kept(), [2 * LARGE, 3 * LARGE]);
        budget.tidy();
        assert_eq!(kept().len(), 2, "they were wanted meanwhile");
        budget.tidy();
        assert!(kept().is_empty());
    }

    /// The oldest make room for the last.
    #[test]
    fn no_more_is_kept_than_is_allowed() {
        let budget = Budget::new(usize::MAX);
        let third = MAX_KEPT / 3;
        drop([LARGE, third, third, third].map(|bytes| body(&budget, bytes)));
        let kept: Vec<usize> = budget.rooms().free.iter().map(Vec::capacity).collect();
        assert_eq!(kept, [third, third, third]);
        drop(body(&budget, MAX_KEPT + 1));
        drop(body(&budget, MAX_KEPT));
        assert_eq!(budget.rooms().free.iter().map(Vec::capacity).collect::<Vec<_>>(), [MAX_KEPT]);
    }
}
