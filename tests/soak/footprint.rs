//! What the sidecar weighs: at rest, and for each quiet stream and each quiet connection it holds.

use super::account::Report;
use super::process::Sample;
use super::suite::support::answer::{Answer, Stream};
use super::suite::support::capture::Capture;
use super::suite::support::documents::Binding;
use super::suite::support::message::{Message, rpc};
use super::suite::support::sidecar::Sidecar;
use super::suite::support::{Agent, Protocol, unique_secret};

/// Memory at rest, of a quiet event stream and of a quiet agent connection.
#[derive(clap::Args)]
pub struct Args {
    /// How many of each
    #[arg(long, default_value_t = 1000)]
    count: u64,
}

/// Each kind in a sidecar of its own: what one leaves behind would be the next one's for nothing.
pub async fn run(args: Args) -> Report {
    let mut report = Report::default();
    for protocol in [Protocol::Tls, Protocol::H2] {
        let (capture, sidecar) = scene(protocol).await;
        let before = Sample::of(sidecar.pid()).rss_kib;
        report.figure("RSS at rest, after a first call, KiB", before);
        let mut held: Vec<(Stream, Agent)> = Vec::new();
        for _ in 0..args.count {
            let (stream, answer) = Answer::events();
            capture.next(answer);
            let mut agent = sidecar.agent().await;
            agent.open(Message::get("server")).await;
            stream.event("one");
            agent.until("data: one\n\n").await;
            held.push((stream, agent));
        }
        let open = sidecar.metric("postern_open_streams", &[]).await;
        report.equal("open streams", open, args.count as f64);
        tell(&report, &format!("RSS of a quiet stream ({protocol:?} upstream), KiB"), &sidecar, before, args.count);
    }
    let (_capture, sidecar) = scene(Protocol::Tls).await;
    let before = Sample::of(sidecar.pid()).rss_kib;
    let mut held = Vec::new();
    for number in 0..args.count {
        let mut agent = sidecar.agent().await;
        agent.ask(Message::post("server", rpc::list(number))).await.assert_ok();
        held.push(agent);
    }
    tell(&report, "RSS of a quiet agent connection, KiB", &sidecar, before, args.count);
    let open = sidecar.metric("postern_agent_connections", &[]).await;
    report.equal("agent connections", open, args.count as f64);
    report
}

async fn scene(protocol: Protocol) -> (Capture, Sidecar) {
    let capture = Capture::start(protocol).await;
    let binding = Binding::new("server").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    sidecar.post("server", rpc::list(0)).await.assert_ok();
    (capture, sidecar)
}

fn tell(report: &Report, name: &str, sidecar: &Sidecar, before: u64, count: u64) {
    let after = Sample::of(sidecar.pid()).rss_kib;
    report.figure(name, format!("{:.1}", (after as f64 - before as f64) / count as f64));
}
