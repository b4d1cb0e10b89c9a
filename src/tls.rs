//! TLS settings (layer 2).

pub mod client;
