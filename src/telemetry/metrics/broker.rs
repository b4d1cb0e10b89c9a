//! The broker's families.

use std::collections::BTreeMap;
use std::time::SystemTime;

use prometheus::{Encoder as _, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder};

use super::{Maker, MetricsError, since_1970};

/// The broker's families; fields are private, verbs are the interface.
#[derive(Debug)]
pub struct BrokerMetrics {
    registry: Registry,
    connections: IntGauge,
    sessions: IntGauge,
    ends: IntCounterVec,
    refusals: IntCounterVec,
    reviews: IntCounterVec,
    snapshots: IntCounter,
    lines_lost: IntCounter,
    accounts: IntGauge,
    expiry: GaugeVec,
    followed: IntGaugeVec,
    bindings: IntGauge,
    secrets: IntGauge,
    watch_failures: IntCounterVec,
    leader: IntGauge,
    ready: IntGaugeVec,
    status_writes: IntCounterVec,
}

/// What is followed,
pub const FOLLOWED_KINDS: [&str; 3] = ["bindings", "secrets", "config_maps"];
/// and how far it is heard.
pub const FOLLOWED_STATES: [&str; 4] = ["asked", "heard", "denied", "lost"];

/// How many sources are followed, by kind and state.
#[derive(Debug, Default)]
pub struct Followed(BTreeMap<(&'static str, &'static str), i64>);

impl Followed {
    /// Counts one.
    pub fn count(&mut self, kind: &'static str, state: &'static str) {
        *self.0.entry((kind, state)).or_default() += 1;
    }
}

impl BrokerMetrics {
    /// Declares every family.
    pub fn new() -> Result<Self, MetricsError> {
        let m = Maker(Registry::new());
        m.build_info()?;
        Ok(Self {
            connections: m.add(IntGauge::new("postern_broker_connections", "Connections open now"))?,
            sessions: m.add(IntGauge::new("postern_broker_sessions", "Streams to sidecars open now"))?,
            ends: m.counter("postern_broker_stream_ends_total", "Streams that ended, by cause", &["cause"])?,
            refusals: m.counter(
                "postern_broker_refusals_total",
                "Connections and requests that were refused, by reason",
                &["reason"],
            )?,
            reviews: m.counter(
                "postern_broker_token_reviews_total",
                "Tokens looked at, by what the API server or the memory of its last answer said",
                &["result"],
            )?,
            snapshots: m.add(IntCounter::new("postern_broker_snapshots_sent_total", "Snapshots sent to sidecars"))?,
            lines_lost: m.add(IntCounter::new(
                "postern_broker_session_lines_lost_total",
                "Session lines lost because standard output was not read in time",
            ))?,
            accounts: m.add(IntGauge::new(
                "postern_broker_accounts",
                "Service accounts that have a binding or a sidecar now",
            ))?,
            expiry: m.float(
                "postern_broker_certificate_expiry_timestamp_seconds",
                "When the certificate ends, in seconds since 1970",
                &["certificate"],
            )?,
            followed: m.gauge(
                "postern_broker_watches",
                "What is followed on the API server, one for the bindings and one for each kind in a namespace, by state",
                &["kind", "state"],
            )?,
            bindings: m.add(IntGauge::new("postern_broker_bindings", "Bindings known, good or not"))?,
            secrets: m.add(IntGauge::new("postern_broker_secrets", "Secrets held in memory"))?,
            watch_failures: m.counter(
                "postern_broker_watch_failures_total",
                "Watches that failed and began anew, by cause",
                &["kind", "cause"],
            )?,
            leader: m.add(IntGauge::new(
                "postern_broker_leader",
                "1 in the replica that writes the status of bindings, 0 in the others",
            ))?,
            ready: m.gauge(
                "postern_broker_binding_ready",
                "1 where all service accounts of a binding are served, else 0; told by the leader alone",
                &["namespace", "binding"],
            )?,
            status_writes: m.counter(
                "postern_broker_status_writes_total",
                "Writes of a binding's status, by what became of them",
                &["result"],
            )?,
            registry: m.0,
        })
    }

    /// A connection was accepted (+1) or ended (-1).
    pub fn connection(&self, change: i64) {
        self.connections.add(change);
    }

    /// A stream began.
    pub fn stream_opened(&self) {
        self.sessions.inc();
    }

    /// A stream ended.
    pub fn stream_ended(&self, cause: &'static str) {
        self.sessions.dec();
        self.ends.with_label_values(&[cause]).inc();
    }

    /// Something was refused.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    /// A token was looked at.
    pub fn reviewed(&self, result: &'static str) {
        self.reviews.with_label_values(&[result]).inc();
    }

    /// A snapshot was handed to a stream.
    pub fn snapshot_sent(&self) {
        self.snapshots.inc();
    }

    /// A session line was lost.
    pub fn line_lost(&self) {
        self.lines_lost.inc();
    }

    /// A certificate is in use that lasts until `end`: `authority` or `server`.
    pub fn certificate(&self, which: &'static str, end: SystemTime) {
        self.expiry.with_label_values(&[which]).set(since_1970(end));
    }

    /// What is followed now, and how much is known by that.
    pub fn followed(&self, followed: &Followed, bindings: usize, secrets: usize) {
        for kind in FOLLOWED_KINDS {
            for state in FOLLOWED_STATES {
                let count = followed.0.get(&(kind, state)).copied().unwrap_or(0);
                self.followed.with_label_values(&[kind, state]).set(count);
            }
        }
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.bindings.set(number(bindings));
        self.secrets.set(number(secrets));
    }

    /// A watch failed.
    pub fn watch_failed(&self, kind: &'static str, cause: &'static str) {
        self.watch_failures.with_label_values(&[kind, cause]).inc();
    }

    /// This replica writes the status of bindings, or does not. What a former leader said of bindings is not repeated.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
        if !leads {
            self.ready.reset();
        }
    }

    /// All service accounts of a binding are served, or not all.
    pub fn binding(&self, namespace: &str, name: &str, ready: bool) {
        self.ready.with_label_values(&[namespace, name]).set(i64::from(ready));
    }

    /// A binding is gone.
    pub fn binding_gone(&self, namespace: &str, name: &str) {
        // An error means that it was never told of.
        let _was_there = self.ready.remove_label_values(&[namespace, name]);
    }

    /// The status of a binding was written, or not.
    pub fn status_written(&self, result: &'static str) {
        self.status_writes.with_label_values(&[result]).inc();
    }

    /// The exposition text (version 0.0.4).
    pub fn expose(&self, accounts: usize) -> Result<Vec<u8>, MetricsError> {
        self.accounts.set(i64::try_from(accounts).unwrap_or(i64::MAX));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
