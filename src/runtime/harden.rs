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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::dumpable_behavior;

    use super::*;
    use crate::telemetry::logs::{self, Format, LogSettings};

    const VALUE: &str = "sesame-9f2c";

    /// Runs in a process of its own, which it changes for good.
    #[test]
    #[ignore = "run by the test below"]
    fn a_hardened_process_that_panics() {
        logs::init(LogSettings { level: tracing::level_filters::LevelFilter::TRACE, format: Some(Format::Json) });
        harden();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let refused: Result<(), String> = Err(VALUE.to_owned());
        let panics: [fn(&Result<(), String>); 4] = [
            |_| panic!("{VALUE}"),
            |refused| refused.clone().expect(VALUE),
            |refused| assert_eq!(refused.as_ref().err().map(String::as_str), None, "{VALUE}"),
            |refused| std::panic::panic_any(refused.clone()),
        ];
        for panic in panics {
            let refused = refused.clone();
            assert!(std::thread::spawn(move || panic(&refused)).join().is_err());
        }
    }

    /// A panic tells its place, and not a word of what it was about: that may be a value.
    #[test]
    fn a_panic_tells_its_place_alone() {
        let name = "runtime::harden::tests::a_hardened_process_that_panics";
        let this = std::env::current_exe().unwrap();
        let run = Command::new(this).args(["--exact", name, "--ignored", "--nocapture"]).output().unwrap();
        let (told, rest) = (String::from_utf8_lossy(&run.stderr), String::from_utf8_lossy(&run.stdout));
        assert!(run.status.success() && rest.contains("1 passed"), "{told}{rest}");
        assert_eq!(told.matches("a task panicked").count(), 4, "{told}");
        assert_eq!(told.matches("src/runtime/harden.rs:").count(), 4, "{told}");
        assert!(!told.contains(VALUE) && !rest.contains(VALUE), "{told}{rest}");
    }
}
