//! One exchange, counted and logged exactly once, when its last byte is through.
//!
//! A guard, not a discipline: whoever drops an [`Exchange`] without finishing it says that the
//! agent went away, or, in a panic, that we lost it.

use std::sync::Arc;
use std::time::Instant;

use http::Version;
use serde::Serialize;

use super::logs::{self, AccessLog};
use super::metrics::Metrics;
use crate::core::capture::{HostPattern, Way};
use crate::core::decide::Refusal;
use crate::core::mcp;
use crate::core::name::{Caller, ServerName};
use crate::core::reason::Reason;
use crate::core::session::SessionDigest;
use crate::runtime::clock;

/// Where exchanges report to.
#[derive(Debug)]
pub struct Telemetry {
    /// The metric families.
    pub metrics: Metrics,
    log: AccessLog,
    caller: CallerFields,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct CallerFields {
    namespace: String,
    service_account: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
}

impl Telemetry {
    /// Telemetry of one caller's sidecar.
    pub fn new(metrics: Metrics, log: AccessLog, caller: &Caller) -> Self {
        let caller = CallerFields {
            namespace: caller.key.namespace.to_string(),
            service_account: caller.key.service_account.to_string(),
            pod: caller.pod.as_ref().map(ToString::to_string),
        };
        Self { metrics, log, caller }
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer went to the agent.
    Ok,
    /// The whole answer went to the agent, and its status was 4xx or 5xx: the server's own error.
    UpstreamError,
    /// Refused; the reason says why.
    Refused,
    /// The agent closed its connection first. Normal for clients that stop at the last event.
    ClientClosed,
    /// The upstream broke off inside its answer.
    UpstreamGone,
    /// The upstream's event stream would have led the agent elsewhere, and was ended.
    BadStream,
    /// Nothing came from the upstream, or could be given to the agent, for too long.
    Idle,
    /// The credential was withdrawn while the answer streamed.
    Revoked,
    /// The source could not vouch for the credential any more while the answer streamed.
    Barred(Reason),
    /// The credential was replaced, and the grace for old streams is over.
    Rotated,
    /// Ended by our shutdown.
    Drained,
    /// Lost by a fault of ours.
    Panicked,
}

impl Outcome {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::UpstreamError => "upstream_error",
            Self::Refused => "refused",
            Self::ClientClosed => "client_closed",
            Self::UpstreamGone => "upstream_gone",
            Self::BadStream => "bad_stream",
            Self::Idle => "idle",
            Self::Revoked => "revoked",
            Self::Barred(_) => "barred",
            Self::Rotated => "rotated",
            Self::Drained => "drained",
            Self::Panicked => "panicked",
        }
    }
}

/// The access line. Only these fields exist; none can hold a value, a query or an argument.
#[derive(Debug, Default, Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    http: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    capture: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    passthrough: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    masked: Option<u64>,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers_ms: Option<f64>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

#[derive(Serialize)]
struct Whole<'a> {
    time: String,
    caller: &'a CallerFields,
    #[serde(flatten)]
    line: &'a Line,
}

/// The longest text of the agent's that goes into the log.
const MAX_TEXT: usize = 128;

/// One exchange under way.
#[derive(Debug)]
pub struct Exchange {
    telemetry: Arc<Telemetry>,
    started: Instant,
    sent: Option<Instant>,
    line: Line,
    stream: Option<(&'static str, Instant)>,
    done: bool,
}

impl Exchange {
    /// Begins with the request's head; `http` is its method.
    pub fn begin(telemetry: &Arc<Telemetry>, http: &str) -> Self {
        let line = Line { http: clipped(http), ..Line::default() };
        Self { telemetry: Arc::clone(telemetry), started: clock::now(), sent: None, line, stream: None, done: false }
    }

    /// By which way the request came.
    pub fn way(&mut self, way: &Way) {
        self.line.capture = Some(way.as_str());
        if let Way::Direct(direct) = way {
            self.line.destination = direct.original.map(|original| original.to_string());
        }
    }

    /// What the agent speaks, once it has asked for something in it.
    pub fn protocol(&mut self, protocol: Version) {
        self.line.protocol = Some(if protocol == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" });
    }

    /// It is led to a host without a credential: which of the configured ones.
    pub fn passes_through(&mut self, pattern: &HostPattern) {
        self.line.passthrough = Some(pattern.to_string());
        self.telemetry.metrics.passthrough_opened();
    }

    /// The server meant, once known to be ours: it becomes a label.
    pub fn server(&mut self, server: &ServerName) {
        self.line.server = Some(server.to_string());
    }

    /// What the body asks for.
    pub fn message(&mut self, method: Option<&str>, tool: Option<&str>, id: Option<&str>) {
        self.line.method = method.map(mcp::method_label);
        self.line.tool = tool.filter(|_| method == Some("tools/call")).map(clipped);
        self.line.rpc_id = id.map(clipped);
    }

    /// What the body is, where it holds no single message: `batch` or `invalid`.
    pub fn body_kind(&mut self, kind: &'static str) {
        self.line.method = Some(kind);
    }

    /// The session and trace the request names.
    pub fn context(&mut self, session: Option<SessionDigest>, traceparent: Option<&str>) {
        self.line.session = session.map(|digest| digest.short());
        self.line.traceparent = traceparent.map(clipped);
    }

    /// Which credential is used.
    pub fn credential(&mut self, secret: &str, version: &str, generation: u64) {
        self.line.secret = Some(secret.to_owned());
        self.line.secret_version = Some(version.to_owned());
        self.line.generation = Some(generation);
    }

    /// Bytes of the request's body.
    pub fn received(&mut self, bytes: usize) {
        self.line.bytes_in += bytes as u64;
    }

    /// Bytes of the answer's body.
    pub fn sent(&mut self, bytes: usize) {
        self.line.bytes_out += bytes as u64;
    }

    /// Bytes that went through, to the host and to the agent.
    pub fn passed(&mut self, to_host: u64, to_agent: u64) {
        (self.line.bytes_in, self.line.bytes_out) = (to_host, to_agent);
    }

    /// The credential came back this often, and was masked.
    pub fn masked(&mut self, count: u64) {
        if count > 0 {
            self.line.masked = Some(self.line.masked.unwrap_or(0) + count);
            self.telemetry.metrics.echoes_masked(self.server_label(), count);
        }
    }

    /// The request is complete and goes to the upstream now.
    pub fn forwarded(&mut self) {
        self.sent = Some(clock::now());
    }

    /// The upstream's headers came.
    pub fn headers(&mut self, status: u16) {
        self.line.status = Some(status);
        let seconds = clock::now().duration_since(self.sent.unwrap_or(self.started)).as_secs_f64();
        self.line.headers_ms = Some(rounded(seconds));
        self.telemetry.metrics.headers_came(self.server_label(), self.method_label(), seconds);
    }

    /// The answer is an event stream: count it as open until the end.
    pub fn streaming(&mut self) {
        let kind = if self.line.http == "GET" { "get" } else { "post" };
        self.stream = Some((kind, clock::now()));
        self.telemetry.metrics.stream_opened(self.server_label(), kind);
    }

    /// Ends as refused.
    pub fn refuse(mut self, refusal: &Refusal, status: u16) {
        if let Some(server) = &refusal.server {
            self.server(server);
        }
        self.line.reason = Some(refusal.reason.as_str());
        self.line.detail.clone_from(&refusal.detail);
        self.line.status = Some(status);
        self.telemetry.metrics.refused(self.line.server.as_deref().unwrap_or_default(), refusal.reason);
        if refusal.reason == Reason::UpstreamAuthRejected {
            self.telemetry.metrics.auth_rejected(self.server_label());
        }
        self.end(Outcome::Refused);
    }

    /// Ends with an answer of our own that is no refusal.
    pub fn answered(mut self, status: u16) {
        self.line.status = Some(status);
        self.end(Outcome::Ok);
    }

    /// Ends.
    pub fn finish(mut self, outcome: Outcome) {
        let failed = outcome == Outcome::Ok && self.line.status.is_some_and(|status| status >= 400);
        self.end(if failed { Outcome::UpstreamError } else { outcome });
    }

    fn server_label(&self) -> &str {
        self.line.server.as_deref().unwrap_or_default()
    }

    fn method_label(&self) -> &'static str {
        // Without a method in the body, the kind of request is what there is to tell.
        self.line.method.unwrap_or(match self.line.http.as_str() {
            "GET" => "get",
            "DELETE" => "delete",
            "POST" => "response",
            _ => "other",
        })
    }

    fn end(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let metrics = &self.telemetry.metrics;
        metrics.exchange_ended(self.server_label(), self.method_label(), outcome.as_str());
        if let Some((kind, since)) = self.stream {
            metrics.stream_closed(self.server_label(), kind, clock::now().duration_since(since).as_secs_f64());
        }
        if self.line.passthrough.is_some() {
            let seconds = clock::now().duration_since(self.started).as_secs_f64();
            metrics.passthrough_closed(self.line.bytes_in, self.line.bytes_out, seconds);
        }
        self.line.outcome = outcome.as_str();
        self.line.duration_ms = rounded(clock::now().duration_since(self.started).as_secs_f64());
        let whole = Whole { time: clock::rfc3339(), caller: &self.telemetry.caller, line: &self.line };
        if let Some(text) = logs::json_line(&whole)
            && !self.telemetry.log.write(text)
        {
            metrics.access_line_lost();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end(if std::thread::panicking() { Outcome::Panicked } else { Outcome::ClientClosed });
    }
}

/// Seconds to milliseconds with three digits.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}

fn clipped(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
