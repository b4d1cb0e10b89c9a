//! A broker that says whatever a test writes for it, over real TLS and HTTP/2.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::certificates::{Authority, NAMES};
use super::observed::Observed;

/// What is said on one stream, piece by piece; then nothing more is.
pub type Script = Vec<Vec<u8>>;

/// The babbler. It goes with the test's runtime.
pub struct Babbler {
    authority: Authority,
    address: SocketAddr,
    said: Arc<Said>,
}

struct Said {
    scripts: Mutex<VecDeque<Script>>,
    streams: Arc<Observed<Vec<Event>>>,
}

/// What became of a stream; the first has the number 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Asked(usize),
    /// The sidecar has let it go.
    Left(usize),
}

impl Babbler {
    /// Says these, one on each stream, and the last one on all that come after.
    pub async fn start(scripts: Vec<Script>) -> Self {
        let authority = Authority::new();
        let acceptor = TlsAcceptor::from(authority.server(&NAMES, &[b"h2"], false));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let said = Arc::new(Said { scripts: Mutex::new(scripts.into()), streams: Arc::new(Observed::new(Vec::new())) });
        let shared = Arc::clone(&said);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, said) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(socket).await else { return };
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let said = Arc::clone(&said);
                        async move { Ok::<_, Infallible>(said.answer(&request)) }
                    });
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // Sidecars leave as they please.
                    let _ended = http.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Self { authority, address, said }
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub fn ca(&self) -> String {
        self.authority.pem().to_owned()
    }

    /// Awaits that so many streams have been asked for.
    pub async fn asked(&self, least: usize) {
        self.until(Event::Asked(least - 1)).await;
    }

    /// Awaits an event, and returns it with all before it.
    pub async fn until(&self, event: Event) -> Vec<Event> {
        let seen = |events: &mut Vec<Event>| {
            let at = events.iter().position(|seen| *seen == event)?;
            Some(events.iter().take(at + 1).copied().collect())
        };
        self.said.streams.until(&format!("{event:?} at the broker"), seen).await
    }
}

impl Said {
    fn answer(&self, request: &Request<Incoming>) -> Response<Speech> {
        assert_eq!(request.uri().path(), "/v1/credentials");
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        let script = if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().cloned() };
        drop(scripts);
        let number = self.streams.update(|events| {
            let number = events.iter().filter(|event| matches!(event, Event::Asked(_))).count();
            events.push(Event::Asked(number));
            number
        });
        let pieces = script.unwrap_or_default().into();
        Response::new(Speech { pieces, number, streams: Arc::clone(&self.streams) })
    }
}

/// A body that says its pieces and then stays silent for ever.
struct Speech {
    pieces: VecDeque<Vec<u8>>,
    number: usize,
    streams: Arc<Observed<Vec<Event>>>,
}

impl Drop for Speech {
    fn drop(&mut self) {
        self.streams.update(|events| events.push(Event::Left(self.number)));
    }
}

impl Body for Speech {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.pieces.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
            None => Poll::Pending,
        }
    }
}
