//! What an upstream says back of the credential reaches the agent as `*`s of the same length
//! (attack 19), however it is framed and split; everything else passes as it is.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde_json::json;

use crate::support::agent::Piece;
use crate::support::answer::Framing;
use crate::support::refusal::{Form, Refusal};
use crate::support::secrets::{UNRESERVED, find_leak};
use crate::support::{
    Answer, Binding, Capture, Message, Protocol, Sidecar, assert_refusal, awkward_secret, repeated, rpc, unique_secret,
};

const PROTOCOLS: [Protocol; 3] = [Protocol::Plain, Protocol::Tls, Protocol::H2];

async fn scene(protocol: Protocol, binding: impl FnOnce(Binding) -> Binding) -> (Capture, Sidecar) {
    let capture = Capture::start(protocol).await;
    let binding = binding(Binding::new("github").to(&capture));
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    (capture, sidecar)
}

fn json_answer(body: &str) -> Answer {
    Answer::full(200, &[("Content-Type", "application/json")], body.to_owned())
}

/// The text with the secret itself overwritten.
fn masked(text: &str, secret: &str) -> String {
    text.replace(secret, &"*".repeat(secret.len()))
}

/// Plain, percent-encoded and base64 at every alignment, in a body and in a header: none reaches
/// the agent, lengths stay, and it is counted.
#[tokio::test]
async fn every_form_of_an_echo_is_masked() {
    for protocol in PROTOCOLS {
        for secret in [unique_secret(), awkward_secret()] {
            let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
            let mut forms = vec![secret.clone(), utf8_percent_encode(&secret, &UNRESERVED).to_string()];
            for before in ["", "a", "ab"] {
                forms.push(STANDARD.encode(format!("{before}{secret}:end")));
                forms.push(URL_SAFE_NO_PAD.encode(format!("{before}{secret}")));
            }
            for form in forms {
                let text = format!("before <{form}> after");
                let header = format!("x {form} y");
                let headers = [("Content-Type", "text/plain"), ("X-Echo", header.as_str())];
                capture.next(Answer::full(200, &headers, text.clone()));
                let response = sidecar.post("github", rpc::list(1)).await;
                response.assert_ok();
                sidecar.next_access("the masked answer", |line| line["masked"].is_u64()).await;
                let seen = response.text();
                assert_eq!(seen.len(), text.len(), "{protocol:?} {form}: lengths stay");
                assert!(seen.starts_with("before <") && seen.ends_with("> after"), "{seen}");
                let whole = [&response.head.raw[..], &response.body].concat();
                assert_eq!(find_leak(&whole, std::slice::from_ref(&secret)), None, "{protocol:?} {form}: {seen}");
            }
            assert!(sidecar.metric("postern_echo_masks_total", &[("server", "github")]).await >= 16.0);
        }
    }
}

/// A credential of user and password: neither the password nor the encoded pair comes back.
#[tokio::test]
async fn an_echo_of_a_basic_credential_is_masked() {
    let password = unique_secret();
    let (capture, sidecar) = scene(Protocol::Tls, |binding| binding.basic("robot", &password)).await;
    let pair = STANDARD.encode(format!("robot:{password}"));
    capture.next(json_answer(&format!(r#"{{"authorization":"Basic {pair}","password":"{password}","user":"robot"}}"#)));
    let response = sidecar.post("github", rpc::list(1)).await;
    let text = response.text();
    assert!(!text.contains(&password) && !text.contains(&pair), "{text}");
    assert!(text.contains(r#""user":"robot""#), "{text}");
}

/// The value in pieces of any size, in an event stream: masked as if it had come whole, and every
/// byte around it passes.
#[tokio::test]
async fn an_echo_split_over_chunks_is_masked() {
    for protocol in PROTOCOLS {
        let secret = awkward_secret();
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        let half = &secret[..secret.len() / 2];
        let text = format!("data: {half}{secret}{secret}{half}\n\ndata: x{secret}\n\ndata: {half}\n\n");
        for size in [1, 2, 7, 16, 64, 1024] {
            let (stream, answer) = Answer::events();
            capture.next(answer);
            let mut agent = sidecar.agent().await;
            agent.open(Message::get("github")).await;
            for piece in text.as_bytes().chunks(size) {
                stream.send(piece.to_vec());
            }
            stream.finish();
            let mut seen = Vec::new();
            while let Piece::Data(bytes) = agent.piece().await {
                seen.extend_from_slice(&bytes);
            }
            assert_eq!(String::from_utf8_lossy(&seen), masked(&text, &secret), "{protocol:?}, pieces of {size}");
        }
    }
}

/// Holding back what may become an echo never holds back an event: one that ends with half of the
/// value passes before the next one exists.
#[tokio::test]
async fn an_event_that_ends_like_the_value_is_not_held() {
    let secret = unique_secret();
    let (capture, sidecar) = scene(Protocol::Tls, |binding| binding.token(&secret)).await;
    let (stream, answer) = Answer::events();
    capture.next(answer);
    let mut agent = sidecar.agent().await;
    agent.open(Message::get("github")).await;
    for length in [1, 8, 20, 39] {
        stream.event(&secret[..length]);
        assert_eq!(agent.until("\n\n").await, format!("data: {}\n\n", &secret[..length]));
    }
}

/// What only looks like the value passes whole, also at the very end of a body with a length.
#[tokio::test]
async fn a_near_miss_passes_unchanged() {
    for protocol in PROTOCOLS {
        // Its ends differ: else two near misses in a row may be a hit.
        let secret = format!("a{}z", &unique_secret()[..38]);
        let (capture, sidecar) = scene(protocol, |binding| binding.token(&secret)).await;
        let almost = &secret[..secret.len() - 1];
        for text in
            [almost.to_owned(), format!("{almost}{almost}"), format!("x{almost}\n"), secret.to_ascii_lowercase()]
        {
            let (stream, answer) = Answer::stream(&[], Framing::Length(text.len()));
            capture.next(answer);
            text.as_bytes().chunks(3).for_each(|piece| stream.send(piece.to_vec()));
            stream.finish();
            let response = sidecar.post("github", rpc::list(1)).await;
            assert_eq!((response.text(), response.whole), (text, true), "{protocol:?}");
        }
        assert_eq!(sidecar.metric("postern_echo_masks_total", &[]).await, 0.0);
    }
}

/// JSON writers escape differently (Go's writes `&` as \u0026): the value inside a JSON string is
/// the value all the same.
#[tokio::test]
async fn an_echo_inside_json_is_masked_however_it_is_escaped() {
    let secret = format!("{}&<>\"\\/{}", &unique_secret()[..20], &unique_secret()[..20]);
    let (capture, sidecar) = scene(Protocol::Plain, |binding| binding.token(&secret)).await;
    let plain = serde_json::to_string(&secret).expect("a string is JSON");
    let go = plain.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    let php = plain.replace('/', "\\/");
    for text in [plain, php, go] {
        capture.next(json_answer(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"echo":{text}}}}}"#)));
        let response = sidecar.post("github", rpc::list(1)).await;
        let echo = response.json()["result"]["echo"].as_str().map(str::to_owned);
        assert!(echo.as_deref().is_some_and(|echo| !echo.contains(&secret)), "{text} came back as {echo:?}");
    }
}

/// Every language leaves other characters as they are when it encodes for a URL.
#[tokio::test]
async fn an_echo_in_a_query_is_masked_however_it_is_encoded() {
    let secret = format!("{}!*'()~ /&{}", &unique_secret()[..20], &unique_secret()[..20]);
    let (capture, sidecar) = scene(Protocol::Plain, |binding| binding.token(&secret)).await;
    let encode = |set: &'static AsciiSet| utf8_percent_encode(&secret, set).to_string();
    const JAVASCRIPT: AsciiSet = UNRESERVED.remove(b'!').remove(b'*').remove(b'\'').remove(b'(').remove(b')');
    const PYTHON: AsciiSet = UNRESERVED.remove(b'/');
    const FORM: AsciiSet = UNRESERVED.add(b'~').remove(b'*');
    for text in [encode(&UNRESERVED), encode(&JAVASCRIPT), encode(&PYTHON), encode(&FORM).replace("%20", "+")] {
        capture.next(Answer::full(200, &[], format!("https://a.example/?token={text}&x")));
        let response = sidecar.post("github", rpc::list(1)).await;
        assert!(!response.text().contains(&secret[..20]), "{text} came back as {}", response.text());
    }
}

/// Answers that end an exchange early carry no echo either: errors, redirects, rejections.
#[tokio::test]
async fn echoes_in_errors_and_redirects_are_masked() {
    let secret = unique_secret();
    let (capture, sidecar) = scene(Protocol::Tls, |binding| binding.token(&secret)).await;
    let challenge = format!("Bearer error=\"bad token {secret}\"");
    for answer in [
        Answer::full(500, &[("X-Trace", secret.as_str())], format!("token {secret} failed")),
        Answer::full(403, &[], secret.clone()),
        Answer::full(401, &[("WWW-Authenticate", challenge.as_str())], secret.clone()),
        Answer::redirect(307, &format!("https://localhost:{}/mcp?t={secret}", capture.port())),
        Answer::redirect(302, &format!("https://evil.example/{secret}")),
    ] {
        capture.next(answer);
        let response = sidecar.post("github", rpc::list(1)).await;
        let whole = [&response.head.raw[..], &response.body].concat();
        assert_eq!(find_leak(&whole, std::slice::from_ref(&secret)), None, "{}", String::from_utf8_lossy(&whole));
    }
}

/// After a rotation the new value is masked, and so is the old one: on a stream that still uses it,
/// and in answers to calls that carried the new (a server may show what it was sent before).
#[tokio::test]
async fn both_values_are_masked_around_a_rotation() {
    let (old, new) = (unique_secret(), unique_secret());
    let (capture, sidecar) = scene(Protocol::Tls, |binding| binding.token(&old)).await;
    let (stream, answer) = Answer::events();
    capture.next(answer);
    let mut agent = sidecar.agent().await;
    agent.open(Message::get("github")).await;
    sidecar.files().replace_secret("github-secret", "token", new.as_bytes());
    capture.always(|request| Answer::full(200, &[], request.values("authorization").concat()));
    repeated("the new value at the upstream", async || {
        let number = capture.count();
        let response = sidecar.post("github", rpc::list(1)).await;
        assert_eq!(response.text(), format!("Bearer {}", "*".repeat(40)));
        (capture.request(number).await.values("authorization") == [format!("Bearer {new}")]).then_some(())
    })
    .await;
    let shown = old.clone();
    capture.always(move |_| Answer::full(200, &[], shown.clone()));
    assert_eq!(sidecar.post("github", rpc::list(1)).await.text(), "*".repeat(40));
    stream.event(&old);
    assert_eq!(agent.until("\n\n").await, format!("data: {}\n\n", "*".repeat(40)));
}

/// A value that was withdrawn and replaced by another only later is masked like one replaced at once.
#[tokio::test]
async fn the_former_value_is_masked_after_an_absence_too() {
    let (old, new) = (unique_secret(), unique_secret());
    let (capture, sidecar) = scene(Protocol::Tls, |binding| binding.token(&old)).await;
    sidecar.post("github", rpc::list(1)).await.assert_ok();
    sidecar.files().delete_secret("github-secret");
    sidecar.until_refused("github").await.assert_refused("credential_revoked");
    sidecar.files().replace_secret("github-secret", "token", new.as_bytes());
    sidecar.until_served("github", &["credential_revoked"]).await;
    let shown = format!("{old} {new}");
    capture.always(move |_| Answer::full(200, &[], shown.clone()));
    let stars = "*".repeat(40);
    assert_eq!(sidecar.post("github", rpc::list(1)).await.text(), format!("{stars} {stars}"));
}

/// A value of a few letters is masked as well, though it stands in ordinary text; whoever runs this is
/// warned, once.
#[tokio::test]
async fn a_short_value_is_masked_and_warned_of() {
    let (capture, sidecar) = scene(Protocol::Plain, |binding| binding.token("abc")).await;
    let told = sidecar.diagnostic("less than 8 characters").await;
    assert!(told.contains("WARN") && told.contains("github"), "{told}");
    capture.always(|_| Answer::full(200, &[], "the abc of abcd"));
    assert_eq!(sidecar.post("github", rpc::list(1)).await.text(), "the *** of ***d");
    sidecar.files().add(&Binding::new("later").to(&capture).url(&capture.url("/later")).token(unique_secret()));
    sidecar.until_served("later", &["unbound_server", "no_credential"]).await;
    assert_eq!(sidecar.diagnostics().matches("less than 8 characters").count(), 1);
}

/// A body that cannot be read cannot be searched: refused, unless the binding consents.
#[tokio::test]
async fn a_compressed_answer_is_unscannable() {
    for protocol in PROTOCOLS {
        let (capture, sidecar) = scene(protocol, |binding| binding.token(unique_secret())).await;
        let refusal = Refusal { reason: "unscannable_response", server: "github", form: Form::Rpc("7") };
        for coding in ["gzip", "br", "identity, gzip", "GZIP"] {
            capture.next(Answer::full(200, &[("Content-Encoding", coding)], "\u{1f}compressed"));
            let message = Message::post("github", rpc::list(7)).bytes("127.0.0.1");
            assert_refusal(&sidecar, &message, refusal).await;
        }
        capture.next(Answer::full(200, &[("Content-Encoding", "identity")], "{}"));
        sidecar.post("github", rpc::list(7)).await.assert_ok();
        let consent = |binding: Binding| binding.token(unique_secret()).set("/allowCompressed", json!(true));
        let (capture, sidecar) = scene(protocol, consent).await;
        capture.next(Answer::full(200, &[("Content-Encoding", "gzip")], "\u{1f}compressed"));
        let response = sidecar.post("github", rpc::list(7)).await;
        assert_eq!((response.text().as_str(), response.header("content-encoding")), ("\u{1f}compressed", Some("gzip")));
    }
}
