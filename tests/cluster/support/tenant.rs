//! A namespace whose owner lets the broker read its Secrets, with what it puts there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::ApiServer;
use super::admission::manifests;
use super::deployed::Deployed;
use super::pod::{Pod, account};
use super::rights::called;
use crate::suite::capture::Capture;
use crate::suite::secrets::remember;
use crate::suite::{documents, evidence};

/// The namespace.
pub struct Tenant {
    server: &'static ApiServer,
    pub namespace: String,
    reader: String,
    broker: String,
}

impl Tenant {
    /// With a service account `agent` and the grant.
    pub fn new(broker: &Deployed, what: &str) -> Self {
        let tenant = Self::without_grant(broker, what);
        tenant.grant();
        tenant
    }

    /// With a service account `agent`, and nothing granted yet.
    pub fn without_grant(broker: &Deployed, what: &str) -> Self {
        let server = broker.server;
        let namespace = server.namespace(what);
        account(server, &namespace, "agent");
        let reader = called(&broker.namespace, "postern-credential-reader");
        Self { server, namespace, reader, broker: broker.namespace.clone() }
    }

    /// Lets the broker read here.
    pub fn grant(&self) {
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": self.reader});
        let subject = json!({"kind": "ServiceAccount", "name": "postern-broker", "namespace": self.broker});
        let binding = json!({"metadata": {"name": "postern"}, "roleRef": role, "subjects": [subject]});
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings", self.namespace);
        self.server.create(&path, &binding);
    }

    /// Lets the broker stand for its Lease, and tell the status of the bindings here and nowhere else: other brokers
    /// share the server.
    pub fn let_status_be_told(&self, broker: &Deployed) {
        let home = &broker.namespace;
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let subject = json!({"kind": "ServiceAccount", "name": "postern-broker", "namespace": home});
        for document in manifests("rbac-status.yaml") {
            let (kind, rules) = (&document["kind"], &document["rules"]);
            if kind != "Role" && kind != "ClusterRole" {
                continue;
            }
            // Rights in a namespace, also where the manifest gives them in all.
            let namespace = if kind == "Role" { home } else { &self.namespace };
            let metadata = json!({"name": "status"});
            let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "status"});
            let within = format!("{rbac}/namespaces/{namespace}");
            self.server.create(&format!("{within}/roles"), &json!({"metadata": metadata, "rules": rules}));
            let binding = json!({"metadata": metadata, "roleRef": reference, "subjects": [subject]});
            self.server.create(&format!("{within}/rolebindings"), &binding);
        }
        let mut lease = manifests("status-lease.yaml").remove(0);
        lease["metadata"]["namespace"] = json!(home);
        self.server.create(&format!("/apis/coordination.k8s.io/v1/namespaces/{home}/leases"), &lease);
    }

    /// Lets it no more.
    pub fn withdraw(&self) {
        self.delete("rolebinding", "postern");
    }

    pub fn delete(&self, kind: &str, name: &str) {
        self.server.kubectl(&["delete", kind, name, "--namespace", &self.namespace, "--wait=false"]);
    }

    pub fn pod(&self, name: &str) -> Pod {
        Pod::create(self.server, &self.namespace, "agent", name)
    }

    /// A pod of another service account, which is made.
    pub fn pod_of(&self, account: &str) -> Pod {
        super::pod::account(self.server, &self.namespace, account);
        Pod::create(self.server, &self.namespace, account, account)
    }

    /// Writes a Secret with a token, for these hosts, whether or not it is there.
    pub fn secret(&self, name: &str, token: &str, hosts: &str) {
        self.secret_with(name, token, json!({"postern.dev/allowed-hosts": hosts}));
    }

    /// The same with these annotations.
    pub fn secret_with(&self, name: &str, token: &str, annotations: Value) {
        evidence::secret(token);
        remember(token);
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": {"postern.dev/credential": "true"}, "annotations": annotations},
            "data": {"token": STANDARD.encode(token)},
        }));
    }

    /// Writes the ConfigMap that vouches for an upstream.
    pub fn trust(&self, name: &str, capture: &Capture) {
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "labels": {"postern.dev/ca-bundle": "true"}},
            "data": {"ca.crt": capture.ca_pem()},
        }));
    }

    /// Writes a binding of `agent` to this upstream, with what it refers to but the Secret; `change` has the last word.
    pub fn bind(&self, name: &str, capture: &Capture, change: impl FnOnce(documents::Binding) -> documents::Binding) {
        self.trust(&format!("{name}-ca"), capture);
        let binding = documents::Binding::new(name).to(capture).set("/serviceAccounts", json!(["agent"]));
        let document: Value = serde_json::from_str(&change(binding).json()).expect("JSON");
        self.apply(&document);
    }

    /// Writes an object as a user does, new or changed.
    pub fn apply(&self, document: &Value) {
        let mut document = document.clone();
        document["metadata"]["namespace"] = json!(self.namespace);
        let output = self.server.try_kubectl(
            &["apply", "--server-side", "--force-conflicts", "--namespace", &self.namespace, "--filename", "-"],
            &document.to_string(),
        );
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// `localhost` and this upstream's port, as an owner of a Secret writes it.
pub fn host(capture: &Capture) -> String {
    format!("localhost:{}", capture.port())
}
