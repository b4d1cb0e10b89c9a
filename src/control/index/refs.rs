//! Where the references of a binding lead, or in words why they lead nowhere.

use std::sync::Arc;

use super::object::{BundleObject, Readable, SecretObject};
use super::store::Store;
use crate::api::{ALLOWED_ACCOUNTS, ALLOWED_HOSTS, CA_BUNDLE_LABEL, CREDENTIAL_LABEL};
use crate::core::binding::Binding;
use crate::core::consent::Withheld;
use crate::core::material::{self, Unusable};
use crate::core::name::{DataRef, ObjectName, ServiceAccount};
use crate::core::upstream::UpstreamUrl;
use crate::core::wire::{Cause, Gap, Item, Value};
use crate::tls::client::parse_bundle;

/// What the references of one binding lead to.
pub(super) struct Refs {
    pub(super) value: Result<Value, Missing>,
    pub(super) ca_bundle: Option<Result<Arc<str>, Missing>>,
}

/// What is not there, or not to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The kind of it.
    pub lack: Lack,
    /// For people. Never a value.
    pub text: String,
}

/// The closed list of what can be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The namespace has not been read yet.
    Unread,
    /// We may not read the namespace.
    NotGranted,
    /// No such Secret, or none with the label.
    SecretNotFound,
    /// The owner of the Secret has not consented.
    NotConsented,
    /// The Secret has no such key.
    KeyNotFound,
    /// What is behind the key cannot be a credential.
    InvalidValue,
    /// No such ConfigMap or key, or none with the label.
    BundleNotFound,
    /// The ConfigMap holds no usable certificates.
    InvalidBundle,
}

impl Missing {
    fn new(lack: Lack, text: impl Into<String>) -> Self {
        Self { lack, text: text.into() }
    }

    /// As a sidecar is told.
    pub(super) fn gap(&self) -> Gap {
        let cause = match self.lack {
            Lack::Unread | Lack::SecretNotFound | Lack::KeyNotFound | Lack::BundleNotFound => Cause::Absent,
            Lack::InvalidValue | Lack::InvalidBundle => Cause::Invalid,
            Lack::NotConsented => Cause::NotConsented,
            Lack::NotGranted => Cause::NotGranted,
        };
        Gap { cause, text: self.text.clone() }
    }
}

impl Refs {
    /// Follows the references of `binding`. A value that is not the one of `before` is dated `now`.
    pub(super) fn follow(
        binding: &Binding,
        secrets: &Store<SecretObject>,
        bundles: &Store<BundleObject>,
        before: Option<&Self>,
        now: u64,
    ) -> Self {
        let value = value(binding, secrets).map(|value| dated(value, before.map(|refs| &refs.value), now));
        let ca_bundle = binding.server.ca_bundle.as_ref().map(|reference| bundle(reference, bundles));
        Self { value, ca_bundle }
    }

    /// What one service account is told, and what it lacks.
    pub(super) fn item(&self, read: &Readable, consent: Result<(), Missing>) -> (Item, Option<Missing>) {
        // What every account lacks is told before what this one does.
        let value = self.value.clone().and_then(|value| consent.map(|()| value));
        let ca_bundle = self.ca_bundle.clone();
        let missing = value.as_ref().err().or(ca_bundle.as_ref().and_then(|bundle| bundle.as_ref().err())).cloned();
        let item = Item {
            document: Arc::clone(&read.document),
            value: value.map_err(|missing| missing.gap()),
            ca_bundle: ca_bundle.map(|bundle| bundle.map_err(|missing| missing.gap())),
        };
        (item, missing)
    }
}

/// Keeps what was there before, and the time at which it came.
fn dated(found: Value, before: Option<&Result<Value, Missing>>, now: u64) -> Value {
    match before {
        Some(Ok(before)) if before.secret.same_as(&found.secret) => {
            Value { secret: Arc::clone(&before.secret), changed: before.changed, ..found }
        }
        // It was there before we looked: who knows since when.
        None | Some(Err(Missing { lack: Lack::Unread, .. })) => found,
        Some(_) => Value { changed: Some(now), ..found },
    }
}

fn value(binding: &Binding, secrets: &Store<SecretObject>) -> Result<Value, Missing> {
    let name = binding.credential.secret_name();
    let absent = || format!("Secret {name} does not exist, or does not carry the label {CREDENTIAL_LABEL}: \"true\"");
    let secret = find(secrets, name, "Secrets", || Missing::new(Lack::SecretNotFound, absent()))?;
    // Before any look at its keys: without consent not even their names are told.
    secret
        .consent
        .to(&binding.server.url)
        .map_err(|withheld| Missing::new(Lack::NotConsented, not_to_host(name, &binding.server.url, withheld)))?;
    let read = |key: &_| secret.data.get(key).ok_or_else(|| format!("Secret {name} has no usable key {key}"));
    match material::value(&binding.credential.material, read) {
        Ok(value) => Ok(Value { secret: Arc::new(value), version: secret.version.clone(), changed: None }),
        Err(Unusable::Source(text)) => Err(Missing::new(Lack::KeyNotFound, text)),
        Err(Unusable::Invalid(key, fault)) => {
            Err(Missing::new(Lack::InvalidValue, format!("Secret {name}/{key}: {fault}")))
        }
    }
}

/// Whether the Secret that a value came from may be used by this account too.
pub(super) fn by_account(
    binding: &Binding,
    secrets: &Store<SecretObject>,
    account: &ServiceAccount,
) -> Result<(), Missing> {
    let name = binding.credential.secret_name();
    let absent = || Missing::new(Lack::SecretNotFound, format!("Secret {name} does not exist"));
    find(secrets, name, "Secrets", absent)?
        .consent
        .by(account)
        .map_err(|withheld| Missing::new(Lack::NotConsented, not_by_account(name, account, withheld)))
}

fn not_to_host(name: &ObjectName, url: &UpstreamUrl, withheld: Withheld) -> String {
    let wanted = format!("{}:{}", url.host, url.port);
    match withheld {
        Withheld::NoHosts => {
            format!("Secret {name} has no annotation {ALLOWED_HOSTS}; its owner can consent with \"{wanted}\"")
        }
        Withheld::Host { unreadable: Some(entry) } => format!(
            "{ALLOWED_HOSTS} of Secret {name} does not name {wanted}; its entry {entry} is no host[:port] (no wildcards, \
             no URLs)"
        ),
        Withheld::Host { unreadable: None } => format!("{ALLOWED_HOSTS} of Secret {name} does not name {wanted}"),
        Withheld::Label | Withheld::Account { .. } => no_label(name),
    }
}

fn not_by_account(name: &ObjectName, account: &ServiceAccount, withheld: Withheld) -> String {
    match withheld {
        Withheld::Account { unreadable: Some(entry) } => format!(
            "{ALLOWED_ACCOUNTS} of Secret {name} does not name {account}; its entry {entry} is no service account (no \
             wildcards, no namespaces)"
        ),
        Withheld::Account { unreadable: None } => {
            format!("{ALLOWED_ACCOUNTS} of Secret {name} does not name {account}")
        }
        Withheld::Label | Withheld::NoHosts | Withheld::Host { .. } => no_label(name),
    }
}

fn no_label(name: &ObjectName) -> String {
    format!("Secret {name} does not carry the label {CREDENTIAL_LABEL}: \"true\"")
}

fn bundle(reference: &DataRef, bundles: &Store<BundleObject>) -> Result<Arc<str>, Missing> {
    let (name, key) = (&reference.name, &reference.key);
    let absent = || format!("ConfigMap {name} does not exist, or does not carry the label {CA_BUNDLE_LABEL}: \"true\"");
    let object = find(bundles, name, "ConfigMaps", || Missing::new(Lack::BundleNotFound, absent()))?;
    let no_key = || Missing::new(Lack::BundleNotFound, format!("ConfigMap {name} has no key {key}"));
    let pem = object.data.get(key).ok_or_else(no_key)?;
    match parse_bundle(pem.as_bytes()) {
        Ok(_) => Ok(Arc::clone(pem)),
        Err(error) => Err(Missing::new(Lack::InvalidBundle, format!("ConfigMap {reference}: {error}"))),
    }
}

fn find<'a, T>(
    store: &'a Store<T>,
    name: &ObjectName,
    kinds: &str,
    absent: impl FnOnce() -> Missing,
) -> Result<&'a T, Missing> {
    match store {
        Store::Unasked | Store::Waiting => {
            Err(Missing::new(Lack::Unread, format!("the {kinds} of this namespace have not been read yet")))
        }
        Store::Denied => Err(Missing::new(
            Lack::NotGranted,
            format!("the broker may not read the {kinds} of this namespace; a RoleBinding there can grant it"),
        )),
        Store::Listed(objects) => objects.get(name).ok_or_else(absent),
    }
}
