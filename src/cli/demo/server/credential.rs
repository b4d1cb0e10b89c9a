//! Which credential the sample server accepts, and what it may show of a request that carried it.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::core::secret::SecretValue;

/// The header that names a session; its value is as good as a key to it.
pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// Headers whose values are shown as they came. Of any other, only the name leaves the server.
const SHOWN: [&str; 13] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "host",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "origin",
    "traceparent",
    "transfer-encoding",
    "user-agent",
];

/// The credential that the server accepts, and the one before it: a rotation is not an outage.
pub(in crate::cli::demo) struct Expected {
    name: Arc<str>,
    generation: u64,
    current: Arc<SecretValue>,
    previous: Option<Arc<SecretValue>>,
}

impl Expected {
    /// Generation 1 of the credential called `name`, which is what the tool `whoami` tells.
    pub(in crate::cli::demo) fn first(name: &str, token: SecretValue) -> Self {
        Self { name: name.into(), generation: 1, current: Arc::new(token), previous: None }
    }

    /// The next generation. Publish it **before** the credential file changes: whoever reads the new
    /// file calls at once. The value before the present one is refused from here on.
    pub(in crate::cli::demo) fn rotated(&self, token: SecretValue) -> Self {
        Self {
            name: Arc::clone(&self.name),
            generation: self.generation + 1,
            current: Arc::new(token),
            previous: Some(Arc::clone(&self.current)),
        }
    }

    /// Who sent these headers, if the one token in them is accepted.
    pub(super) fn recognise(&self, headers: &HeaderMap) -> Option<Caller> {
        let token = SecretValue::parse(bearer(headers)?.into()).ok()?;
        let is_current = self.current.same_as(&token);
        let is_previous = self.previous.as_ref().is_some_and(|previous| previous.same_as(&token));
        let generation = match (is_current, is_previous) {
            (true, _) => self.generation,
            (false, true) => self.generation - 1,
            (false, false) => return None,
        };
        Some(Caller { credential: Arc::clone(&self.name), generation, is_current })
    }
}

/// All that an answer may know of the credential of its request.
pub(super) struct Caller {
    pub(super) credential: Arc<str>,
    pub(super) generation: u64,
    pub(super) is_current: bool,
}

/// A request as it reached the server, fit for a terminal: by construction no secret is in it.
#[derive(Debug, Clone)]
pub(in crate::cli::demo) struct Received {
    /// The HTTP method.
    pub(in crate::cli::demo) method: Method,
    /// The path. Of a query only `?…` is left, since tokens have been seen there.
    pub(in crate::cli::demo) path: String,
    /// Each header's name, and its value where that is known to be harmless. An accepted token is
    /// its first four characters and `…`, any other is `(refused)`.
    pub(in crate::cli::demo) headers: Vec<(String, String)>,
    /// The generation of the credential, if it was accepted.
    pub(in crate::cli::demo) generation: Option<u64>,
}

impl Received {
    pub(super) fn new(head: &Parts, caller: Option<&Caller>) -> Self {
        let token = caller.and_then(|_| bearer(&head.headers));
        let query = if head.uri.query().is_some() { "?…" } else { "" };
        let shown = |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), shown(name, value, token));
        Self {
            method: head.method.clone(),
            path: format!("{}{query}", head.uri.path()),
            headers: head.headers.iter().map(shown).collect(),
            generation: caller.map(|caller| caller.generation),
        }
    }

    /// Whether the credential was accepted.
    pub(in crate::cli::demo) fn accepted(&self) -> bool {
        self.generation.is_some()
    }
}

fn shown(name: &HeaderName, value: &HeaderValue, accepted: Option<&str>) -> String {
    if name == AUTHORIZATION {
        accepted.map_or_else(|| "(refused)".to_owned(), |token| format!("Bearer {}", shortened(token)))
    } else if name == SESSION_ID {
        shortened(value.to_str().unwrap_or_default())
    } else if SHOWN.contains(&name.as_str()) {
        String::from_utf8_lossy(value.as_bytes()).into_owned()
    } else {
        "(not shown)".to_owned()
    }
}

/// The beginning of a secret, to tell one from another; nothing of one that four characters would give away.
fn shortened(secret: &str) -> String {
    let kept = if secret.len() < 12 { 0 } else { 4 };
    secret.chars().take(kept).chain(['…']).collect()
}

/// The token of the one `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = only(headers, &AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// The value of a header that is there once. Twice is as good as never: two readers would disagree.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { first.to_str().ok() }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const OLD: &str = "demo-old-0123456789";
    const NEW: &str = "demo-new-0123456789";
    const NEWEST: &str = "next-0123456789";

    fn value(token: &str) -> SecretValue {
        SecretValue::parse(token.into()).ok().unwrap()
    }

    fn head(headers: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::post("/mcp?access_token=hidden");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn generation(expected: &Expected, headers: &[(&'static str, &str)]) -> Option<u64> {
        expected.recognise(&head(headers).headers).map(|caller| caller.generation)
    }

    #[test]
    fn the_current_and_the_previous_token_are_accepted_and_no_other() {
        let with = |expected: &Expected, token: &str| {
            generation(expected, &[("authorization", format!("Bearer {token}").as_str())])
        };
        let first = Expected::first("demo", value(OLD));
        assert_eq!([with(&first, OLD), with(&first, NEW)], [Some(1), None]);
        let second = first.rotated(value(NEW));
        assert_eq!([with(&second, OLD), with(&second, NEW)], [Some(1), Some(2)]);
        let third = second.rotated(value(NEWEST));
        assert_eq!([with(&third, OLD), with(&third, NEW), with(&third, NEWEST)], [None, Some(2), Some(3)]);
    }

    #[test]
    fn one_bearer_header_counts_and_nothing_like_it() {
        let expected = Expected::first("demo", value(OLD));
        let bearer = format!("Bearer {OLD}");
        let lower = format!("bearer {OLD}");
        let basic = format!("Basic {OLD}");
        assert_eq!(generation(&expected, &[("authorization", &lower)]), Some(1));
        assert_eq!(generation(&expected, &[]), None);
        assert_eq!(generation(&expected, &[("authorization", OLD)]), None);
        assert_eq!(generation(&expected, &[("authorization", &basic)]), None);
        assert_eq!(generation(&expected, &[("authorization", &format!("{bearer}x"))]), None);
        assert_eq!(generation(&expected, &[("authorization", &bearer), ("authorization", &bearer)]), None);
    }

    #[test]
    fn what_is_shown_of_a_request_holds_no_secret() {
        let expected = Expected::first("demo", value(OLD));
        let bearer = format!("Bearer {OLD}");
        let id = "00112233445566778899aabbccddeeff";
        let head =
            head(&[("authorization", &bearer), ("mcp-session-id", id), ("x-api-key", "hidden"), ("host", "localhost")]);
        let received = Received::new(&head, expected.recognise(&head.headers).as_ref());
        assert!(received.accepted());
        assert_eq!(received.path, "/mcp?…");
        let shown = received.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>();
        assert_eq!(
            shown,
            ["authorization: Bearer demo…", "mcp-session-id: 0011…", "x-api-key: (not shown)", "host: localhost"]
        );
        let refused = Received::new(&head, None);
        assert!(!refused.accepted());
        assert_eq!(refused.headers[0].1, "(refused)");
        assert_eq!(shortened("short"), "…");
    }
}
