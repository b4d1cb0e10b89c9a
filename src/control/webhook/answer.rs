//! One request of the API server, from its bytes to its answer.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};

use super::{BODY_BUDGET, ConfigMapSearch, MAX_BODY, PATH, REQUEST_TIME, Webhook};
use crate::control::admission::reason::{AdmissionReason, Fault, Unchanged};
use crate::control::admission::review::{Review, ReviewError};
use crate::control::admission::{self, ConfigMap, NamespaceMeta, Outcome, Verdict};
use crate::core::name::{Namespace, ObjectName};
use crate::telemetry::admission::{Admission, AdmissionResult, Subject};

/// At most so many ConfigMaps are read for one pod.
const MAX_CONFIG_MAPS: usize = 4;

/// Why a request is answered with no review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    NoSuchPath,
    NotAPost,
    NotJson,
    TooLarge,
    TooSlow,
    Broken,
    NotAReview,
}

impl Failure {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NoSuchPath => "no_such_path",
            Self::NotAPost => "not_a_post",
            Self::NotJson => "not_json",
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::Broken => "broken",
            Self::NotAReview => "not_a_review",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::NotAPost => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken | Self::NotAReview => StatusCode::BAD_REQUEST,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::NoSuchPath => "postern: reviews are posted to /mutate/v1/pods\n",
            Self::NotAPost => "postern: only POST\n",
            Self::NotJson => "postern: the content type must be application/json, and the body be that\n",
            Self::TooLarge => "postern: the body is larger than 8 MiB\n",
            Self::TooSlow => "postern: the body did not come in time, or too many are being read\n",
            Self::Broken => "postern: the body broke off\n",
            Self::NotAReview => "postern: the body is not an AdmissionReview of admission.k8s.io/v1 with a request\n",
        }
    }
}

impl Webhook {
    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let body = match tokio::time::timeout(REQUEST_TIME, self.read(request)).await {
            Ok(body) => body,
            Err(_) => Err(Failure::TooSlow),
        };
        let mut admission = Admission::begin(&self.log);
        let review = body.and_then(|body| {
            Review::read(&body).map_err(|error| match error {
                ReviewError::NotJson => Failure::NotJson,
                ReviewError::NotAReview => Failure::NotAReview,
            })
        });
        match review {
            Ok(review) => {
                admission.subject(subject(&review));
                let verdict = self.decide(&review).await;
                report(admission, &verdict);
                response(StatusCode::OK, "application/json", review.answer(&verdict).to_string().into())
            }
            Err(failure) => {
                admission.end(AdmissionResult::Failed, failure.as_str());
                response(failure.status(), "text/plain; charset=utf-8", Bytes::from_static(failure.text().as_bytes()))
            }
        }
    }

    async fn read(&self, request: Request<Incoming>) -> Result<Bytes, Failure> {
        if request.uri().path() != PATH {
            return Err(Failure::NoSuchPath);
        }
        if request.method() != Method::POST {
            return Err(Failure::NotAPost);
        }
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default();
        if !kind.trim().eq_ignore_ascii_case("application/json") {
            return Err(Failure::NotJson);
        }
        let body = request.into_body();
        let expected =
            body.size_hint().exact().map_or(MAX_BODY, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if expected > MAX_BODY {
            return Err(Failure::TooLarge);
        }
        let budget = u32::try_from(expected.min(BODY_BUDGET)).unwrap_or(u32::MAX);
        let Ok(_memory) = self.bodies.acquire_many(budget).await else { return Err(Failure::Broken) };
        match Limited::new(body, MAX_BODY).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Failure::TooLarge),
            Err(_) => Err(Failure::Broken),
        }
    }

    async fn decide(&self, review: &Review) -> Verdict {
        let pod = match review.pod() {
            Ok(pod) => pod,
            Err(why) => return Verdict { outcome: Outcome::Unchanged(why), warnings: Vec::new() },
        };
        let namespace = match Namespace::parse(review.namespace()) {
            Ok(name) => self.namespaces.get(&name).await.map(|meta| (name, meta)),
            Err(_) => None,
        };
        let Some((name, namespace)) = namespace else {
            let cause = "the namespace of the pod is not known here";
            let fault = Fault::new(AdmissionReason::NamespaceUnknown, cause);
            return Verdict { outcome: Outcome::Refused(vec![fault]), warnings: Vec::new() };
        };
        let injection = &**self.settings.injection.load();
        let search = self.settings.config_maps;
        if search == ConfigMapSearch::Off {
            return admission::decide(pod, &namespace, &[], injection);
        }
        let (maps, complete) = self.config_maps(pod, &name, &namespace).await;
        let deciding = if search == ConfigMapSearch::Deny { maps.as_slice() } else { &[] };
        let mut verdict = admission::decide(pod, &namespace, deciding, injection);
        if search == ConfigMapSearch::Warn {
            let found = admission::stdio_servers(&maps);
            verdict
                .warnings
                .extend(found.into_iter().map(|fault| format!("postern: {}: {}", fault.reason, fault.cause)));
        }
        if !complete {
            verdict.warnings.push("postern: not every ConfigMap was searched for stdio servers".into());
        }
        verdict
    }

    /// The ConfigMaps of a pod that could be read, and whether those are all.
    async fn config_maps(
        &self,
        pod: &serde_json::Value,
        namespace: &Namespace,
        meta: &NamespaceMeta,
    ) -> (Vec<ConfigMap>, bool) {
        let names = admission::config_maps(pod, meta);
        // What is no name is no ConfigMap either; the API server says so.
        let names: Vec<ObjectName> = names.iter().filter_map(|name| ObjectName::parse(name).ok()).collect();
        let wanted = names.get(..MAX_CONFIG_MAPS).unwrap_or(&names);
        let read = self.config_maps.get(namespace, wanted).await;
        let complete = wanted.len() == names.len() && read.complete;
        (read.found, complete)
    }
}

fn subject(review: &Review) -> Subject {
    Subject {
        uid: review.uid().to_owned(),
        namespace: review.namespace().to_owned(),
        pod: review.pod_name(),
        user: review.user().to_owned(),
        dry_run: review.is_dry_run(),
    }
}

fn report(mut admission: Admission<'_>, verdict: &Verdict) {
    admission.told(verdict.outcome.message(), &verdict.warnings);
    match &verdict.outcome {
        Outcome::Patched(_) => admission.end(AdmissionResult::Injected, ""),
        Outcome::Unchanged(why) => admission.end(AdmissionResult::Unchanged, Unchanged::as_str(*why)),
        Outcome::Refused(faults) => {
            let reason = faults.first().map_or("", |fault| fault.reason.as_str());
            admission.end(AdmissionResult::Refused, reason);
        }
    }
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
