//! `postern controller` on the command line, as far as no API server is needed.

use std::process::{Command, Output};

/// Runs it with these arguments and what has to be given, in an empty environment.
fn run(arguments: &[&str]) -> Output {
    let required = ["controller", "--image", "i.example/postern:1", "--broker", "https://b.example:8443"];
    let command = [&required, arguments].concat();
    Command::new(env!("CARGO_BIN_EXE_postern")).args(command).env_clear().output().expect("the binary runs")
}

/// What is wrong is told with what is right, before anything is started.
#[test]
fn mistakes_are_told_and_nothing_is_started() {
    let table: [(&[&str], i32, &str); 9] = [
        (&["--resolvers", "10.0.0.10", "--linger", "20s"], 2, "--linger has to be less than --shutdown-grace"),
        (&["--memory-request", "1Gi"], 2, "--memory-request is above the limit of 96Mi; set --memory-limit too"),
        (&["--cpu-limit", "1m"], 2, "--cpu-request is above the limit of 1m; set --cpu-limit too"),
        (&["--cpu-limit", "0"], 2, "expected a quantity above zero such as 10m or 96Mi"),
        (&["--config-map-search", "yes"], 2, "expected off, warn or deny"),
        (&["--cert-file", "chain.pem"], 2, "--key-file <FILE>"),
        (&["--ca-file", "ca.pem"], 2, "--cert-file <FILE>"),
        (&["--broker-ca", "a.pem", "--broker-ca-config-map", "b"], 2, "cannot be used with"),
        (&["--resolvers", "10.0.0.10"], 1, "this is no pod of a cluster"),
    ];
    for (arguments, code, told) in table {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.contains(told)), (Some(code), true), "{arguments:?}: {said}");
        assert!(!said.contains("listening"), "{said}");
    }
}
