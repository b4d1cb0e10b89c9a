//! What is measured: a closed list, each by its name.

use std::time::Duration;

use super::subject::{ALL, Subject};

/// How agents behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// So many connections, each sending its next request when the last one is answered.
    Closed { connections: usize },
    /// Requests begin when they are due, answered or not: so many a second over so many connections.
    Open { per_second: u32, connections: usize },
    /// So many agents, each with a new connection for each request.
    Fresh { agents: usize },
    /// So many event streams, each with an event this often.
    Streams { count: usize, every: Duration },
    /// So many connections that made one request and then say nothing.
    Idle { connections: usize },
    /// No agents, but so many sidecars on one broker: benches/swarm.
    Broker { sidecars: usize },
}

/// How the upstream is spoken to, always over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    H1,
    H2,
}

/// How the agent speaks to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// HTTP/1.1 in the clear, to the proxy by name.
    Plain,
    /// CONNECT, and TLS with the proxy's own authority inside.
    Captured,
}

/// One workload.
#[derive(Debug, Clone)]
pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub shape: Shape,
    pub protocol: Protocol,
    pub agent: Agent,
    /// Bytes of a request's body.
    pub request: usize,
    /// Bytes of an answer's body.
    pub answer: usize,
    /// How many servers the proxy is bound to; requests go to each in turn. More than one: Postern alone.
    pub bindings: usize,
    /// Who is measured where nobody is asked for by name.
    pub cast: &'static [Subject],
    /// How often, where nothing else is asked for.
    pub rounds: usize,
    /// How long a round counts, likewise.
    pub seconds: f64,
}

/// What claims and targets are about takes this many rounds, what shows a course takes fewer.
const ROUNDS: usize = 7;
const FEWER: usize = 3;

// Of all, in the order of the report.
const POSTERN: &[Subject] = ALL.split_at(1).0;
const PROXIES: &[Subject] = ALL.split_at(4).0;
/// mitmproxy takes a hundred times as much as any other one: a round of some workloads says so.
const AND_MITMPROXY: &[Subject] = ALL.split_at(5).0;
const EVERYBODY: &[Subject] = &ALL;
/// With what bounds a proxy from below, where delays are compared.
const BOUNDED: &[Subject] =
    &[Subject::Postern, Subject::Nginx, Subject::Haproxy, Subject::Envoy, Subject::Splice, Subject::Direct];

/// A JSON call as MCP clients make it.
const SMALL: Workload = Workload {
    name: "small-h1",
    about: "JSON call of 300 B, answer of 400 B, 32 connections, HTTP/1.1 upstream",
    shape: Shape::Closed { connections: 32 },
    protocol: Protocol::H1,
    agent: Agent::Plain,
    request: 300,
    answer: 400,
    bindings: 1,
    cast: EVERYBODY,
    rounds: ROUNDS,
    seconds: 2.0,
};

/// All there are, in the order of the report.
pub fn all() -> Vec<Workload> {
    let mut all = calls();
    all.extend(events());
    all.push(Workload {
        name: "idle-1000",
        about: "1,000 agent connections that made one call each, and then say nothing",
        shape: Shape::Idle { connections: 1000 },
        cast: AND_MITMPROXY,
        // Nothing happens: memory is looked at.
        seconds: 0.5,
        ..SMALL
    });
    all.extend(curve());
    let brokers = [
        ("broker-1000", "1,000 simulated sidecars on one broker", 1000),
        ("broker-10000", "10,000 simulated sidecars on one broker", 10_000),
    ];
    all.extend(brokers.map(|(name, about, sidecars)| Workload {
        name,
        about,
        shape: Shape::Broker { sidecars },
        cast: POSTERN,
        rounds: 1,
        // For the cost at rest: two heartbeats of each.
        seconds: 20.0,
        ..SMALL
    }));
    all
}

fn calls() -> Vec<Workload> {
    vec![
        SMALL,
        Workload {
            name: "small-h2",
            about: "the same, HTTP/2 upstream",
            protocol: Protocol::H2,
            cast: PROXIES,
            ..SMALL
        },
        Workload {
            name: "open-2000",
            about: "the same calls at 2,000/s, open loop, HTTP/1.1 upstream",
            shape: Shape::Open { per_second: 2000, connections: 32 },
            cast: BOUNDED,
            ..SMALL
        },
        Workload {
            name: "request-64k",
            about: "requests of 64 KiB, 32 connections",
            request: 64 << 10,
            cast: PROXIES,
            ..SMALL
        },
        Workload {
            name: "request-1m",
            about: "requests of 1 MiB, 8 connections",
            request: 1 << 20,
            shape: Shape::Closed { connections: 8 },
            cast: PROXIES,
            ..SMALL
        },
        Workload {
            name: "answer-64k",
            about: "answers of 64 KiB, 32 connections",
            answer: 64 << 10,
            cast: PROXIES,
            ..SMALL
        },
        Workload {
            name: "fresh",
            about: "a new agent connection for each call, 8 agents",
            shape: Shape::Fresh { agents: 8 },
            cast: PROXIES,
            ..SMALL
        },
        Workload {
            name: "agent-tls",
            about: "small calls over TLS from the agent too, by HTTPS_PROXY",
            agent: Agent::Captured,
            cast: AND_MITMPROXY,
            ..SMALL
        },
    ]
}

/// The same 1,000 events a second over ten times as many streams each, and 5,000 over few and over many.
fn events() -> Vec<Workload> {
    let streams = |name, about, count, per_second| {
        let shape = Shape::Streams { count, every: Duration::from_secs(1) / per_second };
        Workload { name, about, shape, cast: PROXIES, ..SMALL }
    };
    let few = streams("sse-10x100", "10 event streams, 100 events/s each", 10, 100);
    let many = streams("sse-5000x1", "5,000 event streams, 1 event/s each", 5000, 1);
    vec![
        Workload { cast: POSTERN, rounds: FEWER, ..few },
        Workload { cast: EVERYBODY, ..streams("sse-100x10", "100 event streams, 10 events/s each", 100, 10) },
        streams("sse-100x50", "100 event streams, 50 events/s each", 100, 50),
        streams("sse-1000x1", "1,000 event streams, 1 event/s each", 1000, 1),
        Workload { cast: POSTERN, rounds: FEWER, ..many },
    ]
}

fn curve() -> Vec<Workload> {
    let bound = |name, about, bindings| Workload { name, about, bindings, cast: POSTERN, rounds: FEWER, ..SMALL };
    vec![
        bound("bindings-1", "small calls to one server", 1),
        bound("bindings-10", "small calls to 10 servers in turn, a binding each", 10),
        bound("bindings-100", "the same with 100", 100),
        bound("bindings-1000", "the same with 1,000", 1000),
    ]
}

impl Workload {
    /// What one of the counted things is.
    pub fn unit(&self) -> &'static str {
        match self.shape {
            Shape::Streams { .. } => "event",
            Shape::Idle { .. } => "connection",
            Shape::Broker { .. } => "sidecar",
            Shape::Closed { .. } | Shape::Open { .. } | Shape::Fresh { .. } => "request",
        }
    }

    /// Whether agents ask as fast as they are answered, so that the proxy's core should be full.
    pub fn is_closed(&self) -> bool {
        matches!(self.shape, Shape::Closed { .. } | Shape::Fresh { .. })
    }

    /// How many agent connections there are at once.
    pub fn held(&self) -> usize {
        match self.shape {
            Shape::Closed { connections } | Shape::Open { connections, .. } | Shape::Idle { connections } => {
                connections
            }
            Shape::Fresh { agents } => agents,
            Shape::Streams { count, .. } => count,
            Shape::Broker { .. } => 0,
        }
    }

    /// How many streams there are, and how many events a second they have together.
    pub fn streams(&self) -> Option<(usize, usize)> {
        let Shape::Streams { count, every } = self.shape else { return None };
        Some((count, (count as f64 / every.as_secs_f64()).round() as usize))
    }

    /// Whether it is a point of the curve over bindings.
    pub fn is_curve(&self) -> bool {
        self.name.starts_with("bindings-")
    }
}
