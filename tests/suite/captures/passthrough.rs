//! Hosts that need no credential: byte for byte, to where we resolve them, and never a bound one.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{NAME, OTHER, Scene, capturing};
use crate::support::dns::Dns;
use crate::support::insider::{Trust, connect, inside, post, tunnel};
use crate::support::observed::within;
use crate::support::parent::{Conduct, Parent};
use crate::support::secrets::assert_none_in;
use crate::support::{Agent, Binding, Capture, Message, Protocol, rpc, unique_secret};

/// TLS through: the agent verifies the server itself, and its own token is its own matter.
#[tokio::test]
async fn tls_passes_byte_for_byte() {
    for kind in ["proxy", "redirect"] {
        let free = Capture::start(Protocol::Tls).await;
        let scene = Scene::with(kind, Protocol::Tls, json!([OTHER]), |binding| binding).await;
        let place = format!("{OTHER}:{}", free.port());
        let socket = match kind {
            "proxy" => tunnel(&scene.sidecar, &place).await.expect("a tunnel"),
            // A redirected connection tells its port to the kernel alone, and none was redirected here.
            _ => continue,
        };
        let stream = Trust::in_pem(free.ca_pem().as_bytes()).shake(socket, OTHER).await.expect("the server itself");
        let mut agent = Agent::over(stream, &place);
        let body = "x".repeat(100_000);
        let message = Message::post("anything", body.clone()).header("Authorization", "Bearer own");
        assert_eq!(agent.ask(message).await.status, 202);
        drop(agent);
        let request = free.request(0).await;
        assert_eq!((request.values("authorization"), request.body.len()), (vec!["Bearer own"], body.len()));
        assert_none_in("what went through", &free.bytes());
        let line = scene.sidecar.next_access("a passage", |line| line["passthrough"] == OTHER).await;
        assert_eq!((&line["outcome"], &line["server"]), (&json!("ok"), &json!(null)), "{line}");
        assert!(line["bytes_in"].as_u64().is_some_and(|bytes| bytes > 100_000), "{line}");
        let metrics = scene.sidecar.metrics().await;
        assert!(metrics.sum("postern_passthrough_bytes_total", &[("direction", "to_host")]) > 100_000.0);
        assert_eq!(metrics.sum("postern_passthrough_connections", &[]), 0.0);
        assert_eq!(metrics.sum("postern_passthrough_seconds_count", &[]), 1.0);
        scene.capture.assert_untouched();
    }
}

/// Plain HTTP goes through request by request: a connection that began with a free host does not
/// carry the next request to it.
#[tokio::test]
async fn plain_requests_pass_one_by_one() {
    for kind in ["proxy", "redirect"] {
        let free = Capture::start(Protocol::Plain).await;
        let scene = Scene::with(kind, Protocol::Tls, json!(["*.example.test"]), |binding| binding).await;
        let place = format!("{OTHER}:{}", free.port());
        let target = if kind == "proxy" { format!("http://{place}/any?q=1") } else { "/any?q=1".to_owned() };
        let mut agent = Agent::over(connect(&scene.sidecar).await, &place);
        let message = Message::post("any", "body")
            .target(&target)
            .header("Proxy-Authorization", "Basic x")
            .header("Connection", "x-hop, keep-alive")
            .header("X-Hop", "1")
            .header("X-Own", "2");
        let answer = agent.ask(message).await;
        assert_eq!((answer.status, answer.whole), (202, true));
        let request = free.request(0).await;
        assert_eq!((request.target.as_str(), request.authority.as_str()), ("/any?q=1", place.as_str()));
        assert_eq!(request.body, b"body");
        assert_eq!(request.values("connection"), ["close"]);
        assert_eq!((request.values("x-own"), request.values("x-hop")), (vec!["2"], vec![]));
        assert_eq!(request.values("proxy-authorization"), [] as [&str; 0]);
        assert_none_in("what went through", &free.bytes());
        // The bound host matches the pattern too, and is ours all the same.
        let bound = scene.place();
        let target = if kind == "proxy" { format!("http://{bound}/mcp") } else { "/mcp".to_owned() };
        let mut agent = Agent::over(connect(&scene.sidecar).await, &bound);
        agent.ask(post(rpc::list(1)).target(&target)).await.assert_ok();
        scene.assert_served_once();
    }
}

/// What a free host's name leads to is checked as a bound one's: not to the machine itself, not to
/// metadata; and a name that leads nowhere is told.
#[tokio::test]
async fn addresses_are_checked() {
    let dns = Dns::start(&[("loop.example.test", "127.0.0.1"), ("meta.example.test", "169.254.169.254")]).await;
    let sidecar = capturing("proxy", &dns, json!(["*.example.test", "169.254.169.254"]))
        .config("dial", json!({"allowLoopback": false, "resolvers": [dns.address().to_string()]}))
        .start()
        .await;
    for (host, reason) in [
        ("loop.example.test", "address_forbidden"),
        ("meta.example.test", "address_forbidden"),
        ("169.254.169.254", "address_forbidden"),
        ("none.example.test", "upstream_unreachable"),
    ] {
        let refused = tunnel(&sidecar, &format!("{host}:80")).await.expect_err("no tunnel");
        assert_eq!((refused.status, refused.reason()), (502, Some(reason)), "{host}");
        let mut agent = Agent::connect(sidecar.captured()).await;
        let plain = Message::new("GET", &format!("http://{host}/")).host(host);
        agent.ask(plain).await.assert_refused(reason);
    }
}

/// A tunnel ends when either side does, and with the sidecar.
#[tokio::test]
async fn a_passage_ends_with_its_sides() {
    let free = Capture::start(Protocol::Plain).await;
    let scene = Scene::with("proxy", Protocol::Tls, json!([OTHER]), |binding| binding).await;
    let place = format!("{OTHER}:{}", free.port());
    let mut socket = tunnel(&scene.sidecar, &place).await.expect("a tunnel");
    free.seen().until("a connection", |seen| (seen.connections.len() == 1).then_some(())).await;
    socket.write_all(b"GE").await.expect("open");
    drop(socket);
    free.closed(0).await;
    let mut socket = tunnel(&scene.sidecar, &place).await.expect("a tunnel");
    scene.sidecar.terminate();
    within("the end of the tunnel", socket.read(&mut [0])).await.ok();
    assert!(scene.sidecar.exit().await.success());
}

/// A bound host is never led through, whatever the patterns say: also not by another port.
#[tokio::test]
async fn a_bound_host_is_never_a_passage() {
    let scene = Scene::with("proxy", Protocol::Tls, json!(["*.example.test", NAME]), |binding| binding).await;
    let mut agent = inside(&scene.sidecar, NAME, scene.capture.port()).await;
    agent.ask(post(rpc::list(1))).await.assert_ok();
    scene.assert_served_once();
    let mut other_port = inside(&scene.sidecar, NAME, 1).await;
    other_port.ask(post(rpc::list(2))).await.assert_refused("path_outside_binding");
    assert_eq!(scene.capture.connections(), 1);
}

/// Where only a parent proxy leads out, a passage goes through it, as a bound server's connection does.
#[tokio::test]
async fn a_parent_proxy_is_asked_for_both() {
    let free = Capture::start(Protocol::Tls).await;
    let bound = Capture::start(Protocol::Tls).await;
    let dns = Dns::start(&[]).await;
    for (place, target, serves) in [(OTHER, &free, None), (NAME, &bound, Some("github"))] {
        let parent = Parent::start(Conduct::Splice(target.port())).await;
        let dial =
            json!({"allowLoopback": true, "resolvers": [dns.address().to_string()], "parentProxy": parent.url()});
        let binding = Binding::new("github").trusting(&bound).url(&bound.url_as(NAME, "/mcp")).token(unique_secret());
        let sidecar = capturing("proxy", &dns, json!([OTHER])).config("dial", dial).binding(binding).start().await;
        let mut agent = match serves {
            Some(_) => inside(&sidecar, place, target.port()).await,
            None => {
                let socket = tunnel(&sidecar, &format!("{place}:{}", target.port())).await.expect("a tunnel");
                let stream = Trust::in_pem(target.ca_pem().as_bytes()).shake(socket, place).await;
                Agent::over(stream.expect("the server itself"), &format!("{place}:{}", target.port()))
            }
        };
        agent.ask(post(rpc::list(1))).await.assert_ok();
        let asked = format!("CONNECT {place}:{} HTTP/1.1\r\n", target.port());
        assert!(parent.seen().starts_with(asked.as_bytes()), "{}", parent.seen().escape_ascii());
        let request = target.request(0).await;
        assert_eq!(request.values("authorization").len(), usize::from(serves.is_some()));
        assert_none_in("what the parent proxy saw", &parent.seen());
    }
}
