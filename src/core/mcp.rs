//! What Postern has to know of MCP itself: protocol versions, method names, mirrored headers.

use super::fields::{Fields, Known, ascii};
use super::message::{Kind, Message};
use base64::Engine as _;

/// The first revision whose mirrored headers must equal the body (SEP-2243).
const FIRST_MIRRORED: &str = "2026-07-28";

/// Method names that may become metric labels and log fields.
const METHODS: [&str; 33] = [
    "initialize",
    "ping",
    "server/discover",
    "subscriptions/listen",
    "tools/list",
    "tools/call",
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
    "completion/complete",
    "logging/setLevel",
    "roots/list",
    "sampling/createMessage",
    "elicitation/create",
    "tasks/get",
    "tasks/update",
    "tasks/cancel",
    "tasks/list",
    "tasks/result",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/message",
    "notifications/roots/list_changed",
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/tasks/status",
];

/// The method as a label: itself if MCP knows it, else `other`. Agents choose method names;
/// labels must not grow with them.
pub fn method_label(method: &str) -> &'static str {
    METHODS.iter().find(|known| **known == method).copied().unwrap_or("other")
}

/// What a mirrored header and the body disagree about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// `MCP-Protocol-Version`.
    #[error("MCP-Protocol-Version and _meta disagree")]
    Version,
    /// `Mcp-Method`.
    #[error("Mcp-Method is missing or differs from the body's method")]
    Method,
    /// `Mcp-Name`.
    #[error("Mcp-Name is missing or differs from the body's name, uri or taskId")]
    Name,
}

/// Checks that the headers which mirror the body say what it says.
///
/// From 2026-07-28 on they must be there, if the transport has them (`demanded`): HTTP+SSE of
/// 2024-11-05 has none, whatever revision is spoken over it. In older revisions servers ignore them,
/// but one that is there must not lie either, since someone on the way may believe it.
pub fn check_mirrors(headers: &Fields, message: &Message<'_>, demanded: bool) -> Result<(), Mismatch> {
    let header_version = single(headers, Known::McpProtocolVersion).map_err(|()| Mismatch::Version)?;
    let body_version = message.params.version.as_deref();
    let mirrored = [header_version, body_version].into_iter().flatten().any(is_mirrored_version);
    let comparable = body_version.is_some() && (demanded || header_version.is_some());
    if mirrored && comparable && header_version != body_version {
        return Err(Mismatch::Version);
    }
    let must = demanded && mirrored && message.kind == Some(Kind::Request);
    let method = single(headers, Known::McpMethod).map_err(|()| Mismatch::Method)?;
    compare(method, message.method.as_deref(), must).ok_or(Mismatch::Method)?;
    let subject = subject(message);
    let name = single(headers, Known::McpName).map_err(|()| Mismatch::Name)?;
    compare(name, subject, must && subject.is_some()).ok_or(Mismatch::Name)
}

/// What `Mcp-Name` mirrors: the tool or prompt, the resource, the task.
fn subject<'a>(message: &'a Message<'_>) -> Option<&'a str> {
    match message.method.as_deref()? {
        "tools/call" | "prompts/get" => message.params.name.as_deref(),
        "resources/read" => message.params.uri.as_deref(),
        "tasks/get" | "tasks/update" | "tasks/cancel" => message.params.task_id.as_deref(),
        _ => None,
    }
}

/// Revisions are dates and compare as text; a text that is no date is not newer than anything.
fn is_mirrored_version(version: &str) -> bool {
    let date = version.len() == 10
        && version.bytes().enumerate().all(|(at, b)| if at == 4 || at == 7 { b == b'-' } else { b.is_ascii_digit() });
    date && version >= FIRST_MIRRORED
}

/// The only value of a header; `Err` if there are several or it is not visible ASCII.
fn single(headers: &Fields, name: Known) -> Result<Option<&str>, ()> {
    let mut values = headers.all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => ascii(value).map(Some).ok_or(()),
        (Some(_), Some(_)) => Err(()),
    }
}

fn compare(header: Option<&str>, body: Option<&str>, must: bool) -> Option<()> {
    match (header, body) {
        (None, _) => (!must).then_some(()),
        (Some(header), Some(body)) => {
            (header == body || decoded(header).as_deref() == Some(body.as_bytes())).then_some(())
        }
        (Some(_), None) => None,
    }
}

/// `=?base64?...?=` carries what is not plain ASCII (SEP-2243).
fn decoded(header: &str) -> Option<Vec<u8>> {
    let inner = header.strip_prefix("=?base64?")?.strip_suffix("?=")?;
    base64::engine::general_purpose::STANDARD.decode(inner).ok()
}

#[cfg(test)]
mod tests {
    use super::super::message::{Body, parse};
    use super::*;
    use http::{HeaderMap, HeaderName, HeaderValue};

    const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
    const METHOD: HeaderName = HeaderName::from_static("mcp-method");
    const NAME: HeaderName = HeaderName::from_static("mcp-name");

    fn check(headers: &[(HeaderName, &str)], body: &str, demanded: bool) -> Result<(), Mismatch> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        let Ok(Body::One(message)) = parse(body.as_bytes()) else { panic!("{body}") };
        check_mirrors(&Fields::from(&map), &message, demanded)
    }

    const NEW: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    const OLD: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#;
    const ACCENT: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"é"}}"#;
    const LIST: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    const V: (HeaderName, &str) = (PROTOCOL_VERSION, "2026-07-28");
    const OLD_V: (HeaderName, &str) = (PROTOCOL_VERSION, "2025-11-25");

    #[test]
    fn mirrored_headers_agree_with_the_body() {
        use Mismatch::*;
        type Row<'a> = (&'a [(HeaderName, &'a str)], &'a str, Result<(), Mismatch>);
        let rows: [Row<'_>; 16] = [
            (&[V, (METHOD, "tools/call"), (NAME, "a")], NEW, Ok(())),
            (&[OLD_V], OLD, Ok(())),
            (&[], OLD, Ok(())),
            (&[V, (METHOD, "tools/list")], LIST, Ok(())),
            (&[OLD_V, (NAME, "=?base64?w6k=?=")], ACCENT, Ok(())),
            (&[OLD_V, (NAME, "=?base64?w6g=?=")], ACCENT, Err(Name)),
            (&[], NEW, Err(Version)),
            (&[OLD_V, (METHOD, "tools/call"), (NAME, "a")], NEW, Err(Version)),
            (&[V, V, (METHOD, "tools/call"), (NAME, "a")], NEW, Err(Version)),
            (&[V, (NAME, "a")], NEW, Err(Method)),
            (&[V, (METHOD, "tools/list"), (NAME, "a")], NEW, Err(Method)),
            (&[V, (METHOD, "tools/call"), (METHOD, "tools/call"), (NAME, "a")], NEW, Err(Method)),
            (&[V, (METHOD, "tools/call")], NEW, Err(Name)),
            (&[V, (METHOD, "tools/call"), (NAME, "b")], NEW, Err(Name)),
            (&[OLD_V, (METHOD, "tools/list")], OLD, Err(Method)),
            (&[OLD_V, (NAME, "x")], LIST, Err(Name)),
        ];
        for (headers, body, expected) in rows {
            assert_eq!(check(headers, body, true), expected, "{headers:?} {body}");
        }
    }

    #[test]
    fn where_none_is_demanded_none_may_lie() {
        use Mismatch::*;
        type Row<'a> = (&'a [(HeaderName, &'a str)], Result<(), Mismatch>);
        let rows: [Row<'_>; 6] = [
            (&[], Ok(())),
            (&[V, (METHOD, "tools/call"), (NAME, "a")], Ok(())),
            (&[V], Ok(())),
            (&[OLD_V], Err(Version)),
            (&[(METHOD, "tools/list")], Err(Method)),
            (&[(NAME, "b")], Err(Name)),
        ];
        for (headers, expected) in rows {
            assert_eq!(check(headers, NEW, false), expected, "{headers:?}");
        }
    }

    #[test]
    fn labels_come_from_the_closed_list() {
        assert_eq!(method_label("tools/call"), "tools/call");
        assert_eq!(method_label("tools/call\"} 1"), "other");
    }
}
