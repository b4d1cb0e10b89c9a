//! Where bytes are while they wait: with their connection as long as they do, else with the thread.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use tokio::io::ReadBuf;

/// Bytes that wait. Nothing is held where nothing waits.
#[derive(Default)]
pub(super) struct Waiting {
    bytes: Vec<u8>,
    from: usize,
}

impl Waiting {
    /// These, as if they had just been received.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, from: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[cfg(test)]
    pub(super) fn holds(&self) -> usize {
        self.bytes.capacity()
    }

    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.from..).unwrap_or_default()
    }

    pub(super) fn rest_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.from..).unwrap_or_default()
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Room for so many more, to be filled.
    pub(super) fn put_room(&mut self, count: usize) -> &mut [u8] {
        let end = self.bytes.len();
        self.bytes.resize(end + count, 0);
        self.bytes.get_mut(end..).unwrap_or_default()
    }

    /// Gives as many as `out` has room for.
    pub(super) fn give(&mut self, out: &mut ReadBuf<'_>) {
        let count = put_what_fits(self.rest(), out);
        self.consume(count);
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.from += count;
        if self.from >= self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Holds these and no others.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        self.from = 0;
        if bytes.is_empty() {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
        }
    }
}

/// Puts what `out` has room for; how many bytes that was.
pub(super) fn put_what_fits(bytes: &[u8], out: &mut ReadBuf<'_>) -> usize {
    let (now, _) = bytes.split_at(bytes.len().min(out.remaining()));
    out.put_slice(now);
    now.len()
}

/// A record's plaintext at most (RFC 8446 section 5.1).
pub(super) const PLAIN: usize = 16 * 1024;
/// A record at most, with its head and the most that encryption may add (RFC 5246 section 6.2.3).
pub(super) const RECORD: usize = 5 + PLAIN + 2048;
/// How much plaintext becomes records at once.
pub(super) const BATCH: usize = 5 * PLAIN;
/// To gather small pieces for one record, and for a batch of records.
const SCRATCH: usize = PLAIN + BATCH / PLAIN * RECORD;

thread_local! {
    static KEPT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Room that is the thread's, not the connection's: between two uses no connection needs any.
pub(super) struct Scratch(Vec<u8>);

impl Scratch {
    /// Takes it for as long as it is held.
    pub(super) fn take() -> Self {
        let mut bytes = KEPT.try_with(Cell::take).unwrap_or_default();
        bytes.resize(SCRATCH, 0);
        Self(bytes)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        let _thread_ends = KEPT.try_with(|kept| kept.set(bytes));
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
