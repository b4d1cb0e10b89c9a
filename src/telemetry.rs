//! What operators see (layer 2): metrics, the access line, diagnostics, probes.

pub mod admin;
pub mod admission;
pub mod exchange;
pub mod logs;
pub mod metrics;
pub mod session;

mod json;
mod stamp;
