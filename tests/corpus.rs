//! Every input in tests/fuzz/corpus keeps the property of its target, and meets the fate that its
//! file name begins with: the seeds of the fuzzer, and what it has broken something with before.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a broken property is a failed test")]
#![allow(clippy::string_slice, reason = "a wrong cut is a failed test")]
#![allow(unreachable_pub, reason = "a test crate has no outside")]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "fuzz/properties/targets.rs"]
mod properties;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus")
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_input_keeps_its_property() {
    let mut broken = Vec::new();
    for (target, property) in properties::TARGETS {
        let directory = corpus().join(target);
        for name in names(&directory) {
            let input = fs::read(directory.join(&name)).unwrap();
            match catch_unwind(|| property(&input)) {
                Ok(fate) if name.starts_with(&format!("{fate}-")) => {}
                Ok(fate) => broken.push(format!("{target}/{name}: {fate}")),
                // Why was told by the panic itself.
                Err(_) => broken.push(format!("{target}/{name}: broke its property, see above")),
            }
        }
    }
    assert!(broken.is_empty(), "{} inputs of the corpus:\n{}", broken.len(), broken.join("\n"));
}

/// A directory that no target knows would never be run.
#[test]
fn every_target_has_its_inputs() {
    let targets: BTreeSet<String> = properties::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&corpus()), targets);
    for target in targets {
        let count = names(&corpus().join(&target)).len();
        assert!(count >= 8, "{target} has {count} inputs");
    }
}
