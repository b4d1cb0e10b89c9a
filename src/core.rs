//! The pure core (layer 0): what Postern knows and decides, without doing anything.
//!
//! Nothing below this module opens a socket or a file, reads a clock or the
//! environment, or spawns a task. Time is an argument, input is bytes, output is
//! a value. That is what lets every rule be tested as a table.

#![deny(clippy::indexing_slicing, reason = "these read what a hostile agent or upstream sends")]

pub mod address;
pub mod answer;
pub mod binding;
pub mod capture;
pub mod chunked;
pub mod consent;
pub mod decide;
pub mod eights;
pub mod fields;
pub mod hello;
pub mod http2;
pub mod mask;
pub mod material;
pub mod mcp;
pub mod message;
pub mod name;
pub mod network;
pub mod parent;
pub mod patch;
pub mod path;
pub mod reason;
pub mod request;
pub mod rewrite;
pub mod routes;
pub mod secret;
pub mod session;
pub mod sse;
pub mod tools;
pub mod upstream;
pub mod wire;
