//! Who is let in, who is remembered, who has to wait.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt as _, StreamExt as _};
use http::HeaderValue;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use serde_json::json;

use super::super::review::{NoAnswer, Reviewing};
use super::*;

/// An API server that takes every token whose first part is `good` for the account that its third
/// part names, and counts the questions.
#[derive(Default)]
struct Stub {
    asked: AtomicUsize,
    down: bool,
}

impl Review for Stub {
    fn review<'a>(&'a self, token: &'a Token) -> Reviewing<'a> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let parts: Vec<&str> = token.text().split('.').collect();
        let user = json!({
            "username": format!("system:serviceaccount:ns:{}", parts.get(2).unwrap_or(&"")),
            "extra": {
                "authentication.kubernetes.io/pod-name": ["p"],
                "authentication.kubernetes.io/pod-uid": ["u"],
            },
        });
        let good = parts.first() == Some(&"good");
        let status = json!({"authenticated": good, "audiences": ["postern.dev/broker"], "user": user});
        let status: TokenReviewStatus = serde_json::from_value(status).unwrap();
        let answer = if self.down { Err(NoAnswer("down".into())) } else { Ok(status) };
        Box::pin(std::future::ready(answer))
    }
}

const SETTINGS: Admission = Admission {
    remember: Duration::from_secs(60),
    account: Rate { burst: 10, per_second: 1.0 },
    bad_tokens: Rate { burst: 3, per_second: 0.01 },
    streams_per_account: 2,
    reviews: 4,
};

fn token(kind: &str, account: &str, expires: u64) -> String {
    format!("{kind}.{}.{account}", URL_SAFE_NO_PAD.encode(json!({"exp": expires}).to_string()))
}

fn with(values: &[&str]) -> HeaderMap {
    values.iter().map(|value| (header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
}

struct Rig {
    admit: Admit,
    stub: Arc<Stub>,
    metrics: BrokerMetrics,
}

impl Rig {
    /// At second 1000 since 1970.
    fn new(settings: Admission, stub: Stub) -> Self {
        let stub = Arc::new(stub);
        let clock: Clock = Arc::new(|| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1000));
        let metrics = BrokerMetrics::new().unwrap();
        Self { admit: Admit::new(settings, Arc::clone(&stub) as Arc<dyn Review>, clock), stub, metrics }
    }

    async fn ask(&self, value: &str, peer: [u8; 4]) -> Result<Admitted, Refusal> {
        self.admit.admit(&with(&[&format!("Bearer {value}")]), IpAddr::from(peer), &self.metrics).await
    }

    fn asked(&self) -> usize {
        self.stub.asked.load(Ordering::Relaxed)
    }
}

const HERE: [u8; 4] = [10, 0, 0, 1];
const THERE: [u8; 4] = [10, 0, 0, 2];

#[tokio::test]
async fn only_one_bearer_token_is_looked_at() {
    let rig = Rig::new(SETTINGS, Stub::default());
    let good = token("good", "a", 2000);
    let long = format!("Bearer {}", "a".repeat(MAX_TOKEN_BYTES + 1));
    let bearer = format!("Bearer {good}");
    let rows: [&[&str]; 9] = [
        &[],
        &["Bearer"],
        &["Bearer "],
        &[&good],
        &["Basic YTpi"],
        &[&bearer, &bearer],
        &["Bearer a b"],
        &["Bearer a,b"],
        &[&long],
    ];
    for values in rows {
        let refused = rig.admit.admit(&with(values), HERE.into(), &rig.metrics).await.err();
        assert_eq!(refused, Some(Refusal::NoToken), "{values:?}");
    }
    assert_eq!(rig.asked(), 0);
    let admitted = rig.admit.admit(&with(&[&format!("bEARER {good}")]), HERE.into(), &rig.metrics).await;
    assert_eq!(admitted.ok().map(|admitted| admitted.good_for), Some(Duration::from_secs(1000)));
}

#[tokio::test]
async fn a_yes_is_remembered_and_a_no_is_not() {
    let rig = Rig::new(SETTINGS, Stub::default());
    for _ in 0..3 {
        drop(rig.ask(&token("good", "a", 2000), HERE).await.ok().unwrap());
    }
    assert_eq!(rig.asked(), 1);
    for _ in 0..3 {
        assert_eq!(rig.ask(&token("bad", "a", 2000), HERE).await.err(), Some(Refusal::TokenRejected));
    }
    assert_eq!(rig.asked(), 4);
    // The very token counts, not what it says.
    drop(rig.ask(&token("good", "a", 2001), THERE).await.ok().unwrap());
    assert_eq!(rig.asked(), 5);
    assert!(rig.admit.remembered().len() == 2, "the two that were good");
}

#[tokio::test]
async fn a_memory_ends_in_time() {
    let rig = Rig::new(Admission { remember: Duration::from_secs(86_400), ..SETTINGS }, Stub::default());
    drop(rig.ask(&token("good", "a", 2000), HERE).await.ok().unwrap());
    let digest = *rig.admit.remembered().keys().next().unwrap();
    let now = clock::now();
    assert!(rig.admit.recall(&digest, now + Duration::from_secs(59)).is_some());
    assert!(rig.admit.recall(&digest, now + Duration::from_secs(61)).is_none(), "a minute at most");
    assert!(rig.admit.remembered().is_empty());
}

#[tokio::test]
async fn a_token_that_is_over_is_refused_though_remembered() {
    let rig = Rig::new(SETTINGS, Stub::default());
    for expires in [999, 1000] {
        for _ in 0..2 {
            let refused = rig.ask(&token("good", "a", expires), HERE).await.err();
            assert_eq!(refused, Some(Refusal::TokenExpired));
        }
    }
    assert_eq!(rig.asked(), 2);
}

#[tokio::test]
async fn bad_tokens_are_limited_by_address_and_good_ones_are_not() {
    let rig = Rig::new(SETTINGS, Stub::default());
    let known = token("good", "a", 2000);
    drop(rig.ask(&known, HERE).await.ok().unwrap());
    let mut refused = Vec::new();
    for number in 0..5 {
        refused.push(rig.ask(&token("bad", "a", number), HERE).await.err().unwrap());
    }
    let rejected = [Refusal::TokenRejected; 3];
    assert_eq!(refused, [&rejected[..], &[Refusal::RateLimited; 2]].concat());
    assert_eq!(rig.asked(), 4, "the API server is spared");
    assert!(rig.ask(&known, HERE).await.is_ok(), "who is known may come");
    assert!(rig.ask(&token("good", "a", 3000), THERE).await.is_ok(), "and so may others");
}

#[tokio::test]
async fn an_account_has_a_rate_and_a_share_of_its_own() {
    let rig = Rig::new(SETTINGS, Stub::default());
    let (a, b) = (token("good", "a", 2000), token("good", "b", 2000));
    let held = [rig.ask(&a, HERE).await.ok().unwrap(), rig.ask(&a, HERE).await.ok().unwrap()];
    assert_eq!(rig.ask(&a, HERE).await.err(), Some(Refusal::TooManyStreams));
    assert!(rig.ask(&b, HERE).await.is_ok());
    drop(held);
    for _ in 0..7 {
        assert!(rig.ask(&a, HERE).await.is_ok());
    }
    assert_eq!(rig.ask(&a, HERE).await.err(), Some(Refusal::RateLimited));
    assert!(rig.ask(&b, HERE).await.is_ok());
}

#[tokio::test]
async fn no_answer_is_no_yes() {
    let rig = Rig::new(SETTINGS, Stub { down: true, ..Stub::default() });
    for _ in 0..9 {
        let refused = rig.ask(&token("good", "a", 2000), HERE).await.err();
        assert_eq!(refused, Some(Refusal::ReviewFailed), "and nobody's fault either");
    }
}

/// All could have come before the first of them was found to be bad.
#[tokio::test]
async fn bad_tokens_that_wait_together_are_limited_too() {
    let rig = Rig::new(SETTINGS, Stub::default());
    let busy = rig.admit.turns.acquire_many(4).await.unwrap();
    let tokens: Vec<String> = (0..9).map(|number| token("bad", "a", number)).collect();
    let mut asking: FuturesOrdered<_> = tokens.iter().map(|bad| rig.ask(bad, HERE)).collect();
    assert!(asking.next().now_or_never().is_none(), "all wait");
    drop(busy);
    let refused: Vec<Refusal> = asking.map(|asked| asked.err().unwrap()).collect().await;
    assert_eq!(refused, [&[Refusal::TokenRejected; 3][..], &[Refusal::RateLimited; 6]].concat());
    assert_eq!(rig.asked(), 3);
}

/// Ten thousand come at once when a broker has been away.
#[tokio::test(start_paused = true)]
async fn a_review_has_patience_and_no_more_than_its_sidecar() {
    let rig = Rig::new(SETTINGS, Stub::default());
    let good = token("good", "a", 2000);
    for (wait, refusal) in [(10, None), (20, Some(Refusal::Overloaded))] {
        let busy = rig.admit.turns.acquire_many(4).await.unwrap();
        let free = async {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            drop(busy);
        };
        let (asked, ()) = tokio::join!(rig.ask(&good, HERE), free);
        assert_eq!(asked.err(), refusal, "after {wait} s");
        rig.admit.remembered().clear();
    }
}
