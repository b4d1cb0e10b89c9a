//! Which place a request means, and what becomes of a connection to a host: as tables.

use std::collections::HashSet;
use std::sync::Arc;

use super::super::request;
use super::super::routes::Route;
use super::*;
use crate::api::document::read_bindings;

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn direct(scheme: Scheme, known: &str, port: Option<u16>) -> Way {
    Way::Direct(Direct { scheme, host: (!known.is_empty()).then(|| host(known)), port, original: None })
}

#[test]
fn everything_that_names_the_place_must_agree() {
    let (http, https) = (Scheme::Http, Scheme::Https);
    let rows = [
        (Way::Proxy, "GET http://h.example/x", "h.example", Some("http h.example:80")),
        (Way::Proxy, "GET http://h.example:8080/x", "h.example:8080", Some("http h.example:8080")),
        (Way::Proxy, "GET http://H.example:80/x", "h.EXAMPLE", Some("http h.example:80")),
        (Way::Proxy, "GET https://h.example/x", "h.example:443", Some("https h.example:443")),
        (Way::Proxy, "GET /x", "h.example", None),
        (Way::Proxy, "GET http://h.example/x", "i.example", None),
        (Way::Proxy, "GET http://h.example/x", "h.example:81", None),
        (Way::Proxy, "GET http://u@h.example/x", "h.example", None),
        (direct(http, "", None), "GET /x", "h.example", Some("http h.example:80")),
        (direct(http, "", None), "GET /x", "h.example:8080", Some("http h.example:8080")),
        (direct(http, "", None), "GET http://h.example/x", "h.example", Some("http h.example:80")),
        (direct(http, "", None), "GET https://h.example/x", "h.example", None),
        (direct(http, "", None), "GET /x", "h.example, i.example", None),
        (direct(http, "", None), "GET /x", "h.example.", None),
        (direct(https, "h.example", None), "GET /x", "h.example", Some("https h.example:443")),
        (direct(https, "h.example", None), "GET /x", "h.example:8443", Some("https h.example:8443")),
        (direct(https, "h.example", None), "GET /x", "i.example", None),
        (direct(https, "h.example", None), "GET https://i.example/x", "i.example", None),
        (direct(https, "h.example", None), "GET http://h.example/x", "h.example", None),
        (direct(https, "h.example", Some(443)), "GET /x", "h.example", Some("https h.example:443")),
        (direct(https, "h.example", Some(8443)), "GET /x", "h.example:8443", Some("https h.example:8443")),
        (direct(https, "h.example", Some(8443)), "GET /x", "h.example", None),
        (direct(https, "10.0.0.1", Some(443)), "GET /x", "10.0.0.1", Some("https 10.0.0.1:443")),
        (direct(http, "h.example", Some(80)), "GET /x", "h.example", Some("http h.example:80")),
        (direct(http, "h.example", Some(80)), "GET /x", "i.example", None),
    ];
    for (way, line, host, expected) in rows {
        let head = request::parse(format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        let found = origin(&head, &way);
        let text = found.as_ref().ok().map(|origin| format!("{} {}", origin.scheme.as_str(), origin.place));
        assert_eq!(text.as_deref(), expected, "{way:?} {line} {host}");
        assert!(found.is_ok() || found.is_err_and(|refusal| refusal.reason == Reason::AuthorityMismatch));
    }
}

#[test]
fn a_call_in_clear_text_may_mean_a_server_with_tls() {
    let rows = [
        ("https", "h.example", 443, "https://h.example/", true),
        ("https", "h.example", 8443, "https://h.example/", false),
        ("https", "h.example", 443, "http://h.example/", false),
        ("https", "i.example", 443, "https://h.example/", false),
        ("http", "h.example", 80, "http://h.example/", true),
        ("http", "h.example", 80, "https://h.example/", true),
        ("http", "h.example", 8443, "https://h.example:8443/", true),
        ("http", "h.example", 80, "https://h.example:8443/", false),
        ("http", "h.example", 443, "http://h.example/", false),
    ];
    for (scheme, name, port, url, expected) in rows {
        let origin = Origin { scheme: Scheme::parse(scheme).unwrap(), place: Place { host: host(name), port } };
        assert_eq!(origin.means(&UpstreamUrl::parse(url).unwrap()), expected, "{scheme} {name} {port} {url}");
    }
}

#[test]
fn patterns_match_whole_labels() {
    let rows = [
        ("h.example", "h.example", true),
        ("h.example", "x.h.example", false),
        ("*.h.example", "x.h.example", true),
        ("*.h.example", "y.x.h.example", true),
        ("*.h.example", "h.example", false),
        ("*.h.example", "xh.example", false),
        ("*.h.example", "10.0.0.1", false),
        ("10.0.0.1", "10.0.0.1", true),
    ];
    for (pattern, name, expected) in rows {
        let read = HostPattern::parse(pattern).unwrap();
        assert_eq!((read.matches(&host(name)), read.to_string().as_str()), (expected, pattern), "{pattern} {name}");
    }
    for bad in ["", "*", "*.", "*.10.0.0.1", "h.example:443", "https://h.example", "x.*.example", "*h.example"] {
        assert_eq!(HostPattern::parse(bad), None, "{bad}");
    }
}

fn routes(urls: &[&str]) -> Routes {
    let text: Vec<String> = (urls.iter().enumerate())
        .map(|(at, url)| {
            format!(
                "apiVersion: postern.dev/v1alpha1\nkind: CredentialBinding\nmetadata: {{name: b{at}, namespace: ns}}\nspec:\n  serviceAccounts: [sa]\n  server: {{name: s{at}, url: '{url}'}}\n  credential: {{type: Bearer, secretRef: {{name: s, key: t}}}}\n"
            )
        })
        .collect();
    let (bindings, problems) = read_bindings("x", &text.join("---\n"));
    assert_eq!(problems, []);
    let routes = bindings.into_iter().map(|b| Route { binding: Arc::new(b.binding), revision: 1 });
    Routes::build(routes, HashSet::new()).0
}

#[test]
fn a_host_that_is_bound_or_was_is_never_led_through() {
    let then = routes(&["https://bound.example/mcp", "https://gone.example/mcp"]);
    let now = routes(&["https://bound.example/mcp", "https://later.example/mcp"]);
    let all = ["*.example", "free.test"].map(|text| HostPattern::parse(text).unwrap()).to_vec();
    let passed = |index: usize| format!("{:?}", Ok::<_, ()>(Verdict::Pass(all[index].clone())));
    let terminate = format!("{:?}", Ok::<_, ()>(Verdict::Terminate));
    let refused = |reason: Reason| format!("{:?}", Err::<(), _>(reason));
    let rows = [
        ("bound.example", terminate.clone(), terminate.clone()),
        ("gone.example", terminate.clone(), terminate.clone()),
        ("later.example", refused(Reason::RestartRequired), terminate),
        ("free.test", passed(1), passed(1)),
        ("other.example", passed(0), passed(0)),
        ("other.test", refused(Reason::UnboundHost), refused(Reason::UnboundHost)),
    ];
    let scope = Interception::new(&then, all.clone());
    for (name, with_tls, in_clear) in rows {
        let told = |verdict: Result<Verdict, Refusal>| format!("{:?}", verdict.map_err(|refusal| refusal.reason));
        assert_eq!(told(scope.verdict(&now, &host(name))), with_tls, "{name}");
        assert_eq!(told(scope.verdict_in_clear(&now, &host(name))), in_clear, "{name} in clear");
    }
}

#[test]
fn a_pattern_covers_what_is_below_it_and_nothing_else() {
    let covers = |one: &str, other: &str| HostPattern::parse(one).unwrap().covers(&HostPattern::parse(other).unwrap());
    for (one, other) in [
        ("a.example", "A.example"),
        ("*.example", "a.example"),
        ("*.example", "b.a.example"),
        ("*.example", "*.a.example"),
        ("*.example", "*.example"),
        ("10.0.0.1", "10.0.0.1"),
    ] {
        assert!(covers(one, other), "{one} {other}");
    }
    for (one, other) in [
        ("a.example", "*.a.example"),
        ("a.example", "b.a.example"),
        ("*.example", "example"),
        ("*.example", "badexample"),
        ("*.example", "*.badexample"),
        ("*.a.example", "*.example"),
    ] {
        assert!(!covers(one, other), "{one} {other}");
    }
}
