//! What the schema says of each field besides its kind: the words for people, the bounds, and the rules in CEL.
//!
//! A rule says in CEL what the reader in [`binding`](crate::api::binding) says in Rust, with the same text. Where CEL
//! cannot, the reader alone refuses, and the binding's status says so.

use std::fmt::Display;

use serde_json::{Map, Value, json};

use crate::api::expected::*;
use crate::api::shape::NO_STDIO;
use crate::core::binding::{
    COOKIE_NAME, Format, HeaderNames, MAX_FIELD_NAME, NO_CREDENTIAL_HEADER, NO_PASS_HEADER, NOT_A_NAME,
    NOT_FOR_CREDENTIALS, NOT_PASSED,
};
use crate::core::name::{DNS_SUBDOMAIN, RESERVED_SERVERS, SECRET_KEY, SERVER_NAME};
use crate::core::tools::Glob;
use crate::core::upstream::UrlFault;

/// The words for the kind.
pub(super) const KIND: &str = "Who may use which credential for which MCP server: these service accounts, that server, \
    the value in that Secret. What no binding says is refused.";

/// What is said of one field.
pub(super) struct Told {
    /// `spec.server.url`.
    pub(super) path: &'static str,
    /// Keywords of OpenAPI.
    pub(super) schema: Map<String, Value>,
}

fn told(path: &'static str, description: &str) -> Told {
    Told { path, schema: Map::from_iter([("description".to_owned(), json!(description))]) }
}

impl Told {
    fn with(mut self, keyword: &str, value: impl Into<Value>) -> Self {
        self.schema.insert(keyword.to_owned(), value.into());
        self
    }

    fn length(self, most: usize) -> Self {
        self.with("maxLength", most)
    }

    /// A list of texts, with what is said of each.
    fn list(self, least: usize, most: usize, each: Self) -> Self {
        self.with("minItems", least).with("maxItems", most).with("items", each.schema)
    }

    fn required(self, names: &[&str]) -> Self {
        self.with("required", names)
    }

    fn rule(self, expected: impl Display, cel: impl Into<String>) -> Self {
        self.rule_at(None, expected, cel)
    }

    /// A rule over several fields; `field` is the one that is told as wrong.
    fn rule_at(mut self, field: Option<&str>, expected: impl Display, cel: impl Into<String>) -> Self {
        let mut rule = Map::new();
        rule.insert("rule".to_owned(), cel.into().into());
        rule.insert("message".to_owned(), format!("expected {expected}").into());
        rule.extend(field.map(|field| ("fieldPath".to_owned(), json!(field))));
        let rules = self.schema.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
        rules.as_array_mut().into_iter().for_each(|rules| rules.push(Value::Object(rule.clone())));
        self
    }

    fn matches(self, expected: impl Display, pattern: &str) -> Self {
        self.rule(expected, format!("self.matches({})", quoted(pattern)))
    }
}

/// An entry of a list.
fn each() -> Told {
    Told { path: "", schema: Map::new() }
}

/// A text of CEL. Its escapes are those of JSON as far as these texts need them.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const SUBDOMAIN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const KEY: &str = "^([-_a-zA-Z0-9]|[.][-_a-zA-Z0-9])[-_.a-zA-Z0-9]*$";
const TOKEN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";
const VISIBLE: &str = "^[!-~]+$";
const PRINTABLE: &str = "^[ -~]*$";
/// A label of a host: `-` not at an edge, 63 characters at most.
const HOST_LABEL: &str = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?";
/// A last label that some resolvers read as an address.
const NUMBER: &str = "([0-9]+|0[xX][^.:/]*)";
const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
const PORT: &str = "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

/// Everything that is told, in the order of the document.
pub(super) fn fields() -> Vec<Told> {
    let mut all = vec![
        told("apiVersion", "The version of this document's form."),
        told("kind", "The kind of this document."),
        told("status", "What became of the binding; written by Postern.").with("properties", status()),
    ];
    all.extend(spec());
    all.extend(server());
    all.extend(trust());
    all.extend(credential());
    all
}

fn spec() -> Vec<Told> {
    let glob = || each().length(128).matches(Glob::EXPECTED, VISIBLE);
    let name = || each().length(MAX_FIELD_NAME);
    vec![
        told("spec", "What is bound to whom.")
            .required(&["serviceAccounts", "server", "credential"])
            .rule_at(
                Some(".allowBatch"),
                NO_BATCH,
                "!has(self.allowBatch) || !self.allowBatch || !has(self.tools) || \
                 ((!has(self.tools.allow) || size(self.tools.allow) == 0) && \
                 (!has(self.tools.deny) || size(self.tools.deny) == 0))",
            )
            .rule_at(
                Some(".passHeaders"),
                OTHER_HEADER,
                "!has(self.passHeaders) || !has(self.credential.header) || !has(self.credential.header.name) || \
                 !self.passHeaders.exists(name, name.lowerAscii() == self.credential.header.name.lowerAscii())",
            ),
        told(
            "spec.serviceAccounts",
            "The service accounts of this namespace that may use the credential; no wildcard.",
        )
        .list(1, MAX_ACCOUNTS, each().length(253).matches(DNS_SUBDOMAIN, SUBDOMAIN)),
        told("spec.tools", "Which tools may be called. Concerns tools/call only: tools/list still shows them all."),
        told("spec.tools.allow", "Tool names, * for any characters. Empty: all that are not denied.").list(
            0,
            MAX_TOOLS,
            glob(),
        ),
        told("spec.tools.deny", "Likewise; wins over allow.").list(0, MAX_TOOLS, glob()),
        told("spec.passHeaders", "Request headers of the agent that go through besides those that always do.").list(
            0,
            MAX_PASSED,
            name().matches(NOT_A_NAME, TOKEN).rule(NO_PASS_HEADER, none_of(&NOT_PASSED)),
        ),
        told("spec.passCookies", "Names of cookies that go both ways, for session affinity.").list(
            0,
            MAX_PASSED,
            name().matches(COOKIE_NAME, TOKEN),
        ),
        told("spec.allowBatch", "Whether JSON-RPC arrays pass. Not together with tools."),
        told(
            "spec.allowCompressed",
            "Whether a compressed answer passes, although the mask cannot look for an echo of the credential in it.",
        ),
    ]
}

/// That a header's name is in none of the sets.
fn none_of(sets: &[&HeaderNames]) -> String {
    sets.iter().map(|set| format!("!({})", one_of(set))).collect::<Vec<_>>().join(" && ")
}

fn one_of(set: &HeaderNames) -> String {
    let mut terms = Vec::new();
    if !set.names.is_empty() {
        let names: Vec<String> = set.names.iter().map(|name| quoted(name)).collect();
        terms.push(format!("self.lowerAscii() in [{}]", names.join(", ")));
    }
    for (method, texts) in [("startsWith", set.prefixes), ("endsWith", set.suffixes), ("contains", set.parts)] {
        terms.extend(texts.iter().map(|text| format!("self.lowerAscii().{method}({})", quoted(text))));
    }
    let looks = terms.join(" || ");
    set.but.map_or_else(|| looks.clone(), |but| format!("({looks}) && !({})", one_of(but)))
}

fn server() -> Vec<Told> {
    let reserved: Vec<String> = RESERVED_SERVERS.iter().map(|name| quoted(name)).collect();
    vec![
        told("spec.server", "The MCP server.").required(&["name", "url"]).rule_at(
            Some(".url"),
            HTTPS_WANTED,
            "!self.url.lowerAscii().startsWith('http://') || (has(self.allowPlaintext) && self.allowPlaintext)",
        ),
        told("spec.server.name", "As the agent names it: the URL segment at the endpoint, and the metric label.")
            .length(63)
            .rule(SERVER_NAME, format!("self.matches({}) && !(self in [{}])", quoted(LABEL), reserved.join(", "))),
        url(),
        told(
            "spec.server.transports",
            "What the server speaks: StreamableHTTP (if left out), SSE (the HTTP+SSE of 2024-11-05) or both.",
        )
        .list(
            1,
            MAX_TRANSPORTS,
            each()
                .length(32)
                .rule(NO_STDIO, "self.lowerAscii() != 'stdio'")
                .rule(TRANSPORT, "self.lowerAscii() == 'stdio' || self in ['StreamableHTTP', 'SSE']"),
        ),
        told("spec.server.allowPlaintext", "Consent to an http url: the credential then travels in clear text."),
        told("spec.server.subpaths", "Whether paths below the url's are covered too."),
    ]
}

/// The text of [`UrlFault`] for each way in which a URL can be wrong, each silent about what another one tells.
fn url() -> Told {
    let at_host = |pattern: &str| format!("^[^/]*//{pattern}(:[^/]*)?(/|$)");
    let name = format!("{HOST_LABEL}([.]{HOST_LABEL})*");
    let host = format!("({name}|[[][0-9A-Fa-f:.]+[]])");
    let v4 = at_host(&format!("{OCTET}([.]{OCTET}){{3}}"));
    let authority = format!(
        "self.matches({}) && (!self.matches({}) || self.matches({}))",
        quoted(&format!("^[^/]*//{host}(:{PORT})?(/|$)")),
        quoted(&at_host(&format!("([^/:]*[.])?{NUMBER}"))),
        quoted(&v4),
    );
    // The path, from its first slash on. It exists only behind an authority.
    let path = |pattern: &str| quoted(&format!("^[^/]*//[^/]*(/.*)?{pattern}"));
    let clean = format!(
        "self.matches({}) && !self.matches({}) && !self.matches({}) && !self.matches({})",
        quoted("^[^/]*//[^/]*(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*$"),
        path("//"),
        path("/([.]|%2[eE]){1,2}(/|$)"),
        path("%(2[fF]|5[cC]|25|[01][0-9A-Fa-f]|7[fF])"),
    );
    let web = "!self.matches('^(?i)https?://') ||";
    told("spec.server.url", "Where it is: https://host[:port]/path. http only with allowPlaintext.")
        .length(MAX_URL)
        .rule(NO_STDIO, "!self.matches('^(?i)stdio(:|$)')")
        .rule(UrlFault::Scheme, "self.matches('^(?i)(https?://|stdio(:|$))')")
        .rule(UrlFault::QueryOrFragment, format!("{web} (!self.contains('?') && !self.contains('#'))"))
        .rule(UrlFault::UserInfo, format!("{web} !self.matches('^[^/]*//[^/?#]*@')"))
        .rule(UrlFault::Authority, format!("{web} self.matches('^[^/]*//[^/]*[@?#]') || ({authority})"))
        .rule(UrlFault::Path, format!("{web} self.matches('[?#]') || ({clean})"))
}

fn trust() -> Vec<Told> {
    let name = format!("^({HOST_LABEL}([.]{HOST_LABEL})*)?$");
    let number = format!("^([^.]*[.])*{NUMBER}$");
    vec![
        told("spec.server.tls", "How the server is verified, where the system's CA certificates do not do."),
        told("spec.server.tls.caBundle", "CA certificates that replace the system's for this server.")
            .required(&["configMapRef"]),
        told(
            "spec.server.tls.caBundle.configMapRef",
            "A ConfigMap of this namespace with the label postern.dev/ca-bundle: \"true\".",
        )
        .required(&["name", "key"]),
        told("spec.server.tls.caBundle.configMapRef.name", "Its name.").length(253).matches(DNS_SUBDOMAIN, SUBDOMAIN),
        told("spec.server.tls.caBundle.configMapRef.key", "Its key that holds the certificates in PEM.")
            .length(253)
            .matches(SECRET_KEY, KEY),
        told(
            "spec.server.tls.serverName",
            "The DNS name asked for and verified in TLS, where it is not the url's host.",
        )
        .length(253)
        .rule(TLS_NAME, format!("self.matches({}) && !self.matches({})", quoted(&name), quoted(&number))),
    ]
}

fn credential() -> Vec<Told> {
    let key = |path, description: &str| told(path, description).length(253).matches(SECRET_KEY, KEY);
    vec![
        told("spec.credential", "What is put on each request.")
            .required(&["type", "secretRef"])
            .rule_at(Some(".secretRef.key"), REQUIRED, "self.type == 'Basic' || has(self.secretRef.key)")
            .rule_at(Some(".secretRef.key"), NO_TOKEN_KEY, "self.type != 'Basic' || !has(self.secretRef.key)")
            .rule_at(
                Some(".secretRef"),
                BASIC_KEYS,
                "self.type == 'Basic' || (!has(self.secretRef.usernameKey) && !has(self.secretRef.passwordKey))",
            )
            .rule_at(
                Some(".header.name"),
                REQUIRED,
                "self.type != 'Header' || (has(self.header) && has(self.header.name))",
            )
            .rule_at(
                Some(".header.format"),
                NO_FORMAT,
                "self.type != 'Basic' || !has(self.header) || !has(self.header.format)",
            ),
        told("spec.credential.type", "Bearer: a token after the word Bearer. Header: a value in a header of your choice. Basic: user and password (RFC 7617).")
            .with("enum", json!(["Bearer", "Header", "Basic"])),
        told("spec.credential.secretRef", "The Secret of this namespace that holds the value. Its owner consents with the label postern.dev/credential and the annotation postern.dev/allowed-hosts.")
            .required(&["name"]),
        told("spec.credential.secretRef.name", "Its name.").length(253).matches(DNS_SUBDOMAIN, SUBDOMAIN),
        key("spec.credential.secretRef.key", "Its key that holds the value; with Bearer and Header."),
        key("spec.credential.secretRef.usernameKey", "Its key that holds the user name; with Basic. username if left out."),
        key("spec.credential.secretRef.passwordKey", "Its key that holds the password; with Basic. password if left out."),
        told("spec.credential.header", "The header that the value goes into."),
        told("spec.credential.header.name", "Its name. Authorization if left out; required with Header.")
            .length(MAX_FIELD_NAME)
            .matches(NOT_A_NAME, TOKEN)
            .rule(NO_CREDENTIAL_HEADER, none_of(&NOT_FOR_CREDENTIALS)),
        told("spec.credential.header.format", "What stands around the value: printable ASCII with {token} exactly once. Not with Basic.")
            .length(Format::MAX)
            .rule(
                Format::EXPECTED,
                format!(
                    "self.matches({}) && size(self.split('{{token}}')) == 2 && !self.startsWith(' ') && !self.endsWith(' ')",
                    quoted(PRINTABLE)
                ),
            ),
    ]
}

/// Conditions as in other Kubernetes objects, one entry for each type, so that each has its one writer.
fn status() -> Value {
    json!({
        "observedGeneration": {
            "type": "integer", "format": "int64", "minimum": 0,
            "description": "The generation of the binding that Accepted was last said of.",
        },
        "conditions": {
            "type": "array",
            "description": "What is true of the binding at this moment.",
            "maxItems": 8,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "reason", "message", "lastTransitionTime"],
                "properties": {
                    "type": {"type": "string", "maxLength": 316, "description": "What is said."},
                    "status": {
                        "type": "string", "enum": ["True", "False", "Unknown"],
                        "description": "Whether it is so.",
                    },
                    "observedGeneration": {
                        "type": "integer", "format": "int64", "minimum": 0,
                        "description": "The generation of the binding that it was said of.",
                    },
                    "lastTransitionTime": {
                        "type": "string", "format": "date-time",
                        "description": "Since when the status has been what it is.",
                    },
                    "reason": {
                        "type": "string", "minLength": 1, "maxLength": 1024,
                        "description": "Why, in one word of a closed list.",
                    },
                    "message": {
                        "type": "string", "maxLength": 32768,
                        "description": "Why, for people. Never a value.",
                    },
                },
            },
        },
    })
}
