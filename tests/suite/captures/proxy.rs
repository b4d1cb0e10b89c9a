//! The proxy that HTTP_PROXY and HTTPS_PROXY name.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Scene;
use crate::support::capture::Request;
use crate::support::insider::{self, Trust, inside, post, tunnel};
use crate::support::observed::within;
use crate::support::{Agent, Answer, Binding, Capture, Message, Protocol, Sidecar, rpc, unique_secret};

/// CONNECT, TLS inside, calls on a kept connection: the server gets the bound credential, once.
#[tokio::test]
async fn calls_inside_a_tunnel_get_the_credential() {
    for protocol in [Protocol::Tls, Protocol::H2] {
        let scene = Scene::start("proxy", protocol).await;
        let mut agent = inside(&scene.sidecar, super::NAME, scene.capture.port()).await;
        let own = post(rpc::list(1)).header("Authorization", "Bearer own-token").target("/mcp");
        agent.ask(own).await.assert_ok();
        scene.assert_served_once();
        assert_eq!(scene.capture.requests()[0].authority, scene.place());
        for number in 2..5 {
            agent.ask(post(rpc::list(number))).await.assert_ok();
        }
        assert_eq!(scene.capture.connections(), 1, "{protocol:?}");
        let line = scene.sidecar.next_access("a call", |line| line["server"] == "github").await;
        assert_eq!((&line["capture"], &line["outcome"]), (&json!("proxy"), &json!("ok")), "{line}");
        assert_eq!(scene.sidecar.metric("postern_agent_tokens_stripped_total", &[("server", "github")]).await, 1.0);
    }
}

/// Node sends CONNECT for http:// too, and speaks plain HTTP inside. The server gets TLS.
#[tokio::test]
async fn a_tunnel_may_hold_plain_http() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let socket = tunnel(&scene.sidecar, &scene.place()).await.expect("a tunnel");
    let mut agent = Agent::over(socket, &scene.place());
    agent.ask(post(rpc::list(1))).await.assert_ok();
    scene.assert_served_once();
    agent.ask(post(rpc::list(2)).host(super::OTHER)).await.assert_refused("authority_mismatch");
    assert_eq!(scene.capture.count(), 1);
}

/// The whole URL in the request line, one connection for several servers, each decided for itself.
#[tokio::test]
async fn absolute_urls_are_decided_one_by_one() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let mut agent = Agent::connect(scene.sidecar.captured()).await;
    let ask = |number: u64, place: &str| post(rpc::list(number)).target(&format!("http://{place}/mcp")).host(place);
    agent.ask(ask(1, &scene.place())).await.assert_ok();
    scene.assert_served_once();
    let refused = agent.ask(ask(2, "unbound.example.test")).await;
    assert_eq!((refused.status, refused.reason()), (403, Some("unbound_host")));
    assert_eq!(refused.json()["error"]["data"]["reason"], "unbound_host");
    agent.ask(ask(3, &format!("{}:{}", super::OTHER, scene.capture.port()))).await.assert_refused("unbound_host");
    agent.ask(ask(4, &scene.place())).await.assert_ok();
    agent.ask(ask(5, &scene.place()).host(super::OTHER)).await.assert_refused("authority_mismatch");
    agent.ask(post(rpc::list(6)).target("/mcp").host(&scene.place())).await.assert_refused("authority_mismatch");
    assert_eq!(scene.capture.count(), 2);
}

/// What is not bound gets no tunnel, and says so in words.
#[tokio::test]
async fn an_unbound_host_gets_no_tunnel() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let other = format!("{}:{}", super::OTHER, scene.capture.port());
    for place in [other.as_str(), "127.0.0.1:443", "[::1]:443", "169.254.169.254:80"] {
        let refused = tunnel(&scene.sidecar, place).await.expect_err("no tunnel");
        assert_eq!((refused.status, refused.reason()), (403, Some("unbound_host")), "{place}");
        assert!(refused.text().contains("CredentialBinding"), "{}", refused.text());
        let line = scene.sidecar.next_access("unbound_host", |line| line["reason"] == "unbound_host").await;
        assert_eq!((&line["http"], &line["capture"]), (&json!("CONNECT"), &json!("proxy")), "{line}");
    }
    scene.capture.assert_untouched();
}

/// A host bound after the start has no certificate: its tunnel is refused; plain HTTP and the endpoint serve it.
#[tokio::test]
async fn a_host_bound_later_needs_a_restart_for_tls_alone() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let secret = unique_secret();
    let later = Binding::new("later").trusting(&scene.capture).url(&scene.capture.url_as(super::OTHER, "/mcp"));
    scene.sidecar.files().add(&later.token(&secret));
    scene.sidecar.until_served("later", &["unbound_server"]).await;
    let place = format!("{}:{}", super::OTHER, scene.capture.port());
    let refused = tunnel(&scene.sidecar, &place).await.expect_err("no tunnel");
    assert_eq!((refused.status, refused.reason()), (503, Some("restart_required")));
    let before = scene.capture.count();
    let mut agent = Agent::connect(scene.sidecar.captured()).await;
    agent.ask(post(rpc::list(1)).target(&format!("http://{place}/mcp")).host(&place)).await.assert_ok();
    assert_eq!(scene.capture.requests()[before].values("authorization"), [format!("Bearer {secret}")]);
}

/// A binding that is withdrawn is refused on connections that are open, and on new ones; the host is
/// not led through for it.
#[tokio::test]
async fn a_withdrawn_host_stays_ours() {
    let scene = Scene::with("proxy", Protocol::Tls, json!(["*.example.test"]), |binding| binding).await;
    let mut agent = inside(&scene.sidecar, super::NAME, scene.capture.port()).await;
    agent.ask(post(rpc::list(1))).await.assert_ok();
    scene.sidecar.files().remove_document("github");
    scene.sidecar.until_refused("github").await;
    agent.ask(post(rpc::list(2))).await.assert_refused("credential_revoked");
    let mut fresh = inside(&scene.sidecar, super::NAME, scene.capture.port()).await;
    fresh.ask(post(rpc::list(3))).await.assert_refused("credential_revoked");
    // The last call before may have been under way.
    let later = |request: &Request| request.rpc_id().is_some_and(|id| id == "2" || id == "3");
    assert!(!scene.capture.requests().iter().any(later));
}

/// The path by which a server is seen is its own: redirects, cookies, and the stream of 2024-11-05.
#[tokio::test]
async fn the_agent_sees_the_servers_own_paths() {
    let change = |binding: Binding| {
        binding
            .set("/server/subpaths", json!(true))
            .set("/passCookies", json!(["lb"]))
            .set("/server/transports", json!(["StreamableHTTP", "SSE"]))
    };
    let scene = Scene::with("proxy", Protocol::Tls, json!([]), change).await;
    let mut agent = inside(&scene.sidecar, super::NAME, scene.capture.port()).await;
    scene.capture.next(Answer::redirect(307, &scene.capture.url_as(super::NAME, "/mcp/next?a=b")));
    let moved = agent.ask(post(rpc::list(1))).await;
    assert_eq!((moved.status, moved.header("location")), (307, Some("/mcp/next?a=b")));
    scene.capture.next(Answer::full(200, &[("Set-Cookie", "lb=1; Domain=x; Secure")], "{}"));
    let answer = agent.ask(post(rpc::list(2))).await;
    assert_eq!(answer.header("set-cookie"), Some("lb=1; Path=/mcp"));
    let (stream, events) = Answer::events();
    scene.capture.next(events);
    let mut listener = inside(&scene.sidecar, super::NAME, scene.capture.port()).await;
    listener.open(Message::get("mcp")).await;
    stream.send("event: endpoint\ndata: /mcp/messages?session_id=7\n\n");
    let text = listener.until("\n\n").await;
    let path = text.lines().find_map(|line| line.strip_prefix("data: ")).expect("an endpoint").to_owned();
    assert!(path.starts_with("/github/.sse/"), "{path}");
    agent.ask(post(rpc::list(3)).target(&path)).await.assert_ok();
    let last = scene.capture.requests().pop().expect("a request");
    assert_eq!(last.target, "/mcp/messages?session_id=7");
    assert_eq!(last.values("authorization"), [format!("Bearer {}", scene.secret)]);
}

/// OAuth discovery at a bound host is answered here, and goes nowhere.
#[tokio::test]
async fn nothing_is_to_be_logged_in_to() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let mut agent = inside(&scene.sidecar, super::NAME, scene.capture.port()).await;
    for path in ["/.well-known/oauth-protected-resource/mcp", "/.well-known/openid-configuration", "/authorize"] {
        assert_eq!(agent.ask(Message::new("GET", path)).await.status, 404, "{path}");
    }
    scene.capture.assert_untouched();
}

/// What the agents are to trust is there when the sidecar says that it listens: the pod's CA, alone
/// and among the system's roots and those that the configuration adds.
#[tokio::test]
async fn the_files_are_written_before_the_sidecar_listens() {
    let (scene, corporate) = (Scene::start("proxy", Protocol::Tls).await, Capture::start(Protocol::Tls).await);
    for file in ["ca.pem", "ca-bundle.pem"] {
        let socket = tunnel(&scene.sidecar, &scene.place()).await.expect("a tunnel");
        Trust::in_file(&scene.sidecar, file).shake(socket, super::NAME).await.expect("believed");
    }
    let builder = Sidecar::for_research()
        .config("capture", json!({"kind": "proxy", "port": 0, "rootsFile": "corporate.pem"}))
        .config("public", json!({"directory": "./public"}))
        .file("corporate.pem", corporate.ca_pem().to_owned());
    let sidecar = builder.start().await;
    let bundle = std::fs::read_to_string(sidecar.files().path("public/ca-bundle.pem")).unwrap();
    let body = |pem: &str| pem.split_whitespace().collect::<String>();
    assert!(body(&bundle).contains(&body(corporate.ca_pem())));
    assert!(bundle.matches("BEGIN CERTIFICATE").count() > 50, "the system's roots are there as well");
    assert!(!bundle.contains("PRIVATE"));
}

/// Each stop of the credential's life holds here as at the endpoint: a stream ends with its binding.
#[tokio::test]
async fn a_stream_ends_with_its_binding() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let (stream, events) = Answer::events();
    scene.capture.next(events);
    let mut agent = inside(&scene.sidecar, super::NAME, scene.capture.port()).await;
    agent.open(Message::get("mcp")).await;
    stream.event("one");
    agent.until("one").await;
    scene.sidecar.files().remove_document("github");
    agent.drained().await;
    scene.sidecar.next_access("revoked", |line| line["outcome"] == "revoked").await;
}

/// The agent that goes away takes its upstream call along, also inside TLS.
#[tokio::test]
async fn a_client_that_leaves_ends_its_call() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let (_later, answer) = Answer::later();
    scene.capture.next(answer);
    let mut agent = inside(&scene.sidecar, super::NAME, scene.capture.port()).await;
    agent.send(&post(rpc::list(1)).bytes(&scene.place())).await;
    scene.capture.request(0).await;
    drop(agent);
    scene.capture.abandoned(0).await;
}

/// Inside TLS the end is said: a client would take it for a cut otherwise.
#[tokio::test]
async fn the_end_of_tls_is_said() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let Ok(socket) = tunnel(&scene.sidecar, &scene.place()).await else { panic!("a tunnel to a bound host") };
    let mut stream = Trust::in_pod(&scene.sidecar).shake(socket, super::NAME).await.expect("the pod's CA is trusted");
    let last = post(rpc::list(1)).header("Connection", "close").bytes(&scene.place());
    stream.write_all(&last).await.expect("a fresh connection");
    let mut answer = Vec::new();
    within("the end", stream.read_to_end(&mut answer)).await.expect("a close_notify before the end");
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
}

/// CONNECT is for the proxy alone, and for nothing inside a tunnel.
#[tokio::test]
async fn tunnels_do_not_nest() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let connect = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n", place = scene.place());
    let mut inner = inside(&scene.sidecar, super::NAME, scene.capture.port()).await;
    let mut outer = scene.sidecar.agent().await;
    for agent in [&mut inner, &mut outer] {
        agent.send(connect.as_bytes()).await;
        agent.response().await.assert_refused("tunnel_forbidden");
    }
    let upgrade = post(rpc::list(1)).header("Connection", "upgrade").header("Upgrade", "websocket");
    inside(&scene.sidecar, super::NAME, scene.capture.port())
        .await
        .ask(upgrade)
        .await
        .assert_refused("tunnel_forbidden");
    let mut odd = insider::connect(&scene.sidecar).await;
    for text in ["CONNECT / HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT http://h/ HTTP/1.1\r\nHost: h\r\n\r\n"] {
        let mut agent = Agent::over(odd, "x");
        agent.send(text.as_bytes()).await;
        agent.response().await.assert_refused("malformed_head");
        odd = insider::connect(&scene.sidecar).await;
    }
    scene.capture.assert_untouched();
}
