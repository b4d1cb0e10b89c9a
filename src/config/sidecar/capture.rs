//! `capture`: by what else than the endpoint agents may come.

use serde::Deserialize;

use super::Reader;
use crate::api::env;
use crate::api::shape::{Fields, Shape};
use crate::core::capture::{Capture, HostPattern};
use crate::proxy::CaptureSettings;
use crate::tls;

pub(super) const FIELDS: Fields = &[
    ("kind", Shape::Text),
    ("port", Shape::Number),
    ("passthroughHosts", Shape::Texts),
    ("rootsFile", Shape::Text),
    ("selfTest", Shape::Bool),
];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawCapture {
    kind: Option<String>,
    port: Option<u64>,
    passthrough_hosts: Option<Vec<String>>,
    roots_file: Option<String>,
    self_test: Option<bool>,
}

impl Reader<'_> {
    pub(super) fn capture(&mut self, raw: &RawCapture, public: bool) -> CaptureSettings {
        let read = Capture::parse(raw.kind.as_deref().unwrap_or("endpoint"));
        if read.is_none() {
            self.push("capture.kind", "endpoint, proxy or redirect");
        }
        let kind = read.unwrap_or_default();
        let default = match kind {
            Capture::Redirect => env::REDIRECT_PORT,
            Capture::Endpoint | Capture::Proxy => env::PROXY_PORT,
        };
        let port = self.port("capture.port", raw.port, default);
        let mut passthrough = Vec::new();
        for (at, text) in raw.passthrough_hosts.iter().flatten().enumerate() {
            match HostPattern::parse(text) {
                Some(pattern) => passthrough.push(pattern),
                None => self.push(&format!("capture.passthroughHosts[{at}]"), HostPattern::EXPECTED),
            }
        }
        if read == Some(Capture::Endpoint) {
            let settings = [
                ("capture.passthroughHosts", raw.passthrough_hosts.is_some()),
                ("capture.rootsFile", raw.roots_file.is_some()),
            ];
            for (path, _) in settings.into_iter().filter(|(_, given)| *given) {
                self.push(path, "nothing here without capture.kind: proxy or redirect");
            }
        } else if read.is_some() && !public {
            self.push("public.directory", "a directory, because the pod's CA is written there for the agents");
        }
        CaptureSettings { kind, port, passthrough, self_test: raw.self_test.unwrap_or(true) }
    }

    /// Roots beside the system's that agents are to trust.
    pub(super) fn extra_roots(&mut self, raw: &RawCapture) -> Vec<u8> {
        let pem = match &raw.roots_file {
            Some(file) => std::fs::read(self.base.join(file)).ok(),
            None => match (self.environment)(env::EXTRA_ROOTS).filter(|pem| !pem.is_empty()) {
                Some(pem) => Some(pem.into_bytes()),
                None => return Vec::new(),
            },
        };
        pem.filter(|pem| tls::client::parse_bundle(pem).is_ok()).unwrap_or_else(|| {
            let expected = format!("a file of CA certificates (PEM), or such certificates in {}", env::EXTRA_ROOTS);
            self.push("capture.rootsFile", expected);
            Vec::new()
        })
    }
}
