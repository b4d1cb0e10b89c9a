//! The broker towards clients that are no sidecars of ours: slow ones, silent ones, greedy ones.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::Method;
use postern::control::broker::{Rate, Review, Reviewing, Times, Token};
use postern::core::wire::Snapshot;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use crate::support::broker::{Setup, TIMES, account};
use crate::support::reader::{Question, Reader, connect, shake, try_shake};
use crate::support::{Binding, Broker, unique_secret, within};

/// A binding with a value.
fn binding(name: &str) -> Binding {
    Binding::new(name).url("https://h.example/mcp").token(unique_secret())
}

/// A snapshot of about a megabyte.
fn large(broker: &Broker) -> Arc<Snapshot> {
    let wide = binding("wide").set("/tools", json!({"deny": ["x".repeat(1 << 20)]}));
    Arc::new(Snapshot { items: vec![broker.item(&wide)] })
}

/// A stream begins with its terms and a snapshot, and goes on with each change as a whole.
#[tokio::test]
async fn a_stream_tells_terms_snapshot_changes_and_heartbeats() {
    let broker = Broker::start().await;
    let mut lines = Reader::connect(&broker).await.open(&broker.token()).await;
    let hello = lines.next().await.unwrap();
    assert_eq!(hello, json!({"v": 1, "type": "hello", "heartbeatMs": 1000, "lifeMs": 600_000}));
    assert_eq!(lines.next().await.unwrap(), json!({"v": 1, "type": "snapshot", "items": []}));
    broker.give(vec![broker.item(&binding("a"))]);
    assert_eq!(lines.bindings().await, ["a"]);
    broker.give(vec![broker.item(&binding("a")), broker.item(&binding("b"))]);
    assert_eq!(lines.bindings().await, ["a", "b"]);
    assert_eq!(lines.next().await.unwrap(), json!({"v": 1, "type": "heartbeat"}));
}

/// However many changes there are while a reader does not read, only the newest waits for it: a
/// hundred megabytes are given, and nothing but what is being sent is kept.
#[tokio::test]
async fn a_slow_reader_is_sent_the_newest_and_nothing_piles_up() {
    let broker = Broker::start().await;
    let mut reader = Reader::with_window(&broker, 16 * 1024).await;
    let research = account("research", "research-agent");
    let mut given: Vec<Weak<Snapshot>> = Vec::new();
    broker.publish(&research, &large(&broker));
    let mut lines = reader.open(&broker.token()).await;
    for _ in 0..100 {
        let snapshot = large(&broker);
        given.push(Arc::downgrade(&snapshot));
        broker.publish(&research, &snapshot);
        let alive = given.iter().filter(|snapshot| snapshot.strong_count() > 0).count();
        // The one that is being sent, and the present one.
        assert!(alive <= 2, "{alive} snapshots are kept");
        tokio::task::yield_now().await;
    }
    broker.give(vec![broker.item(&binding("last"))]);
    let mut read = 0;
    while lines.bindings().await != ["last"] {
        read += 1;
    }
    assert!((1..=2).contains(&read), "{read} large snapshots were sent to who read none");
}

/// Who does not read at all is let go, with its connection.
#[tokio::test]
async fn a_reader_that_stalls_is_let_go() {
    let broker = Broker::with(Times { stall: Duration::from_millis(300), ..TIMES }).await;
    broker.publish(&account("research", "research-agent"), &large(&broker));
    let mut reader = Reader::with_window(&broker, 16 * 1024).await;
    let mut lines = reader.open(&broker.token()).await;
    broker.until("postern_broker_stream_ends_total", &[("cause", "stalled")], 1.0).await;
    assert_eq!(lines.bindings_or_end().await, None, "no whole line was read");
    let metrics = broker.metrics();
    assert_eq!(metrics.sum("postern_broker_sessions", &[]), 0.0);
}

/// Changes that come faster than they can be told are one change; the last one is always told.
#[tokio::test]
async fn changes_that_come_together_are_told_together() {
    let broker = Broker::with(Times { settle: Duration::from_millis(500), ..TIMES }).await;
    let mut lines = Reader::connect(&broker).await.open(&broker.token()).await;
    lines.until("snapshot").await;
    for number in 0..200 {
        broker.give(vec![broker.item(&binding(&format!("n{number}")))]);
    }
    while lines.bindings().await != ["n199"] {}
    assert!(broker.metrics().sum("postern_broker_snapshots_sent_total", &[]) < 20.0);
}

/// At the end of its life a stream says goodbye first, and tells changes to the last.
#[tokio::test]
async fn a_stream_ends_after_its_goodbye() {
    let broker = Broker::with(Times { life: Duration::from_secs(2), ..TIMES }).await;
    let mut lines = Reader::connect(&broker).await.open(&broker.token()).await;
    assert_eq!(lines.next().await.unwrap()["lifeMs"], 2000);
    lines.until("goodbye").await;
    broker.give(vec![broker.item(&binding("late"))]);
    assert_eq!(lines.bindings().await, ["late"]);
    while lines.next().await.is_some() {}
    broker.until("postern_broker_stream_ends_total", &[("cause", "life")], 1.0).await;
}

/// A shutdown says goodbye to all at once, takes nobody new, and waits for those who go.
#[tokio::test]
async fn a_shutdown_sends_everybody_elsewhere() {
    let mut broker = Broker::start().await;
    let (token, mut reader) = (broker.token(), Reader::connect(&broker).await);
    let mut lines = reader.open(&token).await;
    lines.until("snapshot").await;
    let elsewhere = async {
        lines.until("goodbye").await;
        drop((lines, reader));
    };
    tokio::join!(broker.drain(), elsewhere);
    assert_eq!(broker.metrics().sum("postern_broker_stream_ends_total", &[("cause", "closed")]), 1.0);
}

/// The API server never answers: who waits for it is told at once to go elsewhere, when there is a shutdown.
#[tokio::test]
async fn a_shutdown_sends_away_who_waits_for_a_review() {
    let asked = Arc::new(Notify::new());
    let review: Arc<dyn Review> = Arc::new(Silent(Arc::clone(&asked)));
    let mut broker = Setup { review: Some(review), ..Setup::default() }.start().await;
    let (token, mut reader) = (broker.token(), Reader::connect(&broker).await);
    let waiting = async {
        let refused = reader.refused(Question::with(&token)).await;
        assert_eq!(refused, (503, "draining".into()));
        drop(reader);
    };
    let shutdown = async {
        asked.notified().await;
        broker.drain().await;
    };
    tokio::join!(waiting, shutdown);
    assert_eq!(broker.metrics().sum("postern_broker_refusals_total", &[("reason", "draining")]), 1.0);
}

/// An API server that takes every question and answers none.
struct Silent(Arc<Notify>);

impl Review for Silent {
    fn review<'a>(&'a self, _token: &'a Token) -> Reviewing<'a> {
        self.0.notify_one();
        Box::pin(std::future::pending())
    }
}

/// There is one thing to ask for, and one way to.
#[tokio::test]
async fn anything_else_is_not_found() {
    let broker = Broker::start().await;
    let (token, mut reader) = (broker.token(), Reader::connect(&broker).await);
    let targets =
        ["/", "/v1/credentials/", "/v1/credentials/other", "/v1/credentials?account=other", "/V1/credentials"];
    for target in targets.iter().chain(&["//v1/credentials", "/v1//credentials", "/v1/credentials%2Fother", "/metrics"])
    {
        let refused = reader.refused(Question::with(&token).target(target)).await;
        assert_eq!(refused, (404, "not_found".into()), "{target}");
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS] {
        let response = reader.ask(Question::with(&token).method(method.clone())).await;
        assert_eq!(response.status(), 404, "{method}");
    }
    assert_eq!(broker.metrics().sum("postern_broker_token_reviews_total", &[]), 0.0, "no token was looked at");
}

/// HTTP/1.1 will do, TLS 1.2 will not, and neither will no TLS.
#[tokio::test]
async fn http_1_is_served_and_tls_1_2_is_not() {
    let broker = Broker::start().await;
    let mut stream = shake(&broker, &[b"http/1.1"]).await;
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let head = format!("GET /v1/credentials HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\n\r\n", broker.token());
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.contains(r#""type":"snapshot""#) {
        let mut bytes = [0; 4096];
        let count = within("the stream", stream.read(&mut bytes)).await.unwrap();
        assert_ne!(count, 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");

    assert!(try_shake(&broker, &[b"h2"], &[&rustls::version::TLS12]).await.is_err());
    let mut plain = connect(broker.address()).await;
    plain.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Reset or closed: nothing of HTTP comes back.
    let _ended = within("the end", plain.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    broker.until("postern_broker_refusals_total", &[("reason", "handshake")], 2.0).await;
}

/// A client that never finishes its handshake, or never asks, holds nothing for long.
#[tokio::test]
async fn who_says_nothing_is_let_go() {
    let mut setup = Setup::default();
    setup.settings.handshake = Duration::from_millis(200);
    let broker = setup.start().await;
    let mut silent = connect(broker.address()).await;
    let mut rest = Vec::new();
    let _closed = within("the end", silent.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    broker.until("postern_broker_refusals_total", &[("reason", "handshake")], 1.0).await;
}

/// Each bound holds, and says which one it is.
#[tokio::test]
async fn limits_hold_and_are_told() {
    let mut setup = Setup::default();
    setup.settings.connections = 3;
    setup.settings.admission.streams_per_account = 2;
    setup.settings.admission.bad_tokens = Rate { burst: 1, per_second: 0.001 };
    let broker = setup.start().await;
    let (token, mut reader) = (broker.token(), Reader::connect(&broker).await);
    let held = (reader.open(&token).await, reader.open(&token).await);
    assert_eq!(reader.refused(Question::with(&token)).await, (429, "too_many_streams".into()));
    let other = broker.token_of(&account("research", "other-agent"));
    let others = reader.open(&other).await;
    assert_eq!(reader.refused(Question::with("a.b.c")).await, (401, "unauthenticated".into()));
    assert_eq!(reader.refused(Question::with("a.b.d")).await, (429, "rate_limited".into()));
    drop((held, others));
    let _more = (Reader::connect(&broker).await, Reader::connect(&broker).await);
    let mut beyond = connect(broker.address()).await;
    let mut rest = Vec::new();
    let _closed = within("the end", beyond.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    let metrics = broker.metrics();
    for reason in ["too_many_streams", "token_rejected", "rate_limited", "too_many_connections"] {
        assert_eq!(metrics.sum("postern_broker_refusals_total", &[("reason", reason)]), 1.0, "{reason}");
    }
    // A head that no token needs.
    let long = Question::with(&token).header("x-long", &"x".repeat(64 * 1024));
    assert_eq!(reader.ask(long).await.status(), 431);
}
