//! In a pod there is no file: the injection sets variables, and each stands for a field.

use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::{Environment, FIELDS, Reader, SidecarSettings};
use crate::api::document::Problem;
use crate::api::env;
use crate::api::shape::{self, Fault, Fields, Shape};

/// The variables and the fields that they stand for; those that the injection never sets are for
/// a sidecar that is started by other means. `POSTERN_BROKER_CA` and `POSTERN_EXTRA_ROOTS` stand for
/// the content of the file that their field names.
pub const VARIABLES: [(&str, &str); 19] = [
    (env::POD_NAMESPACE, "caller.namespace"),
    (env::SERVICE_ACCOUNT, "caller.serviceAccount"),
    (env::POD_NAME, "caller.pod"),
    (env::BROKER, "source.broker.url"),
    (env::BROKER_CA, "source.broker.caFile"),
    ("POSTERN_BROKER_TOKEN_FILE", "source.broker.tokenFile"),
    ("POSTERN_MAX_STALE", "source.broker.maxStale"),
    (env::POD_HARDENED, "source.broker.podHardened"),
    (env::SERVERS, "source.broker.servers"),
    ("POSTERN_ENDPOINT_PORT", "endpoint.port"),
    (env::CAPTURE, "capture.kind"),
    (env::PASSTHROUGH_HOSTS, "capture.passthroughHosts"),
    (env::EXTRA_ROOTS, "capture.rootsFile"),
    (env::ADMIN_ADDRESS, "admin.address"),
    ("POSTERN_ADMIN_PORT", "admin.port"),
    (env::RESOLVERS, "dial.resolvers"),
    ("POSTERN_PUBLIC_DIRECTORY", "public.directory"),
    (env::SHUTDOWN_GRACE, "shutdownGrace"),
    (env::LOG_LEVEL, "log.level"),
];

/// Those that hold what a file would.
const CONTENTS: [&str; 2] = [env::BROKER_CA, env::EXTRA_ROOTS];

/// Whether the injection has set its variables.
pub fn is_in_pod(environment: Environment<'_>) -> bool {
    environment(env::BROKER).is_some()
}

/// Reads the settings of a pod's sidecar.
pub fn of_pod(environment: Environment<'_>) -> Result<SidecarSettings, Vec<Problem>> {
    let mut document = Value::Mapping(Mapping::new());
    // The kubelet probes, and Prometheus scrapes, the pod's address.
    put(&mut document, "admin.address", Value::from("0.0.0.0"));
    put(&mut document, "public.directory", Value::from(env::PUBLIC_DIRECTORY));
    for (variable, field) in VARIABLES {
        // An empty one is one that is not set: the downward API has nothing to say.
        if let Some(text) = environment(variable).filter(|text| !text.is_empty() && !CONTENTS.contains(&variable)) {
            put(&mut document, field, value(&text, kind(FIELDS, field)));
        }
    }
    let mut faults = Vec::new();
    shape::check(&mut document, FIELDS, "", &mut faults);
    let mut reader = Reader { base: Path::new("/"), environment, faults };
    let settings = serde_yaml::from_value(document).ok().and_then(|raw| reader.settings(raw));
    match settings {
        Some(settings) if reader.faults.is_empty() => Ok(settings),
        _ => Err(reader.faults.into_iter().map(problem).collect()),
    }
}

/// Names the variable instead of the field.
fn problem(fault: Fault) -> Problem {
    let field = fault.path.split('[').next().unwrap_or_default();
    let variable = VARIABLES.iter().find(|(_, of)| *of == field).map_or(field, |(variable, _)| variable);
    Problem { file: "environment".to_owned(), line: None, fault: Fault::new(variable, fault.expected) }
}

fn put(document: &mut Value, field: &str, value: Value) {
    let mut at = document;
    for step in field.split('.') {
        let Value::Mapping(map) = at else { return };
        at = map.entry(Value::from(step)).or_insert_with(|| Value::Mapping(Mapping::new()));
    }
    *at = value;
}

fn kind(fields: Fields, field: &str) -> Shape {
    let (first, rest) = field.split_once('.').unwrap_or((field, ""));
    match fields.iter().find(|(name, _)| *name == first).map(|(_, shape)| *shape) {
        Some(Shape::Map(below)) => kind(below, rest),
        Some(shape) => shape,
        None => Shape::Any,
    }
}

/// What the text means for a field of this kind; what means nothing stays text and is a fault.
fn value(text: &str, kind: Shape) -> Value {
    match kind {
        Shape::Bool => text.parse::<bool>().map_or(Value::from(text), Value::from),
        Shape::Number => text.parse::<u64>().map_or(Value::from(text), Value::from),
        Shape::Texts => text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect(),
        _ => Value::from(text),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::SourceSettings;
    use super::*;
    use crate::core::capture::Capture;

    fn authority() -> String {
        rcgen::generate_simple_self_signed(vec!["h.example".into()]).unwrap().cert.pem()
    }

    fn read(variables: &[(&str, &str)]) -> Result<SidecarSettings, Vec<String>> {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        let environment = |name: &str| variables.get(name).map(|text| (*text).to_owned());
        of_pod(&environment).map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_fewest_variables_get_the_defaults_of_a_pod() {
        let ca = authority();
        let settings = read(&[
            ("POD_NAMESPACE", "research"),
            ("SERVICE_ACCOUNT", "agent"),
            ("POD_NAME", "agent-0"),
            ("POSTERN_BROKER", "https://postern-broker.postern-system.svc.cluster.local:8443"),
            ("POSTERN_BROKER_CA", &ca),
        ]);
        let settings = settings.unwrap();
        assert_eq!(settings.caller.pod.as_ref().map(ToString::to_string).as_deref(), Some("agent-0"));
        assert_eq!(settings.public.as_deref(), Some(Path::new("/var/run/postern")));
        assert_eq!((settings.proxy.port, settings.admin.to_string().as_str()), (15101, "0.0.0.0:15190"));
        assert!(!settings.proxy.dial.allow_loopback);
        let SourceSettings::Broker(broker) = settings.source else { panic!("the broker source") };
        assert_eq!(broker.token_file, Path::new("/var/run/secrets/postern/token"));
        assert_eq!(broker.max_stale.as_secs(), 3600);
        assert_eq!((broker.pod.hardened, broker.pod.servers), (false, None));
        assert_eq!(*broker.ca, *ca.as_bytes());
    }

    #[test]
    fn each_variable_reaches_its_field() {
        let ca = authority();
        let settings = read(&[
            ("POD_NAMESPACE", "research"),
            ("SERVICE_ACCOUNT", "agent"),
            ("POD_NAME", ""),
            ("POSTERN_BROKER", "https://10.0.0.1:8443/"),
            ("POSTERN_BROKER_CA", &ca),
            ("POSTERN_BROKER_TOKEN_FILE", "/token"),
            ("POSTERN_MAX_STALE", "5m"),
            (env::POD_HARDENED, "true"),
            (env::SERVERS, "github, search"),
            ("POSTERN_ENDPOINT_PORT", "0"),
            (env::CAPTURE, "redirect"),
            (env::PASSTHROUGH_HOSTS, "api.example.com, *.pypi.example"),
            (env::EXTRA_ROOTS, &ca),
            (env::ADMIN_ADDRESS, "fd00::7"),
            ("POSTERN_ADMIN_PORT", "9"),
            (env::RESOLVERS, "10.0.0.10,10.0.0.11:5353"),
            ("POSTERN_PUBLIC_DIRECTORY", "/public"),
            (env::SHUTDOWN_GRACE, "3s"),
            (env::LOG_LEVEL, "debug"),
        ]);
        let settings = settings.unwrap();
        assert_eq!(settings.caller.pod, None, "empty is not set");
        assert_eq!((settings.proxy.port, settings.admin.to_string().as_str()), (0, "[fd00::7]:9"));
        let capture = &settings.proxy.capture;
        assert_eq!((capture.kind, capture.port, capture.passthrough.len()), (Capture::Redirect, 15103, 2));
        assert_eq!(settings.extra_roots, ca.as_bytes());
        let resolvers: Vec<String> = settings.proxy.dial.resolvers.iter().map(ToString::to_string).collect();
        assert_eq!(resolvers, ["10.0.0.10:53", "10.0.0.11:5353"]);
        assert_eq!(settings.public.as_deref(), Some(Path::new("/public")));
        assert_eq!((settings.shutdown_grace.as_secs(), settings.log.level.to_string().as_str()), (3, "debug"));
        let SourceSettings::Broker(broker) = settings.source else { panic!("the broker source") };
        assert_eq!((broker.token_file.as_path(), broker.max_stale.as_secs()), (Path::new("/token"), 300));
        assert_eq!((broker.pod.hardened, broker.pod.servers.map(|names| names.len())), (true, Some(2)));
        assert_eq!(broker.resolvers.len(), 2);
    }

    /// What the webhook writes into a pod is what is read here.
    #[test]
    fn every_variable_of_the_injection_is_known() {
        let unknown = |name: &&&str| !VARIABLES.iter().any(|(variable, _)| variable == *name);
        // The pod's UID is for people who look at the pod.
        assert_eq!(env::SIDECAR.iter().filter(unknown).collect::<Vec<_>>(), [&env::POD_UID]);
    }

    #[test]
    fn every_fault_names_its_variable() {
        let problems = read(&[
            ("POD_NAMESPACE", "R"),
            ("POSTERN_BROKER", "http://h/"),
            ("POSTERN_BROKER_CA", "text"),
            (env::POD_HARDENED, "yes"),
            (env::SERVERS, "ok,Not"),
            ("POSTERN_ENDPOINT_PORT", "x"),
            (env::CAPTURE, "iptables"),
            (env::PASSTHROUGH_HOSTS, "https://h.example"),
            (env::EXTRA_ROOTS, "text"),
            (env::RESOLVERS, "dns.example"),
        ]);
        let mut named: Vec<String> =
            problems.err().unwrap().iter().map(|problem| problem.split(": ").nth(1).unwrap().to_owned()).collect();
        named.sort();
        assert_eq!(
            named,
            [
                "POD_NAMESPACE",
                "POSTERN_BROKER",
                "POSTERN_BROKER_CA",
                "POSTERN_CAPTURE",
                "POSTERN_ENDPOINT_PORT",
                "POSTERN_EXTRA_ROOTS",
                "POSTERN_PASSTHROUGH_HOSTS",
                "POSTERN_POD_HARDENED",
                "POSTERN_RESOLVERS",
                "POSTERN_SERVERS",
                "SERVICE_ACCOUNT",
            ]
        );
    }
}
