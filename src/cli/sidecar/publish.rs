//! Writing what the agent reads, into a directory where the agent may write too.
//!
//! Nothing there is trusted: a pipe or a link in a file's place must neither hold the writer up, who
//! also watches the credentials, nor lead it to another file.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// Makes `name` in `directory` a file of this text, unless it is one: a reader sees the old file or
/// the new one, whole.
pub(super) fn publish(directory: &Path, name: &str, text: &str) -> io::Result<()> {
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
