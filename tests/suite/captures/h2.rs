//! HTTP/2 from the agent: streams side by side, each a request like any other.

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use super::{NAME, OTHER, Scene};
use crate::support::answer::{End, Framing};
use crate::support::insider::{Trust, connect, tunnel};
use crate::support::observed::within;
use crate::support::{Answer, Protocol, rpc};

type Client = SendRequest<Full<Bytes>>;

async fn client(scene: &Scene, kind: &str) -> Client {
    let socket = match kind {
        "proxy" => tunnel(&scene.sidecar, &scene.place()).await.expect("a tunnel"),
        _ => connect(&scene.sidecar).await,
    };
    let trust = Trust::in_pod(&scene.sidecar).offering(&["h2", "http/1.1"]);
    let stream = trust.shake(socket, NAME).await.expect("the sidecar is believed");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn call(place: &str) -> http::request::Builder {
    Request::post(format!("https://{place}/mcp")).header("content-type", "application/json")
}

async fn ask(client: &mut Client, request: Request<Full<Bytes>>) -> Response<Incoming> {
    within("an answer", client.send_request(request)).await.expect("an answer")
}

async fn text(response: Response<Incoming>) -> String {
    let body = within("the body", response.into_body().collect()).await.expect("a whole body");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

fn list(place: &str, number: u64) -> Request<Full<Bytes>> {
    call(place).body(Full::from(rpc::list(number))).expect("a request")
}

#[tokio::test]
async fn calls_get_the_credential_side_by_side() {
    for kind in ["proxy", "redirect"] {
        let scene = Scene::start(kind, Protocol::H2).await;
        let client = client(&scene, kind).await;
        let place = scene.place();
        let calls = (0..20).map(|number| {
            let (mut client, place) = (client.clone(), place.clone());
            async move {
                let response = ask(&mut client, list(&place, number)).await;
                assert_eq!(response.status(), 200);
                let body: Value = serde_json::from_str(&text(response).await).expect("JSON");
                assert_eq!(body["id"], number);
            }
        });
        futures_util::future::join_all(calls).await;
        let requests = scene.capture.requests();
        assert_eq!(requests.len(), 20);
        let expected = [format!("Bearer {}", scene.secret)];
        assert!(requests.iter().all(|request| request.values("authorization") == expected));
        let line = scene.sidecar.next_access("a call", |line| line["server"] == "github").await;
        assert_eq!((&line["capture"], &line["protocol"]), (&json!(kind), &json!("HTTP/2")));
    }
}

/// A refusal is an answer of its stream; the connection goes on.
#[tokio::test]
async fn refusals_are_answers_of_their_streams() {
    let scene = Scene::start("redirect", Protocol::Tls).await;
    let mut client = client(&scene, "redirect").await;
    let place = scene.place();
    let foreign = format!("{OTHER}:{}", scene.capture.port());
    let rows = [
        (list(&foreign, 1), 421, "authority_mismatch"),
        (call(&place).header("host", &foreign).body(Full::from(rpc::list(1))).unwrap(), 421, "authority_mismatch"),
        (Request::get(format!("https://{place}/mcp")).body(Full::default()).unwrap(), 403, "not_mcp"),
        (
            Request::post(format!("https://{place}/other"))
                .header("content-type", "application/json")
                .body(Full::from(rpc::list(1)))
                .unwrap(),
            403,
            "path_outside_binding",
        ),
        (
            Request::post(format!("https://{place}/mcp/../x"))
                .header("content-type", "application/json")
                .body(Full::from(rpc::list(1)))
                .unwrap(),
            400,
            "malformed_head",
        ),
        (
            Request::post(format!("http://{place}/mcp"))
                .header("content-type", "application/json")
                .body(Full::from(rpc::list(1)))
                .unwrap(),
            421,
            "authority_mismatch",
        ),
        (call(&place).body(Full::from("[]")).unwrap(), 400, "bad_json_rpc"),
        (call(&place).body(Full::from(vec![b' '; 5 << 20])).unwrap(), 413, "body_too_large"),
    ];
    for (request, status, reason) in rows {
        let shown = format!("{request:?}").chars().take(160).collect::<String>();
        let response = ask(&mut client, request).await;
        assert_eq!(response.status(), status, "{shown}");
        assert_eq!(response.headers()["postern-reason"], reason, "{shown}");
        assert!(response.headers().get("connection").is_none());
    }
    scene.capture.assert_untouched();
    assert_eq!(ask(&mut client, list(&place, 2)).await.status(), 200);
    scene.assert_served_once();
}

/// Events come as they are sent; a stream that the agent gives up ends upstream; the others go on.
#[tokio::test]
async fn a_stream_given_up_ends_upstream_alone() {
    let scene = Scene::start("redirect", Protocol::Tls).await;
    let mut client = client(&scene, "redirect").await;
    let (first, one) = Answer::events();
    let (second, two) = Answer::events();
    scene.capture.next(one);
    scene.capture.next(two);
    let mut streams = Vec::new();
    for number in 0..2 {
        let response = ask(&mut client, list(&scene.place(), number)).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        streams.push(response.into_body());
        scene.capture.request(usize::try_from(number).unwrap()).await;
    }
    first.event("one");
    let frame = within("an event", streams[0].frame()).await.expect("open").expect("data");
    assert!(frame.into_data().expect("data").ends_with(b"one\n\n"));
    drop(streams.remove(0));
    scene.capture.abandoned(0).await;
    second.event("two");
    let frame = within("an event", streams[0].frame()).await.expect("open").expect("data");
    assert!(frame.into_data().expect("data").ends_with(b"two\n\n"));
    scene.sidecar.files().remove_document("github");
    // The credential is gone: the stream ends, as one may that is ended between two events.
    while let Some(frame) = within("the end", streams[0].frame()).await {
        frame.expect("a proper end");
    }
    scene.sidecar.next_access("revoked", |line| line["outcome"] == "revoked").await;
}

/// An answer that the server breaks off must not look whole.
#[tokio::test]
async fn a_broken_answer_is_seen_to_be_broken() {
    let scene = Scene::start("redirect", Protocol::Tls).await;
    let mut client = client(&scene, "redirect").await;
    let (stream, answer) = Answer::stream(&[("Content-Type", "application/json")], Framing::Chunked);
    scene.capture.next(answer);
    let asked = tokio::spawn({
        let (mut client, place) = (client.clone(), scene.place());
        async move { ask(&mut client, list(&place, 1)).await }
    });
    scene.capture.request(0).await;
    stream.send("{\"jsonrpc\"");
    let response = asked.await.expect("an answer");
    stream.end(End::Reset);
    let body = within("the end", response.into_body().collect()).await;
    assert!(body.is_err(), "a truncated answer passed for a whole one: {body:?}");
    assert_eq!(ask(&mut client, list(&scene.place(), 2)).await.status(), 200, "the connection goes on");
}

/// The shutdown lets running calls finish and takes no new ones.
#[tokio::test]
async fn the_shutdown_lets_calls_finish() {
    let scene = Scene::start("redirect", Protocol::Tls).await;
    let client = client(&scene, "redirect").await;
    let (later, answer) = Answer::later();
    scene.capture.next(answer);
    let asked = tokio::spawn({
        let (mut client, place) = (client.clone(), scene.place());
        async move { ask(&mut client, list(&place, 1)).await }
    });
    let request = scene.capture.request(0).await;
    scene.sidecar.terminate();
    scene.sidecar.diagnostic("draining").await;
    assert!(later.send(Answer::result(&request)).is_ok(), "awaited");
    let response = asked.await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert!(text(response).await.contains("result"));
    assert!(scene.sidecar.exit().await.success());
}
