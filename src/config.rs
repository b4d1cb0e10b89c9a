//! The configuration file (layer 5): from YAML to each owner's settings, all problems at once.

pub mod broker;
pub mod controller;
pub mod init_net;
mod service;
pub mod sidecar;
