//! What is known of one binding, for its status.

use std::collections::BTreeMap;

use super::refs::Missing;
use crate::api::shape::Fault;
use crate::control::condition::Condition;
use crate::core::name::{BindingId, ObjectName, ServiceAccount};
use crate::core::routes::Conflict;

/// What is known of one binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Which one it is.
    pub id: BindingId,
    /// This one, not an earlier one of that name.
    pub uid: String,
    /// Its resourceVersion.
    pub version: String,
    /// Of the document that all this is said of.
    pub generation: i64,
    /// What is wrong with the document.
    pub faults: Vec<Fault>,
    /// The Secret that it names, if it can be read.
    pub secret: Option<ObjectName>,
    /// What its references lack, whoever asks.
    pub missing: Vec<Missing>,
    /// How it stands with each of its service accounts. Empty for a document that cannot be read.
    pub standing: BTreeMap<ServiceAccount, Standing>,
    /// The conditions that stand in its status already.
    pub reported: Vec<Condition>,
    /// The generation that its status says it is of.
    pub reported_generation: Option<i64>,
}

/// How a binding stands with one service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its calls are served.
    Served,
    /// They are refused, for this.
    Lacks(Missing),
    /// An older binding has the same server.
    Lost(Conflict),
}
