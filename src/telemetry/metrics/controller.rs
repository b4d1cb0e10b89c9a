//! The controller's families.

use std::time::SystemTime;

use prometheus::{Encoder as _, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};

use super::{Maker, MetricsError, since_1970};

/// The controller's families; fields are private, verbs are the interface.
#[derive(Debug)]
pub struct ControllerMetrics {
    registry: Registry,
    admissions: IntCounterVec,
    admission_seconds: HistogramVec,
    lines_lost: IntCounter,
    expiry: GaugeVec,
    in_sync: IntGauge,
}

/// The API server gives up after seconds.
const ADMISSION_BUCKETS: [f64; 8] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.1, 1.0, 5.0];

impl ControllerMetrics {
    /// Declares every family.
    pub fn new() -> Result<Self, MetricsError> {
        let m = Maker(Registry::new());
        m.build_info()?;
        Ok(Self {
            admissions: m.counter(
                "postern_admissions_total",
                "Admissions by result and by its reason",
                &["result", "reason"],
            )?,
            admission_seconds: m.histogram(
                "postern_admission_seconds",
                "From an admission's body to its answer",
                &["result"],
                &ADMISSION_BUCKETS,
            )?,
            lines_lost: m.add(IntCounter::new(
                "postern_admission_lines_lost_total",
                "Admission lines lost because standard output was not read in time",
            ))?,
            expiry: m.float(
                "postern_webhook_certificate_expiry_timestamp_seconds",
                "When the certificate ends, in seconds since 1970",
                &["certificate"],
            )?,
            in_sync: m.add(IntGauge::new(
                "postern_webhook_ca_bundle_in_sync",
                "Whether API servers trust the certificate shown, by the webhook configuration as last read",
            ))?,
            registry: m.0,
        })
    }

    /// An admission ended.
    pub fn admitted(&self, result: &'static str, reason: &'static str, seconds: f64) {
        self.admissions.with_label_values(&[result, reason]).inc();
        self.admission_seconds.with_label_values(&[result]).observe(seconds);
    }

    /// An admission line was lost.
    pub fn admission_line_lost(&self) {
        self.lines_lost.inc();
    }

    /// A certificate is in use that lasts until `end`: `authority` or `server`.
    pub fn certificate(&self, which: &'static str, end: SystemTime) {
        self.expiry.with_label_values(&[which]).set(since_1970(end));
    }

    /// Whether the webhook configuration leads to the certificate that is shown.
    pub fn ca_bundle_in_sync(&self, is_so: bool) {
        self.in_sync.set(i64::from(is_so));
    }

    /// The exposition text (version 0.0.4).
    pub fn expose(&self) -> Result<Vec<u8>, MetricsError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
