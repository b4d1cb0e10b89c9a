//! Which servers gave out which session id, so that an id is never shown to another server.
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
    pub fn short(&self) -> [u8; 8] {
        let mut digits = [0; 8];
        let halves = self.0.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        for (digit, half) in digits.iter_mut().zip(halves) {
            *digit = half + if half < 10 { b'0' } else { b'a' - 10 };
        }
        digits
    }
}

/// How many servers are remembered as givers of one id. One is the rule; more means that one has given
/// out what it learned of another's.
const MAX_GIVERS: usize = 8;

/// A bounded memory of sessions; the least recently used is forgotten first.
///
/// Forgetting is safe: an unknown id passes, and the upstream itself refuses one that is not its own.
/// An id is remembered with all who gave it out: the last of them must not take it from the others.
#[derive(Debug)]
pub struct Sessions {
    capacity: usize,
    clock: u64,
    known: HashMap<SessionDigest, Known>,
    by_age: BTreeMap<u64, SessionDigest>,
}

#[derive(Debug)]
struct Known {
    givers: Vec<ServerName>,
    age: u64,
}

impl Sessions {
    /// An empty memory for at most `capacity` sessions.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, clock: 0, known: HashMap::new(), by_age: BTreeMap::new() }
    }

    /// The servers that gave this id out; empty if none is remembered.
    pub fn givers(&mut self, session: SessionDigest) -> Vec<ServerName> {
        self.touch(session).map(|known| known.givers.clone()).unwrap_or_default()
    }

    /// Remembers that `server` gave this id out.
    pub fn remember(&mut self, session: SessionDigest, server: &ServerName) {
        self.known.entry(session).or_insert_with(|| Known { givers: Vec::new(), age: 0 });
        if let Some(known) = self.touch(session)
            && known.givers.len() < MAX_GIVERS
            && !known.givers.contains(server)
        {
            known.givers.push(server.clone());
        }
        if self.known.len() > self.capacity
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.known.remove(&oldest);
        }
    }

    /// Forgets that `server` gave this id out, after its DELETE there.
    pub fn forget(&mut self, session: SessionDigest, server: &ServerName) {
        let Some(known) = self.known.get_mut(&session) else { return };
        known.givers.retain(|giver| giver != server);
        if known.givers.is_empty() {
            self.by_age.remove(&known.age);
            self.known.remove(&session);
        }
    }

    /// Makes it the one used last.
    fn touch(&mut self, session: SessionDigest) -> Option<&mut Known> {
        let known = self.known.get_mut(&session)?;
        self.clock += 1;
        self.by_age.remove(&known.age);
        known.age = self.clock;
        self.by_age.insert(self.clock, session);
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> ServerName {
        ServerName::parse(name).unwrap()
    }

    fn given(sessions: &mut Sessions, id: &[u8]) -> Vec<String> {
        sessions.givers(SessionDigest::of(id)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_least_recently_used_session_is_forgotten() {
        let ids: Vec<_> = (0..4u8).map(|n| SessionDigest::of(&[n])).collect();
        let mut sessions = Sessions::new(2);
        sessions.remember(ids[0], &server("a"));
        sessions.remember(ids[1], &server("b"));
        assert_eq!(given(&mut sessions, &[0]), ["a"]);
        sessions.remember(ids[2], &server("c"));
        assert!(given(&mut sessions, &[1]).is_empty());
        assert_eq!(given(&mut sessions, &[0]), ["a"]);
        sessions.forget(ids[0], &server("a"));
        assert!(given(&mut sessions, &[0]).is_empty());
        assert_eq!((sessions.known.len(), sessions.by_age.len()), (1, 1));
    }

    /// Whoever gives out another's id shares it from then on: neither takes it from the other, by giving
    /// it again or by its DELETE. There is an end to how many are remembered.
    #[test]
    fn an_id_belongs_to_all_who_gave_it_out() {
        let id = SessionDigest::of(b"id");
        let mut sessions = Sessions::new(2);
        for name in ["owner", "thief", "owner", "thief"] {
            sessions.remember(id, &server(name));
        }
        assert_eq!(given(&mut sessions, b"id"), ["owner", "thief"]);
        sessions.forget(id, &server("thief"));
        sessions.forget(id, &server("stranger"));
        assert_eq!(given(&mut sessions, b"id"), ["owner"]);
        for number in 0..100 {
            sessions.remember(id, &server(&format!("s{number}")));
        }
        let givers = given(&mut sessions, b"id");
        assert_eq!((givers[0].as_str(), givers.len()), ("owner", MAX_GIVERS));
        assert_eq!((sessions.known.len(), sessions.by_age.len()), (1, 1));
    }
}
