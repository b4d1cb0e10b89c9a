//! The house rules that no compiler checks: who may name whom, what the core may touch, how files
//! are named, how long they get, and that nothing in the tree knows one machine.
//!
//! The sources are read as tokens, so comments and strings never count, and a nested `use` counts
//! as each of the paths in it. Whatever `#[cfg(test)]` stands before is exempt, as are `*_tests.rs`.
#![allow(clippy::expect_used, clippy::panic, clippy::string_slice, reason = "a test's helpers fail the test")]
#![allow(unreachable_pub, reason = "a test crate has no outside")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use rust::NamedPath;

#[path = "architecture/rust.rs"]
mod rust;

/// Lowest first. A module names modules of lower layers only, never a sibling of its own layer.
/// `main` and `lib` stand above all.
const LAYERS: &[&[&str]] = &[
    &["core"],
    &["runtime", "api"],
    &["telemetry", "tls"],
    &["credential", "nft"],
    &["proxy", "control"],
    &["config"],
    &["cli"],
    &["main", "lib"],
];

/// The dependencies that the core may name: they compute. Any other one could act.
const CORE_CRATES: &[&str] = &[
    "aws_lc_rs",
    "base64",
    "bytes",
    "foldhash",
    "http",
    "httparse",
    "ipnet",
    "memchr",
    "percent_encoding",
    "serde",
    "serde_json",
    "simdutf8",
    "subtle",
    "thiserror",
    "zeroize",
];

/// What of std the core may not name, with everything below it.
const CORE_STD: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
];

/// Partly forbidden modules: their members are named one by one, so that the rule above sees them.
const CORE_STD_PARTS: &[&str] = &["std", "std::net", "std::time"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["common", "helper", "helpers", "misc", "prelude", "types", "util", "utils"];

const FILE_CAP: usize = 500;

#[test]
fn the_sources_keep_the_house_rules() {
    let dependencies = dependencies(&read(&root().join("Cargo.toml")));
    assert!(dependencies.contains(&"tokio".to_owned()), "Cargo.toml was understood: {dependencies:?}");
    let files: Vec<_> = files_below(&root().join("src")).into_iter().filter(|file| has_extension(file, "rs")).collect();
    assert!(files.len() > 20, "src was found");
    let found = files.iter().flat_map(|file| check(&relative(file), &read(file), &dependencies));
    assert_none(found.collect());
}

#[test]
fn nothing_names_a_machine_or_a_registry() {
    let files = files_below(&root());
    assert!(files.len() > 50, "the tree was found");
    // A lock file names its index, and cannot do otherwise.
    let files =
        files.iter().filter(|file| !relative(file).ends_with(".lock") && !relative(file).ends_with("-lock.json"));
    assert_none(files.flat_map(|file| check_text(&relative(file), &read(file))).collect());
}

fn assert_none(violations: Vec<String>) {
    assert!(violations.is_empty(), "{} against the house rules:\n{}", violations.len(), violations.join("\n"));
}

// ---- the tree ----

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).expect("a file of the tree").display().to_string()
}

fn read(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension() == Some(OsStr::new(extension))
}

/// Every file, but for what tools leave behind and what is hidden.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let skipped =
            name.starts_with('.') && name != ".ci" || ["target", "node_modules", "__pycache__"].contains(&&*name);
        if path.is_dir() && !skipped {
            files.extend(files_below(&path));
        } else if path.is_file() && name != ".git" {
            // In a worktree `.git` is a file that names the machine's own path.
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The crate names under `[dependencies]` and `[dev-dependencies]`.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if let (true, Some((name, _))) = (inside, line.split_once('='))
            && !name.starts_with('#')
        {
            names.push(name.trim().replace('-', "_"));
        }
    }
    names
}

// ---- the rules ----

/// What is wrong with one source file, each as `file:line: rule`.
fn check(file: &str, source: &str, dependencies: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut report = |line: usize, rule: String| found.push(format!("{file}:{line}: {rule}"));

    if !source.starts_with("//!") {
        report(1, "a file begins with a `//!` line that says what it is for".into());
    }
    if file.ends_with("/mod.rs") {
        report(1, "no `mod.rs`: a module's file has the module's name".into());
    }
    if file.ends_with("_tests.rs") {
        return found;
    }
    let module: Vec<&str> = file.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
    let Some(layer) = layer(module[0]) else {
        report(1, format!("`{}` stands in no layer; add it to LAYERS", module[0]));
        return found;
    };

    let (tokens, test_lines) = rust::without_tests(rust::tokens(source));
    let lines = source.lines().count() - test_lines;
    if lines > FILE_CAP {
        report(FILE_CAP, format!("{lines} lines without tests; the cap is {FILE_CAP}"));
    }
    if let Some(name) = module.iter().find(|name| EMPTY_NAMES.contains(name)) {
        report(1, format!("`{name}` says nothing about what is inside"));
    }
    for pair in tokens.windows(2) {
        if pair[0].text == "mod" && EMPTY_NAMES.contains(&&*pair[1].text) {
            report(pair[1].line, format!("`{}` says nothing about what is inside", pair[1].text));
        }
    }
    for path in rust::paths(&tokens) {
        let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
        if let Some(rule) = layer_rule(&module, layer, &path, &segments) {
            report(path.line, rule);
        }
        if module[0] == "core"
            && let Some(rule) = core_rule(&path, &segments, dependencies)
        {
            report(path.line, rule);
        }
    }
    found.dedup();
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&module))
}

fn layer_rule(module: &[&str], layer_here: usize, path: &NamedPath, segments: &[&str]) -> Option<String> {
    let here = module[0];
    let rule = match segments {
        ["super", "super", ..] => "`super::super`: name it from `crate`".into(),
        ["super", ..] if module.len() == 1 => "`super` leaves the module; name it from `crate`".into(),
        ["crate"] | ["crate", "*"] => "names the crate root as a whole; name the module".into(),
        ["crate", there, ..] if *there != here => match layer(there) {
            None => format!("`crate::{there}` stands in no layer"),
            Some(layer) if layer > layer_here => format!("`{here}` names `{there}`, which is above it"),
            Some(layer) if layer == layer_here => format!("`{here}` names its sibling `{there}`"),
            Some(_) if path.exported => format!("`{here}` re-exports what is `{there}`'s"),
            Some(_) => return None,
        },
        _ if path.exported && layer_here + 1 == LAYERS.len() => format!("`{here}` re-exports; name the module"),
        _ => return None,
    };
    Some(rule)
}

fn core_rule(path: &NamedPath, segments: &[&str], dependencies: &[String]) -> Option<String> {
    let first = segments[0];
    let named = segments.join("::");
    let is_crate = (segments.len() > 1 || path.used) && dependencies.iter().any(|name| name == first);
    let is_forbidden = |forbidden: &&&str| named == **forbidden || named.starts_with(&format!("{forbidden}::"));
    if is_crate && !CORE_CRATES.contains(&first) {
        Some(format!("the core is pure: it may not name `{first}`"))
    } else if let Some(forbidden) = CORE_STD.iter().find(is_forbidden) {
        Some(format!("the core is pure: it may not name `{forbidden}`"))
    } else if path.used && CORE_STD_PARTS.contains(&named.trim_end_matches("::*")) {
        Some(format!("the core names what it needs of `{named}` one by one"))
    } else {
        None
    }
}

/// The rules for text of any kind.
fn check_text(file: &str, text: &str) -> Vec<String> {
    // In two parts, or this file would break its own rule.
    let directories = ["work", "root", "opt"].map(|name| format!("/{name}/"));
    let registries = [
        ("crates", "io"),
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("proxy.golang", "org"),
        ("sum.golang", "org"),
        ("maven", "org"),
        ("maven.apache", "org"),
        ("deb.debian", "org"),
        ("security.debian", "org"),
    ]
    .map(|(name, domain)| format!("{name}.{domain}"));

    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let directory = directories
            .iter()
            .find(|directory| line.match_indices(directory.as_str()).any(|(at, _)| begins_a_path(&line[..at])));
        if let Some(directory) = directory {
            found.push(format!("{file}:{}: `{directory}` is a path of one machine", number + 1));
        }
        if let Some(registry) = registries.iter().find(|registry| line.contains(registry.as_str())) {
            found.push(format!("{file}:{}: names the package registry {registry}", number + 1));
        }
    }
    found
}

/// Whether a slash after `before` is a root, not a separator: `example.com/opt/x` and `$dir/opt/x` are no machine paths.
fn begins_a_path(before: &str) -> bool {
    !before.ends_with(|last: char| last.is_alphanumeric() || "_.$})/-".contains(last))
}

// ---- the checker itself ----

/// The violations in a file of one `//!` line and `body`.
fn violations(file: &str, body: &str) -> Vec<String> {
    let dependencies = ["http", "tokio", "hyper", "hyper_util", "kube", "tracing", "jiff"].map(str::to_owned);
    check(file, &format!("//! A.\n{body}"), &dependencies)
}

#[test]
fn the_checker_catches_what_it_should() {
    let long = "const A: u8 = 0;\n".repeat(FILE_CAP);
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str)] = &[
        ("src/core/a.rs", "use crate::proxy::listener;", "2: `core` names `proxy`, which is above it"),
        ("src/proxy/a.rs", "\nuse crate::control::index::Index;", "3: `proxy` names its sibling `control`"),
        ("src/tls.rs", "use crate::{core::name, telemetry::{logs, metrics}};", "2: `tls` names its sibling `telemetry`"),
        ("src/tls/a.rs", "use crate::{\n    core,\n    {cli},\n};", "4: `tls` names `cli`, which is above it"),
        ("src/tls/a.rs", "fn f() { crate::proxy::start(); }", "2: `tls` names `proxy`"),
        ("src/tls/a.rs", "pub(in crate::tls) fn f(_: crate::proxy::A) {}", "2: `tls` names `proxy`"),
        ("src/tls/a.rs", "struct A(pub (crate::proxy::A, u8));", "2: `tls` names `proxy`"),
        ("src/tls/a.rs", "fn f() -> A { A { ..crate::proxy::A } }", "2: `tls` names `proxy`"),
        ("src/tls/a.rs", "#[cfg(test)]\nmod t {}\nuse crate::proxy::A;", "4: `tls` names `proxy`"),
        ("src/tls/a.rs", "#[cfg(feature = \"x\")]\nuse crate::proxy::A;", "3: `tls` names `proxy`"),
        ("src/tls/a.rs", "use crate::nowhere;", "2: `crate::nowhere` stands in no layer"),
        ("src/tls/a.rs", "use crate as it;", "2: names the crate root"),
        ("src/tls/a.rs", "use crate::{self as it};", "2: names the crate root"),
        ("src/tls/a.rs", "use crate::*;", "2: names the crate root"),
        ("src/tls/a.rs", "use super::super::core;", "2: `super::super`"),
        ("src/tls.rs", "use super::proxy;", "2: `super` leaves the module"),
        ("src/tls/a.rs", "pub use crate::core::name::Name;", "2: `tls` re-exports what is `core`'s"),
        ("src/tls/a.rs", "pub(crate) use crate::core::name::Name;", "2: `tls` re-exports what is `core`'s"),
        ("src/lib.rs", "pub mod cli;\npub use cli::run;", "3: `lib` re-exports"),
        ("src/other/a.rs", "", "1: `other` stands in no layer"),
        ("src/core/a.rs", "async fn f() { tokio::spawn(g()); }", "2: the core is pure: it may not name `tokio`"),
        ("src/core/a.rs", "use tokio as it;", "2: the core is pure: it may not name `tokio`"),
        ("src/core/a.rs", "use ::hyper_util::rt;", "2: the core is pure: it may not name `hyper_util`"),
        ("src/core/a.rs", "fn f() { tracing::info!(\"x\") }", "2: the core is pure: it may not name `tracing`"),
        ("src/core/a.rs", "use jiff::Timestamp;", "2: the core is pure: it may not name `jiff`"),
        ("src/core/a.rs", "use std::{fmt, fs};", "2: the core is pure: it may not name `std::fs`"),
        ("src/core/a.rs", "use std::net::{IpAddr, TcpStream};", "2: the core is pure: it may not name `std::net::TcpStream`"),
        ("src/core/a.rs", "fn f() { let _ = std::time::Instant::now(); }", "2: the core is pure: it may not name `std::time::Instant`"),
        ("src/core/a.rs", "use std::time::{self, Duration};", "2: the core names what it needs of `std::time`"),
        ("src/core/a.rs", "use std::net::*;", "2: the core names what it needs of `std::net::*`"),
        ("src/core/a.rs", "use std as s;", "2: the core names what it needs of `std`"),
        ("src/proxy/mod.rs", "", "1: no `mod.rs`"),
        ("src/proxy/utils.rs", "", "1: `utils` says nothing"),
        ("src/proxy.rs", "pub mod helpers;", "2: `helpers` says nothing"),
        ("src/proxy/a.rs", &long, "500: 501 lines without tests"),
    ];
    for (file, body, expected) in cases {
        let found = violations(file, body);
        let is_it = found.len() == 1 && found[0].starts_with(&format!("{file}:{expected}"));
        assert!(is_it, "{file}: {body}\nfound {found:#?}\nnot {expected}");
    }
    for file in ["src/proxy/a.rs", "src/proxy/a_tests.rs"] {
        assert_eq!(check(file, "// A.\n", &[]).len(), 1, "{file} without a `//!` line");
    }
}

#[test]
fn the_checker_lets_pass_what_is_right() {
    let tested = format!("#[cfg(test)]\nmod t {{\n{}}}\n", "const A: [u8; 1] = [0];\n".repeat(2 * FILE_CAP));
    let cases = [
        ("src/proxy/a.rs", "use crate::core::name;\nuse crate::proxy::b;\nuse super::b;"),
        ("src/tls/a.rs", "pub(crate) fn f() {}\npub(in crate::tls) fn g() {}"),
        (
            "src/tls/a.rs",
            "/// [`x`](crate::proxy) /* crate::cli */\nfn f<'a>(_: &'a str) { f(\"crate::proxy \\\" \"); }",
        ),
        ("src/tls/a.rs", "/* crate::cli /* nested */ crate::cli */\nconst A: &str = r#\"\" crate::cli \"#;"),
        ("src/tls/a.rs", "const A: [char; 3] = ['\"', '\\'', '\\\\'];\nconst B: &str = \"crate::cli\";"),
        ("src/tls/a.rs", "#[cfg(test)]\n#[path = \"a_tests.rs\"]\nmod tests;"),
        ("src/tls/a.rs", "#[cfg(test)]\nmod tests {\n    use super::super::x;\n    use crate::cli;\n}"),
        ("src/tls.rs", "pub use client::connect;\nmod client;"),
        ("src/tls/a_tests.rs", "use super::super::x;"),
        (
            "src/core/a.rs",
            "use http::HeaderName;\nuse std::{net::IpAddr, time::Duration};\nfn f(tokio: u8) -> u8 { tokio }",
        ),
        ("src/core/a.rs", "fn f(_: std::net::IpAddr, _: std::time::Duration) {}"),
        ("src/main.rs", "fn main() -> ExitCode { postern::cli::run() }"),
        ("src/proxy/a.rs", tested.as_str()),
    ];
    for (file, body) in cases {
        assert_eq!(violations(file, body), Vec::<String>::new(), "{file}: {body}");
    }
}

#[test]
fn the_text_check_catches_what_it_should() {
    for text in
        ["see /@work@/x", "(/@root@/.cache)", "cd /@opt@/x", "a\nb = \"/@work@/main\"", "https://static.crates@.io/x"]
    {
        let text = text.replace('@', "");
        assert_eq!(check_text("a.md", &text).len(), 1, "{text}");
    }
    for text in ["https://example.com/opt/x", "$HOME/work/x", "${dir}/root/x", "./work/x", "rooted", "a crate"] {
        assert_eq!(check_text("a.md", text), Vec::<String>::new(), "{text}");
    }
}
