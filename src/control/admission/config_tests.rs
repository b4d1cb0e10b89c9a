//! The `config.postern.dev/` annotations as tables.

use super::*;
use crate::control::admission::testing;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn settings() -> InjectionSettings {
    let mut settings = testing::settings();
    settings.allowed = Allowed {
        passthrough_hosts: vec![HostPattern::parse("*.pypi.example").unwrap()],
        skip_ports: vec![5432],
        skip_cidrs: vec![Cidr::parse("10.0.0.0/8").unwrap(), Cidr::parse("fd00::/8").unwrap()],
        ..Allowed::default()
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
        capture: Capture::Endpoint,
        passthrough_hosts: Vec::new(),
        skip_ports: Vec::new(),
        skip_cidrs: Vec::new(),
        no_proxy: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn every_key_is_read_and_the_pod_comes_before_the_namespace() {
    let namespace: Pairs<'_> =
        &[("log-level", "debug"), ("servers", "a"), ("cpu-request", "1"), ("no-proxy", ".svc,10.0.0.0/8")];
    let pod: Pairs<'_> = &[
        ("capture", "redirect"),
        ("servers", "github, jira"),
        ("skip-containers", "db"),
        ("passthrough-hosts", "Files.pypi.example, *.a.pypi.example"),
        ("skip-ports", "5432"),
        ("skip-cidrs", "10.0.0.0/8,fd00:0::/8"),
        ("cpu-request", "20m"),
        ("cpu-limit", "1"),
        ("memory-request", "32Mi"),
        ("memory-limit", "64Mi"),
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
    let text = |items: &[HostPattern]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&config.passthrough_hosts), ["files.pypi.example", "*.a.pypi.example"]);
    let networks: Vec<_> = config.skip_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!((config.skip_ports, networks.as_slice()), (vec![5432], &["10.0.0.0/8", "fd00::/8"].map(Into::into)[..]));
    assert_eq!(config.capture, Capture::Redirect);
    assert_eq!(config.no_proxy, [""; 0], "a default of the namespace for pods with another capture");
    let proxy = read_all(namespace, &[("capture", "proxy")]).unwrap();
    assert_eq!(proxy.no_proxy, [".svc", "10.0.0.0/8"]);
    let keys: Vec<_> = namespace.iter().chain(pod).map(|(key, _)| *key).collect();
    assert_eq!(KEYS.iter().find(|key| !keys.contains(key)), None, "a key that this test does not give");
}

#[test]
fn what_is_wrong_is_refused_with_what_is_right() {
    let cases: &[(&str, &str, &str)] = &[
        ("captures", "endpoint", "there is no config.postern.dev/captures; there are capture, servers"),
        ("capture", "none", "config.postern.dev/capture must be endpoint, proxy or redirect"),
        ("servers", "", "servers must be names of servers"),
        ("servers", "a,,b", "servers must be names of servers"),
        ("servers", "token", "servers must be names of servers"),
        ("skip-containers", "A", "skip-containers must be names of containers"),
        ("log-level", "loud", "log-level must be one of error, warn, info, debug, trace"),
        ("cpu-request", "lots", "cpu-request must be a quantity"),
        ("cpu-limit", "1m", "cpu-request is above the limit of 1m"),
        ("memory-request", "1Gi", "memory-request is above the limit of 96Mi"),
        ("memory-limit", "0", "memory-limit must be a quantity"),
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

/// Each way of capture has its keys. What they may hold depends on nothing else.
#[test]
fn what_a_capture_needs_is_read_and_what_it_has_no_use_for_is_refused() {
    let hosts = "asks for more than the administrator allows: *.pypi.example";
    let networks = "asks for more than the administrator allows: 10.0.0.0/8, fd00::/8";
    let of_both = "passthrough-hosts is for capture proxy or redirect, and the pod's is endpoint";
    let cases: &[(&str, &str, &str, &str)] = &[
        ("proxy", "passthrough-hosts", "https://a", "passthrough-hosts must be hosts"),
        ("proxy", "passthrough-hosts", "evil.example", hosts),
        ("redirect", "passthrough-hosts", "pypi.example", hosts),
        ("redirect", "passthrough-hosts", "a.pypi.example,*.example", hosts),
        ("redirect", "skip-ports", "0", "skip-ports must be ports"),
        ("redirect", "skip-ports", "5432,22", "asks for more than the administrator allows: 5432"),
        ("redirect", "skip-cidrs", "10.0.0.1/8", "skip-cidrs must be networks"),
        ("redirect", "skip-cidrs", "0.0.0.0/0", networks),
        ("redirect", "skip-cidrs", "10.1.0.0/16", networks),
        ("proxy", "no-proxy", "a b", "no-proxy must be"),
        ("proxy", "no-proxy", "a,,b", "no-proxy must be"),
        ("endpoint", "passthrough-hosts", "a.pypi.example", of_both),
        ("endpoint", "no-proxy", "a", "no-proxy is for capture proxy, and the pod's is endpoint"),
        ("redirect", "no-proxy", "a", "no-proxy is for capture proxy, and the pod's is redirect"),
        ("proxy", "skip-ports", "5432", "skip-ports is for capture redirect, and the pod's is proxy"),
        ("proxy", "skip-cidrs", "10.0.0.0/8", "skip-cidrs is for capture redirect, and the pod's is proxy"),
    ];
    for (capture, key, value, expected) in cases {
        let faults = read_all(&[], &[("capture", capture), (key, value)]).unwrap_err();
        let [fault] = faults.as_slice() else { panic!("{faults:?}") };
        assert!(fault.cause.starts_with("annotation of the pod: ") && fault.cause.contains(expected), "{fault}");
        assert!(!fault.cause.contains("evil.example"), "no value is repeated: {fault}");
        // A namespace says it to those of its pods that have that capture.
        let of_namespace = read_all(&[(key, value)], &[("capture", capture)]);
        if expected.contains("is for capture") {
            assert_eq!(of_namespace, read_all(&[], &[("capture", capture)]), "{capture} {key}");
        } else {
            let faults = of_namespace.unwrap_err();
            assert!(faults.first().unwrap().cause.starts_with("annotation of the namespace: "), "{faults:?}");
        }
    }
    let mut nothing = testing::settings();
    nothing.allowed = Allowed::default();
    let pod = [("config.postern.dev/capture", "proxy"), ("config.postern.dev/passthrough-hosts", "a")];
    let faults = read(std::iter::empty(), pod.into_iter(), &nothing).unwrap_err();
    assert!(faults.first().unwrap().cause.ends_with("than the administrator allows: none"), "{faults:?}");
}

#[test]
fn a_capture_that_the_administrator_does_not_allow_is_refused() {
    let mut settings = settings();
    let mut causes = |allowed: &[Capture], pod: Option<&str>| {
        settings.allowed.captures = allowed.to_vec();
        let pod = pod.map(|capture| ("config.postern.dev/capture", capture));
        let read = read(std::iter::empty(), pod.into_iter(), &settings);
        read.map(|config| config.capture)
            .map_err(|faults| faults.iter().map(|fault| fault.cause.clone()).collect::<Vec<_>>())
    };
    let refused = |capture: &str, allowed: &str| {
        Err(vec![format!(
            "annotation of the pod: config.postern.dev/capture is {capture}; the administrator allows {allowed}"
        )])
    };
    for capture in Capture::ALL {
        assert_eq!(causes(&[capture], Some(capture.as_str())), Ok(capture));
    }
    assert_eq!(causes(&[Capture::Endpoint, Capture::Proxy], Some("redirect")), refused("redirect", "endpoint, proxy"));
    assert_eq!(causes(&[Capture::Endpoint], None), Ok(Capture::Endpoint));
    assert_eq!(
        causes(&[Capture::Redirect], None),
        Err(vec![
            "annotation of the namespace: config.postern.dev/capture is endpoint; the administrator allows redirect"
                .to_owned(),
        ]),
        "what nobody says is the namespace's to say"
    );
}

#[test]
fn a_good_value_of_the_pod_replaces_a_bad_one_of_the_namespace() {
    let config = read_all(&[("log-level", "loud")], &[("log-level", "warn")]).unwrap();
    assert_eq!(config.log_level.as_deref(), Some("warn"));
}
