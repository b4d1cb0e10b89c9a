//! What is wrong with a source, said once and not with every reading.

use std::collections::HashSet;

use super::View;

/// What was said last.
#[derive(Default)]
pub(super) struct Told(HashSet<String>);

impl Told {
    /// Logs each thing that is wrong once, and that all is well again: `problems`, and what
    /// `view` cannot lease.
    pub(super) fn tell(&mut self, problems: impl Iterator<Item = String>, view: &View) {
        let unusable = view.credentials().filter_map(|(server, state)| {
            let refusal = state.err()?;
            let detail = refusal.detail.as_deref().unwrap_or_default();
            Some(format!("server {server}: {}: {detail}", refusal.reason))
        });
        let now: HashSet<String> = problems.chain(unusable).collect();
        for problem in now.difference(&self.0) {
            tracing::error!(problem, "a binding cannot be served");
        }
        if now.is_empty() && !self.0.is_empty() {
            tracing::info!("all bindings can be served");
        }
        self.0 = now;
    }
}
