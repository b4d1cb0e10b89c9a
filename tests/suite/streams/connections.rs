//! Connections on both sides: kept, shared in order, and never a reason to send a call twice.

use crate::support::agent::Piece;
use crate::support::answer::{End, Framing};
use crate::support::capture::Request;
use crate::support::{Answer, Binding, Capture, Message, Protocol, Sidecar, repeated, rpc, unique_secret, within};

use super::{PROTOCOLS, open, scene};

/// Calls in a row use one connection on each side.
#[tokio::test]
async fn connections_are_kept() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol).await;
        let mut agent = sidecar.agent().await;
        for number in 0..10 {
            agent.ask(Message::post("github", rpc::list(number))).await.assert_ok();
        }
        assert_eq!(capture.connections(), 1, "{protocol:?}");
        assert_eq!(sidecar.metric("postern_upstream_connections", &[("server", "github")]).await, 1.0);
    }
}

/// Requests written in one go are answered one after the other, in order, with their own ids.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol).await;
        let mut agent = sidecar.agent().await;
        let message = |n: usize| Message::post(if n == 3 { "nobody" } else { "github" }, rpc::list(n));
        let all: Vec<u8> = (0..6).flat_map(|n| message(n).bytes("127.0.0.1")).collect();
        agent.send(&all).await;
        for number in 0..6 {
            let response = agent.response().await;
            assert_eq!(response.reason(), (number == 3).then_some("unbound_server"));
            assert_eq!(response.json()["id"], number);
        }
        assert_eq!(capture.requests().len(), 5);
    }
}

/// A refusal of an ordinary request leaves the agent's connection in order.
#[tokio::test]
async fn a_refusal_keeps_the_connection() {
    let (_capture, sidecar) = scene(Protocol::Tls).await;
    let mut agent = sidecar.agent().await;
    for number in 0..5 {
        agent.ask(Message::post("nobody", rpc::list(number))).await.assert_refused("unbound_server");
        agent.ask(Message::post("github", rpc::list(number))).await.assert_ok();
    }
}

/// `Connection: close` is honoured, after a whole answer.
#[tokio::test]
async fn connection_close_is_honoured() {
    let (_capture, sidecar) = scene(Protocol::Tls).await;
    let mut agent = sidecar.agent().await;
    agent.ask(Message::post("github", rpc::list(1)).header("Connection", "close")).await.assert_ok();
    assert!(agent.closed().await.is_empty());
}

/// An agent that waits for 100 before it sends its body gets it, once; the upstream is not asked for it.
#[tokio::test]
async fn expect_100_is_answered_here() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol).await;
        let mut agent = sidecar.agent().await;
        let body = rpc::list(1);
        let lines = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len());
        let head = Message::post("github", "").head_with("127.0.0.1", &lines);
        agent.send(&head).await;
        assert!(agent.any_head().await.first_line.contains(" 100 "));
        agent.send(body.as_bytes()).await;
        let head = agent.any_head().await;
        assert!(head.first_line.contains(" 200 "), "{}", head.first_line);
        agent.rest_of(head).await.assert_ok();
        assert!(capture.request(0).await.values("expect").is_empty(), "{protocol:?}");
    }
}

fn with_body<'a>(requests: &'a [Request], body: &str) -> Vec<&'a Request> {
    requests.iter().filter(|request| request.body == body.as_bytes()).collect()
}

/// A close between calls is no failure: the next call takes another connection, and goes out once.
/// The call is sent the moment the upstream's FIN or RST is on the wire, so that the sidecar learns of
/// it while it takes the connection, or just before.
#[tokio::test]
async fn an_idle_connection_closed_by_the_upstream_costs_nothing() {
    for (protocol, end) in [
        (Protocol::Plain, End::Close),
        (Protocol::Plain, End::Reset),
        (Protocol::Tls, End::Close),
        (Protocol::Tls, End::Cut),
        (Protocol::Tls, End::Reset),
    ] {
        let (capture, sidecar) = scene(protocol).await;
        let mut agent = sidecar.agent().await;
        for number in 0..20 {
            capture.next(whole_then(end));
            agent.ask(Message::post("github", rpc::call(number, "only-once"))).await.assert_ok();
            capture.hung_up(number).await;
        }
        assert_each_once(&capture, 5);
        assert_eq!(capture.connections(), 20, "{protocol:?} {end:?}");
    }
}

/// A server that says how long it keeps a connection is believed, less a margin: one that keeps it for
/// a second or less is never sent a second call on it, so that none can be lost in its close.
#[tokio::test]
async fn a_connection_that_the_server_soon_closes_is_not_used_again() {
    for (said, expected) in [
        ("timeout=1", 3),
        ("timeout=0, max=100", 3),
        ("max=5, timeout=1", 3),
        ("timeout=60", 1),
        ("max=100", 1),
        ("x", 1),
    ] {
        let (capture, sidecar) = scene(Protocol::Tls).await;
        capture.always(move |_| Answer::full(200, &[("Keep-Alive", said)], "{}"));
        let mut agent = sidecar.agent().await;
        for number in 0..3 {
            agent.ask(Message::post("github", rpc::list(number))).await.assert_ok();
        }
        assert_eq!(capture.connections(), expected, "Keep-Alive: {said}");
    }
}

/// Where the server does not say, the sidecar lets an idle connection go by itself, before the stacks
/// that close after five seconds do; another one, to a server that said a minute, is kept meanwhile.
#[tokio::test]
async fn an_idle_connection_is_let_go_first() {
    let (silent, sidecar) = scene(Protocol::Tls).await;
    let patient = Capture::start(Protocol::Tls).await;
    patient.always(|_| Answer::full(200, &[("Keep-Alive", "timeout=60")], "{}"));
    let binding = Binding::new("patient").to(&patient).token(unique_secret());
    sidecar.files().add(&binding);
    sidecar.until_served("patient", &["unbound_server", "no_credential"]).await;
    sidecar.post("github", rpc::list(1)).await.assert_ok();
    // Neither is called any more, and neither closes by itself.
    silent.closed(0).await;
    sidecar.post("patient", rpc::list(2)).await.assert_ok();
    assert_eq!(patient.connections(), 1, "kept as long as it said");
    sidecar.post("github", rpc::list(2)).await.assert_ok();
    assert_eq!((silent.count(), silent.connections()), (2, 2));
}

/// An answer without `Connection: close`, after which the upstream closes all the same.
fn whole_then(end: End) -> Answer {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    Answer::Raw(answer.as_bytes().to_vec(), end)
}

/// Design section 5: no replay once a byte was sent. The upstream reads the call on a reused
/// connection and hangs up: the agent is told, the call is not sent again.
#[tokio::test]
async fn a_call_that_was_sent_is_never_sent_twice() {
    for (protocol, end) in [
        (Protocol::Plain, End::Close),
        (Protocol::Plain, End::Reset),
        (Protocol::Tls, End::Close),
        (Protocol::Tls, End::Cut),
        (Protocol::Tls, End::Reset),
    ] {
        let (capture, sidecar) = scene(protocol).await;
        let mut agent = sidecar.agent().await;
        agent.ask(Message::post("github", rpc::list("first"))).await.assert_ok();
        capture.next(Answer::Raw(Vec::new(), end));
        let body = rpc::call("only once", "delete_everything");
        let response = agent.ask(Message::post("github", body.as_str())).await;
        response.assert_refused("upstream_unreachable");
        let requests = capture.requests();
        assert_eq!(with_body(&requests, &body).len(), 1, "{protocol:?} {end:?}");
        assert_eq!(requests[1].connection, 0, "the connection was a reused one: else this proves nothing");
        agent.ask(Message::post("github", rpc::list("after"))).await.assert_ok();
    }
}

/// The same on HTTP/2: a call whose stream or connection breaks, before or after its head, is not
/// tried again; and the next call finds a way.
#[tokio::test]
async fn a_broken_h2_call_is_never_sent_twice() {
    for end in [None, Some(End::Reset), Some(End::Close), Some(End::Cut)] {
        let (capture, sidecar) = scene(Protocol::H2).await;
        sidecar.post("github", rpc::list("first")).await.assert_ok();
        let (stream, answer) = Answer::stream(&[], Framing::Chunked);
        stream.end(End::Reset);
        capture.next(end.map_or(answer, |end| Answer::Raw(Vec::new(), end)));
        let body = rpc::call("only once", "delete_everything");
        let response = sidecar.post("github", body.as_str()).await;
        assert!(!response.whole || response.reason() == Some("upstream_unreachable"), "{end:?}: {response:?}");
        assert_eq!(with_body(&capture.requests(), &body).len(), 1, "{end:?}");
        sidecar.post("github", rpc::list("after")).await.assert_ok();
    }
}

/// GOAWAY: what runs on the connection goes on, what comes takes another. A call that crossed it on
/// the wire may fail, as any call of which a byte was sent.
#[tokio::test]
async fn an_h2_connection_that_goes_away_keeps_its_streams() {
    let (capture, sidecar) = scene(Protocol::H2).await;
    let (stream, mut agent) = open(&capture, &sidecar, Message::get("github"), Framing::Chunked).await;
    capture.next(Answer::Raw(Vec::new(), End::Close));
    sidecar.post("github", rpc::list("the last")).await.assert_refused("upstream_unreachable");
    repeated("a call on another connection", async || {
        let response = sidecar.post("github", rpc::list("after")).await;
        assert!(matches!(response.reason(), None | Some("upstream_unreachable")), "{}", response.text());
        (capture.connections() == 2).then(|| response.assert_ok())
    })
    .await;
    stream.event("still here");
    agent.until("data: still here\n\n").await;
    stream.finish();
    assert_eq!(agent.piece().await, Piece::End);
}

/// More streams at once than a server takes on one HTTP/2 connection: none waits for another to
/// end. When the crowd is gone, so are its connections.
#[tokio::test]
async fn more_streams_than_one_h2_connection_takes_are_served() {
    for (limit, crowd) in [(10, 35), (200, 250)] {
        let (capture, sidecar) = scene(Protocol::H2).await;
        capture.take_streams(limit);
        let mut all = Vec::new();
        for number in 0..crowd {
            let (stream, mut agent) = open(&capture, &sidecar, Message::get("github"), Framing::Chunked).await;
            stream.event(&format!("{number}"));
            agent.until(&format!("data: {number}\n\n")).await;
            all.push((stream, agent));
        }
        sidecar.post("github", rpc::list("beside them")).await.assert_ok();
        let first = capture.requests().iter().filter(|request| request.connection == 0).count();
        // Ours is 100: as many windows of a stream as a connection's window holds.
        assert_eq!(first, limit.min(100) as usize, "a connection is used as far as it goes");
        drop(all);
        repeated("the other connections to be closed", async || {
            let open = sidecar.metric("postern_upstream_connections", &[("server", "github")]).await;
            (open == 1.0).then_some(())
        })
        .await;
        sidecar.post("github", rpc::list("after them")).await.assert_ok();
    }
}

/// Fifty agents at once: each call arrives once, each answer reaches the one who asked.
#[tokio::test]
async fn many_agents_at_once_are_served() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol).await;
        let calls = (0..50).map(|n| call(&sidecar, n));
        within("fifty calls", futures_util::future::join_all(calls)).await;
        assert_each_once(&capture, 50);
    }
}

async fn call(sidecar: &Sidecar, number: usize) {
    let mut agent = sidecar.agent().await;
    for step in 0..4 {
        let id = number * 4 + step;
        let response = agent.ask(Message::post("github", rpc::call(id, "search"))).await;
        response.assert_ok();
        assert_eq!(response.json()["id"], id, "an answer reaches the one who asked");
    }
}

fn assert_each_once(capture: &Capture, agents: usize) {
    let requests = capture.requests();
    assert!(requests.iter().all(|request| request.whole), "none broke off");
    let mut ids: Vec<usize> = requests.iter().filter_map(|request| request.rpc_id()?.parse().ok()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..agents * 4).collect::<Vec<_>>());
}
