//! The stream between the two: changes at once, a renewal without a gap, silence noticed.

use std::time::Duration;

use postern::control::broker::Times;
use serde_json::json;

use crate::support::agent::Piece;
use crate::support::answer::Stream;
use crate::support::broker::{TIMES, account};
use crate::support::refusal::{Form, Refusal};
use crate::support::{
    Agent, Answer, Binding, Broker, Capture, Message, Protocol, Sidecar, assert_refusal, repeated, rpc, unique_secret,
};

struct Scene {
    capture: Capture,
    broker: Broker,
    sidecar: Sidecar,
}

const SECOND: Duration = Duration::from_secs(1);
/// Silence is noticed in no time.
const QUICK: Times = Times { heartbeat: Duration::from_millis(200), ..TIMES };

impl Scene {
    async fn with(times: Times, max_stale: &str) -> Self {
        let (capture, broker) = (Capture::start(Protocol::Tls).await, Broker::with(times).await);
        let sidecar = Sidecar::for_research().stale_after(&broker, max_stale).start().await;
        let scene = Self { capture, broker, sidecar };
        scene.broker.give(vec![scene.broker.item(&scene.binding(&unique_secret()))]);
        scene.sidecar.until_served("github", &["source_not_ready", "unbound_server"]).await;
        scene
    }

    async fn start() -> Self {
        Self::with(TIMES, "1h").await
    }

    /// An event stream through the sidecar.
    async fn open_stream(&self) -> (Stream, Agent) {
        let (stream, answer) = Answer::events();
        self.capture.next(answer);
        let mut agent = self.sidecar.agent().await;
        agent.open(Message::get("github")).await;
        stream.event("hello");
        agent.until("data: hello\n\n").await;
        (stream, agent)
    }

    fn binding(&self, value: &str) -> Binding {
        Binding::new("github").to(&self.capture).token(value)
    }

    /// The value that one call carries.
    async fn carried(&self) -> String {
        let number = self.capture.count();
        self.sidecar.post("github", rpc::list(number)).await.assert_ok();
        self.capture.request(number).await.values("authorization").join("|")
    }

    async fn rotate(&self) {
        let fresh = unique_secret();
        self.broker.give(vec![self.broker.item(&self.binding(&fresh))]);
        let expected = format!("Bearer {fresh}");
        repeated("the new value", async || (self.carried().await == expected).then_some(())).await;
    }
}

/// A new value is used at once and its lag is told; what is withdrawn ends, and comes back.
#[tokio::test]
async fn each_change_is_in_force_at_once() {
    let scene = Scene::start().await;
    scene.rotate().await;
    scene.rotate().await;
    assert_eq!(scene.sidecar.metric("postern_credential_generation", &[("server", "github")]).await, 3.0);
    let lag = scene.sidecar.metrics().await;
    assert!(lag.series().iter().any(|series| series.starts_with("postern_credential_rotation_lag_seconds")));
    let (_stream, mut agent) = scene.open_stream().await;
    scene.broker.give(Vec::new());
    assert_eq!(agent.drained().await, Piece::End);
    scene.sidecar.post("github", rpc::list(1)).await.assert_refused("credential_revoked");
    scene.sidecar.next_access("the stream", |line| line["outcome"] == "revoked").await;
    scene.broker.give(vec![scene.broker.item(&scene.binding(&unique_secret()))]);
    scene.sidecar.until_served("github", &["credential_revoked"]).await;
    assert_eq!(scene.broker.metrics().sum("postern_broker_sessions", &[]), 1.0);
}

/// The broker goes away, by death or by shutdown, and comes back, under load: not one call fails,
/// and what changed meanwhile is in force after it.
#[tokio::test]
async fn calls_go_on_while_the_broker_is_away() {
    let mut scene = Scene::start().await;
    for drained in [false, true] {
        if drained {
            scene.broker.drain().await;
        } else {
            scene.broker.die();
        }
        scene.sidecar.diagnostic("the broker is not heard").await;
        for _ in 0..20 {
            scene.carried().await;
        }
        assert_eq!(scene.sidecar.metric("postern_source_connected", &[]).await, 0.0);
        scene.broker.run().await;
        scene.rotate().await;
        assert_eq!(scene.sidecar.metric("postern_source_connected", &[]).await, 1.0);
    }
    assert_eq!(scene.sidecar.metric("postern_refusals_total", &[("server", "github")]).await, 0.0);
}

/// Not heard for too long: calls are refused, streams end, no byte goes out; and all is well again
/// with the next snapshot, with the same generation.
#[tokio::test]
async fn what_is_stale_is_not_used() {
    let mut scene = Scene::with(QUICK, "3s").await;
    let (_stream, mut agent) = scene.open_stream().await;
    scene.broker.die();
    assert_eq!(agent.drained().await, Piece::End);
    scene.sidecar.next_access("the stream", |line| line["outcome"] == "barred").await;
    let seen = scene.capture.count();
    let refusal = Refusal { reason: "credential_stale", server: "github", form: Form::Rpc("7") };
    let message = Message::post("github", rpc::list(7)).bytes("127.0.0.1");
    assert_refusal(&scene.sidecar, &message, refusal).await;
    assert_eq!(scene.sidecar.metric("postern_credential_usable", &[("server", "github")]).await, 0.0);
    assert_eq!(scene.capture.count(), seen, "the upstream saw nothing");
    scene.broker.run().await;
    scene.sidecar.until_served("github", &["credential_stale"]).await;
    assert_eq!(scene.sidecar.metric("postern_credential_generation", &[("server", "github")]).await, 1.0);
}

/// A broker that has lost the cluster vouches for nothing: it sends no heartbeat, and the sidecar
/// looks for another one.
#[tokio::test]
async fn a_broker_that_does_not_hear_the_cluster_is_not_heard() {
    let scene = Scene::with(QUICK, "1h").await;
    scene.broker.synced(false);
    scene.sidecar.diagnostic("nothing was heard of the broker").await;
    scene.broker.until("postern_broker_refusals_total", &[("reason", "source_not_ready")], 1.0).await;
    scene.carried().await;
    scene.broker.synced(true);
    scene.rotate().await;
}

/// A stream is renewed before it ends, and the old one goes only then: there is no moment without.
#[tokio::test]
async fn a_renewal_leaves_no_gap() {
    let scene = Scene::with(Times { heartbeat: 60 * SECOND, life: 6 * SECOND, ..TIMES }, "1h").await;
    let ended = [("cause", "closed")];
    for number in 1..3 {
        scene.broker.until("postern_broker_stream_ends_total", &ended, f64::from(number)).await;
        scene.rotate().await;
    }
    let text = scene.sidecar.diagnostics();
    assert!(!text.contains("the broker is not heard"), "{text}");
    let ends = scene.broker.metrics();
    assert_eq!(ends.sum("postern_broker_stream_ends_total", &[]), ends.sum("postern_broker_stream_ends_total", &ended));
    assert!(scene.sidecar.metric("postern_source_connects_total", &[("result", "ok")]).await >= 3.0);
}

/// A stream is for one account, whatever else there is.
#[tokio::test]
async fn another_accounts_bindings_do_not_exist() {
    let scene = Scene::start().await;
    let other = scene.binding(&unique_secret()).object_name("other").set("/server/name", json!("other"));
    scene.broker.give_to(&account("research", "other-agent"), vec![scene.broker.item(&other)]);
    scene.rotate().await;
    scene.sidecar.post("other", rpc::list(1)).await.assert_refused("unbound_server");
}

/// Only the broker's own authority is believed, and only for its name.
#[tokio::test]
async fn another_authority_is_not_believed() {
    let (broker, other) = (Broker::start().await, Broker::start().await);
    let sidecar = Sidecar::for_research().with_broker(&broker).file("broker-ca.pem", other.ca()).start().await;
    sidecar.diagnostic("TLS with the broker failed").await;
    let named = format!("https://broker.localhost:{}", broker.address().port());
    let misnamed = Sidecar::for_research().with_broker(&broker).broker_field("url", json!(named)).start().await;
    misnamed.diagnostic("TLS with the broker failed").await;
    for sidecar in [&sidecar, &misnamed] {
        sidecar.post("github", rpc::list(1)).await.assert_refused("source_not_ready");
        assert!(sidecar.metric("postern_source_connects_total", &[("result", "tls")]).await >= 1.0);
    }
    // The present authority and the next one, in any order, are both trusted.
    let both = format!("{}{}", other.ca(), broker.ca());
    let sidecar = Sidecar::for_research().with_broker(&broker).file("broker-ca.pem", both).start().await;
    repeated("the first snapshot", async || (sidecar.admin("/started").await.status == 200).then_some(())).await;
}

/// As the injection starts it: one argument, no file of settings. It writes `mcp.json`, and
/// loopback, which is the agent itself, is never an upstream.
#[tokio::test]
async fn a_pods_sidecar_needs_nothing_but_its_variables() {
    let capture = Capture::start(Protocol::Tls).await;
    let broker = Broker::start().await;
    broker.give(vec![broker.item(&Binding::new("github").to(&capture).token(unique_secret()))]);
    let sidecar = Sidecar::for_research().in_pod(&broker).environment("POSTERN_SERVERS", "github,none").start().await;
    repeated("the first snapshot", async || (sidecar.admin("/started").await.status == 200).then_some(())).await;
    let text = std::fs::read_to_string(sidecar.files().path("public/mcp.json")).unwrap();
    assert!(text.contains(&format!("http://127.0.0.1:{}/github", sidecar.endpoint().port())), "{text}");
    sidecar.post("github", rpc::list(1)).await.assert_refused("address_forbidden");
    let line = sidecar.next_access("the call", |line| line["reason"] == "address_forbidden").await;
    assert_eq!(
        line["caller"],
        json!({"namespace": "research", "serviceAccount": "research-agent", "pod": "research-agent-0"})
    );
    assert_eq!(line["secret_version"], "7");
    let narrowed = Sidecar::for_research().in_pod(&broker).environment("POSTERN_SERVERS", "none").start().await;
    repeated("the first snapshot", async || (narrowed.admin("/started").await.status == 200).then_some(())).await;
    narrowed.post("github", rpc::list(1)).await.assert_refused("unbound_server");
    capture.assert_untouched();
}

/// The broker takes the token no more: whoever it was is nobody now, at once and for streams too.
#[tokio::test]
async fn an_identity_can_be_taken_back() {
    let mut scene = Scene::start().await;
    let (_stream, mut agent) = scene.open_stream().await;
    scene.broker.disown();
    // The stream that is open vouches for itself.
    scene.rotate().await;
    scene.broker.die();
    scene.broker.run().await;
    assert_eq!(agent.drained().await, Piece::End);
    scene.sidecar.next_access("the stream", |line| line["outcome"] == "barred").await;
    let seen = scene.capture.count();
    scene.sidecar.post("github", rpc::list(1)).await.assert_refused("unidentified_caller");
    assert_eq!(scene.capture.count(), seen);
    scene.sidecar.files().write("token", scene.broker.token());
    scene.sidecar.until_served("github", &["unidentified_caller"]).await;
}
