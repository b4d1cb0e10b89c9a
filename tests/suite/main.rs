//! The suite: the real binary between a raw agent and a raw upstream, over real sockets.
//!
//! One module per promise. Nothing here is mocked inside the product; the fakes are at the
//! sockets, and they keep every byte. `POSTERN_EVIDENCE=<dir>` keeps what the sidecars wrote.

#![expect(clippy::print_stderr, reason = "a failed test shows what its sidecar said")]
#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot go on has to fail")]
#![expect(clippy::disallowed_methods, reason = "tests start tasks, read clocks and one variable of their own")]
#![expect(clippy::string_slice, reason = "what is cut here is ASCII")]
#![expect(unreachable_pub, reason = "one binary: pub means that every test may use it")]

mod attacks;
mod broker;
mod captures;
mod configs;
mod controller;
mod demo;
mod drain;
mod echo;
mod inject;
mod instruments;
mod isolation;
mod legacy;
mod observe;
mod parent;
mod refusals;
mod rotation;
mod streams;
mod support;
mod wire;
