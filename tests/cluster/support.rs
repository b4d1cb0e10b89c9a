//! What the tests in a cluster are built from.

pub mod apiserver;

pub use apiserver::ApiServer;
