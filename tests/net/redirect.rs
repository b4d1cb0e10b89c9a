//! What the sidecar's part in `redirect` needs of the product, in a program of its own: a listener that tells where
//! connections were going, the self-test, and a table that the kernel does not take.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a test's program: it tells on standard output")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use postern::api::env::REDIRECT_PORT;
use postern::nft::kernel;
use postern::nft::probe::{Probe, is_probe, original_destination};
use postern::nft::rules::{Exceptions, Protocol, Rule, Test, Verdict, table};
use postern::runtime::task;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if has("bad-batch") {
        bad_batch();
        return;
    }
    let probe = Arc::new(Probe::new().expect("random bytes"));
    let mut addresses: Vec<SocketAddr> = Vec::new();
    if !has("--no-v4") {
        addresses.push((Ipv4Addr::LOCALHOST, REDIRECT_PORT).into());
    }
    if !has("--no-v6") {
        addresses.push((Ipv6Addr::LOCALHOST, REDIRECT_PORT).into());
    }
    for address in addresses {
        let listener = TcpListener::bind(address).await.expect("a free port");
        task::spawn(accept(listener, Arc::clone(&probe)));
    }
    println!("listening");
    if has("--self-test") {
        match probe.test().await {
            Ok(captured) => println!("captured v4={} v6={}", captured.v4, captured.v6),
            Err(error) => println!("{error}"),
        }
    }
    std::future::pending::<()>().await;
}

async fn accept(listener: TcpListener, probe: Arc<Probe>) {
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        let probe = Arc::clone(&probe);
        task::spawn(async move {
            // Whoever goes away early goes away.
            let _ = serve(socket, &probe).await;
        });
    }
}

/// Says where the connection was going, then says everything back.
async fn serve(mut socket: TcpStream, probe: &Probe) -> std::io::Result<()> {
    let original = original_destination(&socket)?;
    if let Some(original) = original.filter(|original| is_probe(*original)) {
        return probe.answer(socket, original).await;
    }
    let told = original.map_or("none".to_owned(), |original| original.to_string());
    socket.write_all(format!("captured {told}\n").as_bytes()).await?;
    let mut buffer = [0; 1024];
    loop {
        let length = socket.read(&mut buffer).await?;
        let Some(read @ [_, ..]) = buffer.get(..length) else { return Ok(()) };
        socket.write_all(read).await?;
    }
}

/// The real table and, as its last rule, one that only a nat chain may have.
fn bad_batch() {
    let mut table = table(&Exceptions::default());
    let rule = Rule { tests: vec![Test::Protocol(Protocol::Tcp)], verdict: Verdict::Redirect, why: "" };
    table.0.last_mut().expect("a chain").rules.push(rule);
    match kernel::write(&table) {
        Ok(()) => println!("written"),
        Err(error) => println!("{error}"),
    }
}
