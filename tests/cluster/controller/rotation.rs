//! The authority grows old, by a clock that is told. Certificates are made for that time, and the API server lives in
//! the real one: so the authority lasts for days, and what is shown in each phase is valid in both.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use postern::control::certificate::{AuthoritySettings, CertificateFiles, CertificateSource};
use postern::control::webhook::look_up::{LiveConfigMaps, WatchedNamespaces};
use postern::control::webhook::trust::{Trust, TrustKeeper};
use postern::control::webhook::{ConfigMapSearch, Webhook, WebhookSettings};
use postern::runtime::drain::DrainTrigger;
use postern::telemetry::admission::AdmissionLog;
use postern::telemetry::logs::AccessLog;
use postern::telemetry::metrics::controller::ControllerMetrics;
use postern::tls::server::{ServerCertificate, Versions, settings};
use tokio::net::TcpListener;

use crate::suite::certificates::Authority;
use crate::support::admission::{client, injection};
use crate::support::controller::{Place, SECRET};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// Half an hour more than six days, so that all phases are within the seven days of a leaf.
const LIFE: Duration = Duration::from_secs(6 * 86_400 + 1800);

/// A replica in this process.
struct Replica {
    keeper: TrustKeeper,
    address: SocketAddr,
    now: Arc<Mutex<SystemTime>>,
    _drain: DrainTrigger,
}

impl Replica {
    async fn new(place: &Place, source: CertificateSource) -> Self {
        let client = client(place.server, None).await;
        let metrics = Arc::new(ControllerMetrics::new().expect("metrics"));
        let certificate = Arc::new(ServerCertificate::default());
        let tls = settings(Arc::clone(&certificate), Versions::Both, &[b"http/1.1"]).expect("settings");
        let settings = WebhookSettings {
            injection: Arc::new(ArcSwap::from_pointee(injection())),
            config_maps: ConfigMapSearch::Off,
            linger: Duration::ZERO,
        };
        let namespaces = Box::new(WatchedNamespaces::start(client.clone()));
        let config_maps = Box::new(LiveConfigMaps::new(client.clone()));
        let log = AdmissionLog::new(Arc::clone(&metrics), AccessLog::discard());
        let drain = DrainTrigger::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(Webhook::new(settings, namespaces, config_maps, log).run(listener, tls, drain.watch()));
        let now = Arc::new(Mutex::new(SystemTime::now()));
        let clock = Arc::clone(&now);
        let keeper = TrustKeeper {
            client,
            source,
            namespace: place.namespace.clone(),
            configuration: place.owner.clone(),
            certificate,
            trust: Arc::new(Trust::default()),
            metrics,
            clock: Arc::new(move || *clock.lock().expect("nobody panics with it")),
        };
        Self { keeper, address, now, _drain: drain }
    }

    /// A round at this time. It has to end in trust.
    async fn round(&self, at: SystemTime) {
        *self.now.lock().expect("nobody panics with it") = at;
        self.keeper.round().await.expect("a round");
        assert!(self.keeper.trust.holds(at));
    }

    /// Whether who trusts `bundle` believes what is shown.
    fn is_signed_by(&self, bundle: &str) -> bool {
        let leaf = self.keeper.certificate.leaf().expect("a leaf");
        leaf.believed(bundle.as_bytes(), "127.0.0.1", SystemTime::now()).is_ok()
    }
}

fn authority() -> CertificateSource {
    let names = vec!["127.0.0.1".to_owned()];
    CertificateSource::Authority(AuthoritySettings { secret: SECRET.into(), name: "a", life: LIFE, names })
}

/// Pods are admitted in every phase, by a replica that is ahead and by one that is behind.
#[tokio::test(flavor = "multi_thread")]
async fn pods_are_admitted_through_all_of_a_rotation() {
    let place = Place::new("rotation");
    let (ahead, behind) = (Replica::new(&place, authority()).await, Replica::new(&place, authority()).await);
    place.call(ahead.address);
    // The API server has its own time, and that is now; the authority's first day was six days ago.
    let began = SystemTime::now() - 6 * DAY;
    ahead.round(began).await;
    behind.round(began).await;
    let pods = place.pods();
    place.until_injected(&pods, "probe");
    let admitted = |replica: &Replica, phase: &str| {
        place.call_instead(replica.address);
        place.injected(&pods, phase);
    };
    let first = place.bundle();

    // The next one is told, and signs nothing.
    ahead.round(began + 4 * DAY + 2 * HOUR).await;
    let next = place.kept("next.crt").expect("a next one");
    assert_eq!(place.bundle(), format!("{first}{next}"));
    assert!(ahead.is_signed_by(&first) && behind.is_signed_by(&first));
    admitted(&ahead, "next-ahead");
    admitted(&behind, "next-behind");

    // It takes over. Who has not looked yet shows what the former one signed.
    ahead.round(began + 5 * DAY + 12 * HOUR).await;
    assert_eq!(place.bundle(), format!("{next}{first}"));
    assert_eq!((place.kept("ca.crt"), place.kept("next.key")), (Some(next.clone()), None));
    assert!(ahead.is_signed_by(&next) && behind.is_signed_by(&first));
    admitted(&ahead, "over-ahead");
    admitted(&behind, "over-behind");
    behind.round(began + 5 * DAY + 13 * HOUR).await;
    assert!(behind.is_signed_by(&next));
    assert_eq!(place.bundle(), format!("{next}{first}"));
    admitted(&behind, "over-both");

    // The former one is over, and trusted no more.
    behind.round(began + LIFE + Duration::from_secs(600)).await;
    assert_eq!((place.bundle(), place.kept("previous.crt")), (next.clone(), None));
    admitted(&ahead, "after-ahead");
    admitted(&behind, "after-behind");
}

/// Files that are renewed before the bundle: what is trusted is shown as long as it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_trusted_yet_is_not_shown_instead_of_what_is() {
    let place = Place::new("files");
    let (first, next) = (Authority::new(), Authority::new());
    let write = |authority: &Authority| {
        let (chain, key) = authority.leaf(&["127.0.0.1"], false);
        std::fs::write(place.path("chain.pem"), chain.pem()).expect("it can be written");
        std::fs::write(place.path("key.pem"), key.serialize_pem()).expect("it can be written");
    };
    write(&first);
    let files = CertificateFiles { authority: None, chain: place.path("chain.pem"), key: place.path("key.pem") };
    let replica = Replica::new(&place, CertificateSource::Files(files)).await;
    place.call(replica.address);
    place.write_bundle(first.pem());
    replica.round(SystemTime::now()).await;
    assert!(replica.is_signed_by(first.pem()));
    write(&next);
    replica.round(SystemTime::now()).await;
    assert!(replica.is_signed_by(first.pem()));
    place.write_bundle(&format!("{}{}", first.pem(), next.pem()));
    replica.round(SystemTime::now()).await;
    assert!(replica.is_signed_by(next.pem()));
}
