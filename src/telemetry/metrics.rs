//! All metric families, named in one place.
//!
//! Labels come from configuration (`server`) or from closed enums, never from what an agent or
//! an upstream sends: the number of series is bounded by the configuration.

use std::time::SystemTime;

use prometheus::{
    Encoder as _, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::core::reason::Reason;

pub mod broker;
pub mod controller;

mod passthrough;
mod series;

pub use series::ServerSeries;

/// The families; fields are private, verbs are the interface.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    exchanges: Exchanges,
    credentials: Credentials,
    connections: Connections,
    passthrough: passthrough::Passthrough,
    servers: series::Servers,
}

#[derive(Debug)]
struct Exchanges {
    requests: IntCounterVec,
    time_to_headers: HistogramVec,
    stream_life: HistogramVec,
    open_streams: IntGaugeVec,
    refusals: IntCounterVec,
    tokens_stripped: IntCounterVec,
    echoes_masked: IntCounterVec,
    access_lines_lost: IntCounter,
}

#[derive(Debug)]
struct Credentials {
    auth_rejections: IntCounterVec,
    usable: IntGaugeVec,
    age: GaugeVec,
    generation: IntGaugeVec,
    rotation_lag: GaugeVec,
    source_problems: IntGauge,
    source_connected: IntGaugeVec,
    source_connects: IntCounterVec,
    source_heard: GaugeVec,
}

#[derive(Debug)]
struct Connections {
    upstream: IntGaugeVec,
    dial_failures: IntCounterVec,
    agent: IntGauge,
}

/// A credential's state at the moment of a scrape.
#[derive(Debug)]
pub struct CredentialSample {
    /// The server it belongs to.
    pub server: String,
    /// The credential, if there is a usable one.
    pub usable: Option<UsableSample>,
}

/// A usable credential at the moment of a scrape.
#[derive(Debug)]
pub struct UsableSample {
    /// Its generation.
    pub generation: u64,
    /// Seconds since its value last changed.
    pub age: f64,
    /// Seconds from the change at the source until it was in use here, where known.
    pub lag: Option<f64>,
}

/// A moment as gauges tell it: seconds since 1970.
fn since_1970(moment: SystemTime) -> f64 {
    moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A family was declared twice or with a bad name: a mistake in this file.
pub type MetricsError = prometheus::Error;

struct Maker(Registry);

impl Maker {
    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: Result<C, MetricsError>,
    ) -> Result<C, MetricsError> {
        let family = made?;
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn build_info(&self) -> Result<(), MetricsError> {
        let build = self.gauge("postern_build_info", "Always 1; the version is a label", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(())
    }

    fn counter(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricsError> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn float(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, MetricsError> {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, MetricsError> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

const HEADER_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];
const STREAM_BUCKETS: [f64; 8] = [0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0];

impl Exchanges {
    fn new(m: &Maker) -> Result<Self, MetricsError> {
        let (by_method, by_kind) = (&["server", "method"], &["server", "kind"]);
        Ok(Self {
            requests: m.counter(
                "postern_requests_total",
                "Exchanges by server, MCP method and outcome",
                &["server", "method", "outcome"],
            )?,
            time_to_headers: m.histogram(
                "postern_time_to_headers_seconds",
                "From the request's last byte to the upstream's response headers",
                by_method,
                &HEADER_BUCKETS,
            )?,
            stream_life: m.histogram(
                "postern_stream_seconds",
                "How long event streams stayed open",
                by_kind,
                &STREAM_BUCKETS,
            )?,
            open_streams: m.gauge("postern_open_streams", "Event streams open now", by_kind)?,
            refusals: m.counter(
                "postern_refusals_total",
                "Refused exchanges by reason; server is empty where none was bound",
                &["server", "reason"],
            )?,
            tokens_stripped: m.counter(
                "postern_agent_tokens_stripped_total",
                "Requests in which the agent sent a credential of its own, which was dropped",
                &["server"],
            )?,
            echoes_masked: m.counter(
                "postern_echo_masks_total",
                "Times the credential came back from the upstream and was masked",
                &["server"],
            )?,
            access_lines_lost: m.add(IntCounter::new(
                "postern_access_lines_lost_total",
                "Access lines lost because standard output was not read in time",
            ))?,
        })
    }
}

impl Credentials {
    fn new(m: &Maker) -> Result<Self, MetricsError> {
        Ok(Self {
            auth_rejections: m.counter(
                "postern_upstream_auth_rejections_total",
                "Answers with which the upstream refused the bound credential",
                &["server"],
            )?,
            usable: m.gauge(
                "postern_credential_usable",
                "1 where the binding has a usable credential, 0 where calls are refused for want of one",
                &["server"],
            )?,
            age: m.float(
                "postern_credential_age_seconds",
                "Time since the credential's value last changed",
                &["server"],
            )?,
            generation: m.gauge(
                "postern_credential_generation",
                "Counts the values the credential has had since start",
                &["server"],
            )?,
            rotation_lag: m.float(
                "postern_credential_rotation_lag_seconds",
                "From the last change at the source until new requests carried it",
                &["server"],
            )?,
            source_problems: m.add(IntGauge::new(
                "postern_source_problems",
                "Problems in the credential source now; the log names them",
            ))?,
            source_connected: m.gauge(
                "postern_source_connected",
                "1 while the source is connected, 0 while what it told last is used",
                &["source"],
            )?,
            source_connects: m.counter(
                "postern_source_connects_total",
                "Attempts to connect to the source, by what became of them",
                &["source", "result"],
            )?,
            source_heard: m.float(
                "postern_source_heard_timestamp_seconds",
                "When the source was last heard, in seconds since 1970",
                &["source"],
            )?,
        })
    }
}

impl Connections {
    fn new(m: &Maker) -> Result<Self, MetricsError> {
        Ok(Self {
            upstream: m.gauge("postern_upstream_connections", "Connections to the upstream open now", &["server"])?,
            dial_failures: m.counter(
                "postern_dial_failures_total",
                "Connections to the upstream that could not be made",
                &["server", "reason"],
            )?,
            agent: m.add(IntGauge::new("postern_agent_connections", "Connections from the agent open now"))?,
        })
    }
}

impl Metrics {
    /// Declares every family.
    pub fn new() -> Result<Self, MetricsError> {
        let m = Maker(Registry::new());
        m.build_info()?;
        let (exchanges, credentials, connections) = (Exchanges::new(&m)?, Credentials::new(&m)?, Connections::new(&m)?);
        let passthrough = passthrough::Passthrough::new(&m)?;
        let servers = series::Servers::default();
        Ok(Self { registry: m.0, exchanges, credentials, connections, passthrough, servers })
    }

    /// A connection to the upstream was made (+1) or ended (-1).
    pub fn upstream_connection(&self, server: &str, change: i64) {
        self.connections.upstream.with_label_values(&[server]).add(change);
    }

    /// A connection to the upstream could not be made.
    pub fn dial_failed(&self, server: &str, reason: Reason) {
        self.connections.dial_failures.with_label_values(&[server, reason.as_str()]).inc();
    }

    /// A connection from the agent was accepted (+1) or ended (-1).
    pub fn agent_connection(&self, change: i64) {
        self.connections.agent.add(change);
    }

    /// An access line was lost.
    pub fn access_line_lost(&self) {
        self.exchanges.access_lines_lost.inc();
    }

    /// The credential source was read and has this many problems.
    pub fn source_read(&self, problems: usize) {
        self.credentials.source_problems.set(i64::try_from(problems).unwrap_or(i64::MAX));
    }

    /// The broker is connected now, or is not.
    pub fn broker_connected(&self, connected: bool) {
        self.credentials.source_connected.with_label_values(&["broker"]).set(i64::from(connected));
    }

    /// An attempt to connect to the broker ended like this.
    pub fn broker_connect(&self, result: &'static str) {
        self.credentials.source_connects.with_label_values(&["broker", result]).inc();
    }

    /// The broker was heard at this time.
    pub fn broker_heard(&self, at: SystemTime) {
        self.credentials.source_heard.with_label_values(&["broker"]).set(since_1970(at));
    }

    /// The exposition text (version 0.0.4), with the credentials as they are now.
    pub fn expose(&self, credentials: &[CredentialSample]) -> Result<Vec<u8>, MetricsError> {
        self.credentials.usable.reset();
        self.credentials.age.reset();
        self.credentials.generation.reset();
        self.credentials.rotation_lag.reset();
        for sample in credentials {
            let label = [sample.server.as_str()];
            self.credentials.usable.with_label_values(&label).set(i64::from(sample.usable.is_some()));
            let Some(usable) = &sample.usable else { continue };
            self.credentials.age.with_label_values(&label).set(usable.age);
            let generation = i64::try_from(usable.generation).unwrap_or(i64::MAX);
            self.credentials.generation.with_label_values(&label).set(generation);
            if let Some(lag) = usable.lag {
                self.credentials.rotation_lag.with_label_values(&label).set(lag);
            }
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
