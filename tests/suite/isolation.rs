//! Callers, servers and generations never share a connection, a session or a credential.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::support::capture::Request;
use crate::support::refusal::{Form, Refusal};
use crate::support::{
    Answer, Binding, Capture, Message, Protocol, Sidecar, assert_refusal, repeated, rpc, unique_secret, within,
};

/// Which values of `of` each connection has carried.
fn per_connection(requests: &[Request], of: impl Fn(&Request) -> String) -> BTreeMap<usize, BTreeSet<String>> {
    let mut map: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for request in requests {
        map.entry(request.connection).or_default().insert(of(request));
    }
    map
}

fn token(request: &Request) -> String {
    request.values("authorization").join(" and ")
}

/// Sends `count` calls to each (sidecar, server) at the same time, on a few connections each.
async fn interleave(callers: &[(&Sidecar, &str)], count: usize) {
    let calls = (0..count).flat_map(|n| callers.iter().map(move |(sidecar, server)| (n, *sidecar, *server)));
    for batch in calls.collect::<Vec<_>>().chunks(20) {
        let asked = batch.iter().map(|(n, sidecar, server)| async move {
            sidecar.post(server, rpc::call(*n, "search")).await.assert_ok();
        });
        within("a batch of calls", futures_util::future::join_all(asked)).await;
    }
}

/// T4, attack 9: two callers, one upstream, 200 interleaved calls: no socket carries two tokens,
/// and each caller's calls carry its own.
#[tokio::test]
async fn two_callers_never_share_a_connection() {
    for protocol in [Protocol::Plain, Protocol::Tls, Protocol::H2] {
        let capture = Capture::start(protocol).await;
        let (first, second) = (unique_secret(), unique_secret());
        let one = Sidecar::for_research().binding(Binding::new("github").to(&capture).token(&first)).start().await;
        let billing =
            Binding::new("github").to(&capture).token(&second).set("/serviceAccounts", json!(["billing-agent"]));
        let two = Sidecar::for_caller("research", "billing-agent").binding(billing).start().await;
        interleave(&[(&one, "github"), (&two, "github")], 100).await;
        let requests = capture.requests();
        assert_eq!(requests.len(), 200);
        let map = per_connection(&requests, token);
        assert!(map.values().all(|tokens| tokens.len() == 1), "{protocol:?}: {map:?}");
        for secret in [first, second] {
            let carried = requests.iter().filter(|request| token(request) == format!("Bearer {secret}")).count();
            assert_eq!(carried, 100, "{protocol:?}");
        }
    }
}

/// T4: the same with two servers of one caller on one origin.
#[tokio::test]
async fn two_servers_never_share_a_connection() {
    for protocol in [Protocol::Plain, Protocol::Tls, Protocol::H2] {
        let capture = Capture::start(protocol).await;
        let bind =
            |name: &str| Binding::new(name).to(&capture).url(&capture.url(&format!("/{name}"))).token(unique_secret());
        let sidecar = Sidecar::for_research().binding(bind("a")).binding(bind("b")).start().await;
        interleave(&[(&sidecar, "a"), (&sidecar, "b")], 100).await;
        let requests = capture.requests();
        assert_eq!(requests.len(), 200);
        let tokens = per_connection(&requests, token);
        assert!(tokens.values().all(|tokens| tokens.len() == 1), "{protocol:?}: {tokens:?}");
        let targets = per_connection(&requests, |request| request.target.clone());
        assert!(targets.values().all(|targets| targets.len() == 1), "{protocol:?}: {targets:?}");
    }
}

/// T5: servers that share the very same secret value still get connections of their own: what keys
/// a pool is who and where, never the value.
#[tokio::test]
async fn equal_values_still_give_separate_connections() {
    for protocol in [Protocol::Plain, Protocol::Tls, Protocol::H2] {
        let capture = Capture::start(protocol).await;
        let secret = unique_secret();
        let bind = |name: &str| Binding::new(name).to(&capture).url(&capture.url(&format!("/{name}"))).token(&secret);
        let sidecar = Sidecar::for_research().binding(bind("a")).binding(bind("b")).start().await;
        interleave(&[(&sidecar, "a"), (&sidecar, "b")], 50).await;
        let targets = per_connection(&capture.requests(), |request| request.target.clone());
        assert!(targets.len() >= 2 && targets.values().all(|targets| targets.len() == 1), "{protocol:?}: {targets:?}");
    }
}

/// T5, T18: after a rotation no socket carries two generations, also with calls under way all the time.
#[tokio::test]
async fn generations_never_share_a_connection() {
    for protocol in [Protocol::Plain, Protocol::Tls, Protocol::H2] {
        let capture = Capture::start(protocol).await;
        let binding = Binding::new("github").to(&capture).token(unique_secret());
        let sidecar = Sidecar::for_research().binding(binding.clone()).start().await;
        for _ in 0..3 {
            interleave(&[(&sidecar, "github")], 10).await;
            let fresh = unique_secret();
            sidecar.files().replace_secret(&binding.secret_name(), "token", fresh.as_bytes());
            repeated("calls with the new value", async || {
                let number = capture.count();
                interleave(&[(&sidecar, "github")], 4).await;
                let fresh = |request: &Request| token(request) == format!("Bearer {fresh}");
                capture.requests()[number..].iter().all(fresh).then_some(())
            })
            .await;
        }
        let map = per_connection(&capture.requests(), token);
        assert!(map.len() >= 4 && map.values().all(|tokens| tokens.len() == 1), "{protocol:?}: {map:?}");
    }
}

/// A second document of the same name, added at run time, is another binding under a false name: it
/// neither takes the first one's place nor gives it its credential, nor is it served.
#[tokio::test]
async fn a_second_document_of_one_name_changes_nothing() {
    let (first, second) = (Capture::start(Protocol::Tls).await, Capture::start(Protocol::Tls).await);
    let (mine, theirs) = (unique_secret(), unique_secret());
    let sidecar = Sidecar::for_research().binding(Binding::new("one").to(&first).token(&mine)).start().await;
    sidecar.post("one", rpc::list(1)).await.assert_ok();
    sidecar.files().add(&Binding::new("two").to(&second).token(&theirs).object_name("one"));
    sidecar.diagnostic("is not served").await;
    for number in 0..20 {
        sidecar.post("one", rpc::list(number)).await.assert_ok();
        sidecar.post("two", rpc::list(number)).await.assert_refused("unbound_server");
    }
    second.assert_untouched();
    let values: BTreeSet<String> = first.requests().iter().map(token).collect();
    assert_eq!(values, BTreeSet::from([format!("Bearer {mine}")]));
}

/// T6: a session id that one server gave out is refused at another before a byte leaves; its
/// owner still takes it, and ids that nobody knows pass for the upstream to judge.
#[tokio::test]
async fn a_session_of_another_server_is_foreign() {
    let owner = Capture::start(Protocol::Tls).await;
    let other = Capture::start(Protocol::Tls).await;
    let session = unique_secret();
    let given = session.clone();
    owner.always(move |request| Answer::session(request, &given));
    let sidecar = Sidecar::for_research()
        .binding(Binding::new("owner").to(&owner).token(unique_secret()))
        .binding(Binding::new("other").to(&other).token(unique_secret()))
        .start()
        .await;
    sidecar.post("owner", rpc::initialize(1)).await.assert_ok();
    let refusal = Refusal { reason: "session_foreign", server: "other", form: Form::Rpc("7") };
    let post = |server: &str, id: &str| Message::post(server, rpc::list(7)).header("Mcp-Session-Id", id);
    assert_refusal(&sidecar, &post("other", &session).bytes("127.0.0.1"), refusal).await;
    let as_text = Refusal { form: Form::Text, ..refusal };
    let get = Message::get("other").header("Mcp-Session-Id", &session);
    assert_refusal(&sidecar, &get.bytes("127.0.0.1"), as_text).await;
    assert_refusal(&sidecar, &Message::delete("other", &session).bytes("127.0.0.1"), as_text).await;
    let message =
        Message::post("other", rpc::notification("notifications/initialized")).header("Mcp-Session-Id", &session);
    assert_refusal(&sidecar, &message.bytes("127.0.0.1"), as_text).await;
    other.assert_untouched();
    sidecar.ask(post("owner", &session)).await.assert_ok();
    sidecar.ask(post("other", "unknown-id")).await.assert_ok();
}

/// T6: a server that has learned another's session id and gives it out as its own takes nothing from the
/// owner; not when it gives it again, not with a DELETE of its own. To a third one the id stays foreign.
#[tokio::test]
async fn a_session_cannot_be_claimed() {
    let capture = Capture::start(Protocol::Tls).await;
    let session = unique_secret();
    let given = session.clone();
    capture.always(move |request| Answer::session(request, &given));
    let bind =
        |name: &str| Binding::new(name).to(&capture).url(&capture.url(&format!("/{name}"))).token(unique_secret());
    let sidecar = ["owner", "thief", "third"]
        .into_iter()
        .fold(Sidecar::for_research(), |sidecar, name| sidecar.binding(bind(name)));
    let sidecar = sidecar.start().await;
    let post = |server: &str| Message::post(server, rpc::list(7)).header("Mcp-Session-Id", &session);
    for server in ["owner", "thief", "owner", "thief"] {
        sidecar.post(server, rpc::initialize(1)).await.assert_ok();
        sidecar.ask(post("third")).await.assert_refused("session_foreign");
    }
    capture.always(Answer::result);
    sidecar.ask(post("owner")).await.assert_ok();
    assert_eq!(sidecar.ask(Message::delete("thief", &session)).await.status, 204);
    sidecar.ask(post("owner")).await.assert_ok();
    for stranger in ["thief", "third"] {
        sidecar.ask(post(stranger)).await.assert_refused("session_foreign");
    }
}

/// T6: after DELETE the id is nobody's.
#[tokio::test]
async fn a_deleted_session_is_forgotten() {
    let capture = Capture::start(Protocol::Tls).await;
    capture.always(|request| Answer::session(request, "s-1"));
    let bind =
        |name: &str| Binding::new(name).to(&capture).url(&capture.url(&format!("/{name}"))).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(bind("a")).binding(bind("b")).start().await;
    sidecar.post("a", rpc::initialize(1)).await.assert_ok();
    let post = || Message::post("b", rpc::list(7)).header("Mcp-Session-Id", "s-1");
    sidecar.ask(post()).await.assert_refused("session_foreign");
    capture.always(Answer::result);
    assert_eq!(sidecar.ask(Message::delete("a", "s-1")).await.status, 204);
    sidecar.ask(post()).await.assert_ok();
}

/// T13: policy comes before the credential. Where both would refuse, the policy's reason is given:
/// nobody looked for the Secret. Notifications and late ids do not slip by.
#[tokio::test]
async fn policy_denies_before_the_credential_is_touched() {
    let capture = Capture::start(Protocol::Tls).await;
    let tools = json!({"allow": ["search_*"], "deny": ["search_secrets"]});
    let without = Binding::new("bare").to(&capture).url(&capture.url("/bare")).set("/tools", tools.clone());
    let with = Binding::new("github").to(&capture).token(unique_secret()).set("/tools", tools);
    let sidecar = Sidecar::for_research().binding(without).binding(with).start().await;
    let denied = |server| Refusal { reason: "tool_denied", server, form: Form::Rpc("7") };
    for server in ["bare", "github"] {
        for tool in ["delete_repo", "search_secrets", "Search_code", "search", ""] {
            let message = Message::post(server, rpc::call(7, tool)).bytes("127.0.0.1");
            assert_refusal(&sidecar, &message, denied(server)).await;
        }
        let nameless = rpc::request(7, "tools/call", json!({"arguments": {}}));
        assert_refusal(&sidecar, &Message::post(server, nameless).bytes("127.0.0.1"), denied(server)).await;
        let notification = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "delete_repo"}});
        let as_text = Refusal { form: Form::Text, ..denied(server) };
        assert_refusal(&sidecar, &Message::post(server, notification.to_string()).bytes("127.0.0.1"), as_text).await;
        let escaped = r#"{"jsonrpc":"2.0","params":{"name":"delete\u005frepo"},"m\u0065thod":"tools\/call","id":7}"#;
        assert_refusal(&sidecar, &Message::post(server, escaped).bytes("127.0.0.1"), denied(server)).await;
    }
    sidecar.post("bare", rpc::call(7, "search_code")).await.assert_refused("no_credential");
    capture.assert_untouched();
    sidecar.post("github", rpc::call(7, "search_code")).await.assert_ok();
    sidecar.post("github", rpc::list(7)).await.assert_ok();
}

/// Attack 9: bindings of other service accounts and namespaces do not exist for this caller, even
/// where it could name their Secrets.
#[tokio::test]
async fn other_callers_bindings_do_not_exist() {
    let capture = Capture::start(Protocol::Tls).await;
    let bind =
        |name: &str| Binding::new(name).to(&capture).url(&capture.url(&format!("/{name}"))).token(unique_secret());
    let sidecar = Sidecar::for_research()
        .binding(bind("account").set("/serviceAccounts", json!(["billing-agent"])))
        .binding(bind("prefix").set("/serviceAccounts", json!(["research-agent2", "research"])))
        .binding(bind("space").in_namespace("billing"))
        .start()
        .await;
    for server in ["account", "prefix", "space"] {
        let refusal = Refusal { reason: "unbound_server", server: "", form: Form::Rpc("7") };
        let response = assert_refusal(&sidecar, &Message::post(server, rpc::list(7)).bytes("127.0.0.1"), refusal).await;
        assert!(!response.text().contains("billing"), "it names nothing of others: {}", response.text());
    }
    capture.assert_untouched();
}
