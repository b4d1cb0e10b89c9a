//! Settings for the tests of this folder.

use super::settings::{Allowed, InjectionSettings, PullPolicy, Resources};
use crate::core::capture::HostPattern;
use crate::core::network::Cidr;

pub(in crate::control) fn settings() -> InjectionSettings {
    InjectionSettings {
        image: "registry.example/postern:0.1.0".into(),
        image_pull_policy: PullPolicy::IfNotPresent,
        image_pull_secrets: Vec::new(),
        broker: "https://postern-broker.postern-system.svc:8443".into(),
        broker_ca: Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into()),
        extra_roots: None,
        resolvers: vec!["10.96.0.10".parse().unwrap()],
        resources: Resources::default(),
        allowed: Allowed {
            passthrough_hosts: HostPattern::parse("*.pypi.example").into_iter().collect(),
            skip_ports: vec![5432],
            skip_cidrs: Cidr::parse("10.0.0.0/8").into_iter().collect(),
            ..Allowed::default()
        },
    }
}
