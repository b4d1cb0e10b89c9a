//! Who gets a stream, and whose it is: the token matrix.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::client;
use crate::suite::broker::{Broker, Setup, account as key};
use crate::suite::capture::{Capture, Protocol};
use crate::suite::documents::Binding;
use crate::suite::message::rpc;
use crate::suite::observed::within;
use crate::suite::reader::{Question, Reader};
use crate::suite::secrets::unique_secret;
use crate::suite::sidecar::Sidecar;
use crate::support::ApiServer;
use crate::support::pod::{Pod, account, token};

const OURS: &str = "postern.dev/broker";

/// A broker that asks the API server, with the least rights; its namespace.
async fn broker(mut setup: Setup) -> Broker {
    let server = ApiServer::start();
    let namespace = server.namespace("broker");
    setup.review = Some(Arc::new(client(server, &namespace, true).await));
    setup.start().await
}

/// A binding named `name` with a value.
fn binding(name: &str) -> Binding {
    Binding::new(name).url("https://h.example/mcp").token(unique_secret())
}

/// Gives a pod's account a binding of this name.
fn give(broker: &Broker, pod: &Pod, name: &str) {
    broker.give_to(&key(&pod.namespace, &pod.account), vec![broker.item(&binding(name))]);
}

/// The seconds since 1970 at which a token ends, as it says itself.
fn end(token: &str) -> u64 {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("three parts")).expect("base64");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    claims["exp"].as_u64().expect("an end")
}

/// One letter of the signature is another one.
fn forged(token: &str) -> String {
    let (head, signature) = token.rsplit_once('.').expect("three parts");
    let other = if signature.starts_with('A') { "B" } else { "A" };
    format!("{head}.{other}{}", signature.get(1..).expect("it is ASCII"))
}

/// The claims of another pod over the signature of this one.
fn swapped(mine: &str, other: &str) -> String {
    let part = |token: &str, at: usize| token.split('.').nth(at).expect("three parts").to_owned();
    format!("{}.{}.{}", part(mine, 0), part(other, 1), part(mine, 2))
}

/// An answer's body.
async fn read(response: Response<Incoming>) -> String {
    let body = within("the body", response.into_body().collect()).await.expect("a body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

/// The matrix: every kind of token there is, and what becomes of it. All answers to bad ones are
/// the same.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_pods_token_for_the_broker_is_accepted() {
    let server = ApiServer::start();
    let broker = broker(Setup::default()).await;
    let pod = Pod::alone(server, "matrix");
    account(server, &pod.namespace, "other");
    let other = Pod::create(server, &pod.namespace, "other", "other");
    give(&broker, &pod, "mine");
    give(&broker, &other, "others");
    let of_pod = |audiences: &[&str]| pod.token(audiences);
    let unbound = |audience: &str| token(server, &pod.namespace, "agent", json!({"audiences": [audience]}));
    let api = "https://kubernetes.default.svc.cluster.local";

    let mut reader = Reader::connect(&broker).await;
    for (good, expected) in
        [(of_pod(&[OURS]), "mine"), (of_pod(&[OURS, "vault.example"]), "mine"), (other.token(&[OURS]), "others")]
    {
        broker.note(&good);
        assert_eq!(reader.open(&good).await.bindings().await, [expected]);
    }
    // Not shown before: the API server itself remembers a yes for ten seconds.
    let doomed = Pod::create(server, &pod.namespace, "agent", "doomed");
    let orphan = doomed.token(&[OURS]);
    doomed.delete();
    account(server, &pod.namespace, "short-lived");
    let homeless = Pod::create(server, &pod.namespace, "short-lived", "homeless").token(&[OURS]);
    server.kubectl(&["delete", "serviceaccount", "short-lived", "--namespace", &pod.namespace]);

    let rows = [
        ("another audience", of_pod(&["vault.example"]), "token_rejected"),
        ("the API server's own", of_pod(&[api]), "token_rejected"),
        ("the API server's by default", token(server, &pod.namespace, "agent", json!({})), "token_rejected"),
        ("much like ours", of_pod(&["postern.dev/broker/"]), "token_rejected"),
        ("bound to no pod", unbound(OURS), "not_a_pod"),
        ("of a pod that is gone", orphan, "token_rejected"),
        ("of an account that is gone", homeless, "token_rejected"),
        ("with a forged signature", forged(&of_pod(&[OURS])), "token_rejected"),
        ("with another's claims", swapped(&of_pod(&[OURS]), &other.token(&[OURS])), "token_rejected"),
        ("of no API server", "eyJhbGciOiJub25lIn0.e30.".to_owned(), "token_rejected"),
        ("no token", "x".to_owned(), "token_rejected"),
    ];
    for (what, bad, reason) in rows {
        let labels = [("reason", reason)];
        let before = broker.metrics().sum("postern_broker_refusals_total", &labels);
        let response = reader.ask(Question::with(&bad)).await;
        assert_eq!(response.status(), 401, "{what}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer", "{what}");
        assert_eq!(read(response).await, "unauthenticated", "{what}");
        let after = broker.metrics().sum("postern_broker_refusals_total", &labels);
        assert_eq!(after - before, 1.0, "{what} counts as {reason}");
    }
    assert_eq!(broker.metrics().sum("postern_broker_token_reviews_total", &[("result", "rejected")]), 11.0);
    assert_eq!(broker.metrics().sum("postern_broker_token_reviews_total", &[("result", "failed")]), 0.0);
}

/// Nothing but the token says whose view is shown: no header that some proxy or API server heeds.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_token_says_whose_view_it_is() {
    let server = ApiServer::start();
    let broker = broker(Setup::default()).await;
    let pod = Pod::alone(server, "claims");
    account(server, &pod.namespace, "victim");
    let victim = Pod::create(server, &pod.namespace, "victim", "victim");
    give(&broker, &pod, "mine");
    give(&broker, &victim, "victims");
    let (mine, name) = (pod.token(&[OURS]), format!("system:serviceaccount:{}:victim", pod.namespace));
    let mut reader = Reader::connect(&broker).await;
    let claims = [
        ("impersonate-user", name.as_str()),
        ("impersonate-group", "system:masters"),
        ("impersonate-uid", &victim.uid),
        ("x-remote-user", &name),
        ("x-remote-extra-authentication.kubernetes.io%2fpod-name", "victim"),
        ("x-forwarded-user", &name),
        ("x-forwarded-for", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1"),
        ("x-postern-service-account", "victim"),
        ("x-original-url", "/v1/credentials/victim"),
        ("cookie", "account=victim"),
        ("proxy-authorization", &format!("Bearer {}", victim.token(&[OURS]))),
        ("host", "victim"),
    ];
    let question = claims.iter().fold(Question::with(&mine), |question, (name, value)| question.header(name, value));
    let response = reader.ask(question).await;
    assert_eq!(response.status(), 200);
    assert_eq!(crate::suite::reader::Lines::of(response).bindings().await, ["mine"]);
    for (name, value) in claims {
        let response = reader.ask(Question::with(&mine).header(name, value)).await;
        assert_eq!(crate::suite::reader::Lines::of(response).bindings().await, ["mine"], "{name}");
    }
    // Two tokens are one too many, whichever comes first.
    let both = Question::with(&mine).header("authorization", &format!("Bearer {}", victim.token(&[OURS])));
    assert_eq!(reader.refused(both).await.0, 401);
}

/// The broker's time of day, which a test sets.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    fn setup(&self) -> Setup {
        let hand = self.clone();
        let clock = move || SystemTime::UNIX_EPOCH + Duration::from_secs(hand.0.load(Ordering::Relaxed));
        Setup { clock: Arc::new(clock), ..Setup::default() }
    }
}

/// An API server's token lasts ten minutes at least; so the broker's clock is turned instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let hand = Hand::default();
    let mut setup = hand.setup();
    setup.settings.admission.remember = Duration::from_secs(60);
    let broker = broker(setup).await;
    let pod = Pod::alone(ApiServer::start(), "expiry");
    let token = pod.token(&[OURS]);
    let end = end(&token);
    hand.set(end - 2);
    let mut reader = Reader::connect(&broker).await;
    let mut lines = reader.open(&token).await;
    let hello = lines.next().await.expect("a first line");
    assert_eq!(hello["lifeMs"], 2000, "no longer than the token");
    lines.until("goodbye").await;
    while lines.next().await.is_some() {}
    broker.until("postern_broker_stream_ends_total", &[("cause", "token_expired")], 1.0).await;
    // Remembered or not: its time is over.
    for now in [end, end + 1, end + 3600] {
        hand.set(now);
        assert_eq!(reader.refused(Question::with(&token)).await, (401, "unauthenticated".into()));
    }
    assert_eq!(broker.metrics().sum("postern_broker_refusals_total", &[("reason", "token_expired")]), 3.0);
    assert_eq!(broker.metrics().sum("postern_broker_token_reviews_total", &[("result", "accepted")]), 1.0);
}

/// Without the right to review, and without an API server, nobody is let in and nobody is blamed.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_no_yes() {
    let server = ApiServer::start();
    let pod = Pod::alone(server, "unanswered");
    let unable = client(server, &server.namespace("broker"), false).await;
    // Nobody listens there: the port was free a moment ago, and is below those that are given out.
    let nowhere = kube::Config::new("https://127.0.0.1:1/".parse().expect("a URL"));
    let nowhere = kube::Client::try_from(nowhere).expect("a client");
    for review in [unable, nowhere] {
        let broker = Setup { review: Some(Arc::new(review)), ..Setup::default() }.start().await;
        let mut reader = Reader::connect(&broker).await;
        let refused = reader.refused(Question::with(&pod.token(&[OURS]))).await;
        assert_eq!(refused, (503, "review_failed".into()));
        assert_eq!(broker.metrics().sum("postern_broker_token_reviews_total", &[("result", "failed")]), 1.0);
    }
}

/// Two service accounts, one Secret each, the same server: each sidecar sends its own, whatever it
/// is told about itself.
#[tokio::test(flavor = "multi_thread")]
async fn two_accounts_never_get_each_others_credential() {
    let server = ApiServer::start();
    let broker = broker(Setup::default()).await;
    let capture = Capture::start(Protocol::Tls).await;
    let one = Pod::alone(server, "accounts");
    account(server, &one.namespace, "second");
    let two = Pod::create(server, &one.namespace, "second", "second");
    for (pod, claimed) in [(&one, &two), (&two, &one)] {
        let value = unique_secret();
        let binding = Binding::new("github").to(&capture).token(&value).in_namespace(&pod.namespace);
        broker.give_to(&key(&pod.namespace, &pod.account), vec![broker.item(&binding)]);
        let token = pod.token(&[OURS]);
        broker.note(&token);
        let sidecar = Sidecar::for_caller(&claimed.namespace, &claimed.account).with_broker(&broker);
        let sidecar = sidecar.file("token", token).start().await;
        let before = capture.count();
        sidecar.until_served("github", &["source_not_ready", "unbound_server"]).await;
        sidecar.post("github", rpc::list(1)).await.assert_ok();
        for request in &capture.requests()[before..] {
            assert_eq!(request.values("authorization"), [format!("Bearer {value}")]);
        }
    }
}
