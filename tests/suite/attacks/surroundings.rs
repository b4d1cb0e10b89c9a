//! What lies around the sidecar and others can touch: the directory it shares with the agent.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use crate::support::files::Files;
use crate::support::{Binding, Capture, Protocol, Sidecar, repeated, rpc, unique_secret};

/// The names under which `mcp.json` is, or ever was, written in the public directory.
const PUBLISHED: [&str; 2] = ["mcp.json", ".mcp.json.new"];

/// What a hostile agent puts in the place of a file that the sidecar writes or reads.
fn plant(files: &Files, name: &str, bait: Bait) {
    let place = files.path(&format!("public/{name}"));
    // It may not be there.
    let _ = fs::remove_file(&place);
    match bait {
        Bait::Pipe => {
            let made = Command::new("mkfifo").arg(&place).status().expect("mkfifo is there");
            assert!(made.success());
        }
        Bait::Directory => fs::create_dir(&place).expect("writable"),
        Bait::LinkTo(target) => symlink(files.path(target), &place).expect("writable"),
    }
}

#[derive(Clone, Copy, Debug)]
enum Bait {
    Pipe,
    Directory,
    LinkTo(&'static str),
}

/// Attack 17: the public directory is shared with the agent. Where it can write there, pipes, links
/// and directories in the place of `mcp.json` neither stop a rotation or a revocation, nor lead what
/// is written there to another file.
#[tokio::test]
async fn a_hostile_public_directory_changes_nothing_else() {
    let secret_file = "bindings/secrets/github-secret/token";
    for bait in [
        Bait::Pipe,
        Bait::Directory,
        Bait::LinkTo(secret_file),
        Bait::LinkTo("bindings/jira.yaml"),
        Bait::LinkTo("/dev/zero"),
    ] {
        let capture = Capture::start(Protocol::Tls).await;
        let binding = Binding::new("github").to(&capture).token(unique_secret());
        let sidecar =
            Sidecar::for_research().binding(binding).config("public", json!({"directory": "./public"})).start().await;
        PUBLISHED.iter().for_each(|name| plant(sidecar.files(), name, bait));
        // A new binding makes `mcp.json` another one: it has to be written.
        let jira = Binding::new("jira").to(&capture).url(&capture.url("/jira")).token(unique_secret());
        sidecar.files().add(&jira);
        sidecar.until_served("jira", &["unbound_server", "no_credential"]).await;
        let fresh = unique_secret();
        sidecar.files().replace_secret("github-secret", "token", fresh.as_bytes());
        repeated("calls with the new value", async || {
            let number = capture.count();
            sidecar.post("github", rpc::list(number)).await.assert_ok();
            (capture.request(number).await.values("authorization") == [format!("Bearer {fresh}")]).then_some(())
        })
        .await;
        let kept = fs::read_to_string(sidecar.files().path(secret_file)).expect("the Secret is there");
        assert_eq!(kept, fresh, "{bait:?}");
        let document = fs::read_to_string(sidecar.files().path("bindings/jira.yaml")).expect("the document is there");
        assert_eq!(document, jira.yaml(), "{bait:?}");
        // What could be replaced has been: the agent is told of the new server.
        if !matches!(bait, Bait::Directory) {
            let published = sidecar.files().path("public/mcp.json");
            assert!(fs::symlink_metadata(&published).expect("mcp.json is there").is_file(), "{bait:?}");
            assert!(fs::read_to_string(published).expect("mcp.json is there").contains("/jira"), "{bait:?}");
        }
        sidecar.files().delete_secret("github-secret");
        sidecar.until_refused("github").await.assert_refused("credential_revoked");
    }
}
