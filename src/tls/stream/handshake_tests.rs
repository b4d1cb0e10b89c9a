//! What belongs to the handshake and goes on behind it: tickets, new keys, words said before it is over.

use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::tests::{HOST, Settings, Wire, records};
use super::*;

/// An agent's head and body can be here, a record each, before its tickets have been sent.
#[tokio::test]
async fn an_answer_follows_whatever_came_with_the_handshake() {
    for version in [&TLS12, &TLS13] {
        for (count, room) in (1..5).flat_map(|count| [(count, 1), (count, 100), (count, 20_000)]) {
            let settings = Settings::new(version);
            let (near, far) = tokio::io::duplex(64 * 1024);
            let near = async {
                let (mut near, _) = accept(&settings.server, near, Vec::new()).await.unwrap();
                let (mut heard, mut part) = (Vec::new(), vec![0; room]);
                while heard.len() < count * 10 {
                    let read = near.read(&mut part).await.unwrap();
                    heard.extend_from_slice(&part[..read]);
                }
                near.write_all(b"answer").await.unwrap();
                near.flush().await.unwrap();
                heard
            };
            let far = async {
                let connector = TlsConnector::from(Arc::clone(&settings.client));
                let mut far = connector.connect(ServerName::try_from(HOST).unwrap(), far).await.unwrap();
                for _ in 0..count {
                    far.write_all(b"0123456789").await.unwrap();
                    far.flush().await.unwrap();
                }
                let mut answer = [0; 6];
                far.read_exact(&mut answer).await.unwrap();
                answer
            };
            let (heard, answer) = tokio::join!(near, far);
            assert_eq!((heard, &answer), (b"0123456789".repeat(count), b"answer"), "{version:?} {count} {room}");
        }
    }
}

#[tokio::test]
async fn a_second_connection_resumes() {
    for version in [&TLS12, &TLS13] {
        let (client, server) = (Settings::new(version), Settings::new(version));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            // Tickets come behind the handshake, and are read with what comes next.
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (mut near, mut far) = client.as_client(near, far).await;
            far.write_all(b"x").await.unwrap();
            far.flush().await.unwrap();
            near.read_u8().await.unwrap();
            assert_eq!(near.engine.state().handshake_kind(), Some(expected), "{version:?}");
            let (near, far) = tokio::io::duplex(64 * 1024);
            let (mut near, mut far) = server.as_server(near, far).await;
            near.write_all(b"x").await.unwrap();
            near.flush().await.unwrap();
            far.read_u8().await.unwrap();
            assert_eq!(near.engine.state().handshake_kind(), Some(expected), "{version:?}");
            assert_eq!(near.alpn_protocol(), Some(&b"http/1.1"[..]));
        }
    }
}

#[tokio::test]
async fn the_keys_may_change() {
    let (near, far) = Wire::pair(64 * 1024);
    let sent = Arc::clone(&near.sent);
    let (mut near, mut far) = Settings::new(&TLS13).as_client(near, far).await;
    for round in 0..5 {
        // It asks us for new keys as well: ours go out before what we say next.
        far.get_mut().1.refresh_traffic_keys().unwrap();
        far.write_all(b"new").await.unwrap();
        far.flush().await.unwrap();
        let mut heard = [0; 3];
        near.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"new");
        sent.lock().unwrap().clear();
        near.write_all(b"ack").await.unwrap();
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ack", "round {round}");
        assert_eq!(records(&sent.lock().unwrap().concat()).len(), 2);
    }
}

/// There a client cannot say its next word before the server has heard of it, nor read before it has said it.
#[tokio::test]
async fn hands_are_shaken_over_the_narrowest_wire() {
    for version in [&TLS12, &TLS13] {
        let settings = Settings::new(version);
        let (near, far) = tokio::io::duplex(4);
        let near = async {
            let (mut near, _) = accept(&settings.server, near, Vec::new()).await.unwrap();
            near.read_u8().await.unwrap()
        };
        let far = async {
            let connector = TlsConnector::from(Arc::clone(&settings.client));
            let far = connector.connect(ServerName::try_from(HOST).unwrap(), far).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(far);
            // It waits there until it is flushed. The server ends without a goodbye.
            let write = async { (writer.write_all(b"x").await.unwrap(), writer.flush().await.unwrap()) };
            tokio::join!(write, reader.read_u8()).1.unwrap_err().kind()
        };
        assert_eq!(tokio::join!(near, far), (b'x', io::ErrorKind::UnexpectedEof));
    }
}
