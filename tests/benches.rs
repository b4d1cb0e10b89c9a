//! The bench rig measures right: its readers, its statistics, its targets, and its load against real sockets. What it
//! measures is no part of this: no test here judges how long something took, but for what has to take at least so long.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed expectation is a failed test")]
#![allow(clippy::disallowed_methods, reason = "tests start tasks and read clocks of their own")]
#![allow(unreachable_pub, reason = "a test crate has no outside")]

/// The rig, whole: a program has no tests of its own.
#[path = "../benches/rig/main.rs"]
#[allow(dead_code, reason = "its main and what only that calls")]
mod rig;

#[path = "benches/figures.rs"]
mod figures;
#[path = "benches/load.rs"]
mod load;
#[path = "benches/messages.rs"]
mod messages;
#[path = "benches/page.rs"]
mod page;
#[path = "benches/plan.rs"]
mod plan;
#[path = "benches/subjects.rs"]
mod subjects;
