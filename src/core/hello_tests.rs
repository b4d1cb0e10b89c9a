//! ClientHellos by hand, byte for byte, and those of the TLS library under every cut.

use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

fn vector(width: usize, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len().to_be_bytes();
    [&length[length.len() - width..], bytes].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector(2, data)].concat()
}

fn name(kind: u8, name: &[u8]) -> Vec<u8> {
    extension(SERVER_NAME, &vector(2, &[vec![kind], vector(2, name)].concat()))
}

fn body(extensions: &[Vec<u8>]) -> Vec<u8> {
    let fixed = [vec![3, 3], vec![7; 32], vector(1, &[]), vector(2, &[0x13, 1]), vector(1, &[0])].concat();
    [fixed, vector(2, &extensions.concat())].concat()
}

fn record(fragment: &[u8]) -> Vec<u8> {
    [vec![HANDSHAKE, 3, 1], vector(2, fragment)].concat()
}

fn handshake(body: &[u8]) -> Vec<u8> {
    [vec![CLIENT_HELLO], vector(3, body)].concat()
}

fn sent(extensions: &[Vec<u8>]) -> Vec<u8> {
    record(&handshake(&body(extensions)))
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

#[test]
fn the_name_and_what_hides_it_are_seen() {
    let rows = [
        (sent(&[name(0, b"API.example.com")]), Some("api.example.com"), false),
        (sent(&[extension(43, &[2, 3, 4]), name(0, b"h.example")]), Some("h.example"), false),
        (sent(&[extension(43, &[2, 3, 4])]), None, false),
        (sent(&[]), None, false),
        (sent(&[name(0, b"front.example"), extension(0xfe0d, &[0; 9])]), Some("front.example"), true),
        (sent(&[extension(0xffce, &[]), name(0, b"front.example")]), Some("front.example"), true),
    ];
    for (bytes, server_name, hidden) in rows {
        let hello = Hello { server_name: server_name.map(host), hidden };
        assert_eq!(read(&bytes), Ok(Some(hello)), "{bytes:?}");
    }
    // TLS 1.0 had no extensions, not even an empty list of them.
    let fixed = &body(&[])[..2 + 32 + 1 + 4 + 2];
    assert_eq!(read(&record(&handshake(fixed))), Ok(Some(Hello { server_name: None, hidden: false })));
}

#[test]
fn what_is_ambiguous_is_refused() {
    let (good, two) = (name(0, b"h.example"), [name(0, b"h.example"), name(0, b"i.example")]);
    let both = extension(
        SERVER_NAME,
        &vector(2, &[vec![0], vector(2, b"h.example"), vec![0], vector(2, b"i.example")].concat()),
    );
    let trailing = [body(std::slice::from_ref(&good)), vec![0]].concat();
    let whole = handshake(&body(std::slice::from_ref(&good)));
    let rows = [
        (b"GET / HTTP/1.1\r\n".to_vec(), HelloFault::NotTls),
        (vec![HANDSHAKE, 2, 0], HelloFault::NotTls),
        (record(&[2, 0, 0, 0]), HelloFault::NotTls),
        (sent(&two), HelloFault::Malformed),
        (sent(&[both]), HelloFault::Malformed),
        (sent(&[name(1, b"h.example")]), HelloFault::Malformed),
        (sent(&[extension(SERVER_NAME, &[])]), HelloFault::Malformed),
        (record(&handshake(&trailing)), HelloFault::Malformed),
        (record(&[whole.clone(), vec![1]].concat()), HelloFault::Malformed),
        ([record(&whole[..9]), vec![21, 3, 3, 0, 2, 1, 0]].concat(), HelloFault::Malformed),
        ([record(&whole[..9]), record(&[])].concat(), HelloFault::Malformed),
        (sent(&[name(0, b"h.example.")]), HelloFault::Name),
        (sent(&[name(0, b"10.0.0.1")]), HelloFault::Name),
        (sent(&[name(0, b"h\0.example")]), HelloFault::Name),
        (sent(&[name(0, b"")]), HelloFault::Name),
        (record(&[CLIENT_HELLO, 1, 0, 0]), HelloFault::TooLarge),
        ([vec![HANDSHAKE, 3, 1], vec![0xff, 0xff]].concat(), HelloFault::TooLarge),
    ];
    for (bytes, fault) in rows {
        assert_eq!(read(&bytes), Err(fault), "{bytes:?}");
    }
}

#[test]
fn all_that_names_the_server_must_agree() {
    let hello = |name: Option<&str>, hidden| Hello { server_name: name.map(host), hidden };
    let rows = [
        (hello(Some("h.example"), false), None, Ok("h.example")),
        (hello(Some("h.example"), false), Some("h.example"), Ok("h.example")),
        (hello(Some("i.example"), false), Some("h.example"), Err(Reason::AuthorityMismatch)),
        (hello(Some("i.example"), false), Some("10.0.0.1"), Err(Reason::AuthorityMismatch)),
        (hello(None, false), Some("10.0.0.1"), Ok("10.0.0.1")),
        (hello(None, false), Some("h.example"), Err(Reason::AuthorityMismatch)),
        (hello(None, false), None, Err(Reason::AuthorityMismatch)),
        (hello(Some("h.example"), true), Some("h.example"), Err(Reason::AuthorityMismatch)),
    ];
    for (hello, known, expected) in rows {
        let agreed = hello.agreed(known.map(host).as_ref()).map_err(|refusal| refusal.reason);
        assert_eq!(agreed, expected.map(host), "{hello:?} {known:?}");
    }
}

fn of_the_library(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

proptest! {
    /// However it is cut into records and reads, it is read once it is whole, and not before.
    #[test]
    fn a_real_hello_survives_every_cut(label in "[a-z]{1,20}", cuts in proptest::collection::vec(1usize..400, 0..6)) {
        let name = format!("{label}.example");
        let whole = of_the_library(&name);
        let mut rest = &whole[5..];
        let mut bytes = Vec::new();
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            if !now.is_empty() {
                bytes.extend(record(now));
            }
            rest = later;
        }
        if !rest.is_empty() {
            bytes.extend(record(rest));
        }
        for end in 0..bytes.len() {
            prop_assert_eq!(read(&bytes[..end]), Ok(None), "{}", end);
        }
        prop_assert_eq!(read(&bytes), Ok(Some(Hello { server_name: Some(host(&name)), hidden: false })));
    }

    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&bytes);
        let _ = read(&record(&handshake(&bytes)));
    }
}
