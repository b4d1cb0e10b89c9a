//! Agents that do not know of the sidecar: behind its proxy, and behind a redirect. The redirect
//! itself is the kernel's and has tests of its own (tests/net); here a connection simply arrives.

mod h2;
mod hostile;
mod passthrough;
mod proxy;
mod redirect;
mod smuggling;
mod upstream;

use serde_json::{Value, json};

use crate::support::dns::Dns;
use crate::support::sidecar::Builder;
use crate::support::{Binding, Capture, Protocol, Sidecar, unique_secret};

/// The bound server's name.
const NAME: &str = "mcp.example.test";
/// Another name at the same address, which nobody bound.
const OTHER: &str = "other.example.test";

/// One upstream bound by name, and a sidecar that captures.
struct Scene {
    capture: Capture,
    sidecar: Sidecar,
    secret: String,
    _dns: Dns,
}

impl Scene {
    async fn start(kind: &str, protocol: Protocol) -> Self {
        Self::with(kind, protocol, json!([]), |binding| binding).await
    }

    async fn with(kind: &str, protocol: Protocol, passthrough: Value, change: impl FnOnce(Binding) -> Binding) -> Self {
        Self::of(kind, Capture::start(protocol).await, passthrough, change).await
    }

    async fn of(kind: &str, capture: Capture, passthrough: Value, change: impl FnOnce(Binding) -> Binding) -> Self {
        let secret = unique_secret();
        let binding = Binding::new("github").trusting(&capture).url(&capture.url_as(NAME, "/mcp")).token(&secret);
        let dns = Dns::start(&[(NAME, "127.0.0.1"), (OTHER, "127.0.0.1")]).await;
        let sidecar = capturing(kind, &dns, passthrough).binding(change(binding)).start().await;
        Self { capture, sidecar, secret, _dns: dns }
    }

    /// Where the agent believes to connect to.
    fn place(&self) -> String {
        format!("{NAME}:{}", self.capture.port())
    }

    /// Asserts that exactly one request came, with exactly the bound credential.
    fn assert_served_once(&self) {
        let requests = self.capture.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].values("authorization"), [format!("Bearer {}", self.secret)]);
        assert_eq!(requests[0].target, "/mcp");
    }
}

fn capturing(kind: &str, dns: &Dns, passthrough: Value) -> Builder {
    let mut capture = json!({"kind": kind, "port": 0, "passthroughHosts": passthrough});
    if kind == "redirect" {
        // Nothing redirects here: the agent connects by itself.
        capture["selfTest"] = json!(false);
    }
    Sidecar::for_research()
        .config("capture", capture)
        .config("public", json!({"directory": "./public"}))
        .config("dial", json!({"allowLoopback": true, "resolvers": [dns.address().to_string()]}))
}
