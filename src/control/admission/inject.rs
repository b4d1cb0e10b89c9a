//! From a pod to the patch that makes it one with a sidecar. What is there already and equal is
//! left, so that the patch of a patched pod is empty.

use serde_json::{Value, json};

use super::agent;
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
        injection.container(container, config);
    }
    // After those: they move the init containers.
    injection.ours(sidecar::init_container(config, settings), sidecar::container(config, hardened, settings));
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
        "capture": config.capture.as_str(),
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

    /// The init container, which nothing may run before, and the sidecar.
    fn ours(&mut self, init: Option<Value>, wanted: Value) {
        let named = |name| self.pod.containers().find(|one| one.is_init() && one.name() == name);
        let (there, init_there) = (named(sidecar::NAME), named(sidecar::INIT_NAME));
        match (&init, init_there) {
            (None, Some(there)) => self.taken(format!("{there} is there, and only capture redirect has it")),
            (Some(wanted), Some(there)) => self.init(there, wanted),
            (_, None) => {}
        }
        if let Some(there) = there {
            match difference(there.raw, &wanted) {
                None => self.hardening(there, &wanted),
                Some(what) => self.taken(format!("{there} is there and differs from the sidecar in {what}")),
            }
        }
        let missing: Vec<Value> = [init.filter(|_| init_there.is_none()), Some(wanted).filter(|_| there.is_none())]
            .into_iter()
            .flatten()
            .collect();
        let list = Pointer::root().member("spec").member("initContainers");
        if missing.is_empty() {
        } else if field(self.pod.spec(), &["initContainers"]).is_some() {
            let at = list.element(init_there.map_or(0, |there| there.index + 1));
            missing.into_iter().rev().for_each(|one| self.patch.add(at.clone(), one));
        } else {
            self.patch.add(list, Value::Array(missing));
        }
    }

    fn init(&mut self, there: Container<'_>, wanted: &Value) {
        if let Some(what) = difference(there.raw, wanted) {
            self.taken(format!("{there} is there and differs from Postern's in {what}"));
        }
        let first = self.pod.containers().next().filter(|_| there.index != 0);
        if let Some(first) = first {
            self.faults.push(Fault::new(AdmissionReason::OutOfOrder, format!("{first} runs before {there}")));
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

    fn container(&mut self, container: Container<'_>, config: &PodConfig) {
        if [sidecar::NAME, sidecar::INIT_NAME].contains(&container.name()) {
            return self.taken(format!("{container} has the name of a container of ours"));
        }
        let wanted = agent::public_mount();
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
        if config.skip.iter().any(|name| name == container.name()) {
            return;
        }
        let pointer = container.pointer();
        let absent = |(name, _): &(&str, String)| index_of(container.raw, name).is_none();
        let missing = agent::environment(config.capture, &config.no_proxy).into_iter().filter(absent);
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
