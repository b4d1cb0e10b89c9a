//! Tables of consents, and of ways to get more out of one than it says.

use proptest::prelude::*;

use super::*;

fn url(text: &str) -> UpstreamUrl {
    UpstreamUrl::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault}"))
}

fn to(hosts: &str, target: &str) -> bool {
    Consent::read(Some("true"), Some(hosts), None).to(&url(target)).is_ok()
}

#[test]
fn what_is_named_is_allowed() {
    let rows = [
        ("api.example.com", "https://api.example.com/mcp"),
        ("api.example.com", "https://api.example.com:443/mcp"),
        ("api.example.com:443", "https://api.example.com/"),
        ("API.Example.COM", "https://api.example.com/"),
        ("api.example.com", "https://API.EXAMPLE.com/"),
        ("api.example.com:8443", "https://api.example.com:8443/"),
        ("a.example, api.example.com:8443 ,b.example", "https://api.example.com:8443/"),
        ("a.example,\n  api.example.com\n", "https://api.example.com/"),
        ("a.example,,api.example.com,", "https://api.example.com/"),
        ("xn--bcher-kva.example", "https://XN--BCHER-KVA.example/"),
        ("mcp.tools.svc.cluster.local:80", "http://mcp.tools.svc.cluster.local/"),
        ("mcp.tools.svc.cluster.local:8080", "http://mcp.tools.svc.cluster.local:8080/"),
        ("10.1.2.3", "https://10.1.2.3/"),
        ("[2001:db8::1]", "https://[2001:0DB8:0::1]/"),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443/"),
        ("*.example.com, api.example.com", "https://api.example.com/"),
    ];
    for (hosts, target) in rows {
        assert!(to(hosts, target), "{hosts:?} names {target}");
    }
}

#[test]
fn nothing_else_is_allowed() {
    let target = "https://api.example.com/mcp";
    let rows = [
        // Nothing named.
        ("", target),
        (" , ,\t,", target),
        // Another name that begins, ends or goes on like it.
        ("example.com", target),
        (".example.com", target),
        ("api.example.co", target),
        ("api.example.community", target),
        ("xapi.example.com", target),
        ("evil-api.example.com", target),
        ("api.example.com.evil.example", target),
        ("evil.example", "https://api.example.com.evil.example/"),
        ("api.example.com", "https://api.example.com.evil.example/"),
        ("api.example.com", "https://sub.api.example.com/"),
        ("api.example.com", "https://api-example.com/"),
        // No patterns.
        ("*", target),
        ("*.example.com", target),
        ("*:443", target),
        ("api.*.com", target),
        ("api.example.com:*", target),
        ("^api[.]example[.]com$", target),
        ("?pi.example.com", target),
        // Ports.
        ("api.example.com:8443", target),
        ("api.example.com", "https://api.example.com:8443/"),
        ("api.example.com:443", "https://api.example.com:4430/"),
        ("api.example.com:0", target),
        ("api.example.com:", target),
        ("api.example.com:65979", target),
        ("api.example.com:443-445", target),
        ("api.example.com:https", target),
        ("api.example.com:+443", target),
        // Clear text is named by its port.
        ("api.example.com", "http://api.example.com/"),
        ("api.example.com", "http://api.example.com:443/"),
        ("api.example.com:443", "http://api.example.com/"),
        // A host, not a URL, not several at once.
        ("https://api.example.com", target),
        ("//api.example.com", target),
        ("api.example.com/", target),
        ("api.example.com/mcp", target),
        ("user@api.example.com", target),
        ("api.example.com?", target),
        ("api.example.com#", target),
        ("api.example.com evil.example", target),
        ("a.example api.example.com", target),
        ("a.example;api.example.com", target),
        ("a.example|api.example.com", target),
        ("[api.example.com]", target),
        ("\"api.example.com\"", target),
    ];
    for (hosts, target) in rows {
        assert!(!to(hosts, target), "{hosts:?} does not name {target}");
    }
}

#[test]
fn another_text_for_the_same_place_is_not_allowed() {
    let target = "https://api.example.com/mcp";
    let rows = [
        // Forms of one name that are not the same text.
        ("api.example.com.", target),
        ("api. example.com", target),
        ("api.example.com\0", target),
        ("api.example.com\u{a0}", target),
        ("api.example.com\u{200b}", target),
        ("ap\u{131}.example.com", target),
        ("api\u{3002}example.com", target),
        ("\u{430}pi.example.com", target),
        ("b\u{fc}cher.example", "https://xn--bcher-kva.example/"),
        // Addresses.
        ("10.1.2.3", "https://10.1.2.4/"),
        ("10.1.2.0/24", "https://10.1.2.3/"),
        ("010.1.2.3", "https://10.1.2.3/"),
        ("167838211", "https://10.1.2.3/"),
        ("[::ffff:10.1.2.3]", "https://10.1.2.3/"),
        ("10.1.2.3", "https://[::ffff:10.1.2.3]/"),
        ("2001:db8::1", "https://[2001:db8::1]/"),
        ("[2001:db8::1", "https://[2001:db8::1]/"),
        ("localhost", "https://127.0.0.1/"),
    ];
    for (hosts, target) in rows {
        assert!(!to(hosts, target), "{hosts:?} does not name {target}");
    }
}

#[test]
fn the_label_is_the_word_true() {
    let allowed = Some("api.example.com");
    let target = url("https://api.example.com/");
    let agent = ServiceAccount::parse("agent").unwrap();
    let good = Consent::read(Some("true"), allowed, Some("agent"));
    assert_eq!((good.to(&target), good.by(&agent)), (Ok(()), Ok(())));
    for label in [
        None,
        Some(""),
        Some("false"),
        Some("True"),
        Some("TRUE"),
        Some("1"),
        Some("yes"),
        Some(" true"),
        Some("true "),
    ] {
        let consent = Consent::read(label, allowed, Some("agent"));
        assert_eq!(consent.to(&target), Err(Withheld::Label), "{label:?}");
        assert_eq!(consent.by(&agent), Err(Withheld::Label), "{label:?}");
    }
}

#[test]
fn accounts_are_named_exactly_or_not_at_all() {
    let by = |list: Option<&str>| {
        Consent::read(Some("true"), None, list).by(&ServiceAccount::parse("research-agent").unwrap()).is_ok()
    };
    for good in [None, Some("research-agent"), Some("a, research-agent ,b"), Some("*,research-agent")] {
        assert!(by(good), "{good:?}");
    }
    for bad in [
        "",
        " , ",
        "research",
        "agent",
        "research-agent2",
        "research-agent.x",
        "Research-Agent",
        "*",
        "research-*",
        "other",
        "ns/research-agent",
        "ns:research-agent",
        "system:serviceaccount:ns:research-agent",
        "research-agent other",
        "research-agent\u{a0}",
        "!other",
    ] {
        assert!(!by(Some(bad)), "{bad:?}");
    }
}

#[test]
fn what_is_missing_is_told() {
    let target = url("https://api.example.com/");
    let to = |hosts: Option<&str>| Consent::read(Some("true"), hosts, None).to(&target);
    assert_eq!(to(None), Err(Withheld::NoHosts));
    assert_eq!(to(Some(" ,")), Err(Withheld::NoHosts));
    assert_eq!(to(Some("a.example")), Err(Withheld::Host { unreadable: None }));
    assert_eq!(to(Some("a.example, *.example.com, b c")), Err(Withheld::Host { unreadable: Some(2) }));
    let agent = ServiceAccount::parse("agent").unwrap();
    let by = |list| Consent::read(Some("true"), None, Some(list)).by(&agent);
    assert_eq!(by("a"), Err(Withheld::Account { unreadable: None }));
    assert_eq!(by("A"), Err(Withheld::Account { unreadable: Some(1) }));
}

proptest! {
    /// However a list is written, it allows a URL only where one of its entries is that very host and port.
    #[test]
    fn only_an_entry_that_is_the_host_allows_it(
        entries in proptest::collection::vec("[aA.*:/@ \\[\\]0-9-]{0,6}|a\\.a(:443|:80)?", 0..4),
        port in proptest::option::of(prop_oneof![Just(443u16), Just(80u16)]),
        https in any::<bool>(),
    ) {
        let scheme = if https { "https" } else { "http" };
        let target = port.map_or(format!("{scheme}://a.a/"), |port| format!("{scheme}://a.a:{port}/"));
        let target = url(&target);
        let named = entries.iter().flat_map(|entry| entry.split(',')).any(|entry| {
            let entry = entry.trim().to_ascii_lowercase();
            entry == format!("a.a:{}", target.port) || (entry == "a.a" && https && target.port == 443)
        });
        let consent = Consent::read(Some("true"), Some(&entries.join(",")), None);
        prop_assert_eq!(consent.to(&target).is_ok(), named, "{:?} {}", entries, target);
    }
}
