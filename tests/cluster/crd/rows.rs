//! Good and bad documents, and who refuses each.

use serde_json::{Value, json};

use crate::support::kind::binding;

/// Who refuses a document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum By {
    /// The API server and the reader, in the same words.
    Both,
    /// Both; the API server in its own words, for a bound, a kind or a field that is left out.
    BothInOwnWords(&'static str),
    /// The reader only: the binding is stored, and its status says that it is not accepted.
    Reader,
    /// Neither.
    Nobody,
}

pub struct Row {
    /// Replaced or added in a good document.
    pub at: &'static str,
    pub value: Value,
    /// The field that is told.
    pub told: &'static str,
    pub by: By,
}

fn row(at: &'static str, value: Value, told: &'static str, by: By) -> Row {
    Row { at, value, told, by }
}

/// All of them.
pub fn rows() -> Vec<Row> {
    [accounts(), servers(), urls(), credentials(), headers(), others()].into_iter().flatten().collect()
}

fn accounts() -> Vec<Row> {
    const AT: &str = "/spec/serviceAccounts";
    const TOLD: &str = "spec.serviceAccounts";
    let many = |count| json!((0..count).map(|at| format!("a{at}")).collect::<Vec<_>>());
    vec![
        row(AT, json!([]), TOLD, By::BothInOwnWords("at least 1 items")),
        row(AT, many(64), "", By::Nobody),
        row(AT, many(65), TOLD, By::BothInOwnWords("must have at most 64 items")),
        row(AT, json!(["*"]), "spec.serviceAccounts[0]", By::Both),
        row(AT, json!(["good", "Bad"]), "spec.serviceAccounts[1]", By::Both),
        row(AT, json!(["a".repeat(253)]), "", By::Nobody),
        row(AT, json!(["a".repeat(254)]), "spec.serviceAccounts[0]", By::BothInOwnWords("253")),
        row(AT, json!("agent"), TOLD, By::BothInOwnWords("must be of type array")),
        row("/spec", json!({}), TOLD, By::BothInOwnWords("Required value")),
    ]
}

fn servers() -> Vec<Row> {
    const NAME: &str = "/spec/server/name";
    const TRANSPORTS: &str = "/spec/server/transports";
    const TLS: &str = "/spec/server/tls";
    let tls_name = |name: &str| json!({"serverName": name});
    let bundle = |bundle: Value| json!({"caBundle": bundle});
    let reference = "spec.server.tls.caBundle.configMapRef";
    vec![
        row(NAME, json!("token"), "spec.server.name", By::Both),
        row(NAME, json!("register"), "spec.server.name", By::Both),
        row(NAME, json!("authorize"), "spec.server.name", By::Both),
        row(NAME, json!("Git"), "spec.server.name", By::Both),
        row(NAME, json!("a.b"), "spec.server.name", By::Both),
        row(NAME, json!("-a"), "spec.server.name", By::Both),
        row(NAME, json!(""), "spec.server.name", By::Both),
        row(NAME, json!("a\n"), "spec.server.name", By::Both),
        row(NAME, json!("a".repeat(64)), "spec.server.name", By::BothInOwnWords("63")),
        row(TRANSPORTS, json!(["stdio"]), "spec.server.transports[0]", By::Both),
        row(TRANSPORTS, json!(["SSE", "STDIO"]), "spec.server.transports[1]", By::Both),
        row(TRANSPORTS, json!(["WebSocket"]), "spec.server.transports[0]", By::Both),
        row(TRANSPORTS, json!([]), "spec.server.transports", By::BothInOwnWords("at least 1 items")),
        row(TRANSPORTS, json!(["SSE", "SSE", "SSE"]), "spec.server.transports", By::BothInOwnWords("at most 2 items")),
        row("/spec/server/allowPlaintext", json!("true"), "spec.server.allowPlaintext", By::BothInOwnWords("boolean")),
        row(TLS, tls_name("a b"), "spec.server.tls.serverName", By::Both),
        row(TLS, tls_name("127.0.0.1"), "spec.server.tls.serverName", By::Both),
        row(TLS, tls_name("a.example."), "spec.server.tls.serverName", By::Both),
        row(TLS, tls_name(""), "", By::Nobody),
        row(TLS, tls_name("Mcp.example"), "", By::Nobody),
        row(TLS, bundle(json!({})), "spec.server.tls.caBundle.configMapRef.name", By::BothInOwnWords("Required value")),
        row(
            TLS,
            bundle(json!({"configMapRef": {"name": "c"}})),
            "spec.server.tls.caBundle.configMapRef.key",
            By::BothInOwnWords("Required value"),
        ),
        row(
            TLS,
            bundle(json!({"configMapRef": {"name": "c", "key": "../k"}})),
            "spec.server.tls.caBundle.configMapRef.key",
            By::Both,
        ),
        row(TLS, bundle(json!({"configMapRef": {"name": "c", "key": "ca.crt"}})), "", By::Nobody),
        // The API server drops the field before it looks; the reader sees it in files only.
        row(TLS, bundle(json!({"configMapRef": {"name": "c", "key": "k", "optional": true}})), reference, By::Reader),
    ]
}

const BAD_URLS: &[&str] = &[
    "http://h.example/",
    "HTTP://h.example/",
    "stdio",
    "stdio:npx server",
    "STDIO://x",
    "npx -y server",
    "file:///etc/passwd",
    "unix:/run/x.sock",
    "ws://h.example/",
    "https:/h.example/",
    "https:h.example",
    "//h.example/",
    "https://user:pass@h.example/",
    "https://token@h.example",
    "https://h.example\\@evil.example/",
    "https://h.example/?token=x",
    "https://h.example?x",
    "https://h.example/#x",
    "https:///x",
    "https://",
    "https://h.example:0/",
    "https://h.example:/",
    "https://h.example:65536/",
    "https://h.example:99999/",
    "https://h.example:8a/",
    "https://127.1/",
    "https://0x7f.0x1/",
    "https://2130706433/",
    "https://1.2.3.256/",
    "https://01.2.3.4/",
    "https://h h/",
    "https://h.example./",
    "https://h..example/",
    "https://-h.example/",
    "https://h.example-/",
    "https://bücher.example/",
    "https://[::1/",
    "https://[h]/",
    "https://h.example/a/../b",
    "https://h.example/..",
    "https://h.example/a/%2e%2E/b",
    "https://h.example/./a",
    "https://h.example/a//b",
    "https://h.example//",
    "https://h.example/a%2fb",
    "https://h.example/a%5Cb",
    "https://h.example/a%00",
    "https://h.example/a%25",
    "https://h.example/a%",
    "https://h.example/a%zz",
    "https://h.example/a b",
    "https://h.example/a\\b",
    "https://h.example/\u{e9}",
    "https://h.example/a\n",
];

const GOOD_URLS: &[&str] = &[
    "https://h.example",
    "https://h.example/",
    "HTTPS://H.Example:443/mcp",
    "https://h.example:8443/a/b/",
    "https://my_host.example:00443/",
    "https://10.0.0.1/mcp",
    "https://[2001:db8::1]:8443/mcp",
    "https://xn--bcher-kva.example/",
    "https://h.example/a%20b/~c!$&'()*+,;=:@-",
    "https://h.example/a..b/.well-known/...",
];

fn urls() -> Vec<Row> {
    let url = |url: &str, by| row("/spec/server/url", json!(url), "spec.server.url", by);
    let long = format!("https://h.example/{}", "a".repeat(2048));
    let long_host = format!("https://{}example/", "a.".repeat(130));
    let mut rows: Vec<Row> = BAD_URLS.iter().map(|text| url(text, By::Both)).collect();
    rows.extend(GOOD_URLS.iter().map(|text| url(text, By::Nobody)));
    rows.push(url(&long, By::BothInOwnWords("2048")));
    // CEL has no count of a part of a text, and its own reader of addresses takes other ones than Rust's.
    rows.push(url(&long_host, By::Reader));
    rows.push(url("https://[:::]/", By::Reader));
    rows.push(row("/spec/server/url", json!(1), "spec.server.url", By::BothInOwnWords("must be of type string")));
    rows.push(row("/spec/server", json!({"name": "a"}), "spec.server.url", By::BothInOwnWords("Required value")));
    rows.push(row(
        "/spec/server",
        json!({"name": "a", "url": "http://h.example/", "allowPlaintext": false}),
        "spec.server.url",
        By::Both,
    ));
    rows.push(row(
        "/spec/server",
        json!({"name": "a", "url": "http://h.example/", "allowPlaintext": true}),
        "",
        By::Nobody,
    ));
    rows
}

fn credentials() -> Vec<Row> {
    const AT: &str = "/spec/credential";
    let of = |kind: &str, secret: Value| json!({"type": kind, "secretRef": secret});
    let token = || json!({"name": "s", "key": "token"});
    vec![
        row(AT, of("OAuth", token()), "spec.credential.type", By::BothInOwnWords("Unsupported value")),
        row(AT, json!({"secretRef": token()}), "spec.credential.type", By::BothInOwnWords("Required value")),
        row(AT, json!({"type": "Bearer"}), "spec.credential.secretRef.name", By::BothInOwnWords("Required value")),
        row(AT, of("Bearer", json!({"name": "s"})), "spec.credential.secretRef.key", By::Both),
        row(AT, of("Bearer", json!({"name": "S", "key": "k"})), "spec.credential.secretRef.name", By::Both),
        row(AT, of("Bearer", json!({"name": "s", "key": ".."})), "spec.credential.secretRef.key", By::Both),
        row(AT, of("Bearer", json!({"name": "s", "key": "."})), "spec.credential.secretRef.key", By::Both),
        row(AT, of("Bearer", json!({"name": "s", "key": "..a"})), "spec.credential.secretRef.key", By::Both),
        row(AT, of("Bearer", json!({"name": "s", "key": "a/b"})), "spec.credential.secretRef.key", By::Both),
        row(AT, of("Bearer", json!({"name": "s", "key": ".a"})), "", By::Nobody),
        row(
            AT,
            of("Bearer", json!({"name": "s", "key": "k", "usernameKey": "u"})),
            "spec.credential.secretRef",
            By::Both,
        ),
        row(AT, of("Basic", json!({"name": "s"})), "", By::Nobody),
        row(AT, of("Basic", json!({"name": "s", "usernameKey": "u", "passwordKey": "p"})), "", By::Nobody),
        row(AT, of("Basic", token()), "spec.credential.secretRef.key", By::Both),
        row(
            AT,
            of("Basic", json!({"name": "s", "usernameKey": "a b"})),
            "spec.credential.secretRef.usernameKey",
            By::Both,
        ),
    ]
}

fn headers() -> Vec<Row> {
    const AT: &str = "/spec/credential";
    const FORMAT: &str = "spec.credential.header.format";
    const HEADER: &str = "spec.credential.header.name";
    let token = || json!({"name": "s", "key": "token"});
    let with = |kind: &str, header: Value| json!({"type": kind, "secretRef": token(), "header": header});
    let mut rows = vec![
        row(
            AT,
            json!({"type": "Basic", "secretRef": {"name": "s"}, "header": {"format": "{token}"}}),
            FORMAT,
            By::Both,
        ),
        row(AT, with("Header", json!({})), HEADER, By::Both),
        row(AT, json!({"type": "Header", "secretRef": token()}), HEADER, By::Both),
        row(AT, with("Header", json!({"name": "X-Api-Key"})), "", By::Nobody),
        row(AT, with("Header", json!({"name": "Mcp-Auth-Token"})), "", By::Nobody),
        row(AT, with("Bearer", json!({"format": "Bearer"})), FORMAT, By::Both),
        row(AT, with("Bearer", json!({"format": ""})), FORMAT, By::Both),
        row(AT, with("Bearer", json!({"format": "{token}{token}"})), FORMAT, By::Both),
        row(AT, with("Bearer", json!({"format": " {token}"})), FORMAT, By::Both),
        row(AT, with("Bearer", json!({"format": "{token} "})), FORMAT, By::Both),
        row(AT, with("Bearer", json!({"format": "a\n{token}"})), FORMAT, By::Both),
        row(AT, with("Bearer", json!({"format": "\u{e9}{token}"})), FORMAT, By::Both),
        row(AT, with("Bearer", json!({"format": "{Token}"})), FORMAT, By::Both),
        row(
            AT,
            with("Bearer", json!({"format": format!("{{token}}{}", "a".repeat(1024))})),
            FORMAT,
            By::BothInOwnWords("1024"),
        ),
        row(AT, with("Bearer", json!({"format": "key=\"{token}\""})), "", By::Nobody),
    ];
    let bad = [
        "",
        "a b",
        "a:b",
        "\u{e9}",
        "Host",
        "Content-Length",
        "Connection",
        "Cookie",
        "MCP-Session-Id",
        "Mcp-Param-Page-Token",
        "Accept",
        "X-Forwarded-For",
    ];
    rows.extend(bad.map(|name| row(AT, with("Header", json!({"name": name})), HEADER, By::Both)));
    rows.push(row(AT, with("Header", json!({"name": "a".repeat(257)})), HEADER, By::BothInOwnWords("256")));
    rows
}

fn others() -> Vec<Row> {
    let passed = |names: Value, told, by| row("/spec/passHeaders", names, told, by);
    let first = "spec.passHeaders[0]";
    let tools = |tools: Value, told, by| row("/spec/tools", tools, told, by);
    let spec = |more: Value| {
        let mut spec = binding("", "a", |_| ())["spec"].take();
        spec.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        spec
    };
    let header = json!({"type": "Header", "secretRef": {"name": "s", "key": "k"}, "header": {"name": "X-Own"}});
    let mut rows: Vec<Row> = [
        "Authorization",
        "Cookie",
        "x-api-key",
        "X-Auth-Token",
        "apikey",
        "My-Secret",
        "Host",
        "TE",
        "DPoP",
        "Custom-Authorization",
        "a b",
        "",
    ]
    .map(|name| passed(json!([name]), first, By::Both))
    .into();
    rows.extend([
        passed(json!(["X-Tenant", "X-Request-Id", "Mcp-Param-Page-Token"]), "", By::Nobody),
        passed(
            json!((0..65).map(|at| format!("x-{at}")).collect::<Vec<_>>()),
            "spec.passHeaders",
            By::BothInOwnWords("at most 64"),
        ),
        row("/spec", spec(json!({"credential": header, "passHeaders": ["x-own"]})), "spec.passHeaders", By::Both),
        row("/spec/passCookies", json!(["a b"]), "spec.passCookies[0]", By::Both),
        row("/spec/passCookies", json!(["session"]), "", By::Nobody),
        tools(json!({"allow": [""]}), "spec.tools.allow[0]", By::Both),
        tools(json!({"deny": ["ok", "a b"]}), "spec.tools.deny[1]", By::Both),
        tools(json!({"allow": ["a".repeat(129)]}), "spec.tools.allow[0]", By::BothInOwnWords("128")),
        tools(json!({"allow": vec!["a"; 257]}), "spec.tools.allow", By::BothInOwnWords("at most 256")),
        tools(json!({"allow": ["search_*"], "deny": ["*"]}), "", By::Nobody),
        row("/spec", spec(json!({"allowBatch": true, "tools": {"allow": ["a"]}})), "spec.allowBatch", By::Both),
        row("/spec", spec(json!({"allowBatch": true, "tools": {"deny": ["a"]}})), "spec.allowBatch", By::Both),
        row("/spec", spec(json!({"allowBatch": true, "tools": {"allow": []}})), "", By::Nobody),
        row("/spec", spec(json!({"allowBatch": false, "tools": {"allow": ["a"]}})), "", By::Nobody),
        row("/apiVersion", json!("postern.dev/v1"), "apiVersion", By::BothInOwnWords("does not match")),
        row("/kind", json!("Secret"), "kind", By::BothInOwnWords("must be CredentialBinding")),
        // Nothing behind a field is a field left out: in YAML that is easily written.
        row("/spec/tools", Value::Null, "", By::Nobody),
        row("/status", json!({"conditions": [{"type": "Accepted"}]}), "", By::Nobody),
    ]);
    rows
}
