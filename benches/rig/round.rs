//! One round: start a proxy, let agents work, see what it used, end it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::agent::{Route, trusting};
use super::load::{Load, Requests, Tally};
use super::subject::{Job, Program, Programs, Subject, path};
use super::upstream::{INJECTED, Upstream};
use super::usage::Usage;
use super::workload::{Agent, Shape, Workload};

/// What one round gave, each by its name.
pub type Figures = BTreeMap<&'static str, f64>;

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
}

/// How long a proxy may take to serve its first call.
const STARTING: Duration = Duration::from_secs(30);
/// How long a proxy may take to end when told to.
const ENDING: Duration = Duration::from_secs(5);

/// A proxy at work; it ends with this.
struct Proxy {
    child: Child,
}

impl Proxy {
    fn start(command: &[String], program: Option<&Program>, core: usize, directory: &Path) -> Self {
        let log = File::create(directory.join("stderr.log")).expect("the directory is ours");
        // taskset becomes the program: the process is the same.
        let mut child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .args(command)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LD_LIBRARY_PATH", program.map_or("", |program| &program.libraries))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("taskset starts");
        // Access lines go into a pipe that is read, as in a pod.
        let mut output = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while output.read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
        Self { child }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let asked = Instant::now();
        let told = Pid::from_raw(self.child.id() as i32).is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        while told && asked.elapsed() < ENDING {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Awaits that a proxy ends of its own accord.
async fn ended(proxy: Option<&mut Proxy>) {
    let Some(proxy) = proxy else { return std::future::pending().await };
    while proxy.child.try_wait().is_ok_and(|ended| ended.is_none()) {
        sleep(Duration::from_millis(50)).await;
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

impl Bench {
    /// Makes one round; in words why it does not count, if so.
    pub async fn round(&self, subject: Subject, workload: &Workload, times: Times) -> Result<Figures, String> {
        let directory = TempDir::new().expect("a temporary directory can be made");
        let (listen, upstream) = (free_port(), self.upstream.address(workload.protocol).port());
        let program = self.programs.get(&subject);
        let ca_pem = &self.upstream.ca_pem;
        let job = Job { workload, directory: directory.path(), listen, upstream, ca_pem, program };
        let every = if let Shape::Streams { every, .. } = workload.shape { every } else { Duration::from_secs(1) };
        self.upstream.prepare(workload, every);

        let begun = Instant::now();
        let command = job.command(subject);
        let mut proxy = command.map(|command| Proxy::start(&command, program, self.core, directory.path()));
        let log = || {
            let text = fs::read_to_string(directory.path().join("stderr.log")).unwrap_or_default();
            text.lines().rev().take(3).collect::<Vec<_>>().join(" | ")
        };
        let route = tokio::select! {
            route = timeout(STARTING, self.ready(subject, &job)) => {
                route.map_err(|_| format!("not ready in {STARTING:?}: {}", log()))?
            }
            () = ended(proxy.as_mut()) => return Err(format!("it ended at once: {}", log())),
        };
        let ready = begun.elapsed();
        let pid = proxy.as_ref().map(|proxy| proxy.child.id());
        self.measure(subject, &job, route, pid, times).await.map(|mut figures| {
            if pid.is_some() {
                figures.insert("ready_ms", ready.as_secs_f64() * 1e3);
            }
            figures
        })
    }

    /// Awaits the first call that is served; returns how to reach the proxy.
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

    fn requests(&self, subject: Subject, job: &Job<'_>) -> Requests {
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
        let look = || pid.map(Usage::of).unwrap_or_default();
        sleep(Duration::from_millis(200)).await;
        let idle = look();
        let load = Load::start(job.workload, route, self.requests(subject, job), self.epoch).await;
        self.warm(job.workload, times.warm).await;
        load.count();
        let dialled = || self.upstream.seen().connections.load(Ordering::Relaxed) as f64;
        let (before, connections, begun) = (look(), dialled(), Instant::now());
        sleep(times.counted).await;
        let (after, counted, elapsed) = (look(), load.counted(), begun.elapsed());
        let connections = dialled() - connections;
        let tally = load.stop().await;
        self.verdict(job.workload, &tally, counted)?;

        let mut figures = Figures::from([("dialled", connections)]);
        let cpu_us = after.cpu_us - before.cpu_us;
        if counted > 0 {
            figures.insert("counted", counted as f64);
            figures.insert("per_second", counted as f64 / elapsed.as_secs_f64());
            figures.insert("p50_us", tally.delay_us(50.0));
            figures.insert("p99_us", tally.delay_us(99.0));
            figures.insert("p999_us", tally.delay_us(99.9));
        }
        if pid.is_some() {
            figures.insert("core_percent", cpu_us / elapsed.as_micros() as f64 * 100.0);
            figures.insert("idle_mib", idle.resident_kib as f64 / 1024.0);
            figures.insert("resident_mib", after.resident_kib as f64 / 1024.0);
            figures.insert("peak_mib", after.peak_kib as f64 / 1024.0);
            if counted > 0 {
                figures.insert("cpu_us", cpu_us / counted as f64);
            }
            if let Shape::Streams { count: held, .. } | Shape::Idle { connections: held } = job.workload.shape {
                let grown = after.resident_kib as f64 - idle.resident_kib as f64;
                figures.insert("kib_each", grown / held as f64);
            }
        }
        Ok(figures)
    }

    /// Lets the load run until what is opened once is open.
    async fn warm(&self, workload: &Workload, least: Duration) {
        sleep(least).await;
        let calls = workload.bindings as u64 * 4;
        // Bounded: a proxy that serves nothing is found out afterwards.
        let begun = Instant::now();
        while self.upstream.seen().requests.load(Ordering::Relaxed) < calls && begun.elapsed() < STARTING {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// A proxy that leaks, refuses or breaks off has not done the job, and its figures are none.
    fn verdict(&self, workload: &Workload, tally: &Tally, counted: u64) -> Result<(), String> {
        let seen = self.upstream.seen();
        let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let (leaked, bare, failed) = (of(&seen.leaked), of(&seen.unauthenticated), of(&tally.failed));
        if leaked > 0 {
            return Err(format!("the agent's own credential arrived {leaked} times"));
        }
        if bare > 0 {
            return Err(format!("{bare} requests arrived without exactly the injected credential"));
        }
        if failed > 0 {
            return Err(format!("{failed} failures, the first: {}", tally.failure().unwrap_or_default()));
        }
        let quiet = matches!(workload.shape, Shape::Idle { .. });
        if of(&seen.requests) == 0 || counted == 0 && !quiet {
            return Err("nothing was answered".to_owned());
        }
        Ok(())
    }
}
