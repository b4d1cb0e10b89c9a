//! One request: decide, lease, send, hand back. The product on one screen.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Response, StatusCode};

use super::Shared;
use super::relay::Relay;
use super::respond;
use super::upstream::{Incomer, Outgoing};
use crate::core::decide::{Ask, Decision, Plan, Refusal, decide};
use crate::core::mcp;
use crate::core::message::{self, Body, BodyFault, Kind, Message};
use crate::core::reason::Reason;
use crate::core::request::Head;
use crate::core::rewrite::{self, Placement};
use crate::core::session::SessionDigest;
use crate::credential::Lease;
use crate::runtime::drain::Busy;
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

/// Answers one request. `body` is what was read of it, or why it could not be.
pub(super) async fn handle(shared: &Arc<Shared>, head: &Head, body: Result<Bytes, Refusal>) -> Handled {
    let mut exchange = Exchange::begin(&shared.telemetry, head.method.as_str());
    let session = head.headers.get(mcp::SESSION_ID).map(|id| SessionDigest::of(id.as_bytes()));
    exchange.context(session, head.headers.get("traceparent").and_then(|trace| trace.to_str().ok()));
    let busy = shared.drain.enter();
    let body = match body {
        Ok(body) => body,
        Err(refusal) => {
            return Handled { answer: Answer::Whole(respond::refuse(exchange, &refusal, None)), _busy: busy };
        }
    };
    exchange.received(body.len());
    let read = (head.method == Method::POST).then(|| message::parse(&body));
    let single = single(read.as_ref());
    if let Some(message) = single {
        exchange.message(message.method.as_deref(), message.params.name.as_deref(), message.id);
    }
    let request_id = single.filter(|message| message.kind == Some(Kind::Request)).and_then(|message| message.id);
    let outcome = match &busy {
        None => Err((exchange, Refusal::new(Reason::Draining))),
        Some(_) => answer(shared, head, read.as_ref(), session, &body, exchange).await,
    };
    let answer =
        outcome.unwrap_or_else(|(exchange, refusal)| Answer::Whole(respond::refuse(exchange, &refusal, request_id)));
    Handled { answer, _busy: busy }
}

fn single<'a, 'b>(read: Option<&'a Result<Body<'b>, BodyFault>>) -> Option<&'a Message<'b>> {
    match read {
        Some(Ok(Body::One(message))) => Some(message),
        _ => None,
    }
}

async fn answer(
    shared: &Arc<Shared>,
    head: &Head,
    read: Option<&Result<Body<'_>, BodyFault>>,
    session: Option<SessionDigest>,
    body: &Bytes,
    mut exchange: Exchange,
) -> Result<Answer, (Exchange, Refusal)> {
    let view = shared.credentials.view();
    let owner =
        session.and_then(|session| shared.sessions.lock().unwrap_or_else(PoisonError::into_inner).owner(session));
    let plan = match decide(&view.routes, &Ask { head, body: read, session_owner: owner.as_ref() }) {
        Decision::Forward(plan) => plan,
        Decision::NotFound => return Ok(Answer::Whole(respond::not_found(exchange))),
        Decision::Refuse(refusal) => return Err((exchange, refusal)),
    };
    exchange.server(&plan.route.binding.server.name);
    let lease = match view.lease(&plan.route) {
        Ok(lease) => lease,
        Err(refusal) => return Err((exchange, refusal)),
    };
    drop(view);
    match forward(shared, head, &plan, lease, body, &mut exchange).await {
        Ok((incomer, lease)) => {
            remember_session(shared, head, &plan, session, &incomer);
            Ok(Answer::Relay(Box::new(relay(shared, &plan, incomer, lease, exchange))))
        }
        Err(refusal) => Err((exchange, refusal.at(&plan.route.binding.server.name))),
    }
}

/// Sends with the lease; once more if the upstream refuses a credential that has been replaced
/// meanwhile. An MCP call is not idempotent, but one that was answered 401 was not run.
async fn forward(
    shared: &Arc<Shared>,
    head: &Head,
    plan: &Plan,
    lease: Lease,
    body: &Bytes,
    exchange: &mut Exchange,
) -> Result<(Incomer, Lease), Refusal> {
    let binding = &plan.route.binding;
    if plan.stripped_query || rewrite::carries_token(&head.headers, &lease.credential.header) {
        shared.telemetry.metrics.token_stripped(binding.server.name.as_str());
    }
    let first = send(shared, head, plan, &lease, body, exchange).await?;
    if !is_rejection(&first) {
        return Ok((first, lease));
    }
    let rejected = Refusal::new(Reason::UpstreamAuthRejected);
    if first.response.status() != StatusCode::UNAUTHORIZED {
        return Err(rejected);
    }
    drop(first);
    let newer = shared.credentials.view().lease(&plan.route).ok();
    let newer =
        newer.filter(|newer| newer.credential.generation != lease.credential.generation).ok_or(rejected.clone())?;
    let second = send(shared, head, plan, &newer, body, exchange).await?;
    if is_rejection(&second) { Err(rejected) } else { Ok((second, newer)) }
}

async fn send(
    shared: &Arc<Shared>,
    head: &Head,
    plan: &Plan,
    lease: &Lease,
    body: &Bytes,
    exchange: &mut Exchange,
) -> Result<Incomer, Refusal> {
    let credential = &lease.credential;
    exchange.credential(&credential.secret, &credential.version, credential.generation);
    let placement = Placement { header: &credential.header, value: &credential.value };
    let outgoing = Outgoing {
        method: head.method.clone(),
        target: plan.target.clone(),
        headers: rewrite::to_upstream(&head.headers, &plan.route.binding, placement),
        body: body.clone(),
    };
    exchange.forwarded();
    let sent =
        tokio::time::timeout(shared.settings.times.idle, shared.upstreams.send(&plan.route, lease, outgoing)).await;
    let incomer = sent.map_err(|_| Refusal::because(Reason::UpstreamTimeout, "idleTimeout"))??;
    let status = incomer.response.status();
    if status.is_informational() {
        return Err(Refusal::because(Reason::UpstreamUnreachable, "the server switched protocols unasked"));
    }
    exchange.headers(status.as_u16());
    Ok(incomer)
}

/// 401, 407, or any answer with a challenge: an MCP client would begin a login with it.
fn is_rejection(incomer: &Incomer) -> bool {
    let response = &incomer.response;
    matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED)
        || (!response.status().is_success() && response.headers().contains_key(WWW_AUTHENTICATE))
}

/// Learns whose a session id is; forgets it with a successful DELETE.
fn remember_session(shared: &Shared, head: &Head, plan: &Plan, asked: Option<SessionDigest>, incomer: &Incomer) {
    let given = incomer.response.headers().get(mcp::SESSION_ID).map(|id| SessionDigest::of(id.as_bytes()));
    let ended = asked.filter(|_| head.method == Method::DELETE && incomer.response.status().is_success());
    if given.is_none() && ended.is_none() {
        return;
    }
    let mut sessions = shared.sessions.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(given) = given {
        sessions.remember(given, &plan.route.binding.server.name);
    }
    if let Some(ended) = ended {
        sessions.forget(ended);
    }
}

fn relay(shared: &Shared, plan: &Plan, incomer: Incomer, lease: Lease, mut exchange: Exchange) -> Relay {
    let (parts, body) = incomer.response.into_parts();
    let events = is_event_stream(&parts.headers);
    if events {
        exchange.streaming();
    }
    let headers = rewrite::to_agent(&parts.headers, &plan.route.binding, &plan.target);
    let times = &shared.settings.times;
    // A client waits 300 s between two events; cutting earlier would break it.
    let idle = if events { times.idle.max(STREAM_IDLE) } else { times.idle };
    Relay {
        status: parts.status,
        headers,
        body,
        hold: incomer.hold,
        events,
        idle,
        grace: times.rotation_grace,
        lease,
        drain: shared.drain.clone(),
        exchange,
    }
}

/// The Python SDK's read timeout for a stream.
const STREAM_IDLE: Duration = Duration::from_secs(300);

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}
