//! The webhook's certificate, and whether API servers trust it.

use serde_json::{Value, json};

use crate::suite::certificates::Authority;
use crate::support::admission::eventually;
use crate::support::controller::{Controller, Place, SECRET};

/// Not ready before the trust is read back, ready after; and then pods get their sidecar.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_once_the_api_server_trusts_it() {
    let place = Place::new("trust");
    let controller = place.start(&[]).await;
    let missing = format!("MutatingWebhookConfiguration {}: the API server says 404 NotFound", place.owner);
    controller.diagnostic(&missing).await;
    assert!(!controller.is_ready());
    assert_eq!(controller.metric("postern_webhook_ca_bundle_in_sync", &[]), 0.0);
    place.call(controller.address);
    controller.until_ready(true);
    let authority = place.kept("ca.crt").expect("an authority");
    assert_eq!(place.bundle(), authority);
    assert_eq!(controller.metric("postern_webhook_ca_bundle_in_sync", &[]), 1.0);
    let family = "postern_webhook_certificate_expiry_timestamp_seconds";
    let expiry = |which| controller.metric(family, &[("certificate", which)]);
    assert!(0.0 < expiry("server") && expiry("server") < expiry("authority"));
    let pods = place.pods();
    place.until_injected(&pods, "pod");
    assert!(controller.metric("postern_admissions_total", &[("result", "injected")]) >= 1.0);
    assert!(!controller.diagnostics().contains("PRIVATE"));
    assert_ours_is_the_bundle_alone(&place);
}

/// That one field in each webhook is ours, and nothing else.
fn assert_ours_is_the_bundle_alone(place: &Place) {
    let configuration = place.server.get(&["mutatingwebhookconfiguration", &place.owner, "--show-managed-fields"]);
    let managers = configuration["metadata"]["managedFields"].as_array().expect("managers");
    let ours: Vec<&Value> = managers.iter().filter(|one| one["manager"] == "postern-webhook").collect();
    let [ours] = ours.as_slice() else { panic!("{managers:?}") };
    assert_eq!(ours["operation"], "Apply");
    let whole = ours["fieldsV1"].as_object().expect("fields");
    assert_eq!(whole.keys().collect::<Vec<_>>(), ["f:webhooks"]);
    let webhooks = ours["fieldsV1"]["f:webhooks"].as_object().expect("webhooks");
    assert_eq!(webhooks.len(), configuration["webhooks"].as_array().expect("webhooks").len());
    for fields in webhooks.values() {
        assert_eq!(fields["f:clientConfig"], json!({"f:caBundle": {}}), "{fields}");
        let names = fields.as_object().expect("fields").keys().map(String::as_str);
        assert_eq!(names.collect::<Vec<_>>(), [".", "f:clientConfig", "f:name"]);
    }
}

/// Somebody empties the field, or puts something else there.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_somebody_changes_is_repaired() {
    let place = Place::new("repair");
    let controller = place.start(&[]).await;
    place.call(controller.address);
    controller.until_ready(true);
    controller.diagnostic("the caBundle is written").await;
    let (ours, pods) = (place.bundle(), place.pods());
    for (number, other) in ["", Authority::new().pem()].into_iter().enumerate() {
        place.write_bundle(other);
        controller.diagnostic("the caBundle is written").await;
        place.until_bundle(&ours);
        controller.until_ready(true);
        place.until_injected(&pods, &format!("pod-{number}"));
    }
}

/// Somebody else writes the field whenever we have. The fight is told, and slows down.
#[tokio::test(flavor = "multi_thread")]
async fn a_fight_over_the_bundle_slows_down() {
    let place = Place::new("fight");
    let controller = place.start(&[]).await;
    place.call(controller.address);
    controller.until_ready(true);
    let ours = place.bundle();
    let told = "somebody else writes the caBundle all the time";
    let mut written = 0;
    while !controller.diagnostics().contains(told) {
        place.write_bundle(Authority::new().pem());
        written += 1;
        place.until_bundle(&ours);
    }
    assert!((5..10).contains(&written), "{written}");
    // From now on it takes its time, and repairs all the same.
    let repairs = || controller.diagnostics().matches("the caBundle is written").count();
    let before = repairs();
    for _ in 0..10 {
        place.write_bundle(Authority::new().pem());
    }
    place.until_bundle(&ours);
    assert!(repairs() <= before + 2, "{} repairs more", repairs() - before);
}

/// Both find the Secret empty. Whichever is called, its certificate is trusted.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_race_for_an_empty_secret_share_one_authority() {
    let place = Place::new("race");
    let (first, second) = tokio::join!(place.start(&[]), place.start(&[]));
    place.call(first.address);
    first.until_ready(true);
    second.until_ready(true);
    let authority = place.kept("ca.crt").expect("an authority");
    assert_eq!(place.bundle(), authority);
    let pods = place.pods();
    place.until_injected(&pods, "first");
    place.call_instead(second.address);
    let mut number = 0;
    eventually("the second one is called", || {
        number += 1;
        place.injected(&pods, &format!("second-{number}"));
        if second.metric("postern_admissions_total", &[]) > 0.0 { Ok(()) } else { Err("not yet".to_owned()) }
    });
    assert_eq!((place.kept("ca.crt"), place.bundle()), (Some(authority.clone()), authority));
    // Emptied by somebody, it is made anew, once more by one of both.
    place.patch("secret", SECRET, "merge", &json!({"data": null}));
    let other = eventually("another authority", || place.kept("ca.crt").ok_or_else(|| "none".to_owned()));
    place.until_bundle(&other);
    place.until_injected(&pods, "anew");
    first.until_ready(true);
    second.until_ready(true);
    assert_eq!(place.kept("ca.crt"), Some(other));
}

/// It may be what API servers trust: it is not written over, but told.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_holds_something_else_is_left_as_it_is() {
    let place = Place::new("broken");
    let broken = json!({"stringData": {"ca.crt": "broken-sesame", "ca.key": "broken-sesame"}});
    place.patch("secret", SECRET, "merge", &broken);
    let controller = place.start(&[]).await;
    place.call(controller.address);
    let told = format!("Secret {}/{SECRET}: no PEM certificate and key that can be read", place.namespace);
    controller.diagnostic(&told).await;
    assert!(!controller.is_ready());
    assert_eq!((place.kept("ca.crt").as_deref(), place.bundle().as_str()), (Some("broken-sesame"), ""));
    assert!(!controller.diagnostics().contains("sesame"));
    // Emptied, it serves without a restart.
    place.patch("secret", SECRET, "merge", &json!({"data": null}));
    controller.until_ready(true);
}

/// A certificate of the administrator's own, whose authority we tell API servers.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_another_authority_are_shown_and_told() {
    let place = Place::new("files");
    let authority = Authority::new();
    let controller = with_files(&place, &authority, true).await;
    place.call(controller.address);
    controller.until_ready(true);
    assert_eq!((place.bundle().as_str(), place.kept("ca.crt")), (authority.pem(), None));
    let pods = place.pods();
    place.until_injected(&pods, "pod");
}

/// Without --ca-file the caBundle is somebody else's to write, as cert-manager's injector does.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_somebody_else_keeps_is_only_looked_at() {
    let place = Place::new("foreign");
    let authority = Authority::new();
    let controller = with_files(&place, &authority, false).await;
    place.call(controller.address);
    controller.diagnostic("has no caBundle").await;
    assert!(!controller.is_ready());
    let other = Authority::new();
    place.write_bundle(other.pem());
    controller.diagnostic("its caBundle does not fit what is shown there").await;
    assert!(!controller.is_ready());
    assert_eq!(place.bundle(), other.pem());
    place.write_bundle(authority.pem());
    controller.until_ready(true);
    let pods = place.pods();
    place.until_injected(&pods, "pod");
    // Another authority from now on, in the files and then in the bundle.
    write_files(&place, &other);
    place.write_bundle(other.pem());
    place.until_injected(&pods, "after");
    controller.until_ready(true);
    assert_eq!(place.bundle(), other.pem());
}

fn write_files(place: &Place, authority: &Authority) {
    let (chain, key) = authority.leaf(&["127.0.0.1"], false);
    let (chain, key) = (chain.pem(), key.serialize_pem());
    for (name, text) in [("key.pem", key.as_str()), ("chain.pem", &chain), ("ca.pem", authority.pem())] {
        std::fs::write(place.path(name), text).expect("it can be written");
    }
}

async fn with_files(place: &Place, authority: &Authority, tells: bool) -> Controller {
    write_files(place, authority);
    let path = |name: &str| place.path(name).display().to_string();
    let (chain, key, ca) = (path("chain.pem"), path("key.pem"), path("ca.pem"));
    let mut arguments = vec!["--cert-file", &chain, "--key-file", &key];
    if tells {
        arguments.extend(["--ca-file", &ca]);
    }
    place.start(&arguments).await
}
