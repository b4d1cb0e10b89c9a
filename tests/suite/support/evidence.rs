//! Keeps what the sidecars wrote and what agents were told, for a scan after the run.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

static FILES: AtomicUsize = AtomicUsize::new(0);

fn directory() -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("POSTERN_EVIDENCE")?);
    fs::create_dir_all(&directory).expect("POSTERN_EVIDENCE can be made");
    Some(directory)
}

/// Keeps `content` in a file of its own, named by the running test and `kind`.
pub fn keep(kind: &str, content: &[u8]) {
    let Some(directory) = directory() else { return };
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let test = std::thread::current().name().unwrap_or("unnamed").replace("::", "-");
    let name = format!("{test}-{}-{number}.{kind}", std::process::id());
    fs::write(directory.join(name), content).expect("evidence can be written");
}

/// Adds an upstream secret to the list that the scan looks for.
pub fn secret(value: &str) {
    let Some(directory) = directory() else { return };
    let file = OpenOptions::new().create(true).append(true).open(directory.join("secrets.txt"));
    let line = format!("{value}\n");
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("secrets.txt can be written");
}
