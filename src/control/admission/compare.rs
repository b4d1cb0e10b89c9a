//! Whether a container that is there is the one of ours as it would be written now.

use serde_json::{Value, json};

use super::pod::{field, objects, text, texts};
use super::quantity::Quantity;
use super::reason::printable;
use crate::api::env;

/// Fields that would change what the container runs or sees.
const NEVER: [&str; 8] =
    ["command", "workingDir", "envFrom", "volumeDevices", "lifecycle", "stdin", "tty", "restartPolicyRules"];

/// In which field a container that is there differs from the one that is wanted, if in any.
///
/// The API server and its plugins add to containers: defaults that this version does not know,
/// a limit of the namespace, the `Always` of its pull policy. None of that changes what the container is.
pub(super) fn difference(there: &Value, wanted: &Value) -> Option<String> {
    if let Some(name) = NEVER.into_iter().find(|name| field(there, &[name]).is_some_and(|value| *value != json!(false)))
    {
        return Some(name.into());
    }
    // With it, an init container that ends would be one that stays.
    if field(wanted, &["restartPolicy"]).is_none() && field(there, &["restartPolicy"]).is_some() {
        return Some("restartPolicy".into());
    }
    for (name, value) in wanted.as_object().into_iter().flatten() {
        let found = there.get(name).unwrap_or(&Value::Null);
        let same = match name.as_str() {
            "env" => differing_variable(there, wanted).is_none(),
            "resources" => same_resources(found, value),
            "imagePullPolicy" => found == value || *found == json!("Always"),
            "volumeMounts" => same_mounts(there, wanted),
            "securityContext" => contains(found, value) && !is_widened(found, value),
            "startupProbe" | "readinessProbe" | "livenessProbe" => contains(found, value),
            _ => found == value,
        };
        if !same {
            let variable = if name == "env" { differing_variable(there, wanted) } else { None };
            return Some(variable.map_or_else(|| name.clone(), |variable| format!("env {variable}")));
        }
    }
    None
}

/// A variable of ours that is missing, doubled or another one. Those of others may be there: a
/// cluster sets its proxy on every container.
fn differing_variable(there: &Value, wanted: &Value) -> Option<String> {
    let named = |list: &Value, name: &str| -> Vec<Value> {
        objects(list, "env").iter().filter(|one| text(one, &["name"]) == Some(name)).cloned().collect()
    };
    let present = objects(there, "env").iter().filter_map(|one| text(one, &["name"]));
    // The sidecar reads more of these than it is ever given.
    let ours = present.filter(|name| name.starts_with("POSTERN_")).chain(env::SIDECAR);
    let differs = |name: &&str| {
        let (found, wanted) = (named(there, name), named(wanted, name));
        let may_change = *name == env::POD_HARDENED && found.len() == 1;
        found != wanted && !may_change
    };
    ours.into_iter().find(differs).map(|name| printable(name).to_owned())
}

/// Whether `found` has everything of `wanted`, the same lists, and maybe more members.
fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(name, value)| found.get(name).is_some_and(|found| contains(found, value)))
        }
        _ => found == wanted,
    }
}

fn is_widened(context: &Value, wanted: &Value) -> bool {
    let added = |context| texts(context, &["capabilities", "add"]).collect::<Vec<_>>();
    field(context, &["privileged"]).is_some_and(|value| *value != json!(false))
        || added(context) != added(wanted)
        || field(context, &["procMount"]).is_some_and(|mount| *mount != json!("Default"))
}

fn same_resources(found: &Value, wanted: &Value) -> bool {
    ["requests", "limits"].into_iter().all(|kind| {
        let wanted = field(wanted, &[kind]).and_then(Value::as_object);
        wanted.into_iter().flatten().all(|(name, value)| {
            let quantity = |value: Option<&str>| value.and_then(Quantity::parse);
            let found = quantity(text(found, &[kind, name]));
            found.is_some() && found == quantity(value.as_str())
        })
    })
}

fn same_mounts(there: &Value, wanted: &Value) -> bool {
    let (there, wanted) = (objects(there, "volumeMounts"), objects(wanted, "volumeMounts"));
    there.len() == wanted.len() && wanted.iter().all(|mount| there.iter().any(|found| same_mount(found, mount)))
}

/// Where a container sets a variable.
pub(super) fn index_of(container: &Value, variable: &str) -> Option<usize> {
    objects(container, "env").iter().position(|one| text(one, &["name"]) == Some(variable))
}

/// The value that it sets.
pub(super) fn value_of<'a>(container: &'a Value, variable: &str) -> Option<&'a str> {
    text(objects(container, "env").get(index_of(container, variable)?)?, &["value"])
}

/// Whether two mounts are the same, whatever the API server wrote out.
pub(super) fn same_mount(there: &Value, wanted: &Value) -> bool {
    without_default_mount_fields(there) == *wanted
}

fn without_default_mount_fields(mount: &Value) -> Value {
    let mut mount = mount.clone();
    if let Some(map) = mount.as_object_mut() {
        map.retain(|name, value| !(value.is_null() || name == "readOnly" && *value == json!(false)));
    }
    mount
}
