//! What both ends know: every exchange, every credential, every fault.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::plan::{Kind, Server, Sight};
use super::tokens::Tokens;

/// How an upstream saw an exchange arrive.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Which of the server's credentials it carried.
    pub token: usize,
    /// The upstream's connection.
    pub connection: usize,
    /// All of it came, not the head alone.
    pub whole: bool,
}

/// One request of an agent and all that became of it.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub server: Server,
    pub kind: Kind,
    pub begun: Instant,
    /// The newest credential there was when it began, and the oldest it may carry.
    pub newest: usize,
    pub floor: usize,
    pub arrivals: Vec<Arrival>,
    /// A fault of another exchange has hit it.
    pub excused: bool,
    /// The upstream has broken it off, as it was to.
    pub broken_off: bool,
    pub seen: Option<Sight>,
    pub ended: Instant,
    /// Events that came, of a stream.
    pub events: u64,
}

/// An upstream that closed connections: when, and whether a call is known to have been hit by it.
struct Closing {
    at: Instant,
    hit: bool,
}

#[derive(Default)]
struct State {
    exchanges: Vec<Exchange>,
    closings: HashMap<Server, Vec<Closing>>,
    /// Connections to be reset at their next request, such whose end takes all with it, and such that
    /// take no further request (GOAWAY).
    doomed: HashSet<(Server, usize)>,
    killed: HashSet<(Server, usize)>,
    leaving: HashSet<(Server, usize)>,
    wrong: Vec<String>,
}

pub struct World {
    pub seed: u64,
    pub tokens: Tokens,
    /// Set when every stream is to be brought to its proper end.
    pub finale: watch::Sender<bool>,
    /// Where answers to the posts of open 2024-11-05 streams go.
    pub posts: Mutex<HashMap<usize, mpsc::UnboundedSender<String>>>,
    state: Mutex<State>,
}

/// How long the sidecar keeps an idle connection at most: a close can hit a later call only so long.
const KEPT: Duration = Duration::from_secs(5);

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            tokens: Tokens::new(),
            finale: watch::Sender::new(false),
            posts: Mutex::default(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something that must not be.
    pub fn wrong(&self, what: String) {
        self.state().wrong.push(what);
    }

    pub fn all_wrong(&self) -> Vec<String> {
        self.state().wrong.clone()
    }

    /// An agent is about to send; returns the exchange's number.
    pub fn begin(&self, server: Server, kind: Kind) -> usize {
        let (begun, newest, floor) = (Instant::now(), self.tokens.newest(server), self.tokens.floor(server));
        let exchange = Exchange {
            server,
            kind,
            begun,
            newest,
            floor,
            arrivals: vec![],
            excused: false,
            broken_off: false,
            seen: None,
            ended: begun,
            events: 0,
        };
        let mut state = self.state();
        state.exchanges.push(exchange);
        state.exchanges.len() - 1
    }

    /// An agent is through with it.
    pub fn end(&self, number: usize, seen: Sight) {
        let exchange = &mut self.state().exchanges[number];
        exchange.ended = Instant::now();
        exchange.seen = Some(seen);
    }

    /// The next event of a stream came; returns its number, from 0.
    pub fn event(&self, number: usize) -> u64 {
        let exchange = &mut self.state().exchanges[number];
        exchange.events += 1;
        exchange.events - 1
    }

    /// An upstream breaks it off.
    pub fn break_off(&self, number: usize) {
        self.state().exchanges[number].broken_off = true;
    }

    /// An upstream has got it. Returns what it is, how often it came, and whether its connection is
    /// at its end.
    pub fn arrive(&self, number: usize, server: Server, arrival: Arrival) -> Option<(Kind, usize, bool)> {
        let mut state = self.state();
        let doomed = state.doomed.remove(&(server, arrival.connection));
        let killed = state.killed.contains(&(server, arrival.connection));
        let exchange = state.exchanges.get_mut(number)?;
        exchange.excused |= doomed || killed;
        exchange.arrivals.push(arrival);
        Some((exchange.kind, exchange.arrivals.len(), doomed || killed))
    }

    pub fn has_arrived(&self, number: usize) -> bool {
        self.state().exchanges[number].arrivals.iter().any(|arrival| arrival.whole)
    }

    /// An upstream closes a connection of its own accord.
    pub fn closing(&self, server: Server) {
        let closing = Closing { at: Instant::now(), hit: false };
        self.state().closings.entry(server).or_default().push(closing);
    }

    /// An upstream will reset this connection at the next request.
    pub fn doom(&self, server: Server, connection: usize) {
        self.state().doomed.insert((server, connection));
    }

    /// An upstream lets this connection run out: GOAWAY.
    pub fn leave(&self, server: Server, connection: usize) {
        self.closing(server);
        self.state().leaving.insert((server, connection));
    }

    /// Whether an upstream has begun to end this connection.
    pub fn is_ending(&self, server: Server, connection: usize) -> bool {
        let state = self.state();
        state.leaving.contains(&(server, connection)) || state.killed.contains(&(server, connection))
    }

    /// An upstream drops this connection with all that runs on it.
    pub fn kill(&self, server: Server, connection: usize) {
        self.closing(server);
        let mut state = self.state();
        state.killed.insert((server, connection));
        let on_it = |exchange: &&mut Exchange| {
            exchange.server == server && exchange.arrivals.last().is_some_and(|a| a.connection == connection)
        };
        state.exchanges.iter_mut().filter(on_it).for_each(|exchange| exchange.excused |= exchange.seen.is_none());
    }

    /// Whether a close explains that a call failed on its way, unseen by the upstream. On HTTP/1.1 a
    /// close can hit one call; on HTTP/2 all that cross it.
    pub fn explain(&self, exchange: &Exchange, shared: bool) -> bool {
        let mut state = self.state();
        let Some(closings) = state.closings.get_mut(&exchange.server) else { return false };
        let fits = |closing: &&mut Closing| closing.at <= exchange.ended && exchange.begun < closing.at + KEPT;
        match closings.iter_mut().filter(fits).find(|closing| shared || !closing.hit) {
            Some(closing) => {
                closing.hit = true;
                true
            }
            None => false,
        }
    }

    /// How many exchanges have been begun.
    pub fn count(&self) -> usize {
        self.state().exchanges.len()
    }

    pub fn exchanges(&self) -> Vec<Exchange> {
        self.state().exchanges.clone()
    }
}

/// An exchange's number as a `traceparent`, which reaches upstream and access line as it is.
pub fn trace(number: usize) -> String {
    format!("00-{:032x}-{:016x}-01", number + 1, 1)
}

/// The number in a `traceparent`.
pub fn number(trace: &str) -> Option<usize> {
    usize::from_str_radix(trace.split('-').nth(1)?, 16).ok()?.checked_sub(1)
}
