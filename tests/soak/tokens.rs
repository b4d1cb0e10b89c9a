//! The credentials: a new one for each server every second, as the kubelet brings it, and what may
//! be used when.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::plan::{SERVERS, Server};
use super::suite::support::files::Files;
use super::suite::support::unique_secret;

/// Every credential begins with it: no agent, log or metric may ever show it.
pub const MARK: &str = "soaktoken";
/// Length of a credential.
pub const LENGTH: usize = MARK.len() + 40;

#[derive(Default)]
struct Issued {
    /// Whose a token is, and which in the order of issue.
    owners: HashMap<String, (Server, usize)>,
    /// When each was put in place, by server.
    since: HashMap<Server, Vec<Instant>>,
}

/// All credentials ever issued.
pub struct Tokens {
    issued: Mutex<Issued>,
    /// The newest that each upstream has been sent.
    used: watch::Sender<[usize; SERVERS.len()]>,
}

impl Tokens {
    pub fn new() -> Self {
        Self { issued: Mutex::default(), used: watch::Sender::new([0; SERVERS.len()]) }
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next credential of a server; from this moment on it may be used.
    pub fn issue(&self, server: Server) -> String {
        let token = format!("{MARK}{}", unique_secret());
        let mut issued = self.issued();
        let since = issued.since.entry(server).or_default();
        since.push(Instant::now());
        let number = since.len();
        issued.owners.insert(token.clone(), (server, number));
        token
    }

    /// Gives every server a new credential again and again, by a swap of `..data`.
    pub async fn rotate(&self, files: &Files, every: Duration) {
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for server in SERVERS {
                let token = self.issue(server);
                files.swap(&format!("bindings/secrets/{}-secret", server.name()), &[("token", token.as_bytes())]);
            }
        }
    }

    pub fn owner(&self, token: &str) -> Option<(Server, usize)> {
        self.issued().owners.get(token).copied()
    }

    /// The newest credential of a server.
    pub fn newest(&self, server: Server) -> usize {
        self.issued().since.get(&server).map_or(0, Vec::len)
    }

    /// When `number` was replaced.
    pub fn replaced(&self, server: Server, number: usize) -> Option<Instant> {
        self.issued().since.get(&server)?.get(number).copied()
    }

    /// Whoever calls from now on uses this one or a newer one: the sidecar has sent it.
    pub fn floor(&self, server: Server) -> usize {
        self.used.borrow()[server as usize]
    }

    pub fn use_of(&self, server: Server, number: usize) {
        self.used.send_if_modified(|used| {
            let newer = number > used[server as usize];
            used[server as usize] = used[server as usize].max(number);
            newer
        });
    }

    /// Waits until the sidecar uses a newer one than `number`.
    pub async fn newer_than(&self, server: Server, number: usize) {
        let mut used = self.used.subscribe();
        used.wait_for(|used| used[server as usize] > number).await.expect("the sender lives as long as self");
    }
}
