//! TLS: settings, and connections on the way of calls and answers (layer 2).

pub mod authority;
pub mod client;
pub mod pod;
pub mod server;
pub mod stream;

mod x509;
