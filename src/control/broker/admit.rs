//! From a request to a proven pod that may have a stream now.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, header};
use tokio::sync::Semaphore;

use super::identity::{Identity, identify};
use super::limits::{Buckets, Rate, Share, Shares};
use super::refusal::Refusal;
use super::review::{Review, Token};
use crate::core::name::CallerKey;
use crate::runtime::clock::{self, Clock};
use crate::telemetry::metrics::broker::BrokerMetrics;

/// Bounds on who may come how often.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// How long a yes of the API server is remembered. Never more than a minute.
    pub remember: Duration,
    /// Streams that one service account may begin.
    pub account: Rate,
    /// Bad tokens that may come from one address.
    pub bad_tokens: Rate,
    /// Streams that one service account may have.
    pub streams_per_account: usize,
    /// Reviews under way.
    pub reviews: usize,
}

/// A yes is remembered no longer than this, whatever the settings.
const MAX_MEMORY: Duration = Duration::from_secs(60);
/// So many are remembered.
const MAX_REMEMBERED: usize = 65_536;
/// A review waits so long for its turn. Who is sent away comes again with another TLS handshake, which costs more than
/// to wait; and a sidecar waits 20 s for its answer, of which a review may take 5.
const TURN: Duration = Duration::from_secs(12);
/// No token of an API server is longer.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Lets pods in.
pub(super) struct Admit {
    settings: Admission,
    review: Arc<dyn Review>,
    clock: Clock,
    remembered: Mutex<HashMap<Digest, Remembered>>,
    by_account: Buckets<CallerKey>,
    bad_by_address: Buckets<IpAddr>,
    turns: Semaphore,
    shares: Shares<CallerKey>,
}

/// SHA-256 of a token: the token itself is never kept.
type Digest = [u8; 32];

struct Remembered {
    identity: Arc<Identity>,
    until: Instant,
}

/// A pod that may have a stream.
pub(super) struct Admitted {
    pub(super) identity: Arc<Identity>,
    /// How long its token is good.
    pub(super) good_for: Duration,
    pub(super) share: Share<CallerKey>,
}

impl Admit {
    pub(super) fn new(settings: Admission, review: Arc<dyn Review>, clock: Clock) -> Self {
        Self {
            review,
            clock,
            remembered: Mutex::default(),
            by_account: Buckets::new(settings.account),
            bad_by_address: Buckets::new(settings.bad_tokens),
            turns: Semaphore::new(settings.reviews),
            shares: Shares::new(settings.streams_per_account),
            settings,
        }
    }

    /// Looks at nothing of the request but its bearer token.
    pub(super) async fn admit(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
        metrics: &BrokerMetrics,
    ) -> Result<Admitted, Refusal> {
        let token = bearer(headers).ok_or(Refusal::NoToken)?;
        let digest = digest_of(&token);
        let identity = match self.recall(&digest, clock::now()) {
            Some(identity) => {
                metrics.reviewed("remembered");
                identity
            }
            None => self.ask(&token, digest, peer, metrics).await?,
        };
        drop(token);
        let left = identity.expires.duration_since((self.clock)()).unwrap_or_default();
        if left.is_zero() {
            return Err(Refusal::TokenExpired);
        }
        if !self.by_account.take(&identity.account, clock::now()) {
            return Err(Refusal::RateLimited);
        }
        let share = self.shares.take(&identity.account).ok_or(Refusal::TooManyStreams)?;
        Ok(Admitted { good_for: left, share, identity })
    }

    async fn ask(
        &self,
        token: &Token,
        digest: Digest,
        peer: IpAddr,
        metrics: &BrokerMetrics,
    ) -> Result<Arc<Identity>, Refusal> {
        let spared =
            || if self.bad_by_address.allows(&peer, clock::now()) { Ok(()) } else { Err(Refusal::RateLimited) };
        spared()?;
        let turn = tokio::time::timeout(TURN, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(Refusal::Overloaded) };
        // Those before it may have been bad.
        spared()?;
        let status = self.review.review(token).await.map_err(|error| {
            metrics.reviewed("failed");
            tracing::warn!(%error, "a token could not be reviewed");
            Refusal::ReviewFailed
        })?;
        match identify(&status, token.text()) {
            Ok(identity) => {
                metrics.reviewed("accepted");
                let identity = Arc::new(identity);
                self.remember(digest, &identity, clock::now());
                Ok(identity)
            }
            Err(refusal) => {
                metrics.reviewed("rejected");
                self.bad_by_address.take(&peer, clock::now());
                Err(refusal)
            }
        }
    }

    fn recall(&self, digest: &Digest, now: Instant) -> Option<Arc<Identity>> {
        let mut remembered = self.remembered();
        let found = remembered.get(digest)?;
        if now < found.until {
            return Some(Arc::clone(&found.identity));
        }
        remembered.remove(digest);
        None
    }

    fn remember(&self, digest: Digest, identity: &Arc<Identity>, now: Instant) {
        let mut remembered = self.remembered();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.retain(|_, remembered| now < remembered.until);
        }
        if remembered.len() < MAX_REMEMBERED {
            let until = now + self.settings.remember.min(MAX_MEMORY);
            remembered.insert(digest, Remembered { identity: Arc::clone(identity), until });
        }
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<Digest, Remembered>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one bearer token of a request (RFC 6750 section 2.1).
fn bearer(headers: &HeaderMap) -> Option<Token> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?.to_str().ok()?, values.next()) else { return None };
    let (scheme, token) = value.split_once(' ')?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=');
    let good = scheme.eq_ignore_ascii_case("bearer")
        && !token.is_empty()
        && token.len() <= MAX_TOKEN_BYTES
        && token.bytes().all(allowed);
    good.then(|| Token::new(token))
}

fn digest_of(token: &Token) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest(&SHA256, token.text().as_bytes()).as_ref());
    bytes
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
