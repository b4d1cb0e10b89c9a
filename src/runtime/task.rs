//! Tasks with a name. A task that nobody waits for ends with the runtime, never before its owner
//! has let go of it.

use std::future::Future;

use tokio::task::{AbortHandle, JoinHandle};

/// Starts a task.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns, so that every task is found by grep")]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    tokio::spawn(future)
}

/// A task that is aborted when this is dropped.
#[derive(Debug)]
pub struct OwnedTask(AbortHandle);

impl OwnedTask {
    /// Starts a task that lives no longer than its owner.
    pub fn spawn<F>(future: F) -> Self
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        Self(spawn(future).abort_handle())
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
