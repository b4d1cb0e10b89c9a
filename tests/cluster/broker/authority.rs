//! The broker's authority: made once, whoever is first; kept in a Secret, told in a ConfigMap.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern::control::broker::CertificateKeeper;
use postern::control::certificate::{AuthoritySettings, CertificateError, CertificateSource};
use postern::telemetry::logs::AccessLog;
use postern::telemetry::metrics::broker::BrokerMetrics;
use postern::telemetry::session::SessionLog;
use postern::tls::server::ServerCertificate;
use serde_json::json;

use super::client;
use crate::support::ApiServer;

const SECRET: &str = "postern-broker-ca";
const NAME: &str = "postern-broker.postern-system.svc";
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

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

    /// A replica of the broker, after a while.
    fn replica(&self, later: Duration) -> CertificateKeeper {
        let metrics = BrokerMetrics::new().expect("the families can be declared");
        let settings = AuthoritySettings {
            secret: SECRET.into(),
            name: "Postern broker",
            life: 10 * YEAR,
            names: vec![NAME.to_owned()],
        };
        CertificateKeeper {
            client: self.client.clone(),
            source: CertificateSource::Authority(settings),
            namespace: self.namespace.clone(),
            config_map: Some("postern-ca".into()),
            certificate: Arc::new(ServerCertificate::default()),
            log: Arc::new(SessionLog::new(metrics, AccessLog::discard())),
            clock: Arc::new(move || SystemTime::now() + later),
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

/// Which of the authorities in `bundle` signed what a replica shows.
fn signer(replica: &CertificateKeeper, bundle: &str) -> String {
    let leaf = replica.certificate.leaf().expect("a leaf");
    let now = (replica.clock)();
    let mark = "-----BEGIN CERTIFICATE-----";
    let each = bundle.split(mark).skip(1).map(|rest| format!("{mark}{rest}"));
    let signers: Vec<String> = each.filter(|one| leaf.believed(one.as_bytes(), NAME, now).is_ok()).collect();
    let [signer] = signers.as_slice() else { panic!("one signer, not {signers:#?}") };
    signer.clone()
}

/// All replicas find the Secret empty at once. One authority comes of it, all of them sign with it,
/// and no key is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_all_that_find_the_secret_empty_one_makes_the_authority() {
    let home = Home::new().await;
    let rounds = (0..6).map(|_| {
        let replica = home.replica(Duration::ZERO);
        tokio::spawn(async move {
            replica.round().await.expect("a certificate");
            replica
        })
    });
    let mut replicas = Vec::new();
    for round in rounds.collect::<Vec<_>>() {
        replicas.push(round.await.expect("a round"));
    }
    let kept = home.kept("ca.crt").expect("an authority");
    for replica in &replicas {
        assert_eq!(signer(replica, &kept), kept);
    }
    assert_eq!(home.told(), kept);
    let key = home.kept("ca.key").expect("its key");
    assert!(key.contains("PRIVATE KEY") && !home.told().contains("PRIVATE"));
    // And whoever comes later makes none.
    let late = home.replica(YEAR);
    late.round().await.expect("a certificate");
    assert_eq!((signer(&late, &kept), home.kept("ca.crt")), (kept.clone(), Some(kept)));
}

/// The next authority is told years before it signs, and the former one for as long as what it
/// signed may be shown.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_authority_is_told_long_before_it_signs() {
    let home = Home::new().await;
    let round = async |later: Duration| {
        let replica = home.replica(later);
        replica.round().await.expect("a certificate");
        signer(&replica, &home.told())
    };
    let first = round(Duration::ZERO).await;
    assert_eq!((round(6 * YEAR).await, home.kept("next.crt")), (first.clone(), None));
    assert_eq!(round(7 * YEAR).await, first);
    let next = home.kept("next.crt").expect("a next one");
    assert_eq!(home.told(), format!("{first}{next}"));
    assert_eq!(round(8 * YEAR).await, first);
    let over = 9 * YEAR + 30 * DAY;
    assert_eq!(round(over).await, next);
    assert_eq!(home.told(), format!("{next}{first}"));
    assert_eq!((home.kept("next.crt"), home.kept("next.key")), (None, None));
    assert_eq!(home.kept("ca.crt"), Some(next.clone()));
    assert_eq!(round(over + 8 * DAY).await, next);
    assert_eq!((home.told(), home.kept("previous.crt")), (next, None));
}

/// What is there and cannot be used may be what every sidecar trusts: it is never written over.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_left_as_it_is() {
    let home = Home::new().await;
    let broken = json!({"stringData": {"ca.crt": "broken", "ca.key": "broken"}}).to_string();
    home.server.kubectl(&["patch", "secret", SECRET, "--namespace", &home.namespace, "--patch", &broken]);
    let replica = home.replica(Duration::ZERO);
    let refused = replica.round().await;
    assert!(matches!(refused, Err(CertificateError::Unusable { .. })), "{refused:?}");
    assert!(!format!("{refused:?}").contains("broken"));
    assert_eq!((home.kept("ca.crt").as_deref(), replica.certificate.validity()), (Some("broken"), None));
    // Nor is it made where the chart has not put it.
    home.server.kubectl(&["delete", "secret", SECRET, "--namespace", &home.namespace]);
    assert!(matches!(replica.round().await, Err(CertificateError::Api { .. })));
}
