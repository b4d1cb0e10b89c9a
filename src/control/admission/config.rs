//! The `config.postern.dev/` annotations: the namespace's are the default, the pod's count.

use std::collections::BTreeMap;

use super::quantity::{QUANTITY, Quantity};
use super::reason::{AdmissionReason, Fault, printable};
use super::settings::{Allowed, HostPattern, InjectionSettings, Resources};
use crate::api::CONFIG_PREFIX;
use crate::api::duration::{DURATION, parse_duration};
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

/// Keys that say something about traffic which `endpoint` does not capture.
const ONLY_WITH_CAPTURE: [&str; 4] = ["passthrough-hosts", "skip-ports", "skip-cidrs", "no-proxy"];

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// How a pod wants its sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodConfig {
    /// Narrows what the sidecar serves.
    pub(super) servers: Option<Vec<ServerName>>,
    /// Containers that get neither environment nor mounts.
    pub(super) skip: Vec<String>,
    pub(super) log_level: Option<String>,
    pub(super) shutdown_grace: Option<String>,
    pub(super) resources: Resources,
    /// Keys that have no effect.
    pub(super) idle: Vec<&'static str>,
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
    fn allowed<T>(&mut self, key: &str, expected: &str, parse: impl Fn(&'a str) -> Option<T>, is: impl Fn(&T) -> bool) {
        let Some(items) = self.list(key, expected, parse) else { return };
        let of_pod = self.given.get(key).is_some_and(|given| given.of_pod);
        // What stands on the namespace is still not the administrator's word.
        if !items.iter().all(is) {
            let cause = format!("{CONFIG_PREFIX}{key} asks for more than the administrator allows");
            self.fault(AdmissionReason::NotAllowed, of_pod, &cause);
        }
    }

    fn config(&mut self, settings: &InjectionSettings) -> PodConfig {
        self.capture();
        self.captured(&settings.allowed);
        let given = self.given.keys().copied();
        let idle = ONLY_WITH_CAPTURE.into_iter().filter(|key| given.clone().any(|given| given == *key)).collect();
        let servers = self.list("servers", "names of servers", |item| ServerName::parse(item).ok());
        let container = |item: &str| crate::core::name::Namespace::parse(item).ok().map(|name| name.to_string());
        let skip = self.list("skip-containers", "names of containers", container).unwrap_or_default();
        let level = |text: &str| LEVELS.contains(&text).then(|| text.to_owned());
        let log_level = self.value("log-level", &format!("one of {}", LEVELS.join(", ")), level);
        let grace = |text: &str| parse_duration(text).map(|_| text.to_owned());
        let shutdown_grace = self.value("shutdown-grace", DURATION, grace);
        PodConfig { servers, skip, log_level, shutdown_grace, resources: self.resources(&settings.resources), idle }
    }

    fn capture(&mut self) {
        let known = |text| ["endpoint", "proxy", "redirect"].contains(&text).then_some(text);
        let capture = self.value("capture", "endpoint, proxy or redirect", known);
        if let Some(capture @ ("proxy" | "redirect")) = capture {
            let of_pod = self.given.get("capture").is_some_and(|given| given.of_pod);
            let cause = format!("{CONFIG_PREFIX}capture is {capture}");
            self.fault(AdmissionReason::CaptureUnavailable, of_pod, &cause);
        }
    }

    /// What is for captured traffic only, and mostly the administrator's to allow.
    fn captured(&mut self, allowed: &Allowed) {
        self.allowed(
            "passthrough-hosts",
            "hosts such as api.example.com or *.example.com",
            HostPattern::parse,
            |host| allowed.passthrough_hosts.iter().any(|one| one.covers(host)),
        );
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        self.allowed("skip-ports", "ports of 1 to 65535", port, |port| allowed.skip_ports.contains(port));
        self.allowed("skip-cidrs", "networks such as 10.0.0.0/8", Cidr::parse, |cidr| {
            allowed.skip_cidrs.iter().any(|one| one.covers(cidr))
        });
        let token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        self.list("no-proxy", "hosts, suffixes or networks", |text| token(text).then_some(()));
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

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
