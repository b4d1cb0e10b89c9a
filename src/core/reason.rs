//! The closed list of reasons for which a flow is refused.
//!
//! One enum feeds the HTTP answer, the JSON-RPC error, the metric label, the access line and
//! `postern check explain`. A test pins the strings: they are an interface.

use http::StatusCode;

/// Who can mend it: whom to call at 3 a.m.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The agent sent something it should not.
    Agent,
    /// Whoever wrote the binding, the Secret or the configuration.
    Operator,
    /// The MCP server, or the way to it.
    Upstream,
    /// Postern itself: limits and shutdown.
    Us,
}

/// Declares the enum and its table in one place, so that no reason can lack a column.
macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal, $code:literal, $fault:ident, $fix:literal;)*) => {
        /// Why a flow was refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation's table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name: metric label, log field, `data.reason`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The HTTP status of a refusal.
            pub fn status(self) -> StatusCode {
                let code: u16 = match self { $(Self::$variant => $status,)* };
                StatusCode::from_u16(code).unwrap_or(StatusCode::FORBIDDEN)
            }

            /// The JSON-RPC error code. Ours lie outside the range that MCP reserves,
            /// but for the code that MCP 2026-07-28 gives to header mismatches.
            pub const fn code(self) -> i32 {
                match self { $(Self::$variant => $code,)* }
            }

            /// Who can mend it.
            pub const fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)* }
            }

            /// Cause and fix, in one sentence fit for a person or a model to read.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $fix,)* }
            }
        }
    };
}

reasons! {
    /// No binding gives this caller a server of that name.
    UnboundServer = "unbound_server", 403, -31403, Agent,
        "no binding gives this caller a server of that name; use a name from mcp.json, or ask the platform team for a CredentialBinding";
    /// No binding gives this caller that host.
    UnboundHost = "unbound_host", 403, -31403, Agent,
        "no binding gives this caller that host, and it is not among the passthrough hosts; ask the platform team for a CredentialBinding, or for the host in config.postern.dev/passthrough-hosts";
    /// Neither POST of JSON, nor GET of an event stream, nor DELETE of a session.
    NotMcp = "not_mcp", 403, -31403, Agent,
        "only MCP passes: POST with a JSON body, GET that accepts text/event-stream, or DELETE with Mcp-Session-Id";
    /// The bytes are no HTTP at all.
    NotHttp = "not_http", 403, -31403, Agent,
        "the bytes are not a protocol that is served here: HTTP/1.1, and TLS with a server name on the way of the proxy and redirect captures";
    /// CONNECT or an upgrade.
    TunnelForbidden = "tunnel_forbidden", 403, -31403, Agent,
        "tunnels and protocol upgrades are not served; speak MCP over plain requests";
    /// The path leaves what the binding covers.
    PathOutsideBinding = "path_outside_binding", 403, -31403, Agent,
        "the binding covers exactly its url; call the path from mcp.json, or ask for subpaths in the binding";
    /// Host, URL, SNI, CONNECT and listener do not name the same thing.
    AuthorityMismatch = "authority_mismatch", 421, -31421, Agent,
        "everything that names the server must name the same one: Host, the URL, the TLS server name and the target of CONNECT; at the endpoint that is this machine's loopback (127.0.0.1, [::1] or localhost)";
    /// TLS between the agent and us failed.
    AgentTls = "agent_tls", 403, -31403, Agent,
        "the agent's TLS handshake failed; it must speak TLS 1.2 or newer and trust the pod's CA (SSL_CERT_FILE or NODE_EXTRA_CA_CERTS, read when the process starts)";
    /// A browser page of another origin.
    OriginForbidden = "origin_forbidden", 403, -31403, Agent,
        "Origin is not loopback; web pages may not use this endpoint";
    /// A stdio server in a binding or configuration.
    StdioUnsupported = "stdio_unsupported", 403, -31403, Operator,
        "stdio servers cannot be served: Postern guards network calls only; run the server behind Streamable HTTP and bind its https url";
    /// The Secret or its key does not exist.
    NoCredential = "no_credential", 403, -31403, Operator,
        "the binding's Secret or its key does not exist; create it, the next call will use it";
    /// The Secret's owner has not consented to this use of it.
    NotConsented = "not_consented", 403, -31403, Operator,
        "the owner of the Secret has not consented to this use: it needs the label postern.dev/credential, the server's host in postern.dev/allowed-hosts and, where postern.dev/allowed-service-accounts is set, this account in it";
    /// The Secret's value cannot be a credential.
    CredentialInvalid = "credential_invalid", 403, -31403, Operator,
        "the Secret's value is not usable as a credential; the sidecar's log names the rule it breaks";
    /// A plaintext upstream, in a pod whose other containers could read along.
    PodTooWeak = "pod_too_weak", 403, -31403, Operator,
        "the server is bound in clear text, and another container of this pod could read along: let all of them run as non-root and drop all capabilities, or bind an https url";
    /// The binding or its credential was there and is gone.
    CredentialRevoked = "credential_revoked", 403, -31403, Operator,
        "the binding or its Secret was withdrawn; ask the platform team if this was not meant";
    /// The broker has not told yet what this caller has.
    SourceNotReady = "source_not_ready", 503, -31503, Us,
        "the broker has not told yet what this caller may use; retry after a moment";
    /// The broker has not been heard for too long.
    CredentialStale = "credential_stale", 503, -31503, Us,
        "the broker has not been heard for longer than maxStale, so nobody knows whether the credential is still good; retry after a moment";
    /// The broker does not accept the pod's token.
    UnidentifiedCaller = "unidentified_caller", 403, -31403, Operator,
        "the broker does not accept this pod's token, so nobody has proven who calls; the sidecar's log tells more";
    /// The tool policy says no.
    ToolDenied = "tool_denied", 200, -31403, Agent,
        "the binding's tool policy does not allow this tool";
    /// Mirrored headers and body disagree (MCP 2026-07-28).
    HeaderMismatch = "header_mismatch", 400, -32020, Agent,
        "Mcp-Method, Mcp-Name and MCP-Protocol-Version must equal what the body says";
    /// The body is not one strict JSON-RPC message.
    BadJsonRpc = "bad_json_rpc", 400, -31400, Agent,
        "the body must be one JSON-RPC 2.0 message: UTF-8, no duplicate or differently cased keys, no batch, no Content-Encoding";
    /// A head that RFC 9112 forbids, or that two parsers could read differently.
    MalformedHead = "malformed_head", 400, -31400, Agent,
        "the HTTP head is malformed or ambiguous (RFC 9112); send one Host, one framing header and plain CRLF line ends";
    /// The body is over the limit.
    BodyTooLarge = "body_too_large", 413, -31413, Agent,
        "the body is larger than limits.bodyBytes";
    /// The head is over the limit.
    HeadTooLarge = "head_too_large", 431, -31413, Agent,
        "the request head is larger than limits.headBytes or has more than 100 fields";
    /// A limit of ours is reached.
    Overloaded = "overloaded", 503, -31503, Us,
        "the sidecar is at a limit of connections or buffered bodies; retry after a moment";
    /// We are shutting down.
    Draining = "draining", 503, -31503, Us,
        "the sidecar is shutting down; no new calls are taken";
    /// The host was bound after the pod's certificates were made for others.
    RestartRequired = "restart_required", 503, -31503, Operator,
        "the host was bound after this pod started, and the pod's CA is good only for the hosts of then; restart the pod, or call the server by its URL in mcp.json, which works at once";
    /// The session id was given by another server.
    SessionForeign = "session_foreign", 404, -31404, Agent,
        "this session id belongs to another server; initialize again";
    /// A resolved address is one that no upstream may have.
    AddressForbidden = "address_forbidden", 502, -31502, Upstream,
        "the server's name resolves to a loopback, link-local, metadata, multicast or own address; such addresses are never dialled";
    /// TLS with the upstream failed.
    UpstreamTls = "upstream_tls", 502, -31502, Upstream,
        "TLS with the server failed; check its certificate, the binding's tls.caBundle and tls.serverName";
    /// The upstream cannot be reached, or broke the connection.
    UpstreamUnreachable = "upstream_unreachable", 502, -31502, Upstream,
        "the server cannot be reached or broke the connection; check the binding's url and the network policy";
    /// The upstream refused the credential.
    UpstreamAuthRejected = "upstream_auth_rejected", 502, -31502, Upstream,
        "the server refused the bound credential; the owner of the Secret has to renew it (the agent cannot)";
    /// The upstream's body comes compressed, so that an echo of the credential cannot be seen.
    UnscannableResponse = "unscannable_response", 502, -31502, Upstream,
        "the server compressed its answer although it was asked not to; allowCompressed in the binding lets it through unmasked";
    /// The upstream did not answer in time.
    UpstreamTimeout = "upstream_timeout", 504, -31504, Upstream,
        "the server did not answer in time (idleTimeout, connectTimeout)";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dashboards, alerts and agents match on these; changing one is a breaking change.
    #[test]
    fn the_wire_form_of_each_reason_is_pinned() {
        let table: String =
            Reason::ALL.iter().map(|r| format!("{} {} {}\n", r.as_str(), r.status().as_u16(), r.code())).collect();
        assert_eq!(table, include_str!("reason.golden"));
    }

    /// A 401 or 407 sends MCP clients into OAuth discovery or proxy authentication.
    #[test]
    fn no_reason_asks_the_agent_for_a_credential() {
        for reason in Reason::ALL {
            assert!(!matches!(reason.status().as_u16(), 401 | 407), "{reason}");
        }
    }
}
