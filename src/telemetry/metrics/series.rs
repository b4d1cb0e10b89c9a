//! The series of one server, found once and kept: an exchange that ends looks nothing up by its text.
//!
//! A series begins with the first thing that is counted in it, and none of these ever ends: a server
//! that is bound no more keeps what was counted for it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use prometheus::{Histogram, IntCounter, IntGauge};

use super::Metrics;
use crate::core::name::ServerName;
use crate::core::reason::Reason;

/// What is counted for one server, or where no server was found.
#[derive(Debug, Default)]
pub struct ServerSeries {
    name: Option<ServerName>,
    methods: ByLabel<MethodSeries>,
    streams: ByLabel<StreamSeries>,
    refusals: ByLabel<IntCounter>,
    tokens_stripped: OnceLock<IntCounter>,
}

impl ServerSeries {
    /// The label, which is empty where no server was found.
    pub fn label(&self) -> &str {
        self.name.as_ref().map_or("", ServerName::as_str)
    }

    /// The server, where one was found.
    pub fn name(&self) -> Option<&ServerName> {
        self.name.as_ref()
    }
}

#[derive(Debug, Default)]
struct MethodSeries {
    outcomes: ByLabel<IntCounter>,
    time_to_headers: OnceLock<Histogram>,
}

#[derive(Debug, Default)]
struct StreamSeries {
    open: OnceLock<IntGauge>,
    life: OnceLock<Histogram>,
}

/// By server: only names out of bindings get in.
#[derive(Debug, Default)]
pub(super) struct Servers {
    bound: RwLock<BTreeMap<ServerName, Arc<ServerSeries>>>,
    unbound: ServerSeries,
}

/// One for each label of a closed list, in the order in which they came up: there are few, and the usual
/// ones come first.
#[derive(Debug)]
struct ByLabel<M>(OnceLock<Box<Labelled<M>>>);

#[derive(Debug)]
struct Labelled<M> {
    label: &'static str,
    it: M,
    others: ByLabel<M>,
}

impl<M> Default for ByLabel<M> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<M> ByLabel<M> {
    /// The one of this label, which is made if there is none yet.
    fn get(&self, label: &'static str, make: impl Fn() -> M) -> &M {
        let mut list = self;
        loop {
            let new = || Box::new(Labelled { label, it: make(), others: Self::default() });
            let labelled = list.0.get_or_init(new);
            if labelled.label == label {
                return &labelled.it;
            }
            list = &labelled.others;
        }
    }
}

impl Metrics {
    /// The series of a bound server.
    pub fn server(&self, name: &ServerName) -> Arc<ServerSeries> {
        let bound = self.servers.bound.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = bound.get(name) {
            return Arc::clone(series);
        }
        drop(bound);
        let mut bound = self.servers.bound.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(ServerSeries { name: Some(name.clone()), ..ServerSeries::default() });
        Arc::clone(bound.entry(name.clone()).or_insert_with(new))
    }

    /// The series of what no server was found for.
    pub fn no_server(&self) -> &ServerSeries {
        &self.servers.unbound
    }

    /// An exchange ended.
    pub fn exchange_ended(&self, server: &ServerSeries, method: &'static str, outcome: &'static str) {
        let requests = &self.exchanges.requests;
        let new = || requests.with_label_values(&[server.label(), method, outcome]);
        server.methods.get(method, MethodSeries::default).outcomes.get(outcome, new).inc();
    }

    /// An exchange was refused.
    pub fn refused(&self, server: &ServerSeries, reason: Reason) {
        let new = || self.exchanges.refusals.with_label_values(&[server.label(), reason.as_str()]);
        server.refusals.get(reason.as_str(), new).inc();
    }

    /// The upstream's headers came.
    pub fn headers_came(&self, server: &ServerSeries, method: &'static str, seconds: f64) {
        let new = || self.exchanges.time_to_headers.with_label_values(&[server.label(), method]);
        server.methods.get(method, MethodSeries::default).time_to_headers.get_or_init(new).observe(seconds);
    }

    /// An event stream began.
    pub fn stream_opened(&self, server: &ServerSeries, kind: &'static str) {
        let new = || self.exchanges.open_streams.with_label_values(&[server.label(), kind]);
        server.streams.get(kind, StreamSeries::default).open.get_or_init(new).inc();
    }

    /// An event stream ended.
    pub fn stream_closed(&self, server: &ServerSeries, kind: &'static str, seconds: f64) {
        let labels = [server.label(), kind];
        let stream = server.streams.get(kind, StreamSeries::default);
        stream.open.get_or_init(|| self.exchanges.open_streams.with_label_values(&labels)).dec();
        stream.life.get_or_init(|| self.exchanges.stream_life.with_label_values(&labels)).observe(seconds);
    }

    /// The agent had sent a credential.
    pub fn token_stripped(&self, server: &ServerSeries) {
        let new = || self.exchanges.tokens_stripped.with_label_values(&[server.label()]);
        server.tokens_stripped.get_or_init(new).inc();
    }

    /// The upstream sent the credential back this often.
    pub fn echoes_masked(&self, server: &ServerSeries, count: u64) {
        self.exchanges.echoes_masked.with_label_values(&[server.label()]).inc_by(count);
    }

    /// The upstream refused ours.
    pub fn auth_rejected(&self, server: &ServerSeries) {
        self.credentials.auth_rejections.with_label_values(&[server.label()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(metrics: &Metrics) -> Vec<String> {
        let text = String::from_utf8(metrics.expose(&[]).unwrap()).unwrap();
        let counted = |line: &&str| {
            ["_requests_total{", "_refusals_total{", "_headers_seconds_count{", "_stream", "_stripped", "_masks"]
                .iter()
                .any(|part| line.contains(part))
                && !line.starts_with('#')
                && !line.contains("_bucket")
                && !line.contains("_sum")
        };
        text.lines().filter(counted).map(str::to_owned).collect()
    }

    /// What has not happened is not exposed, not even as 0; and one name is one server, however often it
    /// is parsed.
    #[test]
    fn a_series_begins_with_what_is_counted_in_it() {
        let metrics = Metrics::new().unwrap();
        let named = |name: &str| metrics.server(&ServerName::parse(name).unwrap());
        let (a, b, none) = (named("a"), named("b"), metrics.no_server());
        assert_eq!(exposed(&metrics), Vec::<String>::new());
        metrics.exchange_ended(&a, "tools/call", "ok");
        metrics.exchange_ended(&named("a"), "tools/call", "ok");
        metrics.exchange_ended(&a, "tools/call", "refused");
        metrics.exchange_ended(&a, "get", "ok");
        metrics.exchange_ended(&b, "tools/call", "ok");
        metrics.refused(none, Reason::UnboundServer);
        metrics.headers_came(&b, "get", 1.0);
        metrics.stream_opened(&b, "get");
        metrics.token_stripped(&a);
        let expected = [
            r#"postern_agent_tokens_stripped_total{server="a"} 1"#,
            r#"postern_open_streams{kind="get",server="b"} 1"#,
            r#"postern_refusals_total{reason="unbound_server",server=""} 1"#,
            r#"postern_requests_total{method="get",outcome="ok",server="a"} 1"#,
            r#"postern_requests_total{method="tools/call",outcome="ok",server="a"} 2"#,
            r#"postern_requests_total{method="tools/call",outcome="ok",server="b"} 1"#,
            r#"postern_requests_total{method="tools/call",outcome="refused",server="a"} 1"#,
            r#"postern_time_to_headers_seconds_count{method="get",server="b"} 1"#,
        ];
        assert_eq!(exposed(&metrics), expected);
        metrics.stream_closed(&b, "get", 1.0);
        let after = exposed(&metrics);
        assert!(after.contains(&r#"postern_open_streams{kind="get",server="b"} 0"#.to_owned()), "{after:?}");
        assert!(after.contains(&r#"postern_stream_seconds_count{kind="get",server="b"} 1"#.to_owned()), "{after:?}");
        assert_eq!(after.len(), expected.len() + 1);
    }

    /// Whoever comes at once to a label that is not there yet counts in the same series.
    #[test]
    fn those_who_come_at_once_share_a_series() {
        let metrics = Metrics::new().unwrap();
        let start = std::sync::Barrier::new(4);
        let name = ServerName::parse("a").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    for method in ["a", "b", "c", "d", "e"] {
                        metrics.exchange_ended(&metrics.server(&name), method, "ok");
                    }
                });
            }
        });
        let counts = exposed(&metrics);
        assert_eq!(counts.len(), 5);
        assert!(counts.iter().all(|line| line.ends_with(" 4")), "{counts:?}");
    }
}
