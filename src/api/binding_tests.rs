//! Tables of good and bad binding documents.

use super::super::document::read_bindings;
use super::*;

const GOOD: &str = "\
apiVersion: postern.dev/v1alpha1
kind: CredentialBinding
metadata: {name: github, namespace: research, labels: {a: b}}
spec:
  serviceAccounts: [research-agent]
  server: {name: github, url: https://api.example.com/mcp/}
  credential:
    type: Bearer
    secretRef: {name: github-mcp, key: token}
";

/// The paths of all problems of `GOOD` with one line replaced.
fn faults(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from), "{from}");
    let (_, problems) = read_bindings("x.yaml", &GOOD.replace(from, to));
    problems.into_iter().map(|p| p.fault.path).collect()
}

#[test]
fn the_smallest_binding_gets_its_defaults() {
    let (bindings, problems) = read_bindings("x.yaml", GOOD);
    assert_eq!(problems, []);
    let binding = &bindings.first().unwrap().binding;
    assert_eq!(binding.id.to_string(), "research/github");
    assert_eq!(binding.credential.header, http::header::AUTHORIZATION);
    let Material::Token { secret, format } = &binding.credential.material else { panic!("not a token") };
    assert_eq!((secret.to_string().as_str(), format.prefix.as_str()), ("github-mcp/token", "Bearer "));
    assert!(!binding.server.subpaths && binding.tools.is_open());
}

#[test]
fn each_bad_field_is_named() {
    let server = "{name: github, url: https://api.example.com/mcp/}";
    let kind = "type: Bearer";
    let secret = "{name: github-mcp, key: token}";
    let rows = [
        ("postern.dev/v1alpha1", "v1", "apiVersion"),
        ("CredentialBinding", "Secret", "kind"),
        ("name: github, namespace: research", "name: github", "metadata.namespace"),
        ("[research-agent]", "[]", "spec.serviceAccounts"),
        ("[research-agent]", "['*']", "spec.serviceAccounts[0]"),
        ("[research-agent]", "research-agent", "spec.serviceAccounts"),
        (server, "{name: token, url: https://h/}", "spec.server.name"),
        (server, "{name: Git, url: https://h/}", "spec.server.name"),
        (server, "{name: a}", "spec.server.url"),
        (server, "{name: a, url: 'stdio:npx x'}", "spec.server.url"),
        (server, "{name: a, url: 'file:///x'}", "spec.server.url"),
        (server, "{name: a, url: 'unix:/x'}", "spec.server.url"),
        (server, "{name: a, url: 'ws://h/'}", "spec.server.url"),
        (server, "{name: a, url: 'http://h/'}", "spec.server.url"),
        (server, "{name: a, url: 'https://u:p@h/'}", "spec.server.url"),
        (server, "{name: a, url: 'https://h/?k=v'}", "spec.server.url"),
        (server, "{name: a, url: https://h/, command: npx}", "spec.server.command"),
        (server, "{name: a, url: https://h/, transport: stdio}", "spec.server.transport"),
        (server, "{name: a, url: https://h/, transports: [stdio]}", "spec.server.transports[0]"),
        (server, "{name: a, url: https://h/, transports: []}", "spec.server.transports"),
        (server, "{name: a, url: https://h/, transports: [WebSocket]}", "spec.server.transports[0]"),
        (server, "{name: a, url: https://h/, tls: {serverName: 'a b'}}", "spec.server.tls.serverName"),
        (
            server,
            "{name: a, url: https://h/, tls: {caBundle: {configMapRef: {name: c}}}}",
            "spec.server.tls.caBundle.configMapRef.key",
        ),
        (kind, "type: OAuth", "spec.credential.type"),
        (kind, "type: Header", "spec.credential.header.name"),
        (kind, "type: Basic", "spec.credential.secretRef.key"),
        (kind, "type: Bearer\n    header: {format: Bearer}", "spec.credential.header.format"),
        (kind, "type: Bearer\n    header: {format: '{token}{token}'}", "spec.credential.header.format"),
        (kind, "type: Bearer\n    header: {name: Host}", "spec.credential.header.name"),
        (kind, "type: Bearer\n    header: {name: 'a b'}", "spec.credential.header.name"),
        (secret, "{name: github-mcp, key: token}\n  passHeaders: [Cookie]", "spec.passHeaders[0]"),
        (secret, "{name: github-mcp, key: token}\n  tokens: []", "spec.tokens"),
        (secret, "{name: github-mcp}", "spec.credential.secretRef.key"),
        (secret, "{name: github-mcp, key: ../x}", "spec.credential.secretRef.key"),
        (secret, "{name: github-mcp, key: token, usernameKey: u}", "spec.credential.secretRef"),
        (secret, "{name: github-mcp, key: token}\n  tools: {allow: ['']}", "spec.tools.allow[0]"),
        (secret, "{name: github-mcp, key: token}\n  tools: {allow: [a]}\n  allowBatch: true", "spec.allowBatch"),
        (secret, "{name: github-mcp, key: token}\n  passCookies: ['a b']", "spec.passCookies[0]"),
    ];
    for (from, to, path) in rows {
        let found = faults(from, to);
        assert!(found.iter().any(|p| p == path), "{to}: {path} not in {found:?}");
    }
}

#[test]
fn faults_are_told_together() {
    let found =
        faults("{name: github, url: https://api.example.com/mcp/}", "{name: A, url: ws://h, command: x}\n  tools: 1");
    assert_eq!(found, ["spec.server.command", "spec.tools", "spec.server.name", "spec.server.url"]);
}
