//! What a pod with a sidecar may not be: everything by which another container could reach into
//! it. The policies of manifests/base/policies.yaml say the same about the final pod.

use serde_json::Value;

use super::pod::{Container, Pod, field, flag, objects, text, texts};
use super::reason::{AdmissionReason as Reason, Fault, printable};
use super::settings::Allowed;
use super::sidecar;
use crate::api::{BROKER_AUDIENCE, env};

/// Capabilities that reach beyond their own container: into processes, networks, the kernel's
/// memory or files of other mounts.
pub(super) const FORBIDDEN_CAPABILITIES: [&str; 9] =
    ["ALL", "SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "SYS_MODULE", "SYS_RAWIO", "DAC_READ_SEARCH", "BPF", "PERFMON"];

/// Capabilities by which a process would get past `redirect`.
const CONFINED_CAPABILITIES: [&str; 3] = ["NET_RAW", "SETUID", "SETGID"];

/// Everything that is wrong with the pod.
pub(super) fn check(pod: Pod<'_>, allowed: &Allowed) -> Vec<Fault> {
    let mut faults = Vec::new();
    of_the_pod(pod, &mut faults);
    for volume in pod.volumes() {
        of_a_volume(volume, allowed, &mut faults);
    }
    for container in others(pod) {
        of_a_container(container, &mut faults);
    }
    faults
}

/// Every container but the sidecar and the init container that is ours.
pub(super) fn others(pod: Pod<'_>) -> impl Iterator<Item = Container<'_>> {
    let is_ours = |container: &Container<'_>| {
        container.is_init() && [sidecar::NAME, sidecar::INIT_NAME].contains(&container.name())
    };
    pod.containers().filter(move |container| !is_ours(container))
}

/// Everything for which a pod cannot be redirected: a process that takes the sidecar's user would leave it uncaptured,
/// by a capability or by a program that runs as its owner, and so would packets that no socket of the system made.
pub(super) fn redirected(pod: Pod<'_>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for container in others(pod) {
        let of = |kind| -> Vec<String> {
            texts(container.raw, &["securityContext", "capabilities", kind]).map(capability).collect()
        };
        let (added, dropped) = (of("add"), of("drop"));
        let has = |list: &[String], name: &str| list.iter().any(|one| one == name);
        let named = |is: &dyn Fn(&str) -> bool| -> Option<String> {
            let names: Vec<&str> = CONFINED_CAPABILITIES.into_iter().filter(|name| is(name)).collect();
            (!names.is_empty()).then(|| names.join(", "))
        };
        if let Some(kept) = named(&|name| !has(&dropped, name) && !has(&dropped, "ALL")) {
            faults.push(Fault::new(Reason::Unconfined, format!("{container} does not drop {kept}")));
        }
        if let Some(added) = named(&|name| has(&added, name)) {
            faults.push(Fault::new(Reason::Unconfined, format!("{container} adds {added}")));
        }
        if flag(container.raw, &["securityContext", "allowPrivilegeEscalation"]) != Some(false) {
            let cause = format!("{container}.securityContext.allowPrivilegeEscalation is not false");
            faults.push(Fault::new(Reason::Unconfined, cause));
        }
    }
    faults
}

fn of_the_pod(pod: Pod<'_>, faults: &mut Vec<Fault>) {
    let spec = pod.spec();
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        if flag(spec, &[name]) == Some(true) {
            faults.push(Fault::new(Reason::HostNamespaces, format!("spec.{name} is true")));
        }
    }
    if flag(spec, &["shareProcessNamespace"]) == Some(true) {
        faults.push(Fault::new(Reason::SharedProcesses, "spec.shareProcessNamespace is true"));
    }
    let is_windows = |found: Option<&str>| found.is_some_and(|name| name.eq_ignore_ascii_case("windows"));
    if is_windows(text(spec, &["os", "name"])) {
        faults.push(Fault::new(Reason::Windows, "spec.os.name is windows"));
    } else if is_windows(text(spec, &["nodeSelector", "kubernetes.io/os"])) {
        faults.push(Fault::new(Reason::Windows, "spec.nodeSelector asks for Windows nodes"));
    } else if field(spec, &["securityContext", "windowsOptions"]).is_some() {
        faults.push(Fault::new(Reason::Windows, "spec.securityContext.windowsOptions is set"));
    }
    if is_ours(field(spec, &["securityContext", "runAsUser"])) {
        faults.push(Fault::new(Reason::ReservedUid, "spec.securityContext.runAsUser is 64321"));
    }
}

fn of_a_volume(volume: &Value, allowed: &Allowed, faults: &mut Vec<Fault>) {
    let name = text(volume, &["name"]).unwrap_or_default();
    if let Some(path) = text(volume, &["hostPath", "path"])
        && !allowed.host_paths.iter().any(|one| is_below(path, one))
    {
        faults.push(Fault::new(Reason::HostPath, format!("volume {} is a hostPath", printable(name))));
    }
    let sources = field(volume, &["projected"]).map_or(&[] as &[Value], |projected| objects(projected, "sources"));
    let is_token = |source| text(source, &["serviceAccountToken", "audience"]) == Some(BROKER_AUDIENCE);
    if name != sidecar::TOKEN_VOLUME && sources.iter().any(is_token) {
        let cause = format!("volume {} projects a token for {BROKER_AUDIENCE}", printable(name));
        faults.push(Fault::new(Reason::ReservedAudience, cause));
    }
}

fn of_a_container(container: Container<'_>, faults: &mut Vec<Fault>) {
    let raw = container.raw;
    if flag(raw, &["securityContext", "privileged"]) == Some(true) {
        faults.push(Fault::new(Reason::Privileged, format!("{container}.securityContext.privileged is true")));
    }
    for added in texts(raw, &["securityContext", "capabilities", "add"]) {
        let capability = capability(added);
        if FORBIDDEN_CAPABILITIES.contains(&capability.as_str()) {
            faults.push(Fault::new(Reason::Capability, format!("{container} adds {capability}")));
        }
    }
    if is_ours(field(raw, &["securityContext", "runAsUser"])) {
        faults.push(Fault::new(Reason::ReservedUid, format!("{container}.securityContext.runAsUser is 64321")));
    }
    if field(raw, &["securityContext", "windowsOptions"]).is_some() {
        faults.push(Fault::new(Reason::Windows, format!("{container}.securityContext.windowsOptions is set")));
    }
}

/// Runtimes read `CAP_` and any case.
fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").map(str::to_owned).unwrap_or(upper)
}

fn is_ours(user: Option<&Value>) -> bool {
    user.and_then(Value::as_u64) == Some(u64::from(env::UID))
}

/// Whether a path of the node is `above` or below it.
fn is_below(path: &str, above: &str) -> bool {
    let steps = |path: &str| -> Vec<String> {
        path.split('/').filter(|step| !step.is_empty() && *step != ".").map(str::to_owned).collect()
    };
    let (path, above) = (steps(path), steps(above));
    !path.iter().any(|step| step == "..") && path.starts_with(&above)
}

/// Whether no other container could change what the containers of a pod share, such as
/// `/etc/resolv.conf`: each is another user than root, stays it, and has no capability.
pub(super) fn is_hardened(pod: Pod<'_>) -> bool {
    others(pod).all(|container| {
        let raw = container.raw;
        let own = |name: &str| field(raw, &["securityContext", name]);
        let effective = |name: &str| own(name).or_else(|| field(pod.spec(), &["securityContext", name]));
        let user = effective("runAsUser").and_then(Value::as_i64);
        let non_root = effective("runAsNonRoot").and_then(Value::as_bool) == Some(true);
        let is_other_than_root = user.map_or(non_root, |user| user != 0);
        let stays = own("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false);
        let drops = texts(raw, &["securityContext", "capabilities", "drop"]).any(|name| capability(name) == "ALL");
        // The one that the restricted standard lets a pod add: it opens ports, and no files.
        let adds =
            texts(raw, &["securityContext", "capabilities", "add"]).any(|name| capability(name) != "NET_BIND_SERVICE");
        is_other_than_root && stays && drops && !adds
    })
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
