//! What the tests in a cluster are built from.

pub mod admission;
pub mod apiserver;
pub mod kind;
pub mod pod;

pub use apiserver::ApiServer;
