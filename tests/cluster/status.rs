//! The status of bindings on a real API server: what it says, who writes it, and when it is not written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use postern::control::index::{Access, Facts};
use postern::control::status::SAYINGS;
use serde_json::{Value, json};

use crate::suite::secrets;
use crate::support::pod::account;

mod events;
mod isolation;
mod leading;
mod rights;
mod stage;

use stage::{Replica, Stage, said};

/// All that is said of a binding whose service accounts are served.
const GOOD: [&str; 4] =
    ["Accepted True Accepted", "ResolvedRefs True Resolved", "Programmed True Programmed", "Isolated True Isolated"];

/// Likewise, where what it refers to is not there.
fn lacking(reason: &str) -> [String; 4] {
    [
        GOOD[0].to_owned(),
        format!("ResolvedRefs False {reason}"),
        format!("Programmed False {reason}"),
        GOOD[3].to_owned(),
    ]
}

/// A binding to the server of its own name, in the Secret `secret`.
fn refers(secret: &str, key: &str) -> impl FnOnce(&mut Value) {
    let reference = json!({"name": secret, "key": key});
    move |document| document["spec"]["credential"]["secretRef"] = reference
}

/// A consenting Secret with a value, and a binding to it that is served.
async fn served(stage: &mut Stage, name: &str) -> Value {
    stage.secret("secret", &json!({"token": secrets::unique_secret()}), &format!("{name}.example"), None);
    stage.bind(name, |_| ());
    stage.until_said(name, &GOOD).await
}

/// Creates a binding for everything that can be wrong with one in a namespace that may be read; what is said of each.
fn troubles(stage: &Stage) -> BTreeMap<&'static str, [String; 4]> {
    let bundle = |name: &'static str| {
        move |document: &mut Value| {
            document["spec"]["server"]["tls"] = json!({"caBundle": {"configMapRef": {"name": name, "key": "ca.crt"}}});
        }
    };
    let map = |name: &str, data: Value| {
        let metadata = json!({"name": name, "labels": {"postern.dev/ca-bundle": "true"}});
        stage.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}));
    };
    account(stage.server, &stage.namespace, "other");
    let value = secrets::unique_secret();
    secrets::remember(&value);
    let hosts = "good.example, no-key.example, bad-value.example, no-bundle.example, bad-bundle.example, \
                 partly.example, not-for-all.example";
    stage.secret("secret", &json!({"token": value, "bad": format!("{value}\nx")}), hosts, None);
    stage.secret("for-agent", &json!({"token": value}), hosts, Some("agent"));
    map("bad", json!({"ca.crt": "no certificate"}));
    stage.bind("good", |_| ());
    stage.bind("no-secret", refers("absent", "token"));
    stage.bind("no-key", refers("secret", "absent"));
    stage.bind("not-consented", |_| ());
    stage.bind("bad-value", refers("secret", "bad"));
    stage.bind("no-bundle", bundle("absent"));
    stage.bind("bad-bundle", bundle("bad"));
    stage.bind("invalid", |document| document["spec"]["server"]["url"] = json!("https://[:::]/"));
    // As old as the others or younger, and later in the alphabet.
    stage.bind("zz-loser", |document| document["spec"]["server"]["name"] = json!("good"));
    stage.bind("zz-partly", |document| {
        document["spec"]["server"]["url"] = json!("https://good.example/mcp");
        document["spec"]["serviceAccounts"] = json!(["agent", "other"]);
    });
    stage.bind("not-for-all", |document| {
        document["spec"]["serviceAccounts"] = json!(["agent", "other"]);
        document["spec"]["credential"]["secretRef"]["name"] = json!("for-agent");
    });
    said_of_troubles()
}

fn said_of_troubles() -> BTreeMap<&'static str, [String; 4]> {
    let own = |words: [&str; 4]| words.map(str::to_owned);
    BTreeMap::from([
        ("good", GOOD.map(str::to_owned)),
        ("no-secret", lacking("SecretNotFound")),
        ("no-key", lacking("KeyNotFound")),
        ("not-consented", lacking("NotConsented")),
        ("bad-value", lacking("InvalidValue")),
        ("no-bundle", lacking("BundleNotFound")),
        ("bad-bundle", lacking("InvalidBundle")),
        ("not-for-all", lacking("NotConsented")),
        (
            "invalid",
            own([
                "Accepted False Invalid",
                "ResolvedRefs Unknown Invalid",
                "Programmed False Invalid",
                "Isolated Unknown Invalid",
            ]),
        ),
        (
            "zz-loser",
            own([
                "Accepted False Conflicted",
                "ResolvedRefs False NotConsented",
                "Programmed False Conflicted",
                GOOD[3],
            ]),
        ),
        ("zz-partly", own(["Accepted True PartlyConflicted", GOOD[1], "Programmed False Conflicted", GOOD[3]])),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_condition_is_told_with_its_reason_and_shown_in_the_table() {
    let mut stage = Stage::new("told").await;
    let expected = troubles(&stage);
    let replica = stage.replica("a");
    let all = stage
        .until("all is said", |stage| {
            let all = stage.bindings();
            let wrong = expected.iter().find(|(name, expected)| said(&all[**name]) != **expected);
            wrong.map_or(Ok(all.clone()), |(name, expected)| {
                Err(format!("{name}: {:#}\nexpected {expected:?}", all[*name]["status"]))
            })
        })
        .await;
    for binding in all.values() {
        assert_eq!(binding["status"]["observedGeneration"], 1, "{binding}");
        let conditions = binding["status"]["conditions"].as_array().expect("conditions");
        assert!(conditions.iter().all(|c| c["observedGeneration"] == 1 && c["message"] != ""), "{binding}");
    }
    let message = |name: &str, condition: usize| all[name]["status"]["conditions"][condition]["message"].clone();
    assert_eq!(
        message("zz-loser", 0),
        "binding good has the same spec.server.name (or covers it) for agent and is older"
    );
    assert_eq!(message("not-for-all", 2), "served for 1 of 2 service accounts: NotConsented for other");
    secrets::assert_none_in("the status", json!(all).to_string().as_bytes());

    let table = stage.server.kubectl(&["get", "credb", "--namespace", &stage.namespace]).stdout;
    let table = String::from_utf8(table).expect("UTF-8");
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().expect("a head"), ["NAME", "SERVER", "URL", "READY", "REASON", "AGE"]);
    let shown: BTreeMap<&str, String> = lines.map(|words| (words[0], words[3..5].join(" "))).collect();
    let programmed = |said: &[String; 4]| said[2].strip_prefix("Programmed ").expect("the third").to_owned();
    assert_eq!(shown, expected.iter().map(|(name, said)| (*name, programmed(said))).collect());
    let ready: Vec<Option<u64>> = expected.keys().map(|name| replica.ready(&stage.id(name))).collect();
    assert_eq!(ready, expected.keys().map(|name| Some(u64::from(*name == "good"))).collect::<Vec<_>>());

    // In namespaces that may not be read, or have not been.
    let mut told: BTreeSet<String> = expected.values().flatten().cloned().collect();
    told.extend(elsewhere().await);
    let listed = SAYINGS.iter().map(|(kind, truth, reason)| format!("{} {} {reason}", kind.as_str(), truth.as_str()));
    let untold: Vec<String> = listed.filter(|saying| !told.contains(saying)).collect();
    assert_eq!(
        untold,
        ["Isolated False AgentCanReadSecret", "Isolated Unknown NotReviewed"],
        "those have their own tests"
    );
}

async fn elsewhere() -> Vec<String> {
    let mut told = Vec::new();
    for (stage, reason, truth) in [
        (Stage::unread("denied").await.with_access(Access::Denied), "NotGranted", "False"),
        (Stage::unread("unread").await, "Pending", "Unknown"),
    ] {
        let mut stage = stage;
        let _replica = stage.replica("a");
        stage.bind("git", |_| ());
        let refs = format!("ResolvedRefs {truth} {reason}");
        let expected = [GOOD[0], &refs, &format!("Programmed False {reason}"), GOOD[3]];
        told.extend(said(&stage.until_said("git", &expected).await));
    }
    told
}

/// The replica that leads next looks at every binding. It finds nothing to write.
#[tokio::test(flavor = "multi_thread")]
async fn what_stands_is_not_written_again() {
    let mut stage = Stage::new("steady").await;
    let expected = troubles(&stage);
    let first = stage.replica("a");
    let names: Vec<&str> = expected.keys().copied().collect();
    stage
        .until("all is said", |stage| {
            let all = stage.bindings();
            let wrong = names.iter().find(|name| said(&all[**name]) != expected[**name]);
            wrong.map_or(Ok(()), |name| Err((*name).to_owned()))
        })
        .await;
    assert!(first.writes("written") >= 11, "{}", first.writes("written"));
    first.stop().await;
    stage.tell().await;
    let versions = |stage: &Stage| {
        let all = stage.bindings().into_iter();
        all.map(|(name, it)| (name, it["metadata"]["resourceVersion"].clone())).collect::<BTreeMap<_, _>>()
    };
    let before = versions(&stage);
    let second = stage.replica("b");
    stage
        .until("each was looked at", |stage| {
            let unseen = names.iter().find(|name| second.ready(&stage.id(name)).is_none());
            unseen.map_or(Ok(()), |name| Err((*name).to_owned()))
        })
        .await;
    // Once more, with a change that can be seen to come after it.
    second.board.mark_all_dirty();
    stage.secret("absent", &json!({"token": "v".repeat(20)}), "no-secret.example", None);
    stage.until_said("no-secret", &GOOD).await;
    let mut after = versions(&stage);
    assert_ne!(after.insert("no-secret".into(), before["no-secret"].clone()), Some(before["no-secret"].clone()));
    assert_eq!(after, before);
    assert_eq!(["written", "failed"].map(|result| second.writes(result)), [1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_spec_is_told_of_with_its_generation() {
    let mut stage = Stage::new("generation").await;
    let _replica = stage.replica("a");
    let before = served(&mut stage, "git").await;
    let patch = r#"{"spec": {"server": {"url": "https://git.example/other"}}}"#;
    stage.server.kubectl(&["patch", "credb", "git", "--namespace", &stage.namespace, "--type=merge", "--patch", patch]);
    let after = stage
        .until("the new generation is told of", |stage| {
            let binding = stage.binding("git");
            if binding["status"]["observedGeneration"] == 2 { Ok(binding) } else { Err(binding["status"].to_string()) }
        })
        .await;
    let mut expected = before["status"].clone();
    expected["observedGeneration"] = json!(2);
    for condition in expected["conditions"].as_array_mut().expect("conditions") {
        condition["observedGeneration"] = json!(2);
    }
    assert_eq!(after["status"], expected, "nothing else has changed, the times neither");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_into_the_status_is_corrected() {
    let mut stage = Stage::new("foreign").await;
    let replica = stage.replica("a");
    let mut before = served(&mut stage, "git").await["status"].clone();
    let theirs = json!({
        "type": "Theirs",
        "status": "True",
        "reason": "Theirs",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let written = replica.writes("written");
    for (count, edit) in [
        json!([{"op": "replace", "path": "/status/conditions/2/status", "value": "False"}]),
        json!([{"op": "replace", "path": "/status/conditions/3/message", "value": "all is well"}]),
        json!([{"op": "remove", "path": "/status/conditions/0"}]),
        json!([{"op": "replace", "path": "/status/observedGeneration", "value": 7}]),
        json!([{"op": "remove", "path": "/status"}]),
    ]
    .into_iter()
    .enumerate()
    {
        patch_status(&stage, &edit);
        stage
            .until("it is corrected", |stage| {
                let mut status = stage.binding("git")["status"].take();
                // A status that was gone for a moment is since now what it is, and a list may be in any order.
                let times = |status: &mut Value| {
                    let conditions = status["conditions"].as_array_mut().into_iter().flatten();
                    conditions.for_each(|condition| condition["lastTransitionTime"] = Value::Null);
                };
                times(&mut status);
                times(&mut before);
                let sorted = |status: &Value| {
                    let mut all = status["conditions"].as_array().cloned().unwrap_or_default();
                    all.sort_by_key(|condition| condition["type"].to_string());
                    (all, status["observedGeneration"].clone())
                };
                if sorted(&status) == sorted(&before) { Ok(()) } else { Err(status.to_string()) }
            })
            .await;
        // It is counted a moment after it can be seen.
        let expected = written + 1 + count as u64;
        await_that(|| if replica.writes("written") < expected { Err(edit.to_string()) } else { Ok(()) }).await;
        assert_eq!(replica.writes("written"), expected, "one write for {edit}");
    }
    // What is none of ours stays.
    patch_status(&stage, &json!([{"op": "add", "path": "/status/conditions/-", "value": theirs}]));
    patch_status(&stage, &json!([{"op": "replace", "path": "/status/observedGeneration", "value": 7}]));
    stage
        .until("it is corrected", |stage| {
            let status = &stage.binding("git")["status"];
            let kept = status["conditions"].as_array().is_some_and(|all| all.contains(&theirs));
            if status["observedGeneration"] == 1 && kept { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
}

fn patch_status(stage: &Stage, patch: &Value) {
    let patch = patch.to_string();
    stage.server.kubectl(&[
        "patch",
        "credb",
        "git",
        "--namespace",
        &stage.namespace,
        "--subresource=status",
        "--type=json",
        "--patch",
        &patch,
    ]);
}

/// A binding that is gone, or is another one of that name, is no failure, and nothing is written to the other one.
#[tokio::test(flavor = "multi_thread")]
async fn a_binding_that_was_replaced_gets_nothing_of_its_predecessor() {
    let mut stage = Stage::new("replaced").await;
    stage.secret("secret", &json!({"token": secrets::unique_secret()}), "git.example", None);
    stage.bind("git", |_| ());
    stage.tell().await;
    let replica = stage.replica("a");
    let mut former = stage.facts("git");
    former.uid = "00000000-0000-4000-8000-000000000000".into();
    former.version = "1".into();
    // It is told of the former one alone.
    let id = stage.id("git");
    replica.board.put(id.clone(), Some(former.clone()));
    await_that(|| outdated(&replica, 1)).await;
    assert_eq!(stage.binding("git")["status"], Value::Null);
    // And of one that nobody knows any more.
    let absent = stage.id("absent");
    replica.board.put(absent.clone(), Some(Facts { id: absent.clone(), ..former }));
    let before = replica.writes("outdated");
    await_that(|| outdated(&replica, before + 1)).await;
    replica.board.put(absent, None);
    stage.until_said("git", &GOOD).await;
    assert_eq!(replica.writes("failed"), 0);
    stage.server.kubectl(&["delete", "credb", "git", "--namespace", &stage.namespace]);
    stage.until("it is forgotten", |_| replica.ready(&id).map_or(Ok(()), |ready| Err(ready.to_string()))).await;
}

fn outdated(replica: &Replica, at_least: u64) -> Result<(), String> {
    let count = replica.writes("outdated");
    if count >= at_least { Ok(()) } else { Err(format!("{count} outdated")) }
}

async fn await_that(mut ask: impl FnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(last) = ask() {
        assert!(begun.elapsed().as_secs() < 60, "not within a minute: {last}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
