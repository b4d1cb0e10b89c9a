//! What a broker builds on: tokens for an audience of its own, bound to a pod, and what a review of them tells.

use serde_json::{Value, json};

use crate::support::ApiServer;

const AUDIENCE: &str = "postern.dev/broker";

/// A pod that no node will ever run, with its service account, in a namespace of its own.
struct Pod {
    namespace: String,
    uid: String,
}

impl Pod {
    fn create(server: &ApiServer) -> Self {
        let namespace = server.namespace("tokens");
        let within = format!("/api/v1/namespaces/{namespace}");
        // No controller makes the `default` one.
        server.create(&format!("{within}/serviceaccounts"), &json!({"metadata": {"name": "agent"}}));
        let container = json!({"name": "agent", "image": "none.invalid/agent"});
        let pod = server.create(
            &format!("{within}/pods"),
            &json!({"metadata": {"name": "pod"}, "spec": {"serviceAccountName": "agent", "containers": [container]}}),
        );
        Self { namespace, uid: text(&pod, "/metadata/uid") }
    }

    /// A token of the service account, bound to this pod, as the kubelet projects it.
    fn token(&self, server: &ApiServer, audience: &str) -> String {
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "pod", "uid": self.uid});
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "boundObjectRef": reference, "expirationSeconds": 3600},
        });
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/agent/token", self.namespace);
        text(&server.create(&path, &request), "/status/token")
    }
}

fn text(object: &Value, pointer: &str) -> String {
    let value = object.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_else(|| panic!("no {pointer} in {object}")).to_owned()
}

/// The status of a review of the token for this audience.
fn review(server: &ApiServer, token: &str, audience: &str) -> Value {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    });
    server.create("/apis/authentication.k8s.io/v1/tokenreviews", &review)["status"].take()
}

#[test]
fn a_token_for_the_broker_tells_its_audience_and_pod() {
    let server = ApiServer::start();
    let pod = Pod::create(server);
    let status = review(server, &pod.token(server, AUDIENCE), AUDIENCE);
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["audiences"], json!([AUDIENCE]), "{status}");
    let user = &status["user"];
    assert_eq!(user["username"], format!("system:serviceaccount:{}:agent", pod.namespace), "{status}");
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["pod"]), "{status}");
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-uid"], json!([pod.uid]), "{status}");
}

#[test]
fn a_token_for_another_audience_is_not_authenticated() {
    let server = ApiServer::start();
    let pod = Pod::create(server);
    let token = pod.token(server, "vault.example");
    assert_eq!(review(server, &token, "vault.example")["authenticated"], true, "the token itself is good");
    let status = review(server, &token, AUDIENCE);
    assert_ne!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"], json!({}), "{status}");
}

#[test]
fn a_token_ends_with_its_pod() {
    let server = ApiServer::start();
    let pod = Pod::create(server);
    let token = pod.token(server, AUDIENCE);
    server.kubectl(&["delete", "pod", "pod", "--namespace", &pod.namespace, "--now"]);
    let status = review(server, &token, AUDIENCE);
    assert_ne!(status["authenticated"], true, "{status}");
}
