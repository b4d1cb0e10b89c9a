//! The decision about one pod: a patch, no change, or a refusal. No sockets, no clock: what it
//! needs is asked before and given to it. The webhook and `postern inject` decide by it alike.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::INJECT;
use crate::core::capture::Capture;
use crate::core::patch::Patch;
use pod::{Pod, field, objects, text};
use reason::{AdmissionReason, Fault, Unchanged};
use settings::InjectionSettings;
use switch::{PodSwitch, Switch};

pub mod agent;
mod compare;
pub mod config;
mod inject;
mod pod;
mod quantity;
pub mod reason;
pub mod review;
mod rules;
pub mod settings;
pub mod sidecar;
mod stdio;
mod switch;

/// What of a namespace counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceMeta {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A ConfigMap that a pod refers to.
#[derive(Debug, Clone)]
pub struct ConfigMap {
    /// Its name.
    pub name: String,
    /// Its `data`.
    pub data: Value,
}

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What is done.
    pub outcome: Outcome,
    /// What whoever made the pod should know, a sentence each.
    pub warnings: Vec<String>,
}

/// What is done with a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It is changed.
    Patched(Patch),
    /// It is let through as it is.
    Unchanged(Unchanged),
    /// It is refused, for all of these.
    Refused(Vec<Fault>),
}

impl Outcome {
    /// The text of a refusal: each fault with its fix.
    pub fn message(&self) -> Option<String> {
        let Self::Refused(faults) = self else { return None };
        let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Some(format!("postern: {}", told.join(" | ")))
    }
}

/// Decides about a pod, or a pod template, in a namespace.
pub fn decide(
    pod: &Value,
    namespace: &NamespaceMeta,
    config_maps: &[ConfigMap],
    settings: &InjectionSettings,
) -> Verdict {
    let mut warnings = Vec::new();
    let outcome = decided(pod, namespace, config_maps, settings, &mut warnings).unwrap_or_else(Outcome::Refused);
    Verdict { outcome, warnings }
}

/// Whether the switches of a pod and of its namespace, as labels and the pod's annotation have them, ask for a sidecar.
pub fn is_wanted(namespace: Option<&str>, label: Option<&str>, annotation: Option<&str>) -> Result<bool, Fault> {
    switch::decide(namespace, PodSwitch { label, annotation }).map(|switch| switch == Switch::On)
}

/// The ConfigMaps that a decision about this pod would look at. None, if it gets no sidecar.
pub fn config_maps(pod: &Value, namespace: &NamespaceMeta) -> Vec<String> {
    let Ok(pod) = Pod::read(pod) else { return Vec::new() };
    match switch::decide(namespace.labels.get(INJECT).map(String::as_str), switch_of(pod)) {
        Ok(Switch::On) => stdio::config_maps(pod),
        _ => Vec::new(),
    }
}

/// The stdio servers that ConfigMaps configure.
pub fn stdio_servers(config_maps: &[ConfigMap]) -> Vec<Fault> {
    config_maps.iter().flat_map(|map| stdio::check_config_map(&map.name, &map.data)).collect()
}

fn switch_of(pod: Pod<'_>) -> PodSwitch<'_> {
    PodSwitch { label: pod.label(INJECT), annotation: pod.annotation(INJECT) }
}

fn decided(
    raw: &Value,
    namespace: &NamespaceMeta,
    config_maps: &[ConfigMap],
    settings: &InjectionSettings,
    warnings: &mut Vec<String>,
) -> Result<Outcome, Vec<Fault>> {
    let pod = Pod::read(raw)?;
    let pod_switch = switch_of(pod);
    match switch::decide(namespace.labels.get(INJECT).map(String::as_str), pod_switch).map_err(|fault| vec![fault])? {
        Switch::Off { why, asked } => {
            if asked {
                warnings.push(format!("postern: no sidecar: the namespace has {INJECT}: disabled"));
            }
            return Ok(Outcome::Unchanged(why));
        }
        Switch::On => {}
    }
    if pod.annotation("kubernetes.io/config.mirror").is_some() {
        return Ok(Outcome::Unchanged(Unchanged::MirrorPod));
    }
    if pod_switch.differ() {
        warnings.push(format!("postern: label and annotation {INJECT} differ; the label counts"));
    }
    let mut faults = rules::check(pod, &settings.allowed);
    if settings.broker_ca.is_none() {
        let cause = "the broker's certificates are not known yet";
        faults.push(Fault::new(AdmissionReason::BrokerCaUnknown, cause));
    }
    faults.extend(stdio::check(rules::others(pod)));
    faults.extend(stdio_servers(config_maps));
    let of_namespace = namespace.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    match config::read(of_namespace, pod.annotations(), settings) {
        Err(more) => faults.extend(more),
        Ok(config) => {
            warn(pod, &config, warnings);
            if config.capture == Capture::Redirect {
                faults.extend(rules::redirected(pod));
            }
            match inject::patch(pod, &config, settings) {
                Err(more) => faults.extend(more),
                Ok(patch) if faults.is_empty() && patch.is_empty() => {
                    return Ok(Outcome::Unchanged(Unchanged::AlreadyInjected));
                }
                Ok(patch) if faults.is_empty() => return Ok(Outcome::Patched(patch)),
                Ok(_) => {}
            }
        }
    }
    Err(faults)
}

/// What is allowed and yet likely not meant.
fn warn(pod: Pod<'_>, config: &config::PodConfig, warnings: &mut Vec<String>) {
    for container in rules::others(pod).filter(|one| !config.skip.iter().any(|name| name == one.name())) {
        warnings.extend(agent::kept(container, config.capture, &config.no_proxy));
        // What the proxy's variables lack is set, or was told above.
        if config.capture != Capture::Proxy && calls_loopback_through_a_proxy(container.raw) {
            warnings.push(format!(
                "postern: {container} sets HTTP_PROXY without 127.0.0.1 in NO_PROXY; its calls would go to that proxy"
            ));
        }
    }
}

fn calls_loopback_through_a_proxy(container: &Value) -> bool {
    let value = |name: &str| {
        let of = |one: &&Value| text(one, &["name"]).is_some_and(|found| found.eq_ignore_ascii_case(name));
        objects(container, "env").iter().find(of)
    };
    let exempt = value("NO_PROXY").is_some_and(|one| {
        let list = text(one, &["value"]).unwrap_or_default();
        // What comes from elsewhere cannot be read here.
        field(one, &["valueFrom"]).is_some()
            || list.split(',').any(|item| matches!(item.trim(), "*" | "127.0.0.1" | "127.0.0.0/8"))
    });
    value("HTTP_PROXY").is_some_and(|one| text(one, &["value"]) != Some("")) && !exempt
}

#[cfg(test)]
pub(in crate::control) mod testing;
#[cfg(test)]
#[path = "admission/decision_tests.rs"]
mod tests;
