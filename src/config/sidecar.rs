//! `postern.yaml`, the configuration of `postern sidecar`; in a pod, variables instead of it.

mod capture;
mod pod;
mod source;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::api::document::{Problem, line_of, read_one};
use crate::api::duration::{DURATION, parse_duration};
use crate::api::env::{ADMIN_PORT, ENDPOINT_PORT};
use crate::api::shape::{Fault, Fields, Shape};
use crate::core::name::{Caller, CallerKey, NameError, Namespace, ObjectName, ServiceAccount};
use crate::core::parent::ParentProxy;
use crate::proxy::dial::DialSettings;
use crate::proxy::{Limits, ProxySettings, Times};
use crate::telemetry::logs::{Format, LogSettings};
use capture::RawCapture;
pub use pod::{VARIABLES, is_in_pod, of_pod};
use source::RawSource;
pub use source::SourceSettings;

/// Everything a sidecar is told.
#[derive(Debug, Clone)]
pub struct SidecarSettings {
    /// Whose sidecar it is.
    pub caller: Caller,
    /// Where credentials come from.
    pub source: SourceSettings,
    /// The data plane.
    pub proxy: ProxySettings,
    /// Where probes and metrics are served.
    pub admin: SocketAddr,
    /// Where `mcp.json` and the pod's CA are written, if anywhere.
    pub public: Option<PathBuf>,
    /// Roots (PEM) that agents trust beside the system's and the pod's; empty for none.
    pub extra_roots: Vec<u8>,
    /// How long running exchanges may go on after the signal to stop.
    pub shutdown_grace: Duration,
    /// Diagnostics.
    pub log: LogSettings,
}

/// The fields, their kinds, and (in [`Raw`] and [`read`]) their defaults.
pub const FIELDS: Fields = &[
    ("caller", Shape::Map(&[("namespace", Shape::Text), ("serviceAccount", Shape::Text), ("pod", Shape::Text)])),
    ("source", Shape::Map(source::FIELDS)),
    ("endpoint", Shape::Map(&[("port", Shape::Number)])),
    ("capture", Shape::Map(capture::FIELDS)),
    ("admin", Shape::Map(&[("address", Shape::Text), ("port", Shape::Number)])),
    (
        "dial",
        Shape::Map(&[
            ("allowLoopback", Shape::Bool),
            ("resolvers", Shape::Texts),
            ("parentProxy", Shape::Text),
            ("noProxy", Shape::Texts),
        ]),
    ),
    ("public", Shape::Map(&[("directory", Shape::Text)])),
    ("rotationGrace", Shape::Text),
    ("idleTimeout", Shape::Text),
    ("connectTimeout", Shape::Text),
    ("headTimeout", Shape::Text),
    ("shutdownGrace", Shape::Text),
    ("refusalStatus", Shape::Number),
    (
        "limits",
        Shape::Map(&[
            ("bodyBytes", Shape::Number),
            ("bodyBudgetBytes", Shape::Number),
            ("headBytes", Shape::Number),
            ("connections", Shape::Number),
            ("sessions", Shape::Number),
        ]),
    ),
    ("log", Shape::Map(&[("level", Shape::Text), ("format", Shape::Text)])),
];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    caller: RawCaller,
    source: RawSource,
    endpoint: RawPort,
    capture: RawCapture,
    admin: RawPort,
    dial: RawDial,
    public: RawDirectory,
    rotation_grace: Option<String>,
    idle_timeout: Option<String>,
    connect_timeout: Option<String>,
    head_timeout: Option<String>,
    shutdown_grace: Option<String>,
    refusal_status: Option<u64>,
    limits: RawLimits,
    log: RawLog,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawCaller {
    namespace: Option<String>,
    service_account: Option<String>,
    pod: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawDirectory {
    directory: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawPort {
    address: Option<String>,
    port: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawDial {
    allow_loopback: Option<bool>,
    resolvers: Option<Vec<String>>,
    parent_proxy: Option<String>,
    no_proxy: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawLimits {
    body_bytes: Option<u64>,
    body_budget_bytes: Option<u64>,
    head_bytes: Option<u64>,
    connections: Option<u64>,
    sessions: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawLog {
    level: Option<String>,
    format: Option<String>,
}

/// The value of a variable of the environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a configuration file. Relative paths in it are relative to it.
pub fn load(file: &Path, environment: Environment<'_>) -> Result<SidecarSettings, Vec<Problem>> {
    let name = file.display().to_string();
    let whole = |expected: String| vec![Problem { file: name.clone(), line: None, fault: Fault::new("", expected) }];
    let text = std::fs::read_to_string(file).map_err(|error| whole(format!("a readable text file ({error})")))?;
    let base = file.parent().unwrap_or(Path::new(""));
    read(&name, &text, base, environment)
}

/// Reads a configuration text; `base` is what relative paths are relative to.
pub fn read(
    name: &str,
    text: &str,
    base: &Path,
    environment: Environment<'_>,
) -> Result<SidecarSettings, Vec<Problem>> {
    let (raw, mut problems) = read_one::<Raw>(name, text, FIELDS);
    let Some(raw) = raw else { return Err(problems) };
    let mut reader = Reader { base, environment, faults: Vec::new() };
    let settings = reader.settings(raw);
    let known: Vec<String> = problems.iter().map(|problem| problem.fault.path.clone()).collect();
    let new = reader.faults.into_iter().filter(|fault| !known.contains(&fault.path));
    problems.extend(new.map(|fault| Problem { file: name.to_owned(), line: line_of(text, &fault.path), fault }));
    match settings {
        Some(settings) if problems.is_empty() => Ok(settings),
        _ => Err(problems),
    }
}

struct Reader<'a> {
    base: &'a Path,
    environment: Environment<'a>,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn push(&mut self, path: &str, expected: impl ToString) {
        self.faults.push(Fault::new(path, expected));
    }

    fn settings(&mut self, raw: Raw) -> Option<SidecarSettings> {
        let caller = self.caller(&raw.caller);
        let admin_ip = self.parsed::<IpAddr>("admin.address", raw.admin.address.as_deref(), "an IP address");
        let admin = SocketAddr::new(
            admin_ip.unwrap_or(Ipv4Addr::LOCALHOST.into()),
            self.port("admin.port", raw.admin.port, ADMIN_PORT),
        );
        let port = self.port("endpoint.port", raw.endpoint.port, ENDPOINT_PORT);
        if raw.endpoint.address.is_some() {
            self.push("endpoint.address", "no address: the endpoint listens on loopback only");
        }
        let capture = self.capture(&raw.capture, raw.public.directory.is_some());
        let extra_roots = self.extra_roots(&raw.capture);
        let limits = self.limits(&raw.limits);
        let times = Times {
            idle: self.duration("idleTimeout", raw.idle_timeout.as_deref(), Duration::from_secs(300)),
            head: self.duration("headTimeout", raw.head_timeout.as_deref(), Duration::from_secs(10)),
            rotation_grace: self.duration("rotationGrace", raw.rotation_grace.as_deref(), Duration::from_secs(300)),
        };
        let dial = self.dial(&raw);
        let source = self.source(&raw.source, &dial.resolvers);
        let shutdown_grace = self.duration("shutdownGrace", raw.shutdown_grace.as_deref(), Duration::from_secs(25));
        let log = self.log(&raw.log);
        let forbidden_is_ok = raw.refusal_status == Some(200);
        if !matches!(raw.refusal_status, None | Some(200 | 403)) {
            self.push("refusalStatus", "403, or 200 for agents with the Python SDK 1.x");
        }
        let caller = caller?;
        Some(SidecarSettings {
            source: source?.for_caller(&caller.key),
            proxy: ProxySettings { port, capture, caller: caller.key.clone(), limits, times, dial, forbidden_is_ok },
            admin,
            public: raw.public.directory.map(|directory| self.base.join(directory)),
            extra_roots,
            shutdown_grace,
            log,
            caller,
        })
    }

    fn caller(&mut self, raw: &RawCaller) -> Option<Caller> {
        let namespace = self.name("caller.namespace", raw.namespace.as_deref(), Namespace::parse);
        let service_account = self.name("caller.serviceAccount", raw.service_account.as_deref(), ServiceAccount::parse);
        let pod = raw.pod.as_deref().and_then(|pod| self.name("caller.pod", Some(pod), ObjectName::parse));
        Some(Caller { key: CallerKey { namespace: namespace?, service_account: service_account?, user: None }, pod })
    }

    fn dial(&mut self, raw: &Raw) -> DialSettings {
        let mut resolvers = Vec::new();
        for (at, text) in raw.dial.resolvers.iter().flatten().enumerate() {
            match text.parse::<SocketAddr>().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53))) {
                Ok(server) => resolvers.push(server),
                Err(_) => self.push(
                    &format!("dial.resolvers[{at}]"),
                    "the IP address of a DNS server, with a port if it is not 53",
                ),
            }
        }
        let exempt = raw.dial.no_proxy.iter().flatten().cloned().collect::<Vec<_>>().join(",");
        let parent = raw.dial.parent_proxy.as_deref().map(|url| ParentProxy::parse(url, &exempt));
        if parent.is_none() && raw.dial.no_proxy.is_some() {
            self.push("dial.noProxy", "no list without dial.parentProxy (HTTPS_PROXY goes with NO_PROXY)");
        }
        if parent == Some(None) {
            self.push("dial.parentProxy", ParentProxy::EXPECTED);
        }
        DialSettings {
            parent: parent.flatten(),
            allow_loopback: raw.dial.allow_loopback.unwrap_or(false),
            resolvers,
            connect_timeout: self.duration("connectTimeout", raw.connect_timeout.as_deref(), Duration::from_secs(10)),
        }
    }

    fn limits(&mut self, raw: &RawLimits) -> Limits {
        let limits = Limits {
            body: self.number("limits.bodyBytes", raw.body_bytes, 4 << 20, 1024..=64 << 20),
            body_budget: self.number("limits.bodyBudgetBytes", raw.body_budget_bytes, 16 << 20, 1024..=1 << 29),
            head: self.number("limits.headBytes", raw.head_bytes, 64 << 10, 1024..=1 << 20),
            connections: self.number("limits.connections", raw.connections, 2048, 1..=1 << 20),
            sessions: self.number("limits.sessions", raw.sessions, 4096, 1..=1 << 20),
        };
        if limits.body_budget < limits.body {
            self.push("limits.bodyBudgetBytes", "at least limits.bodyBytes");
        }
        limits
    }

    fn log(&mut self, raw: &RawLog) -> LogSettings {
        let level = LogSettings::level(raw.level.as_deref().unwrap_or("info"));
        if level.is_none() {
            self.push("log.level", "error, warn, info, debug or trace");
        }
        let format = match raw.format.as_deref() {
            None => None,
            Some("json") => Some(Format::Json),
            Some("text") => Some(Format::Text),
            Some(_) => {
                self.push("log.format", "json or text");
                None
            }
        };
        LogSettings { level: level.unwrap_or(tracing::level_filters::LevelFilter::INFO), format }
    }

    fn name<T>(&mut self, path: &str, text: Option<&str>, parse: fn(&str) -> Result<T, NameError>) -> Option<T> {
        match text.map(parse) {
            Some(Ok(name)) => Some(name),
            Some(Err(fault)) => {
                self.push(path, fault);
                None
            }
            None => {
                self.push(path, "a value; this field is required");
                None
            }
        }
    }

    fn parsed<T: std::str::FromStr>(&mut self, path: &str, text: Option<&str>, expected: &str) -> Option<T> {
        let text = text?;
        let value = text.parse().ok();
        if value.is_none() {
            self.push(path, expected);
        }
        value
    }

    fn port(&mut self, path: &str, number: Option<u64>, default: u16) -> u16 {
        let port = number.map_or(Ok(default), u16::try_from);
        port.unwrap_or_else(|_| {
            self.push(path, "a port of 0 to 65535 (0 takes a free one)");
            default
        })
    }

    fn number(
        &mut self,
        path: &str,
        number: Option<u64>,
        default: usize,
        range: std::ops::RangeInclusive<usize>,
    ) -> usize {
        let value = number.map_or(Some(default), |number| usize::try_from(number).ok());
        value.filter(|value| range.contains(value)).unwrap_or_else(|| {
            self.push(path, format!("a number of {} to {}", range.start(), range.end()));
            default
        })
    }

    fn duration(&mut self, path: &str, text: Option<&str>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        parse_duration(text).unwrap_or_else(|| {
            self.push(path, DURATION);
            default
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "caller: {namespace: ns, serviceAccount: sa}\nsource: {file: {directory: ./b}}\n";

    fn paths(text: &str) -> Vec<(Option<usize>, String)> {
        let problems = read("postern.yaml", text, Path::new("/etc"), &|_| None).err().unwrap_or_default();
        problems.into_iter().map(|problem| (problem.line, problem.fault.path)).collect()
    }

    #[test]
    fn the_smallest_file_gets_the_defaults() {
        let settings = read("postern.yaml", SMALLEST, Path::new("/etc/postern"), &|_| None).unwrap();
        let SourceSettings::File(source) = &settings.source else { panic!("the file source") };
        assert_eq!(source.directory, Path::new("/etc/postern/./b"));
        assert_eq!((settings.proxy.port, settings.admin.to_string().as_str()), (15101, "127.0.0.1:15190"));
        assert_eq!(settings.proxy.limits.body, 4_194_304);
        assert!(!settings.proxy.dial.allow_loopback);
        assert_eq!(settings.proxy.times.idle, Duration::from_secs(300));
    }

    #[test]
    fn every_problem_is_told_with_its_line() {
        let text = "caller: {namespace: N}\nsource: {file: {directory: 1}}\nendpoint:\n  port: 70000\nlimits:\n  bodyBytes: 1\n  connections: lots\nrotationGrace: 5 minutes\nlog: {level: loud}\nextra: 1\n";
        assert_eq!(
            paths(text),
            [
                (Some(2), "source.file.directory".into()),
                (Some(7), "limits.connections".into()),
                (Some(10), "extra".into()),
                (Some(1), "caller.namespace".into()),
                (Some(1), "caller.serviceAccount".into()),
                (Some(4), "endpoint.port".into()),
                (Some(6), "limits.bodyBytes".into()),
                (Some(8), "rotationGrace".into()),
                (Some(9), "log.level".into()),
            ]
        );
        assert_eq!(paths("")[0].1, "");
    }
}
