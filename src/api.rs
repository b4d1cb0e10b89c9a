//! The documents users write (layer 1): their fields, and the one way from a document to a
//! [`core::binding::Binding`](crate::core::binding::Binding).

pub mod binding;
pub mod document;
pub mod shape;

/// The API group; also the prefix of labels and annotations.
pub const GROUP: &str = "postern.dev";
/// `apiVersion` of a binding.
pub const API_VERSION: &str = "postern.dev/v1alpha1";
/// `kind` of a binding.
pub const KIND: &str = "CredentialBinding";
