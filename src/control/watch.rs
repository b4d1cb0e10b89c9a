//! Follows the cluster: what the API server tells goes into the index, and out of it come the views of the service
//! accounts and what is known of each binding.
//!
//! ```text
//! bindings of the cluster ------\
//! Secrets, ConfigMaps of each ---> index -> views, facts
//! namespace that has bindings --/      \--> which namespaces to follow, and whether they are heard
//! ```
//! Secrets are read only where a binding is, only those with our label, and only as far as a RoleBinding there allows.

mod follow;
mod kind;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use tokio::sync::{mpsc, watch};

use self::follow::{Ear, Lost, Told, follow};
pub use self::kind::{bindings, bundle, secret};
use super::heard::Heard;
use super::index::{Access, Change, Facts, Index, Kind, Scope};
use super::views::Views;
use crate::core::name::BindingId;
use crate::runtime::clock::Clock;
use crate::runtime::task::OwnedTask;
use crate::telemetry::metrics::broker::Followed;
use crate::telemetry::session::SessionLog;

/// Told what is known of a binding each time that may have changed; nothing, once it is gone.
pub type OnFacts = Box<dyn FnMut(BindingId, Option<Facts>) + Send>;

/// The watch, to be run.
pub struct Watch {
    client: Client,
    index: Index,
    heard: watch::Sender<Heard>,
    on_facts: OnFacts,
    log: Arc<SessionLog>,
    clock: Clock,
    renewal: Duration,
    sources: BTreeMap<Source, Following>,
    /// So that what a follower said before it was ended is not taken for what its successor says.
    started: u64,
    telling: mpsc::Sender<(u64, Told)>,
    told: mpsc::Receiver<(u64, Told)>,
}

/// What a watch is made of.
pub struct WatchParts {
    /// For the API server.
    pub client: Client,
    /// Where the views go.
    pub views: Views,
    /// Who is told of bindings.
    pub on_facts: OnFacts,
    /// Where it counts.
    pub log: Arc<SessionLog>,
    /// The time of day, at which values changed.
    pub clock: Clock,
    /// How often each watch is asked for anew, to see that we still may: whole seconds.
    pub renewal: Duration,
}

/// What is followed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Bindings,
    Scope(Scope),
}

struct Following {
    number: u64,
    state: State,
    _task: OwnedTask,
}

/// How far a source is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not once yet.
    Asked,
    Heard,
    Denied,
    Lost(Lost),
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Heard => "heard",
            Self::Denied => "denied",
            Self::Lost(_) => "lost",
        }
    }

    /// Whether we know what is there, or know that we may not.
    const fn is_certain(self) -> bool {
        matches!(self, Self::Heard | Self::Denied)
    }
}

/// Events that wait while one is taken. What does not fit makes its follower wait.
const WAITING: usize = 256;

impl Watch {
    /// A watch that has heard nothing yet, and where it tells how far it hears.
    pub fn new(parts: WatchParts) -> (Self, watch::Receiver<Heard>) {
        let WatchParts { client, views, on_facts, log, clock, renewal } = parts;
        let (heard, receiver) = watch::channel(Heard::default());
        let (telling, told) = mpsc::channel(WAITING);
        let watch = Self {
            client,
            index: Index::new(views),
            heard,
            on_facts,
            log,
            clock,
            renewal,
            sources: BTreeMap::new(),
            started: 0,
            telling,
            told,
        };
        (watch, receiver)
    }

    /// Follows until dropped.
    pub async fn run(mut self) {
        self.begin(Source::Bindings);
        let mut events = Vec::with_capacity(WAITING);
        loop {
            // We hold a sender ourselves, so there is always another one to come.
            self.told.recv_many(&mut events, WAITING).await;
            for (number, told) in events.drain(..) {
                self.take(number, told);
            }
            self.attune();
        }
    }

    fn take(&mut self, number: u64, told: Told) {
        let source = self.sources.iter().find(|(_, following)| following.number == number);
        let Some((source, before)) = source.map(|(source, following)| (source.clone(), following.state)) else {
            return;
        };
        let state = match told {
            Told::Listed(changes) => {
                changes.into_iter().for_each(|change| self.apply(change));
                State::Heard
            }
            Told::Changed(change) => {
                self.apply(change);
                before
            }
            Told::Denied => {
                if let Source::Scope(scope) = &source {
                    self.apply(Change::Access(scope.clone(), Access::Denied));
                }
                State::Denied
            }
            Told::Lost(why) => {
                self.log.metrics.watch_failed(source.kind(), why.as_str());
                State::Lost(why)
            }
        };
        if state != before {
            source.report(before, state);
            if let Some(following) = self.sources.get_mut(&source) {
                following.state = state;
            }
        }
    }

    fn apply(&mut self, change: Change) {
        let now = (self.clock)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        for id in self.index.apply(change, u64::try_from(now).unwrap_or(u64::MAX)) {
            let facts = self.index.facts(&id);
            (self.on_facts)(id, facts);
        }
    }

    /// Follows what is wanted now and nothing else, and tells how far all of it is heard.
    fn attune(&mut self) {
        let wanted = self.index.wanted();
        let unwanted = |source: &Source| match source {
            Source::Bindings => None,
            Source::Scope(scope) => (!wanted.contains(scope)).then(|| scope.clone()),
        };
        let ended: Vec<Scope> = self.sources.keys().filter_map(unwanted).collect();
        for scope in ended {
            self.sources.remove(&Source::Scope(scope.clone()));
            self.apply(Change::Access(scope, Access::Unasked));
        }
        for scope in wanted {
            if !self.sources.contains_key(&Source::Scope(scope.clone())) {
                self.begin(Source::Scope(scope));
            }
        }
        let mut heard = Heard::default();
        let mut followed = Followed::default();
        for (source, following) in &self.sources {
            followed.count(source.kind(), following.state.as_str());
            match source {
                // Who may not read bindings does not know that there are none.
                Source::Bindings => heard.bindings = following.state == State::Heard,
                Source::Scope(scope) => {
                    if !following.state.is_certain() {
                        heard.deaf.insert(scope.namespace.clone());
                    }
                }
            }
        }
        self.log.metrics.followed(&followed, self.index.ids().count(), self.index.secrets());
        self.heard.send_if_modified(|before| {
            let changed = *before != heard;
            *before = heard;
            changed
        });
    }

    fn begin(&mut self, source: Source) {
        self.started += 1;
        let ear = Ear { number: self.started, events: self.telling.clone(), renewal: self.renewal };
        let client = self.client.clone();
        let task = match &source {
            Source::Bindings => OwnedTask::spawn(follow(kind::Bindings, client, ear)),
            Source::Scope(Scope { kind: Kind::Secrets, namespace }) => {
                OwnedTask::spawn(follow(kind::Secrets(namespace.clone()), client, ear))
            }
            Source::Scope(Scope { kind: Kind::Bundles, namespace }) => {
                OwnedTask::spawn(follow(kind::Bundles(namespace.clone()), client, ear))
            }
        };
        self.sources.insert(source, Following { number: self.started, state: State::Asked, _task: task });
    }
}

impl Source {
    const fn kind(&self) -> &'static str {
        match self {
            Self::Bindings => "bindings",
            Self::Scope(Scope { kind: Kind::Secrets, .. }) => "secrets",
            Self::Scope(Scope { kind: Kind::Bundles, .. }) => "config_maps",
        }
    }

    /// Says once what an operator should know.
    fn report(&self, before: State, now: State) {
        let kind = self.kind();
        let namespace = match self {
            Self::Bindings => "",
            Self::Scope(scope) => scope.namespace.as_str(),
        };
        match (before, now) {
            (State::Asked, State::Heard) if *self == Self::Bindings => {
                tracing::info!("the bindings are known, and followed from now on");
            }
            (State::Asked, State::Heard) => tracing::debug!(kind, namespace, "followed from now on"),
            (_, State::Heard) => tracing::info!(kind, namespace, "heard again"),
            (_, State::Denied) if *self == Self::Bindings => {
                tracing::error!(kind, "the broker may not list and watch bindings; its ClusterRole should allow it");
            }
            (_, State::Denied) => tracing::warn!(
                kind,
                namespace,
                "the broker may not list and watch these; calls by their bindings are refused until a RoleBinding in \
                 the namespace allows it"
            ),
            (_, State::Lost(Lost::Behind)) => tracing::info!(kind, namespace, "changes were missed; asking for all"),
            (_, State::Lost(why)) => tracing::warn!(kind, namespace, why = why.text(), "not heard for now"),
            (_, State::Asked) => {}
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
