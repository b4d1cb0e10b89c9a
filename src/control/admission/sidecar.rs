//! The containers that are ours, and the volumes that they bring, as they are written into a pod.
//!
//! Fields that the API server would set by default are written out, so that a container reads
//! back as it was written.

use serde_json::{Value, json};

use super::config::PodConfig;
use super::settings::InjectionSettings;
use crate::api::{BROKER_AUDIENCE, env};
use crate::core::capture::Capture;

/// The sidecar's name.
pub const NAME: &str = "postern";
/// The name of the init container that redirects connections.
pub const INIT_NAME: &str = "postern-init";
/// The volume with the token for the broker.
pub const TOKEN_VOLUME: &str = "postern-token";
/// The volume that the other containers may read.
pub const PUBLIC_VOLUME: &str = "postern-public";
/// The volume that stands where the token for the API server would be mounted.
pub const NO_API_VOLUME: &str = "postern-noapi";
/// Every volume.
pub const VOLUMES: [&str; 3] = [TOKEN_VOLUME, PUBLIC_VOLUME, NO_API_VOLUME];

/// Where the token for the API server is mounted into every container that has nothing there.
const API_TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Readable by all, written by none.
const MODE: u32 = 0o444;
const TOKEN_LIFE_SECONDS: u32 = 3600;

/// The sidecar.
pub(super) fn container(config: &PodConfig, hardened: bool, settings: &InjectionSettings) -> Value {
    json!({
        "name": NAME,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy.as_str(),
        "args": ["sidecar"],
        "restartPolicy": "Always",
        "env": environment(config, hardened, settings),
        "ports": [{"name": "postern-met", "containerPort": env::ADMIN_PORT, "protocol": "TCP"}],
        // The other containers start once this has succeeded.
        "startupProbe": probe("/started", 1, 120),
        "readinessProbe": probe("/ready", 10, 3),
        "livenessProbe": probe("/live", 10, 6),
        "resources": config.resources.as_json(),
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": env::UID,
            "runAsGroup": env::UID,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": env::TOKEN_DIRECTORY, "readOnly": true},
            {"name": PUBLIC_VOLUME, "mountPath": env::PUBLIC_DIRECTORY},
            no_api_mount(),
        ],
    })
}

fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": env::ADMIN_PORT, "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "successThreshold": 1,
        "failureThreshold": failures,
    })
}

fn environment(config: &PodConfig, hardened: bool, settings: &InjectionSettings) -> Vec<Value> {
    let of_pod = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    let set = |name: &str, value: String| json!({"name": name, "value": value});
    let mut list = vec![
        of_pod(env::POD_NAME, "metadata.name"),
        of_pod(env::POD_NAMESPACE, "metadata.namespace"),
        of_pod(env::POD_UID, "metadata.uid"),
        of_pod(env::SERVICE_ACCOUNT, "spec.serviceAccountName"),
        set(env::BROKER, settings.broker.clone()),
        set(env::BROKER_CA, settings.broker_ca.clone().unwrap_or_default()),
        set(env::RESOLVERS, listed(&settings.resolvers).unwrap_or_default()),
        set(env::POD_HARDENED, hardened.to_string()),
        of_pod(env::ADMIN_ADDRESS, "status.podIP"),
    ];
    let optional = [
        (env::SERVERS, config.servers.as_deref().and_then(listed)),
        (env::LOG_LEVEL, config.log_level.clone()),
        (env::SHUTDOWN_GRACE, config.shutdown_grace.clone()),
        (env::CAPTURE, (config.capture != Capture::Endpoint).then(|| config.capture.to_string())),
        (env::PASSTHROUGH_HOSTS, listed(&config.passthrough_hosts)),
        (env::EXTRA_ROOTS, settings.extra_roots.clone().filter(|_| config.capture.intercepts())),
    ];
    list.extend(optional.into_iter().filter_map(|(name, value)| value.map(|value| set(name, value))));
    list
}

/// The init container that redirects connections, where the pod wants that.
///
/// It is root, as a capability that is added to another user has no effect, and has no other capability. The volume
/// that it mounts keeps the token for the API server away.
pub(super) fn init_container(config: &PodConfig, settings: &InjectionSettings) -> Option<Value> {
    let set = |(name, value): (&str, Option<String>)| value.map(|value| json!({"name": name, "value": value}));
    let environment = [
        (env::RESOLVERS, listed(&settings.resolvers)),
        (env::SKIP_PORTS, listed(&config.skip_ports)),
        (env::SKIP_CIDRS, listed(&config.skip_cidrs)),
    ];
    let container = || {
        json!({
            "name": INIT_NAME,
            "image": settings.image,
            "imagePullPolicy": settings.image_pull_policy.as_str(),
            "args": ["init-net"],
            "env": environment.into_iter().filter_map(set).collect::<Vec<_>>(),
            "resources": config.resources.as_json(),
            "securityContext": {
                "runAsNonRoot": false,
                "runAsUser": 0,
                "runAsGroup": 0,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [no_api_mount()],
        })
    };
    (config.capture == Capture::Redirect).then(container)
}

fn no_api_mount() -> Value {
    json!({"name": NO_API_VOLUME, "mountPath": API_TOKEN_DIRECTORY, "readOnly": true})
}

/// Items joined by commas; nothing where there are none.
fn listed(items: &[impl ToString]) -> Option<String> {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    (!items.is_empty()).then(|| items.join(","))
}

/// The volumes.
pub(super) fn volumes() -> [Value; 3] {
    let token = json!({"path": "token", "audience": BROKER_AUDIENCE, "expirationSeconds": TOKEN_LIFE_SECONDS});
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    [
        json!({
            "name": TOKEN_VOLUME,
            "projected": {"sources": [{"serviceAccountToken": token}], "defaultMode": MODE},
        }),
        // The certificates of some 150 authorities, with as many of the administrator's as fit into a variable, twice: a
        // file is written beside the one that it replaces.
        json!({"name": PUBLIC_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        json!({
            "name": NO_API_VOLUME,
            "projected": {"sources": [{"downwardAPI": {"items": [namespace]}}], "defaultMode": MODE},
        }),
    ]
}
