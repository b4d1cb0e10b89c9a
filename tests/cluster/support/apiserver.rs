//! One real API server for all tests of the process: started by the first that asks, gone with the process.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

/// A running etcd and kube-apiserver, and an administrator's access to them.
pub struct ApiServer {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    url: String,
    /// Its stdin is a pipe that nobody writes to. The kernel closes it when this process ends in whatever way,
    /// and with it the server ends.
    _process: Child,
}

static SHARED: OnceLock<Result<ApiServer, String>> = OnceLock::new();

impl ApiServer {
    /// The server of this process. The tests share it, so each makes a namespace of its own.
    pub fn start() -> &'static Self {
        let shared = SHARED.get_or_init(Self::launch);
        shared.as_ref().unwrap_or_else(|reason| panic!("there is no API server: {reason}"))
    }

    /// One more server, for tests of what there is once in a cluster.
    pub fn separate() -> Self {
        Self::launch().unwrap_or_else(|reason| panic!("there is no API server: {reason}"))
    }

    fn launch() -> Result<Self, String> {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster");
        let assets = assets(&home)?;
        let mut process = Command::new(home.join("apiserver"))
            .arg("--assets")
            .arg(&assets)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("tests/cluster/apiserver, which needs Python 3.11: {error}"))?;
        let mut line = String::new();
        let stdout = process.stdout.take().ok_or("its stdout is a pipe")?;
        BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
        if line.is_empty() {
            let status = process.wait().map_err(|error| error.to_string())?;
            return Err(format!("tests/cluster/apiserver ended with {status}; what it said stands above"));
        }
        let told: Value = serde_json::from_str(&line).map_err(|error| format!("{line:?}: {error}"))?;
        let text = |name: &str| told[name].as_str().map(str::to_owned).ok_or(format!("no `{name}` in {line}"));
        Ok(Self {
            kubectl: assets.join("kubectl"),
            kubeconfig: text("kubeconfig")?.into(),
            url: text("url")?,
            _process: process,
        })
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs kubectl as the administrator, to its end, whatever that is.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut process = Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            // Or it would keep what it discovers in the home of whoever runs the tests.
            .args(["--cache-dir", "/dev/null", "--request-timeout", "60s"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.kubectl.display()));
        let mut stdin = process.stdin.take().expect("its stdin is a pipe");
        // A command that reads nothing may be gone before it could.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        process.wait_with_output().expect("kubectl ends")
    }

    /// Runs kubectl; it must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_with(arguments, "")
    }

    fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let output = self.try_kubectl(arguments, input);
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "kubectl {}: {}\n{}{}\ninput: {input}",
            arguments.join(" "),
            output.status,
            said(&output.stderr),
            said(&output.stdout),
        );
        output
    }

    /// What kubectl answers in JSON.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let output = self.kubectl(&[&["get", "--output", "json"], arguments].concat());
        parsed(&output)
    }

    /// Posts an object to a path of the API, also where nothing is stored, and returns the answer.
    pub fn create(&self, path: &str, object: &Value) -> Value {
        let output = self.kubectl_with(&["create", "--raw", path, "--filename", "-"], &object.to_string());
        parsed(&output)
    }

    /// A new namespace, whose name begins with `what`.
    pub fn namespace(&self, what: &str) -> String {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.create("/api/v1/namespaces", &json!({"metadata": {"name": name}}));
        name
    }
}

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&output.stdout)))
}

/// The folder with etcd, kube-apiserver and kubectl.
fn assets(home: &Path) -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os("POSTERN_KUBE_ASSETS") {
        return Ok(folder.into());
    }
    let setup = Command::new(home.join("setup")).args(["--find", "kube"]).output();
    let found = setup.map_err(|error| format!("tests/cluster/setup: {error}"))?;
    if !found.status.success() {
        return Err(String::from_utf8_lossy(&found.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&found.stdout).trim().into())
}
