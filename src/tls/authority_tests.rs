//! Authorities and their leaves, over real handshakes.

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, time_provider::TimeProvider};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::tls::server::{self, ServerCertificate, Versions};

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(86_400 * 365);

/// Some moment of 2026, without a fraction: certificates have none.
fn moment() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
}

fn names() -> Vec<String> {
    ["postern-broker.postern-system.svc", "postern-broker", "127.0.0.1"].map(str::to_owned).to_vec()
}

#[derive(Debug)]
struct At(SystemTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

/// Whether a client that trusts `bundle` believes the server at `now`.
async fn believed(bundle: &str, leaf: &Leaf, name: &'static str, now: SystemTime) -> bool {
    let certificate = Arc::new(ServerCertificate::default());
    certificate.put(leaf.clone());
    let server = server::settings(certificate, Versions::Newest, &[b"h2"]).unwrap();
    let config = ClientConfig::builder_with_details(provider(), Arc::new(At(now)));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(parse_bundle(bundle.as_bytes()).unwrap());
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (near, far) = tokio::io::duplex(16 * 1024);
    let (server, client) = tokio::join!(
        TlsAcceptor::from(server).accept(far),
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), near),
    );
    let handshake = server.is_ok() && client.is_ok();
    assert_eq!(leaf.believed(bundle.as_bytes(), name, now).is_ok(), handshake, "both say the same");
    handshake
}

#[tokio::test]
async fn a_leaf_is_believed_for_its_names_its_time_and_its_authority_only() {
    let now = moment();
    let authority = Authority::new("a", 10 * YEAR, now).unwrap();
    let other = Authority::new("a", 10 * YEAR, now).unwrap();
    let leaf = authority.issue(&names(), 7 * DAY, now).unwrap();
    let believed = |bundle: &Authority, name, at| {
        let (bundle, leaf) = (bundle.certificate().to_owned(), leaf.clone());
        async move { believed(&bundle, &leaf, name, at).await }
    };
    assert!(believed(&authority, "postern-broker.postern-system.svc", now).await);
    assert!(believed(&authority, "127.0.0.1", now + 6 * DAY).await);
    assert!(believed(&authority, "postern-broker", now - Duration::from_secs(1800)).await, "clocks differ");
    assert!(!believed(&authority, "postern-broker.other.svc", now).await);
    assert!(!believed(&authority, "postern-broker", now + 8 * DAY).await);
    assert!(!believed(&other, "postern-broker", now).await, "the name of an authority proves nothing");
}

#[tokio::test]
async fn what_was_kept_signs_as_before() {
    let now = moment();
    let made = Signers::first(Authority::new("a", YEAR, now).unwrap());
    let kept = |signers: &Signers| -> BTreeMap<String, Vec<u8>> {
        signers.kept().iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    };
    let read = Signers::read(&kept(&made)).unwrap().unwrap();
    assert_eq!(read.bundle(), made.bundle());
    assert_eq!(read.current.validity(), made.current.validity());
    let leaf = read.current.issue(&names(), DAY, now).unwrap();
    assert!(believed(&made.bundle(), &leaf, "postern-broker", now).await);

    let both = Signers { next: Some(Authority::new("b", YEAR, now).unwrap()), ..made };
    let read = Signers::read(&kept(&both)).unwrap().unwrap();
    let leaf = read.next.as_ref().unwrap().issue(&names(), DAY, now).unwrap();
    assert!(believed(&both.bundle(), &leaf, "postern-broker", now).await, "the next one is trusted already");
}

#[test]
fn what_cannot_be_an_authority_is_refused() {
    let now = moment();
    let (a, b) = (Authority::new("a", YEAR, now).unwrap(), Authority::new("b", YEAR, now).unwrap());
    assert!(matches!(Authority::from_pem(a.certificate(), &b.key()), Err(AuthorityError::OtherKey)));
    assert!(matches!(Authority::from_pem("", &a.key()), Err(AuthorityError::Unreadable)));
    assert!(matches!(Authority::from_pem(a.certificate(), "x"), Err(AuthorityError::Unreadable)));
    let leaf = rcgen::generate_simple_self_signed(vec!["h".into()]).unwrap();
    let read = Authority::from_pem(&leaf.cert.pem(), &leaf.signing_key.serialize_pem());
    assert!(matches!(read, Err(AuthorityError::NotAnAuthority)));
    let other = KeyPair::generate().unwrap().serialize_pem();
    let read = Leaf::from_pem(leaf.cert.pem().as_bytes(), other.as_bytes());
    assert!(matches!(read, Err(AuthorityError::OtherKey)));
    assert!(Signers::read(&BTreeMap::new()).unwrap().is_none());
    let odd = [("previous.crt", a.certificate()), ("previous.until", "soon")];
    for (name, text) in odd {
        let mut data: BTreeMap<String, Vec<u8>> = Signers::first(Authority::new("a", YEAR, now).unwrap())
            .kept()
            .iter()
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
            .collect();
        data.insert(name.to_owned(), text.as_bytes().to_vec());
        assert!(matches!(Signers::read(&data), Err(AuthorityError::Unreadable)), "{name} alone");
    }
    let half = BTreeMap::from([("ca.crt".to_owned(), a.certificate().as_bytes().to_vec())]);
    assert!(matches!(Signers::read(&half), Err(AuthorityError::Unreadable)));
}

#[test]
fn a_leaf_never_outlasts_its_authority() {
    let now = moment();
    let authority = Authority::new("a", DAY, now).unwrap();
    let leaf = authority.issue(&names(), 7 * DAY, now).unwrap();
    assert_eq!(leaf.validity().not_after, authority.validity().not_after);
    assert!(leaf.renew_at() > now && leaf.renew_at() < leaf.validity().not_after);
}

#[test]
fn the_next_authority_is_trusted_long_before_it_signs_and_the_former_a_while_after() {
    let now = moment();
    let step = |signers: Signers, due: Due, at: SystemTime| {
        assert_eq!(signers.due(at), due);
        signers.advance(due, at, 7 * DAY, || Authority::new("b", 10 * YEAR, at)).unwrap()
    };
    let first = Signers::first(Authority::new("a", 10 * YEAR, now).unwrap());
    let first_alone = first.bundle();
    assert_eq!(first.due(now + 6 * YEAR), Due::Nothing);
    let both = step(first, Due::Next, now + 7 * YEAR);
    let next = both.next.as_ref().unwrap().certificate().to_owned();
    assert_eq!(both.bundle(), format!("{first_alone}{next}"));
    assert_eq!(both.due(now + 8 * YEAR), Due::Nothing);
    let taken_over = now + 9 * YEAR + 30 * DAY;
    let after = step(both, Due::TakeOver, taken_over);
    assert_eq!(after.current.certificate(), next);
    assert_eq!(after.bundle(), format!("{next}{first_alone}"));
    let names: Vec<&str> = after.kept().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["ca.crt", "ca.key", "previous.crt", "previous.until"], "and no key of the former");
    assert_eq!(after.due(taken_over + 6 * DAY), Due::Nothing);
    let alone = step(after, Due::Forget, taken_over + 7 * DAY);
    assert_eq!(alone.bundle(), next);
}

/// Nobody has looked for years, as when everything was switched off.
#[test]
fn a_late_next_authority_is_told_for_a_while_before_it_signs() {
    let now = moment();
    let late = now + 9 * YEAR + 300 * DAY;
    let first = Signers::first(Authority::new("a", 10 * YEAR, now).unwrap());
    let due = first.due(late);
    let both = first.advance(due, late, DAY, || Authority::new("b", 10 * YEAR, late)).unwrap();
    assert_eq!(both.due(late + Duration::from_secs(3500)), Due::Nothing);
    assert_eq!(both.due(late + Duration::from_secs(3600)), Due::TakeOver);
    assert_eq!(both.due(now + 10 * YEAR + DAY), Due::TakeOver, "the present one has expired");
    let expired = Signers { next: None, ..both };
    assert_eq!(expired.due(now + 10 * YEAR + DAY), Due::Anew);
}
