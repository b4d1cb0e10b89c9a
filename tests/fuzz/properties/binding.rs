//! Binding documents: no text breaks the reader, what it takes it takes again when written anew,
//! and what it says of the rest never quotes a credential that someone pasted there.
//!
//! In the input, `$SECRET` stands for one.

use std::fmt::Write as _;

use postern::api::document::{Located, read_bindings};
use postern::core::binding::{Binding, Material};
use serde::Deserialize as _;
use serde_yaml::Value;

/// Looks like many: letters and digits, `-` and `_`.
const SECRET: &str = "zq7-w0Xk9_pL2mN4bV6c";

pub fn check(data: &[u8]) -> &'static str {
    let Ok(text) = std::str::from_utf8(data) else { return "unreadable" };
    let text = text.replace("$SECRET", SECRET);
    let (bindings, problems) = read_bindings("bindings/a.yaml", &text);
    let lines = text.lines().count();
    for problem in &problems {
        let told = format!("{problem} {problem:?}");
        assert!(!told.contains(SECRET), "a problem quotes the document: {told}");
        assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "of {lines} lines: {told}");
    }
    for Located { binding, line, .. } in &bindings {
        assert!((1..=lines).contains(line), "line {line} of {lines}");
        assert_eq!(read_again(binding), *binding);
    }
    if let Some(documents) = documents(&text) {
        // Where only YAML sees the lines, several documents are refused as one.
        let odd_lines = text.replace("\r\n", "").contains(['\r', '\u{85}', '\u{2028}', '\u{2029}']);
        let told = bindings.len() + problems.len();
        assert!(told >= documents || (odd_lines && told > 0), "of {documents} documents, some are passed over");
    }
    match (bindings.is_empty(), problems.is_empty()) {
        (true, true) => "empty",
        (false, true) => "accepted",
        (_, false) => "refused",
    }
}

/// How many documents with something in them another splitter finds, if it can read them all.
fn documents(text: &str) -> Option<usize> {
    let values: Result<Vec<Value>, _> = serde_yaml::Deserializer::from_str(text).map(Value::deserialize).collect();
    Some(values.ok()?.iter().filter(|value| !value.is_null()).count())
}

fn read_again(binding: &Binding) -> Binding {
    let text = written(binding);
    let (mut bindings, problems) = read_bindings("again.yaml", &text);
    assert_eq!(problems, [], "{text}");
    assert_eq!(bindings.len(), 1, "{text}");
    bindings.remove(0).binding
}

/// A document with every field written out, each text quoted.
fn written(binding: &Binding) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let list = |texts: Vec<String>| format!("[{}]", texts.iter().map(|t| quoted(t)).collect::<Vec<_>>().join(", "));
    let server = &binding.server;
    let mut transports = Vec::new();
    transports.extend(server.transports.streamable_http.then(|| "StreamableHTTP".to_owned()));
    transports.extend(server.transports.sse.then(|| "SSE".to_owned()));
    let mut text = format!(
        "apiVersion: postern.dev/v1alpha1\nkind: CredentialBinding\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n",
        quoted(binding.id.name.as_str()),
        quoted(binding.id.namespace.as_str()),
    );
    let mut line = |indent: usize, key: &str, value: String| {
        writeln!(text, "{:indent$}{key}: {value}", "").expect("a String takes all");
    };
    line(2, "serviceAccounts", list(binding.service_accounts.iter().map(ToString::to_string).collect()));
    line(2, "server", String::new());
    line(4, "name", quoted(server.name.as_str()));
    line(4, "url", quoted(&server.url.to_string()));
    line(4, "transports", list(transports));
    line(4, "allowPlaintext", server.url.to_string().starts_with("http:").to_string());
    line(4, "subpaths", server.subpaths.to_string());
    line(4, "tls", String::new());
    line(6, "serverName", quoted(server.tls_name.as_deref().unwrap_or_default()));
    if let Some(bundle) = &server.ca_bundle {
        let (name, key) = (quoted(bundle.name.as_str()), quoted(bundle.key.as_str()));
        line(6, "caBundle", format!("{{configMapRef: {{name: {name}, key: {key}}}}}"));
    }
    line(2, "credential", String::new());
    let header = quoted(binding.credential.header.as_str());
    match &binding.credential.material {
        Material::Token { secret, format } => {
            let format = quoted(&format!("{}{{token}}{}", format.prefix, format.suffix));
            let (name, key) = (quoted(secret.name.as_str()), quoted(secret.key.as_str()));
            line(4, "type", "Header".into());
            line(4, "secretRef", format!("{{name: {name}, key: {key}}}"));
            line(4, "header", format!("{{name: {header}, format: {format}}}"));
        }
        Material::Basic { secret, username, password } => {
            let [secret, username, password] = [secret.as_str(), username.as_str(), password.as_str()].map(quoted);
            line(4, "type", "Basic".into());
            line(4, "secretRef", format!("{{name: {secret}, usernameKey: {username}, passwordKey: {password}}}"));
            line(4, "header", format!("{{name: {header}}}"));
        }
    }
    line(2, "tools", String::new());
    line(4, "allow", list(binding.tools.allowed().map(str::to_owned).collect()));
    line(4, "deny", list(binding.tools.denied().map(str::to_owned).collect()));
    line(2, "passHeaders", list(binding.pass_headers.iter().map(ToString::to_string).collect()));
    line(2, "passCookies", list(binding.pass_cookies.clone()));
    line(2, "allowBatch", binding.allow_batch.to_string());
    line(2, "allowCompressed", binding.allow_compressed.to_string());
    text
}
