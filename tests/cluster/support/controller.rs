//! `postern controller` as a process, and what it finds where it is installed.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ApiServer;
use super::admission::{OWNER, configure, create, eventually, manifests, namespace, owner};
use super::rights::{Right, install_as, kubeconfig};
use crate::suite::certificates::Authority;
use crate::suite::output::Metrics;
use crate::suite::sidecar::Process;

/// The Secret with the authority, as manifests/base/certificates.yaml calls it.
pub const SECRET: &str = "postern-webhook-cert";
/// The ConfigMap with the broker's certificates, likewise.
pub const BROKER_CA: &str = "postern-broker-ca";
/// What the controller may.
pub const RIGHTS: &str = "rbac.yaml";
/// The path that API servers post to.
const PATH: &str = "/mutate/v1/pods";

/// A namespace that a controller is installed into. The configuration by which it is called is made later: it names
/// the port.
pub struct Place {
    pub server: &'static ApiServer,
    pub namespace: String,
    /// The configuration's name, and the value of [`OWNER`].
    pub owner: String,
    directory: TempDir,
}

impl Place {
    /// With all that whoever installs makes, and the broker's certificates told.
    pub fn new(what: &str) -> Self {
        let server = ApiServer::start();
        let namespace = server.namespace(what);
        for mut document in manifests("certificates.yaml") {
            let kind = document["kind"].as_str().expect("a kind").to_lowercase();
            document["metadata"]["namespace"] = json!(namespace);
            server.create(&format!("/api/v1/namespaces/{namespace}/{kind}s"), &document);
        }
        let directory = tempfile::tempdir().expect("a directory");
        let place = Self { server, namespace, owner: owner(), directory };
        place.tell_broker_ca(Authority::new().pem());
        place
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// What the broker does.
    pub fn tell_broker_ca(&self, pem: &str) {
        self.patch("configmap", BROKER_CA, "merge", &json!({"data": {"ca.crt": pem}}));
    }

    pub fn patch(&self, kind: &str, name: &str, how: &str, patch: &Value) {
        let arguments = ["patch", kind, name, "--namespace", &self.namespace, "--type", how, "--patch"];
        self.server.kubectl(&[&arguments[..], &[&patch.to_string()]].concat());
    }

    /// What the Secret holds under a key, if anything.
    pub fn kept(&self, key: &str) -> Option<String> {
        let secret = self.server.get(&["secret", SECRET, "--namespace", &self.namespace]);
        let text = secret["data"][key].as_str()?;
        Some(String::from_utf8(BASE64_STANDARD.decode(text).expect("base64")).expect("PEM"))
    }

    /// Has the API server call this address.
    pub fn call(&self, address: SocketAddr) {
        configure(self.server, &self.owner, &format!("https://{address}{PATH}"), None);
    }

    /// Has it call another one instead.
    pub fn call_instead(&self, address: SocketAddr) {
        let url = json!(format!("https://{address}{PATH}"));
        self.each_webhook(
            |number| json!({"op": "replace", "path": format!("/webhooks/{number}/clientConfig/url"), "value": url}),
        );
    }

    /// Writes this bundle, as somebody who is not the controller.
    pub fn write_bundle(&self, bundle: &str) {
        let value = BASE64_STANDARD.encode(bundle);
        self.each_webhook(
            |number| json!({"op": "add", "path": format!("/webhooks/{number}/clientConfig/caBundle"), "value": value}),
        );
    }

    fn each_webhook(&self, operation: impl Fn(usize) -> Value) {
        let all: Value =
            (0..self.configuration()["webhooks"].as_array().expect("webhooks").len()).map(operation).collect();
        self.patch("mutatingwebhookconfiguration", &self.owner, "json", &all);
    }

    pub fn configuration(&self) -> Value {
        self.server.get(&["mutatingwebhookconfiguration", &self.owner])
    }

    /// The bundle in every webhook; empty where there is none. They have to be the same.
    pub fn bundle(&self) -> String {
        let configuration = self.configuration();
        let all = configuration["webhooks"].as_array().expect("webhooks");
        let one = &all[0]["clientConfig"]["caBundle"];
        assert!(all.iter().all(|webhook| webhook["clientConfig"]["caBundle"] == *one), "{configuration}");
        let bytes = BASE64_STANDARD.decode(one.as_str().unwrap_or_default()).expect("base64");
        String::from_utf8(bytes).expect("PEM")
    }

    /// Awaits that bundle.
    pub fn until_bundle(&self, wanted: &str) {
        eventually("the caBundle is what it should be", || {
            let bundle = self.bundle();
            if bundle == wanted { Ok(()) } else { Err(bundle) }
        });
    }

    /// A namespace for whose pods the webhook is called.
    pub fn pods(&self) -> String {
        namespace(self.server, "pods", &json!({}), Some((OWNER, &self.owner)))
    }

    /// Creates a pod that asks for a sidecar, as a user does, with what is given in its spec: the pod as it is stored,
    /// or what kubectl said; and what else it said.
    pub fn pod(&self, namespace: &str, name: &str, more: &Value) -> (Result<Value, String>, String) {
        let mut spec =
            json!({"serviceAccountName": "agent", "containers": [{"name": "agent", "image": "none.invalid/a"}]});
        for (field, value) in more.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        let metadata = json!({"name": name, "labels": {"postern.dev/inject": "true"}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        let output = create(self.server, namespace, &pod, &["--output=json"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let pod = if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).expect("JSON"))
        } else {
            Err(said.clone())
        };
        (pod, said)
    }

    /// Creates a pod and expects the sidecar in it, which it returns.
    pub fn injected(&self, namespace: &str, name: &str) -> Value {
        let pod = self.pod(namespace, name, &json!({})).0.unwrap_or_else(|said| panic!("{name}: {said}"));
        let sidecar = &pod["spec"]["initContainers"][0];
        assert_eq!(sidecar["name"], "postern", "{pod}");
        sidecar.clone()
    }

    /// Awaits that a pod gets its sidecar. What was just configured becomes true for the API server a little later.
    pub fn until_injected(&self, namespace: &str, name: &str) {
        eventually("a pod gets its sidecar", || {
            let pod = self.pod(namespace, name, &json!({})).0?;
            if pod["spec"]["initContainers"][0]["name"] == "postern" {
                return Ok(());
            }
            self.server.kubectl(&["delete", "pod", name, "--namespace", namespace, "--now"]);
            Err("no sidecar".into())
        });
    }

    /// Starts a controller with the administrator's rights.
    pub async fn start(&self, arguments: &[&str]) -> Controller {
        self.start_as(self.server.kubeconfig().to_owned(), arguments).await
    }

    /// Starts one with the rights of its service account.
    pub async fn start_with_its_rights(&self) -> Controller {
        self.start_by(self.server.url()).await
    }

    /// Likewise, with the API server at this URL.
    pub async fn start_by(&self, url: &str) -> Controller {
        let access = kubeconfig(self.server, &self.namespace, "postern-controller", url);
        let path = self.path("kubeconfig");
        std::fs::write(&path, access).expect("it can be written");
        self.start_as(path, &[]).await
    }

    async fn start_as(&self, kubeconfig: PathBuf, arguments: &[&str]) -> Controller {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.env_clear().arg("controller").arg("--kubeconfig").arg(kubeconfig);
        command.args(["--namespace", &self.namespace, "--webhook-configuration", &self.owner]);
        command.args(["--address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0", "--extra-name", "127.0.0.1"]);
        command.args(["--image", "registry.example/postern:0.1.0", "--broker", "https://postern-broker.example:8443"]);
        command.args(["--resolvers", "10.96.0.10"]).args(arguments);
        let process = Process::run(command);
        let listening = process.listening().await;
        let address = |field: &str| listening[field].as_str().expect("an address").parse().expect("an address");
        Controller { address: address("address"), admin: address("admin"), process }
    }

    /// Grants what manifests/base/rbac.yaml grants, as if it were installed here, but for these.
    pub fn grant(&self, without: &[Right]) {
        install_as(self.server, RIGHTS, &self.namespace, without, |rule| {
            if rule["resourceNames"] == json!(["postern-injector"]) {
                rule["resourceNames"] = json!([self.owner]);
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nobody is called any more; that there was none is no fault.
        self.server.try_kubectl(&["delete", "mutatingwebhookconfiguration", &self.owner, "--wait=false"], "");
    }
}

/// A running controller; it dies with the test.
pub struct Controller {
    pub address: SocketAddr,
    admin: SocketAddr,
    process: Process,
}

impl Controller {
    fn get(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.admin).expect("the admin server listens");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        write!(socket, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("it is read");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status"), body.to_owned())
    }

    pub fn is_ready(&self) -> bool {
        self.get("/ready").0 == 200
    }

    pub fn until_ready(&self, wanted: bool) {
        eventually(&format!("readiness is {wanted}"), || {
            if self.is_ready() == wanted { Ok(()) } else { Err(self.diagnostics()) }
        });
    }

    /// A metric's present value.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        Metrics::new(self.get("/metrics").1).sum(name, labels)
    }

    /// Everything on stderr so far.
    pub fn diagnostics(&self) -> String {
        self.process.diagnostics()
    }

    /// Awaits a line on stderr that contains `text`.
    pub async fn diagnostic(&self, text: &str) -> String {
        self.process.diagnostic(text).await
    }

    pub fn terminate(&self) {
        self.process.signal("TERM");
    }

    pub async fn exit(&self) -> ExitStatus {
        self.process.exit().await
    }
}
