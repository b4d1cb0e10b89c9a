//! The load: what agents do during one round, and how long it took.
//!
//! One round is a warm-up and then the time that counts. Whatever fails is counted, and makes the round void.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::agent::{Connection, Route};
use super::message;
use super::workload::{Shape, Workload};

/// How long all streams or connections may take to open.
const OPENING: Duration = Duration::from_secs(120);

/// What agents send, one request for each server in turn.
pub struct Requests {
    pub calls: Vec<Vec<u8>>,
    pub listen: Vec<u8>,
}

/// What agents saw.
pub struct Tally {
    /// From when it was due (open loop), sent (else), or sent by the upstream (events), in nanoseconds.
    delays: Mutex<Histogram<u64>>,
    pub counted: AtomicU64,
    pub failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    counting: AtomicBool,
    stop: AtomicBool,
}

impl Tally {
    fn new() -> Self {
        // A thousandth is more than a loaded machine is good for; a minute is the longest there is.
        let delays = Histogram::new_with_bounds(100, 60_000_000_000, 3).expect("the bounds are valid");
        Self {
            delays: Mutex::new(delays),
            counted: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            first_failure: Mutex::default(),
            counting: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    fn took(&self, nanos: u64) {
        if self.counting.load(Ordering::Relaxed) {
            self.counted.fetch_add(1, Ordering::Relaxed);
            self.delays.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos);
        }
    }

    fn fail(&self, what: &str) {
        // What breaks off at the end is broken off by the end.
        if !self.stopped() {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| what.to_owned());
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn failure(&self) -> Option<String> {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The delay that so many of a hundred stay below, in microseconds.
    pub fn delay_us(&self, percent: f64) -> f64 {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner).value_at_percentile(percent) as f64 / 1000.0
    }
}

/// Agents at work; they end with it.
pub struct Load {
    pub tally: Arc<Tally>,
    tasks: JoinSet<()>,
}

/// What all agents of a round know.
#[derive(Clone)]
struct Scene {
    route: Route,
    requests: Arc<Requests>,
    answer: usize,
    tally: Arc<Tally>,
    epoch: Instant,
}

impl Load {
    /// Starts the agents of a workload; all are at work when it returns.
    pub async fn start(workload: &Workload, route: Route, requests: Requests, epoch: Instant) -> Self {
        let tally = Arc::new(Tally::new());
        let requests = Arc::new(requests);
        let scene = Scene { route, requests, answer: workload.answer, tally: Arc::clone(&tally), epoch };
        let mut load = Self { tally, tasks: JoinSet::new() };
        match workload.shape {
            Shape::Closed { connections } => {
                (0..connections).for_each(|n| drop(load.tasks.spawn(scene.clone().closed(n, connections))))
            }
            Shape::Open { per_second, connections } => load.open(&scene, per_second, connections),
            Shape::Fresh { agents } => (0..agents).for_each(|n| drop(load.tasks.spawn(scene.clone().fresh(n)))),
            Shape::Streams { count, .. } => load.hold(count, |opened| scene.clone().stream(opened)).await,
            Shape::Idle { connections } => load.hold(connections, |opened| scene.clone().idle(opened)).await,
            Shape::Broker { .. } => {}
        }
        load
    }

    /// Counts from now on.
    pub fn count(&self) {
        self.tally.counting.store(true, Ordering::Relaxed);
    }

    pub fn counted(&self) -> u64 {
        self.tally.counted.load(Ordering::Relaxed)
    }

    /// Ends the agents.
    pub async fn stop(mut self) -> Arc<Tally> {
        self.tally.counting.store(false, Ordering::Relaxed);
        self.tally.stop.store(true, Ordering::Relaxed);
        self.tasks.shutdown().await;
        self.tally
    }

    /// Starts agents that hold something, a few at a time, and waits until each holds it or has failed.
    async fn hold<F>(&mut self, count: usize, agent: impl Fn(mpsc::Sender<()>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        const AT_ONCE: usize = 16;
        let (opened, mut open) = mpsc::channel(AT_ONCE);
        let all = async {
            for started in 0..count + AT_ONCE {
                if started < count {
                    self.tasks.spawn(agent(opened.clone()));
                }
                if started >= AT_ONCE && open.recv().await.is_none() {
                    break;
                }
            }
        };
        // A bound, lest a proxy that says nothing holds the run.
        if tokio::time::timeout(OPENING, all).await.is_err() {
            self.tally.fail("not all could be opened in time");
        }
    }

    /// A thread keeps the clock, finer than the runtime's timer; requests go to the connections in turn and wait there
    /// if they must, so that what waits is measured from when it was due.
    fn open(&mut self, scene: &Scene, per_second: u32, connections: usize) {
        let mut due = Vec::new();
        for _ in 0..connections {
            let (give, take) = mpsc::unbounded_channel();
            due.push(give);
            self.tasks.spawn(scene.clone().open(take));
        }
        let tally = Arc::clone(&scene.tally);
        std::thread::spawn(move || {
            let begun = Instant::now();
            for number in 0..u32::MAX {
                let at = begun + Duration::from_secs(1) * number / per_second;
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                if tally.stopped() || due[number as usize % due.len()].send(at).is_err() {
                    return;
                }
            }
        });
    }
}

impl Scene {
    /// One call, checked; `since` is when it should have begun.
    async fn call(&self, connection: &mut Connection, number: usize, since: Instant) -> bool {
        let calls = &self.requests.calls;
        match connection.call(&calls[number % calls.len()]).await {
            Ok((200, length)) if length == self.answer => {
                self.tally.took(since.elapsed().as_nanos() as u64);
                return true;
            }
            Ok((status, length)) => self.tally.fail(&format!("answered {status} with {length} bytes")),
            Err(error) => self.tally.fail(&error.to_string()),
        }
        false
    }

    async fn connect(&self) -> Option<Connection> {
        let opened = self.route.open().await;
        opened.inspect_err(|error| self.tally.fail(&format!("cannot connect: {error}"))).ok()
    }

    /// Each agent has servers of its own, as far as there are enough: else all would meet at one, and open as many
    /// connections to each as there are agents.
    async fn closed(self, first: usize, agents: usize) {
        let servers = self.requests.calls.len();
        let mut number = first % servers;
        while !self.tally.stopped() {
            let Some(mut connection) = self.connect().await else { return self.rest().await };
            while self.call(&mut connection, number, Instant::now()).await {
                number = if number + agents < servers { number + agents } else { first % servers };
            }
        }
    }

    /// After a failure: a proxy that fails at once must not be asked in a tight loop. The round is void already.
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    async fn open(self, mut due: mpsc::UnboundedReceiver<Instant>) {
        let mut connection = None;
        let mut number = 0;
        while let Some(at) = due.recv().await {
            if connection.is_none() {
                connection = self.connect().await;
            }
            let Some(open) = &mut connection else { continue };
            if !self.call(open, number, at).await {
                connection = None;
            }
            number += 1;
        }
    }

    async fn fresh(self, first: usize) {
        let mut number = first;
        while !self.tally.stopped() {
            let begun = Instant::now();
            let done = match self.connect().await {
                Some(mut connection) => self.call(&mut connection, number, begun).await,
                None => false,
            };
            if !done {
                self.rest().await;
            }
            number += 1;
        }
    }

    async fn stream(self, opened: mpsc::Sender<()>) {
        let stream = match self.connect().await {
            Some(connection) => connection.listen(&self.requests.listen).await,
            None => Err(std::io::ErrorKind::NotConnected.into()),
        };
        if opened.send(()).await.is_err() {
            // It came too late: the round is void.
            return;
        }
        let ended = async {
            let mut stream = stream?;
            loop {
                let (tally, epoch) = (&self.tally, self.epoch);
                stream.next(|sent| tally.took((epoch.elapsed().as_nanos() as u64).saturating_sub(sent))).await?;
            }
        };
        let ended: std::io::Result<()> = ended.await;
        self.tally.fail(&format!("a stream ended: {}", ended.err().map(|error| error.to_string()).unwrap_or_default()));
    }

    async fn idle(self, opened: mpsc::Sender<()>) {
        let mut connection = self.connect().await;
        if let Some(connection) = &mut connection {
            self.call(connection, 0, Instant::now()).await;
        }
        if opened.send(()).await.is_err() {
            // It came too late: the round is void.
            return;
        }
        if let Some(mut connection) = connection {
            // Whatever comes now is the end of it.
            let ended = connection.head().await.err();
            self.tally.fail(&format!("a quiet connection ended: {ended:?}"));
        }
    }
}

impl Requests {
    /// For a proxy that is called `host` and has its servers at these targets.
    pub fn new(workload: &Workload, targets: &[String], host: &str, authorization: Option<&str>) -> Self {
        let close = matches!(workload.shape, Shape::Fresh { .. });
        let call = |target: &String| message::call(target, host, authorization, workload.request, close);
        let first = targets.first().expect("there is a server");
        Self { calls: targets.iter().map(call).collect(), listen: message::listen(first, host, authorization) }
    }
}
