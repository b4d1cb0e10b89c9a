//! The properties under libFuzzer. One binary for all: `POSTERN_FUZZ_TARGET` names the target.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "properties/targets.rs"]
mod properties;

static PROPERTY: LazyLock<properties::Property> = LazyLock::new(|| {
    let name = std::env::var("POSTERN_FUZZ_TARGET").expect("POSTERN_FUZZ_TARGET names a target");
    let found = properties::TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("no target {name}")).1
});

fuzz_target!(|data: &[u8]| {
    PROPERTY(data);
});
