//! The header sets, made anew: of the agent's credentials none goes out and of ours exactly one;
//! what comes back can neither steer the agent nor hand it a credential.
//!
//! The input is header lines, read once as the agent's and once as the upstream's.

use std::sync::LazyLock;

use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;
use postern::core::binding::Binding;
use postern::core::fields::{Field, FieldLines, Fields};
use postern::core::mask::Mask;
use postern::core::request;
use postern::core::rewrite::{self, Seen};

use super::bindings::binding;

const SECRET: &str = "Zq7w0Xk9-pL2mN4bV6c";
const SERVER: &str = "url: 'https://h.example/base/', subpaths: true";
/// Names that the input may use and the bindings name.
static BINDINGS: LazyLock<[Binding; 3]> = LazyLock::new(|| {
    let secret = "secretRef: {name: s, key: t}";
    [
        binding("srv", SERVER, &format!("credential: {{type: Bearer, {secret}}}")),
        binding(
            "srv",
            SERVER,
            &format!(
                "credential: {{type: Header, {secret}, header: {{name: X-Key}}}}\n  passHeaders: [X-Tenant]\n  passCookies: [lb, route]"
            ),
        ),
        binding(
            "srv",
            "url: 'https://h.example/mcp'",
            "credential: {type: Basic, secretRef: {name: s}}\n  passCookies: [lb]",
        ),
    ]
});

pub fn check(data: &[u8]) -> &'static str {
    let Some(headers) = headers(data) else { return "malformed" };
    let mut stripped = false;
    for binding in BINDINGS.iter() {
        stripped |= to_upstream(&headers, binding);
        to_agent(&headers, binding);
    }
    if stripped { "stripped" } else { "clean" }
}

fn headers(data: &[u8]) -> Option<Fields> {
    let mut text = b"POST /srv HTTP/1.1\r\n".to_vec();
    for line in data.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        text.extend([line, b"\r\n"].concat());
    }
    // Where they stand makes no difference here, and they are needed.
    let framed = |line: &[u8]| line.to_ascii_lowercase().starts_with(b"host:");
    if !data.split(|byte| *byte == b'\n').any(framed) {
        text.extend(b"Host: 127.0.0.1:15101\r\n");
    }
    text.extend(b"\r\n");
    request::parse(&text).ok().map(|head| head.headers)
}

// ---- out ----

/// Whether something of the agent's had to be left behind that is a credential.
fn to_upstream(agent: &Fields, binding: &Binding) -> bool {
    let name = &binding.credential.header;
    let (lines, stripped) = rewrite::to_upstream(agent, binding);
    let (out, agent) = (map(&lines), map(&lines_of(agent)));

    assert!(!out.contains_key(name), "the one credential is the sender's to add");
    assert_eq!(Vec::from_iter(out.get_all("accept-encoding")), ["identity"]);
    for other in out.keys().filter(|other| *other != "accept-encoding") {
        assert!(is_allowed(other.as_str(), binding), "{other} is not on the list");
        assert!(!is_credential(other.as_str()), "{other} is a credential of the agent's");
        if other != "cookie" {
            assert!(out.get_all(other).iter().eq(agent.get_all(other)), "{other} is not as the agent sent it");
        }
    }
    let cookies = out.get_all("cookie").iter().map(|value| value.to_str().expect("as the agent sent it").to_owned());
    let cookies = cookies.collect::<Vec<_>>();
    assert!(cookies.len() <= 1, "a single line of cookies");
    for cookie in cookies.iter().flat_map(|line| line.split(';')) {
        assert!(is_passed_cookie(cookie, binding), "the cookie {cookie} of the agent's");
    }
    for other in agent.keys().filter(|name| is_allowed(name.as_str(), binding) && *name != "cookie") {
        assert!(out.contains_key(other), "{other} is on the list, and gone");
    }

    let pairs = |headers: &HeaderMap| -> Vec<Vec<u8>> {
        let lines = headers.get_all("cookie").iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        lines.map(|pair| pair.trim_ascii().to_vec()).filter(|pair| !pair.is_empty()).collect()
    };
    let passed = pairs(&out);
    let left_behind = agent.keys().any(|other| other == name || is_credential(other.as_str()))
        || pairs(&agent).iter().any(|pair| !passed.contains(pair));
    assert_eq!(stripped, left_behind, "counted as stripped, or not");
    left_behind
}

fn lines_of(fields: &Fields) -> FieldLines {
    let mut lines = FieldLines::default();
    fields.iter().for_each(|field| lines.push(field));
    lines
}

/// What lines say to a reader of the text.
fn map(lines: &FieldLines) -> HeaderMap {
    let text = [lines.as_bytes(), b"\r\n"].concat();
    let mut room = [httparse::EMPTY_HEADER; 2 * request::MAX_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&text, &mut room) else {
        panic!("no lines of a head: {}", String::from_utf8_lossy(&text))
    };
    let field = |field: &httparse::Header<'_>| {
        (field.name.parse().expect("a name"), HeaderValue::from_bytes(field.value).expect("a value"))
    };
    let map: HeaderMap = fields.iter().map(field).collect();
    assert_eq!(lines.to_map(), map, "the lines say something else than the map");
    map
}

/// The allow-list, as the documentation has it.
fn is_allowed(name: &str, binding: &Binding) -> bool {
    let always =
        ["accept", "content-type", "user-agent", "origin", "last-event-id", "traceparent", "tracestate", "baggage"];
    let passed = binding.pass_headers.iter().any(|passed| passed == name);
    let mcp = name.starts_with("mcp-") && !is_credential(name);
    (always.contains(&name) || mcp || passed || name == "cookie" && !binding.pass_cookies.is_empty())
        && binding.credential.header != name
}

/// Names that stand for a credential wherever they are met. Arguments of tools that are mirrored
/// in `Mcp-Param-*` have the names of arguments.
fn is_credential(name: &str) -> bool {
    let argument = name.starts_with("mcp-param-");
    let known = ["authorization", "proxy-authorization", "dpop", "x-api-key", "set-cookie"];
    let telling = ["token", "secret", "password", "credential", "apikey", "api-key", "auth-key", "access-key"];
    !argument
        && (known.contains(&name) || name.ends_with("-authorization") || telling.iter().any(|part| name.contains(part)))
}

fn is_passed_cookie(pair: &str, binding: &Binding) -> bool {
    pair.split_once('=').is_some_and(|(name, _)| binding.pass_cookies.iter().any(|passed| passed == name.trim()))
}

// ---- back ----

fn to_agent(upstream: &Fields, binding: &Binding) {
    let mask = Mask::new([SECRET.as_bytes()]);
    let (back, masked) = rewrite::to_agent(upstream, binding, ("/base/here?x", Seen::AtEndpoint), &mask);
    let back = map(&back);
    const NEVER: [&str; 18] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "www-authenticate",
        "proxy-authenticate",
        "authentication-info",
        "proxy-authentication-info",
        "alt-svc",
        "refresh",
        "content-location",
        "strict-transport-security",
        "set-cookie2",
        "postern-reason",
    ];
    assert_eq!(back.keys().find(|name| NEVER.contains(&name.as_str())), None);
    let mut starred = 0;
    for (name, value) in &back {
        let text = String::from_utf8_lossy(value.as_bytes());
        assert!(!text.contains(SECRET), "{name}: {text}");
        starred += u64::from(text.contains('*'));
    }
    // A name that holds it is dropped, and a location may be: they leave no star.
    let is_unseen = |field: &Field<'_>| {
        mask.is_in_name(field.name()) || field.name() == b"location" && mask.header(field.value()).is_some()
    };
    let unseen = upstream.iter().filter(is_unseen).count() as u64;
    assert!(masked <= starred + unseen, "{masked} masked, in {starred} there are stars, {unseen} leave none");
    for cookie in back.get_all("set-cookie") {
        let cookie = cookie.to_str().expect("what was read as text");
        assert!(is_passed_cookie(cookie, binding) && cookie.ends_with("; Path=/srv"), "{cookie}");
        assert_eq!(cookie.split(';').count(), 2, "{cookie}");
    }
    let locations: Vec<&HeaderValue> = back.get_all("location").iter().collect();
    assert!(locations.len() <= 1);
    for location in locations {
        assert_leads_nowhere_else(location.to_str().expect("what was read as text"), binding);
    }
}

/// To the endpoint, or to another place without what could be a credential on the way.
fn assert_leads_nowhere_else(location: &str, binding: &Binding) {
    let (place, query) = location.split_once('?').map_or((location, None), |(place, query)| (place, Some(query)));
    assert!(!location.contains('#'), "{location}");
    let below = place.strip_prefix("/srv").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if !below {
        let rest = place.strip_prefix("https://").or(place.strip_prefix("http://"));
        let authority = rest.and_then(|rest| rest.split('/').next()).expect("an absolute URL");
        assert!(!authority.contains('@'), "{location}");
        assert_eq!(query, None, "{location}");
        return;
    }
    assert!(place == "/srv" || binding.server.subpaths, "{location}");
    for pair in query.unwrap_or_default().split(['&', ';']) {
        let name = percent_decode_str(pair.split('=').next().unwrap_or_default()).decode_utf8_lossy().to_lowercase();
        assert_ne!(name.trim(), "access_token", "{location}");
    }
}
