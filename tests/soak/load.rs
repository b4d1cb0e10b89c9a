//! The soak: two waves of load with a pause after each, and the account of all of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::account::{Report, progress};
use super::callers::{Scene, call_on};
use super::draw::Draw;
use super::judge;
use super::plan::{SERVERS, Server};
use super::process::{Sample, Watch, trend};
use super::streams::listen_on;
use super::suite::support::capture::Capture;
use super::suite::support::documents::Binding;
use super::suite::support::sidecar::Sidecar;
use super::upstream;
use super::world::World;

/// Two waves of load, and everything accounted for.
#[derive(clap::Args)]
pub struct Args {
    /// How long, both waves and their pauses together
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Event streams open at once
    #[arg(long, default_value_t = 500)]
    streams: u64,
    /// Agent connections that call
    #[arg(long, default_value_t = 48)]
    callers: u64,
    /// Calls a second, of all together
    #[arg(long, default_value_t = 80)]
    rate: u64,
    /// Repeats a run's choices (not its timing)
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How much a figure may grow within the samples and still be flat, as a part of its mean. The slope of
/// all samples tells, since a single one tells how busy a moment was. In the first minute the
/// allocator's free lists are still filling: a leak must be of kilobytes an exchange to be seen then.
/// After minutes they are full, and a leak of some hundred bytes an exchange is seen.
fn tolerance(seconds: u64) -> f64 {
    if seconds < 300 { 0.2 } else { 0.05 }
}

pub async fn run(args: Args) -> Report {
    let mut report = Report::default();
    let grace = Duration::from_secs((args.seconds / 5).clamp(5, 12));
    let world = Arc::new(World::new(args.seed));
    let mut captures = Vec::new();
    for server in SERVERS {
        captures.push(upstream::start(&world, server).await);
    }
    let sidecar = start(&world, &captures, grace).await;
    sleep(Duration::from_secs(1)).await;
    let idle = Sample::of(sidecar.pid());
    report.part("idle, before any load");
    tell(&report, &[idle]);
    let work = async {
        let first = Duration::from_secs(args.seconds * 3 / 10);
        wave(&args, &world, &sidecar, first, 0, &mut report).await;
        let rested = rest(&sidecar, &idle, &mut report).await;
        let second = Duration::from_secs(args.seconds * 6 / 10);
        let samples = wave(&args, &world, &sidecar, second, 1, &mut report).await;
        flat(&args, &samples, &mut report);
        let end = rest(&sidecar, &idle, &mut report).await;
        let floor = rested.rss_kib as f64;
        report.check((end.rss_kib as f64) < floor * 1.1 + 2048.0, || {
            format!("idle memory grew from {} KiB to {} KiB between the waves", rested.rss_kib, end.rss_kib)
        });
    };
    tokio::select! {
        () = work => {}
        () = world.tokens.rotate(sidecar.files(), Duration::from_secs(1)) => {}
        () = progress(|| format!("{} exchanges", world.count())) => {}
    }
    report.figure("exchanges", world.count());
    account(&world, &sidecar, &captures, grace, &mut report).await;
    report
}

async fn start(world: &World, captures: &[Capture], grace: Duration) -> Sidecar {
    let mut builder =
        Sidecar::for_research().kubelet_volumes().config("rotationGrace", json!(format!("{}s", grace.as_secs())));
    for (server, capture) in SERVERS.into_iter().zip(captures) {
        let binding = Binding::new(server.name()).token(world.tokens.issue(server));
        builder = builder.binding(match server {
            Server::Old => {
                binding.trusting(capture).url(&capture.url("/sse")).set("/server/transports", json!(["SSE"]))
            }
            Server::Alpha | Server::Beta => binding.to(capture),
        });
    }
    builder.start().await
}

/// Load for this long, then to its end. Returns the samples of its middle, when all streams are open.
async fn wave(
    args: &Args,
    world: &Arc<World>,
    sidecar: &Sidecar,
    time: Duration,
    number: u64,
    report: &mut Report,
) -> Vec<Sample> {
    report.part(&format!("wave {}: {} s, {} streams, {} calls/s", number + 1, time.as_secs(), args.streams, args.rate));
    world.finale.send_replace(false);
    let (stop, stopped) = watch::channel(false);
    let opening = Arc::new(Semaphore::new(32));
    let scene = Scene { world: Arc::clone(world), endpoint: sidecar.endpoint(), stop: stopped, opening };
    let ramp = time / 4;
    let mut agents = JoinSet::new();
    let seed = args.seed ^ (number << 32);
    for slot in 0..args.streams {
        let server = [Server::Alpha, Server::Beta, Server::Alpha, Server::Beta, Server::Old][(slot % 5) as usize];
        let begin = ramp.mul_f64(slot as f64 / args.streams as f64);
        agents.spawn(listen_on(scene.clone(), server, Draw::new(seed, 1_000_000 + slot), begin));
    }
    let pause = Duration::from_secs_f64(args.callers as f64 / args.rate as f64);
    for caller in 0..args.callers {
        agents.spawn(call_on(scene.clone(), Draw::new(seed, 2_000_000 + caller), pause));
    }
    sleep(ramp + time / 8).await;
    // Some are just between two streams; a busy machine needs longer to open them.
    let (begun, most) = (Instant::now(), args.streams as f64 * 0.8);
    let mut open = 0.0;
    while open <= most && begun.elapsed() < Duration::from_secs(60) {
        open = sidecar.metric("postern_open_streams", &[("kind", "get")]).await;
        sleep(Duration::from_millis(200)).await;
    }
    report.figure("open streams, by the sidecar's metrics", open);
    report.check(open > most, || format!("only {open} streams are open"));
    let watch = Watch::start(sidecar.pid(), Duration::from_millis(250));
    sleep(time - ramp - time / 8).await;
    let samples = watch.stop();
    stop.send_replace(true);
    world.finale.send_replace(true);
    while let Some(ended) = agents.join_next().await {
        report.check(ended.is_ok(), || format!("an agent could not go on: {ended:?}"));
    }
    tell(report, &samples);
    samples
}

fn tell(report: &Report, samples: &[Sample]) {
    let Some((first, last)) = samples.first().zip(samples.last()) else { return };
    let (rss, slope) = trend(samples, |sample| sample.rss_kib as f64);
    let peak = samples.iter().map(|sample| sample.rss_kib).max().unwrap_or_default();
    report.figure("RSS mean / peak, KiB", format!("{rss:.0} / {peak}"));
    let fds = last.fds.map_or("cannot be read: not root".to_owned(), |fds| fds.to_string());
    report.figure("descriptors / threads", format!("{fds} / {}", last.threads));
    if samples.len() > 1 {
        let cpu = (last.cpu - first.cpu).as_secs_f64() / (last.at - first.at).as_secs_f64();
        report.figure("RSS slope, KiB in an hour", format!("{slope:.0}"));
        report.figure("processor, cores", format!("{cpu:.2}"));
    }
}

fn flat(args: &Args, samples: &[Sample], report: &mut Report) {
    type Figure = fn(&Sample) -> f64;
    let mut figures: Vec<(&str, Figure)> =
        vec![("RSS", |sample| sample.rss_kib as f64), ("threads", |sample| sample.threads as f64)];
    if samples.iter().all(|sample| sample.fds.is_some()) {
        figures.push(("descriptors", |sample| sample.fds.unwrap_or_default() as f64));
    }
    let hours = samples.first().zip(samples.last()).map_or(0.0, |(a, b)| (b.at - a.at).as_secs_f64() / 3600.0);
    for (name, figure) in figures {
        let (mean, slope) = trend(samples, figure);
        let growth = slope * hours;
        let most = mean * tolerance(args.seconds);
        report.figure(&format!("{name}: growth by the slope, most allowed"), format!("{growth:.0}, {most:.0}"));
        report.check(growth < most, || format!("{name} grew by {growth:.0} around {mean:.0}"));
    }
}

/// Awaits that everything is let go, and looks.
async fn rest(sidecar: &Sidecar, idle: &Sample, report: &mut Report) -> Sample {
    let begun = Instant::now();
    let gauges = ["postern_open_streams", "postern_agent_connections", "postern_upstream_connections"];
    // Upstream connections are kept for some seconds, an HTTP/2 one as long as its credential is the newest.
    let (metrics, end) = loop {
        let metrics = sidecar.metrics().await;
        // The scrape's own connection has to be gone as well.
        sleep(Duration::from_millis(200)).await;
        let end = Sample::of(sidecar.pid());
        let quiet = gauges.iter().all(|gauge| metrics.sum(gauge, &[]) == 0.0) && end.fds <= idle.fds;
        if quiet || begun.elapsed() > Duration::from_secs(20) {
            break (metrics, end);
        }
    };
    report.part(&format!("at rest, after {:.1} s", begun.elapsed().as_secs_f64()));
    tell(report, &[end]);
    for gauge in gauges {
        report.equal(gauge, metrics.sum(gauge, &[]), 0.0);
    }
    report.check(end.fds <= idle.fds, || format!("{:?} descriptors, {:?} before", end.fds, idle.fds));
    report.check(end.threads <= idle.threads + 1, || format!("{} threads, {} before", end.threads, idle.threads));
    end
}

async fn account(world: &World, sidecar: &Sidecar, captures: &[Capture], grace: Duration, report: &mut Report) {
    report.part("every exchange: its plan, and what the agent saw");
    judge::exchanges(world, grace, report);
    let lines = sidecar.access_lines();
    judge::lines(world, &lines, report);
    judge::metrics(world, &sidecar.metrics().await, &lines, report);
    for (server, capture) in SERVERS.into_iter().zip(captures) {
        let counts = format!("{} / {}", capture.count(), capture.connections());
        report.figure(&format!("{}: requests / connections", server.name()), counts);
        capture.seen().read(|seen| judge::given_up(world, server, seen, report));
    }
    let told = sidecar.diagnostics();
    let bad = told.lines().filter(|line| line.contains("panicked") || line.contains(super::tokens::MARK)).count();
    report.check(bad == 0, || format!("standard error:\n{told}"));
}
