//! The wire form of an admission: `AdmissionReview` of `admission.k8s.io/v1`, read and answered
//! as raw JSON.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::pod::{field, flag, text};
use super::reason::Unchanged;
use super::{Outcome, Verdict};

const API_VERSION: &str = "admission.k8s.io/v1";

/// A request that can be answered.
#[derive(Debug, Clone)]
pub struct Review(Value);

/// What is wrong with a body that is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// JSON, and something else.
    #[error("the body is not an AdmissionReview of admission.k8s.io/v1 with a request")]
    NotAReview,
}

impl Review {
    /// Reads a body.
    pub fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let review: Value = serde_json::from_slice(body).map_err(|_| ReviewError::NotJson)?;
        let is_review = text(&review, &["apiVersion"]) == Some(API_VERSION)
            && text(&review, &["kind"]) == Some("AdmissionReview")
            && text(&review, &["request", "uid"]).is_some_and(|uid| !uid.is_empty());
        if is_review { Ok(Self(review)) } else { Err(ReviewError::NotAReview) }
    }

    /// The object to decide about, if this is the creation of a pod.
    pub fn pod(&self) -> Result<&Value, Unchanged> {
        let of = |path: &[&str]| self.text(path);
        let is_pod = (of(&["resource", "group"]), of(&["resource", "version"]), of(&["resource", "resource"]))
            == ("", "v1", "pods");
        let is_whole = of(&["subResource"]).is_empty();
        let object = field(&self.0, &["request", "object"]).filter(|object| object.is_object());
        match object {
            Some(object) if is_pod && is_whole && of(&["operation"]) == "CREATE" => Ok(object),
            _ => Err(Unchanged::NotAPodCreation),
        }
    }

    /// The request's own id.
    pub fn uid(&self) -> &str {
        self.text(&["uid"])
    }

    /// The namespace of the pod, which need not say so itself.
    pub fn namespace(&self) -> &str {
        self.text(&["namespace"])
    }

    /// Whether nothing will come of it.
    pub fn is_dry_run(&self) -> bool {
        flag(&self.0, &["request", "dryRun"]) == Some(true)
    }

    /// Who asks.
    pub fn user(&self) -> &str {
        self.text(&["userInfo", "username"])
    }

    /// The pod's name; for one that is yet to get it, what it will begin with.
    pub fn pod_name(&self) -> String {
        let of = |name| text(&self.0, &["request", "object", "metadata", name]).filter(|name| !name.is_empty());
        match (of("name"), of("generateName")) {
            (Some(name), _) => name.to_owned(),
            (None, Some(prefix)) => format!("{prefix}*"),
            (None, None) => self.text(&["name"]).to_owned(),
        }
    }

    fn text(&self, path: &[&str]) -> &str {
        field(&self.0, &["request"]).and_then(|request| text(request, path)).unwrap_or_default()
    }

    /// The answer.
    pub fn answer(&self, verdict: &Verdict) -> Value {
        let allowed = !matches!(verdict.outcome, Outcome::Refused(_));
        let mut response = json!({"uid": self.uid(), "allowed": allowed});
        if let Some(map) = response.as_object_mut() {
            if !verdict.warnings.is_empty() {
                map.insert("warnings".into(), json!(verdict.warnings));
            }
            if let Some(message) = verdict.outcome.message() {
                map.insert("status".into(), json!({"code": 403, "reason": "Forbidden", "message": message}));
            }
            if let Outcome::Patched(patch) = &verdict.outcome {
                let patch = serde_json::to_string(patch).unwrap_or_default();
                map.insert("patchType".into(), json!("JSONPatch"));
                map.insert("patch".into(), json!(BASE64_STANDARD.encode(patch)));
            }
        }
        json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::patch::{Patch, Pointer};

    fn review(change: &str, value: Value) -> Review {
        let mut review = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u",
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "operation": "CREATE",
                "namespace": "ns",
                "userInfo": {"username": "someone"},
                "object": {"metadata": {"generateName": "job-"}},
            },
        });
        *review.pointer_mut(change).unwrap() = value;
        Review::read(review.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn only_the_creation_of_a_pod_is_decided() {
        assert!(review("/request/namespace", json!("x")).pod().is_ok());
        for (change, value) in [
            ("/request/operation", json!("UPDATE")),
            ("/request/resource/resource", json!("deployments")),
            ("/request/resource/group", json!("apps")),
            ("/request/object", json!(null)),
        ] {
            assert_eq!(review(change, value).pod(), Err(Unchanged::NotAPodCreation), "{change}");
        }
        let eviction = json!({"group": "", "version": "v1", "resource": "pods"});
        let mut of_a_part = review("/request/resource", eviction);
        of_a_part.0["request"]["subResource"] = json!("eviction");
        assert_eq!(of_a_part.pod(), Err(Unchanged::NotAPodCreation));
    }

    #[test]
    fn what_is_no_review_is_told() {
        assert_eq!(Review::read(b"{").unwrap_err(), ReviewError::NotJson);
        for body in [
            "{}",
            r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"u"}}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":""}}"#,
            r#"{"apiVersion":"admission.k8s.io/v1","kind":"Pod","request":{"uid":"u"}}"#,
        ] {
            assert_eq!(Review::read(body.as_bytes()).unwrap_err(), ReviewError::NotAReview, "{body}");
        }
    }

    #[test]
    fn a_pod_without_a_name_is_called_by_its_prefix() {
        assert_eq!(review("/request/namespace", json!("x")).pod_name(), "job-*");
        assert_eq!(review("/request/object", json!({"metadata": {"name": "a"}})).pod_name(), "a");
        assert_eq!(review("/request/object", json!({})).pod_name(), "");
    }

    #[test]
    fn an_answer_has_what_its_kind_needs() {
        let review = review("/request/namespace", json!("x"));
        let mut patch = Patch::default();
        patch.add(Pointer::root().member("a"), json!(1));
        let patched = review.answer(&Verdict { outcome: Outcome::Patched(patch), warnings: vec!["w".into()] });
        let response = &patched["response"];
        assert_eq!((&response["uid"], &response["allowed"]), (&json!("u"), &json!(true)));
        assert_eq!((&response["patchType"], &response["warnings"]), (&json!("JSONPatch"), &json!(["w"])));
        let decoded = BASE64_STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&decoded).unwrap(), json!([{"op":"add","path":"/a","value":1}]));
        let unchanged = Verdict { outcome: Outcome::Unchanged(Unchanged::NotAsked), warnings: Vec::new() };
        assert_eq!(review.answer(&unchanged)["response"], json!({"uid": "u", "allowed": true}));
    }
}
