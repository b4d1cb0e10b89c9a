//! The real binary, started on real files, listened to on every output it has.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::agent::Agent;
use super::broker::Broker;
use super::documents::Binding;
use super::evidence;
use super::files::{Files, Layout};
use super::message::{Message, Response, rpc};
use super::observed::{Observed, PATIENCE, repeated, within};
use super::output::{Lines, Metrics, collect};
use super::secrets::find_leak;

/// A sidecar to be started.
pub struct Builder {
    config: Value,
    bindings: Vec<Binding>,
    layout: Layout,
    environment: Vec<(String, String)>,
    in_its_directory: bool,
    unprivileged: bool,
    soft_descriptors: Option<usize>,
    files: Vec<(&'static str, String)>,
    in_pod: bool,
    secrets: Known,
}

/// Secrets that come from elsewhere than the sidecar's files.
pub type Known = Arc<Mutex<Vec<String>>>;

impl Builder {
    pub fn binding(mut self, binding: Binding) -> Self {
        self.bindings.push(binding);
        self
    }

    /// Sets one top-level key of the configuration.
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// Sets a variable in the sidecar's environment, which is empty otherwise.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes bindings and values from this broker instead of files.
    pub fn with_broker(self, broker: &Broker) -> Self {
        self.stale_after(broker, "1h")
    }

    /// The same, with `maxStale`.
    pub fn stale_after(self, broker: &Broker, max_stale: &str) -> Self {
        let called = self.calling(&broker.url(), broker.ca(), broker.token());
        Self { secrets: broker.secrets(), ..called }.broker_field("maxStale", json!(max_stale))
    }

    /// Takes bindings and values from whoever is there, trusting these certificates.
    pub fn calling(self, url: &str, ca: String, token: String) -> Self {
        let broker = json!({"url": url, "caFile": "broker-ca.pem", "tokenFile": "token"});
        self.file("broker-ca.pem", ca).file("token", token).config("source", json!({"broker": broker}))
    }

    /// Sets one field of `source.broker`.
    pub fn broker_field(mut self, field: &str, value: Value) -> Self {
        self.config["source"]["broker"][field] = value;
        self
    }

    /// Writes a file beside the configuration.
    pub fn file(mut self, name: &'static str, content: String) -> Self {
        self.files.push((name, content));
        self
    }

    /// Starts it as the injection does: the one argument `sidecar`, no configuration, all in the
    /// environment.
    pub fn in_pod(mut self, broker: &Broker) -> Self {
        self.in_pod = true;
        let free =
            [("POSTERN_ENDPOINT_PORT", "0"), ("POSTERN_ADMIN_PORT", "0"), ("POSTERN_ADMIN_ADDRESS", "127.0.0.1")];
        let of_pod = [
            ("POD_NAMESPACE", "research"),
            ("SERVICE_ACCOUNT", "research-agent"),
            ("POD_NAME", "research-agent-0"),
            ("POD_UID", "0b0e9d0e-8f0a-4a6e-9df0-4ef0a6a0c1f4"),
            ("POSTERN_LOG_LEVEL", "trace"),
        ];
        let whole =
            free.into_iter().chain(of_pod).fold(self, |builder, (name, value)| builder.environment(name, value));
        let whole = whole.environment("POSTERN_BROKER", &broker.url()).environment("POSTERN_BROKER_CA", &broker.ca());
        Self { secrets: broker.secrets(), ..whole.file("token", broker.token()) }
    }

    /// Starts it in the directory of its configuration, which is named without one.
    pub fn in_its_directory(mut self) -> Self {
        self.in_its_directory = true;
        self
    }

    /// Where the tests run as root, starts it as an ordinary user.
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// Starts it with this soft limit of open files.
    pub fn soft_descriptors(mut self, limit: usize) -> Self {
        self.soft_descriptors = Some(limit);
        self
    }

    /// Lays Secrets out as the kubelet mounts them.
    pub fn kubelet_volumes(mut self) -> Self {
        self.layout = Layout::Kubelet;
        self
    }

    /// Writes the files, starts the binary, and awaits that it listens.
    pub async fn start(self) -> Sidecar {
        let files = Files::new(self.layout);
        self.bindings.iter().for_each(|binding| files.add(binding));
        self.files.iter().for_each(|(name, content)| files.write(name, content));
        files.write("postern.yaml", serde_yaml::to_string(&self.config).expect("a JSON value is YAML"));
        let process = Process::start_with(&files, &self);
        let listening = process.listening().await;
        let address = |field: &str| -> SocketAddr {
            let text = listening[field].as_str().unwrap_or_else(|| panic!("no {field} in {listening}"));
            text.parse().unwrap_or_else(|_| panic!("{field} is not an address: {text}"))
        };
        let (endpoint, admin) = (address("endpoint"), address("admin"));
        let captured = listening.get("capture").map(|_| address("capture"));
        Sidecar { files, process, endpoint, admin, captured, scrapes: Mutex::default(), secrets: self.secrets }
    }
}

/// A running sidecar; it dies with the test.
pub struct Sidecar {
    files: Files,
    process: Process,
    endpoint: SocketAddr,
    admin: SocketAddr,
    captured: Option<SocketAddr>,
    scrapes: Mutex<Vec<u8>>,
    secrets: Known,
}

impl Sidecar {
    /// Loopback upstreams allowed, free ports, full trace.
    pub fn for_caller(namespace: &str, service_account: &str) -> Builder {
        let config = json!({
            "caller": {"namespace": namespace, "serviceAccount": service_account},
            "source": {"file": {"directory": "./bindings"}},
            "endpoint": {"port": 0},
            "admin": {"address": "127.0.0.1", "port": 0},
            "dial": {"allowLoopback": true},
            "log": {"level": "trace", "format": "json"},
        });
        Builder {
            config,
            bindings: Vec::new(),
            layout: Layout::Files,
            environment: Vec::new(),
            in_its_directory: false,
            unprivileged: false,
            soft_descriptors: None,
            files: Vec::new(),
            in_pod: false,
            secrets: Known::default(),
        }
    }

    /// The caller that most tests are.
    pub fn for_research() -> Builder {
        Self::for_caller("research", "research-agent")
    }

    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }

    /// Where a proxy or redirect capture listens.
    pub fn captured(&self) -> SocketAddr {
        self.captured.expect("the sidecar captures")
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// A new agent connection.
    pub async fn agent(&self) -> Agent {
        Agent::connect(self.endpoint).await
    }

    /// One exchange on a connection of its own.
    pub async fn ask(&self, message: Message) -> Response {
        self.agent().await.ask(message).await
    }

    /// One POST of this body to a server.
    pub async fn post(&self, server: &str, body: impl Into<Vec<u8>>) -> Response {
        self.ask(Message::post(server, body)).await
    }

    /// Calls until one passes; all before it are refused with one of these reasons.
    pub async fn until_served(&self, server: &str, meanwhile: &[&str]) {
        repeated(&format!("{server} to be served"), async || {
            let response = self.post(server, rpc::list(7)).await;
            match response.reason() {
                None => {
                    response.assert_ok();
                    Some(())
                }
                Some(reason) => {
                    assert!(meanwhile.contains(&reason), "{}", response.text());
                    None
                }
            }
        })
        .await;
    }

    /// Calls until one is refused, which it returns; all before it pass.
    pub async fn until_refused(&self, server: &str) -> Response {
        repeated(&format!("{server} to be refused"), async || {
            let response = self.post(server, rpc::list(7)).await;
            let refused = response.reason().is_some();
            if !refused {
                response.assert_ok();
            }
            refused.then_some(response)
        })
        .await
    }

    /// One GET of the admin listener.
    pub async fn admin(&self, path: &str) -> Response {
        let response = Agent::connect(self.admin).await.ask(Message::new("GET", path)).await;
        let mut scrapes = self.scrapes.lock().unwrap_or_else(PoisonError::into_inner);
        scrapes.extend_from_slice(&response.head.raw);
        scrapes.extend_from_slice(&response.body);
        response
    }

    pub async fn metrics(&self) -> Metrics {
        let response = self.admin("/metrics").await;
        assert_eq!(response.status, 200);
        Metrics::new(response.text())
    }

    /// The present value of a metric, summed over the series that carry these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.sum(name, labels)
    }

    /// Takes the next access line that `wanted` holds for.
    pub async fn next_access(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let parse = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON on stdout: {line:?}"));
            wanted(&line).then_some(line)
        };
        self.process.stdout.until(&format!("an access line: {what}"), |lines| lines.take(parse)).await
    }

    /// The lines on stdout so far.
    pub fn access_lines(&self) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line:?}"));
        self.process.stdout.read(|lines| lines.lines.iter().map(parse).collect())
    }

    /// Everything on stdout so far, as it stands there.
    pub fn output(&self) -> String {
        self.process.stdout.read(Lines::text)
    }

    /// Everything on stderr so far.
    pub fn diagnostics(&self) -> String {
        self.process.diagnostics()
    }

    /// Awaits a line on stderr that contains `text`.
    pub async fn diagnostic(&self, text: &str) -> String {
        self.process.diagnostic(text).await
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Awaits the end of the process.
    pub async fn exit(&self) -> ExitStatus {
        self.process.exit().await
    }

    /// Fails if anything the sidecar wrote holds an upstream secret in any form.
    pub fn assert_no_leak(&self) {
        let mut secrets = self.files.secrets();
        secrets.extend(self.secrets.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        let scrapes = self.scrapes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stdout = self.process.stdout.read(Lines::text);
        for (place, text) in
            [("stdout", stdout.as_bytes()), ("stderr", self.diagnostics().as_bytes()), ("admin", &scrapes)]
        {
            assert_eq!(find_leak(text, &secrets), None, "a secret stands on {place}");
        }
    }
}

impl Drop for Sidecar {
    /// Ends the process, keeps its outputs as evidence, and searches them for secrets (T20).
    fn drop(&mut self) {
        self.process.end();
        evidence::keep("admin", &self.scrapes.lock().unwrap_or_else(PoisonError::into_inner));
        if std::thread::panicking() {
            return;
        }
        self.assert_no_leak();
    }
}

/// The user `nobody`, if we may become another one.
pub fn nobody() -> Option<u32> {
    rustix::process::geteuid().is_root().then_some(65534)
}

/// A started binary with its outputs.
pub struct Process {
    id: u32,
    child: Mutex<Child>,
    pub stdout: Arc<Observed<Lines>>,
    pub stderr: Arc<Observed<Lines>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// `postern sidecar --config <files>/postern.yaml`, in an empty environment.
    pub fn start(files: &Files) -> Self {
        Self::start_with(files, &Sidecar::for_research())
    }

    fn start_with(files: &Files, how: &Builder) -> Self {
        let user = how.unprivileged.then(nobody).flatten();
        let built = Path::new(env!("CARGO_BIN_EXE_postern"));
        let postern = user.map_or(built.to_owned(), |user| files.handed_to(user, built));
        let mut command = match how.soft_descriptors {
            None => Command::new(postern),
            Some(limit) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("ulimit -S -n {limit} && exec \"$0\" \"$@\"")]).arg(postern);
                shell
            }
        };
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command.env_clear().envs(how.environment.iter().cloned()).arg("sidecar");
        if how.in_pod {
            command.env("POSTERN_BROKER_TOKEN_FILE", files.path("token"));
            command.env("POSTERN_PUBLIC_DIRECTORY", files.path("public"));
        } else if how.in_its_directory {
            command.args(["--log-level", "trace", "--config", "postern.yaml"]).current_dir(files.path(""));
        } else {
            command.args(["--log-level", "trace", "--config"]).arg(files.path("postern.yaml"));
        }
        Self::run(command)
    }

    /// Runs the binary however it is called.
    pub fn run(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (stdout, first) = collect(child.stdout.take().expect("stdout is piped"));
        let (stderr, second) = collect(child.stderr.take().expect("stderr is piped"));
        Self { id: child.id(), child: Mutex::new(child), stdout, stderr, readers: vec![first, second] }
    }

    /// Awaits the line that names the ports.
    pub async fn listening(&self) -> Value {
        let find = |lines: &mut Lines| {
            let found = lines.take(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                (line["message"] == "listening").then_some(line)
            });
            assert!(found.is_some() || !lines.ended, "it ended before it listened: {}", lines.text());
            found
        };
        self.stderr.until("the binary to listen", find).await
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.id
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let kill = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.id)]).status();
        assert!(kill.expect("a shell is there").success(), "it is running");
    }

    /// Everything on stderr so far.
    pub fn diagnostics(&self) -> String {
        self.stderr.read(Lines::text)
    }

    /// Awaits a line on stderr that contains `text`.
    pub async fn diagnostic(&self, text: &str) -> String {
        let find = |line: &str| line.contains(text).then(|| line.to_owned());
        self.stderr.until(&format!("{text:?} on stderr"), |lines| lines.take(find)).await
    }

    /// Awaits the end of the process: its outputs end with it.
    pub async fn exit(&self) -> ExitStatus {
        for output in [&self.stdout, &self.stderr] {
            output.until("the process to end", |lines| lines.ended.then_some(())).await;
        }
        within("the exit code", async {
            loop {
                let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
                match status.expect("the child is ours") {
                    Some(status) => return status,
                    // Its outputs are closed: what is left of its end is the kernel's.
                    None => tokio::task::yield_now().await,
                }
            }
        })
        .await
    }

    /// Kills it if it still runs, and reads its outputs to their end.
    fn end(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let (stdout, stderr) = (self.stdout.read(Lines::text), self.stderr.read(Lines::text));
        evidence::keep("stdout", stdout.as_bytes());
        evidence::keep("stderr", stderr.as_bytes());
        if std::thread::panicking() {
            eprintln!("--- stdout, last lines\n{}", tail(&stdout, 200));
            eprintln!("--- stderr, last lines (waited up to {PATIENCE:?} per event)\n{}", tail(&stderr, 40));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
