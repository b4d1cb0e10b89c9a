//! What the index is told of objects, reduced to what it needs.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::api::document::read_object;
use crate::api::shape::Fault;
use crate::api::{ALLOWED_ACCOUNTS, ALLOWED_HOSTS, API_VERSION, CREDENTIAL_LABEL, KIND};
use crate::control::condition::Condition;
use crate::core::binding::Binding;
use crate::core::consent::Consent;
use crate::core::name::{BindingId, DataKey, Namespace, ObjectName, ServiceAccount};
use crate::core::secret::SecretBytes;

/// A Secret: what its owner consents to, and its keys.
pub struct SecretObject {
    /// Its name.
    pub name: ObjectName,
    /// Its resourceVersion.
    pub version: String,
    /// Read from its label and annotations.
    pub consent: Consent,
    /// Its keys. Those that no binding can name are left out.
    pub data: BTreeMap<DataKey, SecretBytes>,
}

/// A ConfigMap with CA certificates.
#[derive(Debug, Clone)]
pub struct BundleObject {
    /// Its name.
    pub name: ObjectName,
    /// Its keys that hold text.
    pub data: BTreeMap<DataKey, Arc<str>>,
}

/// What the owner of a Secret says in its labels and annotations.
pub fn consent(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Consent {
    let annotation = |name: &str| annotations.get(name).map(String::as_str);
    Consent::read(
        labels.get(CREDENTIAL_LABEL).map(String::as_str),
        annotation(ALLOWED_HOSTS),
        annotation(ALLOWED_ACCOUNTS),
    )
}

/// A binding as it stands on the API server, readable or not.
pub(super) struct BindingObject {
    pub(super) id: BindingId,
    pub(super) uid: String,
    pub(super) version: String,
    pub(super) generation: i64,
    created: Option<Timestamp>,
    pub(super) read: Result<Readable, Vec<Fault>>,
    /// The conditions that stand in its status.
    pub(super) reported: Vec<Condition>,
    /// The generation that its status says it is of.
    pub(super) reported_generation: Option<i64>,
}

pub(super) struct Readable {
    pub(super) binding: Arc<Binding>,
    /// What a sidecar is told of it.
    pub(super) document: Arc<RawValue>,
}

/// Which binding the object is.
pub fn identity(raw: &Value) -> Option<BindingId> {
    let text = |pointer: &str| raw.pointer(pointer).and_then(Value::as_str);
    let namespace = Namespace::parse(text("/metadata/namespace")?).ok()?;
    Some(BindingId { namespace, name: ObjectName::parse(text("/metadata/name")?).ok()? })
}

impl BindingObject {
    /// `None` for one that is being deleted: it is withdrawn already, whatever finalizer still holds it.
    pub(super) fn read(id: BindingId, raw: &Value) -> Option<Self> {
        let text = |pointer: &str| raw.pointer(pointer).and_then(Value::as_str);
        if text("/metadata/deletionTimestamp").is_some() {
            return None;
        }
        let conditions = raw.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        Some(Self {
            uid: text("/metadata/uid").unwrap_or_default().to_owned(),
            version: text("/metadata/resourceVersion").unwrap_or_default().to_owned(),
            generation: raw.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
            created: text("/metadata/creationTimestamp").and_then(|time| time.parse().ok()),
            read: read_object(raw).and_then(|binding| Readable::new(binding, raw)),
            reported: conditions.filter_map(Condition::read).collect(),
            reported_generation: raw.pointer("/status/observedGeneration").and_then(Value::as_i64),
            id,
        })
    }

    pub(super) fn binding(&self) -> Option<&Arc<Binding>> {
        self.read.as_ref().ok().map(|read| &read.binding)
    }

    pub(super) fn accounts(&self) -> &[ServiceAccount] {
        self.binding().map_or(&[], |binding| &binding.service_accounts)
    }

    /// Whether both say the same to those whom they bind; what is reported of them may differ.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let same = match (&self.read, &other.read) {
            (Ok(a), Ok(b)) => a.document.get() == b.document.get(),
            (Err(a), Err(b)) => a == b,
            _ => false,
        };
        same && self.created == other.created
    }

    /// Oldest first, then by name. One without a time is the youngest.
    pub(super) fn age(&self, other: &Self) -> Ordering {
        let order = |object: &Self| (object.created.is_none(), object.created);
        order(self).cmp(&order(other)).then_with(|| self.id.cmp(&other.id))
    }
}

impl Readable {
    fn new(binding: Binding, raw: &Value) -> Result<Self, Vec<Fault>> {
        let id = &binding.id;
        let document = json!({
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": id.name.as_str(), "namespace": id.namespace.as_str()},
            "spec": raw.get("spec"),
        });
        let document = to_raw_value(&document).map_err(|_| vec![Fault::new("spec", "JSON")])?;
        Ok(Self { binding: Arc::new(binding), document: document.into() })
    }
}
