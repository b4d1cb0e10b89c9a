//! Follows one kind of objects for as long as it is wanted: lists them, hears each change, and begins anew after
//! whatever went wrong.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Client;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::kind::Kind;
use crate::control::index::Change;
use crate::runtime::backoff::Backoff;
use crate::runtime::{clock, random};

/// What was heard.
pub(super) enum Told {
    /// All there is; from now on each change is told.
    Listed(Vec<Change>),
    /// Something changed.
    Changed(Change),
    /// We may not read them.
    Denied,
    /// Nothing is heard for now; why, in words that quote nothing.
    Lost(Lost),
}

/// Why nothing is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// The API server does not answer.
    Unreachable,
    /// It has no such kind.
    NotFound,
    /// We have missed changes; all that is there is asked for anew.
    Behind,
    /// It says no, or something that cannot be read.
    Refused,
}

impl Lost {
    /// The label.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::NotFound => "not_found",
            Self::Behind => "behind",
            Self::Refused => "refused",
        }
    }

    /// For the log.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Unreachable => "the API server cannot be reached",
            Self::NotFound => "the API server does not know the kind: install the CustomResourceDefinition",
            Self::Behind => "changes were missed",
            Self::Refused => "the API server's answer is an error, or cannot be read",
        }
    }
}

/// Who may not is asked again no sooner than after this, so that a grant counts soon.
const DENIED: Duration = Duration::from_secs(5);
/// Where nothing is heard, nobody waits longer than this: meanwhile no sidecar is vouched for.
const LOST: Duration = Duration::from_secs(5);
/// What has worked for so long begins without waits when it fails.
const STEADY: Duration = Duration::from_secs(10);

/// Where a follower tells what it hears, under the number that it was started with.
pub(super) struct Ear {
    pub(super) number: u64,
    pub(super) events: mpsc::Sender<(u64, Told)>,
    /// The API server ends a watch after this. Then it looks at our rights again, and a connection that died silently
    /// is seen: so long may what we believe be wrong.
    pub(super) renewal: Duration,
}

impl Ear {
    async fn tell(&self, told: Told) {
        // Nobody listens any more: whoever started us is about to end us.
        let _gone = self.events.send((self.number, told)).await;
    }
}

/// Follows until dropped.
pub(super) async fn follow<K: Kind>(kind: K, client: Client, ear: Ear) {
    let mut backoff = Backoff::default();
    loop {
        let begun = Instant::from(clock::now());
        let told = listen(&kind, client.clone(), &ear).await;
        if Instant::from(clock::now()) - begun > STEADY {
            backoff.reset();
        }
        let wait = backoff.failed(random::fraction(), None);
        let wait = if matches!(told, Told::Denied) { DENIED + wait } else { wait.min(LOST) };
        ear.tell(told).await;
        sleep(wait).await;
    }
}

/// Listens until something goes wrong, and says what.
async fn listen<K: Kind>(kind: &K, client: Client, ear: &Ear) -> Told {
    let seconds = u32::try_from(ear.renewal.as_secs().max(1)).unwrap_or(u32::MAX);
    let mut config = watcher::Config::default().timeout(seconds);
    if let Some(label) = K::LABEL {
        config = config.labels(&format!("{label}=true"));
    }
    let mut events = pin!(watcher(kind.api(client), config));
    let mut list = Vec::new();
    loop {
        match events.next().await {
            Some(Ok(Event::Init)) => list.clear(),
            Some(Ok(Event::InitApply(object))) => list.extend(kind.read(object)),
            Some(Ok(Event::InitDone)) => ear.tell(Told::Listed(kind.listed(std::mem::take(&mut list)))).await,
            Some(Ok(Event::Apply(object))) => {
                // What can no longer be read is not kept as it was.
                let gone = kind.gone(&object);
                if let Some(change) = kind.read(object).map(|one| kind.changed(one)).or(gone) {
                    ear.tell(Told::Changed(change)).await;
                }
            }
            Some(Ok(Event::Delete(object))) => {
                if let Some(change) = kind.gone(&object) {
                    ear.tell(Told::Changed(change)).await;
                }
            }
            Some(Err(error)) => return wrong(&error),
            None => return Told::Lost(Lost::Unreachable),
        }
    }
}

fn wrong(error: &watcher::Error) -> Told {
    let status = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => status,
            kube::Error::SerdeError(_) | kube::Error::LinesCodecMaxLineLengthExceeded => {
                return Told::Lost(Lost::Refused);
            }
            _ => return Told::Lost(Lost::Unreachable),
        },
        watcher::Error::WatchError(status) => status,
        watcher::Error::NoResourceVersion => return Told::Lost(Lost::Refused),
    };
    match status.code {
        403 => Told::Denied,
        404 => Told::Lost(Lost::NotFound),
        410 => Told::Lost(Lost::Behind),
        _ => Told::Lost(Lost::Refused),
    }
}
