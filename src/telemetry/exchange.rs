//! One exchange, counted and logged exactly once, when its last byte is through.
//!
//! A guard, not a discipline: whoever drops an [`Exchange`] without finishing it says that the
//! agent went away, or, in a panic, that we lost it.

use std::sync::Arc;
use std::time::Instant;

use http::Version;

use self::line::{CallerFields, End, Line};
use super::logs::AccessLog;
use super::metrics::{Metrics, ServerSeries};
use crate::core::capture::{HostPattern, Way};
use crate::core::decide::Refusal;
use crate::core::mcp;
use crate::core::name::{Caller, ServerName};
use crate::core::reason::Reason;
use crate::core::session::SessionDigest;
use crate::runtime::clock;
use crate::runtime::place::placed;

mod line;

/// Where exchanges report to.
#[derive(Debug)]
pub struct Telemetry {
    /// The metric families.
    pub metrics: Metrics,
    log: AccessLog,
    caller: CallerFields,
}

impl Telemetry {
    /// Telemetry of one caller's sidecar.
    pub fn new(metrics: Metrics, log: AccessLog, caller: &Caller) -> Self {
        Self { metrics, log, caller: CallerFields::of(caller) }
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

/// One exchange under way: a pointer, since it is handed on from step to step.
#[derive(Debug)]
pub struct Exchange(Box<Course>);

/// What is known of it.
#[derive(Debug)]
struct Course {
    telemetry: Arc<Telemetry>,
    started: Instant,
    /// Where it was sent more than once: the last time.
    sent_again: Option<Instant>,
    forwarded: bool,
    /// The upstream's headers came.
    answered: Option<Instant>,
    server: Option<Arc<ServerSeries>>,
    stream: Option<(&'static str, Instant)>,
    line: Line,
    done: bool,
}

impl Exchange {
    /// Begins with the request's head, when its body is read; `http` is its method.
    pub fn begin(telemetry: &Arc<Telemetry>, http: &str) -> Self {
        Self(placed(|| Course {
            telemetry: Arc::clone(telemetry),
            started: clock::now(),
            sent_again: None,
            forwarded: false,
            answered: None,
            server: None,
            stream: None,
            line: Line::new(http),
            done: false,
        }))
    }

    /// By which way the request came.
    pub fn way(&mut self, way: &Way) {
        self.0.line.capture = Some(way.as_str());
        if let Way::Direct(direct) = way {
            self.0.line.destination = direct.original;
        }
    }

    /// What the agent speaks, once it has asked for something in it.
    pub fn protocol(&mut self, protocol: Version) {
        self.0.line.protocol = Some(if protocol == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" });
    }

    /// It is led to a host without a credential: which of the configured ones.
    pub fn passes_through(&mut self, pattern: &HostPattern) {
        self.0.line.passthrough = Some(pattern.to_string());
        self.0.telemetry.metrics.passthrough_opened();
    }

    /// The server meant, once known to be ours: it becomes a label.
    pub fn server(&mut self, server: &ServerName) {
        self.0.server = Some(self.0.telemetry.metrics.server(server));
    }

    /// The server meant, if one is.
    pub fn server_name(&self) -> Option<&ServerName> {
        self.0.server().name()
    }

    /// What the body asks for.
    pub fn message(&mut self, method: Option<&str>, tool: Option<&str>, id: Option<&str>) {
        let line = &mut self.0.line;
        line.method = method.map(mcp::method_label);
        line.tool = tool.filter(|_| method == Some("tools/call")).map(|tool| line.texts.keep_clipped(tool));
        line.rpc_id = id.map(|id| line.texts.keep_clipped(id));
    }

    /// What the body is, where it holds no single message: `batch` or `invalid`.
    pub fn body_kind(&mut self, kind: &'static str) {
        self.0.line.method = Some(kind);
    }

    /// The session and trace the request names.
    pub fn context(&mut self, session: Option<SessionDigest>, traceparent: Option<&str>) {
        let line = &mut self.0.line;
        line.session = session;
        line.traceparent = traceparent.map(|trace| line.texts.keep_clipped(trace));
    }

    /// The agent had sent a credential of its own, which is dropped.
    pub fn token_stripped(&self) {
        self.0.telemetry.metrics.token_stripped(self.0.server());
    }

    /// Which credential is used.
    pub fn credential(&mut self, secret: &str, version: &str, generation: u64) {
        let line = &mut self.0.line;
        line.secret = Some(line.texts.keep(secret));
        line.secret_version = Some(line.texts.keep(version));
        line.generation = Some(generation);
    }

    /// Bytes of the request's body.
    pub fn received(&mut self, bytes: usize) {
        self.0.line.bytes_in += bytes as u64;
    }

    /// Bytes of the answer's body.
    pub fn sent(&mut self, bytes: usize) {
        self.0.line.bytes_out += bytes as u64;
    }

    /// Bytes that went through, to the host and to the agent.
    pub fn passed(&mut self, to_host: u64, to_agent: u64) {
        (self.0.line.bytes_in, self.0.line.bytes_out) = (to_host, to_agent);
    }

    /// The credential came back this often, and was masked.
    pub fn masked(&mut self, count: u64) {
        if count > 0 {
            self.0.line.masked = Some(self.0.line.masked.unwrap_or(0) + count);
            self.0.telemetry.metrics.echoes_masked(self.0.server(), count);
        }
    }

    /// The request is complete and goes to the upstream now: says when that is. The first time that is when it began:
    /// since then it was only decided.
    pub fn forwarded(&mut self) -> Instant {
        let course = &mut *self.0;
        if std::mem::replace(&mut course.forwarded, true) {
            *course.sent_again.insert(clock::now())
        } else {
            course.started
        }
    }

    /// The upstream's headers came.
    pub fn headers(&mut self, status: u16) {
        let now = clock::now();
        let course = &mut *self.0;
        course.answered = Some(now);
        course.line.status = Some(status);
        let time = now.duration_since(course.sent_again.unwrap_or(course.started));
        course.line.headers = Some(time);
        course.telemetry.metrics.headers_came(course.server(), course.line.method_label(), time.as_secs_f64());
    }

    /// The answer is an event stream: count it as open until the end.
    pub fn streaming(&mut self) {
        let course = &mut *self.0;
        let kind = if course.line.http() == "GET" { "get" } else { "post" };
        course.stream = Some((kind, course.answered.unwrap_or_else(clock::now)));
        course.telemetry.metrics.stream_opened(course.server(), kind);
    }

    /// Ends as refused.
    pub fn refuse(mut self, refusal: &Refusal, status: u16) {
        if let Some(server) = &refusal.server {
            self.server(server);
        }
        let course = &mut *self.0;
        course.line.status = Some(status);
        let metrics = &course.telemetry.metrics;
        metrics.refused(course.server(), refusal.reason);
        if refusal.reason == Reason::UpstreamAuthRejected {
            metrics.auth_rejected(course.server());
        }
        course.end(clock::now(), Outcome::Refused, Some(refusal));
    }

    /// Ends with an answer of our own that is no refusal.
    pub fn answered(mut self, status: u16) {
        self.0.line.status = Some(status);
        self.0.end(clock::now(), Outcome::Ok, None);
    }

    /// Ends now.
    pub fn finish(self, outcome: Outcome) {
        self.finish_at(clock::now(), outcome);
    }

    /// Ends, at this moment.
    pub fn finish_at(mut self, now: Instant, outcome: Outcome) {
        let failed = outcome == Outcome::Ok && self.0.line.status.is_some_and(|status| status >= 400);
        self.0.end(now, if failed { Outcome::UpstreamError } else { outcome }, None);
    }
}

impl Course {
    fn server(&self) -> &ServerSeries {
        self.server.as_deref().unwrap_or_else(|| self.telemetry.metrics.no_server())
    }

    fn end(&mut self, now: Instant, outcome: Outcome, refusal: Option<&Refusal>) {
        self.done = true;
        let (server, line) = (self.server(), &self.line);
        let Telemetry { metrics, log, caller } = &*self.telemetry;
        let time = now.duration_since(self.started);
        metrics.exchange_ended(server, line.method_label(), outcome.as_str());
        if let Some((kind, since)) = self.stream {
            metrics.stream_closed(server, kind, now.duration_since(since).as_secs_f64());
        }
        if line.passthrough.is_some() {
            metrics.passthrough_closed(line.bytes_in, line.bytes_out, time.as_secs_f64());
        }
        let end = End { caller, server: server.name(), outcome, refusal, time };
        if !log.append(|stamp, out| line.write(out, |out| stamp.write(now, out), &end)) {
            metrics.access_line_lost();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.0.done {
            return;
        }
        let outcome = if std::thread::panicking() { Outcome::Panicked } else { Outcome::ClientClosed };
        self.0.end(clock::now(), outcome, None);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, pipe};

    use serde_json::Value;

    use super::*;
    use crate::core::name::{CallerKey, Namespace, ServiceAccount};

    /// What a few exchanges leave in the log and in the metrics.
    fn told(of: impl FnOnce(&Arc<Telemetry>)) -> (Vec<Value>, String) {
        let (mut reader, writer) = pipe().unwrap();
        let log = AccessLog::writing_to(writer).unwrap();
        let key = CallerKey {
            namespace: Namespace::parse("ns").unwrap(),
            service_account: ServiceAccount::parse("sa").unwrap(),
            user: None,
        };
        let telemetry = Arc::new(Telemetry::new(Metrics::new().unwrap(), log, &Caller { key, pod: None }));
        of(&telemetry);
        let exposed = String::from_utf8(telemetry.metrics.expose(&[]).unwrap()).unwrap();
        drop(telemetry);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        (text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), exposed)
    }

    fn outcomes(lines: &[Value]) -> Vec<&str> {
        lines.iter().filter_map(|line| line["outcome"].as_str()).collect()
    }

    #[test]
    fn an_exchange_is_counted_and_logged_once_however_it_ends() {
        let name = ServerName::parse("srv").unwrap();
        let (lines, exposed) = told(|telemetry| {
            let begin = || {
                let mut exchange = Exchange::begin(telemetry, "POST");
                exchange.server(&name);
                exchange.message(Some("tools/call"), Some("search"), Some("1"));
                exchange
            };
            let mut failed = begin();
            failed.headers(500);
            failed.finish(Outcome::Ok);
            begin().answered(404);
            begin().refuse(&Refusal::new(Reason::ToolDenied), 200);
            drop(begin());
            let lost = begin();
            let panicked = std::thread::spawn(move || {
                let _held = lost;
                panic!("with an exchange");
            });
            assert!(panicked.join().is_err());
        });
        assert_eq!(outcomes(&lines), ["upstream_error", "ok", "refused", "client_closed", "panicked"]);
        assert_eq!((&lines[2]["reason"], &lines[2]["status"]), (&Value::from("tool_denied"), &Value::from(200)));
        for outcome in outcomes(&lines) {
            let counted =
                format!("postern_requests_total{{method=\"tools/call\",outcome=\"{outcome}\",server=\"srv\"}} 1\n");
            assert!(exposed.contains(&counted), "{counted} in {exposed}");
        }
    }

    /// A call that is sent once more tells of the last time: server, credential and the wait for the headers.
    #[test]
    fn what_is_said_twice_is_told_as_it_was_last() {
        let names = ["first", "last"].map(|name| ServerName::parse(name).unwrap());
        let (lines, exposed) = told(|telemetry| {
            let mut exchange = Exchange::begin(telemetry, "GET");
            for (name, generation) in names.iter().zip(1..) {
                exchange.server(name);
                exchange.credential(name.as_str(), "v", generation);
                exchange.forwarded();
                exchange.headers(200);
                exchange.masked(generation);
            }
            exchange.streaming();
            exchange.finish(Outcome::Drained);
        });
        let line = &lines[0];
        assert_eq!((&line["server"], &line["secret"]), (&Value::from("last"), &Value::from("last")));
        assert_eq!((&line["generation"], &line["masked"]), (&Value::from(2), &Value::from(3)));
        assert!(line["headers_ms"].as_f64() <= line["duration_ms"].as_f64());
        assert!(exposed.contains("postern_echo_masks_total{server=\"last\"} 2\n"), "{exposed}");
        assert!(exposed.contains("postern_stream_seconds_count{kind=\"get\",server=\"last\"} 1\n"), "{exposed}");
        assert!(exposed.contains("postern_open_streams{kind=\"get\",server=\"last\"} 0\n"), "{exposed}");
    }
}
