//! One admission, counted and logged exactly once, when it is answered.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::json;
use super::logs::AccessLog;
use super::metrics::controller::ControllerMetrics;
use crate::runtime::clock;

/// Where admissions report to.
#[derive(Debug)]
pub struct AdmissionLog {
    /// The metric families.
    pub metrics: Arc<ControllerMetrics>,
    log: AccessLog,
}

impl AdmissionLog {
    /// Reports to these.
    pub fn new(metrics: Arc<ControllerMetrics>, log: AccessLog) -> Self {
        Self { metrics, log }
    }
}

/// What became of an admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionResult {
    /// The pod got a sidecar.
    Injected,
    /// The pod is let through as it is.
    Unchanged,
    /// The pod is refused.
    Refused,
    /// The request could not be answered as one.
    Failed,
}

impl AdmissionResult {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// The admission line. Only these fields exist; none can hold a value of the pod's environment.
#[derive(Debug, Default, Serialize)]
struct Line {
    time: String,
    admission: String,
    namespace: String,
    pod: String,
    user: String,
    #[serde(skip_serializing_if = "is_false")]
    dry_run: bool,
    result: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    duration_ms: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Whose admission it is, as the API server tells it.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// The request's id.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name, or what it will begin with.
    pub pod: String,
    /// Who creates it.
    pub user: String,
    /// Whether nothing will come of it.
    pub dry_run: bool,
}

/// An admission under way.
#[derive(Debug)]
pub struct Admission<'a> {
    log: &'a AdmissionLog,
    started: Instant,
    line: Line,
}

impl<'a> Admission<'a> {
    /// Begins, when the body is there.
    pub fn begin(log: &'a AdmissionLog) -> Self {
        Self { log, started: clock::now(), line: Line::default() }
    }

    /// Whose it is.
    pub fn subject(&mut self, subject: Subject) {
        let Subject { uid, namespace, pod, user, dry_run } = subject;
        self.line = Line { admission: uid, namespace, pod, user, dry_run, ..Line::default() };
    }

    /// What the pod's author is told.
    pub fn told(&mut self, detail: Option<String>, warnings: &[String]) {
        self.line.detail = detail;
        self.line.warnings = warnings.to_vec();
    }

    /// Ends.
    pub fn end(mut self, result: AdmissionResult, reason: &'static str) {
        let seconds = clock::now().duration_since(self.started).as_secs_f64();
        let metrics = &self.log.metrics;
        metrics.admitted(result.as_str(), reason, seconds);
        self.line.time = clock::rfc3339();
        self.line.result = result.as_str();
        self.line.reason = reason;
        self.line.duration_ms = (seconds * 1e6).round() / 1e3;
        if let Some(text) = json::line(&self.line)
            && !self.log.log.write(&text)
        {
            metrics.admission_line_lost();
        }
    }
}
