//! What the tests in a cluster are built from.

pub mod admission;
pub mod apiserver;
pub mod controller;
pub mod deployed;
pub mod kind;
pub mod pod;
pub mod rights;
pub mod tenant;

pub use apiserver::ApiServer;
