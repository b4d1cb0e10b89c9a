//! What is measured: Postern, proxies that do the same job, and two that bound it from below.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::upstream::INJECTED;
use super::workload::{Agent, Protocol, Shape, Workload};

/// Who stands between agent and upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Postern,
    Nginx,
    Haproxy,
    Envoy,
    Mitmproxy,
    /// Bytes copied from socket to socket: the agent itself speaks TLS and has the credential.
    Splice,
    /// Nobody: the same without a proxy.
    Direct,
}

/// All there are, in the order of the report.
pub const ALL: [Subject; 7] = [
    Subject::Postern,
    Subject::Nginx,
    Subject::Haproxy,
    Subject::Envoy,
    Subject::Mitmproxy,
    Subject::Splice,
    Subject::Direct,
];

impl Subject {
    pub fn name(self) -> &'static str {
        match self {
            Self::Postern => "postern",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
            Self::Mitmproxy => "mitmproxy",
            Self::Splice => "splice",
            Self::Direct => "direct",
        }
    }

    /// How many of so many rounds it takes part in. A hundred times slower is seen in one.
    pub fn rounds(self, rounds: usize) -> usize {
        if self == Self::Mitmproxy { rounds.min(1) } else { rounds }
    }

    /// Why it cannot take part in a workload.
    pub fn unfit(self, workload: &Workload) -> Option<&'static str> {
        let bare = self.is_bare();
        match (self, workload.agent, workload.protocol, workload.shape) {
            (Self::Postern, ..) => None,
            (.., Shape::Broker { .. }) => Some("it is about Postern's broker"),
            _ if workload.is_curve() => Some("it is about Postern's bindings"),
            (Self::Mitmproxy, Agent::Captured, ..) => None,
            (_, Agent::Captured, ..) => Some("it does not end the agent's TLS by an authority of its own"),
            (Self::Nginx, _, Protocol::H2, _) => Some("it has no HTTP/2 upstream"),
            (Self::Mitmproxy, _, Protocol::H2, _) => {
                Some("it does not speak HTTP/2 upstream for an agent that speaks HTTP/1.1")
            }
            (_, _, Protocol::H2, _) if bare => Some("the agent would have to speak HTTP/2 itself"),
            (Self::Direct, .., Shape::Idle { .. }) => Some("there is no process to look at"),
            // Python takes longer to open them than a round lasts.
            (Self::Mitmproxy, .., Shape::Streams { count, .. }) if count > 1000 => Some("it cannot hold as many"),
            _ => None,
        }
    }

    /// Whether the agent does itself what the proxy is for.
    pub fn is_bare(self) -> bool {
        matches!(self, Self::Splice | Self::Direct)
    }
}

/// A program, and where it finds its libraries.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub libraries: String,
}

/// The programs there are, by the name of their subject.
pub type Programs = BTreeMap<Subject, Program>;

/// Reads what benches/peers/setup printed.
pub fn programs(setup: &str) -> Programs {
    let mut found = Programs::new();
    for line in setup.lines() {
        let mut fields = line.split('\t');
        let (Some(name), Some(path)) = (fields.next(), fields.next()) else { continue };
        let subject = ALL.into_iter().find(|subject| subject.name() == name.replace("mitmdump", "mitmproxy"));
        let libraries = fields.next().unwrap_or_default().to_owned();
        if let Some(subject) = subject {
            found.insert(subject, Program { path: path.into(), libraries });
        }
    }
    found
}

/// What a program says of its version; nothing, where it does not run.
pub fn version(subject: Subject, program: &Program) -> Option<String> {
    let flag = if matches!(subject, Subject::Nginx | Subject::Haproxy) { "-v" } else { "--version" };
    let output = Command::new(&program.path).arg(flag).env("LD_LIBRARY_PATH", &program.libraries).output().ok()?;
    Some(version_in(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat())))
}

/// The first word that begins as a version does: around it are paths, hashes and addresses.
pub fn version_in(text: &str) -> String {
    let words = text.split([' ', '/', '\n']);
    let is_version =
        |word: &&str| word.split('.').take(2).all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    words.filter(|word| word.contains('.')).find(is_version).unwrap_or("unknown").to_owned()
}

/// What a proxy is to be set up for.
pub struct Job<'a> {
    pub workload: &'a Workload,
    /// An empty directory of its own.
    pub directory: &'a Path,
    pub listen: u16,
    pub upstream: u16,
    pub ca_pem: &'a str,
    pub program: Option<&'a Program>,
}

/// The upstream's path of a server.
pub fn path(server: usize) -> String {
    format!("/mcp/{server}")
}

impl Job<'_> {
    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// A peer's configuration, with its blanks filled in.
    fn fill(&self, name: &str, template: &str) -> String {
        let (alpn, envoy) = match self.workload.protocol {
            Protocol::H1 => ("http/1.1", "http_protocol_options"),
            Protocol::H2 => ("h2", "http2_protocol_options"),
        };
        let text = template
            .replace("@LISTEN@", &self.listen.to_string())
            .replace("@UPSTREAM@", &self.upstream.to_string())
            .replace("@DIR@", &self.directory.display().to_string())
            .replace("@CA@", &self.file("ca.pem"))
            .replace("@ALPN@", alpn)
            .replace("@BUFFER@", if self.workload.answer > 4096 { "16" } else { "4" })
            .replace("@CONNECTIONS@", &(512 + 2 * self.workload.held()).to_string())
            .replace("@ENVOY_PROTOCOL@", envoy)
            .replace("@CREDENTIAL@", INJECTED);
        fs::write(self.directory.join(name), text).expect("the directory is ours");
        self.file(name)
    }

    /// How to start it; `None` where there is nothing to start.
    pub fn command(&self, subject: Subject) -> Option<Vec<String>> {
        fs::write(self.directory.join("ca.pem"), self.ca_pem).expect("the directory is ours");
        let program = self.program.map(|program| program.path.display().to_string()).unwrap_or_default();
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        match subject {
            Subject::Postern => words(&[&program, "sidecar", "--config", &self.postern()]),
            Subject::Nginx => {
                let config = self.fill("nginx.conf", include_str!("../peers/nginx.conf"));
                let log = self.file("error.log");
                words(&[&program, "-e", &log, "-p", &self.file(""), "-c", &config])
            }
            Subject::Haproxy => {
                words(&[&program, "-f", &self.fill("haproxy.cfg", include_str!("../peers/haproxy.cfg"))])
            }
            Subject::Envoy => {
                self.fill("envoy.secret.yaml", include_str!("../peers/envoy.secret.yaml"));
                let config = self.fill("envoy.yaml", include_str!("../peers/envoy.yaml"));
                let fixed = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"];
                words(&[&[program.as_str()], &fixed[..], &[config.as_str()]].concat())
            }
            Subject::Mitmproxy => self.mitmproxy(&program),
            Subject::Splice => {
                let rig = std::env::current_exe().expect("it runs").display().to_string();
                words(&[&rig, "splice", &self.listen.to_string(), &self.upstream.to_string()])
            }
            Subject::Direct => None,
        }
    }

    fn mitmproxy(&self, program: &str) -> Option<Vec<String>> {
        let addon = self.fill("inject.py", include_str!("../peers/mitmproxy.py"));
        let mode = match self.workload.agent {
            Agent::Plain => format!("reverse:https://localhost:{}", self.upstream),
            Agent::Captured => "regular".to_owned(),
        };
        let options = [
            format!("confdir={}", self.file("")),
            format!("ssl_verify_upstream_trusted_ca={}", self.file("ca.pem")),
            "listen_host=127.0.0.1".to_owned(),
            format!("listen_port={}", self.listen),
            format!("mode={mode}"),
            // What is printed of each flow is not part of the job.
            "flow_detail=0".to_owned(),
            "termlog_verbosity=error".to_owned(),
        ];
        let mut words = vec![program.to_owned(), "-s".to_owned(), addon];
        words.extend(options.into_iter().flat_map(|option| ["--set".to_owned(), option]));
        Some(words)
    }

    /// Postern as a user sets it up outside a cluster: a file for each binding.
    fn postern(&self) -> String {
        let below = |name: &str| self.directory.join(name);
        for folder in ["bindings/secrets/bench", "bindings/configmaps/bench", "public"] {
            fs::create_dir_all(below(folder)).expect("the directory is ours");
        }
        let token = INJECTED.trim_start_matches("Bearer ");
        fs::write(below("bindings/secrets/bench/token"), token).expect("the directory is ours");
        fs::write(below("bindings/configmaps/bench/ca.crt"), self.ca_pem).expect("the directory is ours");
        for server in 0..self.workload.bindings {
            let name = format!("server-{server}");
            let binding = json!({
                "apiVersion": "postern.dev/v1alpha1",
                "kind": "CredentialBinding",
                "metadata": {"name": name, "namespace": "bench"},
                "spec": {
                    "serviceAccounts": ["agent"],
                    "server": {
                        "name": name,
                        "url": format!("https://localhost:{}{}", self.upstream, path(server)),
                        "tls": {"caBundle": {"configMapRef": {"name": "bench", "key": "ca.crt"}}},
                    },
                    "credential": {"type": "Bearer", "secretRef": {"name": "bench", "key": "token"}},
                },
            });
            fs::write(below(&format!("bindings/{name}.yaml")), binding.to_string()).expect("the directory is ours");
        }
        let mut config = json!({
            "caller": {"namespace": "bench", "serviceAccount": "agent"},
            "source": {"file": {"directory": "./bindings"}},
            "endpoint": {"port": self.listen},
            "admin": {"address": "127.0.0.1", "port": 0},
            "dial": {"allowLoopback": true},
            // The others are told to hold as many; the default is what one agent needs.
            "limits": {"connections": 8000},
        });
        if self.workload.agent == Agent::Captured {
            config["endpoint"]["port"] = json!(0);
            config["capture"] = json!({"kind": "proxy", "port": self.listen});
            config["public"] = json!({"directory": "./public"});
        }
        fs::write(below("postern.yaml"), config.to_string()).expect("the directory is ours");
        self.file("postern.yaml")
    }

    /// Where a proxy that ends the agent's TLS leaves its authority.
    pub fn authority(&self, subject: Subject) -> PathBuf {
        self.directory.join(if subject == Subject::Postern { "public/ca.pem" } else { "mitmproxy-ca-cert.pem" })
    }
}
