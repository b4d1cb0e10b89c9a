//! TLS settings (layer 2).

pub mod authority;
pub mod client;
pub mod pod;
pub mod server;

mod x509;
