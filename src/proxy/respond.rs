//! The one door from a refusal to the agent.
//!
//! Forms as measured with five SDKs: a JSON-RPC request gets a JSON-RPC error with its id, so
//! that the text reaches the user; everything else gets plain text. Never a 401 or a challenge.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::core::decide::Refusal;
use crate::core::reason::{Fault, Reason};
use crate::telemetry::exchange::Exchange;

const REASON_HEADER: HeaderName = HeaderName::from_static("postern-reason");

#[derive(Serialize)]
struct ErrorBody<'a> {
    jsonrpc: &'static str,
    id: &'a RawValue,
    error: ErrorObject<'a>,
}

#[derive(Serialize)]
struct ErrorObject<'a> {
    code: i32,
    message: &'a str,
    data: ErrorData<'a>,
}

#[derive(Serialize)]
struct ErrorData<'a> {
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
}

/// How refusals look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Responder {
    /// `refusalStatus: 200`: what is refused with 403 carries its JSON-RPC error in a 200, for
    /// clients that tear their session down on any 4xx (Python SDK 1.x).
    pub(super) forbidden_is_ok: bool,
}

impl Responder {
    /// Ends the exchange and makes the answer. `id` is the JSON-RPC id as it stands in the body.
    pub(super) fn refuse(self, mut exchange: Exchange, refusal: &Refusal, id: Option<&str>) -> Response<Bytes> {
        let id: Option<&RawValue> = id.and_then(|id| serde_json::from_str(id).ok());
        let message = message(refusal);
        let (status, kind, body) = match id.and_then(|id| json(refusal, id, &message)) {
            Some(body) => (self.status(refusal.reason), "application/json", body),
            None => (plain_status(refusal.reason), "text/plain; charset=utf-8", format!("{message}\n").into_bytes()),
        };
        exchange.sent(body.len());
        exchange.refuse(refusal, status.as_u16());
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(REASON_HEADER, HeaderValue::from_static(refusal.reason.as_str()));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    fn status(self, reason: Reason) -> StatusCode {
        match reason.status() {
            StatusCode::FORBIDDEN if self.forbidden_is_ok => StatusCode::OK,
            status => status,
        }
    }
}

/// 404 for an OAuth path: tells a client that there is nothing to log in to.
pub(super) fn not_found(mut exchange: Exchange) -> Response<Bytes> {
    let body = "postern: there is no OAuth here; Postern adds the credential itself\n";
    exchange.sent(body.len());
    exchange.answered(StatusCode::NOT_FOUND.as_u16());
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Server, reason, cause and fix. The detail is for the log; only the agent's own faults tell it,
/// since the agent has to mend them.
fn message(refusal: &Refusal) -> String {
    let mut text = format!("postern: {}", refusal.reason);
    if let Some(server) = &refusal.server {
        text.push_str(&format!(": server {server}"));
    }
    text.push_str(": ");
    text.push_str(refusal.reason.advice());
    if let Some(detail) = refusal.detail.as_ref().filter(|_| refusal.reason.fault() == Fault::Agent) {
        text.push_str(&format!(" ({detail})"));
    }
    text
}

fn json(refusal: &Refusal, id: &RawValue, message: &str) -> Option<Vec<u8>> {
    let data =
        ErrorData { reason: refusal.reason.as_str(), server: refusal.server.as_ref().map(|server| server.as_str()) };
    let error = ErrorObject { code: refusal.reason.code(), message, data };
    serde_json::to_vec(&ErrorBody { jsonrpc: "2.0", id, error }).ok()
}

/// A refusal that no JSON-RPC error can carry must not look like a success.
fn plain_status(reason: Reason) -> StatusCode {
    match reason.status() {
        StatusCode::OK => StatusCode::FORBIDDEN,
        status => status,
    }
}
