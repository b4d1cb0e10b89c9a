//! Where the posts of MCP 2024-11-05 streams go: an opaque path of ours for each open stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::name::ServerName;
use crate::core::routes::Route;
use crate::core::sse::{self, Endpoints, StreamFault};

/// The paths of all open streams.
#[derive(Clone, Default)]
pub(super) struct Messages(Arc<Mutex<HashMap<String, Place>>>);

struct Place {
    server: ServerName,
    target: String,
}

impl Messages {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The upstream target behind a path of ours, if that stream is open.
    pub(super) fn target(&self, path: &str) -> Option<String> {
        let (server, opaque) = sse::parts(path)?;
        self.lock().get(opaque).filter(|place| place.server.as_str() == server).map(|place| place.target.clone())
    }

    /// Watches a stream of `route` that was asked for at `target`.
    pub(super) fn watch(&self, route: &Arc<Route>, target: &str) -> Watch {
        let (messages, route) = (self.clone(), Arc::clone(route));
        Watch { messages, route, target: target.to_owned(), endpoints: Endpoints::default(), opaque: None }
    }
}

/// One stream under watch; its path is valid until this is dropped.
pub(super) struct Watch {
    messages: Messages,
    route: Arc<Route>,
    target: String,
    endpoints: Endpoints,
    opaque: Option<String>,
}

impl Watch {
    /// Takes a chunk, returns what may go on.
    pub(super) fn pass(&mut self, chunk: &[u8]) -> Result<Vec<u8>, StreamFault> {
        let mut out = Vec::with_capacity(chunk.len());
        let Self { messages, route, target, endpoints, opaque } = self;
        endpoints.feed(chunk, &mut out, |data| {
            let server = &route.binding.server;
            let place = Place { server: server.name.clone(), target: sse::resolve(data, &server.url, target)? };
            let fresh = random()?;
            let mut all = messages.lock();
            // A stream has one path: a second event replaces the first.
            if let Some(old) = opaque.replace(fresh.clone()) {
                all.remove(&old);
            }
            all.insert(fresh.clone(), place);
            Some(format!("/{}/{}/{fresh}", server.name, sse::SEGMENT))
        })?;
        Ok(out)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(opaque) = &self.opaque {
            self.messages.lock().remove(opaque);
        }
    }
}

/// 128 bits: whoever knows the path may post to the stream.
fn random() -> Option<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
