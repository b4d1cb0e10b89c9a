//! Names that disagree, names that hide, and TLS that is not one (field rows 1, 2, 7, 26): each is a
//! reason of its own, and the server sees no byte.

use std::sync::Arc;

use rustls::client::{EchGreaseConfig, EchMode};
use rustls::crypto::hpke::Hpke as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{NAME, OTHER, Scene};
use crate::support::insider::{Trust, connect, inside, post, redirected, tunnel, tunnel_with};
use crate::support::observed::within;
use crate::support::{Capture, Protocol, rpc};

/// The next refusal's line; it must be the only one.
async fn refused(scene: &Scene, reason: &str) -> Value {
    let line = scene.sidecar.next_access(reason, |line| line["outcome"] == "refused").await;
    assert_eq!(line["reason"], reason, "{line}");
    line
}

/// Host, SNI and CONNECT: no pair of them may name two servers.
#[tokio::test]
async fn names_that_disagree_are_refused() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let place = scene.place();
    // CONNECT against its Host.
    for lines in [format!("Host: {OTHER}\r\n"), format!("Host: {NAME}:1\r\n"), "Host: \r\n".to_owned()] {
        let refused = tunnel_with(&scene.sidecar, &place, &lines).await.expect_err("no tunnel");
        assert_eq!((refused.status, refused.reason()), (421, Some("authority_mismatch")), "{lines}");
    }
    for lines in ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nContent-Length: 1\r\n"] {
        let refused = tunnel_with(&scene.sidecar, &place, lines).await.expect_err("no tunnel");
        assert_eq!((refused.status, refused.reason()), (400, Some("malformed_head")), "{lines}");
    }
    // CONNECT against the name in TLS.
    let socket = tunnel(&scene.sidecar, &place).await.expect("a tunnel");
    assert!(Trust::in_pod(&scene.sidecar).shake(socket, OTHER).await.is_err());
    scene.sidecar.next_access("SNI", |line| line["http"] == "TLS" && line["reason"] == "authority_mismatch").await;
    // The name in TLS against Host, in both captures; the connection is good for the right name still.
    let mut tunnelled = inside(&scene.sidecar, NAME, scene.capture.port()).await;
    let other = Scene::start("redirect", Protocol::Tls).await;
    let mut redirected = redirected(&other.sidecar, NAME, other.capture.port()).await;
    for (agent, scene) in [(&mut tunnelled, &scene), (&mut redirected, &other)] {
        for host in [OTHER.to_owned(), format!("{OTHER}:{}", scene.capture.port()), "127.0.0.1".to_owned()] {
            agent.ask(post(rpc::list(1)).host(&host)).await.assert_refused("authority_mismatch");
        }
        let absolute = post(rpc::list(1)).target(&format!("https://{OTHER}/mcp"));
        agent.ask(absolute).await.assert_refused("authority_mismatch");
        scene.capture.assert_untouched();
        agent.ask(post(rpc::list(2))).await.assert_ok();
    }
    // Another port than the tunnel's.
    let socket = tunnel(&scene.sidecar, &format!("{NAME}:443")).await.expect("the host is bound");
    let stream = Trust::in_pod(&scene.sidecar).shake(socket, NAME).await.expect("believed");
    let mut agent = crate::support::Agent::over(stream, &place);
    agent.ask(post(rpc::list(1))).await.assert_refused("authority_mismatch");
    agent.ask(post(rpc::list(1)).host(NAME)).await.assert_refused("path_outside_binding");
    assert_eq!(scene.capture.count(), 1);
}

/// A ClientHello that hides its name, or has none: nobody can say where it would go.
#[tokio::test]
async fn hidden_and_missing_names_are_refused() {
    for kind in ["proxy", "redirect"] {
        let scene = Scene::start(kind, Protocol::Tls).await;
        let hello = hidden(NAME);
        let unnamed = hello_of("127.0.0.1");
        for hello in [hello, unnamed] {
            let mut socket = match kind {
                "proxy" => tunnel(&scene.sidecar, &scene.place()).await.expect("a tunnel"),
                _ => connect(&scene.sidecar).await,
            };
            socket.write_all(&hello).await.expect("a fresh socket");
            assert_eq!(ended(&mut socket).await, [21, 3, 3, 0, 2, 2, 49], "access_denied");
            refused(&scene, "authority_mismatch").await;
        }
        scene.capture.assert_untouched();
    }
}

/// Everything the socket still says.
async fn ended(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    within("the end", socket.read_to_end(&mut bytes)).await.expect("a proper end");
    bytes
}

fn hello_of(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    written(
        config.expect("versions").with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(),
        name,
    )
}

/// With an extension that could hold another name (GREASE looks like the real one: RFC 9849 section 6.2).
fn hidden(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let suite = rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_128;
    let (key, _) = suite.generate_key_pair().expect("a key");
    let grease = EchMode::Grease(EchGreaseConfig::new(suite, key));
    let config = rustls::ClientConfig::builder_with_provider(provider).with_ech(grease).expect("versions");
    written(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(), name)
}

fn written(config: rustls::ClientConfig, name: &str) -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory takes it");
    bytes
}

/// TLS 1.1 and older, a client that does not trust the pod's CA, one that leaves in the middle.
#[tokio::test]
async fn tls_that_fails_is_told() {
    for kind in ["proxy", "redirect"] {
        let scene = Scene::start(kind, Protocol::Tls).await;
        let open = async || match kind {
            "proxy" => tunnel(&scene.sidecar, &scene.place()).await.expect("a tunnel"),
            _ => connect(&scene.sidecar).await,
        };
        let mut socket = open().await;
        socket.write_all(&old_hello(NAME)).await.expect("a fresh socket");
        let alert = ended(&mut socket).await;
        assert_eq!((alert[0], alert[5], alert[6]), (21, 2, 70), "protocol_version: {alert:?}");
        let line = refused(&scene, "agent_tls").await;
        assert!(line["detail"].as_str().is_some_and(|detail| detail.contains("Tls12NotOffered")), "{line}");

        let foreign = Capture::start(Protocol::Tls).await;
        assert!(Trust::in_pem(foreign.ca_pem().as_bytes()).shake(open().await, NAME).await.is_err());
        let line = refused(&scene, "agent_tls").await;
        assert!(line["detail"].as_str().is_some_and(|detail| detail.contains("UnknownCA")), "{line}");

        let mut socket = open().await;
        socket.write_all(&hello_of(NAME)).await.expect("a fresh socket");
        drop(socket);
        refused(&scene, "agent_tls").await;
        scene.capture.assert_untouched();
    }
}

/// TLS 1.1 by hand: no library here speaks it any more.
fn old_hello(name: &str) -> Vec<u8> {
    let vector = |width: usize, bytes: &[u8]| [&bytes.len().to_be_bytes()[8 - width..], bytes].concat();
    let list = vector(2, &[vec![0], vector(2, name.as_bytes())].concat());
    let named = [vec![0, 0], vector(2, &list)].concat();
    let signed = [vec![0, 13], vector(2, &vector(2, &[4, 1, 2, 1]))].concat();
    let extensions = vector(2, &[named, signed].concat());
    let body =
        [vec![3, 2], vec![7; 32], vector(1, &[]), vector(2, &[0xc0, 0x13, 0, 0x2f]), vector(1, &[0]), extensions];
    let message = [vec![1], vector(3, &body.concat())].concat();
    [vec![22, 3, 1], vector(2, &message)].concat()
}

/// A server that demands a certificate of the client gets none, and no call.
#[tokio::test]
async fn a_server_that_demands_a_certificate_gets_no_call() {
    let scene = Scene::of("proxy", Capture::for_the_certified().await, json!([]), |binding| binding).await;
    let mut agent = inside(&scene.sidecar, NAME, scene.capture.port()).await;
    let answer = agent.ask(post(rpc::list(1))).await;
    // With TLS 1.3 it says so after the handshake, and its line may be cut before that is read.
    assert!(matches!(answer.reason(), Some("upstream_tls" | "upstream_unreachable")), "{}", answer.text());
    assert_eq!((answer.status, scene.capture.count()), (502, 0));
}

/// Dot segments, encoded slashes, other methods: the rules of the endpoint hold inside TLS as well.
#[tokio::test]
async fn requests_inside_are_as_strict() {
    let scene = Scene::start("redirect", Protocol::Tls).await;
    for (line, reason) in [
        ("POST /mcp/../mcp", "malformed_head"),
        ("POST /mcp%2f", "malformed_head"),
        ("POST //mcp", "malformed_head"),
        ("POST /other", "path_outside_binding"),
        ("PUT /mcp", "not_mcp"),
        ("TRACE /mcp", "not_mcp"),
    ] {
        let (method, target) = line.split_once(' ').expect("two words");
        let mut agent = redirected(&scene.sidecar, NAME, scene.capture.port()).await;
        let message = post(rpc::list(1)).target(target).bytes(&scene.place());
        let message = [method.as_bytes(), message.strip_prefix(b"POST").expect("a POST")].concat();
        agent.send(&message).await;
        agent.response().await.assert_refused(reason);
    }
    scene.capture.assert_untouched();
}
