//! `source`: where bindings and values come from.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::{RawDirectory, Reader};
use crate::api::env;
use crate::api::shape::{Fields, Shape};
use crate::core::name::{CallerKey, ServerName};
use crate::core::upstream::{Scheme, UpstreamUrl};
use crate::credential::broker::{self, Pod};
use crate::credential::file::WatchSettings;
use crate::tls;

/// Where bindings and values come from.
#[derive(Debug, Clone)]
pub enum SourceSettings {
    /// A directory.
    File(WatchSettings),
    /// The broker.
    Broker(Box<broker::Settings>),
}

pub(super) const FIELDS: Fields = &[
    ("file", Shape::Map(&[("directory", Shape::Text)])),
    (
        "broker",
        Shape::Map(&[
            ("url", Shape::Text),
            ("caFile", Shape::Text),
            ("tokenFile", Shape::Text),
            ("maxStale", Shape::Text),
            ("podHardened", Shape::Bool),
            ("servers", Shape::Texts),
        ]),
    ),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawSource {
    file: Option<RawDirectory>,
    broker: Option<RawBroker>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawBroker {
    url: Option<String>,
    ca_file: Option<String>,
    token_file: Option<String>,
    max_stale: Option<String>,
    pod_hardened: Option<bool>,
    servers: Option<Vec<String>>,
}

/// A source, but for whose it is.
pub(super) enum Source {
    File(PathBuf),
    Broker(Box<broker::Settings>),
}

impl Source {
    pub(super) fn for_caller(self, caller: &CallerKey) -> SourceSettings {
        match self {
            Self::File(directory) => SourceSettings::File(WatchSettings { directory, caller: caller.clone() }),
            Self::Broker(settings) => SourceSettings::Broker(settings),
        }
    }
}

impl Reader<'_> {
    pub(super) fn source(&mut self, raw: &RawSource, resolvers: &[SocketAddr]) -> Option<Source> {
        match (&raw.file, &raw.broker) {
            (Some(_), Some(_)) => {
                self.push("source", "one source: file or broker");
                None
            }
            (_, Some(broker)) => self.broker(broker, resolvers).map(|settings| Source::Broker(Box::new(settings))),
            (file, None) => {
                let directory = file.as_ref().and_then(|file| file.directory.as_deref());
                let Some(directory) = directory.filter(|directory| !directory.is_empty()) else {
                    let expected = "a directory of CredentialBinding documents; this field is required";
                    self.push("source.file.directory", expected);
                    return None;
                };
                Some(Source::File(self.base.join(directory)))
            }
        }
    }

    fn broker(&mut self, raw: &RawBroker, resolvers: &[SocketAddr]) -> Option<broker::Settings> {
        let url = raw.url.as_deref().and_then(|url| UpstreamUrl::parse(url).ok());
        let url = url.filter(|url| url.scheme == Scheme::Https);
        if url.is_none() {
            self.push("source.broker.url", "the broker's https URL; this field is required");
        }
        let ca = self.ca(raw.ca_file.as_deref());
        let hour = Duration::from_secs(3600);
        let max_stale = self.duration("source.broker.maxStale", raw.max_stale.as_deref(), hour);
        let servers = raw.servers.as_ref().map(|names| self.servers(names));
        Some(broker::Settings {
            url: url?,
            ca: ca?,
            token_file: self.base.join(raw.token_file.as_deref().unwrap_or(env::TOKEN_FILE)),
            max_stale,
            resolvers: resolvers.to_vec(),
            pod: Pod { hardened: raw.pod_hardened.unwrap_or(false), servers },
        })
    }

    fn ca(&mut self, file: Option<&str>) -> Option<Arc<[u8]>> {
        let pem = match file {
            Some(file) => std::fs::read(self.base.join(file)).ok(),
            None => (self.environment)(env::BROKER_CA).map(String::into_bytes),
        };
        let pem = pem.filter(|pem| tls::client::parse_bundle(pem).is_ok());
        if pem.is_none() {
            let expected = format!("a file of CA certificates (PEM), or such certificates in {}", env::BROKER_CA);
            self.push("source.broker.caFile", expected);
        }
        pem.map(Arc::from)
    }

    fn servers(&mut self, names: &[String]) -> HashSet<ServerName> {
        let mut servers = HashSet::new();
        for (at, name) in names.iter().enumerate() {
            match ServerName::parse(name) {
                Ok(name) => {
                    servers.insert(name);
                }
                Err(fault) => self.push(&format!("source.broker.servers[{at}]"), fault),
            }
        }
        servers
    }
}
