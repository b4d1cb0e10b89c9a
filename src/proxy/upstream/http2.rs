//! A connection to an upstream that speaks HTTP/2: many exchanges share it.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Uri};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::pool::{MAX_SHARING, Pool};
use super::readout::ReadOut;
use super::wire::Wire;
use super::{AnswerBody, Incomer, OpenConnection, Outgoing, SendFault, broken};
use crate::core::decide::Refusal;
use crate::core::reason::Reason;
use crate::runtime::task::OwnedTask;

/// HTTP/2 flow control: what one exchange, and what one connection, may leave unread.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const _: () = assert!((MAX_SHARING as u32) * STREAM_WINDOW < CONNECTION_WINDOW);

/// An HTTP/2 connection. Every exchange on it holds it.
pub(in crate::proxy) struct Http2 {
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    _task: OwnedTask,
    /// How many exchanges the server takes on it at once, as it last said.
    server_limit: Arc<AtomicUsize>,
}

impl Http2 {
    pub(super) async fn shake_hands(wire: Wire, open: OpenConnection) -> Result<Self, Refusal> {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            // One slow reader holds at most its own window, and all that share not all of it.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(64 * 1024);
        let io = TokioIo::new(ReadOut::new(wire));
        let (sender, mut connection) = builder.handshake(io).await.map_err(|error| refusal(&error))?;
        let server_limit = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
        let limit = Arc::clone(&server_limit);
        let heeding = std::future::poll_fn(move |cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            // The server's SETTINGS may say another one at any time.
            limit.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled
        });
        let task = OwnedTask::spawn(async move {
            // How it ends is told to whoever waits for an answer on it.
            let _ended = heeding.await;
            drop(open);
        });
        Ok(Self { sender, _task: task, server_limit })
    }

    /// Whether the pool that holds it once, and each exchange once, can take one more.
    pub(super) fn has_room(self: &Arc<Self>) -> bool {
        let limit = self.server_limit.load(Ordering::Relaxed).clamp(1, MAX_SHARING);
        Arc::strong_count(self) <= limit
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn call(self: Arc<Self>, outgoing: Outgoing, pool: &Arc<Pool>) -> Result<Incomer, SendFault> {
        let mut sender = self.sender.clone();
        let request = outgoing.into_request(pool).map_err(|refusal| SendFault { unsent: None, refusal })?;
        let response = sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message();
            if unsent.is_some() {
                pool.discard(&self);
            }
            let unsent = unsent.and_then(Outgoing::from_request).map(Box::new);
            SendFault { unsent, refusal: refusal(error.error()) }
        })?;
        let (parts, body) = response.into_parts();
        let body = AnswerBody::Http2 { body, _connection: self };
        Ok(Incomer { status: parts.status, headers: parts.headers, body })
    }
}

/// What hyper's error means, without the parts that may quote the wire.
fn refusal(error: &hyper::Error) -> Refusal {
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(io) => broken(io),
        None => Refusal::because(Reason::UpstreamUnreachable, error),
    }
}

impl Outgoing {
    /// Everything in the URI, from which the pseudo fields are made.
    fn into_request(self, pool: &Pool) -> Result<Request<Full<Bytes>>, Refusal> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(pool.authority.clone());
        uri.path_and_query = Some(self.target);
        let uri = Uri::from_parts(uri).map_err(|error| Refusal::because(Reason::MalformedHead, error))?;
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers;
        Ok(request)
    }

    /// What hyper hands back; `None` where it has begun with the body.
    fn from_request(request: Request<Full<Bytes>>) -> Option<Self> {
        let (parts, body) = request.into_parts();
        let target = parts.uri.into_parts().path_and_query?;
        Some(Self { method: parts.method, target, headers: parts.headers, body: body.into_inner()? })
    }
}
