//! The `config.postern.dev/` annotations: the namespace's are the default, the pod's count.

use std::collections::BTreeMap;

use super::quantity::{QUANTITY, Quantity};
use super::reason::{AdmissionReason, Fault, printable};
use super::settings::{Allowed, InjectionSettings, Resources};
use crate::api::CONFIG_PREFIX;
use crate::api::duration::{DURATION, parse_duration};
use crate::core::capture::{Capture, HostPattern};
use crate::core::name::ServerName;
use crate::core::network::Cidr;

/// Every key, in the order of the documentation's table.
pub const KEYS: [&str; 13] = [
    "capture",
    "servers",
    "skip-containers",
    "passthrough-hosts",
    "skip-ports",
    "skip-cidrs",
    "log-level",
    "cpu-request",
    "cpu-limit",
    "memory-request",
    "memory-limit",
    "no-proxy",
    "shutdown-grace",
];

/// Keys that say something about one way of capture only, or two.
const OF_CAPTURES: [(&str, &[Capture]); 4] = [
    ("passthrough-hosts", &[Capture::Proxy, Capture::Redirect]),
    ("skip-ports", &[Capture::Redirect]),
    ("skip-cidrs", &[Capture::Redirect]),
    ("no-proxy", &[Capture::Proxy]),
];

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// How a pod wants its sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodConfig {
    pub(super) capture: Capture,
    /// What may be reached without a credential.
    pub(super) passthrough_hosts: Vec<HostPattern>,
    /// What is not redirected.
    pub(super) skip_ports: Vec<u16>,
    pub(super) skip_cidrs: Vec<Cidr>,
    /// What is called without the proxy.
    pub(super) no_proxy: Vec<String>,
    /// Narrows what the sidecar serves.
    pub(super) servers: Option<Vec<ServerName>>,
    /// Containers that get neither environment nor mounts.
    pub(super) skip: Vec<String>,
    pub(super) log_level: Option<String>,
    pub(super) shutdown_grace: Option<String>,
    pub(super) resources: Resources,
}

/// A value and where it stands.
#[derive(Debug, Clone, Copy)]
struct Given<'a> {
    value: &'a str,
    of_pod: bool,
}

struct Reader<'a> {
    given: BTreeMap<&'a str, Given<'a>>,
    faults: Vec<Fault>,
}

/// Reads the annotations of a namespace and of a pod in it.
pub(super) fn read<'a>(
    namespace: impl Iterator<Item = (&'a str, &'a str)>,
    pod: impl Iterator<Item = (&'a str, &'a str)>,
    settings: &InjectionSettings,
) -> Result<PodConfig, Vec<Fault>> {
    let mut reader = Reader { given: BTreeMap::new(), faults: Vec::new() };
    reader.take(namespace, false);
    reader.take(pod, true);
    let config = reader.config(settings);
    if reader.faults.is_empty() { Ok(config) } else { Err(reader.faults) }
}

impl<'a> Reader<'a> {
    fn take(&mut self, annotations: impl Iterator<Item = (&'a str, &'a str)>, of_pod: bool) {
        for (key, value) in annotations {
            let Some(name) = key.strip_prefix(CONFIG_PREFIX) else { continue };
            if KEYS.contains(&name) {
                self.given.insert(name, Given { value, of_pod });
            } else {
                let cause = format!("there is no {CONFIG_PREFIX}{}; there are {}", printable(name), KEYS.join(", "));
                self.fault(AdmissionReason::InvalidConfig, of_pod, &cause);
            }
        }
    }

    fn fault(&mut self, reason: AdmissionReason, of_pod: bool, cause: &str) {
        let whose = if of_pod { "the pod" } else { "the namespace" };
        self.faults.push(Fault::new(reason, format!("annotation of {whose}: {cause}")));
    }

    /// The value of a key as `parse` reads it; `expected` completes "must be".
    fn value<T>(&mut self, key: &str, expected: &str, parse: impl FnOnce(&'a str) -> Option<T>) -> Option<T> {
        let given = *self.given.get(key)?;
        let value = parse(given.value.trim());
        if value.is_none() {
            let cause = format!("{CONFIG_PREFIX}{key} must be {expected}");
            self.fault(AdmissionReason::InvalidConfig, given.of_pod, &cause);
        }
        value
    }

    /// Likewise for a list joined by commas.
    fn list<T>(&mut self, key: &str, expected: &str, parse: impl Fn(&'a str) -> Option<T>) -> Option<Vec<T>> {
        let expected = format!("{expected}, joined by commas");
        self.value(key, &expected, |text| text.split(',').map(|item| parse(item.trim())).collect())
    }

    /// A list of which each item must be among what the administrator allows.
    fn allowed<T, A: ToString>(
        &mut self,
        key: &str,
        expected: &str,
        parse: impl Fn(&'a str) -> Option<T>,
        (allowed, covers): (&[A], impl Fn(&A, &T) -> bool),
    ) -> Vec<T> {
        let items = self.list(key, expected, parse).unwrap_or_default();
        // What stands on the namespace is still not the administrator's word.
        if !items.iter().all(|item| allowed.iter().any(|one| covers(one, item))) {
            let cause = format!("{CONFIG_PREFIX}{key} asks for more than the administrator allows: {}", told(allowed));
            self.fault(AdmissionReason::NotAllowed, self.is_of_pod(key), &cause);
        }
        items
    }

    fn is_of_pod(&self, key: &str) -> bool {
        self.given.get(key).is_some_and(|given| given.of_pod)
    }

    fn config(&mut self, settings: &InjectionSettings) -> PodConfig {
        let allowed = &settings.allowed;
        let capture = self.capture(&allowed.captures);
        if let Some(capture) = capture {
            self.drop_meaningless(capture);
        }
        let servers = self.list("servers", "names of servers", |item| ServerName::parse(item).ok());
        let container = |item: &str| crate::core::name::Namespace::parse(item).ok().map(|name| name.to_string());
        let skip = self.list("skip-containers", "names of containers", container).unwrap_or_default();
        let level = |text: &str| LEVELS.contains(&text).then(|| text.to_owned());
        let log_level = self.value("log-level", &format!("one of {}", LEVELS.join(", ")), level);
        let grace = |text: &str| parse_duration(text).map(|_| text.to_owned());
        let shutdown_grace = self.value("shutdown-grace", DURATION, grace);
        PodConfig {
            capture: capture.unwrap_or_default(),
            passthrough_hosts: self.passthrough_hosts(allowed),
            skip_ports: self.skip_ports(allowed),
            skip_cidrs: self.skip_cidrs(allowed),
            no_proxy: self.no_proxy(),
            servers,
            skip,
            log_level,
            shutdown_grace,
            resources: self.resources(&settings.resources),
        }
    }

    /// Nothing where it cannot be told.
    fn capture(&mut self, allowed: &[Capture]) -> Option<Capture> {
        let capture = match self.given.contains_key("capture") {
            true => self.value("capture", "endpoint, proxy or redirect", Capture::parse)?,
            false => Capture::default(),
        };
        if !allowed.contains(&capture) {
            let cause = format!("{CONFIG_PREFIX}capture is {capture}; the administrator allows {}", told(allowed));
            self.fault(AdmissionReason::NotAllowed, self.is_of_pod("capture"), &cause);
            return None;
        }
        Some(capture)
    }

    /// Refuses what the pod says and the capture has no use for. A namespace says it to those of its pods that have.
    fn drop_meaningless(&mut self, capture: Capture) {
        for (key, captures) in OF_CAPTURES {
            if captures.contains(&capture) {
                continue;
            }
            if self.given.remove(key).is_some_and(|given| given.of_pod) {
                let only = captures.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
                let cause = format!("{CONFIG_PREFIX}{key} is for capture {only}, and the pod's is {capture}");
                self.fault(AdmissionReason::InvalidConfig, true, &cause);
            }
        }
    }

    fn passthrough_hosts(&mut self, allowed: &Allowed) -> Vec<HostPattern> {
        let expected = "hosts such as api.example.com or *.example.com";
        let among = (allowed.passthrough_hosts.as_slice(), HostPattern::covers);
        self.allowed("passthrough-hosts", expected, HostPattern::parse, among)
    }

    fn skip_ports(&mut self, allowed: &Allowed) -> Vec<u16> {
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        self.allowed("skip-ports", "ports of 1 to 65535", port, (allowed.skip_ports.as_slice(), u16::eq))
    }

    /// Only whole ones of the administrator's list: the policies, which say the same, cannot calculate with addresses.
    fn skip_cidrs(&mut self, allowed: &Allowed) -> Vec<Cidr> {
        let among = (allowed.skip_cidrs.as_slice(), Cidr::eq);
        self.allowed("skip-cidrs", "networks such as 10.0.0.0/8", Cidr::parse, among)
    }

    fn no_proxy(&mut self) -> Vec<String> {
        let token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let read = |text: &str| token(text).then(|| text.to_owned());
        self.list("no-proxy", "hosts, suffixes or networks", read).unwrap_or_default()
    }

    fn resources(&mut self, default: &Resources) -> Resources {
        let mut quantity = |key| self.value(key, QUANTITY, |text| Quantity::parse(text).map(|_| text.to_owned()));
        let resources = Resources {
            cpu_request: quantity("cpu-request").unwrap_or_else(|| default.cpu_request.clone()),
            cpu_limit: quantity("cpu-limit").or_else(|| default.cpu_limit.clone()),
            memory_request: quantity("memory-request").unwrap_or_else(|| default.memory_request.clone()),
            memory_limit: quantity("memory-limit").unwrap_or_else(|| default.memory_limit.clone()),
        };
        for (what, limit) in resources.exceeded() {
            let cause = format!("{CONFIG_PREFIX}{what}-request is above the limit of {limit}; set {what}-limit too");
            self.fault(AdmissionReason::InvalidConfig, true, &cause);
        }
        resources
    }
}

/// What may be asked for, in words.
fn told(allowed: &[impl ToString]) -> String {
    if allowed.is_empty() {
        return "none".into();
    }
    allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
