//! What every source of credentials delivers: whole snapshots, never single changes.
//!
//! A snapshot says what is true now. What was there before and is not in it is revoked; there is
//! no event to lose.

use std::sync::Arc;
use std::time::SystemTime;

use crate::core::binding::Binding;
use crate::core::secret::{SecretFault, SecretValue};

/// Everything a source holds for one caller, oldest binding first.
#[derive(Default)]
pub struct Snapshot {
    /// The bindings with their values.
    pub entries: Vec<Entry>,
}

/// One binding and what its references lead to.
#[derive(Clone)]
pub struct Entry {
    /// The binding.
    pub binding: Arc<Binding>,
    /// Its value. For `Basic`: user, colon, password.
    pub value: Result<Value, Missing>,
    /// Its CA bundle, if it names one: PEM.
    pub ca_bundle: Option<Result<Arc<[u8]>, Missing>>,
}

/// A value and what is known about it.
#[derive(Clone)]
pub struct Value {
    /// The secret itself.
    pub secret: Arc<SecretValue>,
    /// The source's version of it: a resourceVersion, or a file's time of change.
    pub version: String,
    /// When it changed at the source.
    pub changed: Option<SystemTime>,
}

/// Why a reference leads to nothing usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// There is no such Secret, ConfigMap or key.
    #[error("{0} does not exist")]
    Absent(String),
    /// It is there but cannot be read.
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, String),
    /// Its value breaks a rule.
    #[error("{0}: {1}")]
    Invalid(String, SecretFault),
    /// The broker found a value that breaks a rule.
    #[error("{0}")]
    Unusable(String),
    /// Its owner has not consented to this use.
    #[error("{0}")]
    NotConsented(String),
    /// The broker may not or cannot give it.
    #[error("{0}")]
    Withheld(String),
    /// It would travel in clear text in a pod that is not hardened.
    #[error("the url is plaintext, and the pod is not known to be hardened")]
    PodTooWeak,
}

impl Entry {
    /// Whether a request could be sent with this entry.
    pub fn is_usable(&self) -> bool {
        self.value.is_ok() && !matches!(self.ca_bundle, Some(Err(_)))
    }
}
