//! Bindings without a usable credential (T10): nothing is dialled, the class is distinct, the value
//! stands nowhere (each sidecar's outputs are searched when its test ends).

use serde_json::json;

use crate::support::refusal::{Form, Refusal};
use crate::support::{Binding, Capture, Message, Protocol, Sidecar, assert_refusal, rpc, unique_secret};

/// A refusal at this server with id 7.
fn at<'a>(reason: &'a str, server: &'a str) -> Refusal<'a> {
    Refusal { reason, server, form: Form::Rpc("7") }
}

/// T10: no Secret, no key, a key in another Secret.
#[tokio::test]
async fn a_missing_secret_or_key_is_no_credential() {
    let capture = Capture::start(Protocol::Tls).await;
    let url = |name: &str| capture.url(&format!("/{name}"));
    let no_secret = Binding::new("none").to(&capture).url(&url("none"));
    let no_key = Binding::new("nokey").to(&capture).url(&url("nokey")).token(unique_secret());
    let no_key = no_key.set("/credential/secretRef/key", json!("other"));
    let no_password = Binding::new("half").to(&capture).url(&url("half")).basic("user", &unique_secret());
    let no_password = no_password.set("/credential/secretRef/passwordKey", json!("missing"));
    let sidecar = Sidecar::for_research().binding(no_secret).binding(no_key).binding(no_password).start().await;
    for server in ["none", "nokey", "half"] {
        let message = Message::post(server, rpc::list(7)).bytes("127.0.0.1");
        assert_refusal(&sidecar, &message, at("no_credential", server)).await;
        let get = Refusal { form: Form::Text, ..at("no_credential", server) };
        assert_refusal(&sidecar, &Message::get(server).bytes("127.0.0.1"), get).await;
    }
    capture.assert_untouched();
}

/// T10: values that cannot be a header value, or would not arrive as they are (attack 5).
#[tokio::test]
async fn an_unusable_value_is_credential_invalid() {
    let capture = Capture::start(Protocol::Tls).await;
    let secret = unique_secret();
    let with = |text: &str| text.replace('@', &secret).into_bytes();
    let rows: [(&str, Vec<u8>); 13] = [
        ("empty", Vec::new()),
        ("blank", b" \t ".to_vec()),
        ("newline", with("@\n")),
        ("crlf", with("@\r\n")),
        ("inject", with("@\r\nX-Evil: 1")),
        ("lf-inside", with("@\nB")),
        ("cr-inside", with("@\rB")),
        ("nul", with("@\0")),
        ("tab", with("@\tB")),
        ("accent", with("@é")),
        ("del", with("@\x7f")),
        ("edges", with(" @ ")),
        ("long", unique_secret().repeat(1639).into_bytes()),
    ];
    assert!(rows[12].1.len() > 64 * 1024);
    let mut builder = Sidecar::for_research();
    for (name, value) in &rows {
        let url = capture.url(&format!("/{name}"));
        builder = builder.binding(Binding::new(name).to(&capture).url(&url).token(value));
    }
    let sidecar = builder.start().await;
    for (name, _) in &rows {
        let message = Message::post(name, rpc::list(7)).bytes("127.0.0.1");
        assert_refusal(&sidecar, &message, at("credential_invalid", name)).await;
    }
    capture.assert_untouched();
}

/// RFC 7617: a colon in the user name would move the border between name and password.
#[tokio::test]
async fn a_basic_user_name_with_a_colon_is_invalid() {
    let capture = Capture::start(Protocol::Tls).await;
    let binding = Binding::new("basic").to(&capture).basic("user:admin", &unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    let message = Message::post("basic", rpc::list(7)).bytes("127.0.0.1");
    assert_refusal(&sidecar, &message, at("credential_invalid", "basic")).await;
    capture.assert_untouched();
}

/// A credential that comes after the start is used by the next call: no restart, and no way in before.
#[tokio::test]
async fn a_credential_that_arrives_later_is_served() {
    let capture = Capture::start(Protocol::Tls).await;
    let binding = Binding::new("github").to(&capture);
    let sidecar = Sidecar::for_research().binding(binding.clone()).start().await;
    sidecar.post("github", rpc::list(7)).await.assert_refused("no_credential");
    let secret = unique_secret();
    sidecar.files().overwrite_secret(&binding.secret_name(), "token", secret.as_bytes());
    // A half-written file may be seen empty; never as a credential.
    sidecar.until_served("github", &["no_credential", "credential_invalid"]).await;
    let values: Vec<String> = capture.requests().iter().flat_map(|r| owned(&r.values("authorization"))).collect();
    assert_eq!(values, [format!("Bearer {secret}")]);
}

fn owned(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}
