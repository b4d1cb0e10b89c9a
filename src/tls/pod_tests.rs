//! The pod's authority, judged by the TLS library as a client would.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::super::client::{parse_bundle, provider};
use super::*;
use crate::runtime::clock;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn host(text: &str) -> Host {
    text.parse().map(Host::Address).ok().or_else(|| Host::parse(text)).unwrap()
}

fn made(hosts: &[&str], now: SystemTime) -> PodAuthority {
    PodAuthority::new(&hosts.iter().map(|text| host(text)).collect::<Vec<_>>(), now).unwrap()
}

/// What a client says that trusts `bundle` and is shown `leaf` by a server called `name`.
fn believed(bundle: &str, leaf: &CertificateDer<'_>, name: &str, now: SystemTime) -> Result<(), String> {
    let roots = Arc::new(parse_bundle(bundle.as_bytes()).unwrap());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let time = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap());
    verifier.verify_server_cert(leaf, &[], &name, &[], time).map(drop).map_err(|error| error.to_string())
}

fn leaf_of(authority: &Authority, name: &str, now: SystemTime) -> CertificateDer<'static> {
    authority.issue(&[name.to_owned()], DAY, now).unwrap().certified.cert[0].clone()
}

#[test]
fn it_is_good_for_its_hosts_and_no_others() {
    let now = clock::wall();
    let cases: [(&[&str], &[&str], &[&str]); 4] = [
        (&["api.example.com"], &["api.example.com"], &["example.com", "evil.example", "10.0.0.1", "2001:db8::1"]),
        (&["10.0.0.1"], &["10.0.0.1"], &["10.0.0.2", "api.example.com", "2001:db8::1"]),
        (&["api.example.com", "2001:db8::1"], &["api.example.com", "2001:db8::1"], &["2001:db8::2", "10.0.0.1"]),
        (&[], &[], &["api.example.com", "10.0.0.1", "localhost"]),
    ];
    for (hosts, good, bad) in cases {
        let pod = made(hosts, now);
        // The authority's key could sign anything; that it would not be believed is what counts.
        for name in good {
            let leaf = leaf_of(&pod.authority, name, now);
            assert_eq!(believed(pod.certificate(), &leaf, name, now), Ok(()), "{hosts:?} {name}");
        }
        for name in bad {
            let leaf = leaf_of(&pod.authority, name, now);
            let verdict = believed(pod.certificate(), &leaf, name, now);
            assert!(verdict.as_ref().is_err_and(|why| why.contains("NameConstraint")), "{hosts:?} {name}: {verdict:?}");
        }
    }
}

#[test]
fn a_host_has_one_leaf_until_it_is_due() {
    let now = clock::wall();
    let pod = made(&["a.example", "b.example"], now);
    let first = pod.settings(&host("a.example"), now).unwrap();
    assert!(Arc::ptr_eq(&first, &pod.settings(&host("a.example"), now + 30 * DAY).unwrap()));
    assert!(!Arc::ptr_eq(&first, &pod.settings(&host("b.example"), now).unwrap()));
    let years_later = now + 9 * 365 * DAY;
    assert!(!Arc::ptr_eq(&first, &pod.settings(&host("a.example"), years_later).unwrap()));
    assert!(matches!(pod.settings(&host("c.example"), now), Err(StandInError::ForeignHost)));
    let leaf = leaf_of(&pod.authority, "a.example", years_later);
    assert_eq!(believed(pod.certificate(), &leaf, "a.example", years_later), Ok(()));
}

#[test]
fn the_bundle_has_all_that_an_agent_may_trust() {
    let now = clock::wall();
    let pod = made(&["a.example"], now);
    let corporate = Authority::new("corporate", DAY, now).unwrap();
    let bundle = pod.bundle(corporate.certificate().as_bytes()).unwrap();
    let there = certificates(bundle.as_bytes()).unwrap();
    let system = system_certificates();
    assert_eq!(there[..system.len()], system[..]);
    assert_eq!(there.len(), system.len() + 2);
    for authority in [&pod.authority, &corporate] {
        let leaf = leaf_of(authority, "a.example", now);
        assert_eq!(believed(&bundle, &leaf, "a.example", now), Ok(()));
    }
    assert_eq!(pod.bundle(b"text"), Ok(pod.bundle(b"").unwrap()), "a text without certificates adds none");
    assert_eq!(pod.bundle(b"-----BEGIN CERTIFICATE-----\nAA\n-----END"), Err(TrustError::Bundle));
}
