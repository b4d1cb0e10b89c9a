//! Asking the API server about a token.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::{Api, PostParams};
use zeroize::Zeroizing;

use crate::api::BROKER_AUDIENCE;

/// A bearer token. Cannot be printed, and is wiped when dropped.
pub struct Token(Zeroizing<String>);

impl Token {
    pub(super) fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }

    /// The text, to be sent to the API server and nowhere else.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// The API server gave no answer: its kind, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NoAnswer(pub String);

/// A review under way.
pub type Reviewing<'a> = Pin<Box<dyn Future<Output = Result<TokenReviewStatus, NoAnswer>> + Send + 'a>>;

/// Reviews tokens.
pub trait Review: Send + Sync {
    /// Asks whether the token is good for our audience.
    fn review<'a>(&'a self, token: &'a Token) -> Reviewing<'a>;
}

/// The API server is given this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reviews by the API server. Never without the audience: then it would vouch for any token.
impl Review for kube::Client {
    fn review<'a>(&'a self, token: &'a Token) -> Reviewing<'a> {
        let spec =
            TokenReviewSpec { audiences: Some(vec![BROKER_AUDIENCE.to_owned()]), token: Some(token.text().to_owned()) };
        let mut review = TokenReview { spec, ..TokenReview::default() };
        Box::pin(async move {
            let api: Api<TokenReview> = Api::all(self.clone());
            let answer = tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &review)).await;
            // What the client made of it on the way cannot be reached.
            wipe(&mut review);
            let answer = answer.map_err(|_| NoAnswer(format!("no answer within {PATIENCE:?}")))?;
            let mut review = answer.map_err(|error| NoAnswer(kind(&error)))?;
            // The answer repeats the token.
            wipe(&mut review);
            review.status.ok_or_else(|| NoAnswer("an answer without a status".into()))
        })
    }
}

fn wipe(review: &mut TokenReview) {
    drop(review.spec.token.take().map(Zeroizing::new));
}

/// What kind of error it is. What it quotes could be of the request.
pub(in crate::control) fn kind(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("the API server says {} {}", status.code, status.reason),
        kube::Error::Service(_) | kube::Error::HyperError(_) => "the API server cannot be reached".into(),
        kube::Error::Auth(_) => "no access to the API server".into(),
        _ => "the API server's answer cannot be read".into(),
    }
}
