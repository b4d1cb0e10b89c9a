//! Which server gave out which session id, so that an id is never shown to another server.
//!
//! Session ids are bearer secrets: only a digest is kept, and only a digest is logged.

use std::collections::{BTreeMap, HashMap};

use aws_lc_rs::digest::{SHA256, digest};

use super::name::ServerName;

/// The digest of a session id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionDigest([u8; 16]);

impl SessionDigest {
    /// Digests a session id as it stands in `Mcp-Session-Id`.
    pub fn of(id: &[u8]) -> Self {
        let mut short = [0; 16];
        for (to, from) in short.iter_mut().zip(digest(&SHA256, id).as_ref()) {
            *to = *from;
        }
        Self(short)
    }

    /// Eight hexadecimal digits: enough to follow a session through a log.
    pub fn short(&self) -> String {
        self.0.iter().take(4).map(|b| format!("{b:02x}")).collect()
    }
}

/// A bounded memory of sessions; the least recently used is forgotten first.
///
/// Forgetting is safe: an unknown id passes, and the upstream itself refuses one that is not its own.
#[derive(Debug)]
pub struct Sessions {
    capacity: usize,
    clock: u64,
    owners: HashMap<SessionDigest, (ServerName, u64)>,
    by_age: BTreeMap<u64, SessionDigest>,
}

impl Sessions {
    /// An empty memory for at most `capacity` sessions.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, clock: 0, owners: HashMap::new(), by_age: BTreeMap::new() }
    }

    /// The server that gave this id out, if it is remembered.
    pub fn owner(&mut self, session: SessionDigest) -> Option<ServerName> {
        let owner = self.owners.get(&session)?.0.clone();
        self.remember(session, &owner);
        Some(owner)
    }

    /// Remembers that `server` gave this id out.
    pub fn remember(&mut self, session: SessionDigest, server: &ServerName) {
        self.forget(session);
        self.clock += 1;
        self.owners.insert(session, (server.clone(), self.clock));
        self.by_age.insert(self.clock, session);
        if self.owners.len() > self.capacity
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.owners.remove(&oldest);
        }
    }

    /// Forgets an id, after its DELETE.
    pub fn forget(&mut self, session: SessionDigest) {
        if let Some((_, age)) = self.owners.remove(&session) {
            self.by_age.remove(&age);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_session_is_forgotten() {
        let server = |name| ServerName::parse(name).unwrap();
        let ids: Vec<_> = (0..4u8).map(|n| SessionDigest::of(&[n])).collect();
        let mut sessions = Sessions::new(2);
        sessions.remember(ids[0], &server("a"));
        sessions.remember(ids[1], &server("b"));
        assert_eq!(sessions.owner(ids[0]), Some(server("a")));
        sessions.remember(ids[2], &server("c"));
        assert_eq!(sessions.owner(ids[1]), None);
        assert_eq!(sessions.owner(ids[0]), Some(server("a")));
        sessions.forget(ids[0]);
        assert_eq!(sessions.owner(ids[0]), None);
        assert_eq!((sessions.owners.len(), sessions.by_age.len()), (1, 1));
    }
}
