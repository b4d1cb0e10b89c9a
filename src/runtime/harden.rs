//! What keeps a process that holds secrets from being read.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core dumps, no `/proc/<pid>/mem`, `environ` or ptrace for other processes of our user, and
/// no panic message that could quote a value. Call it first; what cannot be had is logged.
pub fn harden() {
    // Also keeps a same-user process in the pod from attaching (ptrace(2), "dumpable").
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the process stays dumpable");
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps cannot be forbidden");
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!("{}:{}", place.file(), place.line()));
        tracing::error!(place, "a task panicked; the exchange it served is lost, all others go on");
    }));
}
