//! The pods that run: those with a sidecar, and those that should have one.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::captures;
use super::finding::{Finding, Place, Seen, Topic, Unseen};
use crate::api::{INJECT, INJECTED, env};
use crate::control::admission::{is_wanted, sidecar};
use crate::core::capture::Capture;
use crate::tls::client::certificates;

/// Namespaces that the webhook is never called for, beside the installation's own.
const SPARED: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// What is started by a node, not by the API server.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What of a pod matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodSeen {
    pub(super) namespace: String,
    name: String,
    pub(super) account: String,
    /// The label that says that it has a sidecar.
    labelled: bool,
    pub(super) sidecar: Option<Sidecar>,
    /// The other containers that run, and since when.
    pub(super) others: Vec<(String, Option<Time>)>,
    /// Its switch: label and annotation.
    switch: (Option<String>, Option<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sidecar {
    image: String,
    broker_ca: Option<String>,
    pub(super) capture: Capture,
    /// How often it was started again.
    pub(super) restarts: i32,
    /// Since when it runs, if it does.
    pub(super) since: Option<Time>,
}

impl Sidecar {
    fn read(container: Container, status: Option<&ContainerStatus>) -> Self {
        let variable = |name: &str| {
            let found = container.env.iter().flatten().find(|one| one.name == name);
            found.and_then(|one| one.value.clone())
        };
        Self {
            broker_ca: variable(env::BROKER_CA),
            // A later version may have more of them.
            capture: variable(env::CAPTURE).as_deref().and_then(Capture::parse).unwrap_or_default(),
            restarts: status.map_or(0, |status| status.restart_count),
            since: status.and_then(since),
            image: container.image.unwrap_or_default(),
        }
    }
}

fn since(status: &ContainerStatus) -> Option<Time> {
    status.state.as_ref()?.running.as_ref()?.started_at.clone()
}

impl PodSeen {
    /// Nothing of a pod that has ended or is about to, and of one that the API server did not make.
    pub(super) fn read(pod: Pod) -> Option<Self> {
        let status = pod.status.unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        let annotation = |name: &str| pod.metadata.annotations.as_ref()?.get(name).cloned();
        let label = |name: &str| pod.metadata.labels.as_ref()?.get(name).cloned();
        let has_ended = matches!(phase.as_str(), "Succeeded" | "Failed") || pod.metadata.deletion_timestamp.is_some();
        if has_ended || annotation(MIRROR).is_some() {
            return None;
        }
        let (labelled, switch) = (label(INJECTED).as_deref() == Some("true"), (label(INJECT), annotation(INJECT)));
        let spec = pod.spec?;
        let ours = spec.init_containers.into_iter().flatten().find(|container| container.name == sidecar::NAME);
        let inits = status.init_container_statuses.unwrap_or_default();
        let of_sidecar = inits.iter().find(|status| status.name == sidecar::NAME);
        let sidecar = ours.map(|container| Sidecar::read(container, of_sidecar));
        let is_running = |status: &&ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
        let others = status.container_statuses.iter().flatten().chain(&inits).filter(is_running);
        let others = others.filter(|status| status.name != sidecar::NAME);
        Some(Self {
            namespace: pod.metadata.namespace?,
            name: pod.metadata.name?,
            account: spec.service_account_name.unwrap_or_default(),
            labelled,
            others: others.map(|status| (status.name.clone(), since(status))).collect(),
            sidecar,
            switch,
        })
    }

    pub(super) fn place(&self) -> Place {
        Place::within("Pod", self.namespace.as_str(), self.name.as_str())
    }
}

/// What of a namespace matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NamespaceSeen {
    /// Its switch.
    pub(super) switch: Option<String>,
    /// The capture that its pods have where they say nothing.
    pub(super) capture: Option<String>,
    /// The Pod Security Standard that it holds pods to.
    pub(super) standard: Option<String>,
}

/// By namespace and service account: each https host that is bound to it, and since when, as far as that is known.
pub(super) type Bound = BTreeMap<(String, String), BTreeMap<String, Option<Time>>>;

/// What pods are held against.
pub(super) struct Measure<'a> {
    /// The namespace of the installation.
    pub(super) home: &'a str,
    /// The namespaces.
    pub(super) namespaces: &'a Seen<BTreeMap<String, NamespaceSeen>>,
    /// Whom something is bound to, and what.
    pub(super) bound: &'a Seen<Bound>,
    /// What is injected now, if somebody says so.
    pub(super) image: &'a Seen<Option<String>>,
    /// What the broker tells.
    pub(super) signers: &'a Seen<Option<String>>,
}

pub(super) const ANEW: &str = "create the pod anew, such as by kubectl rollout restart";

/// How the pods stand.
pub(super) fn judge(seen: &Seen<Vec<PodSeen>>, measure: &Measure<'_>) -> Vec<Finding> {
    let pods = match seen {
        Err(why) => return vec![Finding::unchecked(Topic::Injection, Place::all("Pods"), why)],
        Ok(pods) => pods,
    };
    let with: Vec<(&PodSeen, &Sidecar)> = pods.iter().filter_map(|pod| Some((pod, pod.sidecar.as_ref()?))).collect();
    let mut findings = injection(pods, with.len(), measure);
    if !with.is_empty() {
        findings.extend(signers(&with, measure));
        findings.extend(images(&with, measure));
        findings.extend(unbound(&with, measure));
        findings.extend(captures::judge(&with, measure));
    }
    findings.extend(captures::standards(&with, measure));
    findings
}

fn injection(pods: &[PodSeen], sidecars: usize, measure: &Measure<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut undecided: Option<&Unseen> = None;
    for pod in pods.iter().filter(|pod| pod.sidecar.is_none()) {
        if pod.labelled {
            let what = format!("has the label {INJECTED} and no sidecar: it was not made by the webhook");
            findings.push(Finding::wrong(
                Topic::Injection,
                pod.place(),
                what,
                "delete it; the policies refuse such pods",
            ));
            continue;
        }
        if pod.namespace == measure.home || SPARED.contains(&pod.namespace.as_str()) {
            continue;
        }
        let namespace = match measure.namespaces {
            Ok(namespaces) => namespaces.get(&pod.namespace).and_then(|namespace| namespace.switch.as_deref()),
            Err(why) => {
                undecided = Some(why);
                continue;
            }
        };
        let (label, annotation) = &pod.switch;
        match is_wanted(namespace, label.as_deref(), annotation.as_deref()) {
            Ok(false) => {}
            Ok(true) => {
                let what = "is to have a sidecar and has none: it was created when the webhook was not called";
                findings.push(Finding::wrong(Topic::Injection, pod.place(), what, ANEW));
            }
            Err(fault) => {
                let what = format!("has no sidecar: {}: {}", fault.reason, fault.cause);
                findings.push(Finding::wrong(Topic::Injection, pod.place(), what, fault.reason.advice()));
            }
        }
    }
    if let Some(why) = undecided {
        findings.push(Finding::unchecked(Topic::Injection, Place::all("Pods without a sidecar"), why));
    }
    if findings.is_empty() {
        let what = format!("{sidecars} with a sidecar, and none lacks one");
        findings.push(Finding::good(Topic::Injection, Place::all("Pods"), what));
    }
    findings
}

fn signers(with: &[(&PodSeen, &Sidecar)], measure: &Measure<'_>) -> Vec<Finding> {
    let told = match measure.signers {
        Err(why) => return vec![Finding::unchecked(Topic::PodSigner, Place::all("Pods"), why)],
        Ok(told) => told.as_deref().unwrap_or_default(),
    };
    // It is said elsewhere that there is none.
    let Some(present) = certificates(told.as_bytes()).ok().and_then(|list| list.into_iter().next()) else {
        return Vec::new();
    };
    let knows = |sidecar: &Sidecar| {
        let own = sidecar.broker_ca.as_deref().unwrap_or_default();
        certificates(own.as_bytes()).is_ok_and(|list| list.contains(&present))
    };
    let mut findings: Vec<Finding> = with
        .iter()
        .filter(|(_, sidecar)| !knows(sidecar))
        .map(|(pod, _)| {
            let what = "its sidecar does not know the certificate that the broker signs with now: it hears nothing new";
            Finding::wrong(Topic::PodSigner, pod.place(), what, ANEW)
        })
        .collect();
    if findings.is_empty() {
        let what = format!("the broker's present signer is known to {}", counted(with.len()));
        findings.push(Finding::good(Topic::PodSigner, Place::all("Pods"), what));
    }
    findings
}

fn images(with: &[(&PodSeen, &Sidecar)], measure: &Measure<'_>) -> Vec<Finding> {
    let (wanted, whose) = match measure.image {
        Ok(Some(image)) => (image.as_str(), "the one that is injected now"),
        Ok(None) | Err(_) => (most(with), "the one that most have"),
    };
    let stale = with.iter().filter(|(_, sidecar)| sidecar.image != wanted).map(|(pod, sidecar)| {
        let what = format!("its sidecar is {}; {whose} is {wanted}", sidecar.image);
        Finding::warning(Topic::Image, pod.place(), what, ANEW)
    });
    let mut findings: Vec<Finding> = stale.collect();
    match measure.image {
        // They are all alike, and may all be old.
        Err(why) => findings.push(Finding::unchecked(Topic::Image, Place::all("Image that is injected now"), why)),
        Ok(_) if findings.is_empty() => {
            let what = format!("{wanted}, {whose}, in {}", counted(with.len()));
            findings.push(Finding::good(Topic::Image, Place::all("Pods"), what));
        }
        Ok(_) => {}
    }
    findings
}

pub(super) fn counted(sidecars: usize) -> String {
    format!("{sidecars} sidecar{}", if sidecars == 1 { "" } else { "s" })
}

/// The image of most sidecars; of several, the first by name.
fn most<'a>(with: &[(&PodSeen, &'a Sidecar)]) -> &'a str {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, sidecar) in with {
        *counts.entry(sidecar.image.as_str()).or_default() += 1;
    }
    let most = counts.values().max().copied();
    counts.into_iter().find(|(_, count)| Some(*count) == most).map_or("", |(image, _)| image)
}

fn unbound(with: &[(&PodSeen, &Sidecar)], measure: &Measure<'_>) -> Vec<Finding> {
    let bound = match measure.bound {
        Err(why) => return vec![Finding::unchecked(Topic::Unbound, Place::all("Pods"), why)],
        Ok(bound) => bound,
    };
    let is_bound = |pod: &PodSeen| bound.contains_key(&(pod.namespace.clone(), pod.account.clone()));
    let idle = with.iter().filter(|(pod, _)| !is_bound(pod)).map(|(pod, _)| {
        let what = format!("nothing is bound to its service account {}: every call is refused", pod.account);
        Finding::warning(Topic::Unbound, pod.place(), what, "bind a server to it, or remove its switch")
    });
    idle.collect()
}

#[cfg(test)]
#[path = "pods_tests.rs"]
mod tests;
