//! What shares an HTTP/2 connection: the end of one exchange, or of the connection, costs no other one
//! its answer, and is taken for no other one's end. The upstream here speaks frame by frame.

use crate::support::agent::Piece;
use crate::support::frames::{
    CANCEL, Frames, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, Wire, data, go_away, head, reset,
};
use crate::support::{Agent, Binding, Capture, Message, Protocol, Sidecar, rpc, unique_secret};

const EVENT: &str = "data: one\n\n";

async fn scene() -> (Frames, Sidecar) {
    let upstream = Frames::start().await;
    let sidecar = Sidecar::for_research().binding(upstream.binding("github").token(unique_secret())).start().await;
    (upstream, sidecar)
}

/// Two calls under way on one connection: the first is stream 1, the second 3.
async fn two_calls(upstream: &Frames, sidecar: &Sidecar) -> (Wire, Agent, Agent) {
    let mut first = sidecar.agent().await;
    first.send(&Message::post("github", rpc::call(1, "search")).bytes("127.0.0.1")).await;
    let mut wire = upstream.accept().await;
    wire.request(1).await;
    let mut second = sidecar.agent().await;
    second.send(&Message::post("github", rpc::call(2, "search")).bytes("127.0.0.1")).await;
    wire.request(3).await;
    (wire, first, second)
}

/// A whole answer.
fn answer(id: u32, text: &str) -> Vec<u8> {
    [head(id, Some(text.len())), data(id, text, true)].concat()
}

/// One call ends by RST_STREAM, whatever it says: its neighbour is answered, and so is the next call,
/// on the same connection.
#[tokio::test]
async fn a_reset_call_costs_its_neighbour_nothing() {
    for code in [NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL] {
        let (upstream, sidecar) = scene().await;
        let (mut wire, mut first, mut second) = two_calls(&upstream, &sidecar).await;
        wire.put(&reset(3, code)).await;
        second.response().await.assert_refused("upstream_unreachable");
        wire.put(&answer(1, "{}")).await;
        first.response().await.assert_ok();
        second.send(&Message::post("github", rpc::list(3)).bytes("127.0.0.1")).await;
        wire.request(5).await;
        wire.put(&answer(5, "{}")).await;
        second.response().await.assert_ok();
    }
}

/// GOAWAY with the number of the first call: the second is lost, and is not sent again; the first goes
/// on, to an answer that is a while in coming.
#[tokio::test]
async fn a_goaway_costs_only_what_it_leaves_out() {
    for code in [NO_ERROR, INTERNAL_ERROR] {
        let (upstream, sidecar) = scene().await;
        let (mut wire, mut first, mut second) = two_calls(&upstream, &sidecar).await;
        wire.put(&go_away(1, code)).await;
        second.response().await.assert_refused("upstream_unreachable");
        wire.put(&[head(1, Some(4)), data(1, "{ ", false)].concat()).await;
        let head = first.head().await;
        assert_eq!(first.piece().await, Piece::Data("{ ".into()), "{}", head.first_line);
        let mut third = sidecar.agent().await;
        third.send(&Message::post("github", rpc::list(3)).bytes("127.0.0.1")).await;
        let mut next = upstream.accept().await;
        next.request(1).await;
        next.put(&answer(1, "{}")).await;
        third.response().await.assert_ok();
        wire.put(&data(1, " }", true)).await;
        assert_eq!((first.piece().await, first.piece().await), (Piece::Data(" }".into()), Piece::End));
    }
}

/// The connection ends, in whatever way, after one answer came whole: that one is given to its agent,
/// and only the other call is lost.
#[tokio::test]
async fn an_answer_that_came_whole_survives_its_connection() {
    for (last_words, abruptly) in [
        (vec![], false),
        (vec![], true),
        (go_away(3, NO_ERROR), false),
        (go_away(3, NO_ERROR), true),
        (go_away(1, INTERNAL_ERROR), false),
        (go_away(1, INTERNAL_ERROR), true),
    ] {
        let (upstream, sidecar) = scene().await;
        let (mut wire, mut first, mut second) = two_calls(&upstream, &sidecar).await;
        wire.put(&[answer(1, "{}"), last_words].concat()).await;
        wire.end(abruptly);
        first.response().await.assert_ok();
        second.response().await.assert_refused("upstream_unreachable");
    }
}

/// A stream that is ended without END_STREAM has not come to its end, though it be without an error
/// code: neither a body of a known length nor events, neither by a reset nor by a GOAWAY that leaves it
/// out.
#[tokio::test]
async fn an_end_without_end_stream_is_a_break() {
    for length in [Some(100), None] {
        for end in [reset(1, NO_ERROR), reset(1, CANCEL), go_away(0, NO_ERROR), go_away(0, INTERNAL_ERROR)] {
            let (upstream, sidecar) = scene().await;
            let mut agent = sidecar.agent().await;
            agent.send(&Message::post("github", rpc::call(1, "search")).bytes("127.0.0.1")).await;
            let mut wire = upstream.accept().await;
            wire.request(1).await;
            wire.put(&[head(1, length), data(1, EVENT, false)].concat()).await;
            agent.head().await;
            agent.until(EVENT).await;
            wire.put(&end).await;
            assert_eq!(agent.drained().await, Piece::Broken, "{length:?} {end:?}");
            let line = sidecar.next_access("the call", |_| true).await;
            assert_eq!(line["outcome"], "upstream_gone", "{length:?} {end:?}: {line}");
        }
    }
}

/// Calls that wait for one connection when their credential is replaced: it cannot be shared any more.
/// They do not wait in line for one of their own each, but dial side by side.
#[tokio::test]
async fn a_rotation_does_not_put_waiting_calls_in_line() {
    let upstream = Frames::start().await;
    let beside = Capture::start(Protocol::H2).await;
    let bindings = [upstream.binding("slow"), Binding::new("beside").to(&beside)];
    let sidecar = bindings
        .iter()
        .fold(Sidecar::for_research(), |sidecar, binding| sidecar.binding(binding.clone().token(unique_secret())));
    let sidecar = sidecar.start().await;
    sidecar.post("beside", rpc::list(1)).await.assert_ok();
    let mut agents = Vec::new();
    for number in 0..3 {
        let mut agent = sidecar.agent().await;
        agent.send(&Message::post("slow", rpc::list(number)).bytes("127.0.0.1")).await;
        agents.push(agent);
    }
    let first = upstream.dialled().await;
    for binding in &bindings {
        sidecar.files().replace_secret(&binding.secret_name(), "token", unique_secret().as_bytes());
    }
    // Then the old connections have been let go, and what is made for the old value is not kept.
    beside.closed(0).await;
    let mut wires = vec![upstream.serve(first).await];
    let sockets = [upstream.dialled().await, upstream.dialled().await];
    for socket in sockets {
        wires.push(upstream.serve(socket).await);
    }
    for wire in &mut wires {
        wire.request(1).await;
        wire.put(&answer(1, "{}")).await;
    }
    for agent in &mut agents {
        agent.response().await.assert_ok();
    }
}
