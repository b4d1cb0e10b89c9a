//! One JSON-RPC message of a client: its era, its shape, and what to say when either is wrong.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::{Value, json};

use super::credential::only;

/// The version without sessions.
pub(super) const STATELESS: &str = "2026-07-28";
/// The versions with sessions, newest first.
pub(super) const WITH_SESSION: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
pub(super) const METHOD_NOT_FOUND: i32 = -32601;
pub(super) const INVALID_PARAMS: i32 = -32602;
pub(super) const HEADER_MISMATCH: i32 = -32020;
const UNSUPPORTED_VERSION: i32 = -32022;

/// The two ways to speak MCP over HTTP that are alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Era {
    /// Up to 2025-11-25: `initialize`, then a session.
    Session,
    /// From 2026-07-28: each request stands alone and says its version.
    Stateless,
}

impl Era {
    /// The header decides; it is absent on `initialize`, and from clients of 2025-03-26.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Fault> {
        if !headers.contains_key(PROTOCOL_VERSION) {
            return Ok(Self::Session);
        }
        match only(headers, &PROTOCOL_VERSION) {
            None => Err(Fault::new(HEADER_MISMATCH, "MCP-Protocol-Version is there more than once, or is no text")),
            Some(STATELESS) => Ok(Self::Stateless),
            Some(version) if WITH_SESSION.contains(&version) => Ok(Self::Session),
            Some(version) => Err(Fault::unsupported(version)),
        }
    }
}

/// A JSON-RPC error.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) code: i32,
    message: Cow<'static, str>,
    data: Option<Value>,
}

impl Fault {
    pub(super) fn new(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// The code for a request that is wrong as such, whatever its method.
    pub(super) fn invalid_request(message: &'static str) -> Self {
        Self::new(INVALID_REQUEST, message)
    }

    fn unsupported(version: &str) -> Self {
        let supported = [&[STATELESS], &WITH_SESSION[..]].concat();
        let data = json!({ "supported": supported, "requested": version });
        Self { data: Some(data), ..Self::new(UNSUPPORTED_VERSION, "unsupported protocol version") }
    }

    /// The HTTP status for a request that was understood. With a session, errors travel under 200.
    pub(super) fn status(&self, era: Era) -> StatusCode {
        match (era, self.code) {
            (Era::Session, _) => StatusCode::OK,
            (Era::Stateless, METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
            (Era::Stateless, _) => StatusCode::BAD_REQUEST,
        }
    }

    /// The message that tells it.
    pub(super) fn reply(&self, id: &Value) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let (Value::Object(error), Some(data)) = (&mut error, &self.data) {
            error.insert("data".to_owned(), data.clone());
        }
        json!({ "jsonrpc": "2.0", "id": id, "error": error })
    }
}

/// One message from a client.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// Wants an answer.
    Request { id: Value, method: String, params: Value },
    /// A notification, or a response to a question this server never asks: taken, and forgotten.
    Notice,
}

impl Message {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Fault> {
        let Value::Object(mut message) =
            serde_json::from_slice(body).map_err(|_| Fault::new(PARSE_ERROR, "the body is not JSON"))?
        else {
            return Err(Fault::invalid_request("the body must be one JSON-RPC message; batches are not served"));
        };
        let is_response = message.contains_key("result") || message.contains_key("error");
        let is_current = message.get("jsonrpc").is_some_and(|version| version == "2.0");
        match (message.remove("id"), message.remove("method")) {
            (None, Some(Value::String(_))) if is_current => Ok(Self::Notice),
            (Some(_), None) if is_current && is_response => Ok(Self::Notice),
            (Some(id @ (Value::String(_) | Value::Number(_))), Some(Value::String(method))) if is_current => {
                Ok(Self::Request { id, method, params: message.remove("params").unwrap_or_default() })
            }
            _ => Err(Fault::invalid_request("the body is not a JSON-RPC 2.0 message")),
        }
    }

    /// The one request that needs no session, since it begins one.
    pub(super) fn is_initialize(&self) -> bool {
        matches!(self, Self::Request { method, .. } if method == "initialize")
    }
}

/// The message that carries a result.
pub(super) fn reply(id: &Value, result: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_header_decides_the_era() {
        let era = |version: &str| {
            Era::of(&[(PROTOCOL_VERSION, version.parse().unwrap())].into_iter().collect()).map_err(|fault| fault.code)
        };
        assert_eq!(Era::of(&HeaderMap::new()), Ok(Era::Session));
        assert_eq!(era("2025-06-18"), Ok(Era::Session));
        assert_eq!(era("2026-07-28"), Ok(Era::Stateless));
        assert_eq!(era("2027-01-01"), Err(UNSUPPORTED_VERSION));
    }

    #[test]
    fn messages_are_told_apart() {
        for (body, is_notice) in [
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, true),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, true),
            (r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#, false),
        ] {
            assert_eq!(Message::parse(body.as_bytes()).unwrap() == Message::Notice, is_notice, "{body}");
        }
        for (body, code) in [
            ("{", PARSE_ERROR),
            ("[]", INVALID_REQUEST),
            (r#"{"id":1,"method":"ping"}"#, INVALID_REQUEST),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, INVALID_REQUEST),
        ] {
            assert_eq!(Message::parse(body.as_bytes()).unwrap_err().code, code, "{body}");
        }
    }
}
