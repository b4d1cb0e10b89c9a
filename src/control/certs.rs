//! The webhook's own certificates.

pub mod rotation;
