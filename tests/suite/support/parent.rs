//! A parent proxy: takes CONNECT, keeps every byte the sidecar sends, and splices or refuses.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::message::Head;
use super::observed::Observed;

/// What it does with a CONNECT.
#[derive(Debug, Clone, Copy)]
pub enum Conduct {
    /// Splices to this port of loopback, whatever name was asked for.
    Splice(u16),
    /// Says this and closes.
    Say(&'static [u8]),
}

/// The proxy; it ends with the test.
pub struct Parent {
    address: SocketAddr,
    seen: Arc<Observed<Vec<u8>>>,
    task: AbortHandle,
}

impl Parent {
    pub async fn start(conduct: Conduct) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let seen = Arc::new(Observed::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let serve = async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, conduct, Arc::clone(&sink)));
            }
        };
        Self { address, seen, task: tokio::spawn(serve).abort_handle() }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every byte that sidecars have sent it.
    pub fn seen(&self) -> Vec<u8> {
        self.seen.read(Clone::clone)
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one tunnel. It ends with whichever side ends first: that is all a tunnel can tell.
async fn serve(mut socket: TcpStream, conduct: Conduct, seen: Arc<Observed<Vec<u8>>>) -> Option<()> {
    let mut head = Vec::new();
    while Head::parse(&head).is_none() {
        let byte = socket.read_u8().await.ok()?;
        head.push(byte);
        seen.update(|seen| seen.push(byte));
    }
    let port = match conduct {
        Conduct::Splice(port) => port,
        Conduct::Say(bytes) => return socket.write_all(bytes).await.ok(),
    };
    let upstream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    socket.write_all(b"HTTP/1.1 200 Connection established\r\nVia: suite\r\n\r\n").await.ok()?;
    let (mut from_sidecar, mut to_sidecar) = socket.into_split();
    let (mut from_upstream, mut to_upstream) = upstream.into_split();
    let out = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_sidecar.read(&mut buffer).await {
            seen.update(|seen| seen.extend_from_slice(&buffer[..count]));
            to_upstream.write_all(&buffer[..count]).await.ok()?;
        }
        Some(())
    };
    tokio::select! {
        _ = out => {}
        _ = tokio::io::copy(&mut from_upstream, &mut to_sidecar) => {}
    }
    Some(())
}
