//! `postern broker` as a process, with the rights of its manifest, between the API server and sidecars.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::pod::Pod;
use super::rights::{Right, install, kubeconfig};
use super::{ApiServer, kind};
use crate::suite::agent::Agent;
use crate::suite::message::Message;
use crate::suite::observed::repeated;
use crate::suite::output::Metrics;
use crate::suite::reader::Called;
use crate::suite::sidecar::{Builder, Process, Sidecar};

/// The audience of a sidecar's token.
pub const OURS: &str = "postern.dev/broker";
const MANIFEST: &str = "rbac-broker.yaml";
const SECRET: &str = "postern-broker-ca";

/// A broker to be deployed.
pub struct Deployment {
    pub program: PathBuf,
    pub without: Option<Right>,
    pub arguments: Vec<String>,
}

impl Default for Deployment {
    fn default() -> Self {
        let arguments = vec!["--log-level=trace".into(), "--heartbeat=1s".into()];
        Self { program: env!("CARGO_BIN_EXE_postern").into(), without: None, arguments }
    }
}

impl Deployment {
    /// One more argument of the command line.
    pub fn with(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Without this right.
    pub fn without(right: &Right) -> Self {
        Self { without: Some(right.clone()), ..Self::default() }
    }

    /// Gives it its rights and starts it.
    pub async fn start(self) -> Deployed {
        let server = kind::server();
        let namespace = server.namespace("broker");
        install(server, MANIFEST, &namespace, self.without.as_ref());
        let within = format!("/api/v1/namespaces/{namespace}");
        server.create(&format!("{within}/secrets"), &json!({"metadata": {"name": SECRET}}));
        server.create(&format!("{within}/configmaps"), &json!({"metadata": {"name": SECRET}}));
        let road = Road::to(server.url()).await;
        let directory = TempDir::new().expect("a temporary directory can be made");
        let config = kubeconfig(server, &namespace, "postern-broker", &road.url());
        std::fs::write(directory.path().join("kubeconfig"), config).expect("it is writable");
        let mut deployed = Deployed {
            server,
            namespace,
            road,
            program: self.program,
            arguments: self.arguments,
            directory,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            process: None,
        };
        deployed.run().await;
        deployed
    }
}

/// A broker that runs, or did.
pub struct Deployed {
    pub server: &'static ApiServer,
    pub namespace: String,
    /// Between it and the API server.
    pub road: Road,
    program: PathBuf,
    arguments: Vec<String>,
    directory: TempDir,
    address: SocketAddr,
    admin: SocketAddr,
    process: Option<Process>,
}

impl Deployed {
    /// With the settings of most tests.
    pub async fn start() -> Self {
        Deployment::default().start().await
    }

    /// Runs it, where it listened before if it ever did.
    pub async fn run(&mut self) {
        let mut command = Command::new(&self.program);
        command.env_clear().args(["broker", "--extra-name=localhost"]);
        command.arg("--kubeconfig").arg(self.directory.path().join("kubeconfig"));
        command.args(["--namespace", &self.namespace, "--ca-config-map", SECRET]);
        command.args(["--address", &self.address.to_string(), "--admin-address", "127.0.0.1:0"]);
        let process = Process::run({
            command.args(&self.arguments);
            command
        });
        let listening = process.listening().await;
        let address = |field: &str| listening[field].as_str().expect("an address").parse().expect("an address");
        (self.address, self.admin) = (address("address"), address("admin"));
        self.process = Some(process);
    }

    /// Waits until it has a certificate and knows the bindings.
    pub async fn ready(&self) {
        repeated("the broker to be ready", async || {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            (self.probe("/ready").await == 200).then_some(())
        })
        .await;
    }

    /// The status of a probe.
    pub async fn probe(&self, path: &str) -> u16 {
        Agent::connect(self.admin).await.ask(Message::new("GET", path)).await.status
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub async fn metrics(&self) -> Metrics {
        let response = Agent::connect(self.admin).await.ask(Message::new("GET", "/metrics")).await;
        Metrics::new(response.text())
    }

    /// Awaits that a metric is this.
    pub async fn until(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        repeated(&format!("{name} {labels:?} to be {value}"), async || {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            (self.metrics().await.sum(name, labels) == value).then_some(())
        })
        .await;
    }

    /// The sidecar of a pod.
    pub fn sidecar(&self, pod: &Pod) -> Builder {
        let token = pod.token(&[OURS]);
        Sidecar::for_caller(&pod.namespace, &pod.account).calling(&self.url(), self.ca(), token)
    }
}

impl Called for Deployed {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn ca(&self) -> String {
        let secret = self.server.get(&["secret", SECRET, "--namespace", &self.namespace]);
        let pem = STANDARD.decode(secret["data"]["ca.crt"].as_str().expect("the broker is ready")).expect("base64");
        String::from_utf8(pem).expect("PEM")
    }
}

/// A road to the API server that can be cut.
pub struct Road {
    address: SocketAddr,
    target: String,
    task: Mutex<Option<AbortHandle>>,
    listener: Arc<TcpListener>,
}

impl Road {
    pub async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let road = Self {
            address: listener.local_addr().expect("a bound listener has an address"),
            target: url.trim_start_matches("https://").to_owned(),
            task: Mutex::default(),
            listener: Arc::new(listener),
        };
        road.open();
        road
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Every connection breaks off, and new ones come to nothing.
    pub fn cut(&self) {
        let (listener, target) = (Arc::clone(&self.listener), String::new());
        self.replace(tokio::spawn(carry(listener, target)).abort_handle());
    }

    /// Lets through again.
    pub fn open(&self) {
        let (listener, target) = (Arc::clone(&self.listener), self.target.clone());
        self.replace(tokio::spawn(carry(listener, target)).abort_handle());
    }

    fn replace(&self, task: AbortHandle) {
        let before = self.task.lock().unwrap_or_else(PoisonError::into_inner).replace(task);
        if let Some(before) = before {
            before.abort();
        }
    }
}

/// Carries bytes to `target`; to nowhere, it closes what comes.
async fn carry(listener: Arc<TcpListener>, target: String) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut near, _)) = listener.accept().await else { return };
        if target.is_empty() {
            continue;
        }
        let target = target.clone();
        connections.spawn(async move {
            let Ok(mut far) = TcpStream::connect(&target).await else { return };
            // However it ends, both ends see it.
            let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}
