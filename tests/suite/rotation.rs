//! New values are used at once, old streams end in time, withdrawn credentials are dead.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::agent::Piece;
use crate::support::answer::Stream;
use crate::support::files::Files;
use crate::support::refusal::{Form, Refusal};
use crate::support::{
    Agent, Answer, Binding, Capture, Message, Protocol, Sidecar, assert_refusal, awkward_secret, repeated, rpc,
    unique_secret, within,
};

/// An upstream and a sidecar with `github`, whose Secret is `github-secret`, key `token`.
struct Scene {
    capture: Capture,
    sidecar: Sidecar,
    secret: String,
}

const SECRET: &str = "github-secret";

impl Scene {
    /// With streams of an old generation allowed for this long.
    async fn with_grace(grace: &str) -> Self {
        Self::start(grace, false).await
    }

    async fn start(grace: &str, kubelet: bool) -> Self {
        let capture = Capture::start(Protocol::Tls).await;
        let secret = awkward_secret();
        let binding = Binding::new("github").to(&capture).token(&secret);
        let builder = Sidecar::for_research().binding(binding).config("rotationGrace", json!(grace));
        let builder = if kubelet { builder.kubelet_volumes() } else { builder };
        Self { capture, sidecar: builder.start().await, secret }
    }

    fn files(&self) -> &Files {
        self.sidecar.files()
    }

    /// Calls until the upstream is shown `fresh`; every call on the way carries exactly the old or
    /// the new value, and never the old one again after the new.
    async fn calls_carry(&mut self, fresh: &str) {
        let (old, fresh) = (format!("Bearer {}", self.secret), format!("Bearer {fresh}"));
        repeated("calls to carry the new value", async || {
            let value = self.carried().await;
            assert!(value == old || value == fresh, "old or new, never anything else: {value}");
            (value == fresh).then_some(())
        })
        .await;
        for _ in 0..3 {
            assert_eq!(self.carried().await, fresh);
        }
        self.secret = fresh["Bearer ".len()..].to_owned();
    }

    /// The credential line of one call.
    async fn carried(&self) -> String {
        let number = self.capture.count();
        self.sidecar.post("github", rpc::list(number)).await.assert_ok();
        self.capture.request(number).await.values("authorization").join("|")
    }

    /// Calls until one is refused, which is with `reason`; all before that pass.
    async fn calls_are_refused(&self, reason: &str) {
        self.sidecar.until_refused("github").await.assert_refused(reason);
    }

    /// Opens an event stream by GET; it is live.
    async fn open_stream(&self) -> (Stream, Agent) {
        let (stream, answer) = Answer::events();
        self.capture.next(answer);
        let mut agent = self.sidecar.agent().await;
        let head = agent.open(Message::get("github")).await;
        assert!(head.first_line.contains("200"), "{}", head.first_line);
        stream.event("hello");
        agent.until("data: hello\n\n").await;
        (stream, agent)
    }
}

/// Every way in which a file's content changes, in a row on one sidecar (T18).
#[tokio::test]
async fn each_form_of_rotation_reaches_the_next_calls() {
    let mut scene = Scene::with_grace("5m").await;
    scene.calls_carry(&scene.secret.clone()).await;
    let fresh = awkward_secret();
    scene.files().replace_secret(SECRET, "token", fresh.as_bytes());
    scene.calls_carry(&fresh).await;
    let fresh = unique_secret();
    scene.files().overwrite_secret(SECRET, "token", fresh.as_bytes());
    scene.calls_carry(&fresh).await;
    // A shorter value of another length: nothing of the old one may be left at its end.
    let fresh = unique_secret()[..24].to_owned();
    scene.files().overwrite_secret(SECRET, "token", fresh.as_bytes());
    scene.calls_carry(&fresh).await;
    let fresh = awkward_secret();
    scene.files().delete_secret_key(SECRET, "token");
    scene.files().overwrite_secret(SECRET, "token", fresh.as_bytes());
    scene.calls_carry(&fresh).await;
}

/// The kubelet's own form: a new dated directory, one rename of `..data`, the old one removed (T18).
#[tokio::test]
async fn a_kubelet_swap_reaches_the_next_calls() {
    let mut scene = Scene::start("5m", true).await;
    for _ in 0..4 {
        let fresh = awkward_secret();
        scene.files().swap_secret(SECRET, &[("token", fresh.as_bytes())]);
        scene.calls_carry(&fresh).await;
    }
}

/// A change is noticed when it happens, not when somebody looks: ten in a row take seconds together,
/// where looking every five seconds would take longer than any event may. Also where the configuration
/// and the directory are given relative to the working directory.
#[tokio::test]
async fn changes_are_noticed_by_event() {
    for relative in [false, true] {
        let capture = Capture::start(Protocol::Tls).await;
        let secret = unique_secret();
        let builder = Sidecar::for_research().binding(Binding::new("github").to(&capture).token(&secret));
        let source = json!({"file": {"directory": "bindings"}});
        let builder = if relative { builder.config("source", source).in_its_directory() } else { builder };
        let mut scene = Scene { capture, sidecar: builder.start().await, secret };
        within("ten rotations", async {
            for _ in 0..10 {
                let fresh = unique_secret();
                scene.files().replace_secret(SECRET, "token", fresh.as_bytes());
                scene.calls_carry(&fresh).await;
            }
        })
        .await;
    }
}

/// A `..data` swap is one snapshot: user name and password of a Basic credential never mix.
#[tokio::test]
async fn a_kubelet_swap_never_mixes_two_versions() {
    let capture = Capture::start(Protocol::Plain).await;
    let binding = Binding::new("github").to(&capture).basic("user-0", &unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).kubelet_volumes().start().await;
    let mut expected = Vec::new();
    for version in 1..6 {
        let (user, password) = (format!("user-{version}"), unique_secret());
        let value = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{user}:{password}"));
        let keys = [("username", user.as_bytes()), ("password", password.as_bytes())];
        sidecar.files().swap_secret(SECRET, &keys);
        expected.push(format!("Basic {value}"));
        repeated("the new pair at the upstream", async || {
            let number = capture.count();
            sidecar.post("github", rpc::list(1)).await.assert_ok();
            (capture.request(number).await.values("authorization") == [expected[version - 1].as_str()]).then_some(())
        })
        .await;
    }
    let mut seen: Vec<String> = capture.requests().iter().map(|r| r.values("authorization").join("|")).collect();
    seen.dedup();
    assert_eq!(seen[seen.len() - 5..], expected, "no value between two versions was ever sent");
    assert!(seen.len() <= 6, "{seen:?}");
}

/// T18: a stream opened with the old value goes on within the grace while new calls carry the new one.
#[tokio::test]
async fn an_old_stream_goes_on_within_the_grace() {
    let mut scene = Scene::with_grace("1h").await;
    let (stream, mut agent) = scene.open_stream().await;
    let fresh = unique_secret();
    scene.files().replace_secret(SECRET, "token", fresh.as_bytes());
    scene.calls_carry(&fresh).await;
    stream.event("still here");
    agent.until("data: still here\n\n").await;
    stream.finish();
    assert_eq!(agent.drained().await, Piece::End);
    let line = scene.sidecar.next_access("the stream", |line| line["http"] == "GET").await;
    assert_eq!(line["outcome"], "ok", "{line}");
}

/// T18: after the grace the old stream ends, at both sides, and says why; new ones are not touched.
#[tokio::test]
async fn an_old_stream_ends_after_the_grace() {
    let mut scene = Scene::with_grace("1s").await;
    let (_old, mut agent) = scene.open_stream().await;
    let fresh = unique_secret();
    scene.files().replace_secret(SECRET, "token", fresh.as_bytes());
    scene.calls_carry(&fresh).await;
    let (new, mut second) = scene.open_stream().await;
    agent.drained().await;
    scene.capture.abandoned(0).await;
    let line = scene.sidecar.next_access("the old stream", |line| line["http"] == "GET").await;
    assert_eq!(line["outcome"], "rotated", "{line}");
    new.event("new");
    second.until("data: new\n\n").await;
}

/// Deleting the key, or the whole Secret, revokes: no new call, and the live stream is closed.
#[tokio::test]
async fn deletion_revokes_calls_and_streams() {
    for whole in [false, true] {
        let scene = Scene::with_grace("1h").await;
        let (_stream, mut agent) = scene.open_stream().await;
        if whole {
            scene.files().delete_secret(SECRET);
        } else {
            scene.files().delete_secret_key(SECRET, "token");
        }
        scene.calls_are_refused("credential_revoked").await;
        agent.drained().await;
        scene.capture.abandoned(0).await;
        let line = scene.sidecar.next_access("the stream", |line| line["http"] == "GET").await;
        assert_eq!(line["outcome"], "revoked", "{line}");
        let refusal = Refusal { reason: "credential_revoked", server: "github", form: Form::Rpc("8") };
        assert_refusal(&scene.sidecar, &Message::post("github", rpc::list(8)).bytes("127.0.0.1"), refusal).await;
        let sent = scene.capture.requests().iter().any(|request| request.rpc_id().as_deref() == Some("8"));
        assert!(!sent, "nothing goes out after a revocation");
    }
}

/// A revocation ends the streams of every value the binding has had, not only of the last one.
#[tokio::test]
async fn deletion_revokes_the_streams_of_older_values_too() {
    let mut scene = Scene::with_grace("1h").await;
    let (_first, mut oldest) = scene.open_stream().await;
    let fresh = unique_secret();
    scene.files().replace_secret(SECRET, "token", fresh.as_bytes());
    scene.calls_carry(&fresh).await;
    let (_second, mut newest) = scene.open_stream().await;
    scene.files().delete_secret(SECRET);
    scene.calls_are_refused("credential_revoked").await;
    newest.drained().await;
    oldest.drained().await;
    scene.capture.abandoned(0).await;
}

/// A call that waits for its answer when the credential is withdrawn is given up at once, and told why.
#[tokio::test]
async fn a_revocation_ends_a_call_that_waits_for_its_answer() {
    let scene = Scene::with_grace("1h").await;
    scene.capture.next(Answer::Never);
    let mut agent = scene.sidecar.agent().await;
    agent.send(&Message::post("github", rpc::call(7, "slow")).bytes("127.0.0.1")).await;
    scene.capture.request(0).await;
    scene.files().delete_secret(SECRET);
    scene.calls_are_refused("credential_revoked").await;
    Refusal { reason: "credential_revoked", server: "github", form: Form::Rpc("7") }
        .assert_answer(&agent.response().await);
    scene.capture.abandoned(0).await;
}

/// A value that becomes invalid is withdrawn like a deleted one: never the old value for ever.
#[tokio::test]
async fn an_invalid_new_value_revokes() {
    let scene = Scene::with_grace("1h").await;
    let (_stream, mut agent) = scene.open_stream().await;
    scene.files().replace_secret(SECRET, "token", format!("{}\r\nX: y", unique_secret()).as_bytes());
    let response = scene.sidecar.until_refused("github").await;
    assert!(matches!(response.reason(), Some("credential_revoked" | "credential_invalid")), "{}", response.text());
    agent.drained().await;
    scene.capture.abandoned(0).await;
}

/// A Secret that comes back is served again.
#[tokio::test]
async fn a_revoked_credential_that_returns_is_served() {
    let scene = Scene::with_grace("1h").await;
    scene.files().delete_secret(SECRET);
    scene.calls_are_refused("credential_revoked").await;
    let fresh = unique_secret();
    scene.files().replace_secret(SECRET, "token", fresh.as_bytes());
    scene.sidecar.until_served("github", &["credential_revoked"]).await;
    // Not the next one after the refusal: that may be a call that was under way when its credential went.
    let last = scene.capture.requests().pop().expect("a call was served");
    assert_eq!(last.values("authorization"), [format!("Bearer {fresh}")]);
}

/// Editors and volume plugins remove and re-create: an absence well under 500 ms is no revocation.
#[tokio::test]
async fn a_short_absence_does_not_revoke() {
    let mut scene = Scene::with_grace("1h").await;
    let (stream, mut agent) = scene.open_stream().await;
    for _ in 0..5 {
        let fresh = unique_secret();
        let since = Instant::now();
        scene.files().delete_secret_key(SECRET, "token");
        scene.sidecar.metrics().await;
        scene.files().overwrite_secret(SECRET, "token", fresh.as_bytes());
        if since.elapsed() > Duration::from_millis(250) {
            // This machine was too slow for the absence to be short: nothing can be said.
            return;
        }
        scene.calls_carry(&fresh).await;
    }
    stream.event("alive");
    agent.until("data: alive\n\n").await;
}

/// A binding removed at run time is withdrawn with its streams; one that comes back is served.
#[tokio::test]
async fn a_removed_binding_is_revoked_and_may_return() {
    let scene = Scene::with_grace("1h").await;
    let (_stream, mut agent) = scene.open_stream().await;
    let document = std::fs::read(scene.files().path("bindings/github.yaml")).expect("the document is there");
    scene.files().remove_document("github");
    scene.calls_are_refused("credential_revoked").await;
    agent.drained().await;
    scene.capture.abandoned(0).await;
    scene.files().write("bindings/github.yaml", document);
    scene.sidecar.until_served("github", &["credential_revoked"]).await;
}

/// A binding that becomes undecodable is revoked, not kept as it was.
#[tokio::test]
async fn a_binding_that_becomes_invalid_is_revoked() {
    for broken in ["kind: CredentialBinding\nspec: {}\n", "{not yaml", "", "\u{0}"] {
        let scene = Scene::with_grace("1h").await;
        let (_stream, mut agent) = scene.open_stream().await;
        scene.files().write("bindings/github.yaml", broken);
        scene.calls_are_refused("credential_revoked").await;
        agent.drained().await;
        scene.capture.abandoned(0).await;
    }
}

/// A binding changed at run time counts from the next call on: here its service accounts.
#[tokio::test]
async fn a_binding_that_drops_this_caller_is_revoked() {
    let scene = Scene::with_grace("1h").await;
    let changed = Binding::new("github").to(&scene.capture).set("/serviceAccounts", json!(["someone-else"]));
    scene.files().document(&changed);
    scene.calls_are_refused("credential_revoked").await;
}

/// A binding added at run time is served without a restart; the others do not notice.
#[tokio::test]
async fn a_new_binding_is_served_at_run_time() {
    let scene = Scene::with_grace("1h").await;
    let (stream, mut agent) = scene.open_stream().await;
    let secret = unique_secret();
    let added = Binding::new("jira").to(&scene.capture).url(&scene.capture.url("/jira")).token(&secret);
    scene.files().add(&added);
    let number = scene.capture.count();
    scene.sidecar.until_served("jira", &["unbound_server", "no_credential"]).await;
    assert_eq!(scene.capture.request(number).await.values("authorization"), [format!("Bearer {secret}")]);
    stream.event("undisturbed");
    agent.until("data: undisturbed\n\n").await;
}

/// Design section 5: an upstream 401 to a value that has been replaced meanwhile is answered by one
/// more try with the new value, same body, and no third.
#[tokio::test]
async fn a_401_to_an_old_value_is_retried_once_with_the_new() {
    for second_passes in [true, false] {
        let mut scene = Scene::with_grace("1h").await;
        let old = scene.secret.clone();
        let (give, answer) = Answer::later();
        scene.capture.next(answer);
        let mut agent = scene.sidecar.agent().await;
        let body = rpc::call("held", "search");
        agent.send(&Message::post("github", body.as_str()).bytes("127.0.0.1")).await;
        scene.capture.request(0).await;
        let fresh = unique_secret();
        scene.files().replace_secret(SECRET, "token", fresh.as_bytes());
        scene.calls_carry(&fresh).await;
        if !second_passes {
            scene.capture.always(|_| Answer::unauthorized());
        }
        assert!(give.send(Answer::unauthorized()).is_ok(), "the upstream still waits");
        let response = agent.response().await;
        if second_passes {
            response.assert_ok();
        } else {
            response.assert_refused("upstream_auth_rejected");
        }
        let requests = scene.capture.requests();
        let tries: Vec<_> = requests.iter().filter(|request| request.body == body.as_bytes()).collect();
        let values: Vec<_> = tries.iter().map(|request| request.values("authorization").join("|")).collect();
        assert_eq!(values, [format!("Bearer {old}"), format!("Bearer {fresh}")], "one retry, with the new value");
    }
}

/// A 403 is an answer, not a hint: never retried, also with a newer value at hand.
#[tokio::test]
async fn a_403_is_never_retried() {
    let mut scene = Scene::with_grace("1h").await;
    let (give, answer) = Answer::later();
    scene.capture.next(answer);
    let mut agent = scene.sidecar.agent().await;
    let body = rpc::call("held", "search");
    agent.send(&Message::post("github", body.as_str()).bytes("127.0.0.1")).await;
    scene.capture.request(0).await;
    let fresh = unique_secret();
    scene.files().replace_secret(SECRET, "token", fresh.as_bytes());
    scene.calls_carry(&fresh).await;
    assert!(give.send(Answer::full(403, &[], "no")).is_ok(), "the upstream still waits");
    assert_eq!(agent.response().await.status, 403);
    let tries = scene.capture.requests().iter().filter(|request| request.body == body.as_bytes()).count();
    assert_eq!(tries, 1);
}

/// The metrics prove a rotation: generation up by one per value, age small again, Secret named in the log.
#[tokio::test]
async fn a_rotation_shows_in_metrics_and_log() {
    let mut scene = Scene::with_grace("1h").await;
    let labels = [("server", "github")];
    let before = scene.sidecar.metric("postern_credential_generation", &labels).await;
    let fresh = unique_secret();
    scene.files().replace_secret(SECRET, "token", fresh.as_bytes());
    scene.calls_carry(&fresh).await;
    assert_eq!(scene.sidecar.metric("postern_credential_generation", &labels).await, before + 1.0);
    let line = scene.sidecar.next_access("a call with the new value", |line| line["generation"] == before + 1.0).await;
    assert_eq!(line["secret"], SECRET, "{line}");
}
