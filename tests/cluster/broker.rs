//! The broker, with a real API server's word on tokens. Its views are filled by hand.

mod authority;
mod identity;

use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::support::ApiServer;
use crate::support::pod::{account, token};

/// A namespace for a broker, with a service account that may do what `rules` say there and nothing
/// else, but for reviewing tokens: its client. The client is for the runtime it is made in.
async fn client(server: &'static ApiServer, namespace: &str, reviews: bool) -> kube::Client {
    account(server, namespace, "postern-broker");
    let subject = json!([{"kind": "ServiceAccount", "name": "postern-broker", "namespace": namespace}]);
    let group = "/apis/rbac.authorization.k8s.io/v1";
    let bind = |kind: &str, path: &str, name: &str, rules: serde_json::Value| {
        server
            .create(&format!("{path}/{}s", kind.to_lowercase()), &json!({"metadata": {"name": name}, "rules": rules}));
        let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        let binding = json!({"metadata": {"name": name}, "roleRef": reference, "subjects": subject});
        server.create(&format!("{path}/{}bindings", kind.to_lowercase()), &binding);
    };
    if reviews {
        let rule =
            json!([{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]);
        bind("ClusterRole", group, &format!("{namespace}-reviews"), rule);
    }
    let own = json!([
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["postern-broker-ca"], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["postern-ca"], "verbs": ["get", "patch"]},
    ]);
    bind("Role", &format!("{group}/namespaces/{namespace}"), "own", own);
    let token = token(server, namespace, "postern-broker", json!({}));
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.expect("the kubeconfig is whole");
    config.auth_info = kube::config::AuthInfo { token: Some(token.into()), ..Default::default() };
    kube::Client::try_from(config).expect("a client")
}
