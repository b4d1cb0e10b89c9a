//! Bytes pass as they come, in both directions; ends and breaks are told apart and told on.

mod connections;
mod endings;
mod heads;
mod shared;

use bytes::Bytes;
use serde_json::json;

use crate::support::agent::Piece;
use crate::support::answer::{End, Framing, Stream};
use crate::support::{Agent, Answer, Binding, Capture, Message, Protocol, Sidecar, rpc, unique_secret, within};

const PROTOCOLS: [Protocol; 3] = [Protocol::Plain, Protocol::Tls, Protocol::H2];

/// One upstream of this kind and a sidecar bound to it as `github`.
async fn scene(protocol: Protocol) -> (Capture, Sidecar) {
    let capture = Capture::start(protocol).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    (capture, sidecar)
}

/// Opens a stream with this message: its driver, the agent that reads it.
async fn open(capture: &Capture, sidecar: &Sidecar, message: Message, framing: Framing) -> (Stream, Agent) {
    let (stream, answer) = Answer::stream(&[("Content-Type", "text/event-stream")], framing);
    capture.next(answer);
    let mut agent = sidecar.agent().await;
    let head = agent.open(message).await;
    assert!(head.first_line.contains(" 200 "), "{}", head.first_line);
    (stream, agent)
}

/// T24: no event ever waits for the next. The upstream sends event n+1 only after the agent has
/// read event n: a buffer anywhere on the way would stop this test, whatever its size.
#[tokio::test]
async fn each_event_passes_before_the_next_is_sent() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol).await;
        for message in [Message::get("github"), Message::post("github", rpc::call(1, "search"))] {
            let (stream, mut agent) = open(&capture, &sidecar, message, Framing::Chunked).await;
            for number in 0..50 {
                stream.event(&format!("event {number}"));
                assert_eq!(agent.until("\n\n").await, format!("data: event {number}\n\n"), "{protocol:?}");
            }
            stream.finish();
            assert_eq!(agent.piece().await, Piece::End);
        }
    }
}

/// T24: the head of a stream passes before its first event exists.
#[tokio::test]
async fn the_head_passes_before_any_event() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol).await;
        let (_stream, answer) = Answer::stream(
            &[("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no"), ("Mcp-Session-Id", "s")],
            Framing::Chunked,
        );
        capture.next(answer);
        let head = sidecar.agent().await.open(Message::get("github")).await;
        assert_eq!(head.value("content-type"), Some("text/event-stream"));
        assert_eq!(head.value("x-accel-buffering"), Some("no"));
        assert_eq!(head.value("content-length"), None, "{protocol:?}: a stream has no length");
    }
}

/// T24: one byte at a time, each read before the next is sent; CRLF, comments and a character split
/// in the middle arrive as the bytes they were. (No byte here may begin a form of the credential:
/// the mask would have to wait for the next one.)
#[tokio::test]
async fn single_bytes_pass_one_by_one() {
    let text = ": (\u{e9}) ~ \u{1F600} !\r\n\r\n: .\r\n\r\n".as_bytes();
    for protocol in PROTOCOLS {
        for framing in [Framing::Chunked, Framing::Length(text.len()), Framing::UntilClose] {
            let (capture, sidecar) = scene(protocol).await;
            let (stream, mut agent) = open(&capture, &sidecar, Message::get("github"), framing).await;
            for byte in text {
                stream.send(vec![*byte]);
                assert_eq!(
                    agent.piece().await,
                    Piece::Data(Bytes::copy_from_slice(&[*byte])),
                    "{protocol:?} {framing:?}"
                );
            }
            stream.finish();
            assert_eq!(agent.piece().await, Piece::End, "{protocol:?} {framing:?}");
        }
    }
}

/// An answer is the same wherever its bytes are parted: in the status line, a field, a chunk's size.
#[tokio::test]
async fn an_answer_in_single_bytes_is_the_same_answer() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Kept: yes\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = "8\r\n{\"id\":1,\r\n00c;x=y\r\n\"result\":{}}\r\n0\r\nX-Trailer: t\r\n\r\n";
    for protocol in [Protocol::Plain, Protocol::Tls] {
        let (capture, sidecar) = scene(protocol).await;
        let bytes = Bytes::from(format!("{head}{chunks}"));
        let pieces = (0..bytes.len()).map(|at| bytes.slice(at..=at)).collect();
        capture.next(Answer::Pieces(pieces, End::KeepOpen));
        // On one connection: the upstream's is free again before the next request is read.
        let mut agent = sidecar.agent().await;
        let response = agent.ask(Message::post("github", rpc::list(1))).await;
        response.assert_ok();
        assert_eq!((response.text().as_str(), response.header("x-kept")), (r#"{"id":1,"result":{}}"#, Some("yes")));
        agent.ask(Message::post("github", rpc::list(2))).await.assert_ok();
        assert_eq!(capture.connections(), 1, "{protocol:?}: the connection is in order");
    }
}

/// An upstream that reads slowly gets all of a body nevertheless.
#[tokio::test]
async fn a_slow_upstream_gets_the_whole_body() {
    let body = rpc::request(1, "tools/call", json!({"name": "put", "arguments": {"pad": "x".repeat(1 << 20)}}));
    for protocol in [Protocol::Plain, Protocol::Tls] {
        let (capture, sidecar) = scene(protocol).await;
        capture.read_slowly();
        sidecar.post("github", body.as_str()).await.assert_ok();
        assert!(capture.request(0).await.body == body.as_bytes(), "{protocol:?}");
    }
}

/// T24: an event of 10 MiB passes unchanged, however it is framed.
#[tokio::test]
async fn a_huge_event_passes_unchanged() {
    let event: Vec<u8> =
        [b"data: ".to_vec(), (0..10 * 1024 * 1024).map(|n: u32| b'!' + (n % 89) as u8).collect(), b"\n\n".to_vec()]
            .concat();
    let event = Bytes::from(event);
    for protocol in PROTOCOLS {
        for framing in [Framing::Chunked, Framing::Length(event.len())] {
            let (capture, sidecar) = scene(protocol).await;
            let (stream, mut agent) = open(&capture, &sidecar, Message::get("github"), framing).await;
            stream.send(event.clone());
            stream.finish();
            let mut seen = Vec::with_capacity(event.len());
            loop {
                match agent.piece().await {
                    Piece::Data(bytes) => seen.extend_from_slice(&bytes),
                    end => break assert_eq!(end, Piece::End),
                }
            }
            assert!(event == seen, "{protocol:?} {framing:?}: {} bytes of {}", seen.len(), event.len());
        }
    }
}

/// T24: an agent that does not read stops the upstream; memory in between is bounded. When it
/// reads again, everything comes.
#[tokio::test]
async fn a_slow_agent_stops_the_upstream() {
    const PIECE: usize = 256 * 1024;
    const PIECES: usize = 256;
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol).await;
        let (stream, mut agent) = open(&capture, &sidecar, Message::get("github"), Framing::Chunked).await;
        let piece = Bytes::from(vec![b'x'; PIECE]);
        (0..PIECES).for_each(|_| stream.send(piece.clone()));
        stream.finish();
        let pushed = quiescent(&stream).await;
        assert!(pushed < PIECE * PIECES / 2, "{protocol:?}: {pushed} bytes went nowhere");
        let mut read = 0;
        loop {
            match agent.piece().await {
                Piece::Data(bytes) => read += bytes.len(),
                end => break assert_eq!(end, Piece::End),
            }
        }
        assert_eq!(read, PIECE * PIECES, "{protocol:?}");
    }
}

/// How much has been pushed once nothing more goes. A pause on a busy machine can only make this
/// too small, which cannot fail the test.
async fn quiescent(stream: &Stream) -> usize {
    let pause = std::time::Duration::from_millis(500);
    loop {
        let before = stream.pushed().read(|pushed| *pushed);
        let more = stream.pushed().until("the upstream to push", |pushed| (*pushed > before).then_some(()));
        if tokio::time::timeout(pause, more).await.is_err() {
            return before;
        }
    }
}

/// Streams side by side do not wait for each other: on HTTP/2 they may share one connection.
#[tokio::test]
async fn a_stalled_stream_does_not_stall_its_neighbours() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol).await;
        let (stalled, _unread) = open(&capture, &sidecar, Message::get("github"), Framing::Chunked).await;
        (0..64).for_each(|_| stalled.send(vec![b'x'; 256 * 1024]));
        quiescent(&stalled).await;
        let (stream, mut agent) = open(&capture, &sidecar, Message::get("github"), Framing::Chunked).await;
        for number in 0..5 {
            stream.event(&format!("{number}"));
            agent.until(&format!("data: {number}\n\n")).await;
        }
        sidecar.post("github", rpc::list(1)).await.assert_ok();
    }
}

/// Not even very many of them: together they could fill the window of the connection they share.
#[tokio::test]
async fn many_stalled_streams_do_not_stall_their_neighbours() {
    let (capture, sidecar) = scene(Protocol::H2).await;
    let mut stalled = Vec::new();
    for _ in 0..150 {
        let (stream, unread) = open(&capture, &sidecar, Message::get("github"), Framing::Chunked).await;
        // The sockets of the agent's side take some megabytes.
        (0..64).for_each(|_| stream.send(Bytes::from_static(&[b'x'; 256 * 1024])));
        stalled.push((stream, unread));
    }
    if let Some((last, _)) = stalled.last() {
        quiescent(last).await;
    }
    for number in 0..5 {
        sidecar.post("github", rpc::list(number)).await.assert_ok();
    }
}

/// The metrics know the stream while it lives and when it is over.
#[tokio::test]
async fn open_streams_are_counted_while_they_live() {
    let (capture, sidecar) = scene(Protocol::Tls).await;
    let (stream, mut agent) = open(&capture, &sidecar, Message::get("github"), Framing::Chunked).await;
    let labels = [("server", "github"), ("kind", "get")];
    assert_eq!(sidecar.metric("postern_open_streams", &labels).await, 1.0);
    stream.event("x");
    stream.finish();
    assert_eq!(agent.drained().await, Piece::End);
    let line = sidecar.next_access("the stream", |line| line["http"] == "GET").await;
    assert_eq!((line["outcome"].as_str(), line["bytes_out"].as_u64()), (Some("ok"), Some(9)), "{line}");
    assert_eq!(sidecar.metric("postern_open_streams", &labels).await, 0.0);
    assert_eq!(sidecar.metric("postern_stream_seconds_count", &labels).await, 1.0);
}

/// `idleTimeout`: an answer on which nothing passes any more is given up at both ends; one that goes
/// on is not. (Event streams have at least 300 s; too long for a test.)
#[tokio::test]
async fn a_silent_answer_is_given_up() {
    let capture = Capture::start(Protocol::Plain).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).config("idleTimeout", json!("2s")).start().await;
    let (_silent, mut agent) = open_json(&capture, &sidecar).await;
    let (lively, mut other) = open_json(&capture, &sidecar).await;
    let pings = async {
        loop {
            lively.send("ping ");
            other.until("ping ").await;
        }
    };
    tokio::select! {
        end = agent.drained() => assert_eq!(end, Piece::Broken, "it is no proper end"),
        () = within("the silent answer to be given up", pings) => {}
    }
    capture.abandoned(0).await;
    let line = sidecar.next_access("the silent answer", |line| line["rpc_id"] == "1").await;
    assert_eq!(line["outcome"], "idle", "{line}");
    lively.send("alive!");
    other.until("alive!").await;
}

async fn open_json(capture: &Capture, sidecar: &Sidecar) -> (Stream, Agent) {
    let (stream, answer) = Answer::stream(&[("Content-Type", "application/json")], Framing::Chunked);
    capture.next(answer);
    let mut agent = sidecar.agent().await;
    agent.open(Message::post("github", rpc::list(1))).await;
    (stream, agent)
}
