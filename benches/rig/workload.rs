//! What is measured: a closed list, each by its name.

use std::time::Duration;

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
}

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
};

/// All there are, in the order of the report.
pub fn all() -> Vec<Workload> {
    let mut all = calls();
    all.extend([
        streams("sse-1000x1", "1,000 event streams, 1 event/s each", 1000, 1),
        streams("sse-100x50", "100 event streams, 50 events/s each", 100, 50),
        // The curve: as many events a second, over ten times the streams.
        streams("sse-10x100", "10 event streams, 100 events/s each", 10, 100),
        streams("sse-100x10", "100 event streams, 10 events/s each", 100, 10),
        streams("sse-5000x1", "5,000 event streams, 1 event/s each", 5000, 1),
    ]);
    all.push(Workload {
        name: "idle-1000",
        about: "1,000 quiet agent connections",
        shape: Shape::Idle { connections: 1000 },
        ..SMALL
    });
    all.extend([
        Workload { name: "bindings-1", ..SMALL },
        Workload { name: "bindings-10", bindings: 10, ..SMALL },
        Workload { name: "bindings-100", bindings: 100, ..SMALL },
        Workload { name: "bindings-1000", bindings: 1000, ..SMALL },
    ]);
    all
}

fn streams(name: &'static str, about: &'static str, count: usize, per_second: u32) -> Workload {
    Workload { name, about, shape: Shape::Streams { count, every: Duration::from_secs(1) / per_second }, ..SMALL }
}

fn calls() -> Vec<Workload> {
    vec![
        SMALL,
        Workload { name: "small-h2", about: "the same, HTTP/2 upstream", protocol: Protocol::H2, ..SMALL },
        Workload {
            name: "open-2000",
            about: "the same calls at 2,000/s, open loop, HTTP/1.1 upstream",
            shape: Shape::Open { per_second: 2000, connections: 32 },
            ..SMALL
        },
        Workload { name: "answer-64k", about: "answers of 64 KiB", answer: 64 << 10, ..SMALL },
        Workload {
            name: "request-1m",
            about: "requests of 1 MiB, 8 connections",
            request: 1 << 20,
            shape: Shape::Closed { connections: 8 },
            ..SMALL
        },
        Workload {
            name: "fresh",
            about: "a new agent connection for each call, 8 agents",
            shape: Shape::Fresh { agents: 8 },
            ..SMALL
        },
        Workload {
            name: "agent-tls",
            about: "small calls over TLS from the agent too, by HTTPS_PROXY",
            agent: Agent::Captured,
            ..SMALL
        },
    ]
}

impl Workload {
    /// What one of the counted things is.
    pub fn unit(&self) -> &'static str {
        match self.shape {
            Shape::Streams { .. } => "event",
            Shape::Idle { .. } => "connection",
            Shape::Closed { .. } | Shape::Open { .. } | Shape::Fresh { .. } => "request",
        }
    }

    /// Whether only Postern has what it is about.
    pub fn is_curve(&self) -> bool {
        self.name.starts_with("bindings-")
    }
}
