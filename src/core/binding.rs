//! A binding: who may use which credential for which server. Valid by construction.

use std::fmt;

use http::HeaderName;

use super::name::{BindingId, DataKey, DataRef, ObjectName, ServerName, ServiceAccount};
use super::tools::ToolPolicy;
use super::upstream::UpstreamUrl;

/// One valid binding. Made only by `TryFrom` of the document (`api::binding`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Which object it is.
    pub id: BindingId,
    /// The service accounts of its namespace that it serves.
    pub service_accounts: Vec<ServiceAccount>,
    /// The upstream.
    pub server: Server,
    /// What is put on each request.
    pub credential: CredentialSpec,
    /// Which tools may be called.
    pub tools: ToolPolicy,
    /// The agent's request headers that go through besides the standard ones.
    pub pass_headers: Vec<HeaderName>,
    /// Cookies that go both ways.
    pub pass_cookies: Vec<String>,
    /// Whether JSON-RPC arrays pass (MCP 2025-03-26 only).
    pub allow_batch: bool,
    /// Whether a compressed answer passes, although the mask cannot look into it.
    pub allow_compressed: bool,
}

/// The upstream side of a binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// As the agent names it.
    pub name: ServerName,
    /// Where it is.
    pub url: UpstreamUrl,
    /// What it speaks.
    pub transports: Transports,
    /// Whether paths below the url's are covered too.
    pub subpaths: bool,
    /// A CA bundle that replaces the system's roots for this server.
    pub ca_bundle: Option<DataRef>,
    /// The name asked for and verified in TLS, where it differs from the url's host.
    pub tls_name: Option<String>,
}

/// The transports of a server; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transports {
    /// Streamable HTTP, of 2025-03-26 and later.
    pub streamable_http: bool,
    /// HTTP+SSE, of 2024-11-05.
    pub sse: bool,
}

/// How the credential is built from its Secret and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialSpec {
    /// The header it goes into.
    pub header: HeaderName,
    /// What the header's value is made of.
    pub material: Material,
}

/// The parts of a header value that come from a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    /// One value, framed by fixed text.
    Token {
        /// Where the value is.
        secret: DataRef,
        /// The fixed text around it.
        format: Format,
    },
    /// RFC 7617: base64 of `user:password`.
    Basic {
        /// The Secret.
        secret: ObjectName,
        /// Its key that holds the user name.
        username: DataKey,
        /// Its key that holds the password.
        password: DataKey,
    },
}

impl CredentialSpec {
    /// The Secret's name, for the log.
    pub fn secret_name(&self) -> &ObjectName {
        match &self.material {
            Material::Token { secret, .. } => &secret.name,
            Material::Basic { secret, .. } => secret,
        }
    }
}

/// Fixed text around the token: `{token}` exactly once, the rest printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// Before the token.
    pub prefix: String,
    /// After it.
    pub suffix: String,
}

impl Format {
    /// The expected form, for error texts.
    pub const EXPECTED: &'static str = "printable ASCII text with {token} exactly once, such as \"Bearer {token}\"";

    /// Reads `Bearer {token}` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let (prefix, suffix) = text.split_once("{token}")?;
        let printable = text.bytes().all(|b| (0x20..=0x7e).contains(&b));
        let once = !suffix.contains("{token}") && !prefix.starts_with(' ') && !suffix.ends_with(' ');
        (printable && once).then(|| Self { prefix: prefix.into(), suffix: suffix.into() })
    }
}

/// Why a header may not be used. Says what is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderFault(&'static str);

impl fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const NOT_A_NAME: HeaderFault = HeaderFault("an HTTP header name (RFC 9110 token)");

/// Reads the name of the header that the credential goes into.
pub fn credential_header(text: &str) -> Result<HeaderName, HeaderFault> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| NOT_A_NAME)?;
    let taken = is_framing(name.as_str()) || is_forwarded(name.as_str()) || name == http::header::COOKIE;
    if taken {
        return Err(HeaderFault("a header that carries a credential, not one that frames or routes the request"));
    }
    Ok(name)
}

/// Reads the name of an agent's header that may go through.
pub fn pass_header(text: &str) -> Result<HeaderName, HeaderFault> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| NOT_A_NAME)?;
    if is_framing(name.as_str()) || looks_like_credential(name.as_str()) {
        return Err(HeaderFault(
            "a header that neither frames the request nor looks like a credential (cookies: passCookies)",
        ));
    }
    Ok(name)
}

/// Headers that carry the message, not its meaning: never from the agent, never for a credential.
fn is_framing(name: &str) -> bool {
    const NAMES: [&str; 14] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "content-encoding",
        "accept-encoding",
        "forwarded",
        "via",
        "http2-settings",
    ];
    NAMES.contains(&name) || name.starts_with("proxy-connection") || name.starts_with("x-forwarded-")
}

/// Request headers of the agent that always go through.
pub fn is_forwarded(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "accept",
        "content-type",
        "content-length",
        "user-agent",
        "origin",
        "last-event-id",
        "traceparent",
        "tracestate",
        "baggage",
    ];
    NAMES.contains(&name) || (name.starts_with("mcp-") && !looks_like_credential(name))
}

/// Headers that are, or are named like, credentials. Also what counts as "the agent's own token".
/// `Mcp-Param-*` are not: they mirror a tool's arguments and have their names (`Mcp-Param-Page-Token`).
pub fn looks_like_credential(name: &str) -> bool {
    const NAMES: [&str; 6] = ["authorization", "proxy-authorization", "cookie", "set-cookie", "dpop", "x-api-key"];
    const PARTS: [&str; 8] =
        ["token", "secret", "password", "credential", "apikey", "api-key", "auth-key", "access-key"];
    let named =
        NAMES.contains(&name) || name.ends_with("-authorization") || PARTS.iter().any(|part| name.contains(part));
    named && !name.starts_with("mcp-param-")
}

/// Whether `text` can be a cookie's name (RFC 6265: a token).
pub fn is_cookie_name(text: &str) -> bool {
    HeaderName::from_bytes(text.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_has_one_token() {
        let parts = |t: &str| Format::parse(t).map(|f| (f.prefix, f.suffix));
        assert_eq!(parts("Bearer {token}"), Some(("Bearer ".into(), String::new())));
        assert_eq!(parts("{token}"), Some((String::new(), String::new())));
        assert_eq!(parts("key=\"{token}\""), Some(("key=\"".into(), "\"".into())));
        for bad in ["", "Bearer", "{token}{token}", "{token} ", " {token}", "a\n{token}", "é{token}", "{Token}"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn credential_headers_do_not_frame_or_route() {
        for good in ["Authorization", "X-Api-Key", "PRIVATE-TOKEN", "api_key", "Mcp-Auth-Token"] {
            assert!(credential_header(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a b",
            "a:b",
            "é",
            "Host",
            "Content-Length",
            "Connection",
            "Cookie",
            "Mcp-Session-Id",
            "Mcp-Param-Page-Token",
            "Accept",
            "X-Forwarded-For",
        ] {
            assert!(credential_header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passed_headers_are_never_credentials() {
        for good in ["X-Request-Id", "X-Tenant"] {
            assert!(pass_header(good).is_ok(), "{good}");
        }
        for bad in [
            "Authorization",
            "Cookie",
            "X-Api-Key",
            "X-Auth-Token",
            "apikey",
            "My-Secret",
            "Host",
            "TE",
            "DPoP",
            "X-Amz-Security-Token",
            "Mcp-Auth-Token",
        ] {
            assert!(pass_header(bad).is_err(), "{bad}");
        }
    }
}
