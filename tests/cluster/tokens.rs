//! What a broker builds on: tokens for an audience of its own, bound to a pod, and what a review of them tells.

use serde_json::{Value, json};

use crate::support::ApiServer;
use crate::support::pod::Pod;

const AUDIENCE: &str = "postern.dev/broker";

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
    let pod = Pod::alone(server, "tokens");
    let status = review(server, &pod.token(&[AUDIENCE]), AUDIENCE);
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
    let pod = Pod::alone(server, "tokens");
    let token = pod.token(&["vault.example"]);
    assert_eq!(review(server, &token, "vault.example")["authenticated"], true, "the token itself is good");
    let status = review(server, &token, AUDIENCE);
    assert_ne!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"], json!({}), "{status}");
}

#[test]
fn a_token_ends_with_its_pod() {
    let server = ApiServer::start();
    let pod = Pod::alone(server, "tokens");
    let token = pod.token(&[AUDIENCE]);
    pod.delete();
    let status = review(server, &token, AUDIENCE);
    assert_ne!(status["authenticated"], true, "{status}");
}
