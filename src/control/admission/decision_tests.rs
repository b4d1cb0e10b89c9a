//! The decision against the reviews in tests/golden/admission, and its properties on pods that
//! nobody thought of.
//!
//! `NAME.request.json` is what the API server sends, `NAME.response.json` what it gets, with the
//! patch decoded; there may be a `NAME.namespace.json` and a `NAME.configmaps.json`. In a patch
//! `{"part": ...}` stands for a part of parts.json, `with` for what differs in it, `append` for more elements.

use std::collections::BTreeSet;
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use serde_json::json;

use super::reason::AdmissionReason;
use super::review::Review;
use super::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/admission")
}

fn file(name: &str) -> Option<Value> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).ok()?;
    let text = text.replace("VERSION", env!("CARGO_PKG_VERSION"));
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn names() -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(".request.json").map(str::to_owned)).collect()
}

/// Puts the parts where they are named.
fn assembled(value: &Value, parts: &Value) -> Value {
    match value {
        Value::Object(map) if map.contains_key("part") => {
            let name = map["part"].as_str().unwrap();
            let mut part = parts.get(name).unwrap_or_else(|| panic!("no part {name}")).clone();
            let of = |key: &str| map.get(key).and_then(Value::as_object).into_iter().flatten();
            for (path, value) in of("with") {
                *part.pointer_mut(path).unwrap() = value.clone();
            }
            for (path, values) in of("append") {
                let list = part.pointer_mut(path).unwrap().as_array_mut().unwrap();
                list.extend(values.as_array().unwrap().iter().cloned());
            }
            part
        }
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), assembled(value, parts))).collect(),
        Value::Array(list) => list.iter().map(|value| assembled(value, parts)).collect(),
        other => other.clone(),
    }
}

fn namespace_of(name: &str) -> NamespaceMeta {
    let given = file(&format!("{name}.namespace")).unwrap_or_default();
    let map = |key: &str| serde_json::from_value(given.get(key).cloned().unwrap_or_else(|| json!({}))).unwrap();
    NamespaceMeta { labels: map("labels"), annotations: map("annotations") }
}

fn config_maps_of(name: &str) -> Vec<ConfigMap> {
    let given = file(&format!("{name}.configmaps")).unwrap_or_else(|| json!([]));
    let map = |one: &Value| ConfigMap { name: one["name"].as_str().unwrap().into(), data: one["data"].clone() };
    given.as_array().unwrap().iter().map(map).collect()
}

/// What the decision says, as the file has it.
fn answer(name: &str) -> Value {
    let body = file(&format!("{name}.request")).unwrap().to_string();
    let review = Review::read(body.as_bytes()).unwrap();
    let verdict = match review.pod() {
        Ok(pod) => decide(pod, &namespace_of(name), &config_maps_of(name), &testing::settings()),
        Err(why) => Verdict { outcome: Outcome::Unchanged(why), warnings: Vec::new() },
    };
    let mut answer = review.answer(&verdict);
    if let Some(patch) = answer.pointer_mut("/response/patch") {
        let decoded = BASE64_STANDARD.decode(patch.as_str().unwrap()).unwrap();
        *patch = serde_json::from_slice(&decoded).unwrap();
    }
    answer
}

#[test]
fn each_golden_review_gets_its_answer() {
    let parts = file("parts").unwrap();
    let names = names();
    assert!(names.len() > 40, "{names:?}");
    for name in &names {
        let expected = file(&format!("{name}.response")).unwrap_or_else(|| panic!("{name} has no response"));
        assert_eq!(answer(name), assembled(&expected, &parts), "{name}");
    }
}

#[test]
fn each_reason_has_a_golden_review() {
    let mut seen = BTreeSet::new();
    for name in names() {
        let answer = answer(&name);
        let message = answer.pointer("/response/status/message").and_then(Value::as_str).unwrap_or_default();
        seen.extend(
            message
                .split(" | ")
                .filter_map(|one| Some(one.trim_start_matches("postern: ").split_once(": ")?.0.to_owned())),
        );
    }
    let wanted = AdmissionReason::ALL.iter().map(|reason| reason.as_str().to_owned());
    // Those are no pod's fault, and are not found out here.
    let ours = ["namespace_unknown", "broker_ca_unknown"];
    let wanted: BTreeSet<String> = wanted.filter(|name| !ours.contains(&name.as_str())).collect();
    assert_eq!(seen, wanted);
}

/// A sidecar that could trust nobody is not injected; who asked for none is left alone all the same.
#[test]
fn without_the_brokers_certificates_nothing_is_injected() {
    let mut settings = testing::settings();
    settings.broker_ca = None;
    let outcome = |name: &str| {
        let request = file(&format!("{name}.request")).unwrap();
        let review = Review::read(request.to_string().as_bytes()).unwrap();
        decide(review.pod().unwrap(), &namespace_of(name), &[], &settings).outcome
    };
    let refused = outcome("patch-full");
    let Outcome::Refused(faults) = &refused else { panic!("{refused:?}") };
    assert_eq!(faults.iter().map(|fault| fault.reason).collect::<Vec<_>>(), [AdmissionReason::BrokerCaUnknown]);
    assert_eq!(outcome("unchanged-not-asked"), Outcome::Unchanged(Unchanged::NotAsked));
}

// ---- properties ----

/// Any JSON, as fields that this version does not know.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~é☃\"\\\\]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z~/]{1,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Fields of names that no rule knows.
fn unknown() -> impl Strategy<Value = serde_json::Map<String, Value>> {
    prop::collection::btree_map("x-[a-z~/.]{1,8}", anything(), 0..4).prop_map(|map| map.into_iter().collect())
}

/// Present, null, or not there.
fn maybe(value: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Option<Value>> {
    prop_oneof![Just(None), Just(Some(Value::Null)), value.prop_map(Some)]
}

fn with(mut map: serde_json::Map<String, Value>, fields: Vec<(&str, Option<Value>)>) -> Value {
    map.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Value::Object(map)
}

fn named_objects(prefix: &'static str) -> impl Strategy<Value = Value> {
    prop::collection::vec(unknown(), 0..3).prop_map(move |all| {
        let named = |(index, map)| with(map, vec![("name", Some(json!(format!("{prefix}{index}"))))]);
        all.into_iter().enumerate().map(named).collect()
    })
}

fn mounts() -> impl Strategy<Value = Value> {
    named_objects("v").prop_map(|mut list| {
        for (index, mount) in list.as_array_mut().unwrap().iter_mut().enumerate() {
            mount["mountPath"] = json!(format!("/m{index}"));
        }
        list
    })
}

fn containers(prefix: &'static str, least: usize) -> impl Strategy<Value = Value> {
    let one = (unknown(), maybe(named_objects("E")), maybe(mounts()), any::<bool>());
    prop::collection::vec(one, least..4).prop_map(move |all| {
        let named = |(index, (map, env, mounts, safe)): (usize, (_, _, _, bool))| {
            let context =
                json!({"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
            let name = Some(json!(format!("{prefix}{index}")));
            with(
                map,
                vec![
                    ("name", name),
                    ("env", env),
                    ("volumeMounts", mounts),
                    ("securityContext", safe.then_some(context)),
                ],
            )
        };
        all.into_iter().enumerate().map(named).collect()
    })
}

prop_compose! {
    fn pods()(
        top in unknown(), meta in unknown(), spec in unknown(),
        labels in maybe(Just(json!({"app": "x"}))), annotations in maybe(Just(json!({"a/b": "c~d"}))),
        metadata in any::<bool>(),
        volumes in maybe(named_objects("v")), secrets in maybe(named_objects("s")),
        init in maybe(containers("i", 0)), main in containers("c", 1),
    ) -> Value {
        let spec = with(spec, vec![
            ("volumes", volumes), ("imagePullSecrets", secrets), ("initContainers", init), ("containers", Some(main)),
        ]);
        let meta = metadata.then(|| with(meta, vec![("labels", labels), ("annotations", annotations)]));
        with(top, vec![("metadata", meta), ("spec", Some(spec))])
    }
}

fn enabled(capture: Capture) -> NamespaceMeta {
    let pair = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    NamespaceMeta {
        labels: pair("postern.dev/inject", "enabled"),
        annotations: pair("config.postern.dev/capture", capture.as_str()),
    }
}

fn captures() -> impl Strategy<Value = Capture> {
    prop::sample::select(&Capture::ALL[..])
}

fn with_secrets() -> InjectionSettings {
    let mut settings = testing::settings();
    settings.image_pull_secrets = vec!["pull".into()];
    settings
}

/// The pod as an API server makes it, by somebody else's implementation.
fn patched(pod: &Value, capture: Capture) -> Value {
    let verdict = decide(pod, &enabled(capture), &[], &with_secrets());
    let Outcome::Patched(patch) = verdict.outcome else { return pod.clone() };
    let mut after = pod.clone();
    let patch: json_patch::Patch = serde_json::from_value(serde_json::to_value(&patch).unwrap()).unwrap();
    json_patch::patch(&mut after, &patch).unwrap_or_else(|error| panic!("{error} in {patch}"));
    after
}

/// Which only `redirect` does to these.
fn is_refused(pod: &Value, capture: Capture) -> bool {
    match decide(pod, &enabled(capture), &[], &with_secrets()).outcome {
        Outcome::Refused(faults) => {
            let reasons: Vec<_> = faults.iter().map(|fault| fault.reason).collect();
            assert!(capture == Capture::Redirect && reasons.iter().all(|one| *one == AdmissionReason::Unconfined));
            true
        }
        Outcome::Patched(_) | Outcome::Unchanged(_) => false,
    }
}

/// Every value of `before` is in `after`, at its place; lists may have got longer, by elements
/// with our names. A null that stood for nothing may have become something.
fn keeps(before: &Value, after: &Value) -> Result<(), String> {
    match (before, after) {
        (Value::Null, _) => Ok(()),
        (Value::Object(before), Value::Object(after)) => before.iter().try_for_each(|(key, value)| {
            let found = after.get(key).ok_or(format!("{key} is gone"))?;
            let unknown = key.starts_with("x-");
            if unknown && serde_json::to_vec(value).ok() != serde_json::to_vec(found).ok() {
                return Err(format!("{key} changed"));
            }
            keeps(value, found).map_err(|error| format!("{key}.{error}"))
        }),
        (Value::Array(before), Value::Array(after)) => {
            let is_ours = |value: &&Value| {
                let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
                let is_variable =
                    || Capture::ALL.iter().any(|one| agent::environment(*one, &[]).iter().any(|(of, _)| *of == name));
                name.to_lowercase().starts_with("postern") || name == "pull" || is_variable()
            };
            let kept: Vec<&Value> = after.iter().filter(|value| !is_ours(value)).collect();
            if kept.len() != before.len() {
                return Err(format!("{} elements of {}", kept.len(), before.len()));
            }
            before.iter().zip(kept).try_for_each(|(one, other)| keeps(one, other))
        }
        _ if before == after => Ok(()),
        _ => Err(format!("{before} became {after}")),
    }
}

proptest! {
    #[test]
    fn every_field_of_the_user_is_kept(pod in pods(), capture in captures()) {
        let after = patched(&pod, capture);
        prop_assert!(after != pod || is_refused(&pod, capture));
        prop_assert_eq!(keeps(&pod, &after), Ok(()));
    }

    #[test]
    fn a_patched_pod_is_not_patched_again(pod in pods(), capture in captures()) {
        prop_assume!(!is_refused(&pod, capture));
        let once = patched(&pod, capture);
        let twice = decide(&once, &enabled(capture), &[], &with_secrets()).outcome;
        prop_assert_eq!(twice, Outcome::Unchanged(Unchanged::AlreadyInjected));
    }

    #[test]
    fn each_container_gets_what_it_needs(pod in pods(), capture in captures()) {
        prop_assume!(!is_refused(&pod, capture));
        let after = patched(&pod, capture);
        let spec = &after["spec"];
        let ours: &[&str] = if capture == Capture::Redirect { &["postern-init", "postern"] } else { &["postern"] };
        let first: Vec<_> = objects(spec, "initContainers").iter().take(ours.len()).collect();
        prop_assert_eq!(first.iter().filter_map(|one| text(one, &["name"])).collect::<Vec<_>>(), ours);
        let others = objects(spec, "initContainers").iter().skip(ours.len()).chain(objects(spec, "containers"));
        for container in others {
            let mounts = objects(container, "volumeMounts");
            let is_public = |mount: &&Value| text(mount, &["mountPath"]) == Some("/var/run/postern");
            prop_assert_eq!(mounts.iter().filter(is_public).count(), 1);
            prop_assert!(!mounts.iter().any(|mount| text(mount, &["name"]) == Some("postern-token")));
            for (name, value) in agent::environment(capture, &[]) {
                prop_assert_eq!(compare::value_of(container, name), Some(value.as_str()));
            }
        }
        let names: Vec<_> = objects(spec, "volumes").iter().filter_map(|volume| text(volume, &["name"])).collect();
        for name in sidecar::VOLUMES {
            prop_assert_eq!(names.iter().filter(|one| **one == name).count(), 1);
        }
    }

    #[test]
    fn nothing_that_is_given_makes_it_panic(
        pod in anything(), annotation in ".*", label in ".*", capture in captures(),
    ) {
        let _ = decide(&pod, &enabled(capture), &[], &testing::settings());
        let mut labelled = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "args": [annotation.clone()]}], "x": pod}});
        labelled["metadata"] = json!({"labels": {"postern.dev/inject": label}, "annotations": {"config.postern.dev/servers": annotation}});
        let _ = decide(&labelled, &NamespaceMeta::default(), &[], &testing::settings());
    }
}
