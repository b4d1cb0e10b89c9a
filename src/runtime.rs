//! Process services that know nothing of MCP (layer 1).

pub mod alarm;
pub mod backoff;
pub mod clock;
pub mod descriptors;
pub mod drain;
pub mod harden;
pub mod patience;
pub mod place;
pub mod random;
pub mod reading;
pub mod resolve;
pub mod task;
