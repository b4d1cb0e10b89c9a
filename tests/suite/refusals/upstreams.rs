//! What is wrong with the upstream, or the way to it: no credential leaves on any of these.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::answer::End;
use crate::support::refusal::{Form, Refusal};
use crate::support::{Answer, Binding, Capture, Message, Protocol, Sidecar, assert_refusal, rpc, unique_secret};

fn at<'a>(reason: &'a str, server: &'a str) -> Refusal<'a> {
    Refusal { reason, server, form: Form::Rpc("7") }
}

async fn assert_each_refused(sidecar: &Sidecar, reason: &str, servers: &[String]) {
    for server in servers {
        let message = Message::post(server, rpc::list(7)).bytes("127.0.0.1");
        assert_refusal(sidecar, &message, at(reason, server)).await;
    }
}

/// Attack 26: an unknown CA, another name, an expired leaf, no TLS at all. The handshake is as
/// far as it gets: not one byte of a request.
#[tokio::test]
async fn tls_that_cannot_be_verified_is_refused() {
    let trusted = Capture::start(Protocol::Tls).await;
    let unknown = Capture::start(Protocol::Tls).await;
    let renamed = Capture::with_leaf(Protocol::Tls, &["other.example.test"], false).await;
    let expired = Capture::with_leaf(Protocol::H2, &["localhost"], true).await;
    let (plain_url, plain) = plaintext_server().await;
    let with_secret = |name: &str| Binding::new(name).token(unique_secret());
    let sidecar = Sidecar::for_research()
        // Another upstream's CA vouches for nothing here.
        .binding(with_secret("unknown").trusting(&trusted).url(&unknown.url("/mcp")))
        .binding(with_secret("system").url(&unknown.url("/other")))
        .binding(with_secret("renamed").to(&renamed))
        .binding(with_secret("expired").to(&expired))
        .binding(with_secret("plain").trusting(&trusted).url(&plain_url))
        .start()
        .await;
    let servers = ["unknown", "system", "renamed", "expired", "plain"].map(str::to_owned);
    assert_each_refused(&sidecar, "upstream_tls", &servers).await;
    for capture in [&unknown, &renamed, &expired] {
        assert!(capture.bytes().is_empty(), "no application byte before the certificate is verified");
    }
    let hello = plain.await.expect("the plaintext server was dialled");
    assert_eq!(hello.first(), Some(&0x16), "a plaintext server sees a TLS hello and nothing else");
}

/// An https URL behind which plaintext HTTP is spoken, and the first bytes it is sent.
async fn plaintext_server() -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = listener.local_addr().expect("a bound listener has an address").port();
    let serve = async move {
        let (mut socket, _) = listener.accept().await.expect("the sidecar connects");
        let mut hello = Vec::new();
        socket.read_buf(&mut hello).await.expect("the sidecar says hello");
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("the sidecar reads");
        hello
    };
    (format!("https://localhost:{port}/mcp"), tokio::spawn(serve))
}

/// `tls.serverName` is what is asked for and verified.
#[tokio::test]
async fn the_tls_name_of_the_binding_is_used() {
    let capture = Capture::with_leaf(Protocol::Tls, &["other.example.test"], false).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let binding = binding.set("/server/tls/serverName", json!("other.example.test"));
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    sidecar.post("github", rpc::list(7)).await.assert_ok();
    let name = capture.seen().read(|seen| seen.connections[0].server_name.clone());
    assert_eq!(name.as_deref(), Some("other.example.test"));
    assert_eq!(capture.requests()[0].authority, format!("localhost:{}", capture.port()));
}

/// Nobody listens, the peer hangs up or resets before it answers, or answers something else than HTTP.
#[tokio::test]
async fn an_upstream_that_breaks_off_is_unreachable() {
    let capture = Capture::start(Protocol::Plain).await;
    let gone = Capture::start(Protocol::Plain).await;
    gone.stop();
    let with_secret = |name: &str| Binding::new(name).token(unique_secret());
    let sidecar = Sidecar::for_research()
        .binding(with_secret("gone").to(&gone))
        .binding(with_secret("github").to(&capture))
        .start()
        .await;
    assert_each_refused(&sidecar, "upstream_unreachable", &["gone".to_owned()]).await;
    let broken = [
        (&b""[..], End::Close),
        (b"", End::Reset),
        (b"HTTP/1.1 200 OK\r\nContent-", End::Close),
        (b"HTTP/1.1 200 OK\r\nContent-", End::Reset),
        (b"220 smtp.example.test ESMTP\r\n\r\n", End::Close),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", End::Close),
    ];
    for (number, (bytes, end)) in broken.into_iter().enumerate() {
        capture.next(Answer::Raw(bytes.to_vec(), end));
        assert_each_refused(&sidecar, "upstream_unreachable", &["github".to_owned()]).await;
        assert_eq!(capture.requests().len(), number + 1, "what was sent is not sent again");
    }
}

/// `idleTimeout` bounds the wait for a head; `connectTimeout` the wait for a handshake.
#[tokio::test]
async fn an_upstream_that_says_nothing_times_out() {
    let capture = Capture::start(Protocol::Plain).await;
    capture.always(|_| Answer::Never);
    let deaf = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = deaf.local_addr().expect("a bound listener has an address").port();
    let with_secret = |name: &str| Binding::new(name).token(unique_secret());
    let sidecar = Sidecar::for_research()
        .binding(with_secret("github").to(&capture))
        .binding(with_secret("deaf").url(&format!("https://localhost:{port}/mcp")))
        .config("idleTimeout", json!("300ms"))
        .config("connectTimeout", json!("300ms"))
        .start()
        .await;
    assert_each_refused(&sidecar, "upstream_timeout", &["github".to_owned(), "deaf".to_owned()]).await;
    capture.abandoned(0).await;
    assert_eq!(capture.requests().len(), 1, "a call that timed out is not sent again");
}

/// T7: the agent must never be sent into a login: 401 becomes 502, one upstream request.
#[tokio::test]
async fn a_rejected_credential_is_reported_as_502() {
    let capture = Capture::start(Protocol::Tls).await;
    capture.always(|_| Answer::unauthorized());
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    let response = {
        let message = Message::post("github", rpc::list(7)).bytes("127.0.0.1");
        assert_refusal(&sidecar, &message, at("upstream_auth_rejected", "github")).await
    };
    assert!(!response.text().contains("who are you"), "the upstream's words stay outside");
    assert_eq!(capture.requests().len(), 1);
    assert_eq!(sidecar.metric("postern_upstream_auth_rejections_total", &[("server", "github")]).await, 1.0);
}
