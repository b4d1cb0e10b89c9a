//! Whether everything that happened was to happen: each exchange against its plan, against what the
//! upstream got and against the sidecar's own books.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::Value;

use super::account::Report;
use super::plan::{Fate, Kind, Plan, Server, Sight};
use super::suite::support::Protocol;
use super::suite::support::capture::{Request, Seen};
use super::suite::support::output::Metrics;
use super::tokens::MARK;
use super::world::{Exchange, World, number, trace};

/// How much older a credential may be than the newest when the exchange began. One is the rule (the
/// current one or the one before: a change takes a fraction of a second, and there is one a second);
/// a machine so busy that the sidecar does not get to read for seconds adds more.
const MOST_BEHIND: usize = 5;

/// Judges every exchange; returns how many a fault of another one has hit.
pub fn exchanges(world: &World, grace: Duration, report: &mut Report) {
    let all = world.exchanges();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut behind = [0usize; MOST_BEHIND + 1];
    let (mut explained, mut cut_short) = (0, 0);
    for (at, exchange) in all.iter().enumerate() {
        let told = || format!("exchange {at}: {exchange:?}");
        let Some(seen) = &exchange.seen else {
            report.check(false, || format!("lost, nobody knows how it ended: {}", told()));
            continue;
        };
        *counts.entry(name(exchange.kind, seen)).or_default() += 1;
        let expected = expected(world, &all, exchange, seen, grace);
        let by_another = exchange.excused || crossed(world, exchange, seen);
        explained += usize::from(by_another && !expected);
        cut_short += usize::from(*seen == Sight::CutShort);
        report.check(expected || by_another, || format!("not what was to happen: {}", told()));
        report.check(arrivals_fit(exchange, seen, by_another), || format!("arrived too often, or never: {}", told()));
        for arrival in &exchange.arrivals {
            let in_order = arrival.whole || world.is_ending(exchange.server, arrival.connection);
            report.check(in_order, || format!("half a call on a connection in order: {}", told()));
            report.check(arrival.token >= exchange.floor, || format!("an older credential than before: {}", told()));
            let late = exchange.newest.saturating_sub(arrival.token);
            report.check(late <= MOST_BEHIND, || format!("a stale credential: {}", told()));
            behind[late.min(MOST_BEHIND)] += 1;
        }
    }
    for (name, count) in counts {
        report.figure(&name, count);
    }
    report.figure("hit by another's fault, as explained", explained);
    report.figure("streams ended by rotationGrace", cut_short);
    report.figure("arrivals with the newest credential", behind[0]);
    report.figure(
        "arrivals with the one before / older",
        format!("{} / {}", behind[1], behind[2..].iter().sum::<usize>()),
    );
    for wrong in world.all_wrong() {
        report.check(false, || wrong);
    }
}

fn name(kind: Kind, seen: &Sight) -> String {
    let kind = match kind {
        Kind::Call(plan) => format!("call {plan:?}"),
        Kind::Stream(Fate::End(_)) => "stream End".to_owned(),
        Kind::Stream(Fate::Cut(_)) => "stream Cut".to_owned(),
        Kind::Stream(Fate::Leave(_)) => "stream Leave".to_owned(),
        Kind::Stream(Fate::Rejected) => "stream Rejected".to_owned(),
        Kind::Message(_) => "message".to_owned(),
    };
    match seen {
        Sight::Answer(status) => format!("{kind}: {status}"),
        Sight::Refused(reason) => format!("{kind}: {reason}"),
        other => format!("{kind}: {other:?}"),
    }
}

/// Whether an exchange ended as its own plan says.
fn expected(world: &World, all: &[Exchange], exchange: &Exchange, seen: &Sight, grace: Duration) -> bool {
    match exchange.kind {
        Kind::Call(plan) => plan.expects(seen),
        Kind::Message(stream) => match seen {
            Sight::Answer(202) => true,
            // Its stream was over, and the agent had not read that yet.
            Sight::Answer(404) => true,
            Sight::Refused(reason) => reason == "session_foreign" && all[stream].ended > exchange.begun,
            _ => false,
        },
        Kind::Stream(fate) => match (seen, fate) {
            (Sight::Refused(reason), Fate::Rejected) => reason == "upstream_auth_rejected",
            (_, Fate::Rejected) => false,
            // Whole: the rig's finale ends every stream, whatever its fate.
            (Sight::Answer(200), Fate::End(events)) => exchange.events <= events + 1,
            (Sight::Answer(200), _) => true,
            (Sight::Broken, Fate::Cut(events)) => exchange.events <= events,
            (Sight::Refused(reason), Fate::Cut(_)) => reason == "upstream_unreachable" && exchange.events == 0,
            (Sight::Left, Fate::Leave(events)) => exchange.events >= events,
            (Sight::CutShort, _) => outlived(world, exchange, grace),
            // Cut inside an event, because it was too large to be written at once.
            (Sight::Broken, _) => outlived(world, exchange, grace),
            _ => false,
        },
    }
}

/// Whether the credential of a stream had been replaced for longer than the grace when it ended.
fn outlived(world: &World, exchange: &Exchange, grace: Duration) -> bool {
    let replaced = exchange.arrivals.last().and_then(|arrival| world.tokens.replaced(exchange.server, arrival.token));
    replaced.is_some_and(|at| exchange.ended >= at + grace)
}

/// Whether it, or its retry after a 401, was lost on the way in the moment an upstream closed its
/// connection. Half a call is as good as none: between a call's head and its body, hyper looks whether
/// the connection has been told GOAWAY meanwhile, and gives the call up if so.
fn crossed(world: &World, exchange: &Exchange, seen: &Sight) -> bool {
    let retried = matches!(exchange.kind, Kind::Call(Plan::Stale | Plan::Rejected) | Kind::Stream(Fate::Rejected));
    let seen_whole = exchange.arrivals.iter().filter(|arrival| arrival.whole).count();
    let unseen = seen_whole == usize::from(retried) || seen_whole == 0;
    let shared = exchange.server.protocol() == Protocol::H2;
    unseen && seen.is_refused("upstream_unreachable") && world.explain(exchange, shared)
}

/// Once, and no more; but for the one retry of a 401 with a newer credential, and for what never
/// was to arrive.
fn arrivals_fit(exchange: &Exchange, seen: &Sight, by_another: bool) -> bool {
    let tokens: Vec<usize> = exchange.arrivals.iter().map(|arrival| arrival.token).collect();
    match (exchange.kind, tokens.as_slice()) {
        (Kind::Call(Plan::Unbound | Plan::BadJson), tokens) => tokens.is_empty(),
        (Kind::Message(_), []) => seen.is_refused("session_foreign"),
        // In the rig's finale it is not told 401.
        (Kind::Call(Plan::Stale), [_]) => by_another || *seen == Sight::Answer(200),
        (Kind::Call(Plan::Stale | Plan::Rejected) | Kind::Stream(Fate::Rejected), [first, second]) => second > first,
        (_, [_]) => true,
        (_, []) => by_another,
        _ => false,
    }
}

/// What an agent has left, or the sidecar has ended, is given up upstream as well: by its connection
/// on HTTP/1.1, by its stream on HTTP/2; unless the upstream broke it off in the same moment.
pub fn given_up(world: &World, server: Server, seen: &Seen, report: &mut Report) {
    let all = world.exchanges();
    let is_over = |request: &Request| {
        let connection = &seen.connections[request.connection];
        let closed = connection.peer_closed || connection.hung_up;
        request.answered || request.abandoned || (closed && server.protocol() == Protocol::Tls)
    };
    for request in seen.requests.iter().filter(|request| !is_over(request)) {
        let exchange = request.values("traceparent").first().and_then(|trace| all.get(number(trace)?));
        let is_left = |seen: &Option<Sight>| matches!(seen, Some(Sight::Left | Sight::CutShort));
        let kept = exchange.is_some_and(|e| !e.excused && !e.broken_off && is_left(&e.seen));
        report.check(!kept, || format!("an answer that nobody waits for is still awaited: {exchange:?}"));
    }
}

/// The outcomes an access line may have for what the agent saw.
fn outcomes(kind: Kind, seen: &Sight) -> &'static [&'static str] {
    match seen {
        // Ended by the grace just after its last event: to the agent there is no difference.
        Sight::Answer(200) if matches!(kind, Kind::Stream(_)) => &["ok", "rotated"],
        Sight::Answer(status) if *status >= 400 => &["upstream_error"],
        Sight::Answer(_) => &["ok"],
        Sight::Refused(_) => &["refused"],
        Sight::Broken => &["upstream_gone", "rotated"],
        Sight::CutShort => &["rotated"],
        // Whatever came first: an agent that leaves does not look back.
        Sight::Left => &["client_closed", "ok", "rotated", "upstream_gone", "refused"],
    }
}

/// The access lines against what the agents saw, one by one.
pub fn lines(world: &World, lines: &[Value], report: &mut Report) {
    let mut by_number: HashMap<usize, Vec<&Value>> = HashMap::new();
    for line in lines {
        let number = line["traceparent"].as_str().and_then(number);
        report.check(number.is_some(), || format!("an access line of nobody's: {line}"));
        number.into_iter().for_each(|number| by_number.entry(number).or_default().push(line));
        report.check(!line.to_string().contains(MARK), || "a credential stands in an access line".to_owned());
    }
    for (at, exchange) in world.exchanges().iter().enumerate() {
        let Some(seen) = &exchange.seen else { continue };
        let own = by_number.get(&at).map(Vec::as_slice).unwrap_or_default();
        let [line] = own else {
            report.check(false, || format!("{} access lines for {}: {exchange:?}", own.len(), trace(at)));
            continue;
        };
        let outcome = line["outcome"].as_str().unwrap_or_default();
        report.check(outcomes(exchange.kind, seen).contains(&outcome), || {
            format!("{line} tells otherwise than {exchange:?}")
        });
        if let Sight::Refused(reason) = seen {
            report.check(line["reason"] == *reason, || format!("{line}: not the reason {reason}"));
        }
        let unbound = exchange.kind == Kind::Call(Plan::Unbound);
        report.check(unbound || line["server"] == exchange.server.name(), || format!("{line}: not its server"));
        let masked = u64::from(exchange.kind == Kind::Call(Plan::Echo) && *seen == Sight::Answer(200));
        report.check(line["masked"].as_u64().unwrap_or(0) == masked, || format!("{line}: masked otherwise"));
    }
    report.figure("access lines, one for each exchange", lines.len());
}

/// The metrics against the access lines, which agree with the agents.
pub fn metrics(world: &World, metrics: &Metrics, lines: &[Value], report: &mut Report) {
    report.check(!metrics.text().contains(MARK), || "a credential stands in the metrics".to_owned());
    let count = |field: &str| {
        let mut counts: BTreeMap<(String, String), f64> = BTreeMap::new();
        for line in lines {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            *counts.entry((text("server"), text(field))).or_default() += 1.0;
        }
        counts
    };
    for ((server, outcome), lines) in count("outcome") {
        let sum = metrics.sum("postern_requests_total", &[("server", &server), ("outcome", &outcome)]);
        report.equal(&format!("postern_requests_total of {server} {outcome}"), sum, lines);
    }
    report.equal("all postern_requests_total", metrics.sum("postern_requests_total", &[]), lines.len() as f64);
    let refused: Vec<_> = count("reason").into_iter().filter(|((_, reason), _)| !reason.is_empty()).collect();
    for ((server, reason), lines) in &refused {
        let sum = metrics.sum("postern_refusals_total", &[("server", server), ("reason", reason)]);
        report.equal(&format!("postern_refusals_total of {server} {reason}"), sum, *lines);
    }
    let refused: f64 = refused.iter().map(|(_, lines)| lines).sum();
    report.equal("all postern_refusals_total", metrics.sum("postern_refusals_total", &[]), refused);
    let masked: u64 = lines.iter().filter_map(|line| line["masked"].as_u64()).sum();
    report.equal("postern_echo_masks_total", metrics.sum("postern_echo_masks_total", &[]), masked as f64);
    let all = world.exchanges();
    let standing = lines.iter().filter(|line| stood(&all, line)).count();
    let ended = metrics.sum("postern_stream_seconds_count", &[("kind", "get")]);
    report.equal("postern_stream_seconds_count of get", ended, standing as f64);
    report.equal("postern_access_lines_lost_total", metrics.sum("postern_access_lines_lost_total", &[]), 0.0);
    report.equal("postern_dial_failures_total", metrics.sum("postern_dial_failures_total", &[]), 0.0);
    for server in [Server::Alpha, Server::Beta, Server::Old] {
        let generation = metrics.sum("postern_credential_generation", &[("server", server.name())]);
        report.figure(&format!("generations of {}", server.name()), generation);
    }
}

/// Whether an access line tells of an event stream that stood, be it that it broke before the agent was
/// given its head: to the agent that is a refusal, with the time to the head all the same.
fn stood(all: &[Exchange], line: &Value) -> bool {
    let exchange = line["traceparent"].as_str().and_then(|trace| all.get(number(trace)?));
    match exchange.map(|exchange| exchange.kind) {
        Some(Kind::Stream(Fate::Rejected)) | None => false,
        Some(Kind::Stream(_)) => line["status"] == 200 || !line["headers_ms"].is_null(),
        Some(_) => false,
    }
}
