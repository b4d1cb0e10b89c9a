//! Header lists of any make: what passes, passes in order; what does not, does not.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::support::secrets::contains;
use crate::support::{Answer, Binding, Capture, Message, Protocol, Sidecar, rpc, sentinel, unique_secret};

use super::{PROTOCOLS, scene};

/// `passHeaders` lets exactly the named ones through, each line of them, unchanged.
#[tokio::test]
async fn pass_headers_go_through_and_no_others() {
    for protocol in PROTOCOLS {
        let named = json!(["X-Tenant", "x-request-id"]);
        let (capture, sidecar) = scene(protocol, |b| b.token(unique_secret()).set("/passHeaders", named)).await;
        let message = Message::post("github", rpc::list(1))
            .header("x-TENANT", "a")
            .header("X-Tenant", "b, c")
            .header("X-Request-Id", "r")
            .header("X-Tenant-2", "no");
        sidecar.ask(message).await.assert_ok();
        let request = capture.request(0).await;
        assert_eq!(request.values("x-tenant"), ["a", "b, c"]);
        assert_eq!(request.values("x-request-id"), ["r"]);
        assert!(request.values("x-tenant-2").is_empty());
    }
}

/// `passCookies` lets exactly the named cookies through, both ways, without the attributes that
/// speak of the upstream's origin.
#[tokio::test]
async fn pass_cookies_go_both_ways_and_no_others() {
    for protocol in PROTOCOLS {
        let own = sentinel();
        let (capture, sidecar) = scene(protocol, |b| b.token(unique_secret()).set("/passCookies", json!(["lb"]))).await;
        capture.always(|request| {
            let mut answer = Answer::result(request);
            if let Answer::Full { headers, .. } = &mut answer {
                headers
                    .push(("Set-Cookie".into(), "lb=node-2; Path=/mcp; Secure; HttpOnly; Domain=example.test".into()));
                headers.push(("Set-Cookie".into(), "session=stolen; Path=/".into()));
                headers.push(("set-cookie".into(), "lbx=other".into()));
            }
            answer
        });
        let cookies = format!("a={own}; lb=node-1; lbx={own}; LB={own}");
        let message = Message::post("github", rpc::list(1))
            .header("Cookie", &cookies)
            .header("cookie", &format!("session={own}"));
        let response = sidecar.ask(message).await;
        response.assert_ok();
        assert_eq!(capture.request(0).await.values("cookie"), ["lb=node-1"]);
        assert!(!contains(&capture.bytes(), own.as_bytes()));
        let back: Vec<&str> = response
            .head
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie"))
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!(back.len(), 1, "{back:?}");
        assert!(back[0].starts_with("lb=node-2") && !back[0].contains("example.test"), "{back:?}");
    }
}

/// A header line of an agent: names that pass, that carry credentials, and that mean nothing,
/// in any case; values that cannot be mistaken for ours.
fn line() -> impl Strategy<Value = (String, String)> {
    let names = ["mcp-param-a", "mcp-param-b", "x-tenant", "x-key", "authorization", "cookie", "x-other", "x_key"];
    let name = (prop::sample::select(names.to_vec()), any::<u64>()).prop_map(|(name, cases)| {
        let turn = |(n, c): (usize, char)| if cases >> (n % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c };
        name.chars().enumerate().map(turn).collect::<String>()
    });
    (name, "[!-~]([ -~]{0,10}[!-~])?")
}

/// T23: whatever header list the agent sends, exactly one credential line leaves, no line that was
/// not allowed does, and the allowed ones leave in their order.
#[test]
fn any_header_list_leaves_with_exactly_one_credential() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    let secret = unique_secret();
    let (capture, sidecar) = runtime.block_on(async {
        let capture = Capture::start(Protocol::Tls).await;
        let binding = Binding::new("github").to(&capture).token(&secret).header("X-Key", "{token}");
        let binding = binding.set("/passHeaders", json!(["x-tenant"]));
        let sidecar = Sidecar::for_research().binding(binding).start().await;
        (capture, sidecar)
    });
    let config = Config { cases: 128, failure_persistence: None, ..Config::default() };
    let property = |lines: Vec<(String, String)>| {
        runtime.block_on(async {
            let number = capture.requests().len();
            let message = Message::post("github", rpc::list(1));
            let message = lines.iter().fold(message, |message, (name, value)| message.header(name, value));
            sidecar.ask(message).await.assert_ok();
            let request = capture.request(number).await;
            assert_eq!(request.values("x-key"), [secret.as_str()]);
            for refused in ["authorization", "cookie", "x-other", "x_key"] {
                assert!(request.values(refused).is_empty(), "{refused}");
            }
            for passed in ["mcp-param-a", "mcp-param-b", "x-tenant"] {
                let sent: Vec<&str> =
                    lines.iter().filter(|(n, _)| n.eq_ignore_ascii_case(passed)).map(|(_, v)| v.as_str()).collect();
                assert_eq!(request.values(passed), sent, "{passed}");
            }
        });
        Ok(())
    };
    TestRunner::new(config).run(&prop::collection::vec(line(), 0..24), property).expect("the property holds");
    // Both use the runtime's reactor to the end.
    drop((capture, sidecar));
}
