//! From a pod to the patch that makes it one with a sidecar. What is there already and equal is
//! left, so that the patch of a patched pod is empty.

use serde_json::{Value, json};

use super::compare::{difference, index_of, same_mount, value_of};
use super::config::PodConfig;
use super::pod::{Container, Pod, field, objects, text};
use super::reason::{AdmissionReason, Fault, printable};
use super::rules::{is_hardened, others};
use super::settings::InjectionSettings;
use super::sidecar;
use crate::api::{INJECTED, STATUS, env};
use crate::core::patch::{Patch, Pointer};

/// The patch, or every name of ours that something else bears.
pub(super) fn patch(pod: Pod<'_>, config: &PodConfig, settings: &InjectionSettings) -> Result<Patch, Vec<Fault>> {
    let hardened = is_hardened(pod);
    let mut injection = Injection { pod, patch: Patch::default(), faults: Vec::new() };
    injection.volumes();
    for container in others(pod) {
        injection.container(container, config.skip.iter().any(|name| name == container.name()));
    }
    // After those: it moves the init containers.
    injection.sidecar(&sidecar::container(config, hardened, settings));
    injection.pull_secrets(&settings.image_pull_secrets);
    injection.metadata(&status(config, hardened, settings));
    let Injection { patch, faults, .. } = injection;
    if faults.is_empty() { Ok(patch) } else { Err(faults) }
}

/// What was done, for people: nothing reads it.
fn status(config: &PodConfig, hardened: bool, settings: &InjectionSettings) -> String {
    let servers = config.servers.as_ref().map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "image": settings.image,
        "capture": "endpoint",
        "hardened": hardened,
    });
    if let (Some(map), Some(servers)) = (status.as_object_mut(), servers) {
        map.insert("servers".into(), json!(servers));
    }
    status.to_string()
}

struct Injection<'a> {
    pod: Pod<'a>,
    patch: Patch,
    faults: Vec<Fault>,
}

impl Injection<'_> {
    fn taken(&mut self, cause: String) {
        self.faults.push(Fault::new(AdmissionReason::ReservedName, cause));
    }

    /// Adds `items` to the list `name` of `value`, which stands at `at`; makes the list where there is none.
    fn append(&mut self, value: &Value, at: &Pointer, name: &str, items: Vec<Value>) {
        let list = at.member(name);
        if items.is_empty() {
        } else if field(value, &[name]).is_some() {
            for item in items {
                self.patch.add(list.end(), item);
            }
        } else {
            self.patch.add(list, Value::Array(items));
        }
    }

    fn volumes(&mut self) {
        let mut missing = Vec::new();
        for wanted in sidecar::volumes() {
            let name = text(&wanted, &["name"]).unwrap_or_default();
            match self.pod.volumes().iter().find(|volume| text(volume, &["name"]) == Some(name)) {
                None => missing.push(wanted),
                Some(there) if *there == wanted => {}
                Some(_) => self.taken(format!("volume {name} is there and is another one")),
            }
        }
        let spec = Pointer::root().member("spec");
        self.append(self.pod.spec(), &spec, "volumes", missing);
    }

    fn sidecar(&mut self, wanted: &Value) {
        let there = self.pod.containers().find(|container| container.is_init() && container.name() == sidecar::NAME);
        match there {
            Some(there) => match difference(there.raw, wanted) {
                None => self.hardening(there, wanted),
                Some(what) => self.taken(format!("{there} is there and differs from the sidecar in {what}")),
            },
            None => {
                let list = Pointer::root().member("spec").member("initContainers");
                if field(self.pod.spec(), &["initContainers"]).is_some() {
                    self.patch.add(list.element(0), wanted.clone());
                } else {
                    self.patch.add(list, json!([wanted]));
                }
            }
        }
    }

    /// A container that came after the first call may have changed what is true of the pod.
    fn hardening(&mut self, there: Container<'_>, wanted: &Value) {
        let (Some(index), Some(value)) = (index_of(there.raw, env::POD_HARDENED), value_of(wanted, env::POD_HARDENED))
        else {
            return;
        };
        if value_of(there.raw, env::POD_HARDENED) != Some(value) {
            self.patch.add(there.pointer().member("env").element(index).member("value"), json!(value));
        }
    }

    fn container(&mut self, container: Container<'_>, skip: bool) {
        if container.name() == sidecar::NAME {
            return self.taken(format!("{container} has the sidecar's name"));
        }
        let wanted = sidecar::public_mount();
        let mut mounted = false;
        for mount in objects(container.raw, "volumeMounts") {
            let name = text(mount, &["name"]).unwrap_or_default();
            let path = text(mount, &["mountPath"]).unwrap_or_default();
            let is_ours = same_mount(mount, &wanted);
            mounted |= is_ours;
            if !is_ours && (sidecar::VOLUMES.contains(&name) || is_public(path)) {
                self.taken(format!("{container} mounts {} at {}", printable(name), printable(path)));
            }
        }
        if skip {
            return;
        }
        let pointer = container.pointer();
        let absent = |(name, _): &(&str, String)| index_of(container.raw, name).is_none();
        let missing = sidecar::agent_environment().into_iter().filter(absent);
        let missing = missing.map(|(name, value)| json!({"name": name, "value": value})).collect();
        self.append(container.raw, &pointer, "env", missing);
        if !mounted {
            self.append(container.raw, &pointer, "volumeMounts", vec![wanted]);
        }
    }

    fn pull_secrets(&mut self, names: &[String]) {
        let there = objects(self.pod.spec(), "imagePullSecrets");
        let absent = |name: &&String| !there.iter().any(|one| text(one, &["name"]) == Some(name));
        let missing = names.iter().filter(absent).map(|name| json!({"name": name})).collect();
        let spec = Pointer::root().member("spec");
        self.append(self.pod.spec(), &spec, "imagePullSecrets", missing);
    }

    fn metadata(&mut self, status: &str) {
        let at = Pointer::root().member("metadata");
        let (mut labels, mut annotations) = (None, None);
        if self.pod.label(INJECTED) != Some("true") {
            labels = Some((INJECTED, json!("true")));
        }
        if self.pod.annotation(STATUS) != Some(status) {
            annotations = Some((STATUS, json!(status)));
        }
        if self.pod.metadata().is_null() && (labels.is_some() || annotations.is_some()) {
            self.patch.add(at.clone(), json!({}));
        }
        for (map, entry) in [("labels", labels), ("annotations", annotations)] {
            let Some((name, value)) = entry else { continue };
            if field(self.pod.metadata(), &[map]).is_some() {
                self.patch.add(at.member(map).member(name), value);
            } else {
                self.patch.add(at.member(map), json!({name: value}));
            }
        }
    }
}

/// Whether a path is the public directory or below it, also by the name that most images give `/var/run`.
fn is_public(path: &str) -> bool {
    let mut steps: Vec<&str> = Vec::new();
    for step in path.split('/') {
        match step {
            "" | "." => {}
            ".." => {
                steps.pop();
            }
            step => steps.push(step),
        }
    }
    let public: Vec<&str> = env::PUBLIC_DIRECTORY.split('/').filter(|step| !step.is_empty()).collect();
    steps.starts_with(&public) || public.strip_prefix(&["var"]).is_some_and(|short| steps.starts_with(short))
}

#[cfg(test)]
#[path = "inject_tests.rs"]
mod tests;
