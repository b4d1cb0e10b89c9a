//! What lies around the sidecar, where others can touch it or look at it: shared directories, the
//! environment, the admin port, the process.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tokio::net::TcpStream;

use crate::support::dns::Dns;
use crate::support::files::Files;
use crate::support::secrets::{assert_none_in, find_leak};
use crate::support::sidecar::nobody;
use crate::support::{
    Agent, Answer, Binding, Capture, Message, Protocol, Sidecar, repeated, rpc, sentinel, unique_secret,
};

use super::{PROTOCOLS, scene};

/// The names under which `mcp.json` is, or ever was, written in the public directory.
const PUBLISHED: [&str; 2] = ["mcp.json", ".mcp.json.new"];

/// What a hostile agent puts in the place of a file that the sidecar writes or reads.
fn plant(files: &Files, name: &str, bait: Bait) {
    let (made, place) = (files.path(&format!("public/made-{name}")), files.path(&format!("public/{name}")));
    match bait {
        Bait::Pipe => {
            let made = Command::new("mkfifo").arg(&made).status().expect("mkfifo is there");
            assert!(made.success());
        }
        Bait::Directory => fs::create_dir(&made).expect("writable"),
        Bait::LinkTo(target) => symlink(files.path(target), &made).expect("writable"),
    }
    // A directory cannot replace a file, and the sidecar may write the file again meanwhile.
    while fs::rename(&made, &place).is_err() {
        let _ = fs::remove_file(&place);
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

/// Attack 17: what an agent leaves in the public directory is not read: no document, no Secret, no
/// configuration.
#[tokio::test]
async fn what_lies_in_the_public_directory_is_not_read() {
    let (capture, evil) = (Capture::start(Protocol::Tls).await, Capture::start(Protocol::Plain).await);
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar =
        Sidecar::for_research().binding(binding).config("public", json!({"directory": "./public"})).start().await;
    let files = sidecar.files();
    fs::create_dir_all(files.path("public/secrets/evil-secret")).expect("writable");
    fs::write(files.path("public/secrets/evil-secret/token"), "planted").expect("writable");
    fs::write(files.path("public/evil.yaml"), Binding::new("evil").to(&evil).yaml()).expect("writable");
    let renamed = Binding::new("github").to(&evil).yaml().replace("research-agent", "anyone");
    fs::write(files.path("public/github.yaml"), renamed).expect("writable");
    fs::write(files.path("public/postern.yaml"), "dial: {allowLoopback: false}\n").expect("writable");
    // Everything is read again when a binding comes.
    files.add(&Binding::new("jira").to(&capture).url(&capture.url("/jira")).token(unique_secret()));
    sidecar.until_served("jira", &["unbound_server", "no_credential"]).await;
    sidecar.post("evil", rpc::list(1)).await.assert_refused("unbound_server");
    sidecar.post("github", rpc::list(1)).await.assert_ok();
    evil.assert_untouched();
}

/// Attack 17: variables that steer other programs, and ones that look like ours, steer nothing here:
/// calls go where the binding says, nothing is written that they ask for, and none of them is told.
#[tokio::test]
async fn inherited_variables_change_nothing() {
    let elsewhere = Capture::start(Protocol::Plain).await;
    let keys = tempfile::TempDir::new().expect("a temporary directory can be made");
    let key_log = keys.path().join("tls-keys.log");
    let hosts = keys.path().join("aliases");
    fs::write(&hosts, "localhost evil.example.test\n").expect("writable");
    let (proxy, own) = (elsewhere.url(""), sentinel());
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let variables = [
        ("HTTP_PROXY", proxy.clone()),
        ("http_proxy", proxy.clone()),
        ("ALL_PROXY", proxy.clone()),
        ("all_proxy", proxy.clone()),
        ("SOCKS_PROXY", proxy.clone()),
        ("SSLKEYLOGFILE", text(&key_log)),
        ("HOSTALIASES", text(&hosts)),
        ("LOCALDOMAIN", "evil.example.test".to_owned()),
        ("RES_OPTIONS", "ndots:15 nameserver:127.0.0.1".to_owned()),
        ("RUST_LOG", "trace".to_owned()),
        ("RUST_BACKTRACE", "full".to_owned()),
        ("TOKIO_WORKER_THREADS", "0".to_owned()),
        ("OPENSSL_CONF", text(&hosts)),
        ("TMPDIR", text(&key_log)),
        ("POSTERN_CONFIG", text(&hosts)),
        ("POSTERN_ENDPOINT", proxy.clone()),
        ("POSTERN_UPSTREAM", proxy.clone()),
        ("POSTERN_ALLOW_PLAINTEXT", "true".to_owned()),
        ("POSTERN_TOKEN", own.clone()),
        ("GITHUB_TOKEN", own.clone()),
        ("MCP_AUTHORIZATION", own.clone()),
        ("KUBERNETES_SERVICE_HOST", "127.0.0.1".to_owned()),
    ];
    // Not `localhost`, which is behind no proxy.
    let name = "mcp.example.test";
    let dns = Dns::start(&[(name, "127.0.0.1")]).await;
    for protocol in PROTOCOLS {
        let capture = Capture::start(protocol).await;
        let secret = unique_secret();
        let builder = Sidecar::for_research()
            .binding(Binding::new("github").trusting(&capture).url(&capture.url_as(name, "/mcp")).token(&secret))
            .binding(Binding::new("bare").trusting(&capture).url(&capture.url_as(name, "/bare")))
            .config("dial", json!({"allowLoopback": true, "resolvers": [dns.address().to_string()]}))
            .config("public", json!({"directory": "./public"}));
        let builder = variables.iter().fold(builder, |builder, (name, value)| builder.environment(name, value));
        let sidecar = builder.start().await;
        sidecar.post("github", rpc::list(1)).await.assert_ok();
        assert_eq!(capture.request(0).await.values("authorization"), [format!("Bearer {secret}")]);
        sidecar.post("bare", rpc::list(1)).await.assert_refused("no_credential");
        assert_eq!(capture.count(), 1, "{protocol:?}");
        let written = format!("{}{}{}", sidecar.output(), sidecar.diagnostics(), sidecar.metrics().await.text());
        for told in [&own, "evil.example", "SSLKEYLOGFILE", &proxy] {
            assert!(!written.contains(told), "{protocol:?}: {told} is told");
        }
    }
    elsewhere.assert_untouched();
    assert!(!key_log.exists(), "TLS keys were written");
}

/// Attack 18, as far as there is no webhook yet: an agent without its sidecar has a URL where nobody
/// listens, a file without a credential, and no connection left over to speak on.
#[tokio::test]
async fn without_the_sidecar_an_agent_has_nothing() {
    let capture = Capture::start(Protocol::Tls).await;
    let secret = unique_secret();
    let binding = Binding::new("github").to(&capture).token(&secret);
    let sidecar =
        Sidecar::for_research().binding(binding).config("public", json!({"directory": "./public"})).start().await;
    let mut agent = sidecar.agent().await;
    agent.ask(Message::post("github", rpc::list(1))).await.assert_ok();
    sidecar.signal("KILL");
    sidecar.exit().await;
    assert!(agent.closed().await.is_empty());
    capture.closed(0).await;
    let refused = TcpStream::connect(sidecar.endpoint()).await.expect_err("nobody listens any more");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let text = fs::read(sidecar.files().path("public/mcp.json")).expect("mcp.json is there");
    assert_eq!(find_leak(&text, &[secret]), None);
}

/// Attack 18 for the source: one that vanishes as a whole withdraws everything, and live streams with
/// it; one that comes back is served again.
#[tokio::test]
async fn a_source_that_vanishes_withdraws_everything() {
    let (capture, sidecar) = scene(Protocol::Tls, |binding| binding.token(unique_secret())).await;
    let (_stream, answer) = Answer::events();
    capture.next(answer);
    let mut agent = sidecar.agent().await;
    agent.open(Message::get("github")).await;
    let (here, away) = (sidecar.files().path("bindings"), sidecar.files().path("away"));
    fs::rename(&here, &away).expect("writable");
    sidecar.until_refused("github").await.assert_refused("credential_revoked");
    agent.drained().await;
    capture.abandoned(0).await;
    let before = capture.count();
    sidecar.post("github", rpc::list(1)).await.assert_refused("credential_revoked");
    assert_eq!(capture.count(), before);
    fs::rename(&away, &here).expect("writable");
    sidecar.until_served("github", &["credential_revoked"]).await;
}

/// Attack 22: the admin port, asked for whatever else such ports have shown, by any method: health and
/// numbers, nothing of a value, a call, a place or the process; and nothing that changes anything.
#[tokio::test]
async fn the_admin_port_shows_health_and_numbers_alone() {
    let (capture, sidecar) = scene(Protocol::Tls, |binding| binding.token(unique_secret())).await;
    let own = sentinel();
    let call = rpc::request(1, "tools/call", json!({"name": own, "arguments": {"q": own}}));
    sidecar.ask(Message::post("github", call).target(&format!("/github?q={own}"))).await.assert_ok();
    let directory = sidecar.files().path("").display().to_string();
    let port = format!(":{}", capture.port());
    let private =
        [own.as_str(), directory.trim_end_matches('/'), &port, "localhost", "/mcp", "github-secret", "tools/x"];
    let served = ["/live", "/ready", "/started", "/metrics"];
    let others = [
        "/",
        "/config",
        "/config_dump",
        "/configz",
        "/debug",
        "/debug/pprof/",
        "/debug/vars",
        "/env",
        "/flags",
        "/quit",
        "/quitquitquit",
        "/stats",
        "/clusters",
        "/credentials",
        "/secrets",
        "/bindings",
        "/reload",
        "/v1/reload",
        "/log",
        "/logging?level=trace",
        "/heap",
        "/threads",
        "/session",
        "/metrics/",
        "/metrics/..",
        "//metrics",
        "/METRICS",
        "/%6detrics",
        "/live/../config",
        "/ready;x",
        "/.well-known/openid-configuration",
        "/github",
        "*",
    ];
    for path in served.into_iter().chain(others) {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUIT"] {
            let message = Message::new(method, path).header("Authorization", &own).header("X-Forwarded-For", &own);
            let mut agent = Agent::connect(sidecar.admin_address()).await;
            agent.send(&message.header("Connection", "close").bytes("127.0.0.1")).await;
            let seen = String::from_utf8_lossy(&agent.closed().await).into_owned();
            let told = private.iter().find(|private| seen.contains(**private));
            assert_eq!(told, None, "{method} {path}: {seen}");
            assert_none_in("the admin's answer", seen.as_bytes());
            let ok = seen.starts_with("HTTP/1.1 200 ");
            assert_eq!(ok, served.contains(&path) && ["GET", "HEAD"].contains(&method), "{method} {path}: {seen}");
        }
    }
    sidecar.post("github", rpc::list(1)).await.assert_ok();
}

/// Attack 22: without a word in the configuration, nobody beyond this machine can ask it.
#[tokio::test]
async fn the_admin_port_is_loopback_by_default() {
    let sidecar = Sidecar::for_research().config("admin", json!({"port": 0})).start().await;
    assert!(sidecar.admin_address().ip().is_loopback(), "{}", sidecar.admin_address());
    assert_eq!(sidecar.admin("/live").await.status, 200);
}

/// Attacks 11 and 23: a process of the same user reads neither memory nor environment nor open files
/// of the sidecar, and a crash leaves nothing behind.
#[tokio::test]
async fn neither_a_neighbour_nor_a_crash_reads_the_process() {
    let capture = Capture::start(Protocol::Tls).await;
    let binding = Binding::new("github").to(&capture).token(unique_secret());
    let sidecar = Sidecar::for_research().binding(binding).unprivileged().in_its_directory().start().await;
    sidecar.post("github", rpc::list(1)).await.assert_ok();
    let process = format!("/proc/{}", sidecar.pid());
    let as_neighbour = |program: &str, place: &str| {
        let mut command = Command::new(program);
        if let Some(user) = nobody() {
            command.uid(user).gid(user);
        }
        command.arg(format!("{process}/{place}")).output().expect("a small program is there")
    };
    // Readable to all: it is the right process, and the same user's.
    assert!(as_neighbour("cat", "stat").status.success());
    for (program, place) in [
        ("cat", "environ"),
        ("cat", "mem"),
        ("cat", "maps"),
        ("cat", "auxv"),
        ("ls", "fd/"),
        ("ls", "map_files/"),
        ("cat", "stack"),
    ] {
        let read = as_neighbour(program, place);
        assert!(!read.status.success() && read.stdout.is_empty(), "{place} can be read");
    }
    let limits = fs::read_to_string(format!("{process}/limits")).expect("procfs is there");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("the limit is listed");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let listing = || {
        let entries = fs::read_dir(sidecar.files().path("")).expect("the directory is there");
        let mut names: Vec<_> = entries.map(|entry| entry.expect("readable").file_name()).collect();
        names.sort();
        names
    };
    let before = listing();
    sidecar.signal("ABRT");
    let status = sidecar.exit().await;
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
    assert_eq!(listing(), before, "a crash leaves no file");
}
