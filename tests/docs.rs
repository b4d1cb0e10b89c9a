//! The documentation says what the code does: its tables, examples, help texts and links are held
//! against the code. `UPDATE_DOCS=1 cargo test --test docs` rewrites what is generated
//! (docs/cli.md, charts/postern/files/crd.yaml).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_methods, reason = "UPDATE_DOCS is a switch of the test, not of the product")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use postern::api::document::{Located, Problem, read_bindings};
use postern::api::shape::{Fields, Shape};
use postern::config::sidecar as config;
use postern::control::admission::agent;
use postern::control::admission::config::KEYS;
use postern::control::admission::reason::{AdmissionReason, Unchanged};
use postern::control::broker::Refusal as BrokerRefusal;
use postern::control::status::{SAYINGS, WriteResult};
use postern::control::survey::Topic;
use postern::core::binding::Binding;
use postern::core::capture::Capture;
use postern::core::name::ServerName;
use postern::core::reason::{Fault, Reason};
use postern::telemetry::metrics::broker::{BrokerMetrics, Followed};
use postern::telemetry::metrics::controller::ControllerMetrics;
use postern::telemetry::metrics::{CredentialSample, Metrics, UsableSample};

// === Reading the documentation ===

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// README.md and docs/*.md, relative to the repository.
fn pages() -> Vec<String> {
    let entries = std::fs::read_dir(root().join("docs")).expect("there is docs/");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut pages: Vec<String> =
        names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    pages.push("README.md".into());
    pages.sort();
    pages
}

/// A page cut at its fences: prose and code, the latter with its language.
enum Part {
    Prose(String),
    Code { language: String, text: String },
}

fn parts(page: &str) -> Vec<Part> {
    let mut parts = vec![Part::Prose(String::new())];
    for line in page.lines() {
        let fence = line.strip_prefix("```");
        match (parts.last_mut().unwrap(), fence) {
            (Part::Prose(_), Some(language)) => {
                parts.push(Part::Code { language: language.into(), text: String::new() })
            }
            (Part::Code { .. }, Some(_)) => parts.push(Part::Prose(String::new())),
            (Part::Prose(text) | Part::Code { text, .. }, None) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    parts
}

fn prose(page: &str) -> String {
    let texts = parts(page).into_iter().filter_map(|part| match part {
        Part::Prose(text) => Some(text),
        Part::Code { .. } => None,
    });
    texts.collect()
}

/// The code blocks of a language; in shell blocks also the YAML files they write.
fn yaml_blocks(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    for part in parts(page) {
        match part {
            Part::Code { language, text } if language == "yaml" => blocks.push(text),
            Part::Code { language, text } if language == "sh" => {
                let files = text.split("cat > ").skip(1).filter_map(|file| file.split_once(" <<'END'\n"));
                let yaml = files.filter(|(name, _)| name.ends_with(".yaml"));
                blocks.extend(yaml.filter_map(|(_, rest)| Some(rest.split_once("\nEND\n")?.0.to_owned())));
            }
            Part::Code { .. } | Part::Prose(_) => {}
        }
    }
    blocks
}

type Row = Vec<String>;

fn cells(line: &str) -> Row {
    let line = line.replace("\\|", "\u{0}");
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

/// The tables of a page whose first column is called `first`, each with its rows.
fn tables(page: &str, first: &str) -> Vec<Vec<Row>> {
    let mut tables: Vec<Vec<Row>> = Vec::new();
    let text = prose(page);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('|') && cells(line).first().is_some_and(|cell| cell == first) {
            let rows = lines.by_ref().skip(1).take_while(|line| line.starts_with('|'));
            tables.push(rows.map(cells).collect());
        }
    }
    assert!(!tables.is_empty(), "no table with the first column {first}");
    tables
}

/// The word inside back quotes.
fn code(cell: &str) -> String {
    let word = cell.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'));
    word.unwrap_or_else(|| panic!("{cell:?} is not in back quotes")).to_owned()
}

fn cell(row: &Row, column: usize) -> &str {
    row.get(column).unwrap_or_else(|| panic!("no column {column} in {row:?}"))
}

// === Tables that repeat the code ===

#[test]
fn every_reason_has_its_row() {
    let documented: Vec<String> = tables(&read("docs/reasons.md"), "reason")
        .concat()
        .iter()
        .map(|row| {
            assert!((4..6).all(|column| !cell(row, column).is_empty()), "when or what to do is missing: {row:?}");
            format!("{} {} {} {}", code(cell(row, 0)), cell(row, 1), cell(row, 2), cell(row, 3))
        })
        .collect();
    let who = |fault| match fault {
        Fault::Agent => "agent",
        Fault::Operator => "operator",
        Fault::Upstream => "upstream",
        Fault::Us => "Postern",
    };
    let row = |r: &Reason| format!("{r} {} {} {}", r.status().as_u16(), r.code(), who(r.fault()));
    assert_eq!(documented, Reason::ALL.iter().map(row).collect::<Vec<_>>());
}

/// Reasons are named in more places than their table; none may be named that does not exist.
#[test]
fn no_page_names_a_reason_in_a_metric_that_does_not_exist() {
    for page in pages() {
        let text = read(&page);
        let selectors = text.split("reason=\"").skip(1).filter_map(|rest| rest.split('"').next());
        for selector in selectors {
            assert!(Reason::ALL.iter().any(|reason| reason.as_str() == selector), "{page}: {selector}");
        }
    }
}

/// Exposes every family, by doing once what each of them counts.
fn exposition() -> String {
    let metrics = Metrics::new().unwrap();
    let server = metrics.server(&ServerName::parse("s").unwrap());
    metrics.exchange_ended(&server, "m", "o");
    metrics.refused(&server, Reason::NotMcp);
    metrics.headers_came(&server, "m", 1.0);
    metrics.stream_opened(&server, "post");
    metrics.stream_closed(&server, "post", 1.0);
    metrics.token_stripped(&server);
    metrics.echoes_masked(&server, 1);
    metrics.auth_rejected(&server);
    metrics.upstream_connection("s", 1);
    metrics.dial_failed("s", Reason::UpstreamTls);
    metrics.broker_connected(true);
    metrics.broker_connect("ok");
    metrics.broker_heard(UNIX_EPOCH);
    let usable = Some(UsableSample { generation: 1, age: 1.0, lag: Some(1.0) });
    let text = metrics.expose(&[CredentialSample { server: "s".into(), usable }]).unwrap();
    let broker = BrokerMetrics::new().unwrap();
    broker.stream_opened();
    broker.stream_ended("c");
    broker.refused("r");
    broker.reviewed("r");
    broker.certificate("c", UNIX_EPOCH);
    broker.binding("n", "b", true);
    broker.status_written("r");
    broker.followed(&Followed::default(), 1, 1);
    broker.watch_failed("k", "c");
    let of_broker = broker.expose(1).unwrap();
    let controller = ControllerMetrics::new().unwrap();
    controller.admitted("r", "r", 1.0);
    controller.certificate("c", UNIX_EPOCH);
    let of_controller = controller.expose().unwrap();
    String::from_utf8([text, of_broker, of_controller].concat()).unwrap()
}

/// `name type label,label` of each family in an exposition.
fn families(exposition: &str) -> BTreeSet<String> {
    let types = exposition.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let family = |(name, kind): (&str, &str)| {
        let is_sample = |line: &&str| line.starts_with(name) && !line.starts_with('#');
        let sample = exposition.lines().find(is_sample).expect("a family without a sample is not exposed");
        let labels = sample.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let names = labels.split(',').filter_map(|label| label.split('=').next());
        let names: BTreeSet<&str> = names.filter(|name| !name.is_empty() && *name != "le").collect();
        format!("{name} {kind} {}", Vec::from_iter(names).join(","))
    };
    types.map(family).collect()
}

#[test]
fn every_metric_family_has_its_row() {
    let exposed = families(&exposition());
    let files = ["metrics.rs", "metrics/broker.rs", "metrics/controller.rs"];
    let source = files.map(|file| read(&format!("src/telemetry/{file}"))).concat();
    let declared: BTreeSet<&str> =
        source.split("\"postern_").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let missing = declared.iter().find(|name| !exposed.iter().any(|f| f.starts_with(&format!("postern_{name} "))));
    assert_eq!(missing, None, "declared, but never touched by exposition() in this test");
    let documented: BTreeSet<String> = tables(&read("docs/metrics.md"), "family")
        .concat()
        .iter()
        .map(|row| {
            let labels: BTreeSet<&str> =
                cell(row, 2).split(',').map(str::trim).filter(|label| !label.is_empty()).collect();
            format!("{} {} {}", code(cell(row, 0)), cell(row, 1), Vec::from_iter(labels).join(","))
        })
        .collect();
    assert_eq!(documented, exposed);
}

/// The access line has no public type; its fields are read from the source.
#[test]
fn the_access_line_is_documented_field_by_field() {
    let line = read("src/telemetry/exchange/line.rs");
    let fields = line.split("key!(\"").skip(1).filter_map(|rest| Some(rest.split('"').next()?.to_owned()));
    let declared: BTreeSet<String> = fields.chain(["time".to_owned()]).collect();
    let page = read("docs/metrics.md");
    let column = |first: &str| tables(&page, first).concat().iter().map(|row| code(cell(row, 0))).collect();
    let documented: BTreeSet<String> = column("field");
    assert_eq!(documented, declared);

    let source = read("src/telemetry/exchange.rs");
    let labels = source.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \""));
    let outcomes: BTreeSet<String> = labels.filter_map(|(_, rest)| Some(rest.split('"').next()?.to_owned())).collect();
    let documented: BTreeSet<String> = column("outcome");
    assert_eq!(documented, outcomes);
}

#[test]
fn every_refusal_of_the_broker_has_its_row() {
    let rows = tables(&read("docs/metrics.md"), "broker refusal").concat();
    let documented: Vec<String> = rows.iter().map(|row| format!("{} {}", code(cell(row, 0)), cell(row, 1))).collect();
    let status = |refusal: &BrokerRefusal| refusal.status().map_or(String::new(), |status| status.as_u16().to_string());
    let row = |refusal: &BrokerRefusal| format!("{} {}", refusal.as_str(), status(refusal));
    assert_eq!(documented, BrokerRefusal::ALL.iter().map(row).collect::<Vec<_>>());
}

#[test]
fn everything_that_a_status_says_has_its_row() {
    let rows = tables(&read("docs/reasons.md"), "condition").concat();
    let told = |row: &Row| {
        assert!(
            !cell(row, 3).is_empty()
                && cell(row, 4).is_empty() == (cell(row, 1) == "True" && !cell(row, 2).contains("Partly")),
            "{row:?}"
        );
        format!("{} {} {}", code(cell(row, 0)), cell(row, 1), code(cell(row, 2)))
    };
    let documented: Vec<String> = rows.iter().map(told).collect();
    let said = SAYINGS.iter().map(|(kind, truth, reason)| format!("{} {} {reason}", kind.as_str(), truth.as_str()));
    assert_eq!(documented, said.collect::<Vec<_>>());
    let metrics = tables(&read("docs/metrics.md"), "family").concat();
    let writes = metrics.iter().find(|row| cell(row, 0) == "`postern_broker_status_writes_total`").unwrap();
    let results: Vec<&str> = cell(writes, 3).split('`').skip(1).step_by(2).collect();
    assert_eq!(results, WriteResult::ALL.map(WriteResult::as_str));
}

/// The session line has no public type either.
#[test]
fn the_session_line_is_documented_field_by_field() {
    let source = read("src/telemetry/session.rs");
    let line = source.split("struct Line<'a> {").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap();
    let declared: BTreeSet<String> =
        line.lines().filter_map(|line| line.trim().split_once(':').map(|(name, _)| name.to_owned())).collect();
    let page = read("docs/metrics.md");
    let column = |first: &str| tables(&page, first).concat().iter().map(|row| code(cell(row, 0))).collect();
    let documented: BTreeSet<String> = column("session field");
    assert_eq!(documented, declared);
    let labels = source.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \""));
    let causes: BTreeSet<String> = labels.filter_map(|(_, rest)| Some(rest.split('"').next()?.to_owned())).collect();
    let documented: BTreeSet<String> = column("cause");
    assert_eq!(documented, causes);
}

/// Neither has the admission line.
#[test]
fn the_admission_line_is_documented_field_by_field() {
    let source = read("src/telemetry/admission.rs");
    let line = source.split("struct Line {").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap();
    let fields = line.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let declared: BTreeSet<String> =
        fields.filter_map(|line| line.split_once(':').map(|(name, _)| name.to_owned())).collect();
    let page = read("docs/metrics.md");
    let column = |first: &str| tables(&page, first).concat().iter().map(|row| code(cell(row, 0))).collect();
    let documented: BTreeSet<String> = column("admission field");
    assert_eq!(documented, declared);
    let labels = source.lines().filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \""));
    let results: BTreeSet<String> = labels.filter_map(|(_, rest)| Some(rest.split('"').next()?.to_owned())).collect();
    let documented: BTreeSet<String> = column("admission result");
    assert_eq!(documented, results);
    let unchanged =
        tables(&page, "admission result").concat().into_iter().find(|row| cell(row, 0) == "`unchanged`").unwrap();
    let named: Vec<&str> = cell(&unchanged, 1).split('`').skip(1).step_by(2).collect();
    assert_eq!(named, Unchanged::ALL.map(Unchanged::as_str));
}

#[test]
fn every_admission_reason_and_annotation_has_its_row() {
    let page = read("docs/injection.md");
    let documented =
        |first: &str| -> Vec<String> { tables(&page, first).concat().iter().map(|row| code(cell(row, 0))).collect() };
    let reasons: Vec<&str> = AdmissionReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(documented("admission reason"), reasons);
    assert_eq!(documented("annotation"), KEYS.map(|key| format!("config.postern.dev/{key}")));
}

#[test]
fn every_variable_of_a_capture_has_its_row() {
    let rows = tables(&read("docs/interception.md"), "agent variable").concat();
    for (column, capture) in (1..).zip(Capture::ALL) {
        let given = rows.iter().filter(|row| !cell(row, column).is_empty());
        let documented: Vec<_> = given.map(|row| (code(cell(row, 0)), code(cell(row, column)))).collect();
        let set = agent::environment(capture, &[]).into_iter().map(|(name, value)| (name.to_owned(), value));
        assert_eq!(documented, set.collect::<Vec<_>>(), "{capture}");
    }
}

/// `path kind` of each field, parents before their children.
#[test]
fn everything_that_a_survey_looks_at_has_its_row() {
    let page = read("docs/operations.md");
    let rows = tables(&page, "part").concat();
    let named: Vec<&str> = rows.iter().flat_map(|row| cell(row, 1).split(", ")).collect();
    let named: Vec<String> = named.into_iter().map(code).collect();
    let topics: Vec<&str> = Topic::ALL.iter().map(|topic| topic.as_str()).collect();
    assert_eq!(named, topics);
}

fn paths(fields: Fields, above: &str) -> Vec<String> {
    let mut all = Vec::new();
    for (name, shape) in fields {
        let path = if above.is_empty() { (*name).to_owned() } else { format!("{above}.{name}") };
        let (kind, below): (&str, Fields) = match shape {
            Shape::Text => ("text", &[]),
            Shape::Bool => ("true or false", &[]),
            Shape::Number => ("number", &[]),
            Shape::Texts => ("list", &[]),
            Shape::Any => ("object", &[]),
            Shape::Map(below) | Shape::Open(below) => ("object", below),
        };
        all.push(format!("{path} {kind}"));
        all.extend(paths(below, &path));
    }
    all
}

#[test]
fn every_field_has_its_row() {
    let page = read("docs/configuration.md");
    let tables = tables(&page, "field");
    let [sidecar, binding] = tables.as_slice() else { panic!("two tables of fields, not {}", tables.len()) };
    for (fields, table) in [(config::FIELDS, sidecar), (postern::api::binding::FIELDS, binding)] {
        let kind = |kind: &str| match kind {
            // Texts of a form that the page's head explains.
            "name" | "path" | "time" => "text".to_owned(),
            other => other.to_owned(),
        };
        let documented: Vec<String> =
            table.iter().map(|row| format!("{} {}", code(cell(row, 0)), kind(cell(row, 1)))).collect();
        assert_eq!(documented, paths(fields, ""));
    }
}

/// A document in which every field stands that has a documented default, with that default.
fn with_defaults(table: &[Row], given: &[(&str, &str)], left_out: &[&str]) -> String {
    let value = |row: &Row| {
        let path = code(cell(row, 0));
        let given = given.iter().find(|(field, _)| *field == path).map(|(_, value)| (*value).to_owned());
        let default = Some(cell(row, 2).to_owned()).filter(|text| !matches!(text.as_str(), "" | "none" | "required"));
        let default = default.filter(|_| !left_out.contains(&path.as_str()));
        (path, given.or(default))
    };
    let rows: Vec<(String, Option<String>)> = table.iter().map(value).collect();
    let mut text = String::new();
    for (path, value) in &rows {
        let (depth, name) = (path.matches('.').count(), path.rsplit('.').next().unwrap());
        let indent = "  ".repeat(depth);
        let parent = format!("{path}.");
        let filled = rows.iter().any(|(below, value)| below.starts_with(&parent) && value.is_some());
        match value {
            Some(value) => writeln!(text, "{indent}{name}: {}", quoted(value)).unwrap(),
            None if filled => writeln!(text, "{indent}{name}:").unwrap(),
            None => {}
        }
    }
    text
}

fn quoted(value: &str) -> String {
    if value.contains('{') { format!("\"{value}\"") } else { value.to_owned() }
}

#[test]
fn the_documented_defaults_of_the_configuration_are_the_real_ones() {
    let page = read("docs/configuration.md");
    let caller = [("caller.namespace", "ns"), ("caller.serviceAccount", "sa")];
    let file = [&caller[..], &[("source.file.directory", "./b")]].concat();
    let broker = [&caller[..], &[("source.broker.url", "https://h.example:8443")]].concat();
    let table = tables(&page, "field").remove(0);
    let bare = table.iter().map(|row| vec![cell(row, 0).to_owned(), String::new(), String::new()]).collect::<Vec<_>>();
    let ca = rcgen::generate_simple_self_signed(vec!["h.example".into()]).unwrap().cert.pem();
    let environment = |name: &str| (name == "POSTERN_BROKER_CA").then(|| ca.clone());
    let settings = |text: &str| match config::read("docs", text, Path::new("/x"), &environment) {
        Ok(settings) => format!("{settings:#?}"),
        Err(problems) => panic!("{}\n{text}", told(&problems)),
    };
    let of_broker: Vec<String> = table.iter().map(|row| code(cell(row, 0))).collect();
    let of_broker: Vec<&str> =
        of_broker.iter().map(String::as_str).filter(|field| field.starts_with("source.broker.")).collect();
    for (required, left_out) in [(&file, of_broker.as_slice()), (&broker, &[])] {
        let explicit = with_defaults(&table, required, left_out);
        assert!(explicit.lines().count() > 20, "{explicit}");
        assert_eq!(settings(&explicit), settings(&with_defaults(&bare, required, &[])), "{explicit}");
    }
}

#[test]
fn every_variable_of_a_pod_has_its_row() {
    let rows = tables(&read("docs/configuration.md"), "variable").concat();
    let documented: Vec<(String, String)> = rows.iter().map(|row| (code(cell(row, 0)), code(cell(row, 1)))).collect();
    let known = config::VARIABLES.map(|(variable, field)| (variable.to_owned(), field.to_owned()));
    assert_eq!(documented, known);
    let fields = paths(config::FIELDS, "");
    for (_, field) in &documented {
        assert!(fields.iter().any(|path| path.split(' ').next() == Some(field)), "{field} is no field");
    }
}

#[test]
fn the_documented_defaults_of_a_binding_are_the_real_ones() {
    const REQUIRED: [(&str, &str); 7] = [
        ("apiVersion", "postern.dev/v1alpha1"),
        ("kind", "CredentialBinding"),
        ("metadata.name", "a"),
        ("metadata.namespace", "ns"),
        ("spec.serviceAccounts", "[sa]"),
        ("spec.server.name", "a"),
        ("spec.server.url", "https://h.example/mcp"),
    ];
    let basic_only = ["spec.credential.secretRef.usernameKey", "spec.credential.secretRef.passwordKey"];
    let token_only = ["spec.credential.header.format"];
    let secret = ("spec.credential.secretRef.name", "s");
    let bearer = [("spec.credential.type", "Bearer"), ("spec.credential.secretRef.key", "token"), secret];
    let basic = [("spec.credential.type", "Basic"), secret];
    let page = read("docs/configuration.md");
    let table = tables(&page, "field").remove(1);
    let bare = table.iter().map(|row| vec![cell(row, 0).to_owned(), String::new(), String::new()]).collect::<Vec<_>>();
    type Kind<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let kinds: [Kind<'_>; 2] = [(&bearer, &basic_only), (&basic, &token_only)];
    for (kind, left_out) in kinds {
        let given = [&REQUIRED, kind].concat();
        let explicit = with_defaults(&table, &given, left_out);
        assert_eq!(one_binding(&explicit), one_binding(&with_defaults(&bare, &given, left_out)), "{explicit}");
    }
}

fn one_binding(text: &str) -> Binding {
    let (mut bindings, problems) = read_bindings("docs", text);
    assert!(problems.is_empty(), "{}\n{text}", told(&problems));
    let Located { binding, .. } = bindings.pop().expect("a document");
    binding
}

fn told(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

// === Examples ===

const AROUND_A_CREDENTIAL: &str = "\
apiVersion: postern.dev/v1alpha1
kind: CredentialBinding
metadata: {name: a, namespace: ns}
spec:
  serviceAccounts: [sa]
  server: {name: a, url: https://h.example/mcp}
";

#[test]
fn every_example_is_accepted() {
    let (mut documents, mut configurations) = (0, 0);
    for page in pages() {
        for block in yaml_blocks(&read(&page)) {
            if block.starts_with("caller:") {
                let read = config::read(&page, &block, Path::new("/x"), &|_| None);
                assert!(read.is_ok(), "{}\n{block}", told(&read.err().unwrap_or_default()));
                configurations += 1;
                continue;
            }
            for document in block.split("---\n") {
                if let Some(kind) = foreign_kind(document) {
                    assert!(["RoleBinding", "Secret"].contains(&&*kind), "{page}: check examples of a {kind}, too");
                    continue;
                }
                let line = document.lines().find(|line| line.starts_with("credential:"));
                let whole = line.map(|line| format!("{AROUND_A_CREDENTIAL}  {line}\n"));
                one_binding(whole.as_deref().unwrap_or(document));
                documents += 1;
            }
        }
    }
    assert!(documents >= 6 && configurations >= 2, "{documents} documents, {configurations} configurations");
}

/// The kind of an object that is not ours. Whether the API server takes it is for the tests with one to say.
fn foreign_kind(document: &str) -> Option<String> {
    let object: serde_json::Value = serde_yaml::from_str(document).expect("YAML");
    object["kind"].as_str().filter(|kind| *kind != "CredentialBinding").map(str::to_owned)
}

// === Help texts ===

/// The help text of a command, as a pipe gets it.
fn help(command: &[String]) -> String {
    let run = Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(command)
        .arg("--help")
        .env_remove("COLUMNS")
        .env_remove("LINES")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    assert!(run.status.success(), "{command:?} --help: {}", run.status);
    let text = String::from_utf8(run.stdout).unwrap();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn subcommands(help: &str) -> Vec<String> {
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let names = list.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn help_page(command: &[String], page: &mut String) {
    let text = help(command);
    let name = command.iter().fold("postern".to_owned(), |name, word| format!("{name} {word}"));
    write!(page, "\n## {name}\n\n```text\n{}\n```\n", text.trim_end()).unwrap();
    for name in subcommands(&text) {
        help_page(&[command, &[name]].concat(), page);
    }
}

#[test]
fn the_help_texts_are_those_of_the_binary() {
    let mut page = "# Command line\n\nGenerated from `--help` by `UPDATE_DOCS=1 cargo test --test docs`.\n".to_owned();
    help_page(&[], &mut page);
    assert!(page.contains("## postern check explain"), "subcommands are not found:\n{page}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(root().join("docs/cli.md"), &page).unwrap();
    }
    assert!(read("docs/cli.md") == page, "docs/cli.md is not what --help says; UPDATE_DOCS=1 rewrites it");
}

// === Manifests ===

#[test]
fn the_manifest_of_the_kind_is_generated() {
    const FILE: &str = "charts/postern/files/crd.yaml";
    let manifest = postern::api::crd::manifest();
    assert!(manifest.contains("x-kubernetes-validations"), "{manifest}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(root().join(FILE), &manifest).unwrap();
    }
    assert!(read(FILE) == manifest, "{FILE} is not what src/api/crd.rs says; UPDATE_DOCS=1 rewrites it");
}

// === Links ===

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let text = prose(page);
    let headings = text.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#'));
    let mut anchors = BTreeSet::new();
    for heading in headings.filter_map(|heading| heading.strip_prefix(' ')) {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let anchor: String = heading.trim().to_lowercase().chars().filter(kept).collect();
        let anchor = anchor.replace(' ', "-");
        let again = (1..).map(|count| format!("{anchor}-{count}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|name| !anchors.contains(name));
        anchors.extend(free);
    }
    anchors
}

fn links(page: &str) -> Vec<String> {
    let text = prose(page);
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(|target| target.split_whitespace().next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut checked = 0;
    for page in pages() {
        let text = read(&page);
        let directory = root().join(&page).parent().map(PathBuf::from).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { root().join(&page) } else { directory.join(file) };
            assert!(target.exists(), "{page}: {link}: no such file");
            if let Some(anchor) = anchor {
                let text = std::fs::read_to_string(&target).unwrap();
                assert!(anchors(&text).contains(anchor), "{page}: {link}: no such heading");
            }
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} links were found");
}

/// Every page is reached from README.md.
#[test]
fn no_page_is_lost() {
    let readme = read("README.md");
    let linked = links(&readme);
    for page in pages().iter().filter(|page| *page != "README.md") {
        assert!(linked.iter().any(|link| link.split('#').next() == Some(page)), "README.md does not link {page}");
    }
}

// === Tests named in the documentation ===

#[test]
fn every_step_of_the_test_command_has_its_row() {
    let script = read("tests/run");
    let steps = script.lines().filter_map(|line| line.strip_prefix("step_")?.split_once("()"));
    let steps: BTreeSet<String> = steps.map(|(name, _)| name.to_owned()).collect();
    let rows = tables(&read("docs/development.md"), "step").concat();
    let documented: BTreeSet<String> = rows.iter().map(|row| code(cell(row, 0))).collect();
    assert_eq!(documented, steps);
}

/// The tests that a cell names: `module::function`.
fn named_tests(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).map(str::to_owned).collect()
}

/// Whether `function` stands in `source` as a test, and one that runs.
fn is_test(source: &str, function: &str) -> bool {
    let wanted = format!("fn {function}(");
    let mut lines = source.lines().rev().skip_while(|line| !line.contains(&wanted));
    let found = lines.next().is_some();
    let above: Vec<&str> = lines.map(str::trim).take_while(|line| line.starts_with(['#', '/'])).collect();
    let marked = above.iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
    let property = source.contains("proptest! {") && above.iter().all(|line| line.starts_with("//"));
    found && (marked || property) && !above.iter().any(|line| line.starts_with("#[ignore"))
}

/// docs/development.md says which test covers what; the tests it names exist.
#[test]
fn every_test_that_is_named_exists() {
    let page = read("docs/development.md");
    let rows = [tables(&page, "no.").concat(), tables(&page, "attack").concat()].concat();
    let named: Vec<String> = rows.iter().flat_map(|row| named_tests(cell(row, 2))).collect();
    assert!(named.len() > 100, "only {} tests are named", named.len());
    for name in named.into_iter().chain(named_tests(&prose(&page))) {
        let (modules, function) = name.rsplit_once("::").unwrap();
        let path = modules.replace("::", "/");
        let places = ["tests/suite/{}.rs", "tests/cluster/{}.rs", "src/{}.rs", "src/{}_tests.rs"];
        let files = places.iter().map(|place| root().join(place.replace("{}", &path)));
        let mut found = files.filter_map(|file| std::fs::read_to_string(file).ok());
        assert!(found.any(|text| is_test(&text, function)), "{name}: no such test");
    }
}

#[test]
fn a_test_is_told_from_what_looks_like_one() {
    let test = "/// A.\n#[tokio::test]\nasync fn a() {}\n";
    assert!(is_test(test, "a") && !is_test(test, "b") && !is_test("async fn a() {}", "a"));
    assert!(!is_test("#[test]\n#[ignore = \"x\"]\nfn a() {}", "a") && !is_test("#[test]\nfn b() {}\n\nfn a() {}", "a"));
    assert!(is_test("proptest! {\n    /// A.\n    fn a(x in 0..3) {}\n}", "a"));
}

/// Likewise for the ways of the other captures.
#[test]
fn every_attack_on_a_capture_has_its_tests() {
    let rows = tables(&read("docs/development.md"), "attack there").concat();
    let numbers: Vec<u8> = rows.iter().map(|row| cell(row, 0).parse().expect("a number")).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 6, 7, 8, 10, 19, 26, 27, 28]);
    for row in &rows {
        let tests = named_tests(cell(row, 2));
        assert!(tests.iter().any(|name| name.starts_with("captures::")), "no test through the binary: {row:?}");
    }
}

/// The attacks that concern the `endpoint` capture: each has its row, and a test through the binary
/// in each row; and every test of tests/suite/attacks has its place in one.
#[test]
fn every_attack_has_its_tests() {
    let rows = tables(&read("docs/development.md"), "attack").concat();
    let numbers: Vec<u8> = rows.iter().map(|row| cell(row, 0).parse().expect("a number")).collect();
    assert_eq!(numbers, [1, 3, 4, 5, 6, 7, 8, 9, 10, 17, 18, 19, 20, 21, 22, 23, 24, 25, 28, 29]);
    let mut named = BTreeSet::new();
    for row in &rows {
        let tests = named_tests(cell(row, 2));
        let in_suite = |name: &String| {
            let file = name.rsplit_once("::").unwrap().0.replace("::", "/");
            root().join(format!("tests/suite/{file}.rs")).exists()
        };
        assert!(tests.iter().any(in_suite), "no test through the binary: {row:?}");
        named.extend(tests);
    }
    let mut tried = 0;
    for entry in std::fs::read_dir(root().join("tests/suite/attacks")).expect("there are attacks") {
        let file = entry.unwrap().path();
        let (module, text) = (file.file_stem().unwrap().to_str().unwrap(), std::fs::read_to_string(&file).unwrap());
        let functions = text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
        for function in functions.filter(|function| is_test(&text, function)) {
            let name = format!("attacks::{module}::{function}");
            assert!(named.contains(&name), "{name} stands in no row of docs/development.md");
            tried += 1;
        }
    }
    assert!(tried > 30, "only {tried} attacks were found");
}
