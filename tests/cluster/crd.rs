//! The kind on a real API server: what it takes, what it refuses and in which words, and what it shows.

use std::process::Output;

use kube::api::PostParams;
use kube::core::Status;
use postern::api::document::read_object;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::support::kind::{self, binding};

mod rows;

use rows::{By, Row, rows};

/// Every CredentialBinding that stands in README.md or docs/, wherever in it.
fn examples() -> Vec<(String, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = root.join("docs").read_dir().expect("there is docs/").map(|entry| entry.expect("a page").path());
    let mut found = Vec::new();
    for page in pages.chain([root.join("README.md")]).filter(|page| page.extension().is_some_and(|kind| kind == "md")) {
        let text = std::fs::read_to_string(&page).expect("a page");
        for rest in text.split("\napiVersion: postern.dev/v1alpha1\n").skip(1) {
            let body: Vec<&str> =
                rest.lines().take_while(|line| !line.starts_with("```") && !matches!(*line, "---" | "END")).collect();
            let document = format!("apiVersion: postern.dev/v1alpha1\n{}\n", body.join("\n"));
            found.push((page.display().to_string(), document));
        }
    }
    found
}

#[test]
fn every_example_of_the_documentation_is_accepted() {
    let server = kind::server();
    let namespace = server.namespace("examples");
    let examples = examples();
    assert!(examples.len() >= 3, "only {} examples were found", examples.len());
    for (page, document) in examples {
        let mut value: Value = serde_yaml::from_str(&document).unwrap_or_else(|error| panic!("{page}: {error}"));
        value["metadata"]["namespace"] = json!(namespace);
        let create = ["create", "--dry-run=server", "--validate=strict", "--filename", "-"];
        let output = server.try_kubectl(&create, &value.to_string());
        assert!(output.status.success(), "{page}: {}\n{document}", String::from_utf8_lossy(&output.stderr));
    }
}

fn set(document: &mut Value, at: &str, value: Value) {
    let (parent, field) = at.rsplit_once('/').expect("a pointer");
    let parent = document.pointer_mut(parent).and_then(Value::as_object_mut).expect("the parent is there");
    parent.insert(field.to_owned(), value);
}

/// What the API server says of the document, each as `field: message`.
async fn refused(bindings: &kube::Api<kube::api::DynamicObject>, document: &Value) -> Option<Vec<String>> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let object = serde_json::from_value(document.clone()).expect("an object");
    match bindings.create(&params, &object).await {
        Ok(_) => None,
        Err(kube::Error::Api(status)) => Some(causes(&status)),
        Err(error) => panic!("{error}: {document}"),
    }
}

fn causes(status: &Status) -> Vec<String> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let told: Vec<String> = causes.map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
    if told.is_empty() { vec![format!(": {}", status.message)] } else { told }
}

#[tokio::test]
async fn the_api_server_and_the_reader_refuse_the_same_in_the_same_words() {
    let server = kind::server();
    let namespace = server.namespace("refused");
    let bindings = kind::bindings(kind::client(server).await, &namespace);
    let mut wrong = Vec::new();
    for Row { at, value, told, by } in rows() {
        let document = binding(&namespace, "a", |document| set(document, at, value.clone()));
        let read: Vec<String> = match read_object(&document) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(|fault| format!("{}: expected {}", fault.path, fault.expected)).collect(),
        };
        let kept = refused(&bindings, &document).await;
        let ours: Vec<&String> = read.iter().filter(|text| text.split(": ").next() == Some(told)).collect();
        let theirs = kept.as_deref().unwrap_or_default();
        let has = |part: &str| theirs.iter().any(|text| text.contains(part));
        let same = |text: &&&String| {
            let expected = text.split_once(": ").map(|(_, expected)| expected).unwrap_or_default();
            theirs.iter().any(|text| text.starts_with(&format!("{told}: ")) && text.contains(expected))
        };
        let holds = match by {
            By::Both => !ours.is_empty() && ours.iter().all(|text| same(&text)) && theirs.len() == read.len(),
            By::BothInOwnWords(words) => !ours.is_empty() && has(words),
            By::Reader => !read.is_empty() && kept.is_none(),
            By::Nobody => read.is_empty() && kept.is_none(),
        };
        if !holds {
            wrong.push(format!("{at} {value} should be refused by {by:?}\n  reader: {read:?}\n  API server: {kept:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// The same, over URLs that nobody thought of: put together from parts that matter.
#[tokio::test]
async fn the_api_server_and_the_reader_refuse_the_same_urls() {
    const BEGIN: [&str; 12] = [
        "https://h",
        "https://h",
        "https://h",
        "https://",
        "http://h",
        "HTTPS://h",
        "https:/h",
        "//h",
        "stdio",
        "ws://h",
        "https://10.0.0.1",
        "https://[::1]",
    ];
    const HOST: [&str; 16] =
        ["a", "A.b", "_", "-", ".", "..", ":", ":443", ":0", ":65536", ".1", ".0x1", "@", "]", " ", "\u{e9}"];
    const PATH: [&str; 22] = [
        "/",
        "/a",
        "/a",
        "a",
        "b",
        "c",
        ".",
        "..",
        "?",
        "#",
        "%2e",
        "%2F",
        "%5c",
        "%25",
        "%41",
        "%",
        "%5",
        "~!$&'()*+,;=:@-",
        "\\",
        " ",
        "\n",
        "\u{e9}",
    ];
    let server = kind::server();
    let namespace = server.namespace("urls");
    let bindings = kind::bindings(kind::client(server).await, &namespace);
    let some =
        |parts: &'static [&'static str], most| proptest::collection::vec(proptest::sample::select(parts), 0..most);
    let strategy = (proptest::sample::select(&BEGIN), some(&HOST, 2), some(&PATH, 5));
    let mut runner = TestRunner::deterministic();
    let mut good = 0;
    for _ in 0..500 {
        let (begin, host, path) = strategy.new_tree(&mut runner).expect("a value").current();
        let url = format!("{begin}{}/{}", host.concat(), path.concat());
        let document = binding(&namespace, "a", |document| document["spec"]["server"]["url"] = json!(url));
        let (read, kept) = (read_object(&document).err(), refused(&bindings, &document).await);
        assert_eq!(read.is_some(), kept.is_some(), "{url:?}\n  reader: {read:?}\n  API server: {kept:?}");
        good += usize::from(read.is_none());
    }
    assert!((40..460).contains(&good), "{good} of 500 URLs were good: nothing was compared");
}

#[test]
fn an_unknown_field_is_refused_or_dropped_and_never_kept() {
    let server = kind::server();
    let namespace = server.namespace("unknown");
    let document =
        binding(&namespace, "a", |document| document["spec"]["server"]["command"] = json!("npx")).to_string();
    let create = |validate: &str| server.try_kubectl(&["create", validate, "--filename", "-"], &document);
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    // What kubectl does unless it is told otherwise.
    for strict in ["--validate=strict", "--validate=true"] {
        let output = create(strict);
        assert!(
            !output.status.success() && said(&output).contains(r#"unknown field "spec.server.command""#),
            "{output:?}"
        );
    }
    let output = create("--validate=warn");
    assert!(output.status.success() && said(&output).contains(r#"unknown field "spec.server.command""#), "{output:?}");
    let kept = server.get(&["credb", "a", "--namespace", &namespace]);
    assert_eq!(kept["spec"]["server"], json!({"name": "a", "url": "https://a.example/mcp"}));
    assert!(read_object(&kept).is_ok());
}

#[test]
fn a_good_binding_cannot_be_edited_into_a_bad_one() {
    let server = kind::server();
    let namespace = server.namespace("edited");
    server.create(&kind::path(&namespace), &binding(&namespace, "a", |_| ()));
    let patch = r#"{"spec": {"server": {"url": "http://a.example/mcp"}}}"#;
    let output =
        server.try_kubectl(&["patch", "credb", "a", "--namespace", &namespace, "--type=merge", "--patch", patch], "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("allowPlaintext: true consents to that"), "{said}");
}

/// Two writers, each with conditions of its own, and neither can touch the spec from there.
#[test]
fn conditions_have_one_writer_each_and_are_shown() {
    let server = kind::server();
    let namespace = server.namespace("status");
    server.create(&kind::path(&namespace), &binding(&namespace, "a", |_| ()));
    let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let apply = |manager: &str, condition: Value| {
        let status = json!({"conditions": [condition]});
        let mut document = json!({"metadata": {"name": "a", "namespace": namespace}, "status": status});
        document["apiVersion"] = json!(postern::api::API_VERSION);
        document["kind"] = json!(postern::api::KIND);
        document["spec"] = json!({"serviceAccounts": ["thief"]});
        let manager = format!("--field-manager={manager}");
        let arguments = ["apply", "--server-side", "--subresource=status", &manager, "--filename", "-"];
        server.try_kubectl(&arguments, &document.to_string())
    };
    for output in [
        apply("one", condition("Accepted", "True", "Accepted")),
        apply("two", condition("Programmed", "True", "Programmed")),
        apply("two", condition("Programmed", "False", "SecretNotFound")),
    ] {
        assert!(output.status.success(), "{output:?}");
    }
    let said = |output: Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = said(apply("two", condition("Programmed", "Perhaps", "Why")));
    assert!(refused.contains("Unsupported value"), "{refused}");
    let refused = said(apply("three", condition("Programmed", "True", "Forged")));
    assert!(refused.contains(r#"conflicts with "two""#), "{refused}");

    let kept = server.get(&["credb", "a", "--namespace", &namespace]);
    let conditions = kept["status"]["conditions"].as_array().expect("conditions");
    let told: Vec<_> = conditions.iter().map(|told| (told["type"].as_str(), told["reason"].as_str())).collect();
    assert_eq!(told, [(Some("Accepted"), Some("Accepted")), (Some("Programmed"), Some("SecretNotFound"))]);
    assert_eq!(kept["spec"]["serviceAccounts"], json!(["agent"]));
    assert_eq!(kept["metadata"]["generation"], 1);

    let table = server.kubectl(&["get", "credb", "--namespace", &namespace]).stdout;
    let table = String::from_utf8_lossy(&table);
    let words = |line: usize| table.lines().nth(line).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0), ["NAME", "SERVER", "URL", "READY", "REASON", "AGE"], "{table}");
    assert_eq!(words(1)[..5], ["a", "a", "https://a.example/mcp", "False", "SecretNotFound"], "{table}");
}
