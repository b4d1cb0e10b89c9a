//! What is to happen to each exchange: known to both ends, so that what does happen can be judged.

use super::draw::Draw;
use super::suite::support::Protocol;

/// The bound servers, each with an upstream, a certificate authority and a credential of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Server {
    /// Streamable HTTP over HTTP/1.1; reads slowly.
    Alpha,
    /// Streamable HTTP over HTTP/2.
    Beta,
    /// HTTP+SSE of 2024-11-05 over HTTP/1.1.
    Old,
}

pub const SERVERS: [Server; 3] = [Server::Alpha, Server::Beta, Server::Old];

impl Server {
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpha => "alpha",
            Self::Beta => "beta",
            Self::Old => "old",
        }
    }

    pub fn protocol(self) -> Protocol {
        match self {
            Self::Alpha | Self::Old => Protocol::Tls,
            Self::Beta => Protocol::H2,
        }
    }
}

/// What the upstream does with a call, and the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plan {
    /// Answers.
    Plain,
    /// Answers, parted at odd places: in the head, in chunk sizes.
    Split,
    /// Answers in pieces with pauses.
    Slow,
    /// Answers after a while.
    Late,
    /// Answers with an event stream: two notifications and the response.
    Events,
    /// Answers with the credential in the text.
    Echo,
    /// Answers a body of 200 KiB, which it reads slowly.
    Big,
    /// Breaks off before the head.
    ResetBeforeHead,
    /// Breaks off inside the body.
    ResetMidBody,
    /// Closes inside a chunked body as if it were the end.
    Truncated,
    /// 401, also to a newer value.
    Rejected,
    /// 401 once a newer value is in use; then answers.
    Stale,
    /// 500 or the like.
    Error(u16),
    /// Answers, and closes the kept connection at once (HTTP/1.1).
    CloseAfter,
    /// Answers, and resets the kept connection when the next call comes on it (HTTP/1.1).
    CloseAtReuse,
    /// GOAWAY (HTTP/2).
    GoAway,
    /// Drops the connection with all that runs on it (HTTP/2).
    Kill,
    /// Never answers; the agent leaves.
    Cancel,
    /// The agent calls a server that nobody bound.
    Unbound,
    /// The agent's body has a key twice.
    BadJson,
}

const COMMON: [(Plan, u64); 17] = [
    (Plan::Plain, 120),
    (Plan::Split, 40),
    (Plan::Slow, 24),
    (Plan::Late, 24),
    (Plan::Events, 32),
    (Plan::Echo, 20),
    (Plan::Big, 6),
    (Plan::ResetBeforeHead, 12),
    (Plan::ResetMidBody, 12),
    (Plan::Truncated, 12),
    (Plan::Rejected, 12),
    (Plan::Stale, 8),
    (Plan::Error(500), 8),
    (Plan::Error(403), 4),
    (Plan::Cancel, 12),
    (Plan::Unbound, 8),
    (Plan::BadJson, 4),
];

impl Plan {
    pub fn draw(server: Server, draw: &mut Draw) -> Self {
        let own: &[(Self, u64)] = match server.protocol() {
            Protocol::H2 => &[(Self::GoAway, 3), (Self::Kill, 1)],
            _ => &[(Self::CloseAfter, 20), (Self::CloseAtReuse, 12)],
        };
        draw.weighted(&[&COMMON, own].concat())
    }

    /// What the agent should see of it; what else it may see has to be explained.
    pub fn expects(self, seen: &Sight) -> bool {
        let unreachable = || seen.is_refused("upstream_unreachable");
        match self {
            Self::Plain | Self::Split | Self::Slow | Self::Late | Self::Events | Self::Echo | Self::Big => {
                *seen == Sight::Answer(200)
            }
            Self::Stale | Self::CloseAfter | Self::CloseAtReuse => *seen == Sight::Answer(200),
            Self::ResetBeforeHead | Self::GoAway | Self::Kill => unreachable(),
            Self::ResetMidBody | Self::Truncated => *seen == Sight::Broken || unreachable(),
            Self::Rejected => seen.is_refused("upstream_auth_rejected"),
            Self::Error(status) => *seen == Sight::Answer(status),
            Self::Cancel => *seen == Sight::Left,
            Self::Unbound => seen.is_refused("unbound_server"),
            Self::BadJson => seen.is_refused("bad_json_rpc"),
        }
    }
}

/// How an event stream is to end, if nothing ends it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Properly, after so many events.
    End(u64),
    /// The upstream breaks off inside the event after so many.
    Cut(u64),
    /// The agent leaves after so many events.
    Leave(u64),
    /// Not even opened: 401.
    Rejected,
}

impl Fate {
    pub fn draw(draw: &mut Draw) -> Self {
        let events = draw.between(3..30);
        match draw.between(0..100) {
            0..30 => Self::End(events),
            30..45 => Self::Cut(events),
            45..98 => Self::Leave(events),
            _ => Self::Rejected,
        }
    }
}

/// What an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Call(Plan),
    Stream(Fate),
    /// A post to this stream of 2024-11-05.
    Message(usize),
}

/// What the agent saw of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// A whole answer with this status, for this very call or stream.
    Answer(u16),
    /// A refusal of Postern's with this reason.
    Refused(String),
    /// An answer that broke off.
    Broken,
    /// A stream that ended properly, but before its last event.
    CutShort,
    /// Nothing more: the agent left.
    Left,
}

impl Sight {
    pub fn is_refused(&self, reason: &str) -> bool {
        matches!(self, Self::Refused(seen) if seen == reason)
    }
}
