//! The CRD-shaped binding document and the only parser of it.

use serde::Deserialize;

use super::expected::*;
use super::shape::{Fault, Fields, NO_STDIO, Shape};
use super::{API_VERSION, KIND};
use crate::core::binding::{self, Binding, CredentialSpec, Format, Material, Server, Transports};
use crate::core::name::{BindingId, DataKey, DataRef, NameError, Namespace, ObjectName, ServerName, ServiceAccount};
use crate::core::tools::{Glob, ToolPolicy};
use crate::core::upstream::{Host, Scheme, UpstreamUrl, UrlFault};

/// The fields of a binding document.
pub const FIELDS: Fields = &[
    ("apiVersion", Shape::Text),
    ("kind", Shape::Text),
    ("metadata", Shape::Open(&[("name", Shape::Text), ("namespace", Shape::Text)])),
    ("spec", Shape::Map(SPEC)),
    ("status", Shape::Any),
];
const SPEC: Fields = &[
    ("serviceAccounts", Shape::Texts),
    ("server", Shape::Map(SERVER)),
    ("credential", Shape::Map(CREDENTIAL)),
    ("tools", Shape::Map(&[("allow", Shape::Texts), ("deny", Shape::Texts)])),
    ("passHeaders", Shape::Texts),
    ("passCookies", Shape::Texts),
    ("allowBatch", Shape::Bool),
    ("allowCompressed", Shape::Bool),
];
const SERVER: Fields = &[
    ("name", Shape::Text),
    ("url", Shape::Text),
    ("transports", Shape::Texts),
    ("allowPlaintext", Shape::Bool),
    ("subpaths", Shape::Bool),
    ("tls", Shape::Map(&[("caBundle", Shape::Map(&[("configMapRef", Shape::Map(REF))])), ("serverName", Shape::Text)])),
];
const REF: Fields = &[("name", Shape::Text), ("key", Shape::Text)];
const CREDENTIAL: Fields = &[
    ("type", Shape::Text),
    (
        "secretRef",
        Shape::Map(&[
            ("name", Shape::Text),
            ("key", Shape::Text),
            ("usernameKey", Shape::Text),
            ("passwordKey", Shape::Text),
        ]),
    ),
    ("header", Shape::Map(&[("name", Shape::Text), ("format", Shape::Text)])),
];

/// A document as written: every field may be missing, [`Binding::try_from`] says which must not.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Document {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_accounts: Option<Vec<String>>,
    server: ServerSpec,
    credential: Credential,
    tools: Option<Tools>,
    pass_headers: Option<Vec<String>>,
    pass_cookies: Option<Vec<String>>,
    allow_batch: Option<bool>,
    allow_compressed: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServerSpec {
    name: Option<String>,
    url: Option<String>,
    transports: Option<Vec<String>>,
    allow_plaintext: Option<bool>,
    subpaths: Option<bool>,
    tls: Option<Tls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Tls {
    ca_bundle: Option<CaBundle>,
    server_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CaBundle {
    config_map_ref: Option<KeyRef>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct KeyRef {
    name: Option<String>,
    key: Option<String>,
    username_key: Option<String>,
    password_key: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Credential {
    #[serde(rename = "type")]
    kind: Option<String>,
    secret_ref: Option<KeyRef>,
    header: Option<Header>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Header {
    name: Option<String>,
    format: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tools {
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
}

impl TryFrom<Document> for Binding {
    type Error = Vec<Fault>;

    fn try_from(document: Document) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let binding = faults.binding(document);
        match binding {
            Some(binding) if faults.0.is_empty() => Ok(binding),
            _ => Err(faults.0),
        }
    }
}

/// Reads field by field and goes on after a fault, so that all are told at once.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn push(&mut self, path: &str, expected: impl ToString) {
        self.0.push(Fault::new(path, expected));
    }

    fn name<T>(&mut self, path: &str, text: Option<&str>, parse: fn(&str) -> Result<T, NameError>) -> Option<T> {
        match text.map(parse) {
            Some(Ok(name)) => Some(name),
            Some(Err(fault)) => {
                self.push(path, fault);
                None
            }
            None => {
                self.push(path, REQUIRED);
                None
            }
        }
    }

    /// Parses each text of a list of at most `most`; `path[2]` names a bad one.
    fn each<T, E: ToString>(
        &mut self,
        path: &str,
        most: usize,
        texts: Option<Vec<String>>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let mut parsed = Vec::new();
        let texts = texts.unwrap_or_default();
        if texts.len() > most {
            self.push(path, format!("a list of at most {most}"));
        }
        for (at, text) in texts.iter().take(most).enumerate() {
            match parse(text) {
                Ok(value) => parsed.push(value),
                Err(expected) => self.push(&format!("{path}[{at}]"), expected),
            }
        }
        parsed
    }

    fn binding(&mut self, document: Document) -> Option<Binding> {
        if document.api_version.as_deref() != Some(API_VERSION) {
            self.push("apiVersion", API_VERSION);
        }
        if document.kind.as_deref() != Some(KIND) {
            self.push("kind", KIND);
        }
        let name = self.name("metadata.name", document.metadata.name.as_deref(), ObjectName::parse);
        let namespace = self.name("metadata.namespace", document.metadata.namespace.as_deref(), Namespace::parse);
        let spec = document.spec;
        let accounts = spec.service_accounts.unwrap_or_default();
        if accounts.is_empty() {
            self.push("spec.serviceAccounts", ACCOUNTS);
        }
        let service_accounts = self.each("spec.serviceAccounts", MAX_ACCOUNTS, Some(accounts), ServiceAccount::parse);
        let server = self.server(spec.server);
        let credential = self.credential(spec.credential);
        let tools = self.tools(spec.tools.unwrap_or_default());
        let pass_headers = self.each("spec.passHeaders", MAX_PASSED, spec.pass_headers, binding::pass_header);
        let cookie = |name: &str| binding::is_cookie_name(name).then(|| name.to_owned()).ok_or(binding::COOKIE_NAME);
        let pass_cookies = self.each("spec.passCookies", MAX_PASSED, spec.pass_cookies, cookie);
        let allow_batch = spec.allow_batch.unwrap_or(false);
        if allow_batch && !tools.is_open() {
            self.push("spec.allowBatch", NO_BATCH);
        }
        let credential = credential?;
        if pass_headers.contains(&credential.header) {
            self.push("spec.passHeaders", OTHER_HEADER);
        }
        Some(Binding {
            id: BindingId { namespace: namespace?, name: name? },
            service_accounts,
            server: server?,
            credential,
            tools,
            pass_headers,
            pass_cookies,
            allow_batch,
            allow_compressed: spec.allow_compressed.unwrap_or(false),
        })
    }

    fn server(&mut self, spec: ServerSpec) -> Option<Server> {
        let name = self.name("spec.server.name", spec.name.as_deref(), ServerName::parse);
        if spec.url.as_ref().is_some_and(|url| url.len() > MAX_URL) {
            self.push("spec.server.url", format!("a URL of at most {MAX_URL} characters"));
        }
        let url = match spec.url.as_deref().map(UpstreamUrl::parse) {
            None => {
                self.push("spec.server.url", REQUIRED);
                None
            }
            Some(Err(UrlFault::Stdio)) => {
                self.push("spec.server.url", NO_STDIO);
                None
            }
            Some(Err(fault)) => {
                self.push("spec.server.url", fault);
                None
            }
            Some(Ok(url)) => Some(url),
        };
        if url.as_ref().is_some_and(|url| url.scheme == Scheme::Http) && spec.allow_plaintext != Some(true) {
            self.push("spec.server.url", HTTPS_WANTED);
        }
        let transports = self.transports(spec.transports);
        let tls = spec.tls.unwrap_or_default();
        let ca_bundle = tls.ca_bundle.and_then(|bundle| self.ca_bundle(bundle));
        let dns = |name: &str| matches!(Host::parse(name), Some(Host::Name(_)));
        if tls.server_name.as_deref().is_some_and(|name| !name.is_empty() && !dns(name)) {
            self.push("spec.server.tls.serverName", TLS_NAME);
        }
        Some(Server {
            name: name?,
            url: url?,
            transports,
            subpaths: spec.subpaths.unwrap_or(false),
            ca_bundle,
            tls_name: tls.server_name.filter(|name| !name.is_empty()).map(|name| name.to_ascii_lowercase()),
        })
    }

    fn transports(&mut self, transports: Option<Vec<String>>) -> Transports {
        let mut found = Transports { streamable_http: transports.is_none(), sse: false };
        let known = |name: &str| match name {
            "StreamableHTTP" => Ok(true),
            "SSE" => Ok(false),
            other if other.eq_ignore_ascii_case("stdio") => Err(NO_STDIO),
            _ => Err(TRANSPORT),
        };
        let given = transports.as_ref().map_or(1, Vec::len);
        for streamable in self.each("spec.server.transports", MAX_TRANSPORTS, transports, known) {
            found.streamable_http |= streamable;
            found.sse |= !streamable;
        }
        if given == 0 {
            self.push("spec.server.transports", SOME_TRANSPORT);
        }
        found
    }

    fn ca_bundle(&mut self, bundle: CaBundle) -> Option<DataRef> {
        let reference = bundle.config_map_ref.unwrap_or_default();
        let path = "spec.server.tls.caBundle.configMapRef";
        let name = self.name(&format!("{path}.name"), reference.name.as_deref(), ObjectName::parse);
        let key = self.name(&format!("{path}.key"), reference.key.as_deref(), DataKey::parse);
        Some(DataRef { name: name?, key: key? })
    }

    fn credential(&mut self, spec: Credential) -> Option<CredentialSpec> {
        let reference = spec.secret_ref.unwrap_or_default();
        let secret = self.name("spec.credential.secretRef.name", reference.name.as_deref(), ObjectName::parse);
        let header = spec.header.unwrap_or_default();
        let basic = match spec.kind.as_deref() {
            Some("Bearer" | "Header") => false,
            Some("Basic") => true,
            _ => {
                self.push("spec.credential.type", "Bearer, Header or Basic");
                return None;
            }
        };
        let named = header.name.as_deref().or((spec.kind.as_deref() != Some("Header")).then_some("Authorization"));
        let name = match named.map(binding::credential_header) {
            Some(Ok(name)) => Some(name),
            Some(Err(fault)) => {
                self.push("spec.credential.header.name", fault);
                None
            }
            None => {
                self.push("spec.credential.header.name", REQUIRED);
                None
            }
        };
        let material = if basic {
            self.basic(secret, &reference, &header)
        } else {
            self.token(spec.kind.as_deref(), secret, &reference, &header)
        };
        Some(CredentialSpec { header: name?, material: material? })
    }

    fn token(
        &mut self,
        kind: Option<&str>,
        secret: Option<ObjectName>,
        reference: &KeyRef,
        header: &Header,
    ) -> Option<Material> {
        let key = self.name("spec.credential.secretRef.key", reference.key.as_deref(), DataKey::parse);
        if reference.username_key.is_some() || reference.password_key.is_some() {
            self.push("spec.credential.secretRef", BASIC_KEYS);
        }
        let default = if kind == Some("Bearer") { "Bearer {token}" } else { "{token}" };
        let format = Format::parse(header.format.as_deref().unwrap_or(default));
        if format.is_none() {
            self.push("spec.credential.header.format", Format::EXPECTED);
        }
        Some(Material::Token { secret: DataRef { name: secret?, key: key? }, format: format? })
    }

    fn basic(&mut self, secret: Option<ObjectName>, reference: &KeyRef, header: &Header) -> Option<Material> {
        if header.format.is_some() {
            self.push("spec.credential.header.format", NO_FORMAT);
        }
        if reference.key.is_some() {
            self.push("spec.credential.secretRef.key", NO_TOKEN_KEY);
        }
        // The keys of Kubernetes' own kubernetes.io/basic-auth Secrets.
        let username = reference.username_key.as_deref().or(Some("username"));
        let password = reference.password_key.as_deref().or(Some("password"));
        let username = self.name("spec.credential.secretRef.usernameKey", username, DataKey::parse);
        let password = self.name("spec.credential.secretRef.passwordKey", password, DataKey::parse);
        Some(Material::Basic { secret: secret?, username: username?, password: password? })
    }

    fn tools(&mut self, tools: Tools) -> ToolPolicy {
        let glob = |text: &str| Glob::parse(text).ok_or(Glob::EXPECTED);
        let allow = self.each("spec.tools.allow", MAX_TOOLS, tools.allow, glob);
        let deny = self.each("spec.tools.deny", MAX_TOOLS, tools.deny, glob);
        ToolPolicy::new(allow, deny)
    }
}

#[cfg(test)]
#[path = "binding_tests.rs"]
mod tests;
