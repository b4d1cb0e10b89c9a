//! A configuration that is wrong ends the process before it binds a socket, and says all of it.

use std::net::TcpListener;
use std::process::Command;

use serde_json::json;

use crate::support::files::{Files, Layout};
use crate::support::output::Lines;
use crate::support::secrets::contains;
use crate::support::sidecar::Process;
use crate::support::{Binding, unique_secret};

/// A wrong document, and what has to be said of it: line, path, a part of the expected form.
struct Case {
    file: String,
    text: String,
    faults: Vec<(usize, &'static str, &'static str)>,
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

/// A document named `name` whose server is wrong: these lines follow its name.
fn bad_server(name: &str, lines: &str, faults: &[(usize, &'static str, &'static str)]) -> Case {
    let text = document(name, &format!("name: {name}\n{lines}"), GOOD);
    Case { file: format!("{name}.yaml"), text, faults: faults.to_vec() }
}

/// A document named `name` whose credential is wrong: it is these lines.
fn bad_credential(name: &str, lines: &str, fault: (usize, &'static str, &'static str)) -> Case {
    let text = document(name, &server(name, &format!("https://a.example/{name}")), lines);
    Case { file: format!("{name}.yaml"), text, faults: vec![fault] }
}

/// stdio in every dress, URLs of every wrong kind, names that are none. `pasted` is a secret in
/// the wrong place.
fn bad_servers(pasted: &str) -> Vec<Case> {
    const STDIO: &str = "stdio_unsupported";
    let url = |name: &str, url: &str, form| bad_server(name, &format!("url: {url}"), &[(8, "spec.server.url", form)]);
    let https = |name: &str, more: &str, path, form| {
        bad_server(name, &format!("url: https://a.example/{name}\n{more}"), &[(9, path, form)])
    };
    let named = |file: &str, name: &str, form| {
        let text = document(file, &server(name, &format!("https://a.example/{file}")), GOOD);
        Case { file: format!("{file}.yaml"), text, faults: vec![(7, "spec.server.name", form)] }
    };
    let command =
        [(8, "spec.server.command", STDIO), (9, "spec.server.args", STDIO), (6, "spec.server.url", "required")];
    vec![
        bad_server("command", "command: npx\nargs: [-y, some-server]", &command),
        https("transport", "transport: stdio", "spec.server.transport", STDIO),
        https("transports", "transports: [stdio]", "spec.server.transports[0]", STDIO),
        https("stdio-field", "stdio: {command: npx}", "spec.server.stdio", STDIO),
        https("unknown", "colour: blue", "spec.server.colour", "no such field"),
        url("stdio-url", "stdio:npx", STDIO),
        url("file", "file:///usr/bin/server", "https URL"),
        url("unix", "unix:/run/server.sock", "https URL"),
        url("ws", "wss://a.example/ws", "https URL"),
        url("plain", "http://a.example/plain", "allowPlaintext"),
        url("userinfo", &format!("https://u:{pasted}@a.example/userinfo"), "without user"),
        url("query", &format!("https://a.example/query?key={pasted}"), "without query"),
        url("dots", "https://a.example/x/../dots", "no dot segments"),
        named("reserved", "token", "register, token and authorize"),
        named("label", "Git_Hub", "DNS label"),
        named("empty", "\"\"", "DNS label"),
    ]
}

fn bad_credentials(pasted: &str) -> Vec<Case> {
    let header = |name: &str, format: &str| format!("{GOOD}\nheader: {{name: {name}, format: {format}}}");
    let format = (12, "spec.credential.header.format", "{token} exactly once");
    let name = "spec.credential.header.name";
    let broken = format!("apiVersion: [{pasted}\n");
    vec![
        bad_credential("format", &header("Authorization", pasted), format),
        bad_credential("twice", &header("X-Key", "\"{token}{token}\""), format),
        bad_credential("header", &header("\"X Key\"", "\"{token}\""), (12, name, "header name")),
        bad_credential("framing", &header("Host", "\"{token}\""), (12, name, "not one that frames")),
        bad_credential("cookie", &header("Cookie", "\"{token}\""), (12, name, "not one that frames")),
        bad_credential(
            "type",
            &GOOD.replace("Bearer", "Magic"),
            (10, "spec.credential.type", "Bearer, Header or Basic"),
        ),
        bad_credential("inline", &format!("{GOOD}\nvalue: {pasted}"), (12, "spec.credential.value", "no such field")),
        Case { file: "broken.yaml".into(), text: broken, faults: vec![(1, "", "valid YAML")] },
    ]
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
    let (secret, pasted) = (unique_secret(), unique_secret());
    files.overwrite_secret("s", "token", secret.as_bytes());
    let cases: Vec<Case> = bad_servers(&pasted).into_iter().chain(bad_credentials(&pasted)).collect();
    cases.iter().for_each(|case| files.write(&format!("bindings/{}", case.file), &case.text));
    let (code, stderr, stdout) = run(&files).await;
    assert_eq!(code, Some(2), "{stderr}");
    assert!(!stderr.contains("listening"), "{stderr}");
    assert_eq!(stdout, "");
    for Case { file, text, faults } in &cases {
        for (line, path, form) in faults {
            let place = format!("/{file}:{line}: {path}");
            let found = stderr.lines().any(|told| told.contains(&place) && told.contains(form));
            assert!(found, "no `{place} ... {form}` for\n{text}\nin\n{stderr}");
        }
        let told = stderr.lines().filter(|told| told.contains(&format!("/{file}:"))).count();
        assert_eq!(told, faults.len(), "each fault of {file} once, and none besides, in\n{stderr}");
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

/// Levels that a library would take, and the documentation does not name.
#[tokio::test]
async fn other_log_levels_are_faults() {
    let files = Files::new(Layout::Files);
    for level in ["off", "OFF", "INFO", "warning", "3", "\"\""] {
        files.write("postern.yaml", CONFIG.replace("format: json", &format!("level: {level}")));
        let (code, stderr, _) = run(&files).await;
        assert_eq!(code, Some(2), "{level}: {stderr}");
        assert!(stderr.contains("postern.yaml:6: log.level"), "{level}: {stderr}");
    }
}

/// `postern check` warns of values that the mask would find everywhere; that is no fault.
#[tokio::test]
async fn short_values_are_warned_of() {
    let files = Files::new(Layout::Files);
    let bindings = [
        ("letters", Binding::new("letters").url("https://a.example/1").token("1234567"), true),
        ("enough", Binding::new("enough").url("https://a.example/2").token("12345678"), false),
        ("basic", Binding::new("basic").url("https://a.example/3").basic("a-long-user-name", "pass"), true),
    ];
    bindings.iter().for_each(|(_, binding, _)| files.add(binding));
    let run = Command::new(env!("CARGO_BIN_EXE_postern")).arg("check").arg(files.path("bindings")).output();
    let run = run.expect("the binary runs");
    let told = String::from_utf8(run.stderr).expect("text");
    assert_eq!(run.status.code(), Some(0), "{told}");
    for (name, _, short) in bindings {
        let warned = |line: &str| line.starts_with("warning: ") && line.contains(&format!("/{name}.yaml:"));
        assert_eq!(told.lines().any(warned), short, "{name} in\n{told}");
    }
    assert!(!told.contains("1234567") && !told.contains("pass"), "{told}");
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
