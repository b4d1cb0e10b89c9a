//! HTTP/2 of an agent that takes us for the server: each stream is a request like any other.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::handler::{Answer, Handled, handle};
use super::inbound::{ReadFault, collect};
use super::outbound::{BodyFrame, Out};
use super::relay::{Next, Relay};
use super::waiting::Waiting;
use crate::core::capture::{Direct, Way};
use crate::core::decide::Refusal;
use crate::core::fields::{FieldLines, Fields};
use crate::core::reason::Reason;
use crate::core::request::{Framing, Head, MAX_FIELDS, Target};
use crate::core::upstream::Scheme;
use crate::runtime::drain::{Busy, Drain, Phase};
use crate::runtime::task;
use crate::telemetry::exchange::Exchange;

/// Calls of one connection at once.
const STREAMS: u32 = 128;
/// Bytes of one answer that wait for an agent that does not read them.
const SEND_BYTES: usize = 64 * 1024;

/// For GOAWAY and its answer.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Serves a connection to its end.
pub(super) async fn serve<S>(stream: S, way: Way, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (way, active) = (Arc::new(way), Arc::new(AtomicUsize::new(0)));
    let service = service_fn(|request| {
        let (shared, way, active) = (Arc::clone(shared), Arc::clone(&way), Active::new(&active));
        async move { Ok::<_, io::Error>(answer(request, &way, &shared, active).await) }
    });
    let head = u32::try_from(shared.settings.limits.head).unwrap_or(u32::MAX);
    let mut server = http2::Builder::new(TokioExecutor::new());
    server.timer(TokioTimer::new()).max_concurrent_streams(STREAMS).max_send_buf_size(SEND_BYTES);
    server.max_header_list_size(head);
    let connection = server.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // The shutdown waits for what is under way here, to its last byte on the wire.
    let _busy = shared.drain.enter();
    let mut drain = shared.drain.clone();
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = drain.reached(Phase::Draining) => {}
        () = stillness(&active, shared) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ended = connection => {}
        () = let_go(&active, &mut drain) => {}
    }
}

/// A connection that is to end has a second for what is said at the end, once no call is under way, or
/// none may be.
async fn let_go(active: &AtomicUsize, drain: &mut Drain) {
    let idle = async {
        while active.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(LAST_WORD / 20).await;
        }
    };
    tokio::select! {
        () = idle => {}
        () = drain.reached(Phase::Closing) => {}
    }
    tokio::time::sleep(LAST_WORD).await;
}

/// Waits for a time in which the agent asks for nothing.
async fn stillness(active: &AtomicUsize, shared: &Shared) {
    let mut quiet = false;
    loop {
        tokio::time::sleep(shared.settings.times.idle).await;
        let still = active.load(Ordering::Relaxed) == 0;
        if still && quiet {
            return;
        }
        quiet = still;
    }
}

/// Counts one call for as long as it lives.
struct Active(Arc<AtomicUsize>);

impl Active {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(request: Request<Incoming>, way: &Way, shared: &Arc<Shared>, active: Active) -> Response<Pieces> {
    let (parts, body) = request.into_parts();
    let head = match head(parts, &body, way) {
        Ok(head) => head,
        Err((method, refusal)) => {
            let mut exchange = Exchange::begin(&shared.telemetry, method.as_str());
            exchange.way(way);
            return whole(shared.respond.refuse(exchange, &refusal, None));
        }
    };
    let settings = &shared.settings;
    let read = match head.framing {
        Framing::Length(length) if length > settings.limits.body as u64 => {
            Err(ReadFault::Refused(Refusal::new(Reason::BodyTooLarge)))
        }
        _ => collect(body, &settings.limits, &shared.budget, settings.times.head).await,
    };
    let body = match read {
        Ok(body) => Ok(body),
        Err(ReadFault::Refused(refusal)) => Err(refusal),
        // The stream or the connection is gone, and nobody reads this.
        Err(ReadFault::Closed) => Err(Refusal::because(Reason::BadJsonRpc, "the body was broken off")),
    };
    let mut waiting = Waiting::new(shared);
    let Handled { answer, _busy } = handle(shared, way, Version::HTTP_2, (&head, body), &mut waiting).await;
    match answer {
        Answer::Whole(response) => whole(response),
        Answer::Relay(relay) => stream((*relay, waiting), head.method, _busy, active).await,
    }
}

/// An agent's head in the form in which all are decided: what HTTP/1.1 says in Host is said by
/// `:authority` here (RFC 9113 section 8.3.1).
fn head(parts: http::request::Parts, body: &Incoming, way: &Way) -> Result<Head, (Method, Refusal)> {
    let method = parts.method;
    let refuse = |reason, detail| Err((method.clone(), Refusal::because(reason, detail)));
    if method == Method::CONNECT {
        return refuse(Reason::TunnelForbidden, "CONNECT");
    }
    let Way::Direct(Direct { scheme: spoken, .. }) = way else { return refuse(Reason::NotHttp, "HTTP/2") };
    if parts.uri.scheme_str().and_then(Scheme::parse) != Some(*spoken) {
        return refuse(Reason::AuthorityMismatch, "the scheme is not the connection's");
    }
    let Some(authority) = parts.uri.authority() else { return refuse(Reason::MalformedHead, "no :authority") };
    let mut headers = parts.headers;
    if headers.len() > MAX_FIELDS {
        return refuse(Reason::HeadTooLarge, "fields");
    }
    let same = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
    if !headers.get_all(HOST).iter().all(same) {
        return refuse(Reason::AuthorityMismatch, "Host and :authority disagree");
    }
    let Ok(host) = HeaderValue::from_str(authority.as_str()) else {
        return refuse(Reason::MalformedHead, "the :authority is no host");
    };
    headers.insert(HOST, host);
    let headers = Fields::from(&headers);
    let framing = match body.size_hint().exact() {
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    let target =
        Target { authority: None, path: parts.uri.path().to_owned(), query: parts.uri.query().map(str::to_owned) };
    Ok(Head { method, target, headers, framing })
}

fn whole(response: Response<Bytes>) -> Response<Pieces> {
    response.map(|body| Pieces::Whole(Some(body)))
}

/// Streams an answer in a task of its own, as long as the agent takes it.
async fn stream(
    (relay, mut waiting): (Relay, Waiting),
    method: Method,
    busy: Option<Busy>,
    active: Active,
) -> Response<Pieces> {
    let (pieces, receiver) = mpsc::channel(1);
    let (head, said) = oneshot::channel();
    let complete = Arc::new(AtomicBool::new(false));
    // From now on the receiver tells whether the agent is still there: it is dropped with the stream.
    let body = Pieces::Streamed { receiver, complete: Arc::clone(&complete) };
    task::spawn(async move {
        let _held = (busy, active);
        let gone = pieces.clone();
        let mut out = Streamed { head: Some(head), waiting: None, pieces, complete };
        let next = relay.run(&mut out, &method, false, async move { gone.closed().await }, &mut waiting).await;
        if next == Next::Keep {
            out.complete.store(true, Ordering::Release);
        }
    });
    match said.await {
        Ok(head) => head.map(|()| body),
        // The relay ended without a word: lost by us, or cut before its head.
        Err(_) => {
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    }
}

/// An answer's body.
enum Pieces {
    /// One of our own.
    Whole(Option<Bytes>),
    /// An upstream's, as it comes. Without `complete`, its end is a break.
    Streamed { receiver: mpsc::Receiver<Bytes>, complete: Arc<AtomicBool> },
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match &mut *self {
            Self::Whole(body) => body.take().map(|body| Ok(Frame::data(body))),
            Self::Streamed { receiver, complete } => match ready!(receiver.poll_recv(cx)) {
                Some(piece) => Some(Ok(Frame::data(piece))),
                None if complete.load(Ordering::Acquire) => None,
                None => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            },
        })
    }
}

/// The writing half of one stream.
struct Streamed {
    head: Option<oneshot::Sender<Response<()>>>,
    waiting: Option<Response<()>>,
    pieces: mpsc::Sender<Bytes>,
    complete: Arc<AtomicBool>,
}

impl Out for Streamed {
    fn head(&mut self, status: StatusCode, headers: &FieldLines, frame: BodyFrame, _close: bool) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers.to_map();
        if let BodyFrame::Length(length) = frame {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        self.waiting = Some(response);
    }

    fn buffer_data(&mut self, _data: &Bytes, _frame: BodyFrame) -> bool {
        false
    }

    async fn data(&mut self, data: Bytes, _frame: BodyFrame) -> io::Result<()> {
        self.flush().await?;
        self.pieces.send(data).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn forget(&mut self) {
        self.waiting = None;
    }

    fn end_chunks(&mut self) {
        self.complete.store(true, Ordering::Release);
    }

    async fn flush(&mut self) -> io::Result<()> {
        let (Some(response), Some(head)) = (self.waiting.take(), self.head.take()) else { return Ok(()) };
        head.send(response).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn whole(&mut self, response: &Response<Bytes>, close: bool, head_only: bool) -> io::Result<()> {
        let body = response.body();
        self.head(response.status(), &response.headers().into(), BodyFrame::Length(body.len() as u64), close);
        self.flush().await?;
        if !head_only {
            self.pieces.send(body.clone()).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        self.end_chunks();
        Ok(())
    }
}
