//! `postern check --cluster` as users call it, against API servers of its own: it looks at all of a cluster.

use serde_json::json;

use crate::support::pod::account;
use cluster::{Cluster, INSTALLATION};

mod cluster;

/// The pieces of an installation: none, all, and all but one.
#[test]
fn each_piece_of_an_installation_is_looked_at() {
    let cluster = Cluster::empty();
    let nothing = cluster.check(&[]);
    nothing.assert_code(1);
    let definition = ("definition", "credentialbindings.postern.dev");
    nothing.assert_says(definition, "wrong: is not installed: there can be no bindings");
    nothing
        .assert_says(("binding", ""), "not checked: cannot list CredentialBindings: the API server has no such kind");
    nothing.assert_says(("webhook", ""), "wrong: none of Postern's: no pod gets a sidecar");
    nothing.assert_says(("signer", "postern-broker-ca"), "wrong: is not there");

    cluster.install();
    let space = cluster.space("clean");
    let clean = cluster.check(&[]);
    clean.assert_code(0);
    clean.assert_all("ok");
    clean.assert_says(("image", ""), "ok: registry.example/postern:0.1.0, the one that is injected now, in 1 sidecar");
    assert_eq!(clean.of("policy").len(), 7);

    let exec = ("policy", "postern-exec");
    let binding = "validatingadmissionpolicybinding/postern-exec";
    cluster.patch(binding, json!([{"op": "replace", "path": "/spec/validationActions", "value": ["Warn"]}]));
    cluster.check(&[]).assert_only(exec, "wrong: no ValidatingAdmissionPolicyBinding makes it deny");
    cluster.kubectl(&["delete", "validatingadmissionpolicy/postern-exec"]);
    cluster.check(&[]).assert_only(exec, "wrong: is not installed: what it forbids is possible");
    cluster.kubectl(&["delete", binding]);
    cluster.apply("policies.yaml");

    let injector = ("webhook", "postern-injector");
    let webhook = "mutatingwebhookconfiguration/postern-injector";
    cluster.patch(webhook, json!([{"op": "replace", "path": "/webhooks/1/failurePolicy", "value": "Ignore"}]));
    cluster.check(&[]).assert_only(injector, "wrong: failurePolicy Ignore in annotation");
    cluster.patch(webhook, json!([{"op": "remove", "path": "/webhooks/2/clientConfig/caBundle"}]));
    cluster.check(&[]).assert_only(injector, "wrong: no caBundle in enabled: pods that ask");
    cluster.kubectl(&["delete", webhook]);
    cluster.configure_webhook();

    let signers = ["delete", "configmap/postern-broker-ca", "--namespace", INSTALLATION];
    cluster.kubectl(&signers);
    cluster.check(&[]).assert_only(("signer", "postern-broker-ca"), "wrong: is not there");
    cluster.tell_signers("not PEM");
    cluster.check(&[]).assert_only(("signer", "postern-broker-ca"), "wrong: holds no PEM certificates in ca.crt");
    cluster.kubectl(&signers);
    cluster.tell_signers(&cluster.signer);
    cluster.check(&[]).assert_code(0);

    let kind = "crd/credentialbindings.postern.dev";
    let description = "/spec/versions/0/schema/openAPIV3Schema/description";
    cluster.patch(kind, json!([{"op": "replace", "path": description, "value": "another"}]));
    cluster.check(&[]).assert_only(definition, "wrong: is that of another version of Postern");
    // It is the installation that is looked at wherever else.
    cluster.check(&["--namespace", &space.name]).assert_code(1);
    let elsewhere = cluster.check(&["--broker-namespace", "elsewhere"]);
    elsewhere.assert_says(("grant", &space.name), "wrong: the broker (elsewhere/postern-broker) may not list secrets");
    elsewhere.assert_says(("signer", "postern-broker-ca"), "wrong: is not there");
    cluster
        .check(&["--namespace", "nowhere"])
        .assert_says(("injection", "nowhere"), "wrong: there is no such namespace");
}

/// What a binding refers to, each lack with its fix; and no value in any output.
#[test]
fn each_lack_of_a_binding_is_told_with_its_fix() {
    let cluster = Cluster::shared();
    let space = cluster.space("lacks");
    let check = || cluster.check(&["--namespace", &space.name]);
    check().assert_code(0);
    let github = ("binding", "github");
    check().assert_says(github, "ok: served for agent");
    let consent = json!({"postern.dev/allowed-hosts": "api.example"});

    space.secret("a value with a line break\n", &consent);
    check().assert_only(github, "wrong: Secret github-secret/token: the value ends with a line break");
    space.secret("short", &consent);
    let short = check();
    short.assert_code(0);
    short.assert_says(("short_value", "github"), "warning: its value has less than 8 characters");
    space.secret(&space.value, &json!({}));
    check().assert_only(github, "wrong: Secret github-secret has no annotation postern.dev/allowed-hosts");
    space.secret(&space.value, &json!({"postern.dev/allowed-hosts": "other.example"}));
    check()
        .assert_only(github, "wrong: postern.dev/allowed-hosts of Secret github-secret does not name api.example:443");
    space.secret(
        &space.value,
        &json!({"postern.dev/allowed-hosts": "api.example", "postern.dev/allowed-service-accounts": "other"}),
    );
    check().assert_only(
        github,
        "wrong: postern.dev/allowed-service-accounts of Secret github-secret does not name agent (for agent)",
    );
    cluster.kubectl(&["label", "secret", "github-secret", "postern.dev/credential-", "--namespace", &space.name]);
    let unlabelled = check();
    unlabelled.assert_only(github, "wrong: Secret github-secret does not exist, or does not carry the label");
    assert!(
        unlabelled.fix(github).contains("kubectl label secret github-secret --namespace"),
        "{}",
        unlabelled.fix(github)
    );
    space.secret(&space.value, &consent);
    check().assert_code(0);
}

/// An older binding with the same server, and more than one lack at once; for people, too.
#[test]
fn a_clash_and_every_lack_of_one_binding_are_told() {
    let cluster = Cluster::shared();
    let space = cluster.space("clash");
    let check = || cluster.check(&["--namespace", &space.name]);
    space.bind("other", |spec| {
        spec["server"]["name"] = json!("github");
        spec["credential"]["secretRef"]["name"] = json!("github-secret");
    });
    let conflict = format!("wrong: not served for agent: {}/github has the same spec.server.name", space.name);
    check().assert_only(("binding", "other"), &conflict);
    space.bind("other", |spec| {
        spec["credential"]["secretRef"] = json!({"name": "github-secret", "key": "absent"});
        spec["server"]["tls"] = json!({"caBundle": {"configMapRef": {"name": "corp-ca", "key": "ca.crt"}}});
    });
    let two = check();
    assert_eq!(
        two.of("binding").iter().filter(|line| line.starts_with("wrong")).collect::<Vec<_>>(),
        [
            "wrong: Secret github-secret has no usable key absent",
            "wrong: ConfigMap corp-ca does not exist, or does not carry the label postern.dev/ca-bundle: \"true\""
        ]
    );
    let (code, text) = cluster.run(cluster.server.kubeconfig(), &["--cluster", "--namespace", &space.name]);
    assert_eq!(code, 1);
    let line = format!(
        "  wrong        CredentialBinding {}/other: Secret github-secret has no usable key absent -> add",
        space.name
    );
    assert!(text.lines().any(|one| one.starts_with(&line)), "{text}");
    assert!(text.trim_end().ends_with(" ok, 0 warning, 2 wrong, 0 not checked"), "{text}");
}

/// The rights of an agent that lead to its credential past Postern, and those that the broker lacks.
#[test]
fn who_could_read_what_is_told() {
    let cluster = Cluster::shared();
    let space = cluster.space("rights");
    let check = || cluster.check(&["--namespace", &space.name]);
    check().assert_says(("secret_access", "agent"), "ok: has no way of its own to Secret github-secret");
    let to_agent = format!("--serviceaccount={}:agent", space.name);
    let to_all = format!("--group=system:serviceaccounts:{}", space.name);
    for (topic, grant, to, code, expected) in [
        (
            "secret_access",
            "--verb=get --resource=secrets --resource-name=github-secret",
            &to_agent,
            1,
            "wrong: may get Secret github-secret itself",
        ),
        (
            "secret_access",
            "--verb=list,watch --resource=secrets",
            &to_all,
            1,
            "wrong: may list, watch Secret github-secret itself",
        ),
        ("token_access", "--verb=create --resource=serviceaccounts/token", &to_agent, 0, "warning: may create tokens"),
        ("exec_access", "--verb=get --resource=pods/exec", &to_all, 0, "warning: may exec into the pods"),
        ("exec_access", "--verb=create --resource=pods/exec", &to_agent, 0, "warning: may exec into the pods"),
        ("pod_access", "--verb=create --resource=pods", &to_agent, 1, "wrong: may create pods in"),
    ] {
        space.allow(to, grant);
        let found = check();
        found.assert_says((topic, "agent"), expected);
        found.assert_code(code);
        space.disallow();
    }
    check().assert_code(0);
    cluster.kubectl(&["delete", "rolebinding", "postern", "--namespace", &space.name]);
    let ungranted = check();
    let grant = ("grant", space.name.as_str());
    ungranted.assert_only(
        grant,
        "wrong: the broker (postern-system/postern-broker) may not list secrets, watch secrets here",
    );
    // The fix is one.
    let fix = ungranted.fix(grant);
    cluster.kubectl(&fix.split(' ').skip(1).collect::<Vec<_>>());
    check().assert_code(0);
}

/// Sidecars of another time, pods without one, and pods that have one for nothing.
#[test]
fn each_kind_of_pod_is_told() {
    let cluster = Cluster::shared();
    let space = cluster.space("pods");
    let check = |more: &[&str]| cluster.check(&[&["--namespace", &space.name][..], more].concat());
    check(&[]).assert_says(("pod_signer", ""), "ok: the broker's present signer is known to 1 sidecar");

    space.pod("old", "agent", |container| container["image"] = json!("registry.example/postern:0.0.9"));
    let old = check(&[]);
    old.assert_code(0);
    let is = "warning: its sidecar is registry.example/postern:0.0.9; the one that is injected now is";
    old.assert_says(("image", "old"), is);
    let other = check(&["--image", "registry.example/postern:0.0.9"]);
    other.assert_says(("image", "pod"), "warning: its sidecar is registry.example/postern:0.1.0;");
    assert_eq!(other.of("image").len(), 1);

    space.pod("stranger", "agent", |container| cluster::set_ca(container, &cluster::certificate()));
    let stranger = check(&[]);
    stranger.assert_code(1);
    stranger.assert_says(("pod_signer", "stranger"), "wrong: its sidecar does not know the certificate");
    assert_eq!(stranger.of("pod_signer").len(), 1);
    cluster.kubectl(&["delete", "pod", "stranger", "--namespace", &space.name, "--now"]);

    account(cluster.server, &space.name, "idle");
    space.pod("idle", "idle", |_| {});
    let idle = check(&[]);
    idle.assert_code(0);
    idle.assert_says(("unbound", "idle"), "warning: nothing is bound to its service account idle");

    space.plain("bare");
    let bare = ("injection", "bare");
    check(&[]).assert_only(bare, "wrong: is to have a sidecar and has none");
    space.label("postern.dev/inject=disabled");
    check(&[]).assert_code(0);
}

/// Pods whose calls are taken up on their way: what trusts the sidecar no more, and what it may not sign for.
#[test]
fn what_a_capture_makes_of_a_pod_is_told() {
    const PAST: &str = "2020-01-01T00:00:00Z";
    const LATER: &str = "2020-01-01T00:00:05Z";
    const FUTURE: &str = "2199-01-01T00:00:00Z";
    let cluster = Cluster::shared();
    let space = cluster.space("captures");
    let check = || cluster.check(&["--namespace", &space.name]);
    assert_eq!(check().of("pod_authority"), [""; 0], "nothing is intercepted");

    space.captured("fine", "redirect", 0, FUTURE, FUTURE);
    let fine = check();
    fine.assert_code(0);
    fine.assert_all("ok");
    fine.assert_says(
        ("pod_security", ""),
        &format!("ok: capture redirect is not forbidden by a label in {}", space.name),
    );

    space.captured("late", "proxy", 0, PAST, LATER);
    let late = check();
    late.assert_code(0);
    late.assert_says(("bound_later", "late"), "warning: api.example was bound after its sidecar started");
    assert_eq!(late.of("bound_later").len(), 1);
    assert!(late.of("pod_authority")[0].starts_with("ok: "));

    space.captured("again", "proxy", 1, FUTURE, LATER);
    let again = check();
    again.assert_code(0);
    let is = "warning: its sidecar was started again and has a new authority; agent began before";
    again.assert_says(("pod_authority", "again"), is);
    assert_eq!(again.of("pod_authority").len(), 1);

    space.label("pod-security.kubernetes.io/enforce=baseline");
    let strict = check();
    let is = "wrong: pod-security.kubernetes.io/enforce is baseline, which forbids the NET_ADMIN of postern-init";
    strict.assert_only(("pod_security", &space.name), is);
}

/// Whoever may little is told what was not looked at, and never that it is well.
#[test]
fn a_caller_with_few_rights_is_told_what_was_not_checked() {
    let cluster = Cluster::shared();
    let space = cluster.space("few");
    let auditor = space.auditor();
    let check = || cluster.check_as(&auditor.config, &["--namespace", &space.name]);

    let nothing = check();
    nothing.assert_code(1);
    nothing.assert_all("not checked");
    let name = &space.name;
    for (topic, what) in [
        ("definition", "may not get CustomResourceDefinition credentialbindings.postern.dev".to_owned()),
        ("webhook", "may not list MutatingWebhookConfigurations".into()),
        ("policy", "may not list ValidatingAdmissionPolicies".into()),
        ("signer", "may not get ConfigMap postern-system/postern-broker-ca".into()),
        ("binding", format!("may not list CredentialBindings in {name}")),
        ("injection", format!("may not list Pods in {name}")),
    ] {
        assert_eq!(nothing.of(topic), [format!("not checked: {what}")]);
    }

    space.allow(&auditor.to, "--verb=list --resource=credentialbindings.postern.dev,pods");
    space.plain("bare");
    let some = check();
    some.assert_code(1);
    some.assert_all("not checked");
    some.assert_says(("binding", "github"), &format!("not checked: may not list Secrets in {name}"));
    some.assert_says(("grant", "postern-broker"), "not checked: may not create SubjectAccessReviews");
    some.assert_says(("secret_access", ""), "not checked: may not create SubjectAccessReviews");
    some.assert_says(("injection", ""), &format!("not checked: may not get Namespace {name}"));
    some.assert_says(("pod_signer", ""), "not checked: may not get ConfigMap postern-system/postern-broker-ca");
    some.assert_says(("image", ""), "not checked: may not get Deployment postern-system/postern-controller");
}

/// Lists come in pages; the last of them counts like the first.
#[tokio::test(flavor = "multi_thread")]
async fn long_lists_are_read_to_their_end() {
    let cluster = Cluster::shared();
    let space = cluster.space("long");
    // More than a page, all before the one that is wanted.
    space.fill(501).await;
    let found = cluster.check(&["--namespace", &space.name]);
    found.assert_code(0);
    found.assert_says(("binding", "github"), "ok: served for agent");
}

/// One call, by what the broker would tell.
#[test]
fn a_decision_is_explained_by_the_objects_of_the_cluster() {
    let cluster = Cluster::shared();
    let space = cluster.space("explain");
    let explain = |account: &str, more: &[&str]| {
        let who = ["explain", "--cluster", "--namespace", &space.name, "--service-account", account];
        cluster
            .run(cluster.server.kubeconfig(), &[&who[..], &["--url", "http://127.0.0.1:15101/github"], more].concat())
    };
    let assert = |(code, text): (i32, String), expected: i32, lines: &[&str]| {
        assert_eq!(code, expected, "{text}");
        for line in lines {
            assert!(text.lines().any(|one| one.starts_with(line)), "no {line:?} in\n{text}");
        }
    };
    let binding = format!("binding     {}/github", space.name);
    let good = [binding.as_str(), "credential  Secret github-secret in header authorization", "forwarded"];
    assert(explain("agent", &[]), 0, &good);
    assert(explain("other", &[]), 1, &["refused     unbound_server"]);
    space.bind("github", |spec| spec["tools"] = json!({"allow": ["search_*"]}));
    assert(explain("agent", &["--method", "tools/call", "--tool", "search_code"]), 0, &["forwarded"]);
    assert(explain("agent", &["--method", "tools/call", "--tool", "delete"]), 1, &["refused     tool_denied"]);
    cluster.kubectl(&["delete", "rolebinding", "postern", "--namespace", &space.name]);
    let ungranted = ["refused     no_credential", "because     binding"];
    assert(explain("agent", &[]), 1, &ungranted[..1]);

    let auditor = space.auditor();
    let who = ["explain", "--cluster", "--namespace", &space.name, "--service-account", "agent"];
    let arguments = [&who[..], &["--url", "http://127.0.0.1:15101/github"]].concat();
    let (code, text) = cluster.run(&auditor.config, &arguments);
    assert_eq!((code, text.as_str()), (1, ""));
    space.allow(&auditor.to, "--verb=list --resource=credentialbindings.postern.dev");
    let secrets = format!("not checked may not list Secrets in {}", space.name);
    assert(
        cluster.run(&auditor.config, &arguments),
        1,
        &[&secrets, "not checked may not create SubjectAccessReviews", &binding, "credential  not known"],
    );
}

/// Without a cluster, or with one that does not answer, it says what to do.
#[test]
fn what_is_given_wrongly_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let config = |server: &str| {
        let cluster = json!({"name": "c", "cluster": {"server": server}});
        let context = json!({"name": "c", "context": {"cluster": "c", "user": "u"}});
        let user = json!({"name": "u", "user": {"token": "a-token-of-the-caller"}});
        json!({"clusters": [cluster], "contexts": [context], "users": [user], "current-context": "c"}).to_string()
    };
    std::fs::write(path("closed"), config("https://127.0.0.1:1")).expect("it is writable");
    std::fs::write(path("broken"), "users: [{name: a, user: [a-token-of-the-caller]}]").expect("it is writable");
    for (arguments, code, expected) in [
        (&["--cluster"][..], 2, "no cluster is known: $KUBECONFIG is not set"),
        (&["--cluster", "--kubeconfig", "absent"], 2, "the kubeconfig absent: entity not found"),
        (&["--cluster", "--kubeconfig", "broken"], 2, "the kubeconfig is not one"),
        (&["--cluster", "--kubeconfig", "closed"], 1, "https://127.0.0.1:1 cannot be reached: connection refused"),
        (
            &["--cluster", "--kubeconfig", "closed", "--context", "other"],
            2,
            "the kubeconfig: failed to load current context: other",
        ),
        (&["--cluster", "bindings"], 2, "--cluster looks at a cluster and takes no PATH"),
        (&["--namespace", "a", "bindings"], 2, "required arguments were not provided"),
        (&["--cluster", "--namespace", "A b"], 2, "expected a DNS label"),
        (&["explain", "--cluster", "--url", "http://127.0.0.1/x"], 2, "--service-account"),
    ] {
        let output = cluster::command(arguments).current_dir(directory.path()).output().expect("it ends");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("a-token-of-the-caller"), "{said}");
    }
}
