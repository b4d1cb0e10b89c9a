//! From a review of a token to who its bearer is. Nothing else decides that: no header, no path.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use serde::Deserialize;

use super::refusal::Refusal;
use crate::api::BROKER_AUDIENCE;
use crate::core::name::{CallerKey, Namespace, ObjectName, ServiceAccount};

/// A proven pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What it may read: this account's view and no other.
    pub account: CallerKey,
    /// Its pod, for the log.
    pub pod: ObjectName,
    /// The pod's UID, for the log.
    pub pod_uid: String,
    /// When its token ends.
    pub expires: SystemTime,
}

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Reads the API server's answer for `token`. The token itself is looked into for its end only,
/// and only once the API server has said that it is good.
pub(super) fn identify(status: &TokenReviewStatus, token: &str) -> Result<Identity, Refusal> {
    if status.authenticated != Some(true) || status.error.as_deref().is_some_and(|error| !error.is_empty()) {
        return Err(Refusal::TokenRejected);
    }
    // An authenticator that knows nothing of audiences says yes to any token.
    let ours = |audience: &String| audience == BROKER_AUDIENCE;
    if !status.audiences.as_ref().is_some_and(|audiences| audiences.iter().any(ours)) {
        return Err(Refusal::OtherAudience);
    }
    let user = status.user.as_ref().ok_or(Refusal::NotAPod)?;
    let account = account(user.username.as_deref().unwrap_or_default()).ok_or(Refusal::NotAPod)?;
    let extra = |name: &str| match user.extra.as_ref()?.get(name)?.as_slice() {
        [one] => Some(one.as_str()),
        _ => None,
    };
    let pod = extra(POD_NAME).and_then(|pod| ObjectName::parse(pod).ok()).ok_or(Refusal::NotAPod)?;
    let pod_uid = extra(POD_UID).filter(|uid| is_uid(uid)).ok_or(Refusal::NotAPod)?.to_owned();
    let expires = expiry(token).ok_or(Refusal::NotAPod)?;
    Ok(Identity { account, pod, pod_uid, expires })
}

/// `system:serviceaccount:<namespace>:<name>`; neither can hold a colon.
fn account(username: &str) -> Option<CallerKey> {
    let (namespace, name) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    Some(CallerKey {
        namespace: Namespace::parse(namespace).ok()?,
        service_account: ServiceAccount::parse(name).ok()?,
        user: None,
    })
}

fn is_uid(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
}

/// The `exp` claim (RFC 7519 section 4.1.4). A token without an end is none of a pod's.
fn expiry(token: &str) -> Option<SystemTime> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn token(claims: &Value) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    fn good() -> Value {
        json!({
            "authenticated": true,
            "audiences": ["postern.dev/broker"],
            "user": {
                "username": "system:serviceaccount:research:agent",
                "extra": {(POD_NAME): ["agent-0"], (POD_UID): ["0b0e9d0e-8f0a"]},
            },
        })
    }

    fn read(status: &Value, token: &str) -> Result<Identity, Refusal> {
        identify(&serde_json::from_value(status.clone()).unwrap(), token)
    }

    #[test]
    fn a_good_review_tells_account_pod_and_end() {
        let identity = read(&good(), &token(&json!({"exp": 1_800_000_000u64, "sub": "of no interest"}))).unwrap();
        let account = &identity.account;
        assert_eq!((account.namespace.as_str(), account.service_account.as_str()), ("research", "agent"));
        assert_eq!((identity.pod.as_str(), identity.pod_uid.as_str()), ("agent-0", "0b0e9d0e-8f0a"));
        assert_eq!(identity.expires, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    }

    #[test]
    fn every_other_answer_is_refused() {
        let user = |name: &str| ("/user/username".to_owned(), json!(name));
        let extra = |value: Value| ("/user/extra".to_owned(), value);
        let rows = [
            (("/authenticated".to_owned(), json!(false)), Refusal::TokenRejected),
            (("/authenticated".to_owned(), Value::Null), Refusal::TokenRejected),
            (("/error".to_owned(), json!("something")), Refusal::TokenRejected),
            (("/audiences".to_owned(), Value::Null), Refusal::OtherAudience),
            (("/audiences".to_owned(), json!([])), Refusal::OtherAudience),
            (("/audiences".to_owned(), json!(["https://kubernetes.default.svc"])), Refusal::OtherAudience),
            (("/audiences".to_owned(), json!(["postern.dev/broker2"])), Refusal::OtherAudience),
            (("/user".to_owned(), Value::Null), Refusal::NotAPod),
            (user("system:admin"), Refusal::NotAPod),
            (user("system:serviceaccount:research"), Refusal::NotAPod),
            (user("system:serviceaccount:research:agent:other"), Refusal::NotAPod),
            (user("system:serviceaccount::agent"), Refusal::NotAPod),
            (user("system:serviceaccount:Research:agent"), Refusal::NotAPod),
            (user("oidc:system:serviceaccount:research:agent"), Refusal::NotAPod),
            (extra(Value::Null), Refusal::NotAPod),
            (extra(json!({(POD_NAME): ["agent-0"]})), Refusal::NotAPod),
            (extra(json!({(POD_UID): ["0b0e"]})), Refusal::NotAPod),
            (extra(json!({(POD_NAME): ["a", "b"], (POD_UID): ["0b0e"]})), Refusal::NotAPod),
            (extra(json!({(POD_NAME): ["agent-0"], (POD_UID): ["\u{1b}[31m"]})), Refusal::NotAPod),
            (extra(json!({(POD_NAME): ["a/b"], (POD_UID): ["0b0e"]})), Refusal::NotAPod),
        ];
        for ((pointer, value), expected) in rows {
            let mut status = good();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            status.pointer_mut(parent).unwrap()[key] = value.clone();
            assert_eq!(read(&status, &token(&json!({"exp": 1}))), Err(expected), "{pointer} {value}");
        }
        for claims in [json!({}), json!({"exp": -1}), json!({"exp": "1"}), json!({"exp": 1.5}), json!([])] {
            assert_eq!(read(&good(), &token(&claims)), Err(Refusal::NotAPod), "{claims}");
        }
        for token in ["", "a", "a.b", "a.e30=.c", "..", "a.\u{e9}.c"] {
            assert_eq!(read(&good(), token), Err(Refusal::NotAPod), "{token}");
        }
    }
}
