//! One round: start a proxy, let agents work, see what it used, end it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::agent::{Route, trusting};
use super::load::{Load, Requests, Tally};
use super::proxy::{Proxy, free_port, last_words};
use super::subject::{Job, Programs, Subject, path};
use super::swarm;
use super::upstream::{INJECTED, Seen, Upstream};
use super::usage::{Usage, machine_us, tree};
use super::workload::{Agent, Shape, Workload};

/// What one round gave, each by its name.
pub type Figures = BTreeMap<&'static str, f64>;

/// All figures there are.
pub const FIGURES: [&str; 24] = [
    "counted",
    "per_second",
    "p50_us",
    "p99_us",
    "p999_us",
    "max_us",
    "cpu_us",
    "core_percent",
    "rig_percent",
    "others_percent",
    "dialled",
    "idle_mib",
    "resident_mib",
    "peak_mib",
    "kib_each",
    "ready_ms",
    "held_ms",
    "held_cpu_us",
    "rest_cpu_us",
    "rotated_half_ms",
    "rotated_most_ms",
    "rotated_ms",
    "back_ms",
    "sidecars",
];

/// How long each part takes.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub warm: Duration,
    pub counted: Duration,
}

/// What all rounds share.
pub struct Bench {
    pub upstream: Upstream,
    pub programs: Programs,
    pub epoch: Instant,
    /// The core that the proxy has for itself.
    pub core: usize,
    /// The program of benches/swarm, where a broker is measured.
    pub swarm: Option<PathBuf>,
}

/// How long a proxy may take to serve its first call.
const STARTING: Duration = Duration::from_secs(30);
/// Of what is due, so much has to be done in an open loop: less means that what waits grows and grows.
const KEPT_UP: f64 = 0.98;

impl Bench {
    /// Makes one round; in words why it does not count, if so.
    pub async fn round(&self, subject: Subject, workload: &Workload, times: Times) -> Result<Figures, String> {
        let program = self.programs.get(&subject);
        if let Shape::Broker { sidecars } = workload.shape {
            return swarm::round(self.swarm.as_deref(), program, sidecars, self.core, times.counted);
        }
        let directory = TempDir::new().expect("a temporary directory can be made");
        let (listen, upstream) = (free_port(), self.upstream.address(workload.protocol).port());
        let ca_pem = &self.upstream.ca_pem;
        let job = Job { workload, directory: directory.path(), listen, upstream, ca_pem, program };
        let every = if let Shape::Streams { every, .. } = workload.shape { every } else { Duration::from_secs(1) };
        self.upstream.prepare(workload, every);

        let command = job.command(subject);
        let begun = Instant::now();
        let mut proxy = command.map(|command| Proxy::start(&command, program, self.core, directory.path()));
        let route = self.served(subject, &job, proxy.as_mut()).await?;
        let ready = begun.elapsed();
        let pid = proxy.as_ref().map(Proxy::pid);
        self.measure(subject, &job, route, pid, times).await.map(|mut figures| {
            if pid.is_some() {
                figures.insert("ready_ms", ready.as_secs_f64() * 1e3);
            }
            figures
        })
    }

    /// Awaits the first call that is served; returns how to reach the proxy.
    pub async fn served(&self, subject: Subject, job: &Job<'_>, proxy: Option<&mut Proxy>) -> Result<Route, String> {
        let words = || last_words(job.directory);
        let ended = async {
            match proxy {
                Some(proxy) => proxy.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            route = timeout(STARTING, self.ready(subject, job)) => {
                // It may serve, but without the credential, or with the agent's.
                route.map_err(|_| self.trespass().unwrap_or_else(|| format!("not ready in {STARTING:?}: {}", words())))
            }
            () = ended => Err(format!("it ended at once: {}", words())),
        }
    }

    async fn ready(&self, subject: Subject, job: &Job<'_>) -> Route {
        loop {
            if let Some(route) = self.route(subject, job)
                && let Ok(mut connection) = route.open().await
                && let Ok(Ok((200, _))) =
                    timeout(STARTING, connection.call(&self.requests(subject, job).calls[0])).await
            {
                return route;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn route(&self, subject: Subject, job: &Job<'_>) -> Option<Route> {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (address, authority, connect) = match (subject, job.workload.agent) {
            (Subject::Direct, _) => (at(job.upstream), Some(job.ca_pem.to_owned()), None),
            (Subject::Splice, _) => (at(job.listen), Some(job.ca_pem.to_owned()), None),
            (_, Agent::Plain) => (at(job.listen), None, None),
            (_, Agent::Captured) => {
                let authority = fs::read_to_string(job.authority(subject)).ok().filter(|pem| pem.contains("END"))?;
                (at(job.listen), Some(authority), Some(format!("localhost:{}", job.upstream)))
            }
        };
        Some(Route { address, tls: authority.as_deref().map(trusting), connect })
    }

    pub fn requests(&self, subject: Subject, job: &Job<'_>) -> Requests {
        let endpoint = subject == Subject::Postern && job.workload.agent == Agent::Plain;
        let target = |server| if endpoint { format!("/server-{server}") } else { path(server) };
        let targets: Vec<String> = (0..job.workload.bindings).map(target).collect();
        let host = format!("localhost:{}", if endpoint { job.listen } else { job.upstream });
        Requests::new(job.workload, &targets, &host, subject.is_bare().then_some(INJECTED))
    }

    async fn measure(
        &self,
        subject: Subject,
        job: &Job<'_>,
        route: Route,
        pid: Option<u32>,
        times: Times,
    ) -> Result<Figures, String> {
        sleep(Duration::from_millis(200)).await;
        // Found before the load begins, which would have to wait for that.
        let processes = || pid.map(tree).unwrap_or_default();
        let found = processes();
        let look = || Usage::of(&found);
        let rig = || Usage::of(&[std::process::id()]);
        let idle = look();
        let load = Load::start(job.workload, route, self.requests(subject, job), self.epoch).await;
        self.warm(job.workload, times.warm).await;
        load.count();
        let dialled = || self.upstream.seen().connections.load(Ordering::Relaxed) as f64;
        let (before, own, connections, begun) = (look(), rig(), dialled(), Instant::now());
        let machine = machine_us();
        sleep(times.counted).await;
        let (after, counted, elapsed) = (look(), load.counted(), begun.elapsed());
        let (own, connections, machine) = (rig().cpu_us_since(&own), dialled() - connections, machine_us() - machine);
        let cpu_us = after.cpu_us_since(&before);
        let tally = load.stop().await;
        self.verdict(job.workload, &tally, counted)?;
        if processes() != found {
            return Err("it started or ended processes while it was measured".to_owned());
        }
        kept_up(job.workload.shape, counted, elapsed)?;

        let mut figures = Figures::from([("dialled", connections)]);
        let percent = |time: f64| time / elapsed.as_micros() as f64 * 100.0;
        figures.insert("rig_percent", percent(own));
        figures.insert("others_percent", percent((machine - own - cpu_us).max(0.0)));
        if counted > 0 {
            figures.insert("counted", counted as f64);
            figures.insert("per_second", counted as f64 / elapsed.as_secs_f64());
            figures.insert("p50_us", tally.delay_us(50.0));
            figures.insert("p99_us", tally.delay_us(99.0));
            figures.insert("p999_us", tally.delay_us(99.9));
            figures.insert("max_us", tally.delay_us(100.0));
        }
        if pid.is_some() {
            figures.insert("core_percent", percent(cpu_us));
            figures.insert("idle_mib", idle.resident_kib as f64 / 1024.0);
            figures.insert("resident_mib", after.resident_kib as f64 / 1024.0);
            figures.insert("peak_mib", after.peak_kib as f64 / 1024.0);
            if counted > 0 {
                figures.insert("cpu_us", cpu_us / counted as f64);
            }
            if let Shape::Streams { .. } | Shape::Idle { .. } = job.workload.shape {
                let grown = after.resident_kib as f64 - idle.resident_kib as f64;
                figures.insert("kib_each", grown / job.workload.held() as f64);
            }
        }
        Ok(figures)
    }

    /// Lets the load run until what is opened once is open. With many servers that takes as long as new connections
    /// still come to the upstream.
    async fn warm(&self, workload: &Workload, least: Duration) {
        sleep(least).await;
        if workload.bindings == 1 {
            return;
        }
        let Seen { requests, connections, .. } = self.upstream.seen();
        let seen = || (requests.load(Ordering::Relaxed), connections.load(Ordering::Relaxed));
        // Bounded: a proxy that serves nothing, or keeps nothing, is found out afterwards.
        let begun = Instant::now();
        while begun.elapsed() < STARTING {
            let before = seen();
            sleep(Duration::from_millis(200)).await;
            let (asked, opened) = (seen().0 - before.0, seen().1 - before.1);
            if seen().0 >= workload.bindings as u64 * 4 && opened * 500 <= asked {
                return;
            }
        }
    }

    /// What the upstream was sent and never may be.
    fn trespass(&self) -> Option<String> {
        let seen = self.upstream.seen();
        let (leaked, bare) = (seen.leaked.load(Ordering::Relaxed), seen.unauthenticated.load(Ordering::Relaxed));
        if leaked > 0 {
            return Some(format!("the agent's own credential arrived {leaked} times"));
        }
        (bare > 0).then(|| format!("{bare} requests arrived without exactly the injected credential"))
    }

    /// A proxy that leaks, refuses or breaks off has not done the job, and its figures are none.
    pub fn verdict(&self, workload: &Workload, tally: &Tally, counted: u64) -> Result<(), String> {
        let failed = tally.failed.load(Ordering::Relaxed);
        if let Some(why) = self.trespass() {
            return Err(why);
        }
        if failed > 0 {
            return Err(format!("{failed} failures, the first: {}", tally.failure().unwrap_or_default()));
        }
        let quiet = matches!(workload.shape, Shape::Idle { .. });
        if self.upstream.seen().requests.load(Ordering::Relaxed) == 0 || counted == 0 && !quiet {
            return Err("nothing was answered".to_owned());
        }
        Ok(())
    }
}

/// In an open loop what is due is done, or it is no open loop.
pub fn kept_up(shape: Shape, counted: u64, elapsed: Duration) -> Result<(), String> {
    let Shape::Open { per_second, .. } = shape else { return Ok(()) };
    let done = counted as f64 / elapsed.as_secs_f64();
    if done < f64::from(per_second) * KEPT_UP {
        return Err(format!("it kept up with {done:.0} of {per_second} requests/s"));
    }
    Ok(())
}
