//! Writing what the agent reads, into a directory where the agent may write too.
//!
//! Nothing there is trusted: a pipe or a link in a file's place must neither hold the writer up, who
//! also watches the credentials, nor lead it to another file.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::OFlags;

use super::mcp_json;
use crate::core::capture::Capture;
use crate::credential::cache::Credentials;
use crate::proxy::{CaptureSettings, StandIn};
use crate::runtime::clock;
use crate::telemetry::exchange::Telemetry;

/// Keeps what the agents read as the bindings are.
#[derive(Clone)]
pub(super) struct Publisher {
    pub(super) public: Option<PathBuf>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) capture: Arc<CaptureSettings>,
    pub(super) extra_roots: Arc<[u8]>,
    pub(super) stand_in: Arc<OnceLock<StandIn>>,
}

impl Publisher {
    /// Whether the files are as the bindings are.
    pub(super) fn keep(&self, credentials: &Credentials, port: u16) -> bool {
        let written = self.write(credentials, port);
        let written = written.inspect_err(|error| tracing::error!(%error, "mcp.json cannot be written"));
        let ready = self.stand_in(credentials);
        let ready = ready.inspect_err(|error| tracing::error!(%error, "the pod's CA cannot be made and written"));
        written.is_ok() && ready.is_ok()
    }

    pub(super) fn write(&self, credentials: &Credentials, port: u16) -> io::Result<()> {
        let Some(directory) = &self.public else { return Ok(()) };
        publish(directory, "mcp.json", &mcp_json(&credentials.view().routes, port))
    }

    /// Makes the pod's CA for what is bound now, unless there is one, and writes it before it is used.
    pub(super) fn stand_in(&self, credentials: &Credentials) -> io::Result<()> {
        let Some(directory) = &self.public else { return Ok(()) };
        if self.capture.kind == Capture::Endpoint || self.stand_in.get().is_some() {
            return Ok(());
        }
        let stand_in = StandIn::new(&credentials.view().routes, &self.capture, clock::wall());
        let stand_in = stand_in.map_err(io::Error::other)?;
        let authority = stand_in.authority();
        let bundle = authority.bundle(&self.extra_roots).map_err(io::Error::other)?;
        publish(directory, "ca.pem", authority.certificate())?;
        publish(directory, "ca-bundle.pem", &bundle)?;
        // Filled meanwhile by nobody: one thread reads the source.
        let _first = self.stand_in.set(stand_in);
        Ok(())
    }
}

/// Makes `name` in `directory` a file of this text, unless it is one: a reader sees the old file or
/// the new one, whole.
fn publish(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let place = directory.join(name);
    if holds(&place, text) {
        return Ok(());
    }
    // A name that nobody could guess and occupy, made for us alone; then one rename, which replaces
    // whatever is there instead of following it.
    let mut fresh = tempfile::Builder::new().prefix(&format!(".{name}.")).tempfile_in(directory)?;
    fresh.write_all(text.as_bytes())?;
    fresh.as_file().set_permissions(Permissions::from_mode(0o644))?;
    fresh.persist(place).map(drop).map_err(|error| error.error)
}

fn holds(place: &Path, text: &str) -> bool {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let Ok(file) = File::options().read(true).custom_flags(flags).open(place) else { return false };
    // Not a device that never ends either.
    let length = text.len() as u64;
    if !file.metadata().is_ok_and(|now| now.is_file() && now.len() == length) {
        return false;
    }
    let mut now = Vec::with_capacity(text.len());
    file.take(length).read_to_end(&mut now).is_ok() && now == text.as_bytes()
}
