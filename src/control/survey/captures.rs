//! The pods whose calls are taken up on their way: whether what runs in them can trust the sidecar as it is now, and
//! whether they can be created where they are wanted.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::{Finding, Place, Topic};
use super::pods::{ANEW, Measure, PodSeen, Sidecar, counted};
use crate::api::CONFIG_PREFIX;
use crate::core::capture::Capture;

/// Label of a namespace: which Pod Security Standard its pods must keep.
pub(super) const STANDARD: &str = "pod-security.kubernetes.io/enforce";
/// Those that forbid the init container's capability.
const STRICT: [&str; 2] = ["baseline", "restricted"];

/// The annotation of a namespace that says how its pods' calls are caught.
pub(super) fn annotation() -> String {
    format!("{CONFIG_PREFIX}capture")
}

/// Whether clients and sidecar agree on the pod's authority.
pub(super) fn judge(with: &[(&PodSeen, &Sidecar)], measure: &Measure<'_>) -> Vec<Finding> {
    let with: Vec<(&PodSeen, &Sidecar)> =
        with.iter().copied().filter(|(_, sidecar)| sidecar.capture.intercepts()).collect();
    if with.is_empty() {
        return Vec::new();
    }
    let mut findings = authorities(&with);
    findings.extend(bound_later(&with, measure));
    findings
}

/// Each start of a sidecar makes an authority anew. Whoever read the one of before trusts it, and no other.
fn authorities(with: &[(&PodSeen, &Sidecar)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (pod, sidecar) in with.iter().filter(|(_, sidecar)| sidecar.restarts > 0) {
        // A time that nobody tells may be before.
        let is_older = |since: &Option<_>| since.is_none() || sidecar.since.is_none() || *since < sidecar.since;
        let older: Vec<&str> =
            pod.others.iter().filter(|(_, since)| is_older(since)).map(|(name, _)| name.as_str()).collect();
        if !older.is_empty() {
            let what = format!(
                "its sidecar was started again and has a new authority; {} began before: what read the one of before \
                 fails on https calls",
                older.join(", ")
            );
            findings.push(Finding::warning(Topic::PodAuthority, pod.place(), what, ANEW));
        }
    }
    if findings.is_empty() {
        let what = format!("what runs beside {} began after it", counted(with.len()));
        findings.push(Finding::good(Topic::PodAuthority, Place::all("Pods"), what));
    }
    findings
}

/// An authority is for the hosts that were bound when it was made.
fn bound_later(with: &[(&PodSeen, &Sidecar)], measure: &Measure<'_>) -> Vec<Finding> {
    let bound = match measure.bound {
        Err(why) => return vec![Finding::unchecked(Topic::BoundLater, Place::all("Pods"), why)],
        Ok(bound) => bound,
    };
    let mut findings = Vec::new();
    for (pod, sidecar) in with {
        let Some(since) = &sidecar.since else { continue };
        let hosts = bound.get(&(pod.namespace.clone(), pod.account.clone()));
        let later: Vec<&str> = hosts
            .into_iter()
            .flatten()
            .filter(|(_, born)| born.as_ref().is_some_and(|born| born > since))
            .map(|(host, _)| host.as_str())
            .collect();
        if !later.is_empty() {
            let what = format!(
                "{} was bound after its sidecar started: with capture {} such calls are refused (restart_required), at \
                 the endpoint they are served",
                later.join(", "),
                sidecar.capture
            );
            findings.push(Finding::warning(Topic::BoundLater, pod.place(), what, ANEW));
        }
    }
    if findings.is_empty() {
        let what = format!("every https host that is bound was so before {} started", counted(with.len()));
        findings.push(Finding::good(Topic::BoundLater, Place::all("Pods"), what));
    }
    findings
}

/// Whether a namespace whose pods are to be redirected lets them be created.
pub(super) fn standards(with: &[(&PodSeen, &Sidecar)], measure: &Measure<'_>) -> Vec<Finding> {
    let redirected = with.iter().filter(|(_, sidecar)| sidecar.capture == Capture::Redirect);
    let mut wanted: BTreeSet<&str> = redirected.map(|(pod, _)| pod.namespace.as_str()).collect();
    let none = BTreeMap::new();
    let namespaces = match measure.namespaces {
        Ok(namespaces) => namespaces,
        Err(why) if !wanted.is_empty() => {
            return vec![Finding::unchecked(Topic::PodSecurity, Place::all("Namespaces"), why)];
        }
        Err(_) => &none,
    };
    for (name, seen) in namespaces {
        let capture = seen.capture.as_deref().and_then(|text| Capture::parse(text.trim()));
        if capture == Some(Capture::Redirect) && seen.switch.as_deref() != Some("disabled") {
            wanted.insert(name);
        }
    }
    let mut findings = Vec::new();
    for name in &wanted {
        let standard = namespaces.get(*name).and_then(|seen| seen.standard.as_deref());
        if let Some(standard) = standard.filter(|standard| STRICT.contains(standard)) {
            let what = format!(
                "{STANDARD} is {standard}, which forbids the NET_ADMIN of postern-init: no pod with capture redirect can \
                 be created"
            );
            let fix = format!("{STANDARD}=privileged, or another capture");
            findings.push(Finding::wrong(Topic::PodSecurity, Place::of_cluster("Namespace", *name), what, fix));
        }
    }
    if findings.is_empty() && !wanted.is_empty() {
        let names: Vec<&str> = wanted.into_iter().collect();
        let what = format!("capture redirect is not forbidden by a label in {}", names.join(", "));
        findings.push(Finding::good(Topic::PodSecurity, Place::all("Namespaces"), what));
    }
    findings
}
