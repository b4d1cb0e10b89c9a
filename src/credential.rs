//! Credentials: from a source, through the cache, to a lease (layer 3).
//!
//! Readers see a [`View`]: routes and credentials of one moment, swapped as a whole. There is no
//! other door to a secret than [`View::lease`], and it opens for one route at a time.

pub mod broker;
pub mod cache;
pub mod file;
pub mod source;

mod told;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::SystemTime;

use foldhash::HashMap;
use http::{HeaderName, HeaderValue};

use crate::core::decide::Refusal;
use crate::core::mask::Mask;
use crate::core::name::BindingId;
use crate::core::reason::Reason;
use crate::core::routes::{Route, Routes};

/// Routes and credentials of one moment.
#[derive(Debug, Default)]
pub struct View {
    /// What requests are decided by.
    pub routes: Routes,
    /// By binding, with its revision: a credential can only be leased for the very form of the binding
    /// that it was built for.
    slots: HashMap<BindingId, (u64, Slot)>,
}

/// What there is for a binding.
#[derive(Debug, Clone)]
enum Slot {
    Usable(Arc<Credential>),
    Unusable(Refusal),
}

/// One value of a credential, ready for the wire.
#[derive(Debug)]
pub struct Credential {
    /// The header it goes into.
    pub header: HeaderName,
    /// The header's value; prints as `Sensitive`.
    pub value: HeaderValue,
    /// Counts the values since start.
    pub generation: u64,
    /// The Secret's name, for the log.
    pub secret: String,
    /// The Secret's version as its source tells it, for the log.
    pub version: String,
    /// Finds the value in what the upstream sends back.
    pub mask: Mask,
    /// Whether the value is so short that the mask will find it in ordinary text.
    pub short: bool,
    /// A CA bundle for the server, PEM.
    pub ca_bundle: Option<Arc<[u8]>>,
    changed: SystemTime,
    lag: Option<f64>,
    life: LifeCell,
}

/// Whether a leased credential may still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It may.
    Current,
    /// A newer one has taken its place: running streams have a grace.
    Superseded,
    /// It was withdrawn: running streams end at once.
    Revoked,
    /// Its source cannot vouch for it any more: running streams end at once, for this reason.
    Barred(Reason),
}

impl Life {
    /// Why nothing may go on with it, if so.
    pub fn over(self) -> Option<Reason> {
        match self {
            Self::Current | Self::Superseded => None,
            Self::Revoked => Some(Reason::CredentialRevoked),
            Self::Barred(reason) => Some(reason),
        }
    }
}

/// A life that changes while others look: each of them is a number.
#[derive(Debug)]
struct LifeCell(AtomicU8);

impl LifeCell {
    const BARRED: u8 = 3;

    fn new(life: Life) -> Self {
        Self(AtomicU8::new(Self::number(life)))
    }

    fn number(life: Life) -> u8 {
        match life {
            Life::Current => 0,
            Life::Superseded => 1,
            Life::Revoked => 2,
            Life::Barred(reason) => Self::BARRED + reason as u8,
        }
    }

    fn get(&self) -> Life {
        match self.0.load(Ordering::Acquire) {
            0 => Life::Current,
            1 => Life::Superseded,
            number => {
                let reason = number.checked_sub(Self::BARRED).and_then(|at| Reason::ALL.get(usize::from(at)));
                reason.map_or(Life::Revoked, |reason| Life::Barred(*reason))
            }
        }
    }

    fn set(&self, life: Life) {
        self.0.store(Self::number(life), Ordering::Release);
    }
}

/// The right to send one request with one credential.
#[derive(Debug, Clone)]
pub struct Lease {
    /// What to place.
    pub credential: Arc<Credential>,
}

impl Lease {
    /// Whether the credential may still be used. Before it changes for the worse, nobody is woken but by the alarm of
    /// the [`Credentials`](cache::Credentials) that it was leased from.
    pub fn life(&self) -> Life {
        self.credential.life.get()
    }
}

impl View {
    /// The credential for a route of this view, or why there is none.
    pub fn lease(&self, route: &Route) -> Result<Lease, Refusal> {
        let server = &route.binding.server.name;
        match self.slot(route) {
            Some(Slot::Usable(credential)) => Ok(Lease { credential: Arc::clone(credential) }),
            Some(Slot::Unusable(refusal)) => Err(refusal.clone().at(server)),
            None => Err(Refusal::new(Reason::NoCredential).at(server)),
        }
    }

    /// Every server's name with its credential, or why it has none: for metrics and the log.
    pub fn credentials(&self) -> impl Iterator<Item = (&str, Result<&Credential, &Refusal>)> {
        self.routes.iter().filter_map(|route| {
            let state = match self.slot(route)? {
                Slot::Usable(credential) => Ok(&**credential),
                Slot::Unusable(refusal) => Err(refusal),
            };
            Some((route.binding.server.name.as_str(), state))
        })
    }

    fn slot(&self, route: &Route) -> Option<&Slot> {
        self.slots.get(&route.binding.id).filter(|(revision, _)| *revision == route.revision).map(|(_, slot)| slot)
    }
}

impl Credential {
    /// When the value last changed.
    pub fn changed(&self) -> SystemTime {
        self.changed
    }

    /// Seconds from the change at the source until it was usable here, where the source tells.
    pub fn lag(&self) -> Option<f64> {
        self.lag
    }
}
