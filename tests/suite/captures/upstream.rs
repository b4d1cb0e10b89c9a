//! What a hostile upstream sends back meets the same rules on the ways of the captures (field rows 3,
//! 8, 19 and 28).

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::{NAME, OTHER, Scene, capturing};
use crate::support::dns::Dns;
use crate::support::insider::{Trust, connect, inside, post, redirected};
use crate::support::secrets::{contains, forms};
use crate::support::{Answer, Binding, Capture, Protocol, rpc, unique_secret};

/// The value comes back in a header, a body and a name: over HTTP/1.1 and HTTP/2, none is left.
#[tokio::test]
async fn an_echo_is_masked_on_every_way() {
    for kind in ["proxy", "redirect"] {
        let scene = Scene::start(kind, Protocol::Tls).await;
        let secret = scene.secret.clone();
        let echo = format!("{{\"seen\":\"{secret}\",\"again\":\"Bearer {secret}\"}}");
        let named = format!("x-{secret}").to_ascii_lowercase();
        let headers = [("Content-Type", "application/json"), ("X-Seen", secret.as_str()), (named.as_str(), "1")];
        scene.capture.always(move |_| Answer::full(200, &[("Content-Type", "text/plain")], "unexpected"));
        scene.capture.next(Answer::full(200, &headers, echo.clone()));
        let mut agent = match kind {
            "proxy" => inside(&scene.sidecar, NAME, scene.capture.port()).await,
            _ => redirected(&scene.sidecar, NAME, scene.capture.port()).await,
        };
        let answer = agent.ask(post(rpc::list(1))).await;
        let seen = [answer.head.raw.clone(), answer.body.clone()].concat();
        assert_eq!(answer.body.len(), echo.len(), "stars of equal length");
        for form in forms(&secret) {
            assert!(!contains(&seen, form.as_bytes()), "{kind}: {}", seen.escape_ascii());
        }
    }
}

#[tokio::test]
async fn an_echo_is_masked_over_http2() {
    let scene = Scene::start("redirect", Protocol::H2).await;
    let (secret, place) = (scene.secret.clone(), scene.place());
    let echo = format!("{{\"seen\":\"{secret}\"}}");
    scene.capture.next(Answer::full(200, &[("content-type", "application/json"), ("x-seen", &secret)], echo.clone()));
    let trust = Trust::in_pod(&scene.sidecar).offering(&["h2"]);
    let stream = trust.shake(connect(&scene.sidecar).await, NAME).await.expect("believed");
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = Request::post(format!("https://{place}/mcp")).header("content-type", "application/json");
    let request = request.body(Full::<Bytes>::from(rpc::list(1))).expect("a request");
    let (head, body) = client.send_request(request).await.expect("an answer").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    assert_eq!(head.headers["x-seen"].as_bytes(), "*".repeat(secret.len()).as_bytes());
    assert_eq!(body.len(), echo.len());
    assert!(!contains(&body, secret.as_bytes()));
}

/// A redirect to another host is told without what could carry a credential, and nobody follows it.
#[tokio::test]
async fn a_redirect_leads_nobody_away() {
    let scene = Scene::start("proxy", Protocol::Tls).await;
    let elsewhere = Capture::start(Protocol::Tls).await;
    let location = format!("https://u:{}@{OTHER}:{}/x?t={}#f", scene.secret, elsewhere.port(), scene.secret);
    scene.capture.next(Answer::redirect(307, &location));
    let mut agent = inside(&scene.sidecar, NAME, scene.capture.port()).await;
    let moved = agent.ask(post(rpc::list(1))).await;
    let expected = format!("https://{OTHER}:{}/x", elsewhere.port());
    assert_eq!((moved.status, moved.header("location")), (307, Some(expected.as_str())));
    elsewhere.assert_untouched();
}

/// A challenge ends here: no way leads an agent into a login.
#[tokio::test]
async fn a_challenge_stays_outside() {
    for kind in ["proxy", "redirect"] {
        let scene = Scene::start(kind, Protocol::Tls).await;
        scene.capture.next(Answer::unauthorized());
        let mut agent = match kind {
            "proxy" => inside(&scene.sidecar, NAME, scene.capture.port()).await,
            _ => redirected(&scene.sidecar, NAME, scene.capture.port()).await,
        };
        let answer = agent.ask(post(rpc::list(1))).await;
        answer.assert_refused("upstream_auth_rejected");
        assert_eq!((answer.status, answer.header("www-authenticate")), (502, None));
    }
}

/// The bound name is resolved by the sidecar, and where it leads is checked, whatever the agent resolved.
#[tokio::test]
async fn a_bound_name_that_leads_to_metadata_is_not_dialled() {
    let dns = Dns::start(&[(NAME, "169.254.169.254")]).await;
    let upstream = Capture::start(Protocol::Tls).await;
    let binding = Binding::new("github").trusting(&upstream).url(&upstream.url_as(NAME, "/mcp"));
    let sidecar = capturing("proxy", &dns, serde_json::json!([])).binding(binding.token(unique_secret())).start().await;
    let mut agent = inside(&sidecar, NAME, upstream.port()).await;
    agent.ask(post(rpc::list(1))).await.assert_refused("address_forbidden");
    upstream.assert_untouched();
}
