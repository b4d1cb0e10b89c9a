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
    pub const EXPECTED: &'static str =
        "printable ASCII text of at most 1024 characters with {token} exactly once, such as \"Bearer {token}\"";
    /// The longest one.
    pub const MAX: usize = 1024;

    /// Reads `Bearer {token}` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let (prefix, suffix) = text.split_once("{token}")?;
        let printable = text.bytes().all(|b| (0x20..=0x7e).contains(&b));
        let once = !suffix.contains("{token}") && !prefix.starts_with(' ') && !suffix.ends_with(' ');
        (printable && once && text.len() <= Self::MAX).then(|| Self { prefix: prefix.into(), suffix: suffix.into() })
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

/// The longest header or cookie name of a binding.
pub const MAX_FIELD_NAME: usize = 256;

/// Why a text is no header name.
pub const NOT_A_NAME: HeaderFault = HeaderFault("an HTTP header name (RFC 9110 token) of at most 256 characters");
/// Why a header cannot carry the credential.
pub const NO_CREDENTIAL_HEADER: HeaderFault =
    HeaderFault("a header that carries a credential, not one that frames or routes the request");
/// Why a header of the agent may not go through.
pub const NO_PASS_HEADER: HeaderFault =
    HeaderFault("a header that neither frames the request nor looks like a credential (cookies: passCookies)");

fn header_name(text: &str) -> Result<HeaderName, HeaderFault> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| NOT_A_NAME)?;
    if text.len() > MAX_FIELD_NAME { Err(NOT_A_NAME) } else { Ok(name) }
}

/// Reads the name of the header that the credential goes into.
pub fn credential_header(text: &str) -> Result<HeaderName, HeaderFault> {
    let name = header_name(text)?;
    if NOT_FOR_CREDENTIALS.iter().any(|names| names.have(name.as_str().as_bytes())) {
        return Err(NO_CREDENTIAL_HEADER);
    }
    Ok(name)
}

/// Reads the name of an agent's header that may go through.
pub fn pass_header(text: &str) -> Result<HeaderName, HeaderFault> {
    let name = header_name(text)?;
    if NOT_PASSED.iter().any(|names| names.have(name.as_str().as_bytes())) {
        return Err(NO_PASS_HEADER);
    }
    Ok(name)
}

/// A set of header names in lower case, told by how they look.
#[derive(Debug)]
pub struct HeaderNames {
    /// Whole names.
    pub names: &'static [&'static str],
    /// How a name may begin.
    pub prefixes: &'static [&'static str],
    /// How a name may end.
    pub suffixes: &'static [&'static str],
    /// What may stand anywhere in it, of two characters at least.
    pub parts: &'static [&'static str],
    /// Names that look like it and are not.
    pub but: Option<&'static HeaderNames>,
}

impl HeaderNames {
    /// Whether `name`, in lower case, is one of them.
    pub fn have(&self, name: &[u8]) -> bool {
        // No name is on a list and on the one that takes from it, as a test sees to.
        if self.names.iter().any(|known| known.as_bytes() == name) {
            return true;
        }
        let looks = self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
            || self.suffixes.iter().any(|suffix| name.ends_with(suffix.as_bytes()))
            || self.have_part_of(name);
        looks && !self.but.is_some_and(|but| but.have(name))
    }

    fn have_part_of(&self, name: &[u8]) -> bool {
        self.parts.iter().any(|part| name.windows(part.len()).any(|place| place == part.as_bytes()))
    }
}

/// What the credential may not go into.
pub const NOT_FOR_CREDENTIALS: [&HeaderNames; 3] = [&FRAMING, &FORWARDED, &COOKIES];
/// What of the agent's never goes through.
pub const NOT_PASSED: [&HeaderNames; 2] = [&FRAMING, &CREDENTIAL_LIKE];

/// Headers that carry the message, not its meaning: never from the agent, never for a credential.
const FRAMING: HeaderNames = HeaderNames {
    names: &[
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
    ],
    prefixes: &["proxy-connection", "x-forwarded-"],
    suffixes: &[],
    parts: &[],
    but: None,
};

/// Request headers of the agent that always go through.
const FORWARDED: HeaderNames = HeaderNames {
    names: &[
        "accept",
        "content-type",
        "content-length",
        "user-agent",
        "origin",
        "last-event-id",
        "traceparent",
        "tracestate",
        "baggage",
    ],
    prefixes: &["mcp-"],
    suffixes: &[],
    parts: &[],
    but: Some(&CREDENTIAL_LIKE),
};

/// Cookies have rules of their own: `passCookies`.
const COOKIES: HeaderNames = HeaderNames { names: &["cookie"], prefixes: &[], suffixes: &[], parts: &[], but: None };

/// They mirror a tool's arguments and have their names (`Mcp-Param-Page-Token`).
const MIRRORED: HeaderNames =
    HeaderNames { names: &[], prefixes: &["mcp-param-"], suffixes: &[], parts: &[], but: None };

const CREDENTIAL_LIKE: HeaderNames = HeaderNames {
    names: &["authorization", "proxy-authorization", "cookie", "set-cookie", "dpop", "x-api-key"],
    prefixes: &[],
    suffixes: &["-authorization"],
    parts: &["token", "secret", "password", "credential", "apikey", "api-key", "auth-key", "access-key"],
    but: Some(&MIRRORED),
};

/// Request headers of the agent that always go through.
pub fn is_forwarded(name: &[u8]) -> bool {
    FORWARDED.have(name)
}

/// Headers that are, or are named like, credentials. Also what counts as "the agent's own token".
/// `Mcp-Param-*` are not: they mirror a tool's arguments and have their names (`Mcp-Param-Page-Token`).
pub fn looks_like_credential(name: &[u8]) -> bool {
    CREDENTIAL_LIKE.have(name)
}

/// What a cookie's name must be.
pub const COOKIE_NAME: &str = "a cookie name (RFC 6265 token) of at most 256 characters";

/// Whether `text` can be a cookie's name (RFC 6265: a token).
pub fn is_cookie_name(text: &str) -> bool {
    header_name(text).is_ok()
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
        let long = |length: usize| format!("{}{{token}}", "a".repeat(length - 7));
        assert!(parts(&long(Format::MAX)).is_some());
        let too_long = long(Format::MAX + 1);
        for bad in
            ["", "Bearer", "{token}{token}", "{token} ", " {token}", "a\n{token}", "é{token}", "{Token}", &too_long]
        {
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
    fn the_lists_are_as_the_search_in_them_needs() {
        for set in [&FRAMING, &FORWARDED, &COOKIES, &MIRRORED, &CREDENTIAL_LIKE] {
            let taken: Vec<_> =
                set.names.iter().filter(|name| set.but.is_some_and(|but| but.have(name.as_bytes()))).collect();
            assert!(taken.is_empty(), "{taken:?}");
            assert!(set.parts.iter().all(|part| part.len() > 1), "{:?}", set.parts);
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
