//! One condition of an object's status.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// As in every Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is said.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word of a closed list.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// The generation of the object that it was said of.
    #[serde(default)]
    pub observed_generation: i64,
    /// Since when the status has been what it is.
    pub last_transition_time: String,
}

impl Condition {
    /// Reads one from an object's status; what is not whole is none.
    pub fn read(value: &Value) -> Option<Self> {
        Self::deserialize(value).ok()
    }
}
