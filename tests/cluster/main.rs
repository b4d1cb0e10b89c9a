//! The cluster: against a real API server, which tests/cluster/apiserver runs.
//!
//! What it is made of is built by tests/cluster/setup, never by `cargo test`: without it every test here fails and
//! says so.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on has to fail")]
#![expect(clippy::disallowed_methods, reason = "tests read one variable of their own")]
#![expect(unreachable_pub, reason = "one binary: pub means that every test may use it")]

mod crd;
mod policies;
mod server;
mod support;
mod tokens;
mod webhook;
