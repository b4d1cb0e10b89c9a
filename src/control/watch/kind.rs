//! The kinds of objects that are followed, and what of an object the index is told.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::crd::{PLURAL, VERSION};
use crate::api::{CA_BUNDLE_LABEL, CREDENTIAL_LABEL, GROUP, KIND};
use crate::control::index::{Access, BundleObject, Change, Scope, SecretObject, consent};
use crate::control::index::{Kind as Referred, identity};
use crate::core::name::{DataKey, Namespace, ObjectName};
use crate::core::secret::SecretBytes;

/// One kind of objects.
pub(super) trait Kind: Send + Sync + 'static {
    /// As the API server tells them.
    type Object: Resource + Clone + DeserializeOwned + Debug + Send + 'static;
    /// As the index is told.
    type Read: Send;

    /// Where they are.
    fn api(&self, client: Client) -> Api<Self::Object>;

    /// Only those with this label, set to `true`.
    const LABEL: Option<&str>;

    /// What counts of an object. Nothing of one that nobody can name, or that is being deleted.
    fn read(&self, object: Self::Object) -> Option<Self::Read>;

    /// All of them.
    fn listed(&self, all: Vec<Self::Read>) -> Vec<Change>;

    /// One as it stands now.
    fn changed(&self, one: Self::Read) -> Change;

    /// One that is gone; nothing for one that nobody can name.
    fn gone(&self, object: &Self::Object) -> Option<Change>;
}

/// The bindings of the whole cluster.
pub(super) struct Bindings;

/// The consenting Secrets of a namespace.
pub(super) struct Secrets(pub(super) Namespace);

/// The ConfigMaps with CA certificates of a namespace.
pub(super) struct Bundles(pub(super) Namespace);

/// What the API server calls bindings.
pub fn bindings() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, KIND), PLURAL)
}

impl Kind for Bindings {
    type Object = DynamicObject;
    type Read = Value;

    const LABEL: Option<&str> = None;

    fn api(&self, client: Client) -> Api<DynamicObject> {
        Api::all_with(client, &bindings())
    }

    fn read(&self, object: DynamicObject) -> Option<Value> {
        // What cannot be read as a binding is the index's matter, as is one that is being deleted.
        serde_json::to_value(object).ok()
    }

    fn listed(&self, all: Vec<Value>) -> Vec<Change> {
        vec![Change::Bindings(all)]
    }

    fn changed(&self, one: Value) -> Change {
        Change::Binding(one)
    }

    fn gone(&self, object: &DynamicObject) -> Option<Change> {
        identity(
            &serde_json::to_value(&object.metadata).map(|metadata| serde_json::json!({"metadata": metadata})).ok()?,
        )
        .map(Change::BindingGone)
    }
}

impl Kind for Secrets {
    type Object = Secret;
    type Read = SecretObject;

    const LABEL: Option<&str> = Some(CREDENTIAL_LABEL);

    fn api(&self, client: Client) -> Api<Secret> {
        Api::namespaced(client, self.0.as_str())
    }

    fn read(&self, object: Secret) -> Option<SecretObject> {
        secret(object)
    }

    fn listed(&self, all: Vec<SecretObject>) -> Vec<Change> {
        let scope = Scope { kind: Referred::Secrets, namespace: self.0.clone() };
        vec![Change::Access(scope, Access::Granted), Change::Secrets(self.0.clone(), all)]
    }

    fn changed(&self, one: SecretObject) -> Change {
        Change::Secret(self.0.clone(), one)
    }

    fn gone(&self, object: &Secret) -> Option<Change> {
        name(&object.metadata).map(|name| Change::SecretGone(self.0.clone(), name))
    }
}

impl Kind for Bundles {
    type Object = ConfigMap;
    type Read = BundleObject;

    const LABEL: Option<&str> = Some(CA_BUNDLE_LABEL);

    fn api(&self, client: Client) -> Api<ConfigMap> {
        Api::namespaced(client, self.0.as_str())
    }

    fn read(&self, object: ConfigMap) -> Option<BundleObject> {
        bundle(object)
    }

    fn listed(&self, all: Vec<BundleObject>) -> Vec<Change> {
        let scope = Scope { kind: Referred::Bundles, namespace: self.0.clone() };
        vec![Change::Access(scope, Access::Granted), Change::Bundles(self.0.clone(), all)]
    }

    fn changed(&self, one: BundleObject) -> Change {
        Change::Bundle(self.0.clone(), one)
    }

    fn gone(&self, object: &ConfigMap) -> Option<Change> {
        name(&object.metadata).map(|name| Change::BundleGone(self.0.clone(), name))
    }
}

fn name(metadata: &ObjectMeta) -> Option<ObjectName> {
    ObjectName::parse(metadata.name.as_deref()?).ok()
}

/// A Secret as the index takes it; nothing of one that is being deleted. Its values are moved, not copied.
pub fn secret(object: Secret) -> Option<SecretObject> {
    let Secret { metadata, data, .. } = object;
    let data = data.unwrap_or_default().into_iter().map(|(key, ByteString(value))| (key, SecretBytes::new(value)));
    // All of them are wiped, also those that no binding can name.
    let data: BTreeMap<DataKey, SecretBytes> =
        data.filter_map(|(key, value)| Some((DataKey::parse(&key).ok()?, value))).collect();
    if metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(SecretObject {
        name: name(&metadata)?,
        version: metadata.resource_version.unwrap_or_default(),
        consent: consent(&metadata.labels.unwrap_or_default(), &metadata.annotations.unwrap_or_default()),
        data,
    })
}

/// A ConfigMap as the index takes it; nothing of one that is being deleted.
pub fn bundle(object: ConfigMap) -> Option<BundleObject> {
    if object.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let data = object.data.unwrap_or_default().into_iter();
    let data = data.filter_map(|(key, text)| Some((DataKey::parse(&key).ok()?, Arc::from(text)))).collect();
    Some(BundleObject { name: name(&object.metadata)?, data })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::core::upstream::UpstreamUrl;

    fn labelled(deleting: bool) -> Secret {
        let annotations = [("postern.dev/allowed-hosts".to_owned(), "a.example".to_owned())];
        let metadata = ObjectMeta {
            name: Some("s".into()),
            resource_version: Some("7".into()),
            labels: Some([("postern.dev/credential".to_owned(), "true".to_owned())].into()),
            annotations: Some(annotations.into()),
            deletion_timestamp: deleting.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        };
        let data = [("token".to_owned(), ByteString(b"one".to_vec())), ("..".to_owned(), ByteString(b"two".to_vec()))];
        Secret { metadata, data: Some(data.into()), ..Secret::default() }
    }

    #[test]
    fn a_secret_is_taken_with_its_consent_and_its_usable_keys() {
        let read = secret(labelled(false)).unwrap();
        assert_eq!((read.name.as_str(), read.version.as_str()), ("s", "7"));
        assert_eq!(read.data.keys().map(DataKey::as_str).collect::<Vec<_>>(), ["token"]);
        assert!(read.consent.to(&UpstreamUrl::parse("https://a.example/mcp").unwrap()).is_ok());
        assert!(read.consent.to(&UpstreamUrl::parse("https://b.example/mcp").unwrap()).is_err());
    }

    #[test]
    fn what_is_being_deleted_is_gone() {
        assert!(secret(labelled(true)).is_none());
        let kind = Secrets(Namespace::parse("ns").unwrap());
        let gone = kind.gone(&labelled(true));
        assert!(
            matches!(gone, Some(Change::SecretGone(namespace, name)) if (namespace.as_str(), name.as_str()) == ("ns", "s"))
        );
    }
}
