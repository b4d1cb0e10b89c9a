//! What has gone wrong in projects like this one, tried here: a hostile agent or upstream, and the
//! real binary between them. docs/development.md says which attack is covered where.

mod addresses;
mod echoes;
mod login;
mod routing;
mod surroundings;
mod tokens;
mod traces;

use crate::support::{Binding, Capture, Protocol, Sidecar};

/// Every way in which an upstream is spoken to.
const PROTOCOLS: [Protocol; 3] = [Protocol::Plain, Protocol::Tls, Protocol::H2];

/// One upstream of this kind and a sidecar bound to it as `github`.
async fn scene(protocol: Protocol, binding: impl FnOnce(Binding) -> Binding) -> (Capture, Sidecar) {
    let capture = Capture::start(protocol).await;
    let binding = binding(Binding::new("github").to(&capture));
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    (capture, sidecar)
}
