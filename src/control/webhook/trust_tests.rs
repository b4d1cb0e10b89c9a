//! What is written into a configuration, and when it is believed. The API server itself is in
//! tests/cluster/controller.

use super::*;
use crate::runtime::clock;
use crate::tls::authority::Authority;

const DAY: Duration = Duration::from_secs(86_400);

/// A configuration whose webhooks call a Service, a URL with a name and one with an address.
fn configuration(bundles: [Option<&str>; 3]) -> MutatingWebhookConfiguration {
    let configs = [
        json!({"service": {"name": "postern-injector", "namespace": "postern-system", "path": "/mutate"}}),
        json!({"url": "https://hook.example:10250/mutate"}),
        json!({"url": "https://[::1]:10250/mutate"}),
    ];
    let webhooks = configs.into_iter().zip(bundles).enumerate().map(|(number, (mut config, bundle))| {
        if let Some(bundle) = bundle {
            config["caBundle"] = json!(BASE64_STANDARD.encode(bundle));
        }
        json!({"name": format!("{number}.example"), "clientConfig": config, "sideEffects": "None"})
    });
    let whole = json!({
        "metadata": {"name": "postern-injector", "resourceVersion": "7"},
        "webhooks": webhooks.collect::<Vec<_>>(),
    });
    serde_json::from_value(whole).unwrap()
}

fn authority() -> Authority {
    Authority::new("a", 30 * DAY, clock::wall()).unwrap()
}

fn leaf(authority: &Authority, names: &[&str]) -> Leaf {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    authority.issue(&names, 7 * DAY, clock::wall()).unwrap()
}

const ALL: [&str; 3] = ["postern-injector.postern-system.svc", "hook.example", "::1"];

#[test]
fn every_webhook_has_to_lead_to_what_is_shown() {
    let (signer, other) = (authority(), authority());
    let (good, both) = (signer.certificate(), format!("{}{}", other.certificate(), signer.certificate()));
    let trusted = |bundles: [&str; 3], leaf: &Leaf, later: Duration| {
        verdict(&configuration(bundles.map(Some)), leaf, clock::wall() + later).map_err(|error| error.to_string())
    };
    let shown = leaf(&signer, &ALL);
    assert_eq!(trusted([good, &both, good], &shown, Duration::ZERO), Ok(()));
    let of_other = trusted([good, other.certificate(), good], &shown, Duration::ZERO).unwrap_err();
    assert!(of_other.starts_with("webhook 1.example calls hook.example, and"), "{of_other}");
    assert_eq!(trusted([good, good, ""], &shown, Duration::ZERO), Err("webhook 2.example has no caBundle".into()));
    assert!(trusted([good, "text", good], &shown, Duration::ZERO).is_err());
    assert!(trusted([good; 3], &shown, 8 * DAY).is_err(), "it has expired");
    let short = leaf(&signer, &ALL[..2]);
    let missing = trusted([good; 3], &short, Duration::ZERO).unwrap_err();
    assert!(missing.starts_with("webhook 2.example calls ::1, and"), "{missing}");
    let none = MutatingWebhookConfiguration::default();
    assert!(matches!(verdict(&none, &shown, clock::wall()), Err(Untrusted::NoWebhook)));
}

#[test]
fn only_our_field_is_written_in_every_webhook_and_only_where_one_differs() {
    assert_eq!(due(&configuration([Some("a"); 3]), b"a"), None);
    assert_eq!(due(&MutatingWebhookConfiguration::default(), b"a"), None);
    for bundles in [[None; 3], [Some("a"), Some("a"), Some("b")], [Some("a"), Some(""), Some("a")]] {
        let field = |number| json!({"name": format!("{number}.example"), "clientConfig": {"caBundle": "YQ=="}});
        let expected = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "postern-injector", "resourceVersion": "7"},
            "webhooks": [field(0), field(1), field(2)],
        });
        assert_eq!(due(&configuration(bundles), b"a"), Some(expected), "{bundles:?}");
    }
}

#[test]
fn what_was_seen_counts_for_a_while() {
    let (trust, now) = (Trust::default(), clock::wall());
    assert!(!trust.holds(now));
    trust.seen(Some(now));
    assert!(trust.holds(now) && trust.holds(now + STALE) && !trust.holds(now + STALE + Duration::from_secs(1)));
    assert!(trust.holds(now - Duration::from_secs(5)), "a clock that was set back proves nothing");
    trust.seen(None);
    assert!(!trust.holds(now));
}
