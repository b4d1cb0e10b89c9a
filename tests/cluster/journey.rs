//! From objects on the API server, through `postern broker` and `postern sidecar`, to bytes at an upstream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::suite::agent::Agent;
use crate::suite::answer::{Answer, Stream};
use crate::suite::capture::{Capture, Protocol};
use crate::suite::message::{Message, rpc};
use crate::suite::observed::repeated;
use crate::suite::reader::{Question, Reader};
use crate::suite::secrets::unique_secret;
use crate::suite::sidecar::Sidecar;
use crate::support::deployed::{Deployed, Deployment, OURS};
use crate::support::rights::{Right, rights};
use crate::support::tenant::{Tenant, host};

/// A broker, a namespace, an upstream bound there as `github`, and the sidecar of a pod of `agent`.
struct Scene {
    broker: Deployed,
    tenant: Tenant,
    capture: Capture,
    sidecar: Sidecar,
}

impl Scene {
    /// Nothing is bound yet, but for what `prepare` does.
    async fn start(what: &str, deployment: Deployment, prepare: impl FnOnce(&Tenant, &Capture)) -> Self {
        Self::with_stale(what, deployment, "1h", prepare).await
    }

    async fn with_stale(
        what: &str,
        deployment: Deployment,
        max_stale: &str,
        prepare: impl FnOnce(&Tenant, &Capture),
    ) -> Self {
        let broker = deployment.start().await;
        let tenant = Tenant::new(&broker, what);
        let capture = Capture::start(Protocol::Tls).await;
        prepare(&tenant, &capture);
        broker.ready().await;
        let sidecar = broker.sidecar(&tenant.pod("pod")).broker_field("maxStale", json!(max_stale)).start().await;
        Self { broker, tenant, capture, sidecar }
    }

    /// With a Secret and a binding that are served.
    async fn served(what: &str, deployment: Deployment, token: &str) -> Self {
        let scene = Self::start(what, deployment, |tenant, capture| {
            tenant.secret("github-secret", token, &host(capture));
            tenant.bind("github", capture, |binding| binding);
        })
        .await;
        scene.sidecar.until_served("github", &["source_not_ready", "unbound_server", "no_credential"]).await;
        scene
    }

    /// The credential line of one call, which must pass.
    async fn carried(&self) -> String {
        let number = self.capture.count();
        self.sidecar.post("github", rpc::list(number)).await.assert_ok();
        self.capture.request(number).await.values("authorization").join("|")
    }

    /// Calls until one is refused with this reason; whatever is refused before has one of `meanwhile`.
    async fn until(&self, reason: &str, meanwhile: &[&str]) {
        repeated(&format!("calls to be refused with {reason}"), async || {
            let response = self.sidecar.post("github", rpc::list(7)).await;
            match response.reason() {
                Some(seen) if seen == reason => Some(()),
                Some(seen) => {
                    assert!(meanwhile.contains(&seen), "{seen} before {reason}");
                    None
                }
                None => None,
            }
        })
        .await;
    }

    /// Opens an event stream by GET; it is live.
    async fn open_stream(&self) -> (Stream, Agent) {
        let (stream, answer) = Answer::events();
        self.capture.next(answer);
        let mut agent = self.sidecar.agent().await;
        let head = agent.open(Message::get("github")).await;
        assert!(head.first_line.contains("200"), "{}", head.first_line);
        stream.event("hello");
        agent.until("data: hello\n\n").await;
        (stream, agent)
    }
}

/// A new value in the Secret is on the wire soon, without a restart; every call on the way carries the old one or the
/// new one, and the metric says how long it took.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_value_of_a_secret_reaches_the_wire() {
    let mut before = unique_secret();
    let scene = Scene::served("rotate", Deployment::default(), &before).await;
    assert_eq!(scene.carried().await, format!("Bearer {before}"));
    let mut took = Vec::new();
    for _ in 0..3 {
        let fresh = unique_secret();
        scene.tenant.secret("github-secret", &fresh, &host(&scene.capture));
        let written = Instant::now();
        repeated("the new value", async || {
            let carried = scene.carried().await;
            assert!([&before, &fresh].iter().any(|value| carried == format!("Bearer {value}")), "{carried}");
            (carried == format!("Bearer {fresh}")).then_some(())
        })
        .await;
        took.push(written.elapsed());
        before = fresh;
    }
    println!("from the answer of kubectl to the first call with the new value: {took:?}");
    let lag = scene.sidecar.metric("postern_credential_rotation_lag_seconds", &[("server", "github")]).await;
    println!("the last rotation lag by the metric: {lag} s");
    assert!(lag > 0.0, "it is told");
    assert_eq!(scene.sidecar.metric("postern_credential_generation", &[("server", "github")]).await, 4.0);
}

/// A pod starts with nothing bound; what is bound later is served without a restart, and whatever is missing on the way
/// is refused by its name, with not a byte at the upstream.
#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_missing_is_told_and_mended_without_a_restart() {
    let scene = Scene::start("mend", Deployment::default(), |_, _| {}).await;
    let Scene { tenant, capture, sidecar, .. } = &scene;
    repeated("the pod to start", async || (sidecar.admin("/started").await.status == 200).then_some(())).await;
    scene.until("unbound_server", &["source_not_ready"]).await;
    let hosts = host(capture);
    let token = unique_secret();
    let with = |annotations| tenant.secret_with("github-secret", &token, annotations);

    tenant.bind("github", capture, |binding| binding);
    scene.until("no_credential", &["unbound_server"]).await;
    with(json!({}));
    scene.until("not_consented", &["no_credential"]).await;
    with(json!({"postern.dev/allowed-hosts": "elsewhere.example"}));
    scene.until("not_consented", &[]).await;
    with(json!({"postern.dev/allowed-hosts": hosts, "postern.dev/allowed-service-accounts": "another"}));
    scene.until("not_consented", &[]).await;
    tenant.secret("github-secret", "not printable: \u{e9}", &hosts);
    scene.until("credential_invalid", &["not_consented"]).await;
    capture.assert_untouched();

    with(json!({"postern.dev/allowed-hosts": hosts, "postern.dev/allowed-service-accounts": "agent"}));
    sidecar.until_served("github", &["credential_invalid"]).await;
    assert_eq!(scene.carried().await, format!("Bearer {token}"));
    // What was there and is gone is withdrawn, whatever took it away; and comes back.
    tenant.delete("secret", "github-secret");
    scene.until("credential_revoked", &[]).await;
    let fresh = unique_secret();
    tenant.secret("github-secret", &fresh, &hosts);
    sidecar.until_served("github", &["credential_revoked"]).await;
    assert_eq!(scene.carried().await, format!("Bearer {fresh}"));
    tenant.secret_with("github-secret", &fresh, json!({"postern.dev/allowed-hosts": "elsewhere.example"}));
    scene.until("not_consented", &["credential_revoked"]).await;
    tenant.secret("github-secret", &fresh, &hosts);
    sidecar.until_served("github", &["not_consented"]).await;
    tenant.delete("configmap", "github-ca");
    // A call that was under way is told that its credential went with it.
    scene.until("upstream_tls", &["credential_revoked"]).await;
    let seen = capture.count();
    scene.until("upstream_tls", &[]).await;
    assert_eq!(capture.count(), seen, "nothing goes out without the means to verify who is there");
    tenant.trust("github-ca", capture);
    sidecar.until_served("github", &["upstream_tls"]).await;
    tenant.delete("credentialbinding", "github");
    scene.until("credential_revoked", &[]).await;
}

/// A binding counts in its own namespace and nowhere else, whatever service accounts of other namespaces are called.
#[tokio::test(flavor = "multi_thread")]
async fn a_binding_in_another_namespace_is_nobodys_here() {
    let scene = Scene::start("here", Deployment::default(), |_, _| {}).await;
    let there = Tenant::new(&scene.broker, "there");
    there.secret("github-secret", &unique_secret(), &host(&scene.capture));
    there.bind("github", &scene.capture, |binding| binding);
    // Its own pods have it, so the broker has seen it.
    let sidecar = scene.broker.sidecar(&there.pod("pod")).start().await;
    sidecar.until_served("github", &["source_not_ready", "unbound_server", "no_credential"]).await;
    let seen = scene.capture.count();
    scene.until("unbound_server", &["source_not_ready"]).await;
    assert_eq!(scene.capture.count(), seen);
}

/// Withdrawn is withdrawn in the middle of an answer, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_binding_or_its_secret() {
    let token = unique_secret();
    let scene = Scene::served("cut", Deployment::default(), &token).await;
    for (kind, name) in [("secret", "github-secret"), ("credentialbinding", "github")] {
        let number = scene.capture.count();
        let (_stream, mut agent) = scene.open_stream().await;
        scene.tenant.delete(kind, name);
        let deleted = Instant::now();
        agent.drained().await;
        scene.capture.abandoned(number).await;
        println!("{kind} deleted: the stream ended after {:?}", deleted.elapsed());
        let line = scene.sidecar.next_access("the stream", |line| line["http"] == "GET").await;
        assert_eq!(line["outcome"], "revoked", "{line}");
        scene.tenant.secret("github-secret", &token, &host(&scene.capture));
        scene.tenant.bind("github", &scene.capture, |binding| binding);
        scene.sidecar.until_served("github", &["credential_revoked", "no_credential"]).await;
    }
}

/// While there is no broker, what it told last is used; its restart under load costs no call and no stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_broker_costs_no_call() {
    let first = unique_secret();
    let mut scene = Scene::served("restart", Deployment::default(), &first).await;
    let (stream, mut agent) = scene.open_stream().await;
    let Scene { broker, tenant, capture, sidecar } = &mut scene;
    let stop = AtomicBool::new(false);
    let load = || async {
        let mut calls = 0;
        while !stop.load(Ordering::Relaxed) {
            sidecar.post("github", rpc::list(calls)).await.assert_ok();
            calls += 1;
        }
        calls
    };
    let restarts = async {
        for how in ["KILL", "TERM", "KILL"] {
            broker.process().signal(how);
            assert_eq!(broker.process().exit().await.success(), how == "TERM");
            let without = capture.count();
            repeated("calls without a broker", async || {
                tokio::task::yield_now().await;
                (capture.count() > without + 100).then_some(())
            })
            .await;
            broker.run().await;
            // It has heard of what happened meanwhile once the new value is on the wire.
            let fresh = unique_secret();
            tenant.secret("github-secret", &fresh, &host(capture));
            let line = format!("Bearer {fresh}");
            capture
                .seen()
                .until("the new value", |seen| (seen.requests.last()?.values("authorization") == [&line]).then_some(()))
                .await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (one, two, three, ()) = tokio::join!(load(), load(), load(), restarts);
    println!("{} calls through three restarts, none refused", one + two + three);
    stream.event("still there");
    agent.until("data: still there\n\n").await;
    assert_eq!(sidecar.metric("postern_refusals_total", &[("server", "github")]).await, 0.0);
}

/// Without the API server the broker vouches for nothing: what it told last is used for `maxStale` and no longer, and
/// all is well again when the API server is back.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_values_are_used_until_they_are_stale() {
    let token = unique_secret();
    let scene = Scene::with_stale("stale", Deployment::default(), "5s", |tenant, capture| {
        tenant.secret("github-secret", &token, &host(capture));
        tenant.bind("github", capture, |binding| binding);
    })
    .await;
    scene.sidecar.until_served("github", &["source_not_ready"]).await;
    scene.broker.road.cut();
    scene.broker.until("postern_broker_watches", &[("state", "heard")], 0.0).await;
    assert_eq!(scene.carried().await, format!("Bearer {token}"), "known, and not stale yet");
    assert_eq!(scene.broker.probe("/ready").await, 503);
    assert_eq!(scene.broker.probe("/live").await, 200);
    scene.until("credential_stale", &[]).await;
    let seen = scene.capture.count();
    scene.until("credential_stale", &[]).await;
    assert_eq!(scene.capture.count(), seen);
    // What changes meanwhile is not missed.
    let fresh = unique_secret();
    scene.tenant.secret("github-secret", &fresh, &host(&scene.capture));
    scene.broker.road.open();
    scene.sidecar.until_served("github", &["credential_stale"]).await;
    repeated("the new value", async || (scene.carried().await == format!("Bearer {fresh}")).then_some(())).await;
}

/// Two service accounts, one Secret each, the same server: each has its own, also for a client made by hand.
#[tokio::test(flavor = "multi_thread")]
async fn neither_of_two_accounts_can_get_the_others_credential() {
    let broker = Deployed::start().await;
    let tenant = Tenant::new(&broker, "pair");
    let capture = Capture::start(Protocol::Tls).await;
    let pods = [("one", tenant.pod_of("one")), ("two", tenant.pod_of("two"))];
    let mut values = Vec::new();
    for (name, _) in &pods {
        let value = unique_secret();
        tenant.secret_with(
            &format!("{name}-secret"),
            &value,
            json!({"postern.dev/allowed-hosts": host(&capture), "postern.dev/allowed-service-accounts": name}),
        );
        tenant.bind(name, &capture, |binding| {
            let secret = json!({"name": format!("{name}-secret"), "key": "token"});
            binding
                .set("/serviceAccounts", json!([name]))
                .set("/server/name", json!("github"))
                .set("/credential/secretRef", secret)
        });
        values.push(value);
    }
    // A third binding by which `two` would use the Secret of `one`, whose owner has not agreed to that.
    tenant.bind("theft", &capture, |binding| {
        let secret = json!({"name": "one-secret", "key": "token"});
        binding.set("/serviceAccounts", json!(["two"])).set("/credential/secretRef", secret).url(&capture.url("/theft"))
    });
    broker.ready().await;
    for (at, (_, pod)) in pods.iter().enumerate() {
        let sidecar = broker.sidecar(pod).start().await;
        sidecar.until_served("github", &["source_not_ready", "unbound_server", "no_credential"]).await;
        let number = capture.count();
        sidecar.post("github", rpc::list(1)).await.assert_ok();
        assert_eq!(capture.request(number).await.values("authorization"), [format!("Bearer {}", values[at])]);
        let mut reader = Reader::connect(&broker).await;
        let mut lines = reader.open(&pod.token(&[OURS])).await;
        let told = lines.until("snapshot").await.to_string();
        use base64::Engine as _;
        let encoded = |value: &String| base64::engine::general_purpose::STANDARD.encode(value);
        assert!(told.contains(&encoded(&values[at])));
        assert!(!told.contains(&encoded(&values[1 - at])), "another's value");
        let impersonation = Question::with(&pod.token(&[OURS])).target("/v1/credentials?account=other");
        assert_eq!(reader.refused(impersonation).await.0, 404);
    }
    let thief = broker.sidecar(&pods[1].1).start().await;
    thief.until_served("github", &["source_not_ready"]).await;
    thief.post("theft", rpc::list(1)).await.assert_refused("not_consented");
}

/// The broker reads where a RoleBinding lets it, from the moment it does and no longer than it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_grants_and_withdraws() {
    let broker = Deployment::default().with("--watch-renewal=1s").start().await;
    let tenant = Tenant::without_grant(&broker, "grant");
    let capture = Capture::start(Protocol::Tls).await;
    tenant.secret("github-secret", &unique_secret(), &host(&capture));
    tenant.bind("github", &capture, |binding| binding);
    broker.ready().await;
    let scene = Scene { sidecar: broker.sidecar(&tenant.pod("pod")).start().await, broker, tenant, capture };
    scene.until("no_credential", &["source_not_ready"]).await;
    let line = scene.sidecar.next_access("the refusal", |line| line["reason"] == "no_credential").await;
    assert!(
        line["detail"].as_str().is_some_and(|detail| detail.contains("a RoleBinding there can grant it")),
        "{line}"
    );
    scene.tenant.grant();
    scene.sidecar.until_served("github", &["no_credential", "upstream_tls"]).await;
    scene.broker.until("postern_broker_secrets", &[], 1.0).await;
    scene.tenant.withdraw();
    // What may not be read is not kept.
    scene.broker.until("postern_broker_secrets", &[], 0.0).await;
    scene.until("no_credential", &["credential_revoked", "upstream_tls"]).await;
    scene.tenant.grant();
    scene.sidecar.until_served("github", &["no_credential", "upstream_tls"]).await;
}

/// The broker itself tells what became of a binding, from the first moment and after each change.
#[tokio::test(flavor = "multi_thread")]
async fn a_binding_says_what_became_of_it() {
    let scene = Scene::start("told", Deployment::default(), |_, _| {}).await;
    let Scene { broker, tenant, capture, .. } = &scene;
    tenant.let_status_be_told(broker);
    let ready = || {
        let output = broker.server.kubectl(&["get", "credb", "github", "--namespace", &tenant.namespace]);
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        row.get(3..row.len() - 1).unwrap_or_default().join(" ")
    };
    let until = async |expected: &str| {
        repeated(&format!("the binding to say {expected}"), async || {
            tokio::time::sleep(Duration::from_millis(50)).await;
            (ready() == expected).then_some(())
        })
        .await;
    };
    tenant.bind("github", capture, |binding| binding);
    until("False SecretNotFound").await;
    tenant.secret_with("github-secret", &unique_secret(), json!({}));
    until("False NotConsented").await;
    tenant.secret("github-secret", &unique_secret(), &host(capture));
    until("True Programmed").await;
    scene
        .sidecar
        .until_served("github", &["source_not_ready", "unbound_server", "no_credential", "not_consented"])
        .await;
    tenant.withdraw();
    tenant.delete("secret", "github-secret");
    until("False SecretNotFound").await;
}

/// What is missing without a right of the manifest. With all of them nothing is: every other test shows it.
#[tokio::test(flavor = "multi_thread")]
async fn each_right_of_the_broker_is_needed() {
    for right in rights("rbac-broker.yaml") {
        let broker = Deployment::without(&right).start().await;
        let what = format!("{} {} of {}", right.verb, right.resource, right.role);
        match (right.role.as_str(), right.resource.as_str()) {
            ("postern-broker", "tokenreviews") => {
                broker.ready().await;
                let tenant = Tenant::new(&broker, "right");
                let question = Question::with(&tenant.pod("pod").token(&[OURS]));
                let refused = Reader::connect(&broker).await.refused(question).await;
                assert_eq!(refused, (503, "review_failed".into()), "{what}");
            }
            ("postern-broker", "credentialbindings") => {
                broker.process().stderr.until(&what, |lines| lines.take(denied)).await;
                // Who may list and not watch knows the bindings for a moment, each time it asks.
                repeated(&what, async || (broker.probe("/ready").await == 503).then_some(())).await;
            }
            ("postern-broker-authority", resource) => {
                let find = |line: &str| line.contains("certificate cannot be had or renewed").then(|| line.to_owned());
                let line = broker.process().stderr.until(&what, |lines| lines.take(find)).await;
                let kind = if resource == "secrets" { "Secret" } else { "ConfigMap" };
                assert!(line.contains(kind) && line.contains("403"), "{what}: {line}");
            }
            ("postern-credential-reader", resource) => {
                broker.ready().await;
                let tenant = Tenant::new(&broker, "right");
                let capture = Capture::start(Protocol::Tls).await;
                tenant.secret("github-secret", &unique_secret(), &host(&capture));
                tenant.bind("github", &capture, |binding| binding);
                let kind = if resource == "secrets" { "secrets" } else { "config_maps" };
                let find = |line: &str| {
                    let line: Value = serde_json::from_str(line).ok()?;
                    let told = line["message"].as_str()?.starts_with("the broker may not list and watch these");
                    (told && line["kind"] == kind && line["namespace"] == tenant.namespace).then_some(())
                };
                broker.process().stderr.until(&what, |lines| lines.take(find)).await;
            }
            other => panic!("who needs {other:?}?"),
        }
    }
}

fn denied(line: &str) -> Option<()> {
    line.contains("the broker may not list and watch bindings").then_some(())
}

/// What the test above takes away is what it says.
#[test]
fn the_rights_of_the_broker_are_these() {
    let right = |role: &str, resource: &str, verb: &str| Right {
        role: role.into(),
        resource: resource.into(),
        verb: verb.into(),
    };
    let expected = [
        right("postern-broker", "tokenreviews", "create"),
        right("postern-broker", "credentialbindings", "list"),
        right("postern-broker", "credentialbindings", "watch"),
        right("postern-broker-authority", "secrets", "get"),
        right("postern-broker-authority", "secrets", "patch"),
        right("postern-broker-authority", "configmaps", "get"),
        right("postern-broker-authority", "configmaps", "patch"),
        right("postern-credential-reader", "secrets", "list"),
        right("postern-credential-reader", "secrets", "watch"),
        right("postern-credential-reader", "configmaps", "list"),
        right("postern-credential-reader", "configmaps", "watch"),
    ];
    assert_eq!(rights("rbac-broker.yaml"), expected);
}

/// Heartbeats are what `maxStale` counts from; a broker that has nothing new to say still has them.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_cluster_does_not_grow_stale() {
    let token = unique_secret();
    let scene = Scene::with_stale("quiet", Deployment::default(), "3s", |tenant, capture| {
        tenant.secret("github-secret", &token, &host(capture));
        tenant.bind("github", capture, |binding| binding);
    })
    .await;
    scene.sidecar.until_served("github", &["source_not_ready"]).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        assert_eq!(scene.carried().await, format!("Bearer {token}"));
    }
}
