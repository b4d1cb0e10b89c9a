//! The `broker` source: one stream from the broker, from which every change comes as a whole
//! snapshot.
//!
//! The pod's token says who we are; what the broker then tells is all that this caller has. While
//! the broker cannot be heard, what it told last is used, for at most `maxStale`. The stream is
//! renewed before it ends, and the new one is there before the old one is let go.

mod connect;
mod entries;
mod lines;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::cache::{Cache, Credentials};
use super::told::Told;
use crate::core::decide::Refusal;
use crate::core::reason::Reason;
use crate::core::upstream::UpstreamUrl;
use crate::core::wire::{Message, Snapshot};
use crate::runtime::backoff::Backoff;
use crate::runtime::{clock, random};
use crate::telemetry::exchange::Telemetry;
use connect::{Connector, Fault, Stream};
pub use entries::{Pod, entries};

/// Where the broker is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `https://`; its host is what the broker's certificate must be good for.
    pub url: UpstreamUrl,
    /// The only CA certificates that the broker's may come from: PEM, the present and the next.
    pub ca: Arc<[u8]>,
    /// Where the kubelet keeps the pod's token.
    pub token_file: PathBuf,
    /// How long what was told last may be used without hearing more.
    pub max_stale: Duration,
    /// DNS servers; empty takes the system's.
    pub resolvers: Vec<SocketAddr>,
    /// What of the pod matters.
    pub pod: Pod,
}

/// Told after each snapshot: what is in force now, and how many problems there are.
pub type OnSnapshot = Box<dyn FnMut(&Credentials, usize) + Send>;

/// The source, to be run.
pub struct BrokerSource {
    connector: Arc<Connector>,
    max_stale: Duration,
    pod: Pod,
    cache: Cache,
    telemetry: Arc<Telemetry>,
    on_snapshot: OnSnapshot,
    told: Told,
    backoff: Backoff,
    /// When the broker was last heard; `None` before the first snapshot.
    heard: Option<Instant>,
    /// Why nothing is served for now.
    barred: Option<Reason>,
}

type Opened = Result<(Stream, Snapshot), Fault>;
type Opening = Pin<Box<dyn Future<Output = Opened> + Send>>;

/// A stream in use.
struct Live {
    stream: Stream,
    /// When to look for the next one.
    renew: Instant,
}

/// What happened.
enum Event {
    Message(Result<Message, Fault>),
    Opened(Opened),
    Renew,
    Stale,
}

impl BrokerSource {
    /// Nothing is served before the first snapshot.
    pub fn new(settings: Settings, telemetry: Arc<Telemetry>) -> io::Result<Self> {
        let mut cache = Cache::default();
        cache.bar(Refusal::new(Reason::SourceNotReady));
        telemetry.metrics.broker_connected(false);
        Ok(Self {
            max_stale: settings.max_stale,
            pod: settings.pod.clone(),
            connector: Arc::new(Connector::new(settings)?),
            cache,
            telemetry,
            on_snapshot: Box::new(|_, _| {}),
            told: Told::default(),
            backoff: Backoff::default(),
            heard: None,
            barred: Some(Reason::SourceNotReady),
        })
    }

    /// The handle for readers.
    pub fn credentials(&self) -> Credentials {
        self.cache.readers()
    }

    /// Runs until dropped.
    pub async fn run(mut self, on_snapshot: OnSnapshot) {
        self.on_snapshot = on_snapshot;
        let mut live: Option<Live> = None;
        let mut opening = Some(self.open(Duration::ZERO));
        loop {
            match next(&mut live, &mut opening, self.stale_at()).await {
                Event::Message(Ok(message)) => {
                    if let Some(wait) = self.message(message, live.as_ref()) {
                        opening.get_or_insert_with(|| self.open(wait));
                    }
                }
                Event::Message(Err(fault)) => {
                    live = None;
                    self.lost(&fault);
                    let wait = self.wait(&fault);
                    opening.get_or_insert_with(|| self.open(wait));
                }
                Event::Opened(Ok((stream, snapshot))) => {
                    // The old one is let go only now.
                    live = Some(Live::new(stream));
                    opening = None;
                    self.connected(snapshot);
                }
                Event::Opened(Err(fault)) => {
                    self.refused(&fault, live.is_some());
                    let wait = self.wait(&fault);
                    opening = Some(self.open(wait));
                }
                Event::Renew => opening = Some(self.open(Duration::ZERO)),
                Event::Stale => {
                    let detail = format!("the broker was not heard for {:?}", self.max_stale);
                    self.bar(Refusal::because(Reason::CredentialStale, detail));
                }
            }
        }
    }

    fn open(&self, wait: Duration) -> Opening {
        let connector = Arc::clone(&self.connector);
        Box::pin(async move {
            sleep(wait).await;
            connector.open().await
        })
    }

    fn wait(&mut self, fault: &Fault) -> Duration {
        match fault {
            fault if fault.is_rejection() => self.backoff.rejected(random::fraction()),
            Fault::Unavailable { retry, .. } => self.backoff.failed(random::fraction(), *retry),
            _ => self.backoff.failed(random::fraction(), None),
        }
    }

    /// When what was told last may not be used any more.
    fn stale_at(&self) -> Option<Instant> {
        self.heard.filter(|_| self.barred.is_none()).map(|heard| heard + self.max_stale)
    }

    /// Takes a message. Returns when to open another stream, if that is to be done.
    fn message(&mut self, message: Message, live: Option<&Live>) -> Option<Duration> {
        self.hear();
        match message {
            Message::Snapshot(snapshot) => {
                self.apply(snapshot);
                None
            }
            Message::Heartbeat => {
                // A stream that has lived so long is a good one.
                self.backoff.reset();
                // It vouches for what is not in force any more: ask for it again.
                self.barred.map(|_| Duration::ZERO)
            }
            Message::Goodbye => {
                let life = live.map_or(Duration::ZERO, |live| live.stream.terms().life);
                Some(GOODBYE.min(life / 10).mul_f64(random::fraction()))
            }
            Message::Hello(_) | Message::Unknown => None,
        }
    }

    fn hear(&mut self) {
        self.heard = Some(clock::now().into());
        self.telemetry.metrics.broker_heard(clock::wall());
    }

    fn connected(&mut self, snapshot: Snapshot) {
        self.telemetry.metrics.broker_connect("ok");
        self.telemetry.metrics.broker_connected(true);
        tracing::info!(bindings = snapshot.items.len(), "a stream from the broker is open");
        self.hear();
        self.apply(snapshot);
    }

    fn apply(&mut self, snapshot: Snapshot) {
        let (snapshot, mut problems) = entries(snapshot, &self.pod);
        let conflicts = self.cache.apply(snapshot, clock::wall());
        self.barred = None;
        problems.extend(conflicts.iter().map(ToString::to_string));
        self.telemetry.metrics.source_read(problems.len());
        let count = problems.len();
        let credentials = self.cache.readers();
        self.told.tell(problems.into_iter(), &credentials.view());
        (self.on_snapshot)(&credentials, count);
    }

    fn lost(&mut self, fault: &Fault) {
        self.telemetry.metrics.broker_connected(false);
        tracing::warn!(fault = %fault, max_stale = ?self.max_stale, "the broker is not heard; what it told last is used");
    }

    /// No stream could be opened; `live` says whether there is another.
    fn refused(&mut self, fault: &Fault, live: bool) {
        self.telemetry.metrics.broker_connect(fault.as_str());
        tracing::warn!(fault = %fault, "no stream from the broker could be opened");
        if live {
            // Its stream vouches for us, and it will end with the token that opened it.
        } else if fault.is_rejection() {
            self.bar(Refusal::because(Reason::UnidentifiedCaller, fault));
        } else if self.barred == Some(Reason::SourceNotReady) {
            self.bar(Refusal::because(Reason::SourceNotReady, fault));
        }
    }

    fn bar(&mut self, bar: Refusal) {
        if self.barred != Some(bar.reason) {
            tracing::error!(reason = %bar.reason, "no call is served for now");
        }
        self.barred = Some(bar.reason);
        self.cache.bar(bar);
    }
}

/// When a broker says goodbye to all at once, they come back within this time.
const GOODBYE: Duration = Duration::from_secs(1);

impl Live {
    fn new(stream: Stream) -> Self {
        // Somewhere in the last quarter of its life, so that not all come at the same time.
        let share = 0.75 + 0.15 * random::fraction();
        let renew = Instant::from(clock::now()) + stream.terms().life.mul_f64(share);
        Self { stream, renew }
    }
}

async fn next(live: &mut Option<Live>, opening: &mut Option<Opening>, stale: Option<Instant>) -> Event {
    let renew = live.as_ref().filter(|_| opening.is_none()).map(|live| live.renew);
    let message = async {
        match live {
            Some(live) => live.stream.next().await,
            None => std::future::pending().await,
        }
    };
    let opened = async {
        match opening {
            Some(opening) => opening.await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        message = message => Event::Message(message),
        opened = opened => Event::Opened(opened),
        () = at(renew) => Event::Renew,
        () = at(stale) => Event::Stale,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
