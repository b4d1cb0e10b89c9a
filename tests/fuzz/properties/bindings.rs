//! Bindings for the properties that need some.

use postern::api::document::{Located, read_bindings};
use postern::core::binding::Binding;

/// The binding of these fields of `spec.server` and of `spec`.
pub fn binding(name: &str, server: &str, spec: &str) -> Binding {
    let text = format!(
        "apiVersion: postern.dev/v1alpha1\n\
         kind: CredentialBinding\n\
         metadata: {{name: {name}, namespace: ns}}\n\
         spec:\n  \
           serviceAccounts: [sa]\n  \
           server: {{name: {name}, {server}}}\n  \
           {spec}\n"
    );
    let (bindings, problems) = read_bindings("bindings.rs", &text);
    assert_eq!(problems, [], "{text}");
    let [Located { binding, .. }] = <[Located; 1]>::try_from(bindings).expect("one document");
    binding
}
