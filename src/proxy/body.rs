//! A request's body, read whole.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::decide::Refusal;
use crate::core::reason::Reason;

/// A body and its share of the budget, given back together when the last of those who hold it has gone.
#[derive(Clone, Default)]
pub(super) struct RequestBody(Option<Arc<Held>>);

struct Held {
    bytes: Vec<u8>,
    from: usize,
    _share: Share,
}

impl RequestBody {
    /// What stands behind `from`.
    pub(super) fn new(bytes: Vec<u8>, from: usize, share: Share) -> Self {
        Self(Some(Arc::new(Held { bytes, from, _share: share })))
    }

    /// The same for somebody who keeps it for as long as he needs it.
    pub(super) fn to_bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone())
    }
}

impl Deref for RequestBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_ref().and_then(|held| held.bytes.get(held.from..)).unwrap_or_default()
    }
}

impl AsRef<[u8]> for RequestBody {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A share of the budget for bodies.
#[derive(Default)]
pub(super) struct Share(Option<OwnedSemaphorePermit>);

impl Share {
    /// Of so many bytes.
    pub(super) fn reserve(budget: &Arc<Semaphore>, bytes: usize) -> Result<Self, Refusal> {
        let mut share = Self::default();
        share.grow(budget, bytes)?;
        Ok(share)
    }

    /// So many more.
    pub(super) fn grow(&mut self, budget: &Arc<Semaphore>, bytes: usize) -> Result<(), Refusal> {
        let overloaded = || Refusal::because(Reason::Overloaded, "limits.bodyBudgetBytes are in use");
        let bytes = u32::try_from(bytes).map_err(|_| overloaded())?;
        let more = Arc::clone(budget).try_acquire_many_owned(bytes).map_err(|_| overloaded())?;
        match &mut self.0 {
            Some(share) => share.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// How many bytes it is good for.
    pub(super) fn size(&self) -> usize {
        self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }
}
