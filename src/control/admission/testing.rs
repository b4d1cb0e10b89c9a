//! Settings for the tests of this folder.

use super::settings::{Allowed, InjectionSettings, PullPolicy, Resources};

pub(in crate::control) fn settings() -> InjectionSettings {
    InjectionSettings {
        image: "registry.example/postern:0.1.0".into(),
        image_pull_policy: PullPolicy::IfNotPresent,
        image_pull_secrets: Vec::new(),
        broker: "https://postern-broker.postern-system.svc:8443".into(),
        broker_ca: Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into()),
        resolvers: vec!["10.96.0.10".parse().unwrap()],
        resources: Resources::default(),
        allowed: Allowed::default(),
    }
}
