//! The rights of manifests/base/rbac.yaml: enough, and each of them needed.

use serde_json::json;

use crate::suite::certificates::Authority;
use crate::support::admission::eventually;
use crate::support::controller::{BROKER_CA, Controller, Place, RIGHTS, SECRET};
use crate::support::rights::{Right, rights};

/// Bound to nobody; tests/cluster/webhook.rs has it.
const SEARCH: &str = "postern-controller-configmap-search";

#[tokio::test(flavor = "multi_thread")]
async fn with_its_rights_it_serves() {
    let place = Place::new("rights");
    place.grant(&[]);
    let controller = place.start_with_its_rights().await;
    place.call(controller.address);
    controller.until_ready(true);
    let pods = place.pods();
    place.until_injected(&pods, "pod");
    let said = controller.diagnostics();
    assert!(!said.contains("cannot be watched"), "{said}");
    assert!(!said.contains("403"), "{said}");
}

/// What each right is for: without it, this is what is told.
#[tokio::test(flavor = "multi_thread")]
async fn each_right_is_needed() {
    let table = [
        ("secrets", "get", "Secret NAMESPACE/SECRET: the API server says 403 Forbidden"),
        ("secrets", "patch", "Secret NAMESPACE/SECRET: the API server says 403 Forbidden"),
        ("secrets", "watch", "Secret SECRET cannot be watched, only looked at: the API server says 403 Forbidden"),
        (
            "mutatingwebhookconfigurations",
            "get",
            "MutatingWebhookConfiguration OWNER: the API server says 403 Forbidden",
        ),
        (
            "mutatingwebhookconfigurations",
            "patch",
            "MutatingWebhookConfiguration OWNER: the API server says 403 Forbidden",
        ),
        (
            "mutatingwebhookconfigurations",
            "watch",
            "MutatingWebhookConfiguration OWNER cannot be watched, only looked at",
        ),
        ("configmaps", "get", "ConfigMap NAMESPACE/BROKER_CA: the API server says 403 Forbidden"),
        ("configmaps", "watch", "ConfigMap BROKER_CA cannot be watched, only looked at"),
        ("namespaces", "list", "namespaces cannot be watched; trying again"),
        ("namespaces", "watch", "namespaces cannot be watched; trying again"),
    ];
    // The one that is left has a test of its own.
    let tried: Vec<_> =
        table.iter().map(|(resource, verb, _)| (*resource, *verb)).chain([("namespaces", "get")]).collect();
    for right in rights(RIGHTS).iter().filter(|right| right.role != SEARCH) {
        assert!(tried.contains(&(&right.resource, &right.verb)), "{right:?} has no row");
    }
    let mut ready = Vec::new();
    for (resource, verb, told) in table {
        let (place, controller) = without(&[(resource, verb)]).await;
        let names =
            [("NAMESPACE", &*place.namespace), ("SECRET", SECRET), ("OWNER", &place.owner), ("BROKER_CA", BROKER_CA)];
        let told = names.iter().fold(told.to_owned(), |text, (word, name)| text.replace(word, name));
        controller.diagnostic(&told).await;
        if verb == "watch" && resource != "namespaces" {
            controller.until_ready(true);
        }
        ready.push((resource, verb, controller.is_ready()));
    }
    let serving: Vec<_> =
        ready.iter().filter(|(_, _, is_ready)| *is_ready).map(|(what, verb, _)| (*what, *verb)).collect();
    let only_slower = [("secrets", "watch"), ("mutatingwebhookconfigurations", "watch"), ("configmaps", "watch")];
    // All namespaces have been seen, and only later changes are not.
    let stale = ("namespaces", "watch");
    assert_eq!(
        serving.iter().filter(|right| **right != stale).collect::<Vec<_>>(),
        only_slower.iter().collect::<Vec<_>>()
    );
}

/// A namespace that the watch has not seen is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_was_not_seen_is_asked_for() {
    let unseen = [("namespaces", "list"), ("namespaces", "watch")];
    let (place, controller) = without(&unseen).await;
    controller.diagnostic("API servers trust what is shown").await;
    let pods = place.pods();
    place.until_injected(&pods, "pod");
    drop(controller);
    let (place, controller) = without(&[&unseen[..], &[("namespaces", "get")]].concat()).await;
    controller.diagnostic("API servers trust what is shown").await;
    let pods = place.pods();
    eventually("the webhook is called", || {
        let said = place.pod(&pods, "pod", &json!({})).0.expect_err("its namespace cannot be known");
        if said.contains("postern: namespace_unknown: ") { Ok(()) } else { Err(said) }
    });
}

/// It loses the right to repair: what it cannot mend, it does not hide.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_not_ready_while_it_cannot_repair() {
    let place = Place::new("lost");
    place.grant(&[]);
    let controller = place.start_with_its_rights().await;
    place.call(controller.address);
    controller.until_ready(true);
    let role = format!("{}-postern-controller-admission", place.namespace);
    let only_get = |resource: &str| {
        json!({"op": "replace", "path": "/rules", "value": [
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["admissionregistration.k8s.io"], "resources": [resource], "verbs": ["get", "watch"]},
        ]})
    };
    place.patch("clusterrole", &role, "json", &json!([only_get("mutatingwebhookconfigurations")]));
    eventually("the right is gone", || {
        place.write_bundle(Authority::new().pem());
        if controller.diagnostics().contains("403 Forbidden") { Ok(()) } else { Err("not yet".to_owned()) }
    });
    controller.until_ready(false);
    assert_eq!(controller.metric("postern_webhook_ca_bundle_in_sync", &[]), 0.0);
}

/// A controller that may do everything but this, and is called.
async fn without(missing: &[(&str, &str)]) -> (Place, Controller) {
    let place = Place::new("rights");
    let is_missing = |right: &Right| missing.contains(&(right.resource.as_str(), right.verb.as_str()));
    let granted = rights(RIGHTS).into_iter().filter(|right| right.role != SEARCH);
    place.grant(&granted.filter(is_missing).collect::<Vec<_>>());
    let controller = place.start_with_its_rights().await;
    place.call(controller.address);
    (place, controller)
}
