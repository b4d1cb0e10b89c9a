//! The demo, where somebody lets it run who does not look.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::{Agent, Message, within};

/// `postern demo | less`, say, of which the first page is enough. It writes more than a pipe holds.
#[tokio::test]
async fn the_end_waits_for_nobody_who_does_not_read() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(["demo", "--port", "0"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut output = BufReader::new(demo.stdout.take().expect("stdout is piped")).lines();
    let endpoint = loop {
        let line = within("the endpoint", output.next_line()).await.expect("it is text").expect("it goes on");
        if let Some((address, _)) = line.split_once("http://").and_then(|(_, rest)| rest.split_once("/demo")) {
            break address.parse().expect("an address");
        }
    };
    for _ in 0..800 {
        assert_eq!(Agent::connect(endpoint).await.ask(Message::new("GET", "/nothing")).await.status, 403);
    }
    let kill = std::process::Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", demo.id().expect("it is running"))])
        .status();
    assert!(kill.expect("a shell is there").success(), "it is running");
    let ended = within("the demo to end", demo.wait()).await;
    assert!(ended.expect("it is ours").success());
    drop(output);
}
