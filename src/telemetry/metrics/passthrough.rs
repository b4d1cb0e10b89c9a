//! Connections that are led to a host without a credential.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};

use super::{Maker, Metrics, MetricsError, STREAM_BUCKETS};

/// No label tells the host: it is what an agent sent.
#[derive(Debug)]
pub(super) struct Passthrough {
    open: IntGauge,
    to_host: IntCounter,
    to_agent: IntCounter,
    seconds: Histogram,
}

impl Passthrough {
    pub(super) fn new(m: &Maker) -> Result<Self, MetricsError> {
        let bytes = m.counter(
            "postern_passthrough_bytes_total",
            "Bytes of ended passthrough connections, to_host or to_agent",
            &["direction"],
        )?;
        let seconds = HistogramOpts::new("postern_passthrough_seconds", "How long passthrough connections stayed open");
        Ok(Self {
            open: m.add(IntGauge::new(
                "postern_passthrough_connections",
                "Connections to passthrough hosts open now; without a credential",
            ))?,
            to_host: bytes.with_label_values(&["to_host"]),
            to_agent: bytes.with_label_values(&["to_agent"]),
            seconds: m.add(Histogram::with_opts(seconds.buckets(STREAM_BUCKETS.to_vec())))?,
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
        self.passthrough.to_host.inc_by(to_host);
        self.passthrough.to_agent.inc_by(to_agent);
        self.passthrough.seconds.observe(seconds);
    }
}
