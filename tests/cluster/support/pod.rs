//! Pods that no node will ever run, and the tokens that a kubelet would mount into them.

use serde_json::{Value, json};

use super::ApiServer;

/// A pod with its service account.
pub struct Pod {
    server: &'static ApiServer,
    pub namespace: String,
    pub account: String,
    pub name: String,
    pub uid: String,
}

impl Pod {
    /// In a namespace of its own.
    pub fn alone(server: &'static ApiServer, what: &str) -> Self {
        let namespace = server.namespace(what);
        account(server, &namespace, "agent");
        Self::create(server, &namespace, "agent", "pod")
    }

    /// Of a service account that is there.
    pub fn create(server: &'static ApiServer, namespace: &str, account: &str, name: &str) -> Self {
        let container = json!({"name": "agent", "image": "none.invalid/agent"});
        let pod =
            json!({"metadata": {"name": name}, "spec": {"serviceAccountName": account, "containers": [container]}});
        let pod = server.create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod);
        let uid = text(&pod, "/metadata/uid");
        Self { server, namespace: namespace.into(), account: account.into(), name: name.into(), uid }
    }

    /// A token of the service account, bound to this pod, as the kubelet projects it.
    pub fn token(&self, audiences: &[&str]) -> String {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid});
        token(self.server, &self.namespace, &self.account, json!({"audiences": audiences, "boundObjectRef": pod}))
    }

    pub fn delete(&self) {
        self.server.kubectl(&["delete", "pod", &self.name, "--namespace", &self.namespace, "--now"]);
    }
}

/// A service account. No controller makes the `default` one.
pub fn account(server: &ApiServer, namespace: &str, name: &str) {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    server.create(&path, &json!({"metadata": {"name": name}}));
}

/// A token of a service account; `spec` says for whom.
pub fn token(server: &ApiServer, namespace: &str, account: &str, mut spec: Value) -> String {
    spec["expirationSeconds"] = json!(3600);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    text(&server.create(&path, &request), "/status/token")
}

fn text(object: &Value, pointer: &str) -> String {
    let value = object.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_else(|| panic!("no {pointer} in {object}")).to_owned()
}
