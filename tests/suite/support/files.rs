//! The sidecar's source directory, and the ways in which files under it change.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::documents::Binding;
use super::{evidence, secrets};

static NAMES: AtomicUsize = AtomicUsize::new(0);

/// How a Secret's keys lie in its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Plain files.
    Files,
    /// As the kubelet mounts it: `..data` points at a dated directory, each key into `..data`.
    Kubelet,
}

/// A temporary directory with a configuration, bindings, secrets and CA bundles.
pub struct Files {
    root: TempDir,
    layout: Layout,
    secrets: Mutex<Vec<String>>,
}

impl Files {
    pub fn new(layout: Layout) -> Self {
        let root = TempDir::new().expect("a temporary directory can be made");
        fs::create_dir_all(root.path().join("bindings/secrets")).expect("a fresh directory is writable");
        fs::create_dir_all(root.path().join("bindings/configmaps")).expect("a fresh directory is writable");
        Self { root, layout, secrets: Mutex::default() }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    /// Makes another user able to read all this, and a program that may lie where it cannot be
    /// reached; returns where that is now.
    pub fn handed_to(&self, user: u32, program: &Path) -> PathBuf {
        fs::set_permissions(self.root.path(), Permissions::from_mode(0o755)).expect("the directory is ours");
        let copy = self.path("program");
        // By another process: a file that some child of ours may still have open for writing does not run.
        let copied = Command::new("cp").args([program, &copy]).status().expect("cp is there");
        assert!(copied.success());
        for place in [self.root.path(), &copy] {
            chown(place, Some(user), Some(user)).expect("root may");
        }
        copy
    }

    /// Every upstream secret ever written here.
    pub fn secrets(&self) -> Vec<String> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a file at once, by rename.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let fresh = self.path(&format!(".fresh-{}", NAMES.fetch_add(1, Ordering::Relaxed)));
        fs::write(&fresh, content).expect("the temporary directory is writable");
        fs::rename(fresh, self.path(relative)).expect("the target directory exists");
    }

    /// Writes a binding's document and everything it brings along.
    pub fn add(&self, binding: &Binding) {
        if let Some((name, pem)) = binding.ca() {
            fs::create_dir_all(self.path(&format!("bindings/configmaps/{name}"))).expect("writable");
            self.write(&format!("bindings/configmaps/{name}/ca.crt"), pem);
        }
        let mut names: Vec<&str> = binding.secrets().iter().map(|(name, ..)| name.as_str()).collect();
        names.dedup();
        for name in names {
            let of_name = binding.secrets().iter().filter(|(n, ..)| n == name);
            let keys: Vec<(&str, &[u8])> = of_name.map(|(_, key, value)| (key.as_str(), value.as_slice())).collect();
            match self.layout {
                Layout::Files => keys.iter().for_each(|(key, value)| self.overwrite_secret(name, key, value)),
                Layout::Kubelet => self.swap_secret(name, &keys),
            }
        }
        self.document(binding);
    }

    /// Writes a binding's document alone.
    pub fn document(&self, binding: &Binding) {
        self.write(&format!("bindings/{}.yaml", binding.name()), binding.yaml());
    }

    pub fn remove_document(&self, name: &str) {
        fs::remove_file(self.path(&format!("bindings/{name}.yaml"))).expect("the document is there");
    }

    /// Replaces a key by renaming a whole new file over it.
    pub fn replace_secret(&self, secret: &str, key: &str, value: &[u8]) {
        self.note(value);
        fs::create_dir_all(self.secret(secret)).expect("writable");
        self.write(&format!("bindings/secrets/{secret}/{key}"), value);
    }

    /// Writes into the file that is there.
    pub fn overwrite_secret(&self, secret: &str, key: &str, value: &[u8]) {
        self.note(value);
        fs::create_dir_all(self.secret(secret)).expect("writable");
        fs::write(self.secret(secret).join(key), value).expect("writable");
    }

    /// Updates a Secret as the kubelet does.
    pub fn swap_secret(&self, secret: &str, keys: &[(&str, &[u8])]) {
        keys.iter().for_each(|(_, value)| self.note(value));
        self.swap(&format!("bindings/secrets/{secret}"), keys);
    }

    /// Updates a mounted directory as the kubelet does: a new dated one, then one rename of `..data`.
    pub fn swap(&self, directory: &str, files: &[(&str, &[u8])]) {
        let directory = self.path(directory);
        let dated = format!("..2026_11_24_00_00_00.{}", NAMES.fetch_add(1, Ordering::Relaxed));
        fs::create_dir_all(directory.join(&dated)).expect("writable");
        for (name, content) in files {
            fs::write(directory.join(&dated).join(name), content).expect("writable");
        }
        let old = fs::read_link(directory.join("..data")).ok();
        symlink(&dated, directory.join("..data_tmp")).expect("writable");
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).expect("writable");
        for (name, _) in files {
            if !directory.join(name).is_symlink() {
                symlink(Path::new("..data").join(name), directory.join(name)).expect("writable");
            }
        }
        if let Some(old) = old {
            fs::remove_dir_all(directory.join(old)).expect("the old directory is there");
        }
    }

    pub fn delete_secret_key(&self, secret: &str, key: &str) {
        fs::remove_file(self.secret(secret).join(key)).expect("the key is there");
    }

    pub fn delete_secret(&self, secret: &str) {
        fs::remove_dir_all(self.secret(secret)).expect("the Secret is there");
    }

    fn secret(&self, name: &str) -> PathBuf {
        self.path(&format!("bindings/secrets/{name}"))
    }

    /// Remembers each run of visible characters that is long enough to be searched for.
    fn note(&self, value: &[u8]) {
        let text = String::from_utf8_lossy(value);
        let invisible = |c: char| c != ' ' && !c.is_ascii_graphic();
        for run in text.split(invisible).map(str::trim).filter(|run| run.len() >= secrets::SEARCHABLE) {
            evidence::secret(run);
            secrets::remember(run);
            self.secrets.lock().unwrap_or_else(PoisonError::into_inner).push(run.to_owned());
        }
    }
}
