//! A configuration that is wrong ends the process before it binds a socket, and says all of it.

use std::net::TcpListener;

use serde_json::json;

use crate::support::files::{Files, Layout};
use crate::support::output::Lines;
use crate::support::secrets::contains;
use crate::support::sidecar::Process;
use crate::support::{Binding, unique_secret};

/// A fault: file, a part of the line's text that names place and expected form.
struct Expected {
    file: &'static str,
    line: usize,
    path: &'static str,
    form: &'static str,
}

const fn fault(file: &'static str, line: usize, path: &'static str, form: &'static str) -> Expected {
    Expected { file, line, path, form }
}

const CONFIG: &str = "\
caller: {namespace: research, serviceAccount: research-agent}
source: {file: {directory: ./bindings}}
endpoint: {port: 0}
admin: {address: 127.0.0.1, port: 0}
dial: {allowLoopback: true}
log: {format: json}
";

/// A binding document whose `spec.server` and `spec.credential` are these lines, indented by four.
fn document(name: &str, server: &str, credential: &str) -> String {
    let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "apiVersion: postern.dev/v1alpha1\nkind: CredentialBinding\nmetadata: {{name: {name}, namespace: research}}\n\
         spec:\n  serviceAccounts: [research-agent]\n  server:\n{}  credential:\n{}",
        indent(server),
        indent(credential)
    )
}

const GOOD: &str = "type: Bearer\nsecretRef: {name: s, key: token}";

fn server(name: &str, url: &str) -> String {
    format!("name: {name}\nurl: {url}")
}

/// Runs the binary on these files to its end: exit code, standard error, standard output.
async fn run(files: &Files) -> (Option<i32>, String, String) {
    let process = Process::start(files);
    let status = process.exit().await;
    (status.code(), process.stderr.read(Lines::text), process.stdout.read(Lines::text))
}

/// Issue 2 item 2: every fault of every file at once, each with file, line, path and expected form;
/// exit 2; nothing listens; no value of a secret in the text.
#[tokio::test]
async fn every_fault_is_told_at_once() {
    let files = Files::new(Layout::Files);
    files.write("postern.yaml", CONFIG);
    let secret = unique_secret();
    files.overwrite_secret("s", "token", secret.as_bytes());
    let pasted = unique_secret();
    let documents = [
        (
            "unknown.yaml",
            document("unknown", &format!("{}\ncolour: blue", server("unknown", "https://a.example/1")), GOOD),
        ),
        ("command.yaml", document("command", "name: command\ncommand: npx\nargs: [-y, some-server]", GOOD)),
        (
            "transport.yaml",
            document("transport", &format!("{}\ntransport: stdio", server("transport", "https://a.example/2")), GOOD),
        ),
        (
            "transports.yaml",
            document(
                "transports",
                &format!("{}\ntransports: [stdio]", server("transports", "https://a.example/3")),
                GOOD,
            ),
        ),
        ("stdio.yaml", document("stdio", "name: stdio\nstdio: {command: npx}\nurl: https://a.example/4", GOOD)),
        ("file.yaml", document("file", &server("file", "file:///usr/bin/server"), GOOD)),
        ("unix.yaml", document("unix", &server("unix", "unix:/run/server.sock"), GOOD)),
        ("ws.yaml", document("ws", &server("ws", "wss://a.example/ws"), GOOD)),
        ("plain.yaml", document("plain", &server("plain", "http://a.example/5"), GOOD)),
        ("userinfo.yaml", document("userinfo", &server("userinfo", &format!("https://u:{pasted}@a.example/6")), GOOD)),
        ("query.yaml", document("query", &server("query", &format!("https://a.example/7?key={pasted}")), GOOD)),
        (
            "format.yaml",
            document(
                "format",
                &server("format", "https://a.example/8"),
                &format!("{GOOD}\nheader: {{name: Authorization, format: {pasted}}}"),
            ),
        ),
        (
            "twice.yaml",
            document(
                "twice",
                &server("twice", "https://a.example/9"),
                &format!("{GOOD}\nheader: {{name: X-Key, format: \"{{token}}{{token}}\"}}"),
            ),
        ),
        (
            "header.yaml",
            document(
                "header",
                &server("header", "https://a.example/10"),
                &format!("{GOOD}\nheader: {{name: \"X Key\", format: \"{{token}}\"}}"),
            ),
        ),
        (
            "framing.yaml",
            document(
                "framing",
                &server("framing", "https://a.example/11"),
                &format!("{GOOD}\nheader: {{name: Host, format: \"{{token}}\"}}"),
            ),
        ),
        ("reserved.yaml", document("reserved", &server("token", "https://a.example/12"), GOOD)),
        ("label.yaml", document("label", &server("Git_Hub", "https://a.example/13"), GOOD)),
        (
            "type.yaml",
            document("type", &server("type", "https://a.example/14"), "type: Magic\nsecretRef: {name: s, key: token}"),
        ),
        (
            "inline.yaml",
            document("inline", &server("inline", "https://a.example/15"), &format!("{GOOD}\nvalue: {pasted}")),
        ),
        ("broken.yaml", format!("apiVersion: [{pasted}\n")),
    ];
    for (name, text) in &documents {
        files.write(&format!("bindings/{name}"), text);
    }
    let expected = [
        fault("unknown.yaml", 9, "spec.server.colour", "no such field"),
        fault("command.yaml", 8, "spec.server.command", "stdio_unsupported"),
        fault("command.yaml", 9, "spec.server.args", "stdio_unsupported"),
        fault("transport.yaml", 9, "spec.server.transport", "stdio_unsupported"),
        fault("transports.yaml", 9, "spec.server.transports[0]", "stdio_unsupported"),
        fault("stdio.yaml", 8, "spec.server.stdio", "stdio_unsupported"),
        fault("file.yaml", 8, "spec.server.url", "https URL"),
        fault("unix.yaml", 8, "spec.server.url", "https URL"),
        fault("ws.yaml", 8, "spec.server.url", "https URL"),
        fault("plain.yaml", 8, "spec.server.url", "allowPlaintext"),
        fault("userinfo.yaml", 8, "spec.server.url", "without user"),
        fault("query.yaml", 8, "spec.server.url", "without query"),
        fault("format.yaml", 12, "spec.credential.header.format", "{token} exactly once"),
        fault("twice.yaml", 12, "spec.credential.header.format", "{token} exactly once"),
        fault("header.yaml", 12, "spec.credential.header.name", "header name"),
        fault("framing.yaml", 12, "spec.credential.header.name", "not one that frames"),
        fault("reserved.yaml", 7, "spec.server.name", "register, token and authorize"),
        fault("label.yaml", 7, "spec.server.name", "DNS label"),
        fault("type.yaml", 10, "spec.credential.type", "Bearer, Header or Basic"),
        fault("inline.yaml", 12, "spec.credential.value", "no such field"),
        fault("broken.yaml", 2, "", "valid YAML"),
    ];
    let (code, stderr, stdout) = run(&files).await;
    assert_eq!(code, Some(2), "{stderr}");
    assert!(!stderr.contains("listening"), "{stderr}");
    assert_eq!(stdout, "");
    for Expected { file, line, path, form } in expected {
        let place = format!("{file}:{line}: ");
        let found = stderr.lines().any(|text| text.contains(&place) && text.contains(path) && text.contains(form));
        assert!(found, "no fault `{place}{path} ... {form}` in\n{stderr}");
    }
    for value in [&secret, &pasted] {
        assert!(!contains(stderr.as_bytes(), value.as_bytes()), "a value is quoted");
    }
}

/// Two bindings for one server name, or for one place: refused, both named, before anything runs.
#[tokio::test]
async fn overlapping_bindings_are_refused() {
    let rows = [
        (server("same", "https://a.example/1"), server("same", "https://a.example/2"), "server.name"),
        (server("one", "https://a.example/mcp"), server("two", "https://a.example/mcp/"), "server.url"),
        (
            server("one", "https://a.example/mcp"),
            format!("{}\nsubpaths: true", server("two", "https://a.example")),
            "server.url",
        ),
    ];
    for (first, second, over) in rows {
        let files = Files::new(Layout::Files);
        files.write("postern.yaml", CONFIG);
        files.write("bindings/a.yaml", document("first", &first, GOOD));
        files.write("bindings/b.yaml", document("second", &second, GOOD));
        let (code, stderr, _) = run(&files).await;
        assert_eq!(code, Some(2), "{stderr}");
        for part in ["b.yaml:", over, "first", "a.yaml"] {
            assert!(stderr.contains(part), "{part} in {stderr}");
        }
    }
}

/// The configuration file itself: unknown fields, wrong kinds and values, stdio; all told at once.
#[tokio::test]
async fn faults_of_the_configuration_are_told_at_once() {
    let files = Files::new(Layout::Files);
    let config = "\
caller: {namespace: Research!, serviceAccount: research-agent}
source: {file: {directory: ./bindings}}
endpoint: {port: 70000}
admin:
  address: nowhere
  port: 0
  colour: blue
rotationGrace: soon
idleTimeout: 5
limits:
  bodyBytes: -1
mcpServers:
  x: {command: npx}
log: {level: shout}
";
    files.write("postern.yaml", config);
    let (code, stderr, stdout) = run(&files).await;
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    for (line, path) in [
        (1, "caller.namespace"),
        (3, "endpoint.port"),
        (5, "admin.address"),
        (7, "admin.colour"),
        (8, "rotationGrace"),
        (9, "idleTimeout"),
        (11, "limits.bodyBytes"),
        (12, "mcpServers"),
        (14, "log.level"),
    ] {
        let place = format!("postern.yaml:{line}: {path}");
        assert!(stderr.contains(&place), "{place} in\n{stderr}");
    }
}

/// A directory or file that is not there, and an empty configuration, are faults as well.
#[tokio::test]
async fn missing_files_are_faults() {
    let files = Files::new(Layout::Files);
    let (code, stderr, _) = run(&files).await;
    assert_eq!(code, Some(2), "no configuration file: {stderr}");
    for config in [
        "",
        "# nothing\n",
        "[]\n",
        "caller: {namespace: a, serviceAccount: b}\nsource: {file: {directory: ./absent}}\n",
    ] {
        files.write("postern.yaml", config);
        let (code, stderr, _) = run(&files).await;
        assert_eq!(code, Some(2), "{config:?}: {stderr}");
        assert!(stderr.contains("postern.yaml") || stderr.contains("absent"), "{stderr}");
    }
}

/// "Before a socket is bound": a port that is taken does not matter to a configuration that is wrong,
/// and it is not the fault that is told.
#[tokio::test]
async fn faults_are_told_before_any_socket_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = taken.local_addr().expect("a bound listener has an address").port();
    let files = Files::new(Layout::Files);
    files.write("postern.yaml", CONFIG.replace("endpoint: {port: 0}", &format!("endpoint: {{port: {port}}}")));
    let plain = Binding::new("plain").url("http://a.example/mcp").set("/server/allowPlaintext", json!(false));
    files.document(&plain);
    let (code, stderr, _) = run(&files).await;
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("allowPlaintext") && !stderr.contains("in use"), "{stderr}");
}
