//! How the program is linked: smaller.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "cargo is heard and told in no other way")]

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build/link.rs");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let gnu = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !gnu || !is("PROFILE", "release") {
        return;
    }
    if relocations_can_be_packed() {
        argument("-Wl,-z,pack-relative-relocs");
    }
    if is_linked_by_lld() {
        // Functions that are the same, byte by byte, become one.
        argument("-Wl,--icf=all");
    }
}

fn argument(text: &str) {
    println!("cargo::rustc-link-arg-bin=postern={text}");
}

/// The C library applies them; before 2.36 it refuses to.
fn relocations_can_be_packed() -> bool {
    if env::var("HOST").ok() != env::var("TARGET").ok() {
        return false;
    }
    let asked = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let told = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = told.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    version.is_some_and(|minor| minor >= 36)
}

/// The compiler's own linker, its default on this one platform. Others know no `--icf`.
fn is_linked_by_lld() -> bool {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let chosen = env::var_os("RUSTC_LINKER").is_some() || flags.contains("link");
    env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu") && !chosen
}
