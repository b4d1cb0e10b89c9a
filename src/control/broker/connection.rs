//! One connection: TLS 1.3, then HTTP/2 (or HTTP/1.1), then `GET /v1/credentials` and nothing
//! else.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::refusal::Refusal;
use super::stream::Stream;
use crate::runtime::drain::Phase;
use crate::runtime::task;
use crate::telemetry::session::Session;

/// The largest head that a request may have; a token is the greater part of it.
const MAX_HEAD: u32 = 32 * 1024;
/// Streams of one connection. A sidecar has one.
const MAX_STREAMS: u32 = 8;
/// A connection without a stream is closed after this.
const IDLE: Duration = Duration::from_secs(20);
/// After a connection was told to end it may finish what it sends.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A connection's own state.
struct Connection {
    shared: Arc<Shared>,
    peer: IpAddr,
    /// How many requests are being answered.
    busy: watch::Sender<usize>,
    stalled: Arc<Notify>,
}

/// Serves a connection to its end.
pub(super) async fn serve(socket: TcpStream, peer: IpAddr, shared: Arc<Shared>) {
    let _best_effort = socket.set_nodelay(true);
    let metrics = &shared.log.metrics;
    let shaken = timeout(shared.settings.handshake, shared.acceptor.accept(socket)).await;
    let Ok(Ok(stream)) = shaken else {
        metrics.refused(Refusal::Handshake.as_str());
        return;
    };
    let connection =
        Arc::new(Connection { shared, peer, busy: watch::Sender::new(0), stalled: Arc::new(Notify::new()) });
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        connection.http2(stream).await;
    } else {
        connection.http1(stream).await;
    }
}

impl Connection {
    async fn http2(self: Arc<Self>, stream: TlsStream<TcpStream>) {
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD)
            // Nothing is read but heads, and little waits to be sent.
            .initial_stream_window_size(16 * 1024)
            .initial_connection_window_size(64 * 1024)
            .max_send_buf_size(64 * 1024)
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        let this = Arc::clone(&self);
        let service = service_fn(move |request| Arc::clone(&this).answer(request));
        let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ended = serving.as_mut() => return,
            () = self.over() => {}
        }
        serving.as_mut().graceful_shutdown();
        self.finish(serving).await;
    }

    async fn http1(self: Arc<Self>, stream: TlsStream<TcpStream>) {
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(MAX_HEAD as usize);
        let this = Arc::clone(&self);
        let service = service_fn(move |request| Arc::clone(&this).answer(request));
        let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ended = serving.as_mut() => return,
            () = self.over() => {}
        }
        serving.as_mut().graceful_shutdown();
        self.finish(serving).await;
    }

    /// Waits until nothing new may come: the shutdown has begun, or nobody wants anything.
    async fn over(&self) {
        let mut drain = self.shared.drain.clone();
        tokio::select! {
            () = drain.reached(Phase::Draining) => {}
            () = self.idle() => {}
            () = self.stalled.notified() => self.stalled.notify_one(),
        }
    }

    /// Lets what is under way come to its end.
    async fn finish(&self, serving: impl Future) {
        let mut drain = self.shared.drain.clone();
        let closing = async {
            drain.reached(Phase::Closing).await;
            tokio::time::sleep(LAST_WORD).await;
        };
        tokio::select! {
            _ended = serving => {}
            () = closing => {}
            () = self.stalled.notified() => {}
        }
    }

    async fn idle(&self) {
        let mut busy = self.busy.subscribe();
        loop {
            // The sender lives as long as this connection.
            let _never = busy.wait_for(|busy| *busy == 0).await.map(drop);
            if timeout(IDLE, busy.wait_for(|busy| *busy > 0)).await.is_err() {
                return;
            }
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Outgoing>, Infallible> {
        let busy = Busy::new(&self.busy);
        let answer = match self.open(&request, busy).await {
            Ok(stream) => stream,
            Err(refusal) => {
                self.shared.log.metrics.refused(refusal.as_str());
                tracing::debug!(peer = %self.peer, reason = refusal.as_str(), "refused");
                refusal.answer().map(|body| Outgoing::Whole(Some(body)))
            }
        };
        Ok(answer)
    }

    async fn open(&self, request: &Request<Incoming>, busy: Busy) -> Result<Response<Outgoing>, Refusal> {
        let shared = &self.shared;
        let uri = request.uri();
        if request.method() != Method::GET || uri.path() != "/v1/credentials" || uri.query().is_some() {
            return Err(Refusal::NotFound);
        }
        let Some(running) = shared.drain.enter() else { return Err(Refusal::Draining) };
        // Before anyone is asked about a token.
        if !shared.heard.borrow().bindings {
            return Err(Refusal::SourceNotReady);
        }
        let mut drain = shared.drain.clone();
        let admitted = tokio::select! {
            // Who still waits for a turn had better ask another broker.
            () = drain.reached(Phase::Draining) => return Err(Refusal::Draining),
            admitted = shared.admit.admit(request.headers(), self.peer, &shared.log.metrics) => admitted?,
        };
        let identity = admitted.identity;
        if !shared.heard.borrow().vouches_for(&identity.account.namespace) {
            return Err(Refusal::SourceNotReady);
        }
        let (out, pieces) = mpsc::channel(1);
        let stream = Stream {
            view: shared.views.subscribe(&identity.account),
            heard: shared.heard.clone(),
            encodings: Arc::clone(&shared.encodings),
            times: shared.settings.times,
            good_for: admitted.good_for,
            drain: shared.drain.clone(),
            out,
            stalled: Arc::clone(&self.stalled),
            session: Session::begin(
                &shared.log,
                &identity.account,
                identity.pod.as_str(),
                &identity.pod_uid,
                self.peer,
            ),
            account: identity.account.clone(),
        };
        let share = admitted.share;
        task::spawn(async move {
            stream.run().await;
            drop((share, running, busy));
        });
        let mut response = Response::new(Outgoing::Stream(pieces));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }
}

/// Counts a request for as long as it is answered.
struct Busy(watch::Sender<usize>);

impl Busy {
    fn new(busy: &watch::Sender<usize>) -> Self {
        busy.send_modify(|busy| *busy += 1);
        Self(busy.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|busy| *busy -= 1);
    }
}

/// An answer's body.
enum Outgoing {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(body) => Poll::Ready(body.take().map(|body| Ok(Frame::data(body)))),
            Self::Stream(pieces) => pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }
}
