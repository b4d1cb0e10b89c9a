//! The rights of manifests/base, given in a namespace of a test's own.

use serde_json::{Value, json};

use super::ApiServer;
use super::admission::manifests;
use super::pod::{account, token};

const GROUP: &str = "/apis/rbac.authorization.k8s.io/v1";
/// The namespace that the manifests name.
const HOME: &str = "postern-system";

/// One right: the role's name, the resource, and the verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    pub role: String,
    pub resource: String,
    pub verb: String,
}

/// Every right in a manifest.
pub fn rights(manifest: &str) -> Vec<Right> {
    let mut all = Vec::new();
    for document in manifests(manifest) {
        let role = text(&document, "/metadata/name").to_owned();
        for rule in document["rules"].as_array().into_iter().flatten() {
            for resource in list(&rule["resources"]) {
                for verb in list(&rule["verbs"]) {
                    all.push(Right { role: role.clone(), resource: resource.clone(), verb });
                }
            }
        }
    }
    all
}

/// Gives the service account of a manifest, in `namespace` instead of its own, all that it says but for `without`.
/// Cluster roles are called after the namespace, so that each test has its own.
pub fn install(server: &ApiServer, manifest: &str, namespace: &str, without: Option<&Right>) {
    install_as(server, manifest, namespace, without.map(std::slice::from_ref).unwrap_or_default(), |_| {});
}

/// Likewise, without all of these, and with what `change` makes of each rule.
pub fn install_as(server: &ApiServer, manifest: &str, namespace: &str, without: &[Right], change: impl Fn(&mut Value)) {
    for mut document in manifests(manifest) {
        let kind = text(&document, "/kind").to_owned();
        if kind == "ServiceAccount" {
            account(server, namespace, text(&document, "/metadata/name"));
            continue;
        }
        for right in without {
            if document.get("rules").is_some() && right.role == document["metadata"]["name"] {
                document["rules"] = reduced(&document["rules"], right);
            }
        }
        document.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten().for_each(&change);
        let within = match document.pointer("/metadata/namespace") {
            Some(_) => format!("/namespaces/{namespace}"),
            None => {
                document["metadata"]["name"] = json!(called(namespace, text(&document, "/metadata/name")));
                String::new()
            }
        };
        document["metadata"].as_object_mut().expect("metadata").remove("namespace");
        if document["roleRef"]["kind"] == "ClusterRole" {
            document["roleRef"]["name"] = json!(called(namespace, text(&document, "/roleRef/name")));
        }
        for subject in document["subjects"].as_array_mut().into_iter().flatten() {
            assert_eq!(subject["namespace"], HOME);
            subject["namespace"] = json!(namespace);
        }
        server.create(&format!("{GROUP}{within}/{}s", kind.to_lowercase()), &document);
    }
}

/// What a cluster role of the manifests is called for the tests in this namespace.
pub fn called(namespace: &str, role: &str) -> String {
    format!("{namespace}-{role}")
}

/// A kubeconfig with the rights of a service account, for a server that is reached at `url`.
pub fn kubeconfig(server: &ApiServer, namespace: &str, account: &str, url: &str) -> String {
    let text = std::fs::read_to_string(server.kubeconfig()).expect("there is a kubeconfig");
    let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
    config["clusters"][0]["cluster"]["server"] = json!(url);
    config["users"][0]["user"] = json!({"token": token(server, namespace, account, json!({}))});
    config.to_string()
}

fn reduced(rules: &Value, without: &Right) -> Value {
    let mut kept = Vec::new();
    for rule in rules.as_array().expect("rules") {
        for resource in list(&rule["resources"]) {
            let mut one = rule.clone();
            one["resources"] = json!([resource]);
            let verbs = list(&rule["verbs"]);
            let verbs: Vec<&String> =
                verbs.iter().filter(|verb| resource != without.resource || **verb != without.verb).collect();
            one["verbs"] = json!(verbs);
            if !verbs.is_empty() {
                kept.push(one);
            }
        }
    }
    json!(kept)
}

fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|one| one.as_str().expect("text").to_owned()).collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}
