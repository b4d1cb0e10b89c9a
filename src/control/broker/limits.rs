//! How often, and how many at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A rate: so many at once, and so many a second after that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// A second.
    pub per_second: f64,
}

/// Counts by key what may only happen so often.
pub(super) struct Buckets<K> {
    rate: Rate,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// How many keys are remembered. Beyond it all begin anew: the limit on reviews under way holds
/// all the same.
const MAX_KEYS: usize = 16_384;

impl<K: Eq + Hash + Clone> Buckets<K> {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, buckets: Mutex::default() }
    }

    /// Whether it may happen, without counting it.
    pub(super) fn allows(&self, key: &K, now: Instant) -> bool {
        lock(&self.buckets).get(key).is_none_or(|bucket| self.left(*bucket, now) >= 1.0)
    }

    /// Counts it; whether it may happen.
    pub(super) fn take(&self, key: &K, now: Instant) -> bool {
        let mut buckets = lock(&self.buckets);
        if buckets.len() >= MAX_KEYS && !buckets.contains_key(key) {
            let full = f64::from(self.rate.burst);
            buckets.retain(|_, bucket| self.left(*bucket, now) < full);
            if buckets.len() >= MAX_KEYS {
                buckets.clear();
            }
        }
        let fresh = Bucket { left: f64::from(self.rate.burst), at: now };
        let bucket = buckets.entry(key.clone()).or_insert(fresh);
        let left = self.left(*bucket, now);
        let allowed = left >= 1.0;
        *bucket = Bucket { left: if allowed { left - 1.0 } else { left }, at: now };
        allowed
    }

    fn left(&self, bucket: Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + since * self.rate.per_second).min(f64::from(self.rate.burst))
    }
}

/// Counts by key how many there are at once.
pub(super) struct Shares<K: Eq + Hash> {
    max: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// One of them; given back when dropped.
pub(super) struct Share<K: Eq + Hash> {
    key: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    pub(super) fn new(max: usize) -> Self {
        Self { max, taken: Arc::default() }
    }

    /// One more of this key, if it may have it.
    pub(super) fn take(&self, key: &K) -> Option<Share<K>> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(key.clone()).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Share { key: key.clone(), taken: Arc::clone(&self.taken) })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        let left = taken.get_mut(&self.key).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            taken.remove(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::runtime::clock;

    #[test]
    fn a_bucket_empties_and_fills() {
        let buckets = Buckets::new(Rate { burst: 3, per_second: 2.0 });
        let now = clock::now();
        let taken = |at| (0..5).filter(|_| buckets.take(&"a", at)).count();
        assert_eq!(taken(now), 3);
        assert!(!buckets.allows(&"a", now) && buckets.allows(&"b", now), "each key has its own");
        assert_eq!(taken(now + Duration::from_millis(499)), 0);
        assert_eq!(taken(now + Duration::from_millis(1000)), 2);
        assert_eq!(taken(now + Duration::from_secs(3600)), 3, "never more than the burst");
        assert_eq!(taken(now), 0, "a clock that goes back gives nothing");
    }

    #[test]
    fn keys_do_not_pile_up() {
        let buckets = Buckets::new(Rate { burst: 1, per_second: 1.0 });
        let now = clock::now();
        for key in 0..3 * MAX_KEYS {
            assert!(buckets.take(&key, now));
        }
        assert!(lock(&buckets.buckets).len() <= MAX_KEYS);
    }

    #[test]
    fn a_share_is_given_back() {
        let shares = Shares::new(2);
        let (first, second) = (shares.take(&"a"), shares.take(&"a"));
        assert!(first.is_some() && second.is_some() && shares.take(&"a").is_none() && shares.take(&"b").is_some());
        drop(first);
        assert!(shares.take(&"a").is_some());
        drop(second);
        assert!(lock(&shares.taken).is_empty(), "nobody is remembered for nothing");
    }
}
