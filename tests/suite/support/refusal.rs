//! What every refusal has in common, whatever its reason.

use serde_json::Value;

use super::message::Response;
use super::sidecar::Sidecar;

/// The closed list (design section 6): reason, HTTP status, JSON-RPC code.
pub const CONTRACT: [(&str, u16, i32); 34] = [
    ("unbound_server", 403, -31403),
    ("unbound_host", 403, -31403),
    ("not_mcp", 403, -31403),
    ("not_http", 403, -31403),
    ("tunnel_forbidden", 403, -31403),
    ("path_outside_binding", 403, -31403),
    ("authority_mismatch", 421, -31421),
    ("agent_tls", 403, -31403),
    ("origin_forbidden", 403, -31403),
    ("stdio_unsupported", 403, -31403),
    ("no_credential", 403, -31403),
    ("not_consented", 403, -31403),
    ("credential_invalid", 403, -31403),
    ("pod_too_weak", 403, -31403),
    ("credential_revoked", 403, -31403),
    ("source_not_ready", 503, -31503),
    ("credential_stale", 503, -31503),
    ("unidentified_caller", 403, -31403),
    ("tool_denied", 200, -31403),
    ("header_mismatch", 400, -32020),
    ("bad_json_rpc", 400, -31400),
    ("malformed_head", 400, -31400),
    ("body_too_large", 413, -31413),
    ("head_too_large", 431, -31413),
    ("overloaded", 503, -31503),
    ("draining", 503, -31503),
    ("restart_required", 503, -31503),
    ("session_foreign", 404, -31404),
    ("address_forbidden", 502, -31502),
    ("upstream_tls", 502, -31502),
    ("upstream_unreachable", 502, -31502),
    ("upstream_auth_rejected", 502, -31502),
    ("unscannable_response", 502, -31502),
    ("upstream_timeout", 504, -31504),
];

/// Status and code of a reason.
pub fn contract(reason: &str) -> (u16, i32) {
    let row = CONTRACT.iter().find(|(name, ..)| *name == reason);
    let (_, status, code) = row.unwrap_or_else(|| panic!("{reason} is no reason"));
    (*status, *code)
}

/// How a refusal speaks.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// A JSON-RPC error with this id, verbatim.
    Rpc(&'a str),
    /// One line of text.
    Text,
}

/// A refusal to be expected.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    pub reason: &'a str,
    /// The server meant; empty where no bound one is.
    pub server: &'a str,
    pub form: Form<'a>,
}

impl Refusal<'_> {
    /// Asserts the answer's status, type and body.
    pub fn assert_answer(&self, response: &Response) {
        let (mut status, code) = contract(self.reason);
        response.assert_refused(self.reason);
        let message = match self.form {
            Form::Rpc(id) => {
                assert_eq!(response.header("content-type"), Some("application/json"), "{}", response.text());
                self.assert_rpc(response, id, code)
            }
            Form::Text => {
                // A JSON-RPC error with status 200 is for requests; nothing else may look like a success.
                status = if status == 200 { 403 } else { status };
                let kind = response.header("content-type").unwrap_or_default();
                assert!(kind.starts_with("text/plain"), "{kind}: {}", response.text());
                response.text()
            }
        };
        assert_eq!(response.status, status, "{message}");
        assert!(message.starts_with("postern: "), "{message}");
        assert_eq!(response.header("www-authenticate"), None);
        assert_eq!(response.header("retry-after").is_some(), status == 503, "Retry-After goes with 503");
    }

    fn assert_rpc(&self, response: &Response, id: &str, code: i32) -> String {
        let text = response.text();
        assert!(text.contains(&format!(r#""id":{id}"#)), "the id {id} is echoed verbatim: {text}");
        let body = response.json();
        assert_eq!(body["jsonrpc"], "2.0");
        assert_eq!(body["error"]["code"], code);
        assert_eq!(body["error"]["data"]["reason"], self.reason);
        if !self.server.is_empty() {
            assert_eq!(body["error"]["data"]["server"], self.server);
        }
        let mut keys: Vec<&String> = body.as_object().expect("an object").keys().collect();
        keys.sort();
        assert_eq!(keys, ["error", "id", "jsonrpc"], "an error has no result");
        body["error"]["message"].as_str().expect("a message").to_owned()
    }

    /// Asserts the access line.
    pub fn assert_access(&self, line: &Value) {
        let server = line.get("server").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(server, self.server, "{line}");
        assert_eq!(line["outcome"], "refused", "{line}");
        assert!(line["status"].as_u64().is_some_and(|status| status >= 200), "{line}");
    }
}

/// Sends these bytes on a connection of their own and asserts everything a refusal owes:
/// the answer, one count under its reason and server and none elsewhere, one access line.
pub async fn assert_refusal(sidecar: &Sidecar, bytes: &[u8], refusal: Refusal<'_>) -> Response {
    let labels = [("reason", refusal.reason), ("server", refusal.server)];
    let before = sidecar.metrics().await;
    let mut agent = sidecar.agent().await;
    agent.send(bytes).await;
    let response = agent.response().await;
    refusal.assert_answer(&response);
    let reason = refusal.reason.to_owned();
    let line = sidecar.next_access(&reason, |line| line["reason"] == reason.as_str()).await;
    refusal.assert_access(&line);
    let after = sidecar.metrics().await;
    let grown = |labels: &[(&str, &str)]| {
        after.sum("postern_refusals_total", labels) - before.sum("postern_refusals_total", labels)
    };
    assert_eq!(grown(&labels), 1.0, "{labels:?} counts once: {}", after.text());
    assert_eq!(grown(&[]), 1.0, "nothing else counts: {}", after.text());
    response
}
