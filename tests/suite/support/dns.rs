//! A name server of a few lines: A, AAAA and CNAME from a table, the rest does not exist.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

/// Names with what they lead to: an address, or another name.
type Table = Vec<(String, String)>;

#[derive(Default)]
struct Zone {
    /// Each question is answered from the next one, and after the last from the first again.
    tables: Vec<Table>,
    asked: HashMap<(String, Vec<u8>), usize>,
}

/// The server; it ends with the test.
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    task: AbortHandle,
}

impl Dns {
    /// Serves these names.
    pub async fn start(names: &[(&str, &str)]) -> Self {
        Self::in_turn(&[names]).await
    }

    /// Serves the first table to whoever asks for a name first, the second to the second, and so on.
    pub async fn in_turn(tables: &[&[(&str, &str)]]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let owned = |(name, place): &(&str, &str)| ((*name).to_owned(), (*place).to_owned());
        let tables = tables.iter().map(|table| table.iter().map(owned).collect()).collect();
        let zone = Arc::new(Mutex::new(Zone { tables, asked: HashMap::new() }));
        let task = tokio::spawn(serve(socket, Arc::clone(&zone))).abort_handle();
        Self { address, zone, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often the IPv4 addresses of a name were asked for.
    pub fn asked(&self, name: &str) -> usize {
        let zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        zone.asked.get(&(name.to_owned(), A.to_vec())).copied().unwrap_or_default()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const A: [u8; 2] = [0, 1];
const AAAA: [u8; 2] = [0, 28];
const CNAME: [u8; 2] = [0, 5];

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let answer = zone.lock().unwrap_or_else(PoisonError::into_inner).answer(&buffer[..length]);
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

impl Zone {
    /// RFC 1035: the header, the question as it came, the records. A name that leads to another is
    /// answered with that alone: whoever asks has to follow. Nothing may be kept (TTL 0).
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let (name, end) = question_name(query)?;
        let name = name.to_ascii_lowercase();
        let kind = query.get(end..end + 2)?;
        let question = query.get(12..end + 4)?;
        let turn = self.asked.entry((name.clone(), kind.to_vec())).or_default();
        let table = self.tables.get(*turn % self.tables.len())?;
        *turn += 1;
        let places: Vec<&str> = table.iter().filter(|(known, _)| *known == name).map(|(_, place)| &**place).collect();
        let records: Vec<Vec<u8>> = places.iter().filter_map(|place| record(place, kind)).collect();
        let mut answer = query.get(..2)?.to_vec();
        answer.extend_from_slice(&[0x81, if places.is_empty() { 0x83 } else { 0x80 }, 0, 1]);
        answer.extend_from_slice(&u16::try_from(records.len()).ok()?.to_be_bytes());
        answer.extend_from_slice(&[0, 0, 0, 0]);
        answer.extend_from_slice(question);
        answer.extend_from_slice(&records.concat());
        Some(answer)
    }
}

/// A record of the name asked for, if it answers a question of this kind.
fn record(place: &str, kind: &[u8]) -> Option<Vec<u8>> {
    let (own, data) = match place.parse() {
        Ok(IpAddr::V4(v4)) => (A, v4.octets().to_vec()),
        Ok(IpAddr::V6(v6)) => (AAAA, v6.octets().to_vec()),
        Err(_) => (CNAME, encoded(place)),
    };
    let fits = own == CNAME || own == kind;
    let length = u16::try_from(data.len()).ok()?.to_be_bytes();
    fits.then(|| [&[0xc0, 12], &own[..], &[0, 1, 0, 0, 0, 0], &length, &data].concat())
}

fn encoded(name: &str) -> Vec<u8> {
    let label = |label: &str| [&[u8::try_from(label.len()).expect("a label")], label.as_bytes()].concat();
    let mut labels: Vec<u8> = name.split('.').flat_map(label).collect();
    labels.push(0);
    labels
}

/// The question's name and where it ends.
fn question_name(query: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).into_owned());
        at += length;
    }
}
