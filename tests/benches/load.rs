//! The load and the upstream, against each other over real sockets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::figures::workload_of;
use crate::rig::agent::{Route, trusting};
use crate::rig::load::{Load, Requests};
use crate::rig::message;
use crate::rig::round::Bench;
use crate::rig::subject::Programs;
use crate::rig::upstream::{INJECTED, Upstream};
use crate::rig::workload::{Protocol, Shape, Workload};

async fn bench() -> Bench {
    let epoch = Instant::now();
    Bench { upstream: Upstream::start(epoch).await, programs: Programs::new(), epoch, core: 0, swarm: None }
}

/// Awaits something that comes about by itself.
async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// To the upstream itself, or to what stands at `address` before it.
fn route(bench: &Bench, address: SocketAddr) -> Route {
    Route { address, tls: Some(trusting(&bench.upstream.ca_pem)), connect: None }
}

#[tokio::test]
async fn calls_and_streams_without_a_proxy_are_counted_and_none_fails() {
    let bench = bench().await;
    for name in ["small-h1", "answer-64k", "request-1m", "fresh", "sse-10x100"] {
        let workload = workload_of(name);
        bench.upstream.prepare(&workload, Duration::from_millis(10));
        let requests = Requests::new(&workload, &["/mcp/0".to_owned()], "localhost", Some(INJECTED));
        let direct = route(&bench, bench.upstream.address(Protocol::H1));
        let load = Load::start(&workload, direct, requests, bench.epoch).await;
        load.count();
        until(|| load.counted() >= 20).await;
        let tally = load.stop().await;
        assert_eq!(bench.verdict(&workload, &tally, 20), Ok(()), "{name}");
        let [least, middle, most] = [0.0, 50.0, 100.0].map(|percent| tally.delay_us(percent));
        assert!(0.0 < least && least <= middle && middle <= most, "{name}: {least} {middle} {most}");
    }
}

/// Lets a load with this credential run until the upstream has seen something of it.
async fn judged(bench: &Bench, workload: &Workload, authorization: Option<&str>) -> Result<(), String> {
    bench.upstream.prepare(workload, Duration::from_secs(1));
    let requests = Requests::new(workload, &["/mcp/0".to_owned()], "localhost", authorization);
    let load = Load::start(workload, route(bench, bench.upstream.address(Protocol::H1)), requests, bench.epoch).await;
    until(|| bench.upstream.seen().requests.load(Ordering::Relaxed) > 0).await;
    let tally = load.stop().await;
    bench.verdict(workload, &tally, 1)
}

#[tokio::test]
async fn a_round_in_which_the_wrong_credential_arrives_is_void() {
    let bench = bench().await;
    let workload = workload_of("small-h1");
    assert_eq!(judged(&bench, &workload, Some(INJECTED)).await, Ok(()));
    let leaked = judged(&bench, &workload, None).await.unwrap_err();
    assert!(leaked.starts_with("the agent's own credential arrived"), "{leaked}");
    let other = judged(&bench, &workload, Some("Bearer another")).await.unwrap_err();
    assert!(other.contains("without exactly the injected credential"), "{other}");
}

/// Answers calls in the clear, on one connection; the first one late. Tells the target of each.
async fn answered(mut socket: TcpStream, late: Duration, mut told: impl FnMut(String)) {
    let (mut bytes, mut first) = (Vec::new(), true);
    while socket.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
        while let Some(end) = message::head_end(&bytes).map(|end| end + 300).filter(|end| *end <= bytes.len()) {
            let request: Vec<u8> = bytes.drain(..end).collect();
            told(String::from_utf8(request).unwrap().split(' ').nth(1).unwrap().to_owned());
            if std::mem::take(&mut first) {
                tokio::time::sleep(late).await;
            }
            if socket.write_all(&message::answer(400)).await.is_err() {
                return;
            }
        }
    }
}

#[tokio::test]
async fn each_agent_calls_servers_of_its_own_and_all_are_called() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = Route { address: listener.local_addr().unwrap(), tls: None, connect: None };
    let called: Arc<Mutex<BTreeSet<(String, usize)>>> = Arc::default();
    let told = Arc::clone(&called);
    tokio::spawn(async move {
        for connection in 0.. {
            let (socket, _) = listener.accept().await.expect("an agent comes");
            let told = Arc::clone(&told);
            tokio::spawn(answered(socket, Duration::ZERO, move |target| {
                told.lock().unwrap().insert((target, connection));
            }));
        }
    });
    let workload = Workload { shape: Shape::Closed { connections: 3 }, ..workload_of("bindings-10") };
    let targets: Vec<String> = (0..10).map(|server| format!("/{server}")).collect();
    let requests = Requests::new(&workload, &targets, "localhost", None);
    let load = Load::start(&workload, route, requests, Instant::now()).await;
    load.count();
    until(|| load.counted() >= 100 && called.lock().unwrap().len() >= 10).await;
    assert_eq!(load.stop().await.failure(), None);
    let called = called.lock().unwrap();
    let servers: BTreeSet<&String> = called.iter().map(|(target, _)| target).collect();
    assert_eq!((servers.len(), called.len()), (10, 10), "a server is called over one connection: {called:?}");
}

#[tokio::test]
async fn in_an_open_loop_what_waited_for_another_counts_from_when_it_was_due() {
    const LATE: Duration = Duration::from_millis(600);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { answered(listener.accept().await.expect("an agent comes").0, LATE, |_| {}).await });
    let workload = Workload { shape: Shape::Open { per_second: 100, connections: 1 }, ..workload_of("open-2000") };
    let requests = Requests::new(&workload, &["/".to_owned()], "localhost", None);
    let route = Route { address, tls: None, connect: None };
    let load = Load::start(&workload, route, requests, Instant::now()).await;
    load.count();
    until(|| load.counted() >= 50).await;
    let tally = load.stop().await;
    assert_eq!(tally.failure(), None);
    // Some sixty were due meanwhile, the last of them just then: half of the first fifty waited for half of it and more.
    assert!(tally.delay_us(100.0) >= 600_000.0, "{}", tally.delay_us(100.0));
    assert!(tally.delay_us(50.0) >= 250_000.0, "{}", tally.delay_us(50.0));
}

/// Passes bytes on, those of the upstream late.
async fn late(listener: TcpListener, upstream: SocketAddr, late: Duration) {
    while let Ok((agent, _)) = listener.accept().await {
        let (mut up, mut down) = TcpStream::connect(upstream).await.expect("it listens").into_split();
        let (mut from, mut to) = agent.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from, &mut down).await });
        tokio::spawn(async move {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(read) = up.read(&mut bytes).await {
                tokio::time::sleep(late).await;
                if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[tokio::test]
async fn an_event_that_is_held_back_is_late_by_that() {
    let bench = bench().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(late(listener, bench.upstream.address(Protocol::H1), Duration::from_millis(150)));
    let every = Duration::from_millis(10);
    let workload = Workload { shape: Shape::Streams { count: 4, every }, ..workload_of("sse-10x100") };
    bench.upstream.prepare(&workload, every);
    let requests = Requests::new(&workload, &["/mcp/0".to_owned()], "localhost", Some(INJECTED));
    let load = Load::start(&workload, route(&bench, address), requests, bench.epoch).await;
    load.count();
    until(|| load.counted() >= 100).await;
    let tally = load.stop().await;
    assert_eq!(bench.verdict(&workload, &tally, 100), Ok(()));
    assert!(tally.delay_us(1.0) >= 150_000.0, "{}", tally.delay_us(1.0));
}

#[tokio::test]
async fn an_idle_connection_has_made_one_call_and_one_that_is_closed_is_told() {
    let bench = bench().await;
    let workload = Workload { shape: Shape::Idle { connections: 40 }, ..workload_of("idle-1000") };
    bench.upstream.prepare(&workload, Duration::from_secs(1));
    let requests = Requests::new(&workload, &["/mcp/0".to_owned()], "localhost", Some(INJECTED));
    let direct = route(&bench, bench.upstream.address(Protocol::H1));
    let load = Load::start(&workload, direct, requests, bench.epoch).await;
    assert_eq!(bench.upstream.seen().requests.load(Ordering::Relaxed), 40);
    let tally = load.stop().await;
    assert_eq!(bench.verdict(&workload, &tally, 0), Ok(()));

    // One that answers and then closes.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("an agent comes");
        let mut bytes = Vec::new();
        while message::head_end(&bytes).is_none_or(|end| bytes.len() < end + 300) {
            socket.read_buf(&mut bytes).await.expect("the agent sends");
        }
        socket.write_all(&message::answer(400)).await.expect("the agent reads");
    });
    let workload = Workload { shape: Shape::Idle { connections: 1 }, ..workload };
    let requests = Requests::new(&workload, &["/".to_owned()], "localhost", None);
    let load = Load::start(&workload, Route { address, tls: None, connect: None }, requests, bench.epoch).await;
    until(|| load.tally.failed.load(Ordering::Relaxed) > 0).await;
    assert!(load.tally.failure().is_some_and(|why| why.starts_with("a quiet connection ended")));
}
