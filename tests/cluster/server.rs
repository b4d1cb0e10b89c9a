//! The server itself: it is ready, it guards what a cluster guards, and it never outlives whoever started it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::ApiServer;

/// How long an end is awaited that should come at once.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_server_is_ready() {
    let server = ApiServer::start();
    let output = server.kubectl(&["get", "--raw", "/readyz?verbose"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("[+]poststarthook/rbac/bootstrap-roles ok"), "{text}");
    assert!(text.trim_end().ends_with("readyz check passed"), "{text}");
}

#[test]
fn nobody_may_what_is_not_granted() {
    let server = ApiServer::start();
    let namespace = server.namespace("rights");
    let may_read = |who: &[&str]| {
        let question = ["auth", "can-i", "get", "secrets", "--namespace", &namespace];
        let output = server.try_kubectl(&[&question, who].concat(), "");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(may_read(&["--as", &format!("system:serviceaccount:{namespace}:agent")]), "no");
    assert_eq!(may_read(&[]), "yes", "the administrator may");
}

#[test]
fn admission_is_at_its_defaults() {
    let server = ApiServer::start();
    let namespace = server.namespace("admission");
    let spec = json!({"containers": [{"name": "a", "image": "none.invalid/a"}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}).to_string();
    let create = || server.try_kubectl(&["create", "--namespace", &namespace, "--filename", "-"], &pod);
    let refused = create();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains(r#"serviceaccount "default" not found"#), "{said}");

    server.kubectl(&["create", "serviceaccount", "default", "--namespace", &namespace]);
    assert!(create().status.success());
    let admitted = server.get(&["pod", "a", "--namespace", &namespace]);
    assert_eq!(admitted["spec"]["serviceAccountName"], "default");
    let sources = &admitted["spec"]["volumes"][0]["projected"]["sources"];
    assert!(sources[0]["serviceAccountToken"].is_object(), "a token is mounted: {admitted}");
    assert_eq!(admitted["spec"]["tolerations"][0]["key"], "node.kubernetes.io/not-ready");
}

#[test]
fn the_administrators_access_is_private() {
    let metadata = ApiServer::start().kubeconfig().metadata().expect("there is a kubeconfig");
    assert_eq!(metadata.permissions().mode() & 0o077, 0);
}

/// A server of its own, beside the shared one, started by `sh` so that its parent can be killed.
struct Separate {
    shell: Child,
    ready: Value,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Separate {
    /// `script` starts "$0" with the arguments "$@".
    fn start(script: &str, directory: &Path) -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/apiserver");
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .arg(program)
            .arg("--dir")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut stdout = BufReader::new(shell.stdout.take().expect("its stdout is a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it can be read");
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        Self { shell, ready, stdout: Some(stdout) }
    }

    fn listens(&self) -> bool {
        let url = self.ready["url"].as_str().expect("its URL");
        TcpStream::connect(url.trim_start_matches("https://")).is_ok()
    }

    /// Awaits that the program has ended: it is the last that holds its stdout.
    fn ended(&mut self) {
        let mut stdout = self.stdout.take().expect("it is awaited once");
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut rest = String::new();
            let _ = sender.send(stdout.read_to_string(&mut rest).map(|_| rest));
        });
        let rest = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("it still runs after {PATIENCE:?}"));
        assert_eq!(rest.expect("its stdout can be read"), "");
    }
}

fn assert_gone(server: &Separate, directory: &Path) {
    assert!(!server.listens(), "its API server is still there");
    let left: Vec<_> = directory.read_dir().expect("the directory").map(|file| file.expect("a file").path()).collect();
    assert!(left.iter().all(|file| file.extension().is_some_and(|extension| extension == "log")), "{left:?}");
}

#[test]
fn it_ends_when_its_stdin_is_closed() {
    let shared = ApiServer::start();
    let directory = tempfile::tempdir().expect("a directory");
    let mut server = Separate::start(r#"exec "$0" "$@""#, directory.path());
    assert_ne!(server.ready["url"], shared.url(), "two servers at once");
    assert!(server.listens());
    drop(server.shell.stdin.take());
    server.ended();
    assert!(server.shell.wait().expect("it is awaited").success());
    assert_gone(&server, directory.path());
}

#[test]
fn it_ends_when_its_parent_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut server = Separate::start(r#""$0" "$@" </dev/null & wait"#, directory.path());
    assert!(server.listens());
    server.shell.kill().expect("it is there to be killed");
    server.shell.wait().expect("it is awaited");
    server.ended();
    assert_gone(&server, directory.path());
}
