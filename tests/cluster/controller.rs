//! `postern controller`, the real binary, called by a real API server.

mod certificate;
mod rights;
mod rotation;

use serde_json::{Value, json};

use crate::suite::certificates::Authority;
use crate::support::admission::eventually;
use crate::support::controller::{BROKER_CA, Place};
use crate::support::deployed::Road;

fn variable(sidecar: &Value, name: &str) -> String {
    let all = sidecar["env"].as_array().expect("variables");
    let found = all.iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("no {name} in {sidecar}"));
    found["value"].as_str().expect("a value").to_owned()
}

/// What the broker tells reaches the next pod, also when it changes; what is no certificate reaches none.
#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_certificates_reach_the_next_pod() {
    let place = Place::new("broker-ca");
    let (first, second) = (Authority::new().pem().to_owned(), Authority::new().pem().to_owned());
    place.tell_broker_ca(&first);
    let controller = place.start(&[]).await;
    place.call(controller.address);
    controller.until_ready(true);
    let pods = place.pods();
    place.until_injected(&pods, "probe");
    let told = |name: &str| variable(&place.injected(&pods, name), "POSTERN_BROKER_CA");
    assert_eq!(told("before"), first);
    place.tell_broker_ca("no certificate");
    controller.diagnostic("no certificates of the broker are told there (PEM)").await;
    assert_eq!(told("meanwhile"), first);
    assert!(controller.is_ready(), "what was known is still so");
    place.tell_broker_ca(&second);
    controller.diagnostic(r#""changed":true"#).await;
    assert_eq!(told("after"), second);
}

/// Told by a file instead, nothing is asked of the ConfigMap.
#[tokio::test(flavor = "multi_thread")]
async fn the_brokers_certificates_may_stand_in_a_file() {
    let place = Place::new("broker-ca-file");
    let told = Authority::new().pem().to_owned();
    let file = place.path("broker-ca.pem").display().to_string();
    std::fs::write(&file, "").expect("it can be written");
    let controller = place.start(&["--broker-ca", &file]).await;
    place.call(controller.address);
    controller.diagnostic("API servers trust what is shown").await;
    assert!(controller.diagnostic("no certificates of the broker are told there (PEM)").await.contains(&file));
    assert!(!controller.is_ready());
    drop(controller);
    std::fs::write(&file, &told).expect("it can be written");
    let controller = place.start(&["--broker-ca", &file]).await;
    place.call_instead(controller.address);
    controller.until_ready(true);
    let pods = place.pods();
    place.until_injected(&pods, "probe");
    assert_eq!(variable(&place.injected(&pods, "pod"), "POSTERN_BROKER_CA"), told);
}

/// Not ready, and called all the same: refused in words, never injected half.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_brokers_certificates_nothing_is_injected() {
    let place = Place::new("no-broker-ca");
    place.patch("configmap", BROKER_CA, "merge", &json!({"data": null}));
    let controller = place.start(&[]).await;
    place.call(controller.address);
    controller.diagnostic("API servers trust what is shown").await;
    assert!(!controller.is_ready());
    let pods = place.pods();
    let refused = eventually("the webhook is called", || {
        let said = place.pod(&pods, "pod", &json!({})).0.expect_err("nothing can be injected");
        if said.contains("denied the request") { Ok(said) } else { Err(said) }
    });
    assert!(refused.contains("postern: broker_ca_unknown: the broker's certificates are not known yet; "), "{refused}");
    place.tell_broker_ca(Authority::new().pem());
    controller.until_ready(true);
    place.injected(&pods, "pod");
}

/// A pod whose ConfigMap configures a stdio server: told, or refused.
#[tokio::test(flavor = "multi_thread")]
async fn config_maps_are_searched_as_it_is_told() {
    let stdio =
        json!({"data": {"mcp.json": r#"{"mcpServers":{"files":{"command":"npx"}}}"#}, "metadata": {"name": "config"}});
    let reads = json!({"volumes": [{"name": "c", "configMap": {"name": "config"}}]});
    let find = "stdio_unsupported: ConfigMap config, mcp.json";
    for (search, is_created, is_told) in [("off", true, false), ("warn", true, true), ("deny", false, true)] {
        let place = Place::new("search");
        let controller = place.start(&["--config-map-search", search]).await;
        place.call(controller.address);
        controller.until_ready(true);
        let pods = place.pods();
        place.until_injected(&pods, "probe");
        place.server.create(&format!("/api/v1/namespaces/{pods}/configmaps"), &stdio);
        let (pod, said) = place.pod(&pods, "pod", &reads);
        assert_eq!((pod.is_ok(), said.contains(find)), (is_created, is_told), "{search}: {said}");
        assert_eq!(said.contains(&format!("Warning: postern: {find}")), search == "warn", "{said}");
        assert_eq!(said.contains(&format!("denied the request: postern: {find}")), search == "deny", "{said}");
    }
}

/// What it cannot ask just now it knows: it stays ready, and goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn while_it_cannot_reach_the_api_server_it_answers_by_what_it_knows() {
    let place = Place::new("cut");
    place.grant(&[]);
    let road = Road::to(place.server.url()).await;
    let controller = place.start_by(&road.url()).await;
    place.call(controller.address);
    controller.until_ready(true);
    let (ours, pods) = (place.bundle(), place.pods());
    place.until_injected(&pods, "before");
    road.cut();
    controller.diagnostic(&format!("{}: the API server cannot be reached", place.owner)).await;
    assert!(controller.is_ready());
    place.injected(&pods, "meanwhile");
    place.write_bundle(Authority::new().pem());
    road.open();
    place.until_bundle(&ours);
    controller.until_ready(true);
    place.until_injected(&pods, "after");
}

/// Out of the endpoints at once, and still there for who has not heard of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_answers_on_and_exits_with_0() {
    let place = Place::new("shutdown");
    let controller = place.start(&["--linger", "10s", "--shutdown-grace", "60s"]).await;
    place.call(controller.address);
    controller.until_ready(true);
    let pods = place.pods();
    place.until_injected(&pods, "before");
    controller.terminate();
    controller.diagnostic("draining: calls are still answered").await;
    assert!(!controller.is_ready());
    place.injected(&pods, "meanwhile");
    assert_eq!(controller.exit().await.code(), Some(0));
    let said = place.pod(&pods, "after", &json!({})).0.expect_err("nobody answers");
    assert!(said.contains("failed calling webhook"), "{said}");
}
