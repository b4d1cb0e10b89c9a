//! How a call waits: with a limit to its patience, and with an ear for what ends it.

use std::task::Context;

use super::Shared;
use crate::core::reason::Reason;
use crate::credential::{Lease, Life};
use crate::runtime::alarm::Listener;
use crate::runtime::drain::{Drain, Phase};
use crate::runtime::patience::Patience;

/// What the calls of one task have in common.
pub(super) struct Waiting {
    pub(super) patience: Patience,
    pub(super) ends: Ends,
}

impl Waiting {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { patience: Patience::default(), ends: Ends::new(shared) }
    }
}

/// Tells whether a call has to end. Whoever asks in a poll is polled again when the answer changes.
pub(super) struct Ends {
    of_credentials: Listener,
    of_shutdown: Listener,
    drain: Drain,
}

impl Ends {
    fn new(shared: &Shared) -> Self {
        Self {
            of_credentials: shared.credentials.alarm().listener(),
            of_shutdown: shared.drain.alarm().listener(),
            drain: shared.drain.clone(),
        }
    }

    /// Why a call with this credential may not wait for its answer any longer, if so.
    pub(super) fn reason(&mut self, cx: &Context<'_>, lease: &Lease) -> Option<Reason> {
        self.listen(cx);
        lease.life().over().or_else(|| self.is_closing().then_some(Reason::Draining))
    }

    /// What has become of this credential.
    pub(super) fn life(&mut self, cx: &Context<'_>, lease: &Lease) -> Life {
        self.listen(cx);
        lease.life()
    }

    /// Whether what runs has to end now.
    pub(super) fn is_closing(&self) -> bool {
        self.drain.has_reached(Phase::Closing)
    }

    fn listen(&mut self, cx: &Context<'_>) {
        self.of_credentials.listen(cx);
        self.of_shutdown.listen(cx);
    }
}
