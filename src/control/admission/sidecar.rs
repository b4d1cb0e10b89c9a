//! The sidecar's container and the volumes that it brings, as they are written into a pod.
//!
//! Fields that the API server would set by default are written out, so that the container reads
//! back as it was written.

use serde_json::{Value, json};

use super::config::PodConfig;
use super::settings::InjectionSettings;
use crate::api::{BROKER_AUDIENCE, env};

/// The container's name.
pub const NAME: &str = "postern";
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

/// The container.
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
            {"name": NO_API_VOLUME, "mountPath": API_TOKEN_DIRECTORY, "readOnly": true},
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
    let joined = |items: Vec<String>| items.join(",");
    let mut list = vec![
        of_pod(env::POD_NAME, "metadata.name"),
        of_pod(env::POD_NAMESPACE, "metadata.namespace"),
        of_pod(env::POD_UID, "metadata.uid"),
        of_pod(env::SERVICE_ACCOUNT, "spec.serviceAccountName"),
        set(env::BROKER, settings.broker.clone()),
        set(env::BROKER_CA, settings.broker_ca.clone().unwrap_or_default()),
        set(env::RESOLVERS, joined(settings.resolvers.iter().map(ToString::to_string).collect())),
        set(env::POD_HARDENED, hardened.to_string()),
        of_pod(env::ADMIN_ADDRESS, "status.podIP"),
    ];
    let servers = config.servers.as_ref().map(|names| joined(names.iter().map(ToString::to_string).collect()));
    let optional = [
        (env::SERVERS, servers),
        (env::LOG_LEVEL, config.log_level.clone()),
        (env::SHUTDOWN_GRACE, config.shutdown_grace.clone()),
    ];
    list.extend(optional.into_iter().filter_map(|(name, value)| value.map(|value| set(name, value))));
    list
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
        json!({"name": PUBLIC_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        json!({
            "name": NO_API_VOLUME,
            "projected": {"sources": [{"downwardAPI": {"items": [namespace]}}], "defaultMode": MODE},
        }),
    ]
}

/// What every other container mounts.
pub(super) fn public_mount() -> Value {
    json!({"name": PUBLIC_VOLUME, "mountPath": env::PUBLIC_DIRECTORY, "readOnly": true})
}

/// What every other container has in its environment, unless it sets it itself.
pub(super) fn agent_environment() -> [(&'static str, String); 2] {
    [
        (env::ENDPOINT, format!("http://127.0.0.1:{}", env::ENDPOINT_PORT)),
        (env::MCP_CONFIG, env::MCP_CONFIG_FILE.to_owned()),
    ]
}
