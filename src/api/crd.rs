//! The CustomResourceDefinition of CredentialBinding.
//!
//! Which fields there are and of what kind is read from [`binding::FIELDS`](super::binding::FIELDS), by which documents
//! are checked too; [`told`] adds what the kind does not say. The limits and the texts are the reader's own
//! ([`expected`](super::expected)), so that the API server refuses a document in the words of `postern check`.

mod told;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use self::told::Told;
use super::binding::FIELDS;
use super::shape::{Fields, Shape, join};
use super::{GROUP, KIND};

/// The plural of the kind, as it stands in the API's paths.
pub const PLURAL: &str = "credentialbindings";
/// The one version.
pub const VERSION: &str = "v1alpha1";

/// The definition, as it is installed.
pub fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{PLURAL}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": format!("{KIND}List"),
                "plural": PLURAL,
                "singular": KIND.to_lowercase(),
                "shortNames": ["credb"],
                "categories": ["postern"],
            },
            "scope": "Namespaced",
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns(),
                "schema": {"openAPIV3Schema": schema().0},
            }],
        },
    })
}

/// The definition as a manifest.
pub fn manifest() -> String {
    let text = serde_yaml::to_string(&definition()).unwrap_or_default();
    format!("# Generated from src/api/crd.rs; `UPDATE_DOCS=1 cargo test --test docs` rewrites it.\n{text}")
}

fn columns() -> Value {
    let programmed = |field: &str| format!(".status.conditions[?(@.type==\"Programmed\")].{field}");
    json!([
        {"name": "Server", "type": "string", "jsonPath": ".spec.server.name"},
        {"name": "URL", "type": "string", "jsonPath": ".spec.server.url"},
        {"name": "Ready", "type": "string", "jsonPath": programmed("status")},
        {"name": "Reason", "type": "string", "jsonPath": programmed("reason")},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ])
}

/// The schema; then the fields that nothing is told of, and those told of that there are not.
fn schema() -> (Value, Vec<String>) {
    let mut told: BTreeMap<&str, Told> = told::fields().into_iter().map(|told| (told.path, told)).collect();
    let mut untold = Vec::new();
    let mut properties = objects(FIELDS, "", &mut told, &mut untold);
    // The API server's own: it refuses any word on what is in it.
    properties.insert("metadata".into(), json!({"type": "object"}));
    let schema = json!({
        "type": "object",
        "description": told::KIND,
        "required": ["spec"],
        "properties": properties,
    });
    (schema, untold.into_iter().chain(told.into_keys().map(str::to_owned)).collect())
}

fn objects(
    fields: Fields,
    path: &str,
    told: &mut BTreeMap<&str, Told>,
    untold: &mut Vec<String>,
) -> Map<String, Value> {
    let mut properties = Map::new();
    for (name, shape) in fields.iter().filter(|(name, _)| !(path.is_empty() && *name == "metadata")) {
        let at = join(path, name);
        let words = told.remove(at.as_str()).map(|told| told.schema);
        if words.is_none() {
            untold.push(at.clone());
        }
        let mut schema = kind(*shape);
        if let Shape::Map(below) | Shape::Open(below) = shape {
            schema.insert("properties".into(), objects(below, &at, told, untold).into());
        }
        for (keyword, value) in words.unwrap_or_default() {
            match (schema.get_mut(&keyword), value) {
                (Some(Value::Object(there)), Value::Object(more)) => there.extend(more),
                (_, value) => drop(schema.insert(keyword, value)),
            }
        }
        properties.insert((*name).to_owned(), schema.into());
    }
    properties
}

fn kind(shape: Shape) -> Map<String, Value> {
    let (kind, items) = match shape {
        Shape::Text => ("string", None),
        Shape::Bool => ("boolean", None),
        Shape::Number => ("integer", None),
        Shape::Texts => ("array", Some(json!({"type": "string"}))),
        Shape::Any | Shape::Map(_) | Shape::Open(_) => ("object", None),
    };
    let mut schema = Map::from_iter([("type".to_owned(), json!(kind))]);
    schema.extend(items.map(|items| ("items".to_owned(), items)));
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_told_of_and_no_other() {
        assert_eq!(schema().1, Vec::<String>::new());
    }

    /// What a structural schema asks for, and the bound that the cost of each rule is reckoned from.
    #[test]
    fn every_part_has_its_kind_and_every_text_its_bound() {
        fn walk(at: &str, schema: &Value, found: &mut Vec<String>) {
            if schema["type"].as_str().is_none() {
                found.push(format!("{at}: no type"));
            }
            if schema["description"].as_str().is_none_or(str::is_empty) && !at.ends_with("[]") && at != ".metadata" {
                found.push(format!("{at}: no description"));
            }
            let bounded = schema["maxLength"].is_u64() || schema["enum"].is_array() || schema["format"].is_string();
            let ours = at.starts_with(".spec");
            if schema["type"] == "string" && ours && !bounded {
                found.push(format!("{at}: no bound"));
            }
            if schema["type"] == "array" && ours && !schema["maxItems"].is_u64() {
                found.push(format!("{at}: no bound"));
            }
            for (name, below) in schema["properties"].as_object().into_iter().flatten() {
                walk(&format!("{at}.{name}"), below, found);
            }
            if schema["items"].is_object() {
                walk(&format!("{at}[]"), &schema["items"], found);
            }
        }
        let mut found = Vec::new();
        walk("", &schema().0, &mut found);
        assert_eq!(found, Vec::<String>::new());
    }
}
