//! The cluster: against a real API server, which tests/cluster/apiserver runs.
//!
//! What it is made of is built by tests/cluster/setup, never by `cargo test`: without it every test here fails and
//! says so.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on has to fail")]
#![expect(clippy::disallowed_methods, reason = "tests read one variable of their own")]
#![expect(unreachable_pub, reason = "one binary: pub means that every test may use it")]

mod broker;
mod check;
mod controller;
mod crd;
mod documented;
#[expect(clippy::print_stdout, reason = "how long things took is worth a line")]
mod journey;
mod policies;
mod server;
mod status;
mod support;
mod tokens;
mod webhook;

/// What tests/suite is built from: the real binary, raw clients and upstreams.
#[path = "../suite/support"]
#[allow(dead_code, reason = "this crate needs some of it")]
#[expect(clippy::print_stderr, clippy::string_slice, reason = "as there")]
mod suite {
    pub mod agent;
    pub mod answer;
    pub mod broker;
    pub mod capture;
    pub mod certificates;
    pub mod documents;
    pub mod evidence;
    pub mod files;
    pub mod message;
    pub mod observed;
    pub mod output;
    pub mod reader;
    pub mod secrets;
    pub mod sidecar;
    pub mod upstream_h1;
    pub mod upstream_h2;
}
