//! CredentialBindings on the API server: the kind installed, documents to send, and a client that sends them.

use std::sync::OnceLock;

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::config::{KubeConfigOptions, Kubeconfig};
use postern::api::crd::{PLURAL, VERSION};
use postern::api::{API_VERSION, GROUP, KIND};
use serde_json::{Value, json};

use super::ApiServer;

/// The shared server, with the kind of manifests/base/crd.yaml installed.
pub fn server() -> &'static ApiServer {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    let server = ApiServer::start();
    INSTALLED.get_or_init(|| {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/base/crd.yaml");
        server.kubectl(&["create", "--filename", manifest]);
        let name = format!("crd/{PLURAL}.{GROUP}");
        server.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", &name]);
    });
    server
}

/// A client with an administrator's rights, for the runtime that it is made in.
pub async fn client(server: &ApiServer) -> kube::Client {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.expect("the kubeconfig is whole");
    config.default_retry = false;
    kube::Client::try_from(config).expect("a client")
}

/// The bindings of a namespace, as they stand on the server.
pub fn bindings(client: kube::Client, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(GROUP, VERSION, KIND);
    Api::namespaced_with(client, namespace, &ApiResource::from_gvk_with_plural(&kind, PLURAL))
}

/// The smallest good binding, with what `change` makes of it.
pub fn binding(namespace: &str, name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut document = json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serviceAccounts": ["agent"],
            "server": {"name": name, "url": format!("https://{name}.example/mcp")},
            "credential": {"type": "Bearer", "secretRef": {"name": "secret", "key": "token"}},
        },
    });
    change(&mut document);
    document
}

/// Where the bindings of a namespace are created.
pub fn path(namespace: &str) -> String {
    format!("/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}")
}
