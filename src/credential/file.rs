//! The `file` source: binding documents and Secret values in a directory.
//!
//! ```text
//! bindings/*.yaml                     CredentialBinding documents
//! bindings/secrets/<name>/<key>       what secretRef {name, key} leads to
//! bindings/configmaps/<name>/<key>    what configMapRef {name, key} leads to
//! ```
//! The layout below `secrets` is that of mounted Kubernetes volumes, `..data` symlink and all.

mod watch;

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

pub use watch::{FileWatch, OnRead, WatchSettings};

use super::source::{Entry, Missing, Snapshot, Value};
use crate::api::document::{Located, Problem, read_bindings};
use crate::api::shape::Fault;
use crate::core::binding::Binding;
use crate::core::material::{self, Unusable};
use crate::core::name::{CallerKey, DataKey, DataRef, ObjectName};
use crate::core::routes::overlap;
use crate::core::secret::{MAX_VALUE_BYTES, SecretBytes};

/// The largest document or CA bundle read.
const MAX_DOCUMENT_BYTES: u64 = 1 << 20;

/// What a directory holds.
#[derive(Default)]
pub struct Loaded {
    /// The good bindings, in the order of their files' names.
    pub bindings: Vec<Located>,
    /// What is wrong with the rest.
    pub problems: Vec<Problem>,
    /// Which of the good ones cannot be served together. In files the order of creation is
    /// unknown: at start neither wins, later the one that is served already does.
    pub clashes: Vec<Problem>,
}

impl Loaded {
    /// Everything that is wrong.
    pub fn all_problems(&self) -> Vec<Problem> {
        self.problems.iter().chain(&self.clashes).cloned().collect()
    }
}

/// Reads every binding document directly below `directory`.
pub fn load_bindings(directory: &Path) -> Loaded {
    let mut loaded = Loaded::default();
    match document_files(directory) {
        Ok(files) => files.iter().for_each(|file| load_file(file, &mut loaded)),
        Err(error) => loaded.problems.push(unreadable(directory, "a readable directory", &error)),
    }
    loaded.clashes = clashes(&loaded.bindings);
    loaded
}

/// Reads one file of binding documents.
pub fn load_file(file: &Path, loaded: &mut Loaded) {
    match read_capped(file, MAX_DOCUMENT_BYTES).and_then(|bytes| String::from_utf8(bytes).map_err(|_| not_utf8())) {
        Ok(text) => {
            let (bindings, problems) = read_bindings(&file.display().to_string(), &text);
            loaded.bindings.extend(bindings);
            loaded.problems.extend(problems);
        }
        Err(error) => loaded.problems.push(unreadable(file, "a readable text file of at most 1 MiB", &error)),
    }
}

fn not_utf8() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not UTF-8")
}

fn unreadable(path: &Path, expected: &str, error: &io::Error) -> Problem {
    Problem { file: path.display().to_string(), line: None, fault: Fault::new("", format!("{expected} ({error})")) }
}

fn document_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if yaml && path.is_file() {
            files.insert(path);
        }
    }
    Ok(files.into_iter().collect())
}

/// Bindings that give one service account the same server twice, or have one name.
fn clashes(bindings: &[Located]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (at, later) in bindings.iter().enumerate() {
        for earlier in bindings.iter().take(at) {
            let (a, b) = (&earlier.binding, &later.binding);
            let shared = a.service_accounts.iter().any(|account| b.service_accounts.contains(account));
            let meet = a.id == b.id || (shared && a.id.namespace == b.id.namespace);
            if let Some(over) = overlap(a, b).filter(|_| meet) {
                let expected = format!(
                    "something that binding {} ({}:{}) does not have already for the same service account",
                    a.id, earlier.file, earlier.line
                );
                problems.push(later.problem(over.path(), expected));
            }
        }
    }
    problems
}

/// Whether a binding serves a caller.
pub fn serves(binding: &Binding, caller: &CallerKey) -> bool {
    binding.id.namespace == caller.namespace && binding.service_accounts.contains(&caller.service_account)
}

/// Reads the values that a caller's bindings refer to.
pub fn snapshot(directory: &Path, bindings: &[Located], caller: &CallerKey) -> Snapshot {
    let entry = |located: &Located| {
        let binding = Arc::new(located.binding.clone());
        let value = read_value(directory, &binding);
        let ca_bundle = binding.server.ca_bundle.as_ref().map(|reference| read_bundle(directory, reference));
        Entry { binding, value, ca_bundle }
    };
    Snapshot { entries: bindings.iter().filter(|located| serves(&located.binding, caller)).map(entry).collect() }
}

fn read_value(directory: &Path, binding: &Binding) -> Result<Value, Missing> {
    let name = binding.credential.secret_name();
    let mut changed = None;
    let read = |key: &DataKey| {
        let (bytes, at) = read_key(directory, name, key)?;
        changed = changed.max(at);
        Ok(SecretBytes::new(bytes))
    };
    let secret = material::value(&binding.credential.material, read).map_err(|unusable| match unusable {
        Unusable::Source(missing) => missing,
        Unusable::Invalid(key, fault) => Missing::Invalid(format!("Secret {name}/{key}"), fault),
    })?;
    let version =
        changed.and_then(|at| jiff::Timestamp::try_from(at).ok()).map(|at| at.to_string()).unwrap_or_default();
    Ok(Value { secret: Arc::new(secret), version, changed })
}

fn read_key(directory: &Path, name: &ObjectName, key: &DataKey) -> Result<(Vec<u8>, Option<SystemTime>), Missing> {
    let path = directory.join("secrets").join(name.as_str()).join(key.as_str());
    let named = || format!("Secret {name}/{key} ({})", path.display());
    let bytes = read_capped(&path, MAX_VALUE_BYTES as u64 + 1).map_err(|error| missing(named(), &error))?;
    let changed = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
    Ok((bytes, changed))
}

fn read_bundle(directory: &Path, reference: &DataRef) -> Result<Arc<[u8]>, Missing> {
    let path = directory.join("configmaps").join(reference.name.as_str()).join(reference.key.as_str());
    let named = format!("ConfigMap {reference} ({})", path.display());
    read_capped(&path, MAX_DOCUMENT_BYTES).map(Arc::from).map_err(|error| missing(named, &error))
}

fn missing(name: String, error: &io::Error) -> Missing {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Missing::Absent(name),
        _ => Missing::Unreadable(name, error.kind().to_string()),
    }
}

/// Reads a regular file up to `cap` bytes (no pipe that would block, no device).
fn read_capped(path: &Path, cap: u64) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(cap).read_to_end(&mut bytes)?;
    Ok(bytes)
}
