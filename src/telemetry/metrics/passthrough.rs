//! Connections that are led to a host without a credential.

use prometheus::{HistogramVec, IntCounterVec, IntGauge};

use super::{Maker, Metrics, MetricsError, STREAM_BUCKETS};

/// No label tells the host: it is what an agent sent.
#[derive(Debug)]
pub(super) struct Passthrough {
    open: IntGauge,
    bytes: IntCounterVec,
    seconds: HistogramVec,
}

impl Passthrough {
    pub(super) fn new(m: &Maker) -> Result<Self, MetricsError> {
        Ok(Self {
            open: m.add(IntGauge::new(
                "postern_passthrough_connections",
                "Connections to passthrough hosts open now; without a credential",
            ))?,
            bytes: m.counter(
                "postern_passthrough_bytes_total",
                "Bytes of ended passthrough connections, to_host or to_agent",
                &["direction"],
            )?,
            seconds: m.histogram(
                "postern_passthrough_seconds",
                "How long passthrough connections stayed open",
                &[],
                &STREAM_BUCKETS,
            )?,
        })
    }
}

impl Metrics {
    /// A connection to a passthrough host was opened.
    pub fn passthrough_opened(&self) {
        self.passthrough.open.inc();
    }

    /// It ended, after so many bytes to the host and to the agent.
    pub fn passthrough_closed(&self, to_host: u64, to_agent: u64, seconds: f64) {
        self.passthrough.open.dec();
        self.passthrough.bytes.with_label_values(&["to_host"]).inc_by(to_host);
        self.passthrough.bytes.with_label_values(&["to_agent"]).inc_by(to_agent);
        self.passthrough.seconds.with_label_values(&[] as &[&str]).observe(seconds);
    }
}
