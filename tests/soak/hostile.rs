//! Hostile agents: thousands of connections at once that want everything and give nothing, against
//! default limits, with an agent among them that behaves.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::account::{Report, progress};
use super::calm::Calm;
use super::process::{Sample, Watch};
use super::suite::support::answer::Answer;
use super::suite::support::capture::{Capture, Request};
use super::suite::support::documents::Binding;
use super::suite::support::message::{Message, rpc};
use super::suite::support::sidecar::Sidecar;
use super::suite::support::{Protocol, unique_secret};

/// Thousands of hostile connections at once, and all of them let go.
#[derive(clap::Args)]
pub struct Args {
    /// Hostile connections at once
    #[arg(long, default_value_t = 2000)]
    connections: usize,
    /// With idleTimeout 30s, and without waiting for the 300 s that an unread event stream has
    #[arg(long)]
    quick: bool,
}

/// What a hostile connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    /// Connects and says nothing.
    Silent,
    /// Sends a head, a byte a second.
    SlowHead,
    /// Sends half a body.
    HalfBody,
    /// Sends 60 KiB of a header line and no end.
    HugeHeader,
    /// Opens an event stream of this server and never reads.
    Unread(&'static str),
    /// Sends call after call to this server and reads no answer; each with a long id to echo.
    Pipeline(&'static str),
}

/// Of a thousand connections.
const MIX: [(Attack, usize); 9] = [
    (Attack::Silent, 375),
    (Attack::SlowHead, 170),
    (Attack::HalfBody, 170),
    (Attack::HugeHeader, 160),
    (Attack::Unread("alpha"), 30),
    (Attack::Unread("beta"), 40),
    (Attack::Unread("old"), 30),
    (Attack::Pipeline("alpha"), 20),
    (Attack::Pipeline("nobody"), 5),
];

impl Attack {
    /// The attacks of so many connections.
    fn all(args: &Args) -> Vec<Self> {
        let thousand = MIX.iter().flat_map(|(attack, share)| {
            // For each that does not read, the sidecar fills some megabytes of the kernel's buffers first,
            // which takes an unoptimised one long.
            let few = args.quick && matches!(attack, Self::Unread(_) | Self::Pipeline(_));
            let kept = if few { share.div_ceil(5) } else { *share };
            (0..*share).map(move |number| if number < kept { *attack } else { Self::Silent })
        });
        thousand.collect::<Vec<_>>().into_iter().cycle().take(args.connections).collect()
    }
}

/// The limits of connections that the sidecar has by default, and what the calm agent has at once.
const LIMIT: usize = 2048;
const EXCESS: usize = 64;
const CALM: usize = 4;

/// Stands in every request that must not reach an upstream.
const UNFINISHED: &str = "never-to-arrive";

/// How long after its timeout a connection may still be there: what is let go is told why, and read
/// for two seconds; the rest is a busy machine's.
const SLACK: Duration = Duration::from_secs(30);

/// The most a hostile connection may make the sidecar hold, on average: a head (64 KiB) or what is
/// read ahead (64 KiB), and the buffers of one answer. Measured: a third of it.
const MOST_KIB: u64 = 192;

pub async fn run(args: Args) -> Report {
    tokio::select! {
        report = attack_and_let_go(args) => report,
        () = progress(|| "under attack".to_owned()) => unreachable!("it goes on for ever"),
    }
}

async fn attack_and_let_go(args: Args) -> Report {
    let mut report = Report::default();
    let captures =
        [Capture::start(Protocol::Tls).await, Capture::start(Protocol::H2).await, Capture::start(Protocol::Tls).await];
    captures.iter().for_each(|capture| capture.always(firehose));
    let sidecar = start(&captures, args.quick).await;
    let idle = Sample::of(sidecar.pid());
    report.figure("idle: RSS KiB / descriptors", format!("{} / {:?}", idle.rss_kib, idle.fds));

    let watch = Watch::start(sidecar.pid(), Duration::from_millis(100));
    let begun = Instant::now();
    let calm = Calm::start(sidecar.endpoint());
    let attacks = Attack::all(&args);
    let mut attackers = attack(&sidecar, &attacks, &mut report).await;
    calm.rounds(10).await;
    let open = connections(&sidecar).await;
    report.figure("agent connections, after", format!("{open}, {:.1} s", begun.elapsed().as_secs_f64()));
    let told = calm.tell("in the attack", &mut report);
    report.check(told.overloaded + told.dropped == 0, || "below the limit nobody is refused".to_owned());
    // What has a timeout of 10 s is let go; unread streams, and what idleTimeout is for, are not yet.
    let count = |wanted: fn(&&Attack) -> bool| attacks.iter().filter(wanted).count();
    let unread = count(|attack| matches!(attack, Attack::Unread(_)));
    let idling = count(|attack| matches!(attack, Attack::Silent | Attack::Pipeline(_)));
    released(&sidecar, unread + idling, Duration::from_secs(10), &mut report).await;
    if args.quick {
        released(&sidecar, unread, Duration::from_secs(30), &mut report).await;
    }
    full(&sidecar, &calm, &mut attackers, &mut report).await;
    if !args.quick {
        released(&sidecar, 0, Duration::from_secs(300), &mut report).await;
    }
    let samples = watch.stop();
    drop(attackers);
    calm.stop();
    aftermath(&sidecar, &idle, &samples, &args, &mut report).await;
    untouched(&captures, &mut report);
    report
}

async fn start(captures: &[Capture; 3], quick: bool) -> Sidecar {
    let [alpha, beta, old] = captures;
    let legacy = Binding::new("old").trusting(old).url(&old.url("/sse")).set("/server/transports", json!(["SSE"]));
    let mut builder = Sidecar::for_research()
        .binding(Binding::new("alpha").to(alpha).token(unique_secret()))
        .binding(Binding::new("beta").to(beta).token(unique_secret()))
        .binding(legacy.token(unique_secret()));
    if quick {
        builder = builder.config("idleTimeout", json!("30s"));
    }
    builder.start().await
}

/// A stream gets 64 MiB as fast as it takes them, a hostile call a long result.
fn firehose(request: &Request) -> Answer {
    if request.method != "GET" {
        let calm = memchr::memmem::find(&request.body, b"calm").is_some();
        let long = if calm { "true".to_owned() } else { format!("\"{}\"", "x".repeat(128 * 1024)) };
        return Answer::result_with(request, &long);
    }
    let (stream, answer) = Answer::events();
    let event = bytes::Bytes::from(format!("data: {}\n\n", "x".repeat(16 * 1024)));
    for _ in 0..4096 {
        stream.send(event.clone());
    }
    answer
}

/// Opens all hostile connections, and lets loose. They live until the set is dropped.
async fn attack(sidecar: &Sidecar, attacks: &[Attack], report: &mut Report) -> JoinSet<()> {
    let begun = Instant::now();
    let mut sockets = Vec::new();
    for _ in attacks {
        sockets.push(connect(sidecar.endpoint()).await);
    }
    let mut open = connections(sidecar).await;
    while open < attacks.len() && begun.elapsed() < SLACK {
        open = connections(sidecar).await;
    }
    report.figure("agent connections at once, after", format!("{open}, {:.1} s", begun.elapsed().as_secs_f64()));
    report.check(open >= attacks.len(), || format!("only {open} hostile connections are open"));
    let mut attackers = JoinSet::new();
    for (socket, attack) in sockets.into_iter().zip(attacks) {
        attackers.spawn(torment(socket, *attack));
    }
    attackers
}

/// A connection that takes as little as possible.
async fn connect(endpoint: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("there are descriptors for the rig");
    socket.set_recv_buffer_size(4096).expect("a fresh socket takes options");
    socket.connect(endpoint).await.expect("the sidecar listens")
}

async fn torment(mut socket: TcpStream, attack: Attack) {
    // Errors mean that the sidecar has let go of it.
    let post = Message::post("alpha", rpc::call(1, UNFINISHED));
    match attack {
        Attack::Silent => {}
        Attack::SlowHead => {
            for byte in post.head_with("127.0.0.1", "").iter().cycle() {
                if socket.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
        Attack::HalfBody => {
            let head = post.head_with("127.0.0.1", "Content-Length: 8000\r\n");
            drop(socket.write_all(&[head, format!("{UNFINISHED:x>4000}").into_bytes()].concat()).await);
        }
        Attack::HugeHeader => {
            let head = format!("GET /alpha HTTP/1.1\r\nHost: 127.0.0.1\r\nX-{UNFINISHED}: {}", "x".repeat(60 * 1024));
            drop(socket.write_all(head.as_bytes()).await);
        }
        Attack::Unread(server) => drop(socket.write_all(&Message::get(server).bytes("127.0.0.1")).await),
        Attack::Pipeline(server) => {
            let call = Message::post(server, rpc::call("x".repeat(1000), "search")).bytes("127.0.0.1");
            while socket.write_all(&call).await.is_ok() {}
        }
    }
    // Held open, unread.
    std::future::pending::<()>().await;
    drop(socket);
}

async fn connections(sidecar: &Sidecar) -> usize {
    sidecar.metric("postern_agent_connections", &[]).await as usize
}

/// Awaits that no more than `left` hostile connections remain.
async fn released(sidecar: &Sidecar, left: usize, timeout: Duration, report: &mut Report) {
    let begun = Instant::now();
    let most = left + CALM;
    let mut open = connections(sidecar).await;
    while open > most && begun.elapsed() < timeout + SLACK {
        sleep(Duration::from_millis(300)).await;
        open = connections(sidecar).await;
    }
    report.figure("agent connections, after", format!("{open}, {:.1} s", begun.elapsed().as_secs_f64()));
    report.check(open <= most, || format!("{open} connections are still there, at most {most} expected"));
}

/// More connections than the limit: who comes then is told, or dropped; who is there is served.
async fn full(sidecar: &Sidecar, calm: &Calm, attackers: &mut JoinSet<()>, report: &mut Report) {
    calm.tell("while that is let go", report);
    for _ in connections(sidecar).await..LIMIT + EXCESS + 100 {
        attackers.spawn(torment(connect(sidecar.endpoint()).await, Attack::Silent));
    }
    // The excess is let go after a second each; then there is room to be told. A calm call that had a
    // place while the others came leaves it empty: until all are taken, more come.
    for _ in 0..EXCESS {
        if calm.was_overloaded() {
            break;
        }
        attackers.spawn(torment(connect(sidecar.endpoint()).await, Attack::Silent));
        calm.rounds(2).await;
    }
    calm.rounds(5).await;
    report.figure("agent connections at the limit", connections(sidecar).await);
    let told = calm.tell("at the limit", report);
    let (overloaded, dropped) = (told.overloaded, told.dropped);
    report.check(told.answered > 0 && overloaded > 0, || {
        format!("{overloaded} were told `overloaded`, {dropped} nothing")
    });
}

async fn aftermath(sidecar: &Sidecar, idle: &Sample, samples: &[Sample], args: &Args, report: &mut Report) {
    let peak = samples.iter().map(|sample| sample.rss_kib).max().unwrap_or_default();
    let each = (peak - idle.rss_kib) / args.connections as u64;
    report.figure("RSS peak, KiB", peak);
    report.figure("RSS per hostile connection, KiB", each);
    report.check(each <= MOST_KIB, || format!("{each} KiB a hostile connection, {MOST_KIB} at most"));
    let begun = Instant::now();
    let (open, end) = loop {
        let open = connections(sidecar).await;
        sleep(Duration::from_millis(200)).await;
        let end = Sample::of(sidecar.pid());
        // One HTTP/2 connection is kept for what may come.
        let quiet = open == 0 && end.fds.is_none_or(|fds| fds <= idle.fds.unwrap_or_default() + 1);
        if quiet || begun.elapsed() > SLACK {
            break (open, end);
        }
    };
    report.figure("all gone, after", format!("{:.1} s", begun.elapsed().as_secs_f64()));
    report.figure("then: RSS KiB / descriptors", format!("{} / {:?}", end.rss_kib, end.fds));
    report.equal("agent connections left", open as f64, 0.0);
    report.equal("open streams left", sidecar.metric("postern_open_streams", &[]).await, 0.0);
    let kept = end.fds.unwrap_or_default().saturating_sub(idle.fds.unwrap_or_default());
    report.check(kept <= 1, || format!("{:?} descriptors, {:?} before", end.fds, idle.fds));
    for server in ["alpha", "beta"] {
        sidecar.post(server, rpc::list(1)).await.assert_ok();
    }
    let told = sidecar.diagnostics();
    report.check(!told.contains("panicked"), || told.clone());
}

/// Nothing of what was not a whole request has reached an upstream.
fn untouched(captures: &[Capture; 3], report: &mut Report) {
    for capture in captures {
        let bytes = capture.bytes();
        let found = memchr::memmem::find(&bytes, UNFINISHED.as_bytes());
        report.check(found.is_none(), || "bytes of an unfinished request reached an upstream".to_owned());
    }
    let counts: Vec<usize> = captures.iter().map(Capture::count).collect();
    report.figure("requests at the upstreams", format!("{counts:?}"));
}
