//! A panic in one exchange harms no other. The product has no way to be made to panic, so this runs
//! its data plane in this process, between real sockets, and one connection of it on a reader that
//! panics when told to: in the middle of a call that waits for its upstream.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::listener::{Slot, Slots, start};
use super::*;
use crate::api::document::read_bindings;
use crate::core::capture::Way;
use crate::core::name::{Caller, Namespace, ServiceAccount};
use crate::core::secret::SecretValue;
use crate::credential::cache::Cache;
use crate::credential::source::{Entry, Snapshot, Value};
use crate::runtime::drain::DrainTrigger;
use crate::runtime::{clock, task};
use crate::telemetry::logs::AccessLog;
use crate::telemetry::metrics::Metrics;

/// Gives its bytes, and then waits for the word to panic.
#[derive(Clone)]
struct Fuse(Arc<Mutex<FuseState>>);

struct FuseState {
    bytes: Vec<u8>,
    lit: bool,
    waker: Option<Waker>,
}

impl Fuse {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(FuseState { bytes, lit: false, waker: None })))
    }

    fn light(&self) {
        let mut state = self.0.lock().unwrap();
        state.lit = true;
        state.waker.take().unwrap().wake();
    }
}

impl AsyncRead for Fuse {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock().unwrap();
        if !state.bytes.is_empty() {
            into.put_slice(&std::mem::take(&mut state.bytes));
            return Poll::Ready(Ok(()));
        }
        state.waker = Some(cx.waker().clone());
        let lit = state.lit;
        drop(state);
        assert!(!lit, "the fuse has burnt down");
        Poll::Pending
    }
}

fn call(body: &str) -> Vec<u8> {
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{body}"}}}}"#);
    let head = "POST /srv HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nMcp-Session-Id: s\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// What the upstream sees.
#[derive(Debug, PartialEq)]
enum Seen {
    /// A call of the tool `hold`, which it never answers.
    Held,
    /// The connection of that call is gone.
    Dropped,
}

/// Answers `hold` never, `stream` with one event and another for each word on `more`, the rest at once.
async fn upstream(listener: TcpListener, seen: mpsc::UnboundedSender<Seen>, more: mpsc::UnboundedReceiver<()>) {
    let more = Arc::new(tokio::sync::Mutex::new(more));
    while let Ok((mut socket, _)) = listener.accept().await {
        let (seen, more) = (seen.clone(), Arc::clone(&more));
        task::spawn(async move {
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                text.push_str(&String::from_utf8_lossy(&buffer[..read]));
                if text.contains(r#""hold""#) {
                    seen.send(Seen::Held).unwrap();
                    while matches!(socket.read(&mut buffer).await, Ok(1..)) {}
                    let _ = seen.send(Seen::Dropped);
                    return;
                } else if text.contains(r#""stream""#) {
                    let head =
                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                    socket.write_all(format!("{head}9\r\ndata: 1\n\n\r\n").as_bytes()).await.unwrap();
                    while more.lock().await.recv().await.is_some() {
                        socket.write_all(b"9\r\ndata: 2\n\n\r\n").await.unwrap();
                    }
                    socket.write_all(b"0\r\n\r\n").await.unwrap();
                    return;
                } else if text.ends_with("}}") {
                    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
                    text.clear();
                }
            }
        });
    }
}

struct Plane {
    shared: Arc<Shared>,
    endpoint: SocketAddr,
    trigger: DrainTrigger,
    _running: Running,
}

const BUDGET: usize = 1 << 20;

async fn plane(port: u16) -> Plane {
    let text = format!(
        "apiVersion: postern.dev/v1alpha1\nkind: CredentialBinding\nmetadata: {{name: a, namespace: ns}}\nspec:\n  serviceAccounts: [sa]\n  server: {{name: srv, url: 'http://127.0.0.1:{port}/mcp', allowPlaintext: true}}\n  credential: {{type: Bearer, secretRef: {{name: s, key: t}}}}\n"
    );
    let binding = Arc::new(read_bindings("x", &text).0.remove(0).binding);
    let secret = Arc::new(SecretValue::parse(b"sesame".to_vec()).ok().unwrap());
    let value = Ok(Value { secret, version: String::new(), changed: None });
    let mut cache = Cache::default();
    cache.apply(Snapshot { entries: vec![Entry { binding, value, ca_bundle: None }] }, clock::wall());
    let key = CallerKey {
        namespace: Namespace::parse("ns").unwrap(),
        service_account: ServiceAccount::parse("sa").unwrap(),
        user: None,
    };
    let minute = Duration::from_secs(60);
    let settings = ProxySettings {
        port: 0,
        capture: CaptureSettings { kind: Capture::Endpoint, port: 0, passthrough: Vec::new(), self_test: false },
        caller: key.clone(),
        limits: Limits { body: 4096, body_budget: BUDGET, head: 4096, connections: 8, sessions: 8 },
        times: Times { idle: minute, head: minute, rotation_grace: minute },
        dial: DialSettings { allow_loopback: true, parent: None, resolvers: Vec::new(), connect_timeout: minute },
        forbidden_is_ok: false,
    };
    let telemetry = Telemetry::new(Metrics::new().unwrap(), AccessLog::discard(), &Caller { key, pod: None });
    let trigger = DrainTrigger::new();
    let parts = Parts {
        credentials: cache.readers(),
        telemetry: Arc::new(telemetry),
        drain: trigger.watch(),
        stand_in: Arc::default(),
        probe: None,
    };
    let bound = bind(settings, parts).await.unwrap();
    let (shared, endpoint) = (Arc::clone(&bound.shared), bound.endpoint);
    Plane { shared, endpoint, trigger, _running: bound.serve() }
}

impl Plane {
    /// Sends a call on a connection of its own.
    async fn ask(&self, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.endpoint).await.unwrap();
        socket.write_all(&call(body)).await.unwrap();
        socket
    }

    fn exposed(&self) -> String {
        String::from_utf8(self.shared.telemetry.metrics.expose(&[]).unwrap()).unwrap()
    }
}

async fn until(socket: &mut TcpStream, wanted: &str) {
    let mut text = String::new();
    while !text.contains(wanted) {
        let mut buffer = [0; 4096];
        let read = socket.read(&mut buffer).await.unwrap();
        assert!(read > 0, "the connection ended before {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

#[tokio::test]
async fn a_panic_in_one_exchange_harms_no_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, mut seen) = mpsc::unbounded_channel();
    let (more, words) = mpsc::unbounded_channel();
    let _upstream = OwnedTask::spawn(upstream(listener, tell, words));
    let plane = plane(port).await;
    let mut stream = plane.ask("stream").await;
    until(&mut stream, "data: 1\n\n").await;

    let fuse = Fuse::new(call("hold"));
    let (reader, shared, slots) = (fuse.clone(), Arc::clone(&plane.shared), Slots::new(1));
    let serve = async move {
        let _over = connection::talk((reader, Vec::new()), tokio::io::sink(), &shared, &Way::Endpoint, false).await;
    };
    let doomed = start(slots.take().unwrap(), &plane.shared, move || serve);
    assert_eq!(seen.recv().await, Some(Seen::Held));
    assert!(plane.exposed().contains("postern_agent_connections 2\n"));
    assert!(plane.shared.budget.left() < BUDGET);
    fuse.light();
    assert!(doomed.await.unwrap_err().is_panic());

    // What the lost exchange held is given back: upstream connection, memory, place, count.
    assert_eq!(seen.recv().await, Some(Seen::Dropped));
    assert!(matches!(slots.take(), Some(Slot::Regular(_))));
    let exposed = plane.exposed();
    assert!(exposed.contains("postern_agent_connections 1\n"), "{exposed}");
    let lost = r#"postern_requests_total{method="tools/call",outcome="panicked",server="srv"} 1"#;
    assert!(exposed.contains(lost), "{exposed}");
    // The neighbour goes on, newcomers are served, and the shutdown waits for nobody that is lost.
    more.send(()).unwrap();
    until(&mut stream, "data: 2\n\n").await;
    until(&mut plane.ask("other").await, "{}").await;
    drop(more);
    until(&mut stream, "0\r\n\r\n").await;
    drop(stream);
    assert!(plane.trigger.run(Duration::from_secs(60)).await, "nobody is left");
    assert_eq!(plane.shared.budget.left(), BUDGET);
}

/// A panic leaves a lock poisoned behind it; what it guards is whole all the same, and goes on to be
/// used.
#[tokio::test]
async fn a_lock_held_in_a_panic_still_opens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, _seen) = mpsc::unbounded_channel();
    let (_more, words) = mpsc::unbounded_channel();
    let _upstream = OwnedTask::spawn(upstream(listener, tell, words));
    let plane = plane(port).await;
    until(&mut plane.ask("before").await, "{}").await;
    let (one, other) = (Arc::clone(&plane.shared), Arc::clone(&plane.shared));
    let sessions = std::thread::spawn(move || {
        let _held = one.sessions.lock();
        panic!("while the sessions are held");
    });
    let pools = std::thread::spawn(move || {
        let _held = other.upstreams.pools.lock();
        panic!("while the pools are held");
    });
    assert!(sessions.join().is_err() && pools.join().is_err());
    assert!(plane.shared.sessions.is_poisoned() && plane.shared.upstreams.pools.is_poisoned());
    until(&mut plane.ask("after").await, "{}").await;
}
