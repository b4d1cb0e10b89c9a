//! CredentialBinding documents, built in words.

use serde_json::{Value, json};

use super::capture::{Capture, Protocol};

/// A binding under construction; by default a Bearer token from `<name>-secret/token`.
#[derive(Debug, Clone)]
pub struct Binding {
    name: String,
    document: Value,
    secrets: Vec<(String, String, Vec<u8>)>,
    ca: Option<(String, String)>,
}

impl Binding {
    pub fn new(name: &str) -> Self {
        let spec = json!({
            "serviceAccounts": ["research-agent"],
            "server": {"name": name, "url": "https://unset.invalid/mcp"},
            "credential": {"type": "Bearer", "secretRef": {"name": format!("{name}-secret"), "key": "token"}},
        });
        let document = json!({
            "apiVersion": "postern.dev/v1alpha1",
            "kind": "CredentialBinding",
            "metadata": {"name": name, "namespace": "research"},
            "spec": spec,
        });
        Self { name: name.to_owned(), document, secrets: Vec::new(), ca: None }
    }

    /// Points it at `/mcp` of this upstream, with its CA, or with consent to plaintext.
    pub fn to(self, capture: &Capture) -> Self {
        let url = capture.url("/mcp");
        self.trusting(capture).url(&url)
    }

    /// Trusts this upstream, or consents to plaintext; leaves the URL alone.
    pub fn trusting(self, capture: &Capture) -> Self {
        match capture.protocol() {
            Protocol::Plain => self.set("/server/allowPlaintext", json!(true)),
            Protocol::Tls | Protocol::H2 => self.ca_bundle(capture.ca_pem()),
        }
    }

    /// Trusts this authority.
    pub fn ca_bundle(self, pem: &str) -> Self {
        let name = format!("{}-ca", self.name);
        let reference = json!({"configMapRef": {"name": name, "key": "ca.crt"}});
        let mut binding = self.set("/server/tls", json!({"caBundle": reference}));
        binding.ca = Some((name, pem.to_owned()));
        binding
    }

    pub fn url(self, url: &str) -> Self {
        self.set("/server/url", json!(url))
    }

    /// Calls the object otherwise than its file, server and Secret.
    pub fn object_name(mut self, name: &str) -> Self {
        self.document["metadata"]["name"] = json!(name);
        self
    }

    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.document["metadata"]["namespace"] = json!(namespace);
        self
    }

    /// The token's value, in the Secret that the binding refers to.
    pub fn token(mut self, value: impl AsRef<[u8]>) -> Self {
        let secret = self.secret_name();
        self.secrets.push((secret, "token".to_owned(), value.as_ref().to_vec()));
        self
    }

    /// RFC 7617 credentials from the keys `username` and `password`.
    pub fn basic(mut self, username: &str, password: &str) -> Self {
        let secret = self.secret_name();
        let reference = json!({"name": secret, "usernameKey": "username", "passwordKey": "password"});
        self.secrets.push((secret.clone(), "username".to_owned(), username.into()));
        self.secrets.push((secret, "password".to_owned(), password.into()));
        self.set("/credential", json!({"type": "Basic", "secretRef": reference}))
    }

    /// The credential goes into this header.
    pub fn header(self, name: &str, format: &str) -> Self {
        let header = json!({"name": name, "format": format});
        self.set("/credential/type", json!("Header")).set("/credential/header", header)
    }

    /// Sets anything below `spec`, by JSON pointer.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
        let parent = self.document.pointer_mut(&format!("/spec{parent}")).expect("the parent is there");
        parent[key] = value;
        self
    }

    /// The name of the binding and of its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn secret_name(&self) -> String {
        format!("{}-secret", self.name)
    }

    /// (secret, key, value) of each value it brings along.
    pub fn secrets(&self) -> &[(String, String, Vec<u8>)] {
        &self.secrets
    }

    /// (config map, PEM) of its CA bundle.
    pub fn ca(&self) -> Option<&(String, String)> {
        self.ca.as_ref()
    }

    /// The document as the API server would deliver it.
    pub fn json(&self) -> String {
        self.document.to_string()
    }

    /// The document.
    pub fn yaml(&self) -> String {
        serde_yaml::to_string(&self.document).expect("a JSON value is YAML")
    }
}
