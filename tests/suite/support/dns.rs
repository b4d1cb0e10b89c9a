//! A name server of a few lines: A and AAAA from a table, the rest does not exist.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

type Table = Arc<Mutex<Vec<(String, IpAddr)>>>;

/// The server; it ends with the test.
pub struct Dns {
    address: SocketAddr,
    table: Table,
    task: AbortHandle,
}

impl Dns {
    /// Serves these names.
    pub async fn start(names: &[(&str, &str)]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let table = Table::default();
        let task = tokio::spawn(serve(socket, Arc::clone(&table))).abort_handle();
        let dns = Self { address, table, task };
        dns.set(names);
        dns
    }

    /// Replaces the table.
    pub fn set(&self, names: &[(&str, &str)]) {
        let parse = |(name, address): &(&str, &str)| ((*name).to_owned(), address.parse().expect("an address"));
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = names.iter().map(parse).collect();
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, table: Table) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let answer = answer(&buffer[..length], &table.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

/// RFC 1035: the header, the question as it came, one record per address.
fn answer(query: &[u8], table: &[(String, IpAddr)]) -> Option<Vec<u8>> {
    let (name, end) = question_name(query)?;
    let kind = query.get(end..end + 2)?;
    let question = query.get(12..end + 4)?;
    let known = table.iter().any(|(n, _)| n.eq_ignore_ascii_case(&name));
    let mut records = Vec::new();
    let mut count: u16 = 0;
    for (_, address) in table.iter().filter(|(n, _)| n.eq_ignore_ascii_case(&name)) {
        let (record_kind, octets) = match address {
            IpAddr::V4(v4) => ([0, 1], v4.octets().to_vec()),
            IpAddr::V6(v6) => ([0, 28], v6.octets().to_vec()),
        };
        if kind == record_kind {
            records.extend_from_slice(&[0xc0, 12]);
            records.extend_from_slice(&record_kind);
            records.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::try_from(octets.len()).ok()?]);
            records.extend_from_slice(&octets);
            count += 1;
        }
    }
    let mut answer = query.get(..2)?.to_vec();
    answer.extend_from_slice(&[0x81, if known { 0x80 } else { 0x83 }, 0, 1]);
    answer.extend_from_slice(&count.to_be_bytes());
    answer.extend_from_slice(&[0, 0, 0, 0]);
    answer.extend_from_slice(question);
    answer.extend_from_slice(&records);
    Some(answer)
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
