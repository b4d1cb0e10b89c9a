//! What the tests are built from: a sidecar, an agent, an upstream, and the patience to await them.

pub mod agent;
pub mod answer;
pub mod babbler;
pub mod broker;
pub mod capture;
pub mod certificates;
pub mod dns;
pub mod documents;
pub mod evidence;
pub mod files;
pub mod frames;
pub mod insider;
pub mod message;
pub mod observed;
pub mod output;
pub mod parent;
pub mod reader;
pub mod refusal;
pub mod secrets;
pub mod sidecar;
pub mod upstream_h1;
pub mod upstream_h2;

pub use agent::Agent;
pub use answer::Answer;
pub use broker::Broker;
pub use capture::{Capture, Protocol};
pub use documents::Binding;
pub use message::{Message, rpc};
pub use observed::{repeated, within};
pub use refusal::assert_refusal;
pub use secrets::{awkward_secret, sentinel, unique_secret};
pub use sidecar::Sidecar;
