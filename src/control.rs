//! The control plane (layer 4): what the controller and the broker do with the API server.

mod access;
pub mod admission;
pub mod broker;
pub mod certificate;
pub mod change;
pub mod condition;
pub mod heard;
pub mod index;
pub mod pace;
pub mod status;
pub mod survey;
pub mod views;
pub mod watch;
pub mod webhook;
