//! What the containers beside the sidecar get: the published files, and variables by which clients find the sidecar
//! and trust it.

use serde_json::{Value, json};

use super::compare::{index_of, value_of};
use super::pod::{Container, objects};
use super::sidecar::PUBLIC_VOLUME;
use crate::api::env;
use crate::core::capture::Capture;

/// Variables of clients that are to call the proxy.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"];
/// Variables with what is called directly all the same.
const NO_PROXIES: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// What is never called by the proxy: the endpoint, and the agent itself.
const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "::1"];
/// Has Node.js take the variables above.
const NODE_PROXY: &str = "NODE_USE_ENV_PROXY";
/// Variables of a file that stands in the place of the system's authorities.
const BUNDLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];
/// Variables of a file that stands beside them.
const ADDITIONS: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// What every other container mounts.
pub(super) fn public_mount() -> Value {
    json!({"name": PUBLIC_VOLUME, "mountPath": env::PUBLIC_DIRECTORY, "readOnly": true})
}

/// What every other container has in its environment, unless it sets it itself. `direct` is what the pod wants called
/// without the proxy.
pub fn environment(capture: Capture, direct: &[String]) -> Vec<(&'static str, String)> {
    let mut all = vec![
        (env::ENDPOINT, format!("http://127.0.0.1:{}", env::ENDPOINT_PORT)),
        (env::MCP_CONFIG, env::MCP_CONFIG_FILE.to_owned()),
    ];
    all.extend(of_capture(capture, direct));
    all
}

/// The part of it that other programs read, and others might set.
fn of_capture(capture: Capture, direct: &[String]) -> Vec<(&'static str, String)> {
    let each = |names: &[&'static str], value: &str| -> Vec<(&'static str, String)> {
        names.iter().map(|name| (*name, value.to_owned())).collect()
    };
    let mut all = Vec::new();
    if capture == Capture::Proxy {
        let direct: Vec<&str> = LOOPBACK.into_iter().chain(direct.iter().map(String::as_str)).collect();
        all.extend(each(&PROXIES, &format!("http://127.0.0.1:{}", env::PROXY_PORT)));
        all.extend(each(&NO_PROXIES, &direct.join(",")));
        all.extend(each(&[NODE_PROXY], "1"));
    }
    if capture.intercepts() {
        all.extend(each(&BUNDLES, env::CA_BUNDLE_FILE));
        all.extend(each(&ADDITIONS, env::CA_FILE));
    }
    all
}

/// What a container keeps of its own where the capture means something else: a sentence each.
pub(super) fn kept(container: Container<'_>, capture: Capture, direct: &[String]) -> Vec<String> {
    let own = |(name, ours): &(&str, String)| {
        index_of(container.raw, name).is_some() && value_of(container.raw, name) != Some(ours)
    };
    let kept = of_capture(capture, direct).into_iter().filter(own);
    let mut told: Vec<String> =
        kept.map(|(name, ours)| format!("postern: {container} keeps its own {name}, which would be {ours}")).collect();
    // Kubernetes reads it first: what the container sets by name comes later and counts.
    if capture.intercepts() && !objects(container.raw, "envFrom").is_empty() {
        told.push(format!(
            "postern: {container} has envFrom, which is not looked at: what capture {capture} sets counts"
        ));
    }
    told
}
