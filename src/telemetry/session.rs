//! One stream of the broker, counted and logged exactly once, when it ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::json;
use super::logs::AccessLog;
use super::metrics::broker::BrokerMetrics;
use crate::core::name::CallerKey;
use crate::runtime::clock;

/// Where sessions report to.
#[derive(Debug)]
pub struct SessionLog {
    /// The metric families.
    pub metrics: BrokerMetrics,
    log: AccessLog,
}

impl SessionLog {
    /// Reports to these.
    pub fn new(metrics: BrokerMetrics, log: AccessLog) -> Self {
        Self { metrics, log }
    }
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The sidecar went away: it has another stream, or its pod is gone.
    Closed,
    /// A stream lives so long and no longer.
    Life,
    /// The token's time is over.
    TokenExpired,
    /// The sidecar did not read.
    Stalled,
    /// Our shutdown.
    Drained,
}

impl Cause {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Life => "life",
            Self::TokenExpired => "token_expired",
            Self::Stalled => "stalled",
            Self::Drained => "drained",
        }
    }
}

/// The session line. Only these fields exist; none can hold a token or a value.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    session: Who<'a>,
    peer: IpAddr,
    cause: &'static str,
    snapshots: u64,
    heartbeats: u64,
    bytes_out: u64,
    duration_ms: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Who<'a> {
    namespace: &'a str,
    service_account: &'a str,
    pod: &'a str,
    pod_uid: &'a str,
}

/// One stream under way. Dropped early, it says that the sidecar went away.
#[derive(Debug)]
pub struct Session {
    log: Arc<SessionLog>,
    account: CallerKey,
    pod: String,
    pod_uid: String,
    peer: IpAddr,
    started: Instant,
    snapshots: u64,
    heartbeats: u64,
    bytes: u64,
    cause: Cause,
}

impl Session {
    /// Begins. All of who it is has been proven.
    pub fn begin(log: &Arc<SessionLog>, account: &CallerKey, pod: &str, pod_uid: &str, peer: IpAddr) -> Self {
        log.metrics.stream_opened();
        Self {
            log: Arc::clone(log),
            account: account.clone(),
            pod: pod.to_owned(),
            pod_uid: pod_uid.to_owned(),
            peer,
            started: clock::now(),
            snapshots: 0,
            heartbeats: 0,
            bytes: 0,
            cause: Cause::Closed,
        }
    }

    /// A snapshot was handed over.
    pub fn snapshot(&mut self) {
        self.snapshots += 1;
        self.log.metrics.snapshot_sent();
    }

    /// A heartbeat was handed over.
    pub fn heartbeat(&mut self) {
        self.heartbeats += 1;
    }

    /// So many bytes were handed over.
    pub fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Ends.
    pub fn end(mut self, cause: Cause) {
        self.cause = cause;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let metrics = &self.log.metrics;
        metrics.stream_ended(self.cause.as_str());
        let line = Line {
            time: clock::rfc3339(),
            session: Who {
                namespace: self.account.namespace.as_str(),
                service_account: self.account.service_account.as_str(),
                pod: &self.pod,
                pod_uid: &self.pod_uid,
            },
            peer: self.peer,
            cause: self.cause.as_str(),
            snapshots: self.snapshots,
            heartbeats: self.heartbeats,
            bytes_out: self.bytes,
            duration_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        if let Some(text) = json::line(&line)
            && !self.log.log.write(&text)
        {
            metrics.line_lost();
        }
    }
}
