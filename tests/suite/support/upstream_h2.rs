//! The HTTP/2 side of a capture, by hyper's server: header lists in order, resets noticed.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

use super::answer::{Answer, End, Step, Steps};
use super::capture::{Request, Script, Seen, Wire};
use super::observed::Observed;

/// Serves one connection until either side ends it.
pub async fn serve(number: usize, wire: Box<dyn Wire>, seen: Arc<Observed<Seen>>, script: Arc<Script>) {
    let (leave, mut leaving) = mpsc::unbounded_channel();
    let service = service_fn(|request| {
        let (seen, script, leave) = (Arc::clone(&seen), Arc::clone(&script), leave.clone());
        async move { answer(number, request, seen, &script, &leave).await }
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.max_concurrent_streams(script.streams.load(Ordering::Relaxed));
    let mut connection = pin!(server.serve_connection(TokioIo::new(wire), service));
    loop {
        tokio::select! {
            // How a connection ended is recorded stream by stream.
            _ = &mut connection => break,
            Some(end) = leaving.recv() => match end {
                End::Close => connection.as_mut().graceful_shutdown(),
                _ => break,
            },
        }
    }
    seen.update(|seen| seen.connections[number].peer_closed = true);
}

type AnswerBody = Either<Full<Bytes>, StepBody>;

async fn answer(
    connection: usize,
    request: http::Request<Incoming>,
    seen: Arc<Observed<Seen>>,
    script: &Script,
    leave: &mpsc::UnboundedSender<End>,
) -> io::Result<http::Response<AnswerBody>> {
    let request = record(connection, request).await;
    let number = seen.update(|seen| {
        seen.connections[connection].bytes.extend_from_slice(&request.dump());
        seen.requests.push(request.clone());
        seen.requests.len() - 1
    });
    let pending = Pending { number, seen, complete: false };
    match script.answer(&request).given().await.unwrap_or(Answer::Never) {
        Answer::Full { status, headers, body } => {
            pending.complete();
            Ok(respond(status, &headers, Either::Left(Full::new(body))))
        }
        Answer::Stream { status, headers, steps, .. } => {
            Ok(respond(status, &headers, Either::Right(StepBody { steps, pending })))
        }
        Answer::Never | Answer::Later(_) => {
            let _pending = pending;
            std::future::pending().await
        }
        Answer::Raw(bytes, end) if bytes.is_empty() => {
            pending.break_off();
            if end != End::Reset {
                // The connection may have ended by itself.
                let _ = leave.send(end);
            }
            Err(io::ErrorKind::ConnectionAborted.into())
        }
        Answer::Raw(..) | Answer::Pieces(..) => panic!("literal bytes cannot be an HTTP/2 answer"),
    }
}

fn respond(status: u16, headers: &[(String, String)], body: AnswerBody) -> http::Response<AnswerBody> {
    let mut response = http::Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(body).expect("scripted headers are valid")
}

async fn record(connection: usize, request: http::Request<Incoming>) -> Request {
    let (parts, body) = request.into_parts();
    let text = |headers: &http::HeaderMap| -> Vec<(String, String)> {
        let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        headers.iter().map(line).collect()
    };
    let collected = body.collect().await.ok();
    let whole = collected.is_some();
    let trailers = collected.as_ref().and_then(|collected| collected.trailers().map(text)).unwrap_or_default();
    let body = collected.map(|collected| collected.to_bytes().to_vec()).unwrap_or_default();
    Request {
        connection,
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        authority: parts.uri.authority().map(ToString::to_string).unwrap_or_default(),
        headers: text(&parts.headers),
        body,
        trailers,
        whole,
        answered: false,
        abandoned: false,
    }
}

/// An answer under way: dropped before it is complete means that the peer gave it up.
struct Pending {
    number: usize,
    seen: Arc<Observed<Seen>>,
    complete: bool,
}

impl Pending {
    fn complete(mut self) {
        self.mark_complete();
    }

    /// This side breaks it off: not the peer's doing.
    fn break_off(mut self) {
        self.complete = true;
    }

    fn mark_complete(&mut self) {
        self.complete = true;
        self.seen.update(|seen| seen.requests[self.number].answered = true);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.complete {
            self.seen.update(|seen| seen.requests[self.number].abandoned = true);
        }
    }
}

/// A body of scripted steps.
struct StepBody {
    steps: Steps,
    pending: Pending,
}

impl Body for StepBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match ready!(self.steps.receiver.poll_recv(cx)) {
            Some(Step::Send(piece)) => {
                self.steps.pushed.update(|pushed| *pushed += piece.len());
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Some(Step::Finish) => {
                self.pending.mark_complete();
                Poll::Ready(None)
            }
            Some(Step::End(_)) => {
                // This side broke it off: not the peer's doing.
                self.pending.complete = true;
                Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
            }
            // The test let go of the stream: it stays open like a quiet server.
            None => Poll::Pending,
        }
    }
}
