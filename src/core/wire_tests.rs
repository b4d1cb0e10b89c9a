//! The wire form: what goes through, what is refused.

use super::*;

const DOCUMENT: &str = r#"{"apiVersion":"postern.dev/v1alpha1","kind":"CredentialBinding","metadata":{"name":"a","namespace":"n"},"spec":{"x":"\u00e9"}}"#;

fn item(value: Result<&str, Gap>, ca_bundle: Option<Result<Arc<str>, Gap>>) -> Item {
    let secret = |text: &str| Arc::new(SecretValue::parse(text.into()).ok().unwrap());
    let value = value.map(|text| Value { secret: secret(text), version: "7".into(), changed: Some(5) });
    Item { document: Arc::from(RawValue::from_string(DOCUMENT.into()).unwrap()), value, ca_bundle }
}

fn gap(cause: Cause) -> Gap {
    Gap { cause, text: "Secret \"s\"/token\ndoes not exist".into() }
}

fn through(items: Vec<Item>) -> Snapshot {
    let line = encode(&Message::Snapshot(Snapshot { items }));
    assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1, "one line");
    assert_eq!(line.last(), Some(&b'\n'));
    match decode(&line) {
        Ok(Message::Snapshot(snapshot)) => snapshot,
        Ok(_) => panic!("another message"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_snapshot_arrives_as_it_was_sent() {
    let pem: Arc<str> = "-----BEGIN\nx\n".into();
    let sent = vec![
        item(Ok("s3cret \"quoted\" \\"), Some(Ok(Arc::clone(&pem)))),
        item(Err(gap(Cause::NotConsented)), Some(Err(gap(Cause::Absent)))),
        item(Ok("other"), None),
    ];
    let got = through(sent.clone());
    assert_eq!(got.items.len(), 3);
    for (got, sent) in got.items.iter().zip(&sent) {
        assert_eq!(got.document.get(), DOCUMENT);
        match (&got.value, &sent.value) {
            (Ok(got), Ok(sent)) => {
                assert!(got.secret.same_as(&sent.secret));
                assert_eq!((got.version.as_str(), got.changed), ("7", Some(5)));
            }
            (got, sent) => assert_eq!(got.as_ref().err(), sent.as_ref().err()),
        }
        assert_eq!(got.ca_bundle, sent.ca_bundle);
    }
    assert!(through(Vec::new()).items.is_empty());
}

#[test]
fn the_buffer_never_grows() {
    let long = "v".repeat(16_384);
    let items: Vec<Item> = (0..50)
        .map(|_| item(Ok(&long), Some(Ok("\n\"\\".repeat(500).into()))))
        .chain([item(Err(gap(Cause::Invalid)), None)])
        .collect();
    let size: usize = items.iter().map(|item| size((item, &item.value.as_ref().ok().map(encoded)))).sum();
    let line = encode(&Message::Snapshot(Snapshot { items }));
    assert!(line.len() <= 96 + size, "{} bytes in a buffer of {}", line.len(), 96 + size);
}

#[test]
fn other_lines_are_told_apart() {
    let terms = Terms { heartbeat: Duration::from_millis(u64::MAX), life: Duration::from_secs(600) };
    let hello = encode(&Message::Hello(terms));
    assert!(matches!(decode(&hello), Ok(Message::Hello(got)) if got == terms));
    assert!(hello.len() <= 96, "the buffer never grows");
    assert!(matches!(decode(&encode(&Message::Heartbeat)), Ok(Message::Heartbeat)));
    assert!(matches!(decode(&encode(&Message::Goodbye)), Ok(Message::Goodbye)));
    for later in
        [r#"{"v":1,"type":"later","extra":[1]}"#, r#"{"v":1,"type":"\u006cater","items":"none","heartbeatMs":-1}"#]
    {
        assert!(matches!(decode(later.as_bytes()), Ok(Message::Unknown)), "{later}");
    }
    assert!(matches!(decode(br#"{"v":2,"type":"heartbeat","items":1}"#), Err(WireError::Version)));
    let cause = br#"{"v":1,"type":"snapshot","items":[{"document":{},"gap":{"cause":"later","text":"t"},"more":1}]}"#;
    let Ok(Message::Snapshot(snapshot)) = decode(cause) else { panic!("a snapshot") };
    assert_eq!(snapshot.items[0].value.as_ref().err().map(|gap| gap.cause), Some(Cause::Other));
}

#[test]
fn what_is_no_message_is_refused() {
    let rows: [(&[u8], WireError); 10] = [
        (b"", WireError::Malformed),
        (br#"{"v":1,"type":"hello","heartbeatMs":1}"#, WireError::Malformed),
        (b"{}", WireError::Malformed),
        (br#"{"v":2,"type":"heartbeat"}"#, WireError::Version),
        (br#"{"v":1,"type":"snapshot"}"#, WireError::Malformed),
        (br#"{"v":1,"type":"snapshot","items":[{"document":{}}]}"#, WireError::Malformed),
        (br#"{"v":1,"type":"snapshot","items":[{"value":"YQ=="}]}"#, WireError::Malformed),
        (br#"{"v":1,"type":"snapshot","items":[{"document":{},"value":"?"}]}"#, WireError::Malformed),
        (
            br#"{"v":1,"type":"snapshot","items":[{"document":{},"value":"YQ==","gap":{"cause":"absent","text":""}}]}"#,
            WireError::Malformed,
        ),
        (
            br#"{"v":1,"type":"snapshot","items":[{"document":{},"value":"YQo="}]}"#,
            WireError::Value(SecretFault::TrailingNewline),
        ),
    ];
    for (line, expected) in rows {
        assert_eq!(decode(line).err(), Some(expected), "{}", String::from_utf8_lossy(line));
    }
}
