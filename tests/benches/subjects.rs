//! Who is measured, and how each is set up.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::figures::workload_of;
use crate::rig::subject::{ALL, Job, Program, Subject, programs, version_in};
use crate::rig::upstream::INJECTED;
use crate::rig::workload;

#[test]
fn what_setup_prints_is_read_by_the_names_of_the_programs() {
    let told = "nginx\t/a/nginx\t/a/lib:\nmitmdump\t/b/mitmdump\t\nelse\t/c\t\nhaproxy\n";
    let found = programs(told);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [Subject::Nginx, Subject::Mitmproxy]);
    assert_eq!(found[&Subject::Nginx].path, PathBuf::from("/a/nginx"));
    assert_eq!(found[&Subject::Nginx].libraries, "/a/lib:");
}

#[test]
fn a_version_is_found_among_paths_hashes_and_dates() {
    let cases = [
        ("nginx version: nginx/1.22.1\n", "1.22.1"),
        ("HAProxy version 2.6.12-1+deb12u4 2025/04/09 - https://haproxy.org/\n", "2.6.12-1+deb12u4"),
        ("\n/cache/envoy-1/envoy  version: ab12.cd/1.40.0/Clean/RELEASE/BoringSSL\n", "1.40.0"),
        ("Mitmproxy: 11.0.2\nPython:    3.11.7\n", "11.0.2"),
        ("postern 0.1.0\n", "0.1.0"),
        ("no version", "unknown"),
    ];
    for (text, version) in cases {
        assert_eq!(version_in(text), version, "{text}");
    }
}

/// A template's blank that nobody filled in. `@WORDS@` is how their comments call them.
fn blank(text: &str) -> Option<&str> {
    let is_name = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    text.split('@').skip(1).filter(is_name).find(|word| *word != "WORDS")
}

#[test]
fn every_peer_is_given_the_credential_and_the_authority_and_no_blank_stays() {
    let program = Program { path: "/program".into(), libraries: String::new() };
    for subject in ALL.into_iter().filter(|subject| !subject.is_bare()) {
        for workload in workload::all().iter().filter(|workload| subject.unfit(workload).is_none()) {
            let directory = TempDir::new().expect("a temporary directory can be made");
            let job = Job {
                workload,
                directory: directory.path(),
                listen: 20_001,
                upstream: 20_002,
                ca_pem: "the authority",
                program: Some(&program),
            };
            let command = job.command(subject).expect("there is something to start");
            assert_eq!(command[0], "/program", "{}", subject.name());
            let mut all = command.join(" ");
            let mut folders = vec![directory.path().to_owned()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                    if entry.path().is_dir() {
                        folders.push(entry.path());
                    } else {
                        all += &fs::read_to_string(entry.path()).unwrap();
                    }
                }
            }
            assert_eq!(blank(&all), None, "{} in {}", subject.name(), workload.name);
            for needed in ["20001", "20002", "the authority", INJECTED.trim_start_matches("Bearer ")] {
                let reverse = workload.agent == workload::Agent::Plain;
                assert!(
                    all.contains(needed) || needed == "20002" && !reverse,
                    "{} in {}: no {needed}",
                    subject.name(),
                    workload.name
                );
            }
        }
    }
}

#[test]
fn who_cannot_do_a_workload_says_why_and_postern_can_do_all() {
    for workload in workload::all() {
        assert_eq!(workload.cast.first(), Some(&Subject::Postern), "{}", workload.name);
        assert_eq!(Subject::Postern.unfit(&workload), None, "{}", workload.name);
    }
    assert!(Subject::Nginx.unfit(&workload_of("small-h2")).is_some_and(|why| why.contains("HTTP/2")));
    assert!(Subject::Envoy.unfit(&workload_of("agent-tls")).is_some());
    assert!(Subject::Haproxy.unfit(&workload_of("broker-1000")).is_some());
}
