//! The broker's authority: made once, whoever is first; kept in a Secret, told in a ConfigMap.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern::control::broker::{AuthoritySettings, CertificateError, CertificateKeeper, CertificateSource};
use postern::telemetry::logs::AccessLog;
use postern::telemetry::metrics::broker::BrokerMetrics;
use postern::telemetry::session::SessionLog;
use postern::tls::server::ServerCertificate;
use serde_json::json;

use super::client;
use crate::support::ApiServer;

const SECRET: &str = "postern-broker-ca";

/// A namespace as the chart makes it: Secret and ConfigMap are there, and empty.
struct Home {
    server: &'static ApiServer,
    namespace: String,
    client: kube::Client,
}

impl Home {
    async fn new() -> Self {
        let server = ApiServer::start();
        let namespace = server.namespace("authority");
        let within = format!("/api/v1/namespaces/{namespace}");
        server.create(&format!("{within}/secrets"), &json!({"metadata": {"name": SECRET}}));
        server.create(&format!("{within}/configmaps"), &json!({"metadata": {"name": "postern-ca"}}));
        Self { client: client(server, &namespace, false).await, server, namespace }
    }

    /// A replica of the broker, years later.
    fn replica(&self, years: u64) -> CertificateKeeper {
        let metrics = BrokerMetrics::new().expect("the families can be declared");
        let names = vec!["postern-broker.postern-system.svc".to_owned()];
        CertificateKeeper {
            client: self.client.clone(),
            source: CertificateSource::Authority(AuthoritySettings { secret: SECRET.into(), names }),
            namespace: self.namespace.clone(),
            config_map: Some("postern-ca".into()),
            certificate: Arc::new(ServerCertificate::default()),
            log: Arc::new(SessionLog::new(metrics, AccessLog::discard())),
            clock: Arc::new(move || SystemTime::now() + Duration::from_secs(years * 365 * 86_400)),
        }
    }

    /// What the Secret holds under a key, if anything.
    fn kept(&self, key: &str) -> Option<String> {
        let secret = self.server.get(&["secret", SECRET, "--namespace", &self.namespace]);
        let text = secret["data"][key].as_str()?;
        Some(String::from_utf8(STANDARD.decode(text).expect("base64")).expect("PEM"))
    }

    /// What the ConfigMap tells.
    fn told(&self) -> String {
        let map = self.server.get(&["configmap", "postern-ca", "--namespace", &self.namespace]);
        map["data"]["ca.crt"].as_str().unwrap_or_default().to_owned()
    }
}

/// All replicas find the Secret empty at once. One authority comes of it, all of them sign with it,
/// and no key is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_all_that_find_the_secret_empty_one_makes_the_authority() {
    let home = Home::new().await;
    let rounds = (0..6).map(|_| {
        let replica = home.replica(0);
        tokio::spawn(async move {
            let mut signer = String::new();
            replica.round(&mut signer).await.expect("a certificate");
            (signer, replica.certificate.validity())
        })
    });
    let mut signers = Vec::new();
    for round in rounds.collect::<Vec<_>>() {
        let (signer, leaf) = round.await.expect("a round");
        assert!(leaf.expect("a leaf").holds(SystemTime::now()));
        signers.push(signer);
    }
    let kept = home.kept("ca.crt").expect("an authority");
    assert!(signers.iter().all(|signer| *signer == kept), "{signers:#?}");
    assert_eq!(home.told(), kept);
    let key = home.kept("ca.key").expect("its key");
    assert!(key.contains("PRIVATE KEY") && !home.told().contains("PRIVATE"));
    // And whoever comes later makes none.
    let mut signer = String::new();
    home.replica(1).round(&mut signer).await.expect("a certificate");
    assert_eq!((signer, home.kept("ca.crt").expect("it is there")), (kept.clone(), kept));
}

/// The next authority is told years before it signs.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_authority_is_told_long_before_it_signs() {
    let home = Home::new().await;
    let round = async |years: u64| {
        let mut signer = String::new();
        home.replica(years).round(&mut signer).await.expect("a certificate");
        signer
    };
    let first = round(0).await;
    assert_eq!((round(6).await, home.kept("next.crt")), (first.clone(), None));
    assert_eq!(round(7).await, first);
    let next = home.kept("next.crt").expect("a next one");
    assert_eq!(home.told(), format!("{first}{next}"));
    assert_eq!(round(8).await, first);
    assert_eq!(round(10).await, next);
    assert_eq!((home.told(), home.kept("next.crt"), home.kept("next.key")), (next.clone(), None, None));
    assert_eq!(home.kept("ca.crt"), Some(next));
}

/// What is there and cannot be used may be what every sidecar trusts: it is never written over.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_left_as_it_is() {
    let home = Home::new().await;
    let broken = json!({"stringData": {"ca.crt": "broken", "ca.key": "broken"}}).to_string();
    home.server.kubectl(&["patch", "secret", SECRET, "--namespace", &home.namespace, "--patch", &broken]);
    let mut signer = String::new();
    let replica = home.replica(0);
    let refused = replica.round(&mut signer).await;
    assert!(matches!(refused, Err(CertificateError::Unusable { .. })), "{refused:?}");
    assert!(!format!("{refused:?}").contains("broken"));
    assert_eq!((home.kept("ca.crt").as_deref(), replica.certificate.validity()), (Some("broken"), None));
    // Nor is it made where the chart has not put it.
    home.server.kubectl(&["delete", "secret", SECRET, "--namespace", &home.namespace]);
    assert!(matches!(replica.round(&mut signer).await, Err(CertificateError::Api { .. })));
}
