//! Accepting connections of the agent, a bounded number of them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::{Shared, capture, connection};
use crate::runtime::task;
use crate::telemetry::exchange::Telemetry;

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Endpoint,
    Proxy,
    Redirect,
}

/// Binds a port of loopback, IPv4 and, where the machine has it, IPv6.
pub(super) async fn bind(door: Door, port: u16) -> io::Result<(SocketAddr, Vec<Listener>)> {
    let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let place = v4.local_addr()?;
    let mut listeners = vec![Listener::new(v4, door)];
    match TcpListener::bind((Ipv6Addr::LOCALHOST, place.port())).await {
        Ok(v6) => listeners.push(Listener::new(v6, door)),
        // Another process there would get calls that are meant for us.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && port != 0 => return Err(error),
        Err(error) => tracing::debug!(%error, "the port is not bound on IPv6"),
    }
    Ok((place, listeners))
}

/// Places for connections.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    regular: Arc<Semaphore>,
    /// Connections over the limit that are told so before they are closed.
    excess: Arc<Semaphore>,
}

/// The place of one connection.
pub(super) enum Slot {
    Regular(OwnedSemaphorePermit),
    Excess(OwnedSemaphorePermit),
}

const EXCESS_CONNECTIONS: usize = 64;

impl Slots {
    pub(super) fn new(connections: usize) -> Self {
        Self { regular: Arc::new(Semaphore::new(connections)), excess: Arc::new(Semaphore::new(EXCESS_CONNECTIONS)) }
    }

    pub(super) fn take(&self) -> Option<Slot> {
        let regular = Arc::clone(&self.regular).try_acquire_owned().map(Slot::Regular);
        regular.or_else(|_| Arc::clone(&self.excess).try_acquire_owned().map(Slot::Excess)).ok()
    }
}

/// One listening socket.
pub(super) struct Listener {
    socket: TcpListener,
    door: Door,
}

impl Listener {
    fn new(socket: TcpListener, door: Door) -> Self {
        // On Linux a connection has these from here, and they take no system call for each. Without the first, small
        // events wait for the agent's acknowledgement. The second is for a node whose own choice is made for long ways:
        // between two processes of a pod there is no bandwidth to be found out, and nothing to be paced (as BBR does).
        let _best_effort = sockopt::set_tcp_nodelay(&socket, true);
        let _best_effort = sockopt::set_tcp_congestion(&socket, "reno");
        Self { socket, door }
    }

    /// Accepts until dropped.
    pub(super) async fn run(self, shared: Arc<Shared>, slots: Slots) {
        loop {
            match self.socket.accept().await {
                Ok((socket, _)) => admit(socket, self.door, &shared, &slots),
                Err(error) => {
                    // Out of file descriptors, most likely: wait for one instead of spinning.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

fn admit(socket: TcpStream, door: Door, shared: &Arc<Shared>, slots: &Slots) {
    let Some(slot) = slots.take() else {
        tracing::debug!("a connection is dropped: too many");
        return;
    };
    let overloaded = matches!(slot, Slot::Excess(_));
    let for_it = Arc::clone(shared);
    // Apart: a quiet connection to the endpoint needs no room for TLS.
    let _detached = match door {
        Door::Endpoint => {
            start(slot, shared, move || async move { connection::serve(socket, &for_it, overloaded).await })
        }
        Door::Proxy => start(slot, shared, move || async move { capture::proxy(socket, &for_it, overloaded).await }),
        Door::Redirect => {
            start(slot, shared, move || async move { capture::redirect(socket, &for_it, overloaded).await })
        }
    };
}

/// Serves a connection in a task of its own: a panic ends that one, and nothing else. What serves it is made there,
/// since a task keeps what it is given twice, once to have it and once to run it.
pub(super) fn start<F>(slot: Slot, shared: &Arc<Shared>, serve: impl FnOnce() -> F + Send + 'static) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let telemetry = Arc::clone(&shared.telemetry);
    task::spawn(async move {
        // Both are given back however this ends.
        let _counted = Counted::new(&telemetry);
        let (Slot::Regular(_permit) | Slot::Excess(_permit)) = slot;
        serve().await;
    })
}

/// Counts an open connection for as long as it lives.
struct Counted(Arc<Telemetry>);

impl Counted {
    fn new(telemetry: &Arc<Telemetry>) -> Self {
        telemetry.metrics.agent_connection(1);
        Self(Arc::clone(telemetry))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.agent_connection(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_said_to_an_agent_waits_for_nothing() {
        let (place, listeners) = bind(Door::Endpoint, 0).await.unwrap();
        for listener in listeners {
            let host = listener.socket.local_addr().unwrap().ip();
            let _agent = TcpStream::connect((host, place.port())).await.unwrap();
            let (accepted, _) = listener.socket.accept().await.unwrap();
            assert!(accepted.nodelay().unwrap(), "over {host}");
            assert_eq!(sockopt::tcp_congestion(&accepted).unwrap(), "reno", "over {host}");
        }
    }
}
