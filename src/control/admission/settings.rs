//! What the administrator decides for all pods.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::quantity::Quantity;
use crate::core::capture::{Capture, HostPattern};
use crate::core::network::Cidr;

/// Everything that an injection needs beside the pod.
#[derive(Debug, Clone)]
pub struct InjectionSettings {
    /// The image of the sidecar.
    pub image: String,
    /// When a node fetches it.
    pub image_pull_policy: PullPolicy,
    /// Secrets to fetch it with, added to the pod's.
    pub image_pull_secrets: Vec<String>,
    /// The broker's URL.
    pub broker: String,
    /// What the broker's certificate may be signed with, as PEM, as soon as that is known.
    pub broker_ca: Option<String>,
    /// More authorities that agents are to trust where their calls are intercepted, as PEM.
    pub extra_roots: Option<String>,
    /// The resolvers that the sidecar asks.
    pub resolvers: Vec<IpAddr>,
    /// What the sidecar gets where the pod does not say otherwise.
    pub resources: Resources,
    /// What pods may ask for.
    pub allowed: Allowed,
}

/// `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// Where it is not there yet.
    IfNotPresent,
    /// By nobody: it has been put there.
    Never,
}

impl PullPolicy {
    /// As a pod has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// What pods may ask for: at first any capture, and nothing that weakens it.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// Ways of capture.
    pub captures: Vec<Capture>,
    /// Paths of the node that pods with a sidecar may mount, with what is below them.
    pub host_paths: Vec<String>,
    /// Hosts that may be reached without a credential.
    pub passthrough_hosts: Vec<HostPattern>,
    /// Ports that may be left uncaptured.
    pub skip_ports: Vec<u16>,
    /// Networks that may be left uncaptured.
    pub skip_cidrs: Vec<Cidr>,
}

impl Default for Allowed {
    fn default() -> Self {
        Self {
            captures: Capture::ALL.to_vec(),
            host_paths: Vec::new(),
            passthrough_hosts: Vec::new(),
            skip_ports: Vec::new(),
            skip_cidrs: Vec::new(),
        }
    }
}

/// Requests and limits, as Kubernetes writes quantities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu`.
    pub cpu_request: String,
    /// `limits.cpu`; usually none, as a throttled proxy is a slow one.
    pub cpu_limit: Option<String>,
    /// `requests.memory`.
    pub memory_request: String,
    /// `limits.memory`.
    pub memory_limit: String,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpu_request: "10m".into(), cpu_limit: None, memory_request: "24Mi".into(), memory_limit: "96Mi".into() }
    }
}

impl Resources {
    /// The limits that lie below their request: of what, and how much.
    pub fn exceeded(&self) -> Vec<(&'static str, &str)> {
        let cpu = self.cpu_limit.as_ref().map(|limit| ("cpu", &self.cpu_request, limit));
        let memory = ("memory", &self.memory_request, &self.memory_limit);
        let is_above = |(_, request, limit): &(_, &String, &String)| Quantity::parse(request) > Quantity::parse(limit);
        let both = cpu.into_iter().chain([memory]);
        both.filter(is_above).map(|(what, _, limit)| (what, limit.as_str())).collect()
    }

    pub(super) fn as_json(&self) -> Value {
        let mut limits = Map::new();
        if let Some(cpu) = &self.cpu_limit {
            limits.insert("cpu".into(), json!(cpu));
        }
        limits.insert("memory".into(), json!(self.memory_limit));
        json!({"requests": {"cpu": self.cpu_request, "memory": self.memory_request}, "limits": limits})
    }
}

/// Whether it is a quantity above zero, as Kubernetes writes them: `10m`, `96Mi`.
pub fn is_quantity(text: &str) -> bool {
    Quantity::parse(text).is_some()
}
