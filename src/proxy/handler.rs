//! One request: decide, lease, send, hand back. The product on one screen.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode, Version};

use super::Shared;
use super::body::RequestBody;
use super::relay::Relay;
use super::respond;
use super::upstream::{Incomer, Outgoing};
use super::waiting::Waiting;
use crate::core::capture::Way;
use crate::core::decide::{Ask, Decision, Plan, Refusal, decide};
use crate::core::fields::{Fields, Known};
use crate::core::mask::Masker;
use crate::core::message::{self, Body, BodyFault, Kind, Message};
use crate::core::reason::Reason;
use crate::core::request::Head;
use crate::core::rewrite;
use crate::core::session::{SessionDigest, Sessions};
use crate::credential::Lease;
use crate::runtime::drain::Busy;
use crate::runtime::patience::{Late, Patience};
use crate::runtime::place::placed;
use crate::telemetry::exchange::Exchange;

/// What goes back to the agent.
pub(super) enum Answer {
    /// An answer of our own; its exchange is finished.
    Whole(Response<Bytes>),
    /// The upstream's answer, to be streamed.
    Relay(Box<Relay>),
}

/// An answer, and the shutdown's reason to wait for it.
pub(super) struct Handled {
    pub(super) answer: Answer,
    pub(super) _busy: Option<Busy>,
}

/// Answers one request of an agent that speaks `protocol`. `body` is what was read of it, or why it
/// could not be.
pub(super) async fn handle(
    shared: &Arc<Shared>,
    way: &Way,
    protocol: Version,
    (head, body): (&Head, Result<RequestBody, Refusal>),
    waiting: &mut Waiting,
) -> Handled {
    let mut exchange = Exchange::begin(&shared.telemetry, head.method.as_str());
    exchange.way(way);
    exchange.protocol(protocol);
    let session = head.headers.get(Known::McpSessionId).map(SessionDigest::of);
    exchange.context(session, head.headers.text(Known::TraceParent));
    let busy = shared.drain.enter();
    let body = match body {
        Ok(body) => body,
        Err(refusal) => {
            return Handled { answer: Answer::Whole(shared.respond.refuse(exchange, &refusal, None)), _busy: busy };
        }
    };
    exchange.received(body.len());
    let read = (head.method == Method::POST).then(|| message::parse(&body));
    let single = single(read.as_ref());
    match (&read, single) {
        (_, Some(message)) => exchange.message(message.method.as_deref(), message.params.name.as_deref(), message.id),
        (Some(Ok(_)), None) => exchange.body_kind("batch"),
        (Some(Err(_)), None) => exchange.body_kind("invalid"),
        (None, None) => {}
    }
    let request_id = single.filter(|message| message.kind == Some(Kind::Request)).and_then(|message| message.id);
    let request = Request { shared, way, head, read: read.as_ref(), session, body: &body, id: request_id };
    let outcome = match &busy {
        None => Err((exchange, Refusal::new(Reason::Draining))),
        Some(_) => request.answer(exchange, waiting).await,
    };
    let refused = |(exchange, refusal)| Answer::Whole(shared.respond.refuse(exchange, &refusal, request_id));
    Handled { answer: outcome.unwrap_or_else(refused), _busy: busy }
}

fn single<'a, 'b>(read: Option<&'a Result<Body<'b>, BodyFault>>) -> Option<&'a Message<'b>> {
    match read {
        Some(Ok(Body::One(message))) => Some(message),
        _ => None,
    }
}

/// One request, read.
struct Request<'a> {
    shared: &'a Arc<Shared>,
    way: &'a Way,
    head: &'a Head,
    read: Option<&'a Result<Body<'a>, BodyFault>>,
    session: Option<SessionDigest>,
    body: &'a RequestBody,
    /// The JSON-RPC id, of a request that wants an answer.
    id: Option<&'a str>,
}

impl Request<'_> {
    async fn answer(&self, mut exchange: Exchange, waiting: &mut Waiting) -> Result<Answer, (Exchange, Refusal)> {
        let view = self.shared.credentials.view();
        let givers = self.session.map(|session| lock(&self.shared.sessions).givers(session)).unwrap_or_default();
        let stream_target = self.shared.messages.target(&self.head.target.path);
        let ask = Ask {
            way: self.way,
            interception: self.shared.stand_in.get().map(|stand_in| &stand_in.scope),
            head: self.head,
            body: self.read,
            stream_target: stream_target.as_deref(),
            session_givers: &givers,
        };
        let plan = match decide(&view.routes, &ask) {
            Decision::Forward(plan) => plan,
            Decision::NotFound => return Ok(Answer::Whole(respond::not_found(exchange))),
            Decision::Refuse(refusal) => return Err((exchange, refusal)),
        };
        let server = &plan.route.binding.server.name;
        exchange.server(server);
        let lease = match view.lease(&plan.route) {
            Ok(lease) => lease,
            Err(refusal) => return Err((exchange, refusal)),
        };
        drop(view);
        // A call that waits for its answer ends with its credential, and with the shutdown.
        let Waiting { patience, ends } = waiting;
        let forwarded = {
            let mut forward = pin!(self.forward(&plan, &lease, &mut exchange, patience));
            poll_fn(|cx| match ends.reason(cx, &lease) {
                Some(reason) => Poll::Ready(Err(Refusal::new(reason))),
                None => forward.as_mut().poll(cx),
            })
            .await
        };
        match forwarded {
            Ok((incomer, lease)) => {
                self.remember_session(&plan, &incomer);
                Ok(Answer::Relay(placed(|| self.relay(&plan, incomer, lease, exchange))))
            }
            Err(refusal) => Err((exchange, refusal.at(server))),
        }
    }

    /// Sends with the lease; once more if the upstream refuses a credential that has been
    /// replaced meanwhile. An MCP call is not idempotent, but one that was answered 401 was not
    /// run.
    async fn forward(
        &self,
        plan: &Plan,
        lease: &Lease,
        exchange: &mut Exchange,
        patience: &mut Patience,
    ) -> Result<(Incomer, Lease), Refusal> {
        let (fields, stripped) = rewrite::to_upstream(&self.head.headers, &plan.route.binding);
        if plan.stripped_query || stripped {
            exchange.token_stripped();
        }
        let outgoing = Outgoing { method: &self.head.method, target: &plan.target, fields, body: self.body };
        let first = self.send(plan, lease, &outgoing, exchange, patience).await?;
        if !is_rejection(&first) {
            return Ok((first, lease.clone()));
        }
        let rejected = Refusal::new(Reason::UpstreamAuthRejected);
        if first.status != StatusCode::UNAUTHORIZED {
            return Err(rejected);
        }
        drop(first);
        let newer = self.shared.credentials.view().lease(&plan.route).ok();
        let newer = newer.filter(|newer| newer.credential.generation != lease.credential.generation);
        let newer = newer.ok_or(rejected.clone())?;
        let second = self.send(plan, &newer, &outgoing, exchange, patience).await?;
        if is_rejection(&second) { Err(rejected) } else { Ok((second, newer)) }
    }

    async fn send(
        &self,
        plan: &Plan,
        lease: &Lease,
        outgoing: &Outgoing<'_>,
        exchange: &mut Exchange,
        patience: &mut Patience,
    ) -> Result<Incomer, Refusal> {
        let credential = &lease.credential;
        exchange.credential(&credential.secret, &credential.version, credential.generation);
        let now = exchange.forwarded();
        let (idle, upstreams) = (self.shared.settings.times.idle, &self.shared.upstreams);
        let sending = upstreams.send(&plan.route, lease, outgoing, now);
        let sent = patience.within_from(now, idle, pin!(sending)).await;
        let incomer = sent.map_err(|Late| Refusal::because(Reason::UpstreamTimeout, "idleTimeout"))??;
        let status = incomer.status;
        if status.is_informational() {
            return Err(Refusal::because(Reason::UpstreamUnreachable, "the server switched protocols unasked"));
        }
        exchange.headers(status.as_u16());
        if is_compressed(&incomer.headers) && !plan.route.binding.allow_compressed {
            return Err(Refusal::new(Reason::UnscannableResponse));
        }
        Ok(incomer)
    }

    /// Learns whose a session id is; forgets it with a successful DELETE.
    fn remember_session(&self, plan: &Plan, incomer: &Incomer) {
        let given = incomer.headers.get(Known::McpSessionId).map(SessionDigest::of);
        let deleted = self.head.method == Method::DELETE && incomer.status.is_success();
        let ended = self.session.filter(|_| deleted);
        if given.is_none() && ended.is_none() {
            return;
        }
        let server = &plan.route.binding.server.name;
        let mut sessions = lock(&self.shared.sessions);
        if let Some(given) = given {
            sessions.remember(given, server);
        }
        if let Some(ended) = ended {
            sessions.forget(ended, server);
        }
    }

    fn relay(&self, plan: &Plan, incomer: Incomer, lease: Lease, mut exchange: Exchange) -> Relay {
        let Incomer { status, headers, body } = incomer;
        let events = is_event_stream(&headers);
        if events {
            exchange.streaming();
        }
        let binding = &plan.route.binding;
        let compressed = is_compressed(&headers);
        let (headers, masked) =
            rewrite::to_agent(&headers, binding, (plan.target.as_str(), plan.seen), &lease.credential.mask);
        exchange.masked(masked);
        let legacy = events && self.head.method == Method::GET && binding.server.transports.sse;
        let times = &self.shared.settings.times;
        Relay {
            watch: legacy.then(|| self.shared.messages.watch(&plan.route, plan.target.as_str())),
            status,
            masker: (!compressed).then(Masker::default),
            headers,
            body,
            events,
            // A client waits 300 s between two events; cutting earlier would break it.
            idle: if events { times.idle.max(STREAM_IDLE) } else { times.idle },
            grace: times.rotation_grace,
            lease,
            exchange,
            request_id: self.id.map(str::to_owned),
            respond: self.shared.respond,
        }
    }
}

fn lock(sessions: &Mutex<Sessions>) -> MutexGuard<'_, Sessions> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 401, 407, or any answer with a challenge: an MCP client would begin a login with it.
fn is_rejection(incomer: &Incomer) -> bool {
    matches!(incomer.status, StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED)
        || (!incomer.status.is_success() && incomer.headers.contains(Known::WwwAuthenticate))
}

/// The Python SDK's read timeout for a stream.
const STREAM_IDLE: Duration = Duration::from_secs(300);

fn is_event_stream(headers: &Fields) -> bool {
    let kind = headers.get(Known::ContentType).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// By the content's coding, or by the transfer's: HTTP/1.1 knows both, and undoes neither here.
fn is_compressed(headers: &Fields) -> bool {
    let other = |name, plain: &[u8]| headers.all(name).any(|coding| !coding.eq_ignore_ascii_case(plain));
    other(Known::ContentEncoding, b"identity") || other(Known::TransferEncoding, b"chunked")
}
