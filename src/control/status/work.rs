//! What the leader does: looks at each binding that has changed or is due, and writes what is new.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;

use super::board::Board;
use super::conditions::{conditions, is_ready, is_unread};
use super::door::Door;
use super::queue::Queue;
use super::reach::{Reach, ask};
use super::write::{Writer, says};
use super::{StatusTimes, WriteResult};
use crate::control::condition::Condition;
use crate::control::index::Facts;
use crate::core::name::{BindingId, ObjectName, ServiceAccount};
use crate::runtime::backoff::Backoff;
use crate::runtime::clock::Clock;
use crate::runtime::{clock, random};
use crate::telemetry::session::SessionLog;

/// Bindings looked at at once.
const AT_ONCE: usize = 8;
/// After a write the binding is left alone so long: what changes all the time is told as it stands now and then.
const SETTLE: Duration = Duration::from_secs(1);
/// What got no answer is asked again so soon, if not sooner.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// One term's work.
pub(super) struct Work {
    pub(super) board: Board,
    pub(super) desk: Desk,
}

/// What it is done with.
pub(super) struct Desk {
    pub(super) client: kube::Client,
    pub(super) door: Door,
    pub(super) writer: Writer,
    pub(super) times: StatusTimes,
    pub(super) clock: Clock,
    pub(super) log: Arc<SessionLog>,
}

/// What is remembered of one binding.
#[derive(Default)]
struct Seen {
    uid: String,
    asked: Option<Asked>,
    /// Since when its namespace has not been read.
    unread: Option<Instant>,
    wrote: Option<Instant>,
    backoff: Backoff,
    /// Not to be looked at before, unless it changes.
    retry: Option<Instant>,
}

/// An answer, and what was asked.
struct Asked {
    secret: ObjectName,
    accounts: Vec<ServiceAccount>,
    reach: Reach,
    again: Instant,
}

impl Work {
    /// Works until dropped. Every binding is looked at, then each that changes.
    pub(super) async fn run(self) {
        let Self { board, desk } = self;
        let (mut seen, mut queue) = (HashMap::<BindingId, Seen>::new(), Queue::default());
        board.mark_all_dirty();
        board.take_dirty().into_iter().for_each(|id| queue.due(id));
        let mut looks = FuturesUnordered::new();
        loop {
            board.take_dirty().into_iter().for_each(|id| queue.changed(id));
            while looks.len() < AT_ONCE
                && let Some(id) = queue.next(clock::now())
            {
                let before = seen.remove(&id).unwrap_or_default();
                match board.facts(&id) {
                    Some(facts) => looks.push(desk.look(facts, before)),
                    None => {
                        desk.log.metrics.binding_gone(id.namespace.as_str(), id.name.as_str());
                        queue.done(id, None);
                    }
                }
            }
            // A full table has no room for what is due meanwhile.
            let due = queue.wake().filter(|_| looks.len() < AT_ONCE);
            tokio::select! {
                Some((id, after)) = looks.next() => {
                    queue.done(id.clone(), after.due());
                    seen.insert(id, after);
                }
                () = board.changed() => {}
                () = until(due) => {}
            }
        }
    }
}

/// Waits until then; for ever without a time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep(at.saturating_duration_since(clock::now())).await,
        None => std::future::pending().await,
    }
}

impl Seen {
    /// When the binding is to be looked at again though nothing has changed. Never in the past: that would be at once,
    /// and again at once.
    fn due(&self) -> Option<Instant> {
        self.retry.or(self.asked.as_ref().map(|asked| asked.again))
    }

    /// Until when nothing is to be told yet: what is about to be read need not be told to be unread, and what was told
    /// a moment ago may be about to change again.
    fn too_early(&mut self, facts: &Facts, patience: Duration, now: Instant) -> Option<Instant> {
        self.unread = is_unread(facts).then(|| self.unread.unwrap_or(now));
        let read = self.unread.map(|since| since + patience);
        let settled = self.wrote.map(|wrote| wrote + SETTLE);
        [read, settled].into_iter().flatten().max().filter(|until| now < *until)
    }
}

impl Desk {
    /// Looks at one binding, and writes what is to be written.
    async fn look(&self, facts: Arc<Facts>, mut seen: Seen) -> (BindingId, Seen) {
        let id = facts.id.clone();
        if seen.uid != facts.uid {
            seen = Seen { uid: facts.uid.clone(), ..Seen::default() };
        }
        seen.retry = seen.too_early(&facts, self.times.unread, clock::now());
        if seen.retry.is_some() {
            return (id, seen);
        }
        seen.asked = self.reach(&facts, seen.asked.take()).await;
        self.report(&facts, &mut seen).await;
        (id, seen)
    }

    /// Who may read the Secret: as it was asked before, or asked now.
    async fn reach(&self, facts: &Facts, before: Option<Asked>) -> Option<Asked> {
        let secret = facts.secret.clone()?;
        let accounts: Vec<ServiceAccount> = facts.standing.keys().cloned().collect();
        let same = |asked: &Asked| asked.secret == secret && asked.accounts == accounts && clock::now() < asked.again;
        if let Some(before) = before.filter(same) {
            return Some(before);
        }
        let reach = ask(&self.client, &self.door, &facts.id.namespace, &secret, accounts.iter()).await;
        let pause = if reach.complete { self.times.review } else { self.times.review.min(ASK_AGAIN) };
        let again = clock::now() + pause.mul_f64(0.5 + 0.5 * random::fraction());
        Some(Asked { secret, accounts, reach, again })
    }

    async fn report(&self, facts: &Facts, seen: &mut Seen) {
        let today = Timestamp::try_from((self.clock)()).unwrap_or_default();
        let reach = seen.asked.as_ref().map(|asked| &asked.reach);
        let conditions = conditions(facts, reach, today);
        if says(&facts.reported, &conditions) && facts.reported_generation == Some(facts.generation) {
            seen.backoff.reset();
        } else {
            self.write(facts, seen, &conditions).await;
        }
        let (namespace, name) = (facts.id.namespace.as_str(), facts.id.name.as_str());
        self.log.metrics.binding(namespace, name, is_ready(&conditions));
    }

    async fn write(&self, facts: &Facts, seen: &mut Seen, conditions: &[Condition]) {
        let result = match self.writer.write(&self.door, facts, conditions).await {
            Ok(true) => WriteResult::Written,
            Ok(false) => WriteResult::Outdated,
            Err(why) => {
                tracing::warn!(binding = %facts.id, %why, "a status cannot be written; trying again");
                WriteResult::Failed
            }
        };
        self.log.metrics.status_written(result.as_str());
        if result == WriteResult::Written {
            seen.wrote = Some(clock::now());
            seen.backoff.reset();
            self.writer.tell(&self.door, facts, conditions).await;
        } else {
            // What is outdated is read again long before that, as a rule.
            seen.retry = Some(clock::now() + seen.backoff.failed(random::fraction(), None));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::index::{Lack, Missing};
    use crate::core::name::Namespace;

    fn facts(lack: Option<Lack>) -> Facts {
        let name = ObjectName::parse("git").unwrap();
        Facts {
            id: BindingId { namespace: Namespace::parse("ns").unwrap(), name: name.clone() },
            uid: "u".into(),
            version: "1".into(),
            generation: 1,
            faults: Vec::new(),
            secret: Some(name),
            missing: lack.into_iter().map(|lack| Missing { lack, text: String::new() }).collect(),
            standing: BTreeMap::new(),
            reported: Vec::new(),
            reported_generation: None,
        }
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn what_is_about_to_be_read_is_not_told_to_be_unread() {
        let now = clock::now();
        let mut seen = Seen::default();
        let mut early = |lack, at: u64| {
            let until = seen.too_early(&facts(lack), PATIENCE, now + Duration::from_secs(at));
            until.map(|until| until.duration_since(now).as_secs())
        };
        assert_eq!(early(Some(Lack::Unread), 0), Some(10));
        assert_eq!(early(Some(Lack::Unread), 9), Some(10));
        assert_eq!(early(Some(Lack::Unread), 10), None, "now it is told");
        assert_eq!(early(Some(Lack::SecretNotFound), 11), None);
        assert_eq!(early(Some(Lack::Unread), 20), Some(30), "it is unread anew");
        assert_eq!(early(None, 21), None);
    }

    #[test]
    fn what_was_told_a_moment_ago_is_left_alone_and_not_looked_at_meanwhile() {
        let now = clock::now();
        let asked = Asked {
            secret: ObjectName::parse("s").unwrap(),
            accounts: Vec::new(),
            reach: Reach::default(),
            again: now + SETTLE / 2,
        };
        let mut seen = Seen { wrote: Some(now), asked: Some(asked), ..Seen::default() };
        assert_eq!(seen.due(), Some(now + SETTLE / 2));
        seen.retry = seen.too_early(&facts(None), PATIENCE, now + SETTLE / 2);
        assert_eq!(seen.due(), Some(now + SETTLE));
        assert_eq!(seen.too_early(&facts(None), PATIENCE, now + SETTLE), None);
    }
}
