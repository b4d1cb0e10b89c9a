//! The controller's families.

use prometheus::{Encoder as _, HistogramVec, IntCounter, IntCounterVec, Registry, TextEncoder};

use super::{Maker, MetricsError};

/// The controller's families; fields are private, verbs are the interface.
#[derive(Debug)]
pub struct ControllerMetrics {
    registry: Registry,
    admissions: IntCounterVec,
    admission_seconds: HistogramVec,
    lines_lost: IntCounter,
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

    /// The exposition text (version 0.0.4).
    pub fn expose(&self) -> Result<Vec<u8>, MetricsError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
