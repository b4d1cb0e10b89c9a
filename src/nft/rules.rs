//! The table `inet postern`: what is captured, what is let through, what is refused.
//!
//! Written in the words of nft(8), so that `nft list table inet postern` shows in a running pod what
//! is written here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::api::env::{REDIRECT_PORT, UID};
use crate::core::network::Cidr;

/// The table's name, in the family `inet`: IPv4 and IPv6 alike.
pub const TABLE: &str = "postern";

/// Where the sidecar connects to, to see whether connections are captured: an address of the
/// documentation's networks (RFC 5737, RFC 3849), which belong to nobody.
pub const PROBE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 103);
/// The same on IPv6.
pub const PROBE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x103);

/// Before the nat chains of others, which stand at -100 (`dstnat`; iptables, Istio) or later. The
/// first nat chain that says where a connection goes decides, so nobody else can lead it past us. What
/// we leave alone goes on to theirs.
const CAPTURE_PRIORITY: i32 = -110;
/// After every nat chain, whatever its priority: the kernel runs them all at -100. So the guard sees
/// where a packet really goes. Beside other filters the order is of no matter: each can only refuse.
const GUARD_PRIORITY: i32 = 0;

/// What is let through for everybody in the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exceptions {
    /// DNS servers, over UDP and TCP.
    pub resolvers: Vec<SocketAddr>,
    /// Destination ports, of UDP and TCP, wherever they are.
    pub ports: Vec<u16>,
    /// Destination networks, whatever the protocol.
    pub networks: Vec<Cidr>,
}

/// The table's chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table(pub Vec<Chain>);

/// A chain at one of the kernel's hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name in the table.
    pub name: &'static str,
    /// What it may do.
    pub kind: Kind,
    /// Which packets come by.
    pub hook: Hook,
    /// Its place among the chains at this hook: lower ones come first.
    pub priority: i32,
    /// Whether a packet passes that no rule decides on.
    pub accepts: bool,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

/// What a chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It sees the first packet of a connection and may say where the connection goes.
    Nat,
    /// It sees every packet and may refuse it.
    Filter,
}

/// Which packets come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Those that come from elsewhere and go elsewhere.
    Forward = 2,
    /// Those that this network namespace itself sends.
    Output = 3,
}

/// When all tests hold, the verdict counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What must hold.
    pub tests: Vec<Test>,
    /// What then happens.
    pub verdict: Verdict,
    /// Why it is there, for `--print`; of several rules in a row with the same reason the first says it.
    pub why: &'static str,
}

/// What a rule asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// The socket that it comes from belongs to the sidecar, or to somebody else. Neither holds for
    /// a packet that the kernel makes by itself, or for a socket that the kernel opened.
    Sidecar(bool),
    /// It goes to an address of this network namespace.
    ToLocal,
    /// Its source is no address of this network namespace.
    FromForeign,
    /// It goes to this network.
    To(Cidr),
    /// It is of this protocol.
    Protocol(Protocol),
    /// It is of this protocol, UDP or TCP, and goes to this port.
    Port(Protocol, u16),
    /// It belongs to a connection that is known, whichever side began it.
    Known,
    /// It goes to the side that began the connection.
    Reply,
}

/// A protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are their names")]
pub enum Protocol {
    Igmp = 2,
    Tcp = 6,
    Udp = 17,
    Icmpv6 = 58,
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes this chain.
    Accept,
    /// It passes this chain: what nat rules say instead.
    Return,
    /// The connection goes to the sidecar, at the loopback address of its family.
    Redirect,
    /// It is dropped.
    Drop,
    /// It is dropped, and the sender's connection reset.
    Reset,
    /// It is dropped, and the sender told that it is forbidden.
    Prohibit,
}

/// The table for these exceptions.
pub fn table(exceptions: &Exceptions) -> Table {
    let capture = Chain {
        name: "capture",
        kind: Kind::Nat,
        hook: Hook::Output,
        priority: CAPTURE_PRIORITY,
        accepts: true,
        rules: capture(exceptions),
    };
    let guard = Chain {
        name: "guard",
        kind: Kind::Filter,
        hook: Hook::Output,
        priority: GUARD_PRIORITY,
        accepts: false,
        rules: guard(exceptions),
    };
    // Nodes forward, and a pod inherits that: without this, a packet that comes back in by a trick
    // (a source route through loopback) would go out again without passing the guard.
    let transit = Chain {
        name: "transit",
        kind: Kind::Filter,
        hook: Hook::Forward,
        priority: GUARD_PRIORITY,
        accepts: false,
        rules: Vec::new(),
    };
    Table(vec![capture, guard, transit])
}

fn probes(protocol: Protocol, verdict: Verdict, why: &'static str) -> impl Iterator<Item = Rule> {
    [IpAddr::from(PROBE_V4), IpAddr::from(PROBE_V6)].into_iter().map(move |address| Rule {
        tests: vec![Test::To(Cidr::one(address)), Test::Port(protocol, REDIRECT_PORT)],
        verdict,
        why,
    })
}

fn excepted(exceptions: &Exceptions, protocols: &[Protocol], verdict: Verdict) -> Vec<Rule> {
    let mut rules = Vec::new();
    for resolver in &exceptions.resolvers {
        rules.extend(protocols.iter().map(|protocol| Rule {
            tests: vec![Test::To(Cidr::one(resolver.ip())), Test::Port(*protocol, resolver.port())],
            verdict,
            why: "the cluster's DNS servers",
        }));
    }
    for port in &exceptions.ports {
        rules.extend(protocols.iter().map(|protocol| Rule {
            tests: vec![Test::Port(*protocol, *port)],
            verdict,
            why: "ports that the administrator lets through; no credential goes there, as only the sidecar adds one",
        }));
    }
    rules.extend(exceptions.networks.iter().map(|network| Rule {
        tests: vec![Test::To(*network)],
        verdict,
        why: "networks that the administrator lets through",
    }));
    rules
}

fn capture(exceptions: &Exceptions) -> Vec<Rule> {
    let rule = |tests: &[Test], verdict, why| Rule { tests: tests.to_vec(), verdict, why };
    let mut rules: Vec<Rule> =
        probes(Protocol::Tcp, Verdict::Redirect, "the sidecar's self-test; of everybody, so that it can make it")
            .collect();
    rules.push(rule(&[Test::Sidecar(true)], Verdict::Return, "the sidecar's own connections"));
    rules.push(rule(&[Test::ToLocal], Verdict::Return, "inside the pod"));
    rules.extend(excepted(exceptions, &[Protocol::Tcp], Verdict::Return));
    // No test of the owner: a socket that the kernel opened for a process has none, and is captured.
    let rest = "all other TCP, whatever the port";
    rules.push(rule(&[Test::Protocol(Protocol::Tcp)], Verdict::Redirect, rest));
    rules
}

fn guard(exceptions: &Exceptions) -> Vec<Rule> {
    let rule = |tests: &[Test], verdict, why| Rule { tests: tests.to_vec(), verdict, why };
    // Before all else, and without an answer: that would go out to the forged address, with a copy of the
    // packet in it. On IPv6 nothing else keeps a process from it (IPV6_FREEBIND).
    let mut rules = vec![rule(
        &[Test::Sidecar(false), Test::FromForeign],
        Verdict::Drop,
        "a forged source: what it sends next would look like replies to a connection from outside",
    )];
    rules.extend(probes(Protocol::Udp, Verdict::Prohibit, "the sidecar's self-test; to everybody"));
    rules.push(rule(&[Test::ToLocal], Verdict::Accept, "inside the pod, and what was captured"));
    rules.push(rule(&[Test::Sidecar(true)], Verdict::Accept, "the sidecar's own connections"));
    // Not all of an established connection: one that the pod itself began is captured or excepted, or is
    // from before these rules, and then ends here.
    rules.push(rule(&[Test::Reply], Verdict::Accept, "replies on connections from outside"));
    rules.extend(excepted(exceptions, &[Protocol::Udp, Protocol::Tcp], Verdict::Accept));
    let nothing_else = "nothing else leaves, and whoever tries is told at once";
    rules.push(rule(&[Test::Protocol(Protocol::Tcp), Test::Sidecar(false)], Verdict::Reset, nothing_else));
    rules.push(rule(&[Test::Sidecar(false)], Verdict::Prohibit, nothing_else));
    // From here on packets have no owner: the kernel made them. It also opens sockets for processes
    // (RxRPC, SMC), which have none either, so these are named and the rest is dropped.
    let closing = "the kernel's own: the rest of a connection that its process has closed, ICMP errors";
    rules.push(rule(&[Test::Known], Verdict::Accept, closing));
    let neighbours = "the kernel's own: IPv6 neighbours, membership of groups";
    rules.push(rule(&[Test::Protocol(Protocol::Icmpv6)], Verdict::Accept, neighbours));
    rules.push(rule(&[Test::Protocol(Protocol::Igmp)], Verdict::Accept, neighbours));
    rules
}

// ---- in the words of nft(8) ----

/// A file for `nft -f` that does what [`super::kernel::write`] does.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{")?;
        for (at, chain) in self.0.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        let priority = if self.priority == 0 { "filter".to_owned() } else { self.priority.to_string() };
        let policy = if self.accepts { "accept" } else { "drop" };
        let (kind, hook) = (self.kind.as_str(), self.hook.as_str());
        writeln!(f, "\t\ttype {kind} hook {hook} priority {priority}; policy {policy};")?;
        let mut told = "";
        for rule in &self.rules {
            if rule.why != told {
                writeln!(f, "\t\t# {}", rule.why)?;
                told = rule.why;
            }
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl Kind {
    /// As the kernel calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

impl Hook {
    fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Output => "output",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for test in &self.tests {
            write!(f, "{test} ")?;
        }
        match self.verdict {
            Verdict::Accept => write!(f, "accept"),
            Verdict::Return => write!(f, "return"),
            Verdict::Drop => write!(f, "drop"),
            Verdict::Redirect => write!(f, "redirect to :{REDIRECT_PORT}"),
            Verdict::Reset => write!(f, "reject with tcp reset"),
            Verdict::Prohibit => write!(f, "reject with icmpx admin-prohibited"),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sidecar(true) => write!(f, "meta skuid {UID}"),
            Self::Sidecar(false) => write!(f, "meta skuid != {UID}"),
            Self::ToLocal => write!(f, "fib daddr type local"),
            Self::FromForeign => write!(f, "fib saddr type != local"),
            Self::To(network) => {
                let family = if network.address().is_ipv4() { "ip" } else { "ip6" };
                write!(f, "{family} daddr {}", network.address())?;
                if *network == Cidr::one(network.address()) { Ok(()) } else { write!(f, "/{}", network.bits()) }
            }
            Self::Protocol(protocol) => write!(f, "meta l4proto {}", protocol.as_str()),
            Self::Port(protocol, port) => write!(f, "{} dport {port}", protocol.as_str()),
            Self::Known => write!(f, "ct state established,related"),
            Self::Reply => write!(f, "ct direction reply"),
        }
    }
}

impl Protocol {
    fn as_str(self) -> &'static str {
        match self {
            Self::Igmp => "igmp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmpv6 => "ipv6-icmp",
        }
    }
}
