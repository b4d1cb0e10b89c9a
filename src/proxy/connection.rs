//! One connection of the agent: read a request, answer it, and again. HTTP/1.1 as RFC 9112 has
//! it, by our own hand, so that what is read strictly is also all that is read.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Shared;
use super::handler::{Answer, Handled, handle};
use super::inbound::{Inbound, ReadFault};
use super::outbound::Outbound;
use super::relay::Next;
use crate::core::decide::Refusal;
use crate::core::reason::Reason;
use crate::core::request::{Framing, Head};
use crate::runtime::drain::Phase;
use crate::telemetry::exchange::Exchange;

/// How much of a refused body is read before the connection closes.
const DISCARD_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Serves a connection to its end. `overloaded` answers one request with that reason.
pub(super) async fn serve(mut socket: TcpStream, shared: &Arc<Shared>, overloaded: bool) {
    // Without it, small events wait for the agent's acknowledgement.
    let _best_effort = socket.set_nodelay(true);
    let (reader, writer) = socket.split();
    talk(reader, writer, shared, overloaded).await;
}

/// The same on anything that can be read and written.
pub(super) async fn talk<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: R,
    writer: W,
    shared: &Arc<Shared>,
    overloaded: bool,
) {
    let mut connection = Connection { inbound: Inbound::new(reader), out: Outbound::new(writer), shared };
    let mut drain = shared.drain.clone();
    let serve = async { if overloaded { connection.overloaded().await } else { connection.run().await } };
    // Between requests nothing ends a connection but the end of the shutdown; inside one, the
    // exchange itself does.
    tokio::select! {
        () = serve => {}
        () = async { drain.reached(Phase::Closing).await; tokio::time::sleep(Duration::from_secs(1)).await } => {}
    }
}

struct Connection<'a, R, W> {
    inbound: Inbound<R>,
    out: Outbound<W>,
    shared: &'a Arc<Shared>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<'_, R, W> {
    async fn run(&mut self) {
        loop {
            let times = &self.shared.settings.times;
            let next = match self.inbound.head(&self.shared.settings.limits, times.idle, times.head).await {
                Ok(head) => self.exchange(&head).await,
                Err(ReadFault::Closed) => return,
                Err(ReadFault::Refused(refusal)) => {
                    self.refuse_head(&refusal).await;
                    Next::Close
                }
            };
            if next == Next::Close {
                self.out.shutdown().await;
                return;
            }
        }
    }

    async fn overloaded(&mut self) {
        let limits = &self.shared.settings.limits;
        let second = Duration::from_secs(1);
        if let Ok(head) = self.inbound.head(limits, second, second).await {
            let exchange = Exchange::begin(&self.shared.telemetry, head.method.as_str());
            let refusal = Refusal::because(Reason::Overloaded, "limits.connections are in use");
            self.last_answer(self.shared.respond.refuse(exchange, &refusal, None)).await;
        }
    }

    /// A head that cannot be trusted: what follows it cannot be told apart, so it is the last.
    async fn refuse_head(&mut self, refusal: &Refusal) {
        let exchange = Exchange::begin(&self.shared.telemetry, "?");
        self.last_answer(self.shared.respond.refuse(exchange, refusal, None)).await;
    }

    /// Writes an answer of our own; false if it could not be, or the agent would not take it.
    async fn whole(&mut self, response: &http::Response<bytes::Bytes>, close: bool, head_only: bool) -> bool {
        let written = timeout(self.shared.settings.times.idle, self.out.whole(response, close, head_only)).await;
        matches!(written, Ok(Ok(())))
    }

    async fn last_answer(&mut self, response: http::Response<bytes::Bytes>) {
        if self.whole(&response, true, false).await {
            self.out.shutdown().await;
            self.inbound.discard(DISCARD_BYTES, DISCARD_TIME).await;
        }
    }

    async fn exchange(&mut self, head: &Head) -> Next {
        let body = match self.read_body(head).await {
            Ok(body) => Ok(body),
            Err(ReadFault::Closed) => return Next::Close,
            Err(ReadFault::Refused(refusal)) => Err(refusal),
        };
        let unread = body.is_err();
        let close = unread || wants_close(head);
        let Handled { answer, _busy } = tokio::select! {
            biased;
            handled = handle(self.shared, head, body) => handled,
            // The handler's future is dropped, and with it whatever it holds upstream.
            () = self.inbound.closed() => return Next::Close,
        };
        match answer {
            Answer::Whole(response) if unread => {
                self.last_answer(response).await;
                Next::Close
            }
            Answer::Whole(response) => {
                let written = self.whole(&response, close, head.method == Method::HEAD).await;
                if written && !close { Next::Keep } else { Next::Close }
            }
            Answer::Relay(relay) => relay.run(&mut self.out, &head.method, close, self.inbound.closed()).await,
        }
    }

    async fn read_body(&mut self, head: &Head) -> Result<bytes::Bytes, ReadFault> {
        let expects =
            head.headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let settings = &self.shared.settings;
        let fits = !matches!(head.framing, Framing::Length(length) if length > settings.limits.body as u64);
        if expects && fits && !self.inbound.has_bytes() {
            let said = timeout(settings.times.head, self.out.go_on()).await;
            said.ok().and_then(Result::ok).ok_or(ReadFault::Closed)?;
        }
        self.inbound.body(head.framing, &settings.limits, &self.shared.budget, settings.times.head).await
    }
}

fn wants_close(head: &Head) -> bool {
    let values = head.headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}
