//! A connection to an upstream that speaks HTTP/2: many exchanges share it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong, RecvStream};
use http::header::CONTENT_LENGTH;
use http::uri::Scheme;
use http::{Request, Uri};

use super::pool::{MAX_SHARING, Pool};
use super::readout::ReadOut;
use super::wire::Wire;
use super::{AnswerBody, Broken, Fault, Incomer, OpenConnection, Outgoing, broken};
use crate::core::decide::Refusal;
use crate::core::fields::Fields;
use crate::core::reason::Reason;
use crate::core::rewrite::Placement;
use crate::runtime::task::OwnedTask;

/// HTTP/2 flow control: what one exchange, and what one connection, may leave unread. One slow reader holds at most its
/// own window, and all that share not all of it.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const _: () = assert!((MAX_SHARING as u32) * STREAM_WINDOW < CONNECTION_WINDOW);
/// The most bytes of a head.
const MAX_HEAD: u32 = 64 * 1024;
/// How often a connection in use is asked whether it is there, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIME: Duration = Duration::from_secs(20);

/// An HTTP/2 connection. Every exchange on it holds it.
pub(in crate::proxy) struct Http2 {
    sender: SendRequest<Bytes>,
    state: Arc<State>,
    _task: OwnedTask,
}

#[derive(Default)]
struct State {
    /// Exchanges under way.
    active: AtomicUsize,
    closed: AtomicBool,
}

impl Http2 {
    pub(super) async fn shake_hands(wire: Wire, open: OpenConnection) -> Result<Self, Refusal> {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD)
            .initial_max_send_streams(MAX_SHARING)
            .enable_push(false);
        let shaken = builder.handshake::<_, Bytes>(ReadOut::new(wire)).await;
        let (sender, mut connection) = shaken.map_err(|error| refusal(&error))?;
        let state = Arc::<State>::default();
        let (pings, seen) = (connection.ping_pong(), Arc::clone(&state));
        let task = OwnedTask::spawn(async move {
            // How it ends is told to whoever waits for an answer on it.
            tokio::select! {
                _ended = connection => {}
                () = silence(pings, &seen) => {}
            }
            seen.closed.store(true, Ordering::Release);
            drop(open);
        });
        Ok(Self { sender, state, _task: task })
    }

    /// Whether the pool that holds it once, and each exchange once, can take one more, as the server last said.
    pub(super) fn has_room(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) <= self.sender.current_max_send_streams().clamp(1, MAX_SHARING)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.closed.load(Ordering::Acquire)
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn call(
        self: Arc<Self>,
        outgoing: &Outgoing<'_>,
        credential: Placement<'_>,
        pool: &Arc<Pool>,
    ) -> Result<Incomer, Fault> {
        let lost = |refusal| Fault { unsent: false, refusal };
        let head = outgoing.head(credential, pool).map_err(lost)?;
        let mut sender = self.sender.clone();
        let sent = match poll_fn(|cx| sender.poll_ready(cx)).await {
            Ok(()) => sender.send_request(head, outgoing.body.is_empty()),
            Err(error) => Err(error),
        };
        let (response, mut stream) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                // It takes no more: what runs on it may end.
                pool.discard(&self);
                return Err(Fault { unsent: true, refusal: refusal(&error) });
            }
        };
        let held = Held::new(self);
        if !outgoing.body.is_empty() {
            stream.send_data(outgoing.body.to_bytes(), true).map_err(|error| lost(refusal(&error)))?;
        }
        let (parts, body) = response.await.map_err(|error| lost(refusal(&error)))?.into_parts();
        let said = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length = if body.is_end_stream() { Some(0) } else { said };
        let body = AnswerBody::Http2(Sharing { body, length, _held: held });
        Ok(Incomer { status: parts.status, headers: Fields::from(&parts.headers), body })
    }
}

/// Ends when a connection in use has not answered for too long.
async fn silence(pings: Option<PingPong>, state: &State) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING_INTERVAL).await;
        if state.active.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let asked = async {
            pings.send_ping(Ping::opaque()).ok()?;
            poll_fn(|cx| pings.poll_pong(cx)).await.ok()
        };
        if !matches!(tokio::time::timeout(PING_TIME, asked).await, Ok(Some(_))) {
            return;
        }
    }
}

/// Counts an exchange for as long as it lives.
struct Held(Arc<Http2>);

impl Held {
    fn new(connection: Arc<Http2>) -> Self {
        connection.state.active.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body. Dropped early, it resets its stream.
pub(in crate::proxy) struct Sharing {
    body: RecvStream,
    length: Option<u64>,
    _held: Held,
}

impl Sharing {
    /// How many bytes the whole has, where that is known; more or fewer are a fault of the server, and a break.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next piece; `None` at the end. Trailers are not passed on.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let piece = ready!(self.body.poll_data(cx)).map(|piece| {
            let piece = piece.map_err(|_| Broken)?;
            // It is on its way to the agent, whose own pace holds us back.
            self.body.flow_control().release_capacity(piece.len()).map_err(|_| Broken)?;
            Ok(piece)
        });
        Poll::Ready(piece)
    }
}

/// What a fault means, without the parts that may quote the wire.
fn refusal(error: &h2::Error) -> Refusal {
    match (error.get_io(), error.reason()) {
        (Some(io), _) => broken(io),
        (None, Some(reason)) => Refusal::because(Reason::UpstreamUnreachable, format!("HTTP/2: {reason}")),
        (None, None) => Refusal::because(Reason::UpstreamUnreachable, "HTTP/2: the connection cannot be used"),
    }
}

impl Outgoing<'_> {
    /// The head, with everything in the URI, from which the pseudo fields are made.
    fn head(&self, credential: Placement<'_>, pool: &Pool) -> Result<Request<()>, Refusal> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(pool.authority.clone());
        uri.path_and_query = Some(self.target.clone());
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).map_err(|error| Refusal::because(Reason::MalformedHead, error))?;
        let headers = request.headers_mut();
        *headers = self.fields.to_map();
        headers.insert(credential.header, credential.value.clone());
        if !self.body.is_empty() {
            headers.insert(CONTENT_LENGTH, self.body.len().into());
        }
        Ok(request)
    }
}
