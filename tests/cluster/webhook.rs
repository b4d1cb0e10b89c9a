//! The webhook, really called by an API server.

use k8s_openapi::api::core::v1::Pod;
use postern::control::webhook::ConfigMapSearch;
use serde_json::{Value, json};

use crate::support::ApiServer;
use crate::support::admission::{Golden, Hook, OWNER, configure, create, eventually, manifests, owner, stderr, stdout};

/// A pod that opted in, with what is given.
fn pod(name: &str, label: Option<&str>, annotation: Option<&str>) -> Value {
    let mut metadata = json!({"name": name});
    if let Some(label) = label {
        metadata["labels"]["postern.dev/inject"] = json!(label);
    }
    if let Some(annotation) = annotation {
        metadata["annotations"]["postern.dev/inject"] = json!(annotation);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"serviceAccountName": "agent", "containers": [{"name": "agent", "image": "none.invalid/agent"}]},
    })
}

/// The same with a capture, and nothing by which it could get past one.
fn captured(name: &str, capture: &str) -> Value {
    let mut pod = pod(name, Some("true"), None);
    pod["metadata"]["annotations"]["config.postern.dev/capture"] = json!(capture);
    let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    pod["spec"]["containers"][0]["securityContext"] = context;
    pod
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let all = pod["spec"][list].as_array().into_iter().flatten();
    all.map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn each_golden_refusal_reaches_whoever_creates_the_pod() {
    let hook = Hook::start(ConfigMapSearch::Deny);
    let all = Golden::all("refused-");
    assert!(all.len() > 25);
    for golden in all {
        // The API server itself takes no pod of other kinds of fields: the webhook never sees it.
        if golden.name == "refused-malformed" {
            let output = hook.create(&hook.namespace("golden", &json!({})), &golden.object);
            assert!(!output.status.success() && !stderr(&output).contains("postern"), "{}", stderr(&output));
            continue;
        }
        let namespace = hook.namespace("golden", &golden.namespace);
        for map in &golden.config_maps {
            let object = json!({"metadata": {"name": map["name"]}, "data": map["data"]});
            hook.server.create(&format!("/api/v1/namespaces/{namespace}/configmaps"), &object);
        }
        let output = hook.create(&namespace, &golden.object);
        let said = stderr(&output);
        assert!(!output.status.success(), "{}: created", golden.name);
        let readable = format!("denied the request: {}\n", golden.message());
        assert!(said.ends_with(&readable), "{}: {said}", golden.name);
    }
}

#[test]
fn each_golden_patch_makes_a_pod_with_a_sidecar() {
    let hook = Hook::start(ConfigMapSearch::Off);
    for golden in Golden::all("patch-") {
        let namespace = hook.namespace("golden", &golden.namespace);
        let output = hook.create(&namespace, &golden.object);
        assert!(output.status.success(), "{}: {}", golden.name, stderr(&output));
        let warnings = golden.response.get("warnings").and_then(Value::as_array).into_iter().flatten();
        for warning in warnings {
            let told = format!("Warning: {}", warning.as_str().expect("text"));
            assert!(stderr(&output).contains(&told), "{}: {}", golden.name, stderr(&output));
        }
        let stored = hook.server.get(&["pods", "--namespace", &namespace])["items"][0].take();
        let ours: &[&str] = if golden.name.contains("redirect") { &["postern-init", "postern"] } else { &["postern"] };
        assert_eq!(names(&stored, "initContainers")[..ours.len()], *ours, "{}", golden.name);
        assert_eq!(stored["metadata"]["labels"]["postern.dev/injected"], "true", "{}", golden.name);
        // No token for the API server, which its own plugin mounts wherever nothing stands there.
        for (index, name) in ours.iter().enumerate() {
            let mounts = stored["spec"]["initContainers"][index]["volumeMounts"].as_array().expect("mounts");
            assert_eq!(mounts.len(), if *name == "postern" { 3 } else { 1 }, "{}: {mounts:?}", golden.name);
        }
    }
    for golden in Golden::all("unchanged-") {
        if golden.name == "unchanged-not-a-creation" {
            continue;
        }
        let namespace = hook.namespace("golden", &golden.namespace);
        let mut object = golden.object.clone();
        if golden.name == "unchanged-mirror-pod" {
            // The API server demands it of mirror pods.
            object["spec"].as_object_mut().expect("a spec").remove("serviceAccountName");
            object["spec"]["nodeName"] = json!("node");
        }
        let output = hook.create(&namespace, &object);
        assert!(output.status.success(), "{}: {}", golden.name, stderr(&output));
        let stored = hook.server.get(&["pods", "--namespace", &namespace])["items"][0].take();
        assert_eq!(names(&stored, "initContainers"), [""; 0], "{}", golden.name);
    }
}

/// What the Pod Security Standards say of each capture.
#[test]
fn only_redirect_needs_a_privileged_namespace() {
    let hook = Hook::start(ConfigMapSearch::Off);
    let hard = json!({
        "runAsUser": 1000, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let verdict = |level: &str, capture: &str| {
        let labels = json!({"pod-security.kubernetes.io/enforce": level});
        let namespace = hook.namespace("standard", &json!({"labels": labels}));
        let mut pod = captured("pod", capture);
        pod["spec"]["containers"][0]["securityContext"] = hard.clone();
        let output = hook.create(&namespace, &pod);
        if output.status.success() {
            let sidecars = names(&hook.pod(&namespace, "pod"), "initContainers");
            assert!(sidecars.contains(&"postern".to_owned()), "{sidecars:?}");
            return "created".to_owned();
        }
        stderr(&output)
    };
    for capture in ["endpoint", "proxy"] {
        assert_eq!(verdict("restricted", capture), "created", "{capture}");
    }
    assert_eq!(verdict("privileged", "redirect"), "created");
    for level in ["baseline", "restricted"] {
        let said = verdict(level, "redirect");
        assert!(said.contains(&format!("violates PodSecurity \"{level}")) && said.contains("postern-init"), "{said}");
    }
}

/// The truth table once more, as the selectors and conditions of the configuration have it.
#[test]
fn the_configuration_calls_for_whom_it_should() {
    let hook = Hook::start(ConfigMapSearch::Off);
    // Label and annotation; then without a label of the namespace, enabled, enforce, disabled.
    #[rustfmt::skip]
    let table: &[(Option<&str>, Option<&str>, &str)] = &[
        (None,          None,          "-++-"),
        (None,          Some("true"),  "+++-"),
        (None,          Some("false"), "--x-"),
        (None,          Some("yes"),   "xxx-"),
        (Some("true"),  None,          "+++-"),
        (Some("true"),  Some("false"), "+++-"),
        (Some("false"), None,          "--x-"),
        (Some("false"), Some("true"),  "--x-"),
        (Some("yes"),   None,          "xxx-"),
    ];
    let modes = [None, Some("enabled"), Some("enforce"), Some("disabled")];
    let namespaces = modes.map(|mode| {
        let meta = mode.map_or_else(|| json!({}), |mode| json!({"labels": {"postern.dev/inject": mode}}));
        hook.namespace("table", &meta)
    });
    for (row, (label, annotation, expected)) in table.iter().enumerate() {
        let found: String = namespaces
            .iter()
            .map(|namespace| {
                let name = format!("pod-{row}");
                let output = hook.create(namespace, &pod(&name, *label, *annotation));
                if !output.status.success() {
                    assert!(stderr(&output).contains("denied the request: postern: "), "{}", stderr(&output));
                    return 'x';
                }
                if names(&hook.pod(namespace, &name), "initContainers").is_empty() { '-' } else { '+' }
            })
            .collect();
        assert_eq!(&found, expected, "label {label:?}, annotation {annotation:?}");
    }
    // What is left alone does not even cost a call, but for the pods of no other namespace.
    assert_eq!(hook.count("unchanged", "not_asked") + hook.count("unchanged", "namespace_disabled"), 0);
    assert_eq!(hook.count("unchanged", "opted_out"), 0);
}

#[test]
fn the_second_call_changes_nothing() {
    let hook = Hook::start(ConfigMapSearch::Off);
    for (capture, ours) in
        [("endpoint", &["postern"][..]), ("proxy", &["postern"]), ("redirect", &["postern-init", "postern"])]
    {
        second_call(&hook, capture, ours);
    }
}

fn second_call(hook: &Hook, capture: &str, ours: &[&str]) {
    let namespace = hook.namespace("twice", &json!({}));
    // A plugin that works between the two calls: it puts a limit where we set none.
    let limits = json!({"type": "Container", "default": {"cpu": "2", "memory": "1Gi"}, "defaultRequest": {"cpu": "1"}});
    let range = json!({"metadata": {"name": "limits"}, "spec": {"limits": [limits]}});
    hook.server.create(&format!("/api/v1/namespaces/{namespace}/limitranges"), &range);
    let before = (hook.count("injected", ""), hook.count("unchanged", "already_injected"));
    // The plugin knows the range a little later, too.
    let stored = eventually("the range is in force", || {
        let output = hook.create(&namespace, &captured("pod", capture));
        assert!(output.status.success(), "{}", stderr(&output));
        let stored = hook.pod(&namespace, "pod");
        if stored.pointer("/spec/containers/0/resources/limits/cpu").is_some() {
            return Ok(stored);
        }
        hook.server.kubectl(&["delete", "pod", "pod", "--namespace", &namespace, "--now"]);
        Err("no limit yet".into())
    });
    for one in stored["spec"]["initContainers"].as_array().expect("a list") {
        assert_eq!(one["resources"]["limits"], json!({"cpu": "2", "memory": "96Mi"}), "the plugin came in between");
    }
    assert_eq!(names(&stored, "initContainers"), ours);
    let after = (hook.count("injected", ""), hook.count("unchanged", "already_injected"));
    assert!(after.0 > before.0);
    assert_eq!(after.0 - before.0, after.1 - before.1, "each injection is followed by a second call");
}

#[test]
fn what_inject_made_is_left_as_it_is() {
    let hook = Hook::start(ConfigMapSearch::Off);
    let namespace = hook.namespace("inject", &json!({}));
    let settings = crate::support::admission::injection();
    let mut made = pod("pod", Some("true"), None);
    let verdict = postern::control::admission::decide(&made, &Default::default(), &[], &settings);
    let postern::control::admission::Outcome::Patched(patch) = verdict.outcome else { panic!("{verdict:?}") };
    let patch: json_patch::Patch =
        serde_json::from_value(serde_json::to_value(&patch).expect("JSON")).expect("a patch");
    json_patch::patch(&mut made, &patch).expect("it fits");
    let output = hook.create(&namespace, &made);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(hook.lines(&namespace, 1).iter().map(|line| &line["reason"]).collect::<Vec<_>>(), ["already_injected"]);
    made["spec"]["initContainers"][0]["image"] = json!("evil.example/postern:0.1.0");
    made["metadata"]["name"] = json!("other");
    let output = hook.create(&namespace, &made);
    let told = "spec.initContainers[postern] is there and differs from the sidecar in image";
    assert!(stderr(&output).contains(told), "{}", stderr(&output));
}

#[test]
fn fields_newer_than_our_types_are_kept() {
    let hook = Hook::start(ConfigMapSearch::Off);
    let namespace = hook.namespace("newer", &json!({}));
    let mut newer = pod("pod", Some("true"), None);
    newer["spec"]["hostnameOverride"] = json!("named.example");
    newer["spec"]["restartPolicy"] = json!("Never");
    newer["spec"]["containers"][0]["restartPolicy"] = json!("Never");
    let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}});
    newer["spec"]["containers"][0]["restartPolicyRules"] = json!([rule]);
    let typed: Pod = serde_json::from_value(newer.clone()).expect("a pod");
    let known = serde_json::to_value(typed).expect("JSON");
    assert!(known["spec"].get("hostnameOverride").is_none(), "our types know it by now; choose a newer field");
    assert!(known["spec"]["containers"][0].get("restartPolicyRules").is_none(), "likewise");
    let output = hook.create(&namespace, &newer);
    assert!(output.status.success(), "{}", stderr(&output));
    let stored = hook.pod(&namespace, "pod");
    assert_eq!(names(&stored, "initContainers"), ["postern"]);
    assert_eq!(stored["spec"]["hostnameOverride"], "named.example");
    assert_eq!(
        stored["spec"]["containers"][0]["restartPolicyRules"],
        newer["spec"]["containers"][0]["restartPolicyRules"]
    );
}

#[test]
fn a_dry_run_gets_the_same_answer_and_leaves_nothing() {
    let hook = Hook::start(ConfigMapSearch::Off);
    for capture in ["endpoint", "proxy", "redirect"] {
        dry_run(&hook, capture);
    }
}

fn dry_run(hook: &Hook, capture: &str) {
    let namespace = hook.namespace("dry", &json!({}));
    let mut object = captured("pod", capture);
    // That volume has a random name.
    object["spec"]["automountServiceAccountToken"] = json!(false);
    let dry = create(hook.server, &namespace, &object, &["--dry-run=server", "--output=json"]);
    assert!(dry.status.success(), "{}", stderr(&dry));
    let dry: Value = serde_json::from_str(&stdout(&dry)).expect("JSON");
    assert_eq!(hook.server.get(&["pods", "--namespace", &namespace])["items"], json!([]));
    assert!(hook.create(&namespace, &object).status.success());
    assert_eq!(dry["spec"], hook.pod(&namespace, "pod")["spec"]);
    // Without that volume no plugin changes the pod after us, so nobody calls us a second time.
    let lines = hook.lines(&namespace, 2);
    let dry_runs: Vec<_> = lines.iter().map(|line| line.get("dry_run").is_some()).collect();
    assert_eq!(dry_runs, [true, false]);
    assert!(lines.iter().all(|line| line["user"] == "admin" && line["pod"] == "pod"), "{lines:?}");
}

#[test]
fn while_the_webhook_is_down_only_those_who_asked_for_it_wait() {
    let server = ApiServer::start();
    // Nobody listens there: the port was free, and stays bound to nothing.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("bound");
    drop(socket);
    let authority =
        postern::tls::authority::Authority::new("t", std::time::Duration::from_secs(60), std::time::SystemTime::now());
    let owner = owner();
    let authority = authority.expect("an authority");
    configure(server, &owner, &format!("https://{address}/mutate/v1/pods"), Some(authority.certificate()));
    let namespace = |mode: Option<&str>| {
        let meta = mode.map_or_else(|| json!({}), |mode| json!({"labels": {"postern.dev/inject": mode}}));
        crate::support::admission::namespace(server, "down", &meta, Some((OWNER, &owner)))
    };
    let plain = namespace(None);
    eventually("the webhook is called", || {
        let said = stderr(&create(server, &plain, &pod("probe", Some("true"), None), &["--dry-run=server"]));
        if said.contains("failed calling webhook") { Ok(()) } else { Err(said) }
    });
    let (enabled, enforce, disabled) =
        (namespace(Some("enabled")), namespace(Some("enforce")), namespace(Some("disabled")));
    let cases: [(&str, Option<&str>, Option<&str>, bool); 12] = [
        (&plain, None, None, true),
        (&plain, Some("false"), None, true),
        (&plain, None, Some("false"), true),
        (&plain, Some("true"), None, false),
        (&plain, None, Some("true"), false),
        (&enabled, None, None, false),
        (&enabled, Some("false"), None, true),
        (&enabled, None, Some("false"), true),
        (&enforce, None, None, false),
        (&enforce, Some("false"), None, false),
        (&disabled, Some("true"), None, true),
        (&disabled, None, None, true),
    ];
    for (index, (namespace, label, annotation, starts)) in cases.into_iter().enumerate() {
        let output = create(server, namespace, &pod(&format!("pod-{index}"), label, annotation), &[]);
        let said = stderr(&output);
        assert_eq!(output.status.success(), starts, "{namespace}, label {label:?}, annotation {annotation:?}: {said}");
        assert!(starts || said.contains("failed calling webhook"), "{said}");
    }
    server.kubectl(&["delete", "mutatingwebhookconfiguration", &owner]);
}

/// The service account of manifests/base/rbac.yaml in a namespace of its own, with these of its cluster roles.
fn controller(server: &ApiServer, what: &str, roles: &[&str]) -> String {
    let namespace = server.namespace(what);
    let within = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    server.create(&within, &json!({"metadata": {"name": "postern-controller"}}));
    for document in manifests("rbac.yaml") {
        if document["kind"] != "ClusterRole"
            || !roles.contains(&document["metadata"]["name"].as_str().unwrap_or_default())
        {
            continue;
        }
        let name = format!("{namespace}-{}", document["metadata"]["name"].as_str().unwrap_or_default());
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        server.create(roles, &json!({"metadata": {"name": name}, "rules": document["rules"]}));
        let subject = json!({"kind": "ServiceAccount", "namespace": namespace, "name": "postern-controller"});
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
        let binding = json!({"metadata": {"name": name}, "roleRef": role, "subjects": [subject]});
        server.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding);
    }
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
    let token = server.create(&format!("{within}/postern-controller/token"), &request);
    token["status"]["token"].as_str().expect("a token").to_owned()
}

#[test]
fn the_rights_of_the_manifest_are_enough_and_each_is_needed() {
    let server = ApiServer::start();
    let both = ["postern-controller-admission", "postern-controller-configmap-search"];
    let stdio = json!({"mcp.json": r#"{"mcpServers":{"files":{"command":"npx"}}}"#});
    let mut with_config = pod("pod", Some("true"), None);
    with_config["spec"]["volumes"] = json!([{"name": "c", "configMap": {"name": "config"}}]);
    let outcome = |roles: &[&str]| {
        let token = controller(server, "rights", roles);
        let hook = Hook::start_as(ConfigMapSearch::Deny, Some(&token));
        let namespace = hook.namespace("rights", &json!({}));
        hook.server.create(
            &format!("/api/v1/namespaces/{namespace}/configmaps"),
            &json!({"metadata": {"name": "config"}, "data": stdio}),
        );
        stderr(&hook.create(&namespace, &with_config))
    };
    assert!(outcome(&both).contains("postern: stdio_unsupported: ConfigMap config, mcp.json"));
    assert!(outcome(&both[..1]).contains("Warning: postern: not every ConfigMap was searched for stdio servers"));
    assert!(outcome(&both[1..]).contains("postern: namespace_unknown: "));
}
