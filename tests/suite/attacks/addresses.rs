//! Attack 8: a server's name, or the number in its place, that leads to the metadata service, to this
//! machine or nowhere. What is forbidden is not dialled: some of these addresses lead to loopback
//! when they are, and there somebody listens.

use std::net::{TcpListener, UdpSocket};

use serde_json::json;

use crate::support::dns::Dns;
use crate::support::files::{Files, Layout};
use crate::support::output::Lines;
use crate::support::refusal::{Form, Refusal};
use crate::support::sidecar::{Builder, Process};
use crate::support::{Answer, Binding, Capture, Message, Protocol, Sidecar, assert_refusal, rpc, unique_secret};

/// Each address that no server may have, in each form that leads there, and what it is called.
const FORBIDDEN: [(&str, &str); 30] = [
    ("169.254.169.254", "link-local"),
    ("169.254.170.2", "link-local"),
    ("169.254.170.23", "link-local"),
    ("::ffff:169.254.169.254", "link-local"),
    ("::169.254.169.254", "link-local"),
    ("::ffff:0:169.254.169.254", "link-local"),
    ("64:ff9b::169.254.169.254", "link-local"),
    ("64:ff9b:1::169.254.169.254", "link-local"),
    ("2002:a9fe:a9fe::1", "link-local"),
    ("2001:0:1:2:3:4:5601:5601", "link-local"),
    ("2001:db8::5efe:169.254.169.254", "link-local"),
    ("fe80::1", "link-local"),
    ("fec0::1", "link-local"),
    ("fd00:ec2::254", "metadata"),
    ("fd00:ec2::23", "metadata"),
    ("fd20:ce::254", "metadata"),
    ("100.100.100.200", "metadata"),
    ("::ffff:100.100.100.200", "metadata"),
    ("168.63.129.16", "metadata"),
    ("192.0.0.192", "metadata"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("ff02::1", "multicast"),
    ("255.255.255.255", "broadcast"),
    ("0.0.0.0", "unspecified"),
    ("0.1.2.3", "unspecified"),
    ("240.0.0.1", "unspecified"),
    ("::", "unspecified"),
    ("::ffff:0.0.0.0", "unspecified"),
    ("64:ff9b::0.0.0.0", "unspecified"),
];

/// The same for this machine, which only `dial.allowLoopback` lets pass.
const LOCAL: [&str; 9] = [
    "127.0.0.1",
    "127.1.2.3",
    "::1",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::127.0.0.1",
    "2002:7f00:1::1",
];

/// A host as it stands in a URL.
fn as_host(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// One binding to each of these hosts, at the port of this upstream: `s0`, `s1`, ...
fn bind_all(builder: Builder, capture: &Capture, hosts: &[String]) -> Builder {
    hosts.iter().enumerate().fold(builder, |builder, (number, host)| {
        let binding = Binding::new(&format!("s{number}")).trusting(capture).url(&capture.url_as(host, "/mcp"));
        builder.binding(binding.token(unique_secret()))
    })
}

/// Asserts that a call to each server is refused, and for which kind of address.
async fn assert_forbidden(sidecar: &Sidecar, kinds: &[&str]) {
    for (number, kind) in kinds.iter().enumerate() {
        let server = format!("s{number}");
        let refusal = Refusal { reason: "address_forbidden", server: &server, form: Form::Rpc("7") };
        assert_refusal(sidecar, &Message::post(&server, rpc::list(7)).bytes("127.0.0.1"), refusal).await;
        let lines = sidecar.access_lines();
        let line = lines.iter().rfind(|line| line["server"] == *server).expect("the refusal has its line");
        let detail = line["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(kind), "{kind} in {line}");
    }
}

/// Written as an address in the binding, or the only address of a name: never dialled, though
/// loopback is allowed here. `0.0.0.0` and `::` in any form would arrive at the listeners.
#[tokio::test]
async fn no_forbidden_address_is_dialled_in_any_disguise() {
    for protocol in [Protocol::Plain, Protocol::Tls] {
        let capture = Capture::start(protocol).await;
        let six = TcpListener::bind(("::1", capture.port())).ok();
        let names: Vec<String> = (0..FORBIDDEN.len()).map(|number| format!("n{number}.example.test")).collect();
        let table: Vec<(&str, &str)> =
            names.iter().zip(FORBIDDEN).map(|(name, (address, _))| (name.as_str(), address)).collect();
        let dns = Dns::start(&table).await;
        let dial = json!({"allowLoopback": true, "resolvers": [dns.address().to_string()]});
        let kinds = FORBIDDEN.map(|(_, kind)| kind);
        for hosts in [FORBIDDEN.map(|(address, _)| as_host(address)).to_vec(), names.clone()] {
            let builder = Sidecar::for_research().config("dial", dial.clone());
            let sidecar = bind_all(builder, &capture, &hosts).start().await;
            assert_forbidden(&sidecar, &kinds).await;
        }
        capture.assert_untouched();
        assert_nobody_came(six);
    }
}

fn assert_nobody_came(listener: Option<TcpListener>) {
    let Some(listener) = listener else { return };
    listener.set_nonblocking(true).expect("a listener takes options");
    assert!(listener.accept().is_err(), "somebody dialled [::1]");
}

/// An address of this machine that is not loopback, if it has one; asking sends nothing.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|own| !own.is_loopback()).map(|own| own.to_string())
}

/// In a pod this machine is the agent: not dialled by any form of its address, nor by any name for it.
#[tokio::test]
async fn this_machine_is_not_dialled_unless_allowed() {
    let capture = Capture::start(Protocol::Tls).await;
    let names: Vec<String> = (0..LOCAL.len()).map(|number| format!("n{number}.example.test")).collect();
    let mut table: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(LOCAL).collect();
    table.push(("alias.example.test", "localhost"));
    let dns = Dns::start(&table).await;
    let more = ["LocalHost", "a.localhost", "alias.example.test"].map(str::to_owned);
    let mut hosts = [LOCAL.map(as_host).to_vec(), names.clone(), more.to_vec()].concat();
    let mut kinds = vec!["loopback"; hosts.len()];
    if let Some(own) = own_address() {
        hosts.push(own);
        kinds.push("own address");
    }
    let dial = json!({"allowLoopback": false, "resolvers": [dns.address().to_string()]});
    let sidecar = bind_all(Sidecar::for_research().config("dial", dial), &capture, &hosts).start().await;
    assert_forbidden(&sidecar, &kinds).await;
    capture.assert_untouched();
}

/// Numbers that some resolver takes for an address, and addresses with something about them, are no
/// hosts: faults at start.
#[tokio::test]
async fn numbers_that_some_take_for_addresses_are_no_hosts() {
    let hosts = [
        "2852039166",
        "0xa9fea9fe",
        "0xA9.0xFE.0xA9.0xFE",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "127.1",
        "0177.0.0.1",
        "1.0x7f",
        "127.0.0.1.",
        "localhost.",
        "[::ffff:a9fe:a9fe%25eth0]",
        "[fe80::1%lo]",
        "[169.254.169.254]",
        "[::1",
        "::1",
        "169\u{3002}254\u{3002}169\u{3002}254",
        "\u{ff11}27.0.0.1",
        "\u{2460}27.0.0.1",
        "loc\u{ff41}lhost",
        "metadata%2egoogle.internal",
        "a.example@169.254.169.254",
        "a.example#@169.254.169.254",
        "a.example\\@169.254.169.254",
        "169.254.169.254:0",
        "169.254.169.254:65536",
        "169.254.169.254:+80",
    ];
    let files = Files::new(Layout::Files);
    files.write(
        "postern.yaml",
        "caller: {namespace: research, serviceAccount: research-agent}\nsource: {file: {directory: ./bindings}}\n\
         endpoint: {port: 0}\nadmin: {address: 127.0.0.1, port: 0}\n",
    );
    for (number, host) in hosts.iter().enumerate() {
        files.document(&Binding::new(&format!("b{number}")).url(&format!("https://{host}/mcp")));
    }
    let process = Process::start(&files);
    assert_eq!(process.exit().await.code(), Some(2));
    let told = process.stderr.read(Lines::text);
    for (number, host) in hosts.iter().enumerate() {
        let place = format!("/b{number}.yaml:");
        assert!(
            told.lines().any(|line| line.contains(&place) && line.contains("spec.server.url")),
            "{host} in\n{told}"
        );
    }
}

/// A sidecar with one server, `s0`, at `mcp.example.test`, which this resolver resolves.
async fn named(capture: &Capture, dns: &Dns) -> Sidecar {
    let dial = json!({"allowLoopback": true, "resolvers": [dns.address().to_string()]});
    let builder = Sidecar::for_research().config("dial", dial);
    bind_all(builder, capture, &["mcp.example.test".to_owned()]).start().await
}

/// One forbidden address among good ones refuses the name, wherever it stands in the answer.
#[tokio::test]
async fn one_forbidden_address_refuses_the_name() {
    let (name, good) = ("mcp.example.test", "127.0.0.1");
    for (bad, kind) in [("0.0.0.0", "unspecified"), ("169.254.169.254", "link-local"), ("100.100.100.200", "metadata")]
    {
        for table in [[(name, good), (name, bad)], [(name, bad), (name, good)]] {
            let capture = Capture::start(Protocol::Tls).await;
            let dns = Dns::start(&table).await;
            let sidecar = named(&capture, &dns).await;
            assert_forbidden(&sidecar, &[kind]).await;
            capture.assert_untouched();
        }
    }
}

/// A name for a name for a forbidden address is that address; one for a good address is that.
#[tokio::test]
async fn an_alias_is_checked_by_where_it_ends() {
    let (name, middle, last) = ("mcp.example.test", "middle.example.test", "last.example.test");
    for (place, kind) in [("169.254.169.254", "link-local"), ("fd00:ec2::254", "metadata"), ("0.0.0.0", "unspecified")]
    {
        let capture = Capture::start(Protocol::Tls).await;
        let dns = Dns::start(&[(name, middle), (middle, last), (last, place)]).await;
        assert_forbidden(&named(&capture, &dns).await, &[kind]).await;
        capture.assert_untouched();
    }
    let capture = Capture::start(Protocol::Tls).await;
    let dns = Dns::start(&[(name, middle), (middle, last), (last, "127.0.0.1")]).await;
    named(&capture, &dns).await.post("s0", rpc::list(1)).await.assert_ok();
    assert_eq!(capture.requests()[0].authority, format!("{name}:{}", capture.port()), "the alias is nobody's name");
}

/// Rebinding: a name that leads home and elsewhere by turns. What is checked is what is dialled: the
/// resolver is asked once for each connection, and every second one is refused.
#[tokio::test]
async fn a_name_cannot_change_between_the_check_and_the_dial() {
    let name = "mcp.example.test";
    let capture = Capture::start(Protocol::Tls).await;
    let dns = Dns::in_turn(&[&[(name, "127.0.0.1")], &[(name, "0.0.0.0")]]).await;
    let sidecar = named(&capture, &dns).await;
    capture.always(|_| Answer::full(200, &[("Connection", "close")], "{}"));
    for number in 0..6 {
        sidecar.post("s0", rpc::list(number)).await.assert_ok();
        sidecar.post("s0", rpc::list(number)).await.assert_refused("address_forbidden");
    }
    assert_eq!((capture.connections(), dns.asked(name)), (6, 12));
}
