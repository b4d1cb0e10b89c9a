//! Snapshots as bytes, once for all streams of an account that send the same one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use zeroize::Zeroizing;

use crate::core::name::CallerKey;
use crate::core::wire::{self, Message, Snapshot};

/// A snapshot and its line; wiped when the last stream has sent it.
pub(super) struct Encoded {
    snapshot: Arc<Snapshot>,
    pub(super) line: Bytes,
}

/// The lines that are being sent.
#[derive(Default)]
pub(super) struct Encodings(Mutex<HashMap<CallerKey, Weak<Encoded>>>);

/// Entries that nobody sends any more are looked for when there are this many, and then at each
/// doubling.
const TIDY: usize = 256;

impl Encodings {
    /// The line of this snapshot.
    pub(super) fn of(&self, account: &CallerKey, snapshot: &Arc<Snapshot>) -> Arc<Encoded> {
        let mut encodings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = encodings.get(account).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| Arc::ptr_eq(&known.snapshot, snapshot)) {
            return known;
        }
        if encodings.len() >= TIDY && encodings.len().is_power_of_two() {
            encodings.retain(|_, encoded| encoded.strong_count() > 0);
        }
        let line = line(&Message::Snapshot((**snapshot).clone()));
        let encoded = Arc::new(Encoded { snapshot: Arc::clone(snapshot), line });
        encodings.insert(account.clone(), Arc::downgrade(&encoded));
        encoded
    }
}

/// A message's line, wiped when the last piece of it is sent.
pub(super) fn line(message: &Message) -> Bytes {
    Bytes::from_owner(Wiped(wire::encode(message)))
}

struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::name::{Namespace, ServiceAccount};

    fn account(name: &str) -> CallerKey {
        let (namespace, service_account) = (Namespace::parse("ns").unwrap(), ServiceAccount::parse(name).unwrap());
        CallerKey { namespace, service_account, user: None }
    }

    #[test]
    fn a_snapshot_is_encoded_once_while_it_is_sent() {
        let (encodings, snapshot) = (Encodings::default(), Arc::new(Snapshot::default()));
        let first = encodings.of(&account("a"), &snapshot);
        assert!(Arc::ptr_eq(&first, &encodings.of(&account("a"), &snapshot)));
        let other = Arc::new(Snapshot::default());
        assert!(!Arc::ptr_eq(&first, &encodings.of(&account("b"), &snapshot)), "each account has its own");
        assert!(!Arc::ptr_eq(&first, &encodings.of(&account("a"), &other)), "another snapshot is another line");
        drop(first);
        for number in 0..4 * TIDY {
            encodings.of(&account(&format!("n{number}")), &snapshot);
        }
        assert!(encodings.0.lock().unwrap().len() <= 2 * TIDY, "who has left is not remembered");
    }
}
