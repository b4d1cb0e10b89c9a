//! How the program is linked: smaller, and so that a sidecar touches few of its pages.
//!
//! A page of the program that is touched brings its neighbours into memory, sixteen at a time, and counts as the
//! sidecar's. What a sidecar runs is a tenth of the program, strewn over all of it by the compiler. It is put in one
//! place here, by `order.txt`, which `build/order` writes from what ran. A name there that is no longer one is passed
//! over, and a function that is not there stands behind: nothing depends on either.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "cargo is heard and told in no other way")]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, io};

/// The functions, those first that a start runs: names as the linker knows them, without what differs between builds.
const ORDER: &str = "build/order.txt";
/// For `build/order`: where it is set, the order is the compiler's.
const UNORDERED: &str = "POSTERN_UNORDERED";

fn main() -> io::Result<()> {
    for file in ["build/link.rs", ORDER] {
        println!("cargo::rerun-if-changed={file}");
    }
    for variable in [UNORDERED, "RUSTC_LINKER"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let gnu = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !gnu || !is("PROFILE", "release") {
        return Ok(());
    }
    if relocations_can_be_packed() {
        argument("-Wl,-z,pack-relative-relocs");
    }
    if is_linked_by_lld() {
        // Functions that are the same, byte by byte, become one.
        argument("-Wl,--icf=all");
        if env::var_os(UNORDERED).is_none() {
            argument(&format!("-T{}", script()?.display()));
        }
    }
    Ok(())
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

/// The compiler's own linker, its default on this one platform. Others know no `--icf`, or put the order elsewhere.
fn is_linked_by_lld() -> bool {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let told = flags.split('\x1f').any(|flag| flag.trim_start_matches("-C").starts_with("link"));
    let chosen = env::var_os("RUSTC_LINKER").is_some() || told;
    env::var("TARGET").is_ok_and(|target| target == "x86_64-unknown-linux-gnu") && !chosen
}

/// Writes the order as the linker takes it. What the compiler deems unlikely has a prefix of its own.
fn script() -> io::Result<PathBuf> {
    let mut script = String::from("SECTIONS {\n  .text : {\n");
    for name in fs::read_to_string(ORDER)?.lines() {
        let _infallible = writeln!(script, "    *(.text.{name} .text.hot.{name} .text.unlikely.{name})");
    }
    script.push_str("  }\n}\nINSERT BEFORE .init;\n");
    let path = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("order.ld");
    fs::write(&path, script)?;
    Ok(path)
}
