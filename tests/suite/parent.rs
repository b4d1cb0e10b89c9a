//! The parent proxy: the way out of some networks, and never a party to what passes.

use serde_json::json;

use crate::support::dns::Dns;
use crate::support::parent::{Conduct, Parent};
use crate::support::refusal::{Form, Refusal};
use crate::support::secrets::{assert_none_in, contains};
use crate::support::{Binding, Capture, Message, Protocol, Sidecar, assert_refusal, rpc, unique_secret};

/// A name that only the proxy leads anywhere.
const NAME: &str = "mcp.example.test";

fn binding(capture: &Capture) -> Binding {
    Binding::new("github").trusting(capture).url(&capture.url_as(NAME, "/mcp")).token(unique_secret())
}

/// A call goes out by CONNECT to the server's name and port; inside is TLS that is verified for the
/// server; the proxy sees neither credential nor call. From the file as well as from the environment.
#[tokio::test]
async fn calls_pass_through_a_tunnel() {
    for protocol in [Protocol::Tls, Protocol::H2] {
        for by_environment in [false, true] {
            let capture = Capture::start(protocol).await;
            let parent = Parent::start(Conduct::Splice(capture.port())).await;
            let builder = Sidecar::for_research().binding(binding(&capture));
            let builder = if by_environment {
                builder.environment("HTTPS_PROXY", &parent.url())
            } else {
                builder.config("dial", json!({"allowLoopback": true, "parentProxy": parent.url()}))
            };
            let sidecar = builder.start().await;
            let mut agent = sidecar.agent().await;
            for number in 0..3 {
                agent.ask(Message::post("github", rpc::list(number))).await.assert_ok();
            }
            assert_eq!(capture.connections(), 1, "{protocol:?}: the tunnel is kept");
            let seen = parent.seen();
            let connect = format!("CONNECT {NAME}:{} HTTP/1.1\r\n", capture.port());
            assert!(seen.starts_with(connect.as_bytes()), "{}", seen.escape_ascii());
            assert_none_in("what the proxy saw", &seen);
            assert!(!contains(&seen.to_ascii_lowercase(), b"authorization"));
            assert!(!contains(&seen, b"tools/list"), "the call is inside TLS");
        }
    }
}

/// TLS inside the tunnel is verified as ever: a proxy that leads to somebody else gets nothing.
#[tokio::test]
async fn a_tunnel_to_somebody_else_is_refused() {
    let (capture, impostor) = (Capture::start(Protocol::Tls).await, Capture::start(Protocol::Tls).await);
    let parent = Parent::start(Conduct::Splice(impostor.port())).await;
    let dial = json!({"allowLoopback": true, "parentProxy": parent.url()});
    let sidecar = Sidecar::for_research().binding(binding(&capture)).config("dial", dial).start().await;
    let refusal = Refusal { reason: "upstream_tls", server: "github", form: Form::Rpc("7") };
    assert_refusal(&sidecar, &Message::post("github", rpc::list(7)).bytes("127.0.0.1"), refusal).await;
    assert!(impostor.bytes().is_empty(), "no byte of a call before the certificate is verified");
    capture.assert_untouched();
}

/// A proxy that refuses, or is no proxy, makes the server unreachable; nobody is dialled directly.
#[tokio::test]
async fn a_proxy_that_refuses_is_no_way_around_it() {
    for words in [
        &b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"[..],
        b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
        b"220 smtp.example.test\r\n\r\n",
        b"HTTP/1.1 200",
        b"",
    ] {
        let capture = Capture::start(Protocol::Tls).await;
        let parent = Parent::start(Conduct::Say(words)).await;
        let dial = json!({"allowLoopback": true, "parentProxy": parent.url()});
        let sidecar = Sidecar::for_research().binding(binding(&capture)).config("dial", dial).start().await;
        let refusal = Refusal { reason: "upstream_unreachable", server: "github", form: Form::Rpc("7") };
        assert_refusal(&sidecar, &Message::post("github", rpc::list(7)).bytes("127.0.0.1"), refusal).await;
        capture.assert_untouched();
        assert_none_in("what the proxy saw", &parent.seen());
    }
}

/// `noProxy` and loopback are dialled directly; so is plaintext, which no tunnel may carry.
#[tokio::test]
async fn exempt_servers_are_dialled_directly() {
    let (tls, plain) = (Capture::start(Protocol::Tls).await, Capture::start(Protocol::Plain).await);
    let parent = Parent::start(Conduct::Say(b"HTTP/1.1 403 Forbidden\r\n\r\n")).await;
    let dns = Dns::start(&[(NAME, "127.0.0.1")]).await;
    let dial = json!({
        "allowLoopback": true,
        "parentProxy": parent.url(),
        "noProxy": ["example.test"],
        "resolvers": [dns.address().to_string()],
    });
    let sidecar = Sidecar::for_research()
        .binding(binding(&tls))
        .binding(Binding::new("local").to(&tls).token(unique_secret()))
        .binding(Binding::new("plain").to(&plain).token(unique_secret()))
        .config("dial", dial)
        .start()
        .await;
    for server in ["github", "local", "plain"] {
        sidecar.post(server, rpc::list(1)).await.assert_ok();
    }
    assert!(parent.seen().is_empty(), "the proxy is not asked");
}

/// Addresses that are never dialled are never asked of a proxy either.
#[tokio::test]
async fn forbidden_addresses_are_not_asked_of_the_proxy() {
    let parent = Parent::start(Conduct::Say(b"HTTP/1.1 200 OK\r\n\r\n")).await;
    let dial = json!({"allowLoopback": true, "parentProxy": parent.url()});
    let sidecar = Sidecar::for_research()
        .binding(Binding::new("github").url("https://169.254.169.254/mcp").token(unique_secret()))
        .config("dial", dial)
        .start()
        .await;
    let refusal = Refusal { reason: "address_forbidden", server: "github", form: Form::Rpc("7") };
    assert_refusal(&sidecar, &Message::post("github", rpc::list(7)).bytes("127.0.0.1"), refusal).await;
    assert!(parent.seen().is_empty());
}
