//! The documents users write (layer 1): their fields, and the one way from a document to a
//! [`core::binding::Binding`](crate::core::binding::Binding).

pub mod binding;
pub mod crd;
pub mod document;
pub mod duration;
pub mod env;
pub mod expected;
pub mod shape;

/// The API group; also the prefix of labels and annotations.
pub const GROUP: &str = "postern.dev";
/// `apiVersion` of a binding.
pub const API_VERSION: &str = "postern.dev/v1alpha1";
/// `kind` of a binding.
pub const KIND: &str = "CredentialBinding";

/// Label of a Secret whose owner lets Postern use it; the value must be `"true"`.
pub const CREDENTIAL_LABEL: &str = "postern.dev/credential";
/// Label of a ConfigMap that holds a CA bundle for a binding; the value must be `"true"`. It is no
/// consent, it keeps the broker from watching every ConfigMap of a namespace.
pub const CA_BUNDLE_LABEL: &str = "postern.dev/ca-bundle";
/// Annotation of a Secret: `host[:port], ...` that its value may be sent to. Without it, none.
pub const ALLOWED_HOSTS: &str = "postern.dev/allowed-hosts";
/// Annotation of a Secret: service accounts that may use it. Without it, all of its namespace
/// that a binding names.
pub const ALLOWED_ACCOUNTS: &str = "postern.dev/allowed-service-accounts";
/// Switch: label or annotation of a pod, label of a namespace.
pub const INJECT: &str = "postern.dev/inject";
/// Label that we write on a pod with the sidecar.
pub const INJECTED: &str = "postern.dev/injected";
/// Annotation that we write: what was done, for people only.
pub const STATUS: &str = "postern.dev/status";
/// Prefix of the annotations that configure injection.
pub const CONFIG_PREFIX: &str = "config.postern.dev/";
/// Audience of the token by which a sidecar proves its pod to the broker.
pub const BROKER_AUDIENCE: &str = "postern.dev/broker";
