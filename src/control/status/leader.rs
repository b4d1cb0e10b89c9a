//! One replica writes: the one that holds the Lease.
//!
//! Nobody's clock is compared with anybody else's. A replica waits for the whole life of the Lease from when it saw it
//! change last, by its own clock; the holder believes in itself for less than that, from before it asked to renew.

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::control::broker::kind;
use crate::runtime::clock::Clock;
use crate::runtime::{clock, random};

/// The times of a leader.
#[derive(Debug, Clone, Copy)]
pub struct LeaseTimes {
    /// How long the Lease is good without being renewed. Whole seconds.
    pub life: Duration,
    /// How long the holder believes that it is: less than `life` by more than a request may take.
    pub belief: Duration,
    /// Between two looks.
    pub pause: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self { life: Duration::from_secs(15), belief: Duration::from_secs(10), pause: Duration::from_secs(2) }
    }
}

/// The name of the Lease that is installed.
pub const LEASE: &str = "postern-broker-status";

/// The Lease.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// Its namespace.
    pub namespace: String,
    /// Its name. It must be there: it is never made.
    pub name: String,
    /// Its times.
    pub times: LeaseTimes,
}

/// Until when this replica leads.
#[derive(Clone)]
pub(super) struct Term(watch::Receiver<Option<Instant>>);

impl Term {
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.0.borrow().is_some_and(|until| now < until)
    }

    /// Waits until this replica leads.
    pub(super) async fn begun(&mut self) {
        if self.0.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until it does not any more.
    pub(super) async fn over(&mut self) {
        loop {
            let until = *self.0.borrow_and_update();
            let left = until.map(|until| until.saturating_duration_since(clock::now())).unwrap_or_default();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                gone = self.0.changed() => if gone.is_err() { return },
            }
        }
    }
}

/// The Lease as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Nobody, if empty.
    holder: String,
    /// Only whether it changes counts, never what it says.
    renewed: Option<Timestamp>,
    transitions: i32,
    life: Option<Duration>,
}

impl Seen {
    fn read(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
            renewed: spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0),
            transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or_default(),
            life: seconds.map(Duration::from_secs),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Ours: say that we are still there.
    Renew,
    /// Nobody's, or of one that has not been heard for too long.
    Take,
    /// Somebody else's.
    Wait,
}

/// What one replica makes of what it sees. Pure.
struct Election {
    identity: String,
    times: LeaseTimes,
    /// As it was when it was seen to change, and when that was.
    watched: Option<(Seen, Instant)>,
}

impl Election {
    fn step(&mut self, seen: &Seen, now: Instant) -> Step {
        let since = match &self.watched {
            Some((before, since)) if before == seen => *since,
            _ => {
                self.watched = Some((seen.clone(), now));
                now
            }
        };
        if seen.holder == self.identity {
            return Step::Renew;
        }
        let life = seen.life.unwrap_or(self.times.life);
        if seen.holder.is_empty() || now.saturating_duration_since(since) >= life { Step::Take } else { Step::Wait }
    }

    /// What a Lease says that was renewed or taken over.
    fn spec(&self, step: Step, seen: &Seen, now: SystemTime) -> Value {
        let time = Timestamp::try_from(now).map(|now| format!("{now:.6}")).unwrap_or_default();
        let mut spec = json!({"renewTime": time, "leaseDurationSeconds": self.times.life.as_secs().max(1)});
        if step == Step::Take {
            spec["holderIdentity"] = json!(self.identity);
            spec["acquireTime"] = json!(time);
            spec["leaseTransitions"] = json!(seen.transitions.saturating_add(1));
        }
        spec
    }
}

/// Stands for election for as long as it runs.
pub(super) struct Candidate {
    api: Api<Lease>,
    settings: LeaseSettings,
    election: Election,
    clock: Clock,
    until: watch::Sender<Option<Instant>>,
}

impl Candidate {
    /// `replica` is what people know this process by. With its start it is an identity that no other process has: a
    /// container that is started again must not take its predecessor's Lease for its own.
    pub(super) fn new(client: kube::Client, settings: LeaseSettings, replica: &str, clock: Clock) -> Self {
        let start = clock().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let identity = format!("{replica}_{start:x}");
        Self {
            api: Api::namespaced(client, &settings.namespace),
            election: Election { identity, times: settings.times, watched: None },
            settings,
            clock,
            until: watch::Sender::new(None),
        }
    }

    pub(super) fn identity(&self) -> &str {
        &self.election.identity
    }

    pub(super) fn term(&self) -> Term {
        Term(self.until.subscribe())
    }

    /// Looks after the Lease until dropped.
    pub(super) async fn run(&mut self) {
        let mut troubled = false;
        loop {
            let looked = self.round().await;
            if let Err(why) = &looked
                && !troubled
            {
                let LeaseSettings { namespace, name, .. } = &self.settings;
                tracing::warn!(%namespace, lease = name, why, "the Lease cannot be read or written; trying again");
            }
            troubled = looked.is_err();
            tokio::time::sleep(self.settings.times.pause.mul_f64(0.8 + 0.4 * random::fraction())).await;
        }
    }

    async fn round(&mut self) -> Result<(), String> {
        let lease = self.patient(self.api.get(&self.settings.name)).await?;
        let seen = Seen::read(&lease);
        let step = self.election.step(&seen, clock::now());
        if step == Step::Wait {
            self.until.send_if_modified(|until| until.take().is_some());
            return Ok(());
        }
        let sent = clock::now();
        let spec = self.election.spec(step, &seen, (self.clock)());
        if self.write(&lease, spec).await? {
            self.until.send_replace(Some(sent + self.settings.times.belief));
        }
        Ok(())
    }

    /// Lets go of the Lease, if it is ours, so that another need not wait. Nothing may be written after that.
    pub(super) async fn release(&mut self) {
        self.until.send_replace(None);
        let released = async {
            let lease = self.patient(self.api.get(&self.settings.name)).await?;
            if Seen::read(&lease).holder == self.election.identity {
                self.write(&lease, json!({"holderIdentity": null, "leaseDurationSeconds": 1})).await?;
            }
            Ok::<(), String>(())
        };
        if let Err(why) = released.await {
            tracing::warn!(why, "the Lease could not be released: another replica takes it when it is over");
        }
    }

    /// Writes over what was read. `false` if it is not the same any more.
    async fn write(&self, lease: &Lease, spec: Value) -> Result<bool, String> {
        let patch = json!({"metadata": {"resourceVersion": lease.metadata.resource_version}, "spec": spec});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let write = async {
            match self.api.patch(&self.settings.name, &params, &patch).await {
                Ok(_) => Ok(true),
                Err(kube::Error::Api(status)) if status.is_conflict() => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.patient(write).await
    }

    /// What takes longer than this is of no use: by then another may lead.
    async fn patient<T>(&self, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
        let LeaseTimes { life, belief, .. } = self.settings.times;
        let patience = life.saturating_sub(belief);
        match tokio::time::timeout(patience, request).await {
            Ok(answer) => answer.map_err(|error| kind(&error)),
            Err(_) => Err(format!("no answer within {patience:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;

    use super::*;

    fn election(identity: &str, times: LeaseTimes) -> Election {
        Election { identity: identity.into(), times, watched: None }
    }

    fn seen(holder: &str, renewed: i64) -> Seen {
        let renewed = Timestamp::from_second(renewed).ok();
        Seen { holder: holder.into(), renewed, transitions: 1, life: Some(Duration::from_secs(15)) }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_was_seen_unchanged_for_its_life() {
        let now = clock::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut election = election("me", LeaseTimes::default());
        assert_eq!(election.step(&seen("", 0), now), Step::Take);
        assert_eq!(election.step(&seen("me", 0), now), Step::Renew);
        // Its time says that it is long over. That is another clock's word.
        assert_eq!(election.step(&seen("other", 5), at(0)), Step::Wait);
        assert_eq!(election.step(&seen("other", 5), at(14)), Step::Wait);
        assert_eq!(election.step(&seen("other", 6), at(14)), Step::Wait, "it was renewed");
        assert_eq!(election.step(&seen("other", 6), at(28)), Step::Wait);
        assert_eq!(election.step(&seen("other", 6), at(29)), Step::Take);
        // How long it is good is for its holder to say.
        let long = Seen { life: Some(Duration::from_secs(60)), ..seen("other", 7) };
        assert_eq!(election.step(&long, at(30)), Step::Wait);
        assert_eq!(election.step(&long, at(89)), Step::Wait);
        assert_eq!(election.step(&long, at(90)), Step::Take);
    }

    #[test]
    fn a_renewal_says_that_somebody_is_there_and_a_take_over_who() {
        let (election, now) = (election("me", LeaseTimes::default()), SystemTime::UNIX_EPOCH);
        let time = "1970-01-01T00:00:00.000000Z";
        let renewal = json!({"renewTime": time, "leaseDurationSeconds": 15});
        assert_eq!(election.spec(Step::Renew, &seen("me", 0), now), renewal);
        let taken = json!({
            "renewTime": time,
            "leaseDurationSeconds": 15,
            "holderIdentity": "me",
            "acquireTime": time,
            "leaseTransitions": 2,
        });
        assert_eq!(election.spec(Step::Take, &seen("other", 0), now), taken);
    }

    /// How far a candidate has come with one look at the Lease.
    enum Phase {
        Idle,
        Read(Seen, u64),
        Sent(Step, Seen, u64, Instant),
        Answered(bool, Instant),
    }

    struct Simulated {
        election: Election,
        phase: Phase,
        until: Option<Instant>,
        /// By how much its time of day is wrong.
        skew: i64,
    }

    /// Plays a schedule: after so many milliseconds this candidate goes one step on, and what it sends or is sent may be
    /// lost. Tells whether two ever believed in themselves at the same time, and how often the Lease changed hands.
    fn play(times: LeaseTimes, schedule: &[(u64, usize, bool)]) -> (bool, i32) {
        let mut now = clock::now();
        let (begin, life) = (now, Some(times.life));
        let candidate = |n: i64| Simulated {
            election: election(&n.to_string(), times),
            phase: Phase::Idle,
            until: None,
            skew: (n - 1) * 7200,
        };
        let mut all: Vec<Simulated> = (0..3).map(candidate).collect();
        let mut stored = (Seen { holder: String::new(), renewed: None, transitions: 0, life }, 0);
        for (pause, who, lost) in schedule {
            now += Duration::from_millis(*pause);
            let one = &mut all[*who];
            one.phase = match std::mem::replace(&mut one.phase, Phase::Idle) {
                Phase::Idle => Phase::Read(stored.0.clone(), stored.1),
                Phase::Read(seen, version) => match one.election.step(&seen, now) {
                    Step::Wait => {
                        one.until = None;
                        Phase::Idle
                    }
                    step => Phase::Sent(step, seen, version, now),
                },
                Phase::Sent(..) if *lost => Phase::Idle,
                Phase::Sent(step, seen, version, sent) => {
                    let fits = version == stored.1;
                    if fits {
                        let take = step == Step::Take;
                        let holder = if take { one.election.identity.clone() } else { seen.holder };
                        let elapsed = i64::try_from(now.duration_since(begin).as_millis()).unwrap_or_default();
                        let renewed = Timestamp::from_millisecond(elapsed + one.skew * 1000).ok();
                        let transitions = seen.transitions + i32::from(take);
                        stored = (Seen { holder, renewed, transitions, life }, version + 1);
                    }
                    Phase::Answered(fits, sent)
                }
                Phase::Answered(fits, sent) => {
                    if fits && !lost {
                        one.until = Some(sent + times.belief);
                    }
                    Phase::Idle
                }
            };
            if all.iter().filter(|one| one.until.is_some_and(|until| now < until)).count() > 1 {
                return (true, stored.0.transitions);
            }
        }
        (false, stored.0.transitions)
    }

    fn schedules() -> impl Strategy<Value = Vec<(u64, usize, bool)>> {
        proptest::collection::vec((0..3000_u64, 0..3_usize, proptest::bool::weighted(0.1)), 400)
    }

    proptest! {
        /// Whatever is slow, lost or wrong about the time.
        #[test]
        fn two_never_believe_that_they_lead(schedule in schedules()) {
            prop_assert!(!play(LeaseTimes::default(), &schedule).0);
        }
    }

    /// The schedules above are such that a belief as long as the Lease's life and more is found out.
    #[test]
    fn the_simulation_finds_two_leaders_where_there_are_two() {
        let wrong = LeaseTimes { belief: Duration::from_secs(25), ..LeaseTimes::default() };
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let (mut found, mut transitions) = (0, 0);
        for _ in 0..200 {
            let schedule = schedules().new_tree(&mut runner).unwrap().current();
            found += u32::from(play(wrong, &schedule).0);
            transitions += play(LeaseTimes::default(), &schedule).1;
        }
        assert!(found > 10, "found in {found} of 200");
        assert!(transitions > 400, "the Lease changed hands {transitions} times in 200 schedules");
    }
}
