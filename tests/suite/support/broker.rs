//! The real broker on a real socket, in the test's own process: its views are filled by hand, and
//! a table stands in for the API server's opinion of tokens.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern::control::broker::{
    Admission, Broker as Server, BrokerSettings, NoAnswer, Parts, Rate, Review, Reviewing, Times, Token,
};
use postern::control::heard::Heard;
use postern::control::views::Views;
use postern::core::name::{CallerKey, Namespace, ServiceAccount};
use postern::core::secret::SecretValue;
use postern::core::wire::{Cause, Gap, Item, Snapshot, Value};
use postern::runtime::clock::Clock;
use postern::runtime::drain::DrainTrigger;
use postern::telemetry::logs::AccessLog;
use postern::telemetry::metrics::broker::BrokerMetrics;
use postern::telemetry::session::SessionLog;
use postern::tls::authority::Authority;
use postern::tls::server::ServerCertificate;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::documents::Binding;
use super::observed::{repeated, within};
use super::output::Metrics;
use super::reader::Called;
use super::sidecar::Known;
use super::{evidence, secrets};

/// A broker. It serves `research-agent` of `research`, and whoever has a token.
pub struct Broker {
    authority: Authority,
    settings: BrokerSettings,
    views: Views,
    heard: watch::Sender<Heard>,
    opinions: Opinions,
    review: Arc<dyn Review>,
    clock: Clock,
    log: Arc<SessionLog>,
    secrets: Known,
    running: Option<(Runtime, DrainTrigger)>,
}

/// What the API server would say of each token; it knows no others.
#[derive(Clone, Default)]
struct Opinions(Arc<Mutex<HashMap<String, CallerKey>>>);

impl Opinions {
    fn known(&self) -> MutexGuard<'_, HashMap<String, CallerKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Review for Opinions {
    fn review<'a>(&'a self, token: &'a Token) -> Reviewing<'a> {
        let account = self.known().get(token.text()).cloned();
        let user = account.as_ref().map(|account| {
            json!({
                "username": format!("system:serviceaccount:{}:{}", account.namespace, account.service_account),
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["pod"],
                    "authentication.kubernetes.io/pod-uid": ["0b0e9d0e"],
                },
            })
        });
        let status = json!({"authenticated": user.is_some(), "audiences": ["postern.dev/broker"], "user": user});
        let status = serde_json::from_value(status).map_err(|error| NoAnswer(error.to_string()));
        Box::pin(std::future::ready(status))
    }
}

/// Times for tests. Where silence is the point, the heartbeat is shorter.
pub const TIMES: Times = Times {
    heartbeat: Duration::from_secs(1),
    life: Duration::from_secs(600),
    overlap: Duration::from_secs(5),
    settle: Duration::from_millis(10),
    stall: Duration::from_secs(30),
};

pub fn account(namespace: &str, name: &str) -> CallerKey {
    let namespace = Namespace::parse(namespace).expect("a namespace");
    CallerKey { namespace, service_account: ServiceAccount::parse(name).expect("a service account"), user: None }
}

/// A broker to be started.
pub struct Setup {
    pub settings: BrokerSettings,
    /// Who is asked about tokens; without it, the table.
    pub review: Option<Arc<dyn Review>>,
    pub clock: Clock,
    /// Whether it knows the cluster, in which nothing is bound.
    pub synced: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let often = Rate { burst: 1000, per_second: 1000.0 };
        let settings = BrokerSettings {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            connections: 1000,
            handshake: Duration::from_secs(5),
            admission: Admission {
                // Every connect is looked at: what changes in the table counts at once.
                remember: Duration::ZERO,
                account: often,
                bad_tokens: often,
                streams_per_account: 1000,
                reviews: 100,
            },
            times: TIMES,
        };
        Self { settings, review: None, clock: Arc::new(SystemTime::now), synced: true }
    }
}

impl Setup {
    pub fn times(times: Times) -> Self {
        let mut setup = Self::default();
        setup.settings.times = times;
        setup
    }

    pub async fn start(self) -> Broker {
        let year = Duration::from_secs(365 * 86_400);
        let metrics = BrokerMetrics::new().expect("the families can be declared");
        let opinions = Opinions::default();
        let mut broker = Broker {
            authority: Authority::new("the broker's", year, SystemTime::now()).expect("an authority can be made"),
            settings: self.settings,
            views: Views::default(),
            heard: watch::Sender::new(if self.synced { Heard::all() } else { Heard::default() }),
            review: self.review.unwrap_or_else(|| Arc::new(opinions.clone())),
            opinions,
            clock: self.clock,
            log: Arc::new(SessionLog::new(metrics, AccessLog::discard())),
            secrets: Known::default(),
            running: None,
        };
        broker.run().await;
        broker
    }
}

impl Broker {
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    pub async fn with(times: Times) -> Self {
        Setup::times(times).start().await
    }

    /// Listens where it listened before, if ever.
    pub async fn run(&mut self) {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let day = Duration::from_secs(86_400);
        let leaf = self.authority.issue(&names, day, SystemTime::now()).expect("a leaf can be issued");
        let certificate = Arc::new(ServerCertificate::default());
        certificate.put(leaf);
        // Of its own, so that it can die like a process.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be started");
        let drain = DrainTrigger::new();
        let server = repeated("the broker's port to be free", async || {
            let bound = runtime.spawn(Server::bind(self.settings.clone(), self.parts(&certificate), drain.watch()));
            bound.await.expect("binding does not panic").ok()
        })
        .await;
        self.settings.address = server.address;
        runtime.spawn(server.run());
        self.running = Some((runtime, drain));
    }

    fn parts(&self, certificate: &Arc<ServerCertificate>) -> Parts {
        Parts {
            views: self.views.clone(),
            heard: self.heard.subscribe(),
            review: Arc::clone(&self.review),
            certificate: Arc::clone(certificate),
            log: Arc::clone(&self.log),
            clock: Arc::clone(&self.clock),
        }
    }

    /// Dies: every connection breaks off, nothing is said.
    pub fn die(&mut self) {
        if let Some((runtime, _)) = self.running.take() {
            runtime.shutdown_background();
        }
    }

    /// Shuts down as it does on SIGTERM, and dies after that.
    pub async fn drain(&mut self) {
        let Some((runtime, drain)) = self.running.take() else { return };
        within("the broker's shutdown", drain.run(Duration::from_secs(5))).await;
        runtime.shutdown_background();
    }

    pub fn synced(&self, synced: bool) {
        self.heard.send_replace(if synced { Heard::all() } else { Heard::default() });
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.settings.address.port())
    }

    pub fn address(&self) -> SocketAddr {
        self.settings.address
    }

    pub fn ca(&self) -> String {
        self.authority.certificate().to_owned()
    }

    /// Everything that must stand nowhere.
    pub fn secrets(&self) -> Known {
        Arc::clone(&self.secrets)
    }

    /// A token of `research-agent` that the API server takes.
    pub fn token(&self) -> String {
        self.token_of(&account("research", "research-agent"))
    }

    pub fn token_of(&self, account: &CallerKey) -> String {
        let hour = SystemTime::now() + Duration::from_secs(3600);
        let expires = hour.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let claims = URL_SAFE_NO_PAD.encode(json!({"exp": expires}).to_string());
        let token = format!("{}.{claims}.{}", secrets::unique_secret(), secrets::unique_secret());
        token.split('.').step_by(2).for_each(|part| self.note(part));
        self.opinions.known().insert(token.clone(), account.clone());
        token
    }

    /// The API server takes no token any more that was given out so far.
    pub fn disown(&self) {
        self.opinions.known().clear();
    }

    /// Gives `research-agent` exactly this.
    pub fn give(&self, items: Vec<Item>) {
        self.give_to(&account("research", "research-agent"), items);
    }

    pub fn give_to(&self, account: &CallerKey, items: Vec<Item>) {
        self.views.publish(account, Arc::new(Snapshot { items }));
    }

    /// A binding with its value, or without where it brings none along.
    pub fn item(&self, binding: &Binding) -> Item {
        let value = binding.secrets().first().map(|(_, _, value)| {
            self.note(&String::from_utf8_lossy(value));
            let secret = Arc::new(SecretValue::parse(value.clone()).expect("a usable value"));
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            Value { secret, version: "7".into(), changed: u64::try_from(now.as_millis()).ok() }
        });
        let gap = Gap { cause: Cause::Absent, text: "Secret does not exist".into() };
        Item {
            document: document(&binding.json()),
            value: value.ok_or(gap),
            ca_bundle: binding.ca().map(|(_, pem)| Ok(pem.as_str().into())),
        }
    }

    /// A binding without a value, and why.
    pub fn gap(&self, binding: &Binding, cause: Cause, text: &str) -> Item {
        Item { value: Err(Gap { cause, text: text.into() }), ..self.item(binding) }
    }

    /// Gives exactly this snapshot.
    pub fn publish(&self, account: &CallerKey, snapshot: &Arc<Snapshot>) {
        self.views.publish(account, Arc::clone(snapshot));
    }

    /// Remembers what must stand nowhere.
    pub fn note(&self, secret: &str) {
        evidence::secret(secret);
        secrets::remember(secret);
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).push(secret.to_owned());
    }

    pub fn metrics(&self) -> Metrics {
        let text = self.log.metrics.expose(self.views.len()).expect("the metrics can be encoded");
        Metrics::new(String::from_utf8(text).expect("the exposition is text"))
    }

    /// Awaits that a metric is at least this.
    pub async fn until(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        repeated(&format!("{name} {labels:?} to be {least}"), async || {
            // Counting wakes nobody.
            tokio::time::sleep(Duration::from_millis(5)).await;
            (self.metrics().sum(name, labels) >= least).then_some(())
        })
        .await;
    }
}

impl Called for Broker {
    fn address(&self) -> SocketAddr {
        self.address()
    }

    fn ca(&self) -> String {
        self.ca()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.die();
    }
}

pub fn document(text: &str) -> Arc<RawValue> {
    Arc::from(RawValue::from_string(text.to_owned()).expect("JSON"))
}
