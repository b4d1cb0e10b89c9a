//! What the owner of a Secret consents to: where its value may be sent, and for whom.
//!
//! Whoever writes a binding names a Secret and a destination. Without the word of the Secret's owner, whoever may write
//! bindings could send every Secret of the namespace anywhere. Nothing here is a pattern: an entry names one host and
//! one port, one service account, and nothing else. An entry that cannot be read allows nothing.

use super::name::ServiceAccount;
use super::upstream::{Host, Scheme, UpstreamUrl, split_authority};

/// The port of an entry that names none.
const TLS_PORT: u16 = 443;

/// What the label and the annotations of one Secret say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    given: bool,
    hosts: Option<List<AllowedHost>>,
    /// `None`: whichever of its namespace a binding names.
    accounts: Option<List<ServiceAccount>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct List<T> {
    entries: Vec<T>,
    /// The first entry that says nothing, counted from 1.
    unreadable: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct AllowedHost {
    host: Host,
    port: Option<u16>,
}

/// What is missing of a consent. Quotes nothing of the annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// The label is not there, or not `"true"`.
    Label,
    /// There is no list of hosts, or an empty one.
    NoHosts,
    /// The list does not name this host and port.
    Host {
        /// An entry that could not be read.
        unreadable: Option<usize>,
    },
    /// The list of service accounts does not name this one.
    Account {
        /// An entry that could not be read.
        unreadable: Option<usize>,
    },
}

impl Consent {
    /// Reads the value of the label, and of the annotations with the hosts and the service accounts.
    pub fn read(label: Option<&str>, hosts: Option<&str>, accounts: Option<&str>) -> Self {
        Self {
            given: label == Some("true"),
            hosts: hosts.map(|text| List::read(text, AllowedHost::parse)),
            accounts: accounts.map(|text| List::read(text, |name| ServiceAccount::parse(name).ok())),
        }
    }

    /// Whether the value may be sent to `url`, whoever asks.
    pub fn to(&self, url: &UpstreamUrl) -> Result<(), Withheld> {
        if !self.given {
            return Err(Withheld::Label);
        }
        let hosts = self.hosts.as_ref().filter(|hosts| !hosts.is_empty()).ok_or(Withheld::NoHosts)?;
        let allowed = hosts.entries.iter().any(|entry| entry.allows(url));
        if allowed { Ok(()) } else { Err(Withheld::Host { unreadable: hosts.unreadable }) }
    }

    /// Whether a service account of the Secret's namespace may use it, wherever to.
    pub fn by(&self, account: &ServiceAccount) -> Result<(), Withheld> {
        if !self.given {
            return Err(Withheld::Label);
        }
        match &self.accounts {
            Some(accounts) if !accounts.entries.contains(account) => {
                Err(Withheld::Account { unreadable: accounts.unreadable })
            }
            _ => Ok(()),
        }
    }
}

impl<T> List<T> {
    /// Entries between commas; white space around them, and nothing between two commas, is passed over.
    fn read(text: &str, parse: impl Fn(&str) -> Option<T>) -> Self {
        let (mut entries, mut unreadable) = (Vec::new(), None);
        let texts = text.split(',').map(|entry| entry.trim_matches(|c: char| c.is_ascii_whitespace()));
        for (at, entry) in texts.enumerate().filter(|(_, entry)| !entry.is_empty()) {
            match parse(entry) {
                Some(entry) => entries.push(entry),
                None => unreadable = unreadable.or(Some(at + 1)),
            }
        }
        Self { entries, unreadable }
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.unreadable.is_none()
    }
}

impl AllowedHost {
    fn parse(text: &str) -> Option<Self> {
        split_authority(text).map(|(host, port)| Self { host, port })
    }

    /// Without a port it is TLS on 443. Clear text is consented to by naming its port.
    fn allows(&self, url: &UpstreamUrl) -> bool {
        let port = match self.port {
            Some(port) => port == url.port,
            None => url.port == TLS_PORT && url.scheme == Scheme::Https,
        };
        port && self.host == url.host
    }
}

#[cfg(test)]
#[path = "consent_tests.rs"]
mod tests;
