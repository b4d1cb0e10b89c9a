//! Every reason can be provoked, says what it owes, is counted once, and reaches no upstream.

mod credentials;
mod limits;
mod shapes;
mod smuggling;
mod upstreams;

use std::collections::BTreeSet;

use crate::support::refusal::{CONTRACT, Form, Refusal};
use crate::support::{Binding, Capture, Protocol, Sidecar, unique_secret};

/// An upstream that must stay untouched, and a sidecar with a binding `github` to it.
async fn scene() -> (Capture, Sidecar) {
    let capture = Capture::start(Protocol::Tls).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).start().await;
    (capture, sidecar)
}

/// A refusal as text, with no server known.
fn text(reason: &str) -> Refusal<'_> {
    Refusal { reason, server: "", form: Form::Text }
}

/// A refusal at `github` as a JSON-RPC error.
fn rpc<'a>(reason: &'a str, id: &'a str) -> Refusal<'a> {
    Refusal { reason, server: "github", form: Form::Rpc(id) }
}

/// The list that this suite holds the product to is the product's own list, whole:
/// a reason that the code gains must be added here, and provoked.
#[test]
fn the_suite_knows_every_reason_of_the_product() {
    let golden = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/core/reason.golden"));
    let golden = golden.expect("the pinned list is in the source tree");
    let ours: BTreeSet<String> =
        CONTRACT.iter().map(|(name, status, code)| format!("{name} {status} {code}")).collect();
    let theirs: BTreeSet<String> = golden.lines().map(str::to_owned).collect();
    assert_eq!(ours, theirs);
}
