//! Connections that the pod's network redirected: the name comes from TLS or from Host.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{NAME, OTHER, Scene};
use crate::support::insider::{Trust, connect, post, redirected};
use crate::support::observed::within;
use crate::support::{Agent, Protocol, rpc};

/// TLS to the server's name, or plain HTTP with its Host.
#[tokio::test]
async fn calls_get_the_credential() {
    for protocol in [Protocol::Tls, Protocol::H2] {
        let scene = Scene::start("redirect", protocol).await;
        let mut agent = redirected(&scene.sidecar, NAME, scene.capture.port()).await;
        agent.ask(post(rpc::list(1)).header("Authorization", "Bearer own-token")).await.assert_ok();
        scene.assert_served_once();
        let line = scene.sidecar.next_access("a call", |line| line["server"] == "github").await;
        assert_eq!((&line["capture"], &line["outcome"]), (&json!("redirect"), &json!("ok")), "{line}");
    }
    let scene = Scene::start("redirect", Protocol::Tls).await;
    let mut agent = Agent::over(connect(&scene.sidecar).await, &scene.place());
    agent.ask(post(rpc::list(1))).await.assert_ok();
    scene.assert_served_once();
    agent.ask(post(rpc::list(2)).host(OTHER)).await.assert_refused("unbound_host");
    assert_eq!(scene.capture.count(), 1);
}

/// What is no HTTP is closed and counted: the server's port does not matter, and no byte goes on.
#[tokio::test]
async fn other_protocols_are_closed_and_counted() {
    let scene = Scene::start("redirect", Protocol::Tls).await;
    let rows: [(&[u8], &str); 6] = [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_http"),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "not_http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not_http"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "not_http"),
        (b"\x16\x02\x00", "not_http"),
        (b"{\"jsonrpc\":\"2.0\"}\n", "not_http"),
    ];
    for (bytes, reason) in rows {
        let before = scene.sidecar.metric("postern_refusals_total", &[("reason", reason)]).await;
        let mut socket = connect(&scene.sidecar).await;
        socket.write_all(bytes).await.expect("a fresh socket");
        let mut answer = Vec::new();
        within("the end", socket.read_to_end(&mut answer)).await.expect("a proper end");
        scene.sidecar.next_access(reason, |line| line["reason"] == reason).await;
        let after = scene.sidecar.metric("postern_refusals_total", &[("reason", reason)]).await;
        assert_eq!(after - before, 1.0, "{}", bytes.escape_ascii());
    }
    scene.capture.assert_untouched();
}

/// TLS to a host that is not bound is refused with an alert that says so, not with a certificate.
#[tokio::test]
async fn an_unbound_host_is_denied() {
    let scene = Scene::start("redirect", Protocol::Tls).await;
    let refused = Trust::in_pod(&scene.sidecar).shake(connect(&scene.sidecar).await, OTHER).await;
    let error = refused.expect_err("no handshake").to_string();
    assert!(error.contains("AccessDenied"), "{error}");
    let line = scene.sidecar.next_access("unbound_host", |line| line["reason"] == "unbound_host").await;
    assert_eq!(line["detail"], OTHER, "{line}");
    scene.capture.assert_untouched();
}

/// A client that opens a connection and says nothing costs nothing, and one that never speaks is closed.
#[tokio::test]
async fn silence_is_no_refusal_until_it_lasts() {
    let scene = Scene::start("redirect", Protocol::Tls).await;
    drop(connect(&scene.sidecar).await);
    let mut agent = redirected(&scene.sidecar, NAME, scene.capture.port()).await;
    agent.ask(post(rpc::list(1))).await.assert_ok();
    assert_eq!(scene.sidecar.metric("postern_refusals_total", &[]).await, 0.0);
}
