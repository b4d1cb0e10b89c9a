//! The webhook over real sockets and TLS, with golden reviews, by a client of its own.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use futures_util::stream::StreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper::client::conn::http1::{SendRequest, handshake};
use serde_json::{Value, json};

use super::look_up::ReadConfigMaps;
use super::*;
use crate::control::admission::{ConfigMap, NamespaceMeta, testing};
use crate::core::name::{Namespace, ObjectName};
use crate::runtime::clock;
use crate::runtime::drain::DrainTrigger;
use crate::telemetry::logs::AccessLog;
use crate::telemetry::metrics::controller::ControllerMetrics;
use crate::tls::authority::Authority;
use crate::tls::server::{ServerCertificate, Versions};

/// Namespaces that are known beforehand.
struct Known(BTreeMap<&'static str, NamespaceMeta>);

impl Namespaces for Known {
    fn get<'a>(&'a self, name: &'a Namespace) -> BoxFuture<'a, Option<NamespaceMeta>> {
        ready(self.0.get(name.as_str()).cloned()).boxed()
    }
}

/// ConfigMaps that are known beforehand; asked for one called `slow`, it has not all.
#[derive(Clone, Default)]
struct Shelf {
    maps: Vec<ConfigMap>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl ConfigMaps for Shelf {
    fn get<'a>(&'a self, namespace: &'a Namespace, names: &'a [ObjectName]) -> BoxFuture<'a, ReadConfigMaps> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.asked.lock().unwrap().extend(names.iter().map(|name| format!("{namespace}/{name}")));
        let found = self.maps.iter().filter(|map| names.contains(&map.name)).cloned().collect();
        ready(ReadConfigMaps { found, complete: !names.contains(&"slow".into()) }).boxed()
    }
}

/// Standard output of the test.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Running {
    address: SocketAddr,
    trust: String,
    metrics: Arc<ControllerMetrics>,
    lines: Lines,
    drain: DrainTrigger,
    ended: tokio::task::JoinHandle<()>,
}

async fn start(search: ConfigMapSearch, shelf: &Shelf) -> Running {
    let authority = Authority::new("test", Duration::from_secs(3600), clock::wall()).unwrap();
    let leaf = authority.issue(&["webhook.example".to_owned()], Duration::from_secs(600), clock::wall()).unwrap();
    let certificate = Arc::new(ServerCertificate::default());
    certificate.put(leaf);
    let tls = crate::tls::server::settings(certificate, Versions::Both, &[b"http/1.1"]).unwrap();
    let metrics = Arc::new(ControllerMetrics::new().unwrap());
    let lines = Lines::default();
    let log = AdmissionLog::new(Arc::clone(&metrics), AccessLog::writing_to(lines.clone()).unwrap());
    let settings = WebhookSettings {
        injection: Arc::new(ArcSwap::from_pointee(testing::settings())),
        config_maps: search,
        linger: Duration::from_secs(600),
    };
    let namespaces = Known([("research", NamespaceMeta::default())].into());
    let webhook = Webhook::new(settings, Box::new(namespaces), Box::new(shelf.clone()), log);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let drain = DrainTrigger::new();
    let ended = task::spawn(webhook.run(listener, tls, drain.watch()));
    Running { address, trust: authority.certificate().to_owned(), metrics, lines, drain, ended }
}

async fn connect<B: Body<Data = Bytes, Error = std::io::Error> + Send + Unpin + 'static>(
    running: &Running,
) -> SendRequest<B> {
    let config = crate::tls::client::settings(Some(running.trust.as_bytes())).unwrap();
    let socket = TcpStream::connect(running.address).await.unwrap();
    let name = "webhook.example".try_into().unwrap();
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, socket).await.unwrap();
    let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    task::spawn(connection);
    sender
}

type Whole = http_body_util::combinators::MapErr<Full<Bytes>, fn(std::convert::Infallible) -> std::io::Error>;

fn whole(body: impl Into<Bytes>) -> Whole {
    Full::new(body.into()).map_err(|never| match never {})
}

fn post(body: impl Into<Bytes>) -> Request<Whole> {
    let request = Request::post(PATH).header("host", "x").header("content-type", "application/json");
    request.body(whole(body)).unwrap()
}

async fn text(response: http::Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// Posts a review on a connection of its own; the response.
async fn review(running: &Running, review: &Value) -> Value {
    let response = connect(running).await.send_request(post(review.to_string())).await.unwrap();
    let (status, text) = text(response).await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str::<Value>(&text).unwrap()["response"].clone()
}

fn golden(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/admission/{name}.json"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn counted(running: &Running) -> Vec<String> {
    let text = String::from_utf8(running.metrics.expose().unwrap()).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("postern_admissions_total").map(str::to_owned)).collect()
}

#[tokio::test]
async fn golden_reviews_are_answered_counted_and_logged() {
    let running = start(ConfigMapSearch::Off, &Shelf::default()).await;
    let mut sender = connect(&running).await;
    // On one connection, as the API server does.
    for name in ["patch-generated-name", "refused-privileged", "unchanged-not-asked", "patch-dry-run"] {
        let response = sender.send_request(post(golden(&format!("{name}.request")).to_string())).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers().get("connection"), None);
        let (_, body) = text(response).await;
        let found: Value = serde_json::from_str(&body).unwrap();
        let expected = golden(&format!("{name}.response"));
        for field in ["/apiVersion", "/kind", "/response/uid", "/response/allowed", "/response/status"] {
            assert_eq!(found.pointer(field), expected.pointer(field), "{name}");
        }
        let is_patched = found.pointer("/response/patch").is_some();
        assert_eq!(is_patched, name.starts_with("patch"), "{name}");
    }
    assert_eq!(
        counted(&running),
        [
            "{reason=\"\",result=\"injected\"} 2",
            "{reason=\"not_asked\",result=\"unchanged\"} 1",
            "{reason=\"privileged\",result=\"refused\"} 1",
        ]
    );
    drop(sender);
    running.drain.run(Duration::ZERO).await;
    running.ended.await.unwrap();
    let lines = String::from_utf8(running.lines.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = |index: usize, fields: &[&str]| -> Vec<Value> {
        fields.iter().map(|field| lines[index][*field].clone()).collect()
    };
    assert_eq!(lines.len(), 4);
    let fields = ["namespace", "pod", "user", "result", "reason", "dry_run"];
    assert_eq!(
        line(0, &fields),
        [json!("research"), json!("job-*"), json!("someone"), json!("injected"), Value::Null, Value::Null]
    );
    assert_eq!(line(1, &fields[3..5]), [json!("refused"), json!("privileged")]);
    assert!(lines[1]["detail"].as_str().unwrap().contains("spec.containers[agent].securityContext.privileged is true"));
    assert_eq!(line(2, &fields[3..5]), [json!("unchanged"), json!("not_asked")]);
    assert_eq!(line(3, &fields[3..]), [json!("injected"), Value::Null, json!(true)]);
}

#[tokio::test]
async fn what_is_no_review_is_answered_as_such() {
    let running = start(ConfigMapSearch::Off, &Shelf::default()).await;
    let request = |method: &str, path: &str, kind: &str| {
        let request = Request::builder().method(method).uri(path).header("host", "x").header("content-type", kind);
        request.body(whole("{}")).unwrap()
    };
    let json = "application/json; charset=utf-8";
    let cases = [
        (request("POST", "/", json), 404, "no_such_path"),
        (request("GET", PATH, json), 405, "not_a_post"),
        (request("POST", PATH, "application/yaml"), 415, "not_json"),
        (request("POST", PATH, json), 400, "not_a_review"),
        (post("{"), 415, "not_json"),
    ];
    for (request, status, reason) in cases {
        let (found, text) = text(connect(&running).await.send_request(request).await.unwrap()).await;
        assert_eq!(found, status, "{reason}");
        assert!(text.starts_with("postern: "), "{text}");
        let counted = counted(&running);
        let wanted = format!("{{reason=\"{reason}\",result=\"failed\"}}");
        assert!(counted.iter().any(|line| line.starts_with(&wanted)), "{wanted}: {counted:?}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_read_to_its_end() {
    let running = start(ConfigMapSearch::Off, &Shelf::default()).await;
    let request = || Request::post(PATH).header("host", "x").header("content-type", "application/json");
    // Told beforehand, nothing of it needs to come.
    let endless = StreamBody::new(futures_util::stream::pending::<std::io::Result<Frame<Bytes>>>());
    let told = request().header("content-length", MAX_BODY + 1).body(endless).unwrap();
    assert_eq!(text(connect(&running).await.send_request(told).await.unwrap()).await.0, 413);
    // Else the limit is met on the way.
    let mut sent = vec![Bytes::from(vec![b' '; 1 << 20]); MAX_BODY >> 20];
    sent.push(Bytes::from_static(b" "));
    let chunks = futures_util::stream::iter(sent).map(|chunk| Ok(Frame::data(chunk)));
    let chunks = StreamBody::new(chunks.chain(futures_util::stream::pending()));
    let response = connect(&running).await.send_request(request().body(chunks).unwrap()).await.unwrap();
    assert_eq!(text(response).await.0, 413);
    assert_eq!(counted(&running), ["{reason=\"too_large\",result=\"failed\"} 2"]);
}

#[tokio::test]
async fn a_namespace_that_cannot_be_had_is_no_reason_to_guess() {
    let running = start(ConfigMapSearch::Off, &Shelf::default()).await;
    for name in ["elsewhere", "", "../x"] {
        let mut request = golden("patch-bare.request");
        request["request"]["namespace"] = json!(name);
        let response = review(&running, &request).await;
        assert_eq!(response["allowed"], false);
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("postern: namespace_unknown: "), "{message}");
    }
}

fn stdio(name: &str) -> ConfigMap {
    ConfigMap { name: name.into(), data: json!({"mcp.json": r#"{"mcpServers":{"files":{"command":"npx"}}}"#}) }
}

/// A review of a pod that refers to these.
fn referring_to(names: &[&str]) -> Value {
    let mut request = golden("patch-bare.request");
    let volume = |name: &&str| json!({"name": format!("v-{name}"), "configMap": {"name": name}});
    request["request"]["object"]["spec"]["volumes"] = names.iter().map(volume).collect();
    request
}

#[tokio::test]
async fn config_maps_are_searched_where_that_is_asked_for() {
    let shelf = Shelf { maps: vec![stdio("bad")], ..Shelf::default() };
    let found = "ConfigMap bad, mcp.json configures the stdio server files";
    for (search, allowed, warned) in [
        (ConfigMapSearch::Off, true, false),
        (ConfigMapSearch::Warn, true, true),
        (ConfigMapSearch::Deny, false, false),
    ] {
        shelf.asked.lock().unwrap().clear();
        let running = start(search, &shelf).await;
        let response = review(&running, &referring_to(&["bad", "absent"])).await;
        assert_eq!(response["allowed"], allowed, "{search:?}: {response}");
        let is_told = |value: &Value| value.to_string().contains(found);
        assert_eq!(is_told(&response["warnings"]), warned, "{search:?}: {response}");
        assert_eq!(is_told(&response["status"]), !allowed, "{search:?}: {response}");
        let asked = shelf.asked.lock().unwrap().clone();
        let expected: &[&str] = if search == ConfigMapSearch::Off { &[] } else { &["research/bad", "research/absent"] };
        assert_eq!(asked, expected, "{search:?}");
    }
}

#[tokio::test]
async fn a_search_that_is_not_complete_says_so() {
    let shelf = Shelf::default();
    let running = start(ConfigMapSearch::Deny, &shelf).await;
    for (names, complete) in
        [(&["a", "b", "c", "d"][..], true), (&["a", "b", "c", "d", "e"], false), (&["slow"], false)]
    {
        shelf.asked.lock().unwrap().clear();
        let response = review(&running, &referring_to(names)).await;
        assert_eq!(response["allowed"], true);
        let warned = response["warnings"].to_string().contains("not every ConfigMap was searched");
        assert_eq!(warned, !complete, "{names:?}: {response}");
        assert!(shelf.asked.lock().unwrap().len() <= 4, "{names:?}");
    }
}

#[tokio::test]
async fn a_shutdown_answers_on_and_closes_each_connection_behind_its_answer() {
    let Running { address, trust, metrics, lines, drain, ended } = start(ConfigMapSearch::Off, &Shelf::default()).await;
    let mut seen = drain.watch();
    let over = DrainTrigger::new();
    let running = Running { address, trust, metrics, lines, drain: over, ended };
    let mut kept = connect(&running).await;
    let body = golden("patch-bare.request").to_string();
    let before = kept.send_request(post(body.clone())).await.unwrap();
    assert_eq!(before.headers().get("connection"), None);
    text(before).await;
    // What is left of the grace when the test is through does not matter: the linger outlasts it.
    let shutdown = task::spawn(drain.run(Duration::from_secs(3)));
    seen.reached(Phase::Draining).await;
    let mut fresh = connect(&running).await;
    for sender in [&mut kept, &mut fresh] {
        let response = sender.send_request(post(body.clone())).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["connection"], "close");
        text(response).await;
    }
    let mut idle = connect::<Whole>(&running).await;
    assert!(!shutdown.await.unwrap(), "the webhook lingers longer than the grace of this test");
    running.ended.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nothing listens any more");
    assert!(idle.send_request(post(body)).await.is_err(), "an idle connection is closed");
}
