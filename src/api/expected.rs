//! What a binding may hold: the limits and the texts that its reader and its schema share.

/// The most service accounts of a binding.
pub const MAX_ACCOUNTS: usize = 64;
/// The longest URL.
pub const MAX_URL: usize = 2048;
/// The most entries of `transports`.
pub const MAX_TRANSPORTS: usize = 2;
/// The most entries of `tools.allow` and of `tools.deny`.
pub const MAX_TOOLS: usize = 256;
/// The most entries of `passHeaders` and of `passCookies`.
pub const MAX_PASSED: usize = 64;

/// The text for a list of service accounts that is none.
pub const ACCOUNTS: &str = "a list of 1 to 64 service account names (no wildcard)";
/// The text for an empty list of transports.
pub const SOME_TRANSPORT: &str = "at least one of StreamableHTTP and SSE";
/// The text for a URL that the credential would leave in clear text.
pub const HTTPS_WANTED: &str =
    "an https URL: the credential would travel in clear text; allowPlaintext: true consents to that";
/// The text for a batch beside a tool policy.
pub const NO_BATCH: &str = "false where spec.tools is given: a batch may hide a denied call";
/// The text for a passed header that is the credential's own.
pub const OTHER_HEADER: &str = "headers other than the one the credential goes into";
/// The text for a transport that there is not.
pub const TRANSPORT: &str = "StreamableHTTP or SSE";
/// The text for the name that TLS is to verify.
pub const TLS_NAME: &str = "a DNS name";
/// The text for the keys of another type.
pub const BASIC_KEYS: &str = "usernameKey and passwordKey only with type Basic";
/// The text for the key of another type.
pub const NO_TOKEN_KEY: &str = "usernameKey and passwordKey with type Basic";
/// The text for a format with `Basic`.
pub const NO_FORMAT: &str = "no format with type Basic (RFC 7617 fixes it)";
/// The text for what may not be left out.
pub const REQUIRED: &str = "a value; this field is required";
