//! Everything that the broker says no to, in one closed list.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};

/// Why a connection or a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Anything but the one thing there is.
    NotFound,
    /// No bearer token, two of them, or something that cannot be one.
    NoToken,
    /// The API server says no.
    TokenRejected,
    /// A good token for another audience.
    OtherAudience,
    /// A good token, but not a service account's, or not bound to a pod.
    NotAPod,
    /// The token's time is over since the API server said yes.
    TokenExpired,
    /// The service account connects too often, or too many bad tokens came from the address.
    RateLimited,
    /// The service account has its share of streams.
    TooManyStreams,
    /// Too many token reviews are under way.
    Overloaded,
    /// The API server gave no answer.
    ReviewFailed,
    /// The cluster's bindings and Secrets are not known yet.
    SourceNotReady,
    /// The broker shuts down.
    Draining,
    /// The limit of connections is reached; it is closed before TLS.
    TooManyConnections,
    /// TLS did not come to an end, or not in time.
    Handshake,
}

impl Refusal {
    /// Every refusal, in the order of the documentation's table.
    pub const ALL: [Self; 14] = [
        Self::NotFound,
        Self::NoToken,
        Self::TokenRejected,
        Self::OtherAudience,
        Self::NotAPod,
        Self::TokenExpired,
        Self::RateLimited,
        Self::TooManyStreams,
        Self::Overloaded,
        Self::ReviewFailed,
        Self::SourceNotReady,
        Self::Draining,
        Self::TooManyConnections,
        Self::Handshake,
    ];

    /// The metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::NoToken => "no_token",
            Self::TokenRejected => "token_rejected",
            Self::OtherAudience => "other_audience",
            Self::NotAPod => "not_a_pod",
            Self::TokenExpired => "token_expired",
            Self::RateLimited => "rate_limited",
            Self::TooManyStreams => "too_many_streams",
            Self::Overloaded => "overloaded",
            Self::ReviewFailed => "review_failed",
            Self::SourceNotReady => "source_not_ready",
            Self::Draining => "draining",
            Self::TooManyConnections => "too_many_connections",
            Self::Handshake => "handshake",
        }
    }

    /// The status of the answer; `None` where there is no HTTP yet to answer with.
    pub const fn status(self) -> Option<StatusCode> {
        Some(match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NoToken | Self::TokenRejected | Self::OtherAudience | Self::NotAPod | Self::TokenExpired => {
                StatusCode::UNAUTHORIZED
            }
            Self::RateLimited | Self::TooManyStreams => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded | Self::ReviewFailed | Self::SourceNotReady | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::TooManyConnections | Self::Handshake => return None,
        })
    }

    /// The answer. One that concerns the token is the same whatever the reason: whoever tries
    /// tokens learns nothing from it.
    pub(super) fn answer(self) -> Response<Bytes> {
        let status = self.status().unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let (word, header) = match status {
            StatusCode::UNAUTHORIZED => ("unauthenticated", Some((WWW_AUTHENTICATE, "Bearer"))),
            StatusCode::TOO_MANY_REQUESTS => (self.as_str(), Some((RETRY_AFTER, "5"))),
            StatusCode::SERVICE_UNAVAILABLE => (self.as_str(), Some((RETRY_AFTER, "1"))),
            _ => (self.as_str(), None),
        };
        let mut response = Response::new(Bytes::from_static(word.as_bytes()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_to_bad_tokens_are_all_the_same() {
        let bad = Refusal::ALL.into_iter().filter(|refusal| refusal.status() == Some(StatusCode::UNAUTHORIZED));
        let answers: Vec<String> = bad.map(|refusal| format!("{:?}", refusal.answer())).collect();
        assert_eq!(answers.len(), 5);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    }

    #[test]
    fn whoever_may_come_back_is_told_when() {
        for refusal in Refusal::ALL {
            let answer = refusal.answer();
            let later = matches!(answer.status().as_u16(), 429 | 503);
            assert_eq!(answer.headers().contains_key(RETRY_AFTER), later, "{refusal:?}");
        }
    }
}
