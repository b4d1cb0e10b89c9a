//! Limits: of heads, bodies, connections and memory. Each says which one, and frees what it held.

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::refusal::{Form, Refusal};
use crate::support::{
    Agent, Answer, Binding, Capture, Message, Protocol, Sidecar, assert_refusal, rpc, unique_secret, within,
};

use super::{scene, text};

/// A sidecar with these limits.
async fn limited(limits: serde_json::Value) -> (Capture, Sidecar) {
    let capture = Capture::start(Protocol::Plain).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).config("limits", limits).start().await;
    (capture, sidecar)
}

/// A body of exactly `size` bytes.
fn sized(size: usize) -> String {
    let frame = r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"pad":""}}"#;
    let body = frame.replace(r#""pad":"""#, &format!(r#""pad":"{}""#, "x".repeat(size - frame.len())));
    assert_eq!(body.len(), size);
    body
}

/// `limits.bodyBytes`: one byte more is refused, by length and by chunks; the limit itself passes.
#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let (capture, sidecar) = limited(json!({"bodyBytes": 1024})).await;
    let refusal = Refusal { reason: "body_too_large", server: "github", form: Form::Text };
    let over = Message::post("github", sized(1025));
    for bytes in [over.bytes("127.0.0.1"), over.chunked("127.0.0.1", 100, ""), over.chunked("127.0.0.1", 4096, "")] {
        assert_oversized(&sidecar, &bytes, refusal).await;
    }
    // A length alone is enough: nobody waits for a body that will not be read.
    let head = Message::post("github", "").head_with("127.0.0.1", "Content-Length: 99999999\r\n");
    assert_oversized(&sidecar, &head, refusal).await;
    capture.assert_untouched();
    let limit = Message::post("github", sized(1024));
    for bytes in [limit.bytes("127.0.0.1"), limit.chunked("127.0.0.1", 100, "")] {
        let mut agent = sidecar.agent().await;
        agent.send(&bytes).await;
        agent.response().await.assert_ok();
    }
}

/// The server may or may not be known yet when a body is found too large: both are fine.
async fn assert_oversized(sidecar: &Sidecar, bytes: &[u8], refusal: Refusal<'_>) {
    let before = sidecar.metric("postern_refusals_total", &[("reason", refusal.reason)]).await;
    let mut agent = sidecar.agent().await;
    agent.send(bytes).await;
    refusal.assert_answer(&agent.response().await);
    sidecar.next_access(refusal.reason, |line| line["reason"] == "body_too_large").await;
    let after = sidecar.metric("postern_refusals_total", &[("reason", refusal.reason)]).await;
    assert_eq!(after - before, 1.0);
}

/// `limits.headBytes` and the number of fields.
#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let (capture, sidecar) = limited(json!({"headBytes": 8192})).await;
    let long = Message::get("github").header("X-Pad", &"x".repeat(9000)).bytes("127.0.0.1");
    assert_refusal(&sidecar, &long, text("head_too_large")).await;
    let endless = vec![b'a'; 10_000];
    assert_refusal(&sidecar, &endless, text("head_too_large")).await;
    let many = (0..101).fold(Message::get("github"), |message, n| message.header(&format!("X-{n}"), "v"));
    assert_refusal(&sidecar, &many.bytes("127.0.0.1"), text("head_too_large")).await;
    let target = Message::get("github").target(&format!("/github?{}", "x".repeat(9000))).bytes("127.0.0.1");
    assert_refusal(&sidecar, &target, text("head_too_large")).await;
    capture.assert_untouched();
}

/// `limits.connections`: one too many is refused at once and counted; when one goes, one may come.
#[tokio::test]
async fn a_connection_over_the_limit_is_refused() {
    let (_capture, sidecar) = limited(json!({"connections": 2})).await;
    let mut first = sidecar.agent().await;
    first.ask(Message::post("github", rpc::list(1))).await.assert_ok();
    let mut second = sidecar.agent().await;
    second.ask(Message::post("github", rpc::list(2))).await.assert_ok();
    let message = Message::post("github", rpc::list(3)).bytes("127.0.0.1");
    assert_refusal(&sidecar, &message, text("overloaded")).await;
    second.ask(Message::post("github", rpc::list(4))).await.assert_ok();
    drop(first);
    // The sidecar learns of the close by itself: until then the newcomer is refused in order.
    sidecar.until_served("github", &["overloaded"]).await;
}

/// `limits.connections` is what counts, not the soft limit of open files that the process is given.
#[tokio::test]
async fn a_soft_limit_of_descriptors_is_no_limit() {
    let capture = Capture::start(Protocol::Plain).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).soft_descriptors(64).start().await;
    let mut agents = Vec::new();
    for number in 0..100 {
        let mut agent = sidecar.agent().await;
        agent.ask(Message::post("github", rpc::list(number))).await.assert_ok();
        agents.push(agent);
    }
}

/// `limits.bodyBudgetBytes`: bodies held in memory together stay within it, and what a call held
/// is free again when the call is over.
#[tokio::test]
async fn bodies_over_the_budget_are_refused_until_one_is_done() {
    let (capture, sidecar) = limited(json!({"bodyBytes": 65536, "bodyBudgetBytes": 100_000})).await;
    let (give, answer) = Answer::later();
    capture.next(answer);
    let mut holder: Agent = sidecar.agent().await;
    let body = sized(65_536);
    holder.send(&Message::post("github", body.as_str()).bytes("127.0.0.1")).await;
    let held = capture.request(0).await;
    let refusal = Refusal { reason: "overloaded", server: "github", form: Form::Text };
    let mut newcomer = sidecar.agent().await;
    let response = newcomer.ask(Message::post("github", body.as_str())).await;
    refusal.assert_answer(&response);
    // A small one still fits.
    sidecar.post("github", rpc::list(1)).await.assert_ok();
    assert!(give.send(Answer::result(&held)).is_ok(), "the upstream still waits for its answer");
    holder.response().await.assert_ok();
    sidecar.post("github", body).await.assert_ok();
    // Three of these would fill it: twenty pass only if each gives back all it took.
    let mut agent = sidecar.agent().await;
    for _ in 0..20 {
        agent.ask(Message::post("github", sized(40_000))).await.assert_ok();
    }
}

/// `headTimeout`: a head or body that never ends does not hold a connection for ever, and nothing
/// of it goes upstream.
#[tokio::test]
async fn a_request_that_never_ends_is_cut() {
    let capture = Capture::start(Protocol::Plain).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).config("headTimeout", json!("300ms")).start().await;
    let whole = Message::post("github", rpc::list(1)).bytes("127.0.0.1");
    let half_head = &whole[..20];
    let half_body = &whole[..whole.len() - 5];
    for bytes in [half_head, half_body] {
        let mut agent = sidecar.agent().await;
        agent.send(bytes).await;
        agent.closed().await;
    }
    capture.assert_untouched();
    sidecar.post("github", rpc::list(1)).await.assert_ok();
}

/// `idleTimeout`: an agent that asks on and on and takes no answer does not hold a connection for
/// ever, whoever answers it.
#[tokio::test]
async fn answers_that_nobody_reads_are_given_up() {
    let capture = Capture::start(Protocol::Plain).await;
    let long = format!("\"{}\"", "x".repeat(64 * 1024));
    capture.always(move |request| Answer::result_with(request, &long));
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).config("idleTimeout", json!("2s")).start().await;
    for server in ["github", "nobody"] {
        // A refusal echoes the id: a long one fills the sockets sooner.
        let call = Message::post(server, rpc::call("x".repeat(1000), "search")).bytes("127.0.0.1");
        let mut socket = TcpStream::connect(sidecar.endpoint()).await.expect("the sidecar listens");
        let asking = async { while socket.write_all(&call).await.is_ok() {} };
        within(&format!("the sidecar to close the connection that calls {server}"), asking).await;
    }
    sidecar.post("github", rpc::list(1)).await.assert_ok();
}

/// An agent that hangs up in the middle of a body has asked for nothing.
#[tokio::test]
async fn half_a_body_never_reaches_the_upstream() {
    let (capture, sidecar) = scene().await;
    let whole = Message::post("github", rpc::list(1));
    for bytes in [whole.bytes("127.0.0.1"), whole.chunked("127.0.0.1", 10, "")] {
        let mut agent = sidecar.agent().await;
        agent.send(&bytes[..bytes.len() - 3]).await;
        agent.half_close().await;
        agent.closed().await;
    }
    capture.assert_untouched();
}
