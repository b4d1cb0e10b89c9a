//! Looking at a pod as raw JSON: its types are never read into ours, so that nothing gets lost.

use std::fmt;

use serde_json::{Map, Value};

use super::reason::{AdmissionReason, Fault, printable};
use crate::core::patch::Pointer;

/// What a field must be for the rules to be able to rely on what they see.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Object,
    Objects,
    Flag,
    Number,
    Text,
    Texts,
    TextMap,
    Absent,
}

/// The fields that any rule looks at; `[]` stands for each element.
const POD: &[(&str, Kind)] = &[
    ("metadata", Kind::Object),
    ("metadata.labels", Kind::TextMap),
    ("metadata.annotations", Kind::TextMap),
    ("spec", Kind::Object),
    ("spec.hostNetwork", Kind::Flag),
    ("spec.hostPID", Kind::Flag),
    ("spec.hostIPC", Kind::Flag),
    ("spec.shareProcessNamespace", Kind::Flag),
    ("spec.os", Kind::Object),
    ("spec.os.name", Kind::Text),
    ("spec.nodeSelector", Kind::TextMap),
    ("spec.securityContext", Kind::Object),
    ("spec.securityContext.runAsUser", Kind::Number),
    ("spec.securityContext.runAsNonRoot", Kind::Flag),
    ("spec.securityContext.windowsOptions", Kind::Object),
    ("spec.imagePullSecrets", Kind::Objects),
    ("spec.volumes", Kind::Objects),
    ("spec.volumes[].name", Kind::Text),
    ("spec.volumes[].hostPath", Kind::Object),
    ("spec.volumes[].hostPath.path", Kind::Text),
    ("spec.volumes[].configMap", Kind::Object),
    ("spec.volumes[].projected", Kind::Object),
    ("spec.volumes[].projected.sources", Kind::Objects),
    ("spec.volumes[].projected.sources[].configMap", Kind::Object),
    ("spec.volumes[].projected.sources[].serviceAccountToken", Kind::Object),
    ("spec.volumes[].projected.sources[].serviceAccountToken.audience", Kind::Text),
    ("spec.ephemeralContainers", Kind::Absent),
    ("spec.containers", Kind::Objects),
    ("spec.initContainers", Kind::Objects),
];

/// The same for each container.
const CONTAINER: &[(&str, Kind)] = &[
    ("name", Kind::Text),
    ("command", Kind::Texts),
    ("args", Kind::Texts),
    ("env", Kind::Objects),
    ("env[].name", Kind::Text),
    ("env[].value", Kind::Text),
    ("env[].valueFrom", Kind::Object),
    ("env[].valueFrom.configMapKeyRef", Kind::Object),
    ("envFrom", Kind::Objects),
    ("envFrom[].configMapRef", Kind::Object),
    ("volumeMounts", Kind::Objects),
    ("volumeMounts[].name", Kind::Text),
    ("volumeMounts[].mountPath", Kind::Text),
    ("securityContext", Kind::Object),
    ("securityContext.privileged", Kind::Flag),
    ("securityContext.runAsUser", Kind::Number),
    ("securityContext.runAsNonRoot", Kind::Flag),
    ("securityContext.allowPrivilegeEscalation", Kind::Flag),
    ("securityContext.windowsOptions", Kind::Object),
    ("securityContext.capabilities", Kind::Object),
    ("securityContext.capabilities.add", Kind::Texts),
    ("securityContext.capabilities.drop", Kind::Texts),
];

/// A pod or a pod template whose fields have the kinds that the rules expect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pod<'a> {
    raw: &'a Value,
}

impl<'a> Pod<'a> {
    /// Looks at the kinds of all fields that matter. The API server sees to it, a manifest may not.
    pub(super) fn read(raw: &'a Value) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut wrong = |place: &str, kind: Kind| {
            let cause = format!("{place} must be {}", kind.expected());
            faults.push(Fault::new(AdmissionReason::MalformedPod, cause));
        };
        if !raw.is_object() {
            wrong("the pod", Kind::Object);
        }
        for (path, kind) in POD {
            check(raw, "", path, *kind, &mut wrong);
        }
        let pod = Self { raw };
        for container in pod.containers() {
            for (path, kind) in CONTAINER {
                check(container.raw, &format!("{container}."), path, *kind, &mut wrong);
            }
        }
        if objects(pod.spec(), "containers").is_empty() {
            wrong("spec.containers", Kind::Objects);
        }
        if faults.is_empty() { Ok(pod) } else { Err(faults) }
    }

    pub(super) fn spec(self) -> &'a Value {
        self.raw.get("spec").unwrap_or(&Value::Null)
    }

    pub(super) fn metadata(self) -> &'a Value {
        self.raw.get("metadata").unwrap_or(&Value::Null)
    }

    /// A label.
    pub(super) fn label(self, name: &str) -> Option<&'a str> {
        self.metadata().get("labels")?.get(name)?.as_str()
    }

    /// An annotation.
    pub(super) fn annotation(self, name: &str) -> Option<&'a str> {
        self.metadata().get("annotations")?.get(name)?.as_str()
    }

    /// Every annotation.
    pub(super) fn annotations(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.metadata().get("annotations").and_then(Value::as_object);
        all.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    pub(super) fn volumes(self) -> &'a [Value] {
        objects(self.spec(), "volumes")
    }

    /// Init containers first, as they start.
    pub(super) fn containers(self) -> impl Iterator<Item = Container<'a>> {
        ["initContainers", "containers"].into_iter().flat_map(move |list| {
            let all = objects(self.spec(), list).iter().enumerate();
            all.map(move |(index, raw)| Container { list, index, raw })
        })
    }
}

/// One container of a pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Container<'a> {
    /// `containers` or `initContainers`.
    pub(super) list: &'static str,
    pub(super) index: usize,
    pub(super) raw: &'a Value,
}

impl<'a> Container<'a> {
    pub(super) fn name(self) -> &'a str {
        text(self.raw, &["name"]).unwrap_or_default()
    }

    pub(super) fn pointer(self) -> Pointer {
        Pointer::root().member("spec").member(self.list).element(self.index)
    }

    pub(super) fn is_init(self) -> bool {
        self.list == "initContainers"
    }
}

/// As people find it: `spec.containers[agent]`.
impl fmt::Display for Container<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spec.{}[{}]", self.list, printable(self.name()))
    }
}

/// A field below `value`; `None` also for `null`.
pub(super) fn field<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| value.get(name)).filter(|value| !value.is_null())
}

pub(super) fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    field(value, path)?.as_str()
}

pub(super) fn flag(value: &Value, path: &[&str]) -> Option<bool> {
    field(value, path)?.as_bool()
}

/// A list; empty where it is missing.
pub(super) fn objects<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn texts<'a>(value: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a str> {
    field(value, path).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

impl Kind {
    const fn expected(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Objects => "a list of objects",
            Self::Flag => "true or false",
            Self::Number => "a whole number",
            Self::Text => "a string",
            Self::Texts => "a list of strings",
            Self::TextMap => "an object of strings",
            Self::Absent => "absent when the pod is created",
        }
    }

    fn fits(self, value: &Value) -> bool {
        let texts = |mut values: serde_json::map::Values<'_>| values.all(Value::is_string);
        match self {
            Self::Object => value.is_object(),
            Self::Objects => value.as_array().is_some_and(|list| list.iter().all(Value::is_object)),
            Self::Flag => value.is_boolean(),
            Self::Number => value.is_i64() || value.is_u64(),
            Self::Text => value.is_string(),
            Self::Texts => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
            Self::TextMap => value.as_object().is_some_and(|map: &Map<_, _>| texts(map.values())),
            Self::Absent => value.as_array().is_some_and(Vec::is_empty),
        }
    }
}

/// Checks the field at `path` wherever it is there and not null.
fn check(value: &Value, above: &str, path: &str, kind: Kind, wrong: &mut impl FnMut(&str, Kind)) {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let (name, each) = first.strip_suffix("[]").map_or((first, false), |name| (name, true));
    let Some(found) = field(value, &[name]) else { return };
    let place = format!("{above}{name}");
    match rest {
        None if !kind.fits(found) => wrong(&place, kind),
        None => {}
        Some(rest) if each => {
            for (index, element) in found.as_array().into_iter().flatten().enumerate() {
                check(element, &format!("{place}[{index}]."), rest, kind, wrong);
            }
        }
        Some(rest) => check(found, &format!("{place}."), rest, kind, wrong),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_rule_could_misread_is_refused() {
        let pod = json!({
            "metadata": {"labels": {"a": true}},
            "spec": {
                "hostNetwork": "yes",
                "volumes": [{"name": "v", "hostPath": "/etc"}, {"projected": {"sources": [{"serviceAccountToken": []}]}}],
                "ephemeralContainers": [{"name": "e"}],
                "containers": [{"name": "a", "securityContext": {"privileged": 1, "capabilities": {"add": "ALL"}}}],
            },
        });
        let faults = Pod::read(&pod).unwrap_err();
        let causes: Vec<_> = faults.iter().map(|fault| fault.cause.as_str()).collect();
        assert_eq!(
            causes,
            [
                "metadata.labels must be an object of strings",
                "spec.hostNetwork must be true or false",
                "spec.volumes[0].hostPath must be an object",
                "spec.volumes[1].projected.sources[0].serviceAccountToken must be an object",
                "spec.ephemeralContainers must be absent when the pod is created",
                "spec.containers[a].securityContext.privileged must be true or false",
                "spec.containers[a].securityContext.capabilities.add must be a list of strings",
            ]
        );
        for pod in [json!(null), json!([]), json!({}), json!({"spec": {"containers": []}})] {
            assert!(Pod::read(&pod).is_err(), "{pod}");
        }
        let least = json!({"metadata": null, "spec": {"containers": [{"name": "a", "env": null}], "volumes": null}});
        assert!(Pod::read(&least).is_ok());
    }
}
