//! What is wrong with a source, said once and not with every reading.

use std::collections::HashSet;

use super::View;

/// What was said last.
#[derive(Default)]
pub(super) struct Told {
    wrong: HashSet<String>,
    /// The servers whose credentials are suspiciously short.
    short: HashSet<String>,
}

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
        for problem in now.difference(&self.wrong) {
            tracing::error!(problem, "a binding cannot be served");
        }
        if now.is_empty() && !self.wrong.is_empty() {
            tracing::info!("all bindings can be served");
        }
        self.wrong = now;
        let short = view.credentials().filter(|(_, state)| state.is_ok_and(|credential| credential.short));
        let short: HashSet<String> = short.map(|(server, _)| server.to_owned()).collect();
        for server in short.difference(&self.short) {
            tracing::warn!(server, "the credential has less than 8 characters: masking it will change ordinary text");
        }
        self.short = short;
    }
}
