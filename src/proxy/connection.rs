//! One connection of the agent: read a request, answer it, and again. HTTP/1.1 as RFC 9112 has
//! it, by our own hand, so that what is read strictly is also all that is read.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Method, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::body::RequestBody;
use super::handler::{Answer, Handled, handle};
use super::inbound::{Inbound, ReadFault};
use super::outbound::{Out as _, Outbound};
use super::relay::Next;
use super::waiting::Waiting;
use crate::core::capture::{self, Direct, HostPattern, Verdict, Way};
use crate::core::decide::Refusal;
use crate::core::fields::Known;
use crate::core::reason::Reason;
use crate::core::request::{Asked, Framing, Head};
use crate::core::upstream::{Host, Place, Scheme};
use crate::runtime::drain::Phase;
use crate::runtime::place::placed;
use crate::telemetry::exchange::Exchange;

/// How much of a refused body is read before the connection closes.
const DISCARD_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(2);
/// How long a connection may outlast the end of the shutdown, to say so.
const LAST_SECOND: Duration = Duration::from_secs(1);

/// How the reading of requests ended.
pub(super) enum End {
    /// Nothing more is to be done.
    Over,
    /// The agent was told that it has a tunnel to this bound place.
    Inside(Place),
    /// The agent waits for a tunnel to this place, which needs no credential.
    Tunnel(Passage),
    /// The agent waits for the answer to this request, which needs no credential.
    Forward(Passage, Box<Head>),
}

/// A way through, to a place that the configuration lets everybody reach.
pub(super) struct Passage {
    pub(super) place: Place,
    pub(super) pattern: HostPattern,
}

/// Serves a connection to the endpoint to its end. `overloaded` answers one request with that reason.
pub(super) async fn serve(mut socket: TcpStream, shared: &Arc<Shared>, overloaded: bool) {
    let (reader, writer) = socket.split();
    let _over = talk((reader, Vec::new()), writer, shared, &Way::Endpoint, overloaded).await;
}

/// The same on anything that can be read and written, until it ends or is to go on otherwise.
/// With `reader` comes what was read of it already; with the end, what was read and not used.
pub(super) async fn talk<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin + Send>(
    (reader, early): (R, Vec<u8>),
    writer: W,
    shared: &Arc<Shared>,
    way: &Way,
    overloaded: bool,
) -> (End, Vec<u8>) {
    let (inbound, out) = (Inbound::new(reader, early), Outbound::new(writer));
    let mut connection = Connection { inbound, out, shared, way, waiting: Waiting::new(shared) };
    let end = {
        let mut serve = pin!(async {
            if overloaded {
                connection.overloaded().await;
                return End::Over;
            }
            connection.run().await
        });
        let (mut shutdown, mut last) = (shared.drain.alarm().listener(), None);
        // Between requests nothing ends a connection but the end of the shutdown; inside one, the
        // exchange itself does.
        poll_fn(|cx| {
            shutdown.listen(cx);
            if let Poll::Ready(end) = serve.as_mut().poll(cx) {
                return Poll::Ready(end);
            }
            if !shared.drain.has_reached(Phase::Closing) {
                return Poll::Pending;
            }
            last.get_or_insert_with(|| Box::pin(sleep(LAST_SECOND))).as_mut().poll(cx).map(|()| End::Over)
        })
        .await
    };
    (end, connection.inbound.into_rest())
}

struct Connection<'a, R, W> {
    inbound: Inbound<R>,
    out: Outbound<W>,
    shared: &'a Arc<Shared>,
    way: &'a Way,
    waiting: Waiting,
}

impl<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin + Send> Connection<'_, R, W> {
    async fn run(&mut self) -> End {
        let tunnels = *self.way == Way::Proxy;
        loop {
            let (limits, times) = (&self.shared.settings.limits, &self.shared.settings.times);
            let asked = self.inbound.head(tunnels, limits, (times.idle, times.head), &mut self.waiting.patience).await;
            let next = match asked {
                Ok(Asked::Request(head)) => match passage(self.shared, self.way, &head) {
                    Some(passage) => return End::Forward(passage, Box::new(head)),
                    // Apart: a connection between two calls, as most are, needs no room for one.
                    None => Box::into_pin(placed(|| self.exchange(head))).await,
                },
                Ok(Asked::Tunnel(place)) => return self.tunnel(place).await,
                Err(ReadFault::Closed) => return End::Over,
                Err(ReadFault::Refused(refusal)) => {
                    self.refuse_head("?", &refusal).await;
                    Next::Close
                }
            };
            if next == Next::Close {
                // A socket's own end says the same as its shutdown, for a system call less.
                if self.way.is_tls() {
                    self.out.shutdown().await;
                }
                return End::Over;
            }
        }
    }

    /// CONNECT: what is bound is led to ourselves, and what may pass is dialled before it is promised.
    async fn tunnel(&mut self, place: Place) -> End {
        match judge(self.shared, &place.host) {
            Ok(Verdict::Pass(pattern)) => End::Tunnel(Passage { place, pattern }),
            Ok(Verdict::Terminate) => {
                let said = timeout(self.shared.settings.times.head, self.out.tunnel_open()).await;
                if matches!(said, Ok(Ok(()))) { End::Inside(place) } else { End::Over }
            }
            Err(refusal) => {
                self.refuse_head("CONNECT", &refusal).await;
                self.out.shutdown().await;
                End::Over
            }
        }
    }

    async fn overloaded(&mut self) {
        let limits = &self.shared.settings.limits;
        let second = Duration::from_secs(1);
        if let Ok(asked) =
            self.inbound.head(*self.way == Way::Proxy, limits, (second, second), &mut self.waiting.patience).await
        {
            let method = match &asked {
                Asked::Request(head) => head.method.as_str(),
                Asked::Tunnel(_) => "CONNECT",
            };
            let exchange = Exchange::begin(&self.shared.telemetry, method);
            let refusal = Refusal::because(Reason::Overloaded, "limits.connections are in use");
            self.last_answer(self.shared.respond.refuse(exchange, &refusal, None)).await;
        }
    }

    /// A head that cannot be trusted: what follows it cannot be told apart, so it is the last.
    async fn refuse_head(&mut self, method: &str, refusal: &Refusal) {
        let mut exchange = Exchange::begin(&self.shared.telemetry, method);
        exchange.way(self.way);
        self.last_answer(self.shared.respond.refuse(exchange, refusal, None)).await;
    }

    /// Writes an answer of our own; false if it could not be, or the agent would not take it.
    async fn whole(&mut self, response: &http::Response<bytes::Bytes>, close: bool, head_only: bool) -> bool {
        let written = self.out.whole(response, close, head_only);
        let written = self.waiting.patience.within(self.shared.settings.times.idle, pin!(written)).await;
        matches!(written, Ok(Ok(())))
    }

    async fn last_answer(&mut self, response: http::Response<bytes::Bytes>) {
        last_answer(&mut self.inbound, &mut self.out, &response, self.shared.settings.times.idle).await;
    }

    async fn exchange(&mut self, head: Head) -> Next {
        let body = match self.read_body(&head).await {
            Ok(body) => Ok(body),
            Err(ReadFault::Closed) => return Next::Close,
            Err(ReadFault::Refused(refusal)) => Err(refusal),
        };
        let unread = body.is_err();
        let close = unread || head.headers.say_close();
        let Handled { answer, _busy } = tokio::select! {
            biased;
            handled = handle(self.shared, self.way, Version::HTTP_11, (&head, body), &mut self.waiting) => handled,
            // The handler's future is dropped, and with it whatever it holds upstream.
            () = self.inbound.closed() => return Next::Close,
        };
        let method = head.method.clone();
        // A stream may last for days: what was asked is not kept.
        drop(head);
        match answer {
            Answer::Whole(response) if unread => {
                self.last_answer(response).await;
                Next::Close
            }
            Answer::Whole(response) => {
                let written = self.whole(&response, close, method == Method::HEAD).await;
                if written && !close { Next::Keep } else { Next::Close }
            }
            Answer::Relay(relay) => {
                relay.run(&mut self.out, &method, close, self.inbound.closed(), &mut self.waiting).await
            }
        }
    }

    async fn read_body(&mut self, head: &Head) -> Result<RequestBody, ReadFault> {
        let expects = head.headers.get(Known::Expect).is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        let settings = &self.shared.settings;
        let fits = !matches!(head.framing, Framing::Length(length) if length > settings.limits.body as u64);
        if expects && fits && !self.inbound.has_bytes() {
            let said = timeout(settings.times.head, self.out.go_on()).await;
            said.ok().and_then(Result::ok).ok_or(ReadFault::Closed)?;
        }
        let time = (settings.times.head, &mut self.waiting.patience);
        self.inbound.body(head.framing, &settings.limits, &self.shared.budget, time).await
    }
}

/// Writes the last answer of a connection, within `time`, and waits a moment for the agent to read it.
pub(super) async fn last_answer<R: AsyncRead + Unpin, W: AsyncWrite + Unpin + Send>(
    inbound: &mut Inbound<R>,
    out: &mut Outbound<W>,
    response: &http::Response<bytes::Bytes>,
    time: Duration,
) {
    if matches!(timeout(time, out.whole(response, true, false)).await, Ok(Ok(()))) {
        out.shutdown().await;
        inbound.discard(DISCARD_BYTES, DISCARD_TIME).await;
    }
}

/// Whether a TLS connection to the host ends here, or where else it goes.
pub(super) fn judge(shared: &Shared, host: &Host) -> Result<Verdict, Refusal> {
    let stand_in = shared.stand_in.get().ok_or_else(|| Refusal::new(Reason::SourceNotReady))?;
    stand_in.scope.verdict(&shared.credentials.view().routes, host)
}

/// Where a request in clear text goes, if it is none of ours. Whatever is wrong with it is told by
/// the one who decides about ours.
fn passage(shared: &Shared, way: &Way, head: &Head) -> Option<Passage> {
    match way {
        Way::Proxy | Way::Direct(Direct { scheme: Scheme::Http, host: None, .. }) => {}
        Way::Endpoint | Way::Direct(_) => return None,
    }
    let origin = capture::origin(head, way).ok().filter(|origin| origin.scheme == Scheme::Http)?;
    let stand_in = shared.stand_in.get()?;
    let verdict = stand_in.scope.verdict_in_clear(&shared.credentials.view().routes, &origin.place.host);
    match verdict {
        Ok(Verdict::Pass(pattern)) => Some(Passage { place: origin.place, pattern }),
        _ => None,
    }
}
