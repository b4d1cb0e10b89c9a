//! What goes out and what comes back, as tables and properties.

use std::sync::Arc;

use super::*;
use crate::api::document::read_bindings;
use http::HeaderMap;
use proptest::prelude::*;

fn binding(extra: &str) -> Binding {
    let text = format!(
        "apiVersion: postern.dev/v1alpha1\nkind: CredentialBinding\nmetadata: {{name: a, namespace: ns}}\nspec:\n  serviceAccounts: [sa]\n  server: {{name: srv, url: https://h.example/mcp, subpaths: true}}\n{extra}\n"
    );
    let (bindings, problems) = read_bindings("x", &text);
    assert_eq!(problems, []);
    bindings.into_iter().next().unwrap().binding
}

fn bearer() -> Binding {
    binding(
        "  credential: {type: Bearer, secretRef: {name: s, key: t}}\n  passHeaders: [X-Tenant]\n  passCookies: [lb]",
    )
}

fn map(fields: &[(&str, &str)]) -> Fields {
    let map: HeaderMap = fields
        .iter()
        .map(|(n, v)| (HeaderName::from_bytes(n.as_bytes()).unwrap(), HeaderValue::from_str(v).unwrap()))
        .collect();
    Fields::from(&map)
}

fn lines(fields: &FieldLines) -> Vec<String> {
    let line = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut lines: Vec<_> = fields.iter().map(|f| format!("{}: {}", line(f.name()), line(f.value()))).collect();
    lines.sort();
    lines
}

fn back(upstream: &Fields, target: &str) -> FieldLines {
    to_agent(upstream, &bearer(), (target, Seen::AtEndpoint), &Mask::new([b"ours-1234".as_slice()])).0
}

#[test]
fn an_echo_in_a_header_is_masked() {
    let upstream = map(&[("X-Debug", "got Bearer ours-1234."), ("Location", "/mcp/ours-1234")]);
    let (headers, masked) =
        to_agent(&upstream, &bearer(), ("/mcp", Seen::AtEndpoint), &Mask::new([b"ours-1234".as_slice()]));
    assert_eq!(lines(&headers), ["location: /srv/*********", "x-debug: got Bearer *********."]);
    assert_eq!(masked, 2);
}

#[test]
fn an_echo_in_the_host_of_a_location_is_masked_before_its_case_changes() {
    let upstream = map(&[("Location", "https://Tok-ABC.evil.example/x")]);
    let (headers, masked) =
        to_agent(&upstream, &bearer(), ("/mcp", Seen::AtEndpoint), &Mask::new([b"Tok-ABC".as_slice()]));
    assert_eq!((lines(&headers), masked), (Vec::new(), 1));
}

#[test]
fn only_named_headers_go_out() {
    let agent = map(&[
        ("Host", "127.0.0.1"),
        ("Authorization", "Bearer agent"),
        ("Proxy-Authorization", "x"),
        ("Cookie", "sid=1; lb=2"),
        ("X-Api-Key", "k"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("Connection", "authorization"),
        ("Accept", "application/json"),
        ("Accept-Encoding", "gzip"),
        ("Mcp-Session-Id", "s"),
        ("Mcp-Param-Region", "eu"),
        ("X-Tenant", "t"),
        ("X-Other", "o"),
        ("Content-Length", "3"),
        ("Content-Type", "application/json"),
        ("Traceparent", "00-1"),
        ("DPoP", "p"),
        ("TE", "trailers"),
    ]);
    assert_eq!(
        lines(&to_upstream(&agent, &bearer()).0),
        [
            "accept-encoding: identity",
            "accept: application/json",
            "content-type: application/json",
            "cookie: lb=2",
            "mcp-param-region: eu",
            "mcp-session-id: s",
            "traceparent: 00-1",
            "x-tenant: t",
        ]
    );
}

#[test]
fn only_what_is_left_behind_counts_as_stripped() {
    let rows: [(&[(&str, &str)], bool); 9] = [
        (&[("Accept", "a"), ("X-Tenant", "t")], false),
        (&[("Authorization", "Bearer agent")], true),
        (&[("X-Api-Key", "k")], true),
        (&[("Mcp-Auth-Token", "t")], true),
        (&[("Mcp-Param-Page-Token", "2")], false),
        (&[("Cookie", "lb=2; ")], false),
        (&[("Cookie", "lb=2; sid=1")], true),
        (&[("Cookie", "lb=2"), ("Cookie", "lb")], true),
        (&[("Cookie", "lb=caf\u{e9}")], true),
    ];
    for (agent, expected) in rows {
        let (agent, binding) = (map(agent), bearer());
        let (out, stripped) = to_upstream(&agent, &binding);
        assert_eq!(stripped, expected, "{agent:?}");
        let out = out.to_map();
        assert!(!out.contains_key("mcp-auth-token"));
        assert_eq!(
            out.contains_key("mcp-param-page-token"),
            agent.iter().any(|field| field.name() == b"mcp-param-page-token")
        );
    }
}

#[test]
fn a_custom_header_leaves_no_authorization() {
    let binding = binding("  credential: {type: Header, secretRef: {name: s, key: t}, header: {name: X-Key}}");
    let agent = map(&[("Authorization", "Bearer agent"), ("x-key", "agent"), ("X-KEY", "agent2")]);
    let (out, stripped) = to_upstream(&agent, &binding);
    assert_eq!((lines(&out), stripped), (vec!["accept-encoding: identity".to_owned()], true));
}

#[test]
fn tokens_leave_the_query() {
    let rows = [
        (None, (None, false)),
        (Some("a=b"), (Some("a=b"), false)),
        (Some("access_token=x"), (None, true)),
        (Some("a=b&ACCESS_token=x&c"), (Some("a=b&c"), true)),
        (Some("a=b&%61ccess_token=x"), (Some("a=b"), true)),
        (Some("a=b;access_token=x&c;d"), (Some("a=b&c;d"), true)),
        (Some("accessToken=x&access.token=x&access%20token=x&access+token=x&access-token=x&a"), (Some("a"), true)),
        (Some("access_token[]=x&%20access_token=x&access%5Ftoken[0]=x;a;;b"), (Some("a;;b"), true)),
        (Some("access_token"), (None, true)),
        (Some("my_access_token=x"), (Some("my_access_token=x"), false)),
        (
            Some("x=access_token&access_tokens=x&accessto%6ben2"),
            (Some("x=access_token&access_tokens=x&accessto%6ben2"), false),
        ),
        (Some("a=b;c&d"), (Some("a=b;c&d"), false)),
    ];
    for (text, expected) in rows {
        let (kept, dropped) = query(text);
        assert_eq!((kept.as_deref(), dropped), expected, "{text:?}");
    }
}

#[test]
fn what_comes_back_cannot_steer_the_agent() {
    let upstream = map(&[
        ("Content-Type", "application/json"),
        ("WWW-Authenticate", "Bearer"),
        ("Optional-WWW-Authenticate", "Bearer"),
        ("Link", "<https://evil.example/authorize>; rel=authorization_endpoint"),
        ("Set-Cookie", "sid=1; Path=/"),
        ("Set-Cookie", "lb=2; Domain=h.example; Secure"),
        ("Alt-Svc", "h3"),
        ("Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("Mcp-Session-Id", "s"),
        ("X-Accel-Buffering", "no"),
    ]);
    assert_eq!(
        lines(&back(&upstream, "/mcp")),
        ["content-type: application/json", "mcp-session-id: s", "set-cookie: lb=2; Path=/srv", "x-accel-buffering: no",]
    );
}

#[test]
fn locations_stay_at_the_endpoint_or_lose_their_secrets() {
    let rows = [
        ("https://h.example/mcp", Some("/srv")),
        ("https://h.example/mcp/", Some("/srv")),
        ("https://h.example:443/mcp/x?a=1&access_token=t", Some("/srv/x?a=1")),
        ("/mcp/y", Some("/srv/y")),
        // No value may end in a blank (RFC 9113 section 8.2.1).
        ("/mcp/y?a=1 #f", Some("/srv/y?a=1")),
        ("/mcp/y?a=1 ;access_token=t", Some("/srv/y?a=1")),
        ("y", Some("/srv/sub/y")),
        ("//h.example/mcp/z", Some("/srv/z")),
        ("https://h.example/other?code=c#f", Some("https://h.example/other")),
        ("http://h.example/mcp", Some("http://h.example/mcp")),
        ("https://h.example:444/mcp", Some("https://h.example:444/mcp")),
        ("https://user:pw@evil.example/mcp?token=t", Some("https://evil.example/mcp")),
        ("//evil.example/mcp", Some("https://evil.example/mcp")),
        ("javascript:alert(1)", None),
        ("https://h.example/mcp/../x", None),
    ];
    for (location, expected) in rows {
        let headers = back(&map(&[("Location", location)]), "/mcp/sub/here?q").to_map();
        assert_eq!(headers.get("location").map(|l| l.to_str().unwrap()), expected, "{location}");
    }
}

proptest! {
    /// T23: whatever the agent sends, nothing of it stands where the credential goes, or in place of it; and fields
    /// that pass keep their order.
    #[test]
    fn no_credential_of_the_agents(fields in proptest::collection::vec(("(authorization|Authorization|AUTHORIZATION|x-key|cookie|Cookie|accept|Accept|mcp-a|X-API-KEY|x-tenant)", "agent-[a-z]{1,5}"), 0..20)) {
        let binding = Arc::new(bearer());
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let out = to_upstream(&map(&fields), &binding).0.to_map();
        for name in ["authorization", "x-key", "cookie", "x-api-key"] {
            prop_assert!(!out.contains_key(name));
        }
        let sent: Vec<_> = fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case("accept")).map(|(_, v)| *v).collect();
        let passed: Vec<_> = out.get_all("accept").iter().map(|v| v.to_str().unwrap()).collect();
        prop_assert_eq!(passed, sent);
    }
}
