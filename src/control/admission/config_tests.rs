//! The `config.postern.dev/` annotations as tables.

use super::*;
use crate::control::admission::testing;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn settings() -> InjectionSettings {
    let mut settings = testing::settings();
    settings.allowed = Allowed {
        host_paths: Vec::new(),
        passthrough_hosts: vec![HostPattern::parse("*.pypi.example").unwrap()],
        skip_ports: vec![5432],
        skip_cidrs: vec![Cidr::parse("10.0.0.0/8").unwrap()],
    };
    settings
}

fn read_all(namespace: Pairs<'_>, pod: Pairs<'_>) -> Result<PodConfig, Vec<Fault>> {
    let full = |pairs: Pairs<'_>| -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| (format!("config.postern.dev/{key}"), (*value).to_owned())).collect()
    };
    let (namespace, pod) = (full(namespace), full(pod));
    let borrowed = |pairs: &'static [(String, String)]| pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    read(borrowed(namespace.leak()), borrowed(pod.leak()), &settings())
}

#[test]
fn without_annotations_the_defaults_hold() {
    let config = read([("other.example/x", "1")].into_iter(), std::iter::empty(), &settings()).unwrap();
    let expected = PodConfig {
        servers: None,
        skip: Vec::new(),
        log_level: None,
        shutdown_grace: None,
        resources: Resources::default(),
        idle: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn every_key_is_read_and_the_pod_comes_before_the_namespace() {
    let namespace: Pairs<'_> = &[("log-level", "debug"), ("servers", "a"), ("cpu-request", "1")];
    let pod: Pairs<'_> = &[
        ("capture", "endpoint"),
        ("servers", "github, jira"),
        ("skip-containers", "db"),
        ("passthrough-hosts", "files.pypi.example"),
        ("skip-ports", "5432"),
        ("skip-cidrs", "10.1.0.0/16,10.2.0.0/16"),
        ("cpu-request", "20m"),
        ("cpu-limit", "1"),
        ("memory-request", "32Mi"),
        ("memory-limit", "64Mi"),
        ("no-proxy", ".svc,10.0.0.0/8"),
        ("shutdown-grace", "5s"),
    ];
    let config = read_all(namespace, pod).unwrap();
    let names: Vec<_> = config.servers.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["github", "jira"]);
    assert_eq!(config.skip, ["db"]);
    assert_eq!((config.log_level.as_deref(), config.shutdown_grace.as_deref()), (Some("debug"), Some("5s")));
    let resources = Resources {
        cpu_request: "20m".into(),
        cpu_limit: Some("1".into()),
        memory_request: "32Mi".into(),
        memory_limit: "64Mi".into(),
    };
    assert_eq!(config.resources, resources);
    assert_eq!(config.idle, ONLY_WITH_CAPTURE);
    let keys: Vec<_> = namespace.iter().chain(pod).map(|(key, _)| *key).collect();
    assert_eq!(KEYS.iter().find(|key| !keys.contains(key)), None, "a key that this test does not give");
}

#[test]
fn what_is_wrong_is_refused_with_what_is_right() {
    let cases: &[(&str, &str, &str)] = &[
        ("captures", "endpoint", "there is no config.postern.dev/captures; there are capture, servers"),
        ("capture", "none", "config.postern.dev/capture must be endpoint, proxy or redirect"),
        ("capture", "proxy", "config.postern.dev/capture is proxy"),
        ("capture", "redirect", "config.postern.dev/capture is redirect"),
        ("servers", "", "servers must be names of servers"),
        ("servers", "a,,b", "servers must be names of servers"),
        ("servers", "token", "servers must be names of servers"),
        ("skip-containers", "A", "skip-containers must be names of containers"),
        ("passthrough-hosts", "https://a", "passthrough-hosts must be hosts"),
        ("passthrough-hosts", "evil.example", "asks for more than the administrator allows"),
        ("passthrough-hosts", "pypi.example", "asks for more than the administrator allows"),
        ("skip-ports", "0", "skip-ports must be ports"),
        ("skip-ports", "5432,22", "asks for more than the administrator allows"),
        ("skip-cidrs", "10.0.0.1/8", "skip-cidrs must be networks"),
        ("skip-cidrs", "0.0.0.0/0", "asks for more than the administrator allows"),
        ("log-level", "loud", "log-level must be one of error, warn, info, debug, trace"),
        ("cpu-request", "lots", "cpu-request must be a quantity"),
        ("cpu-limit", "1m", "cpu-request is above the limit of 1m"),
        ("memory-request", "1Gi", "memory-request is above the limit of 96Mi"),
        ("memory-limit", "0", "memory-limit must be a quantity"),
        ("no-proxy", "a b", "no-proxy must be"),
        ("shutdown-grace", "5", "shutdown-grace must be a time such as"),
        ("sk live 1", "x", "there is no config.postern.dev/(unprintable)"),
    ];
    for (key, value, expected) in cases {
        for (whose, result) in [("pod", read_all(&[], &[(key, value)])), ("namespace", read_all(&[(key, value)], &[]))]
        {
            let faults = result.unwrap_err();
            let cause = &faults.first().unwrap().cause;
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(cause.contains(expected), "{key}={value}: {cause}");
            let is_sum = cause.contains("is above");
            assert!(is_sum || cause.starts_with(&format!("annotation of the {whose}: ")), "{cause}");
            assert!(!cause.contains("evil.example") && !cause.contains("loud"), "no value is repeated: {cause}");
        }
    }
    let all = read_all(&[("a", "1")], &[("b", "1"), ("capture", "x")]).unwrap_err();
    assert_eq!(all.len(), 3, "every fault is told: {all:?}");
}

#[test]
fn a_good_value_of_the_pod_replaces_a_bad_one_of_the_namespace() {
    let config = read_all(&[("log-level", "loud")], &[("log-level", "warn")]).unwrap();
    assert_eq!(config.log_level.as_deref(), Some("warn"));
}
