//! What each service account may have at this moment: written by the index, read by the broker's
//! streams.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::core::name::CallerKey;
use crate::core::wire::Snapshot;

/// The views of all service accounts. A reader gets its own account's and no other.
#[derive(Clone, Default)]
pub struct Views(Arc<Mutex<Accounts>>);

type Accounts = HashMap<CallerKey, watch::Sender<Arc<Snapshot>>>;

impl Views {
    /// The account's view and its changes. An account that nothing is bound to has an empty one.
    pub fn subscribe(&self, account: &CallerKey) -> watch::Receiver<Arc<Snapshot>> {
        self.accounts().entry(account.clone()).or_default().subscribe()
    }

    /// Puts an account's view in force.
    pub fn publish(&self, account: &CallerKey, view: Arc<Snapshot>) {
        let mut accounts = self.accounts();
        if view.items.is_empty() && accounts.get(account).is_none_or(watch::Sender::is_closed) {
            accounts.remove(account);
            return;
        }
        accounts.entry(account.clone()).or_default().send_replace(view);
    }

    /// Forgets the accounts that have nothing and that nobody listens for.
    pub fn tidy(&self) {
        self.accounts().retain(|_, view| !view.is_closed() || !view.borrow().items.is_empty());
    }

    /// How many accounts are known: those with a view, and those with a reader.
    pub fn len(&self) -> usize {
        self.accounts().len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        // A reader that panicked has changed nothing: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::core::name::{Namespace, ServiceAccount};
    use crate::core::wire::{Cause, Gap, Item};

    fn account(name: &str) -> CallerKey {
        CallerKey {
            namespace: Namespace::parse("ns").unwrap(),
            service_account: ServiceAccount::parse(name).unwrap(),
            user: None,
        }
    }

    fn one() -> Arc<Snapshot> {
        let document = Arc::from(RawValue::from_string("{}".into()).unwrap());
        let value = Err(Gap { cause: Cause::Absent, text: String::new() });
        Arc::new(Snapshot { items: vec![Item { document, value, ca_bundle: None }] })
    }

    #[test]
    fn a_reader_sees_its_own_account_only() {
        let views = Views::default();
        let (mut a, b) = (views.subscribe(&account("a")), views.subscribe(&account("b")));
        assert!(a.borrow().items.is_empty());
        views.publish(&account("a"), one());
        assert!(a.has_changed().unwrap() && !b.has_changed().unwrap());
        assert_eq!(a.borrow_and_update().items.len(), 1);
        views.publish(&account("a"), Arc::default());
        assert!(a.borrow_and_update().items.is_empty());
    }

    #[test]
    fn what_nobody_has_or_hears_is_forgotten() {
        let views = Views::default();
        views.publish(&account("a"), one());
        assert_eq!(views.len(), 1);
        assert_eq!(views.subscribe(&account("a")).borrow().items.len(), 1);
        views.publish(&account("a"), Arc::default());
        assert!(views.is_empty());
        let reader = views.subscribe(&account("b"));
        views.tidy();
        assert_eq!(views.len(), 1);
        drop(reader);
        views.tidy();
        assert!(views.is_empty());
    }
}
