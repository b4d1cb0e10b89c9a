//! The upstreams' side: checks whose credential an exchange carries, and does what its plan says.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::draw::Draw;
use super::plan::{Fate, Kind, Plan, Server};
use super::suite::support::Protocol;
use super::suite::support::answer::{Answer, End, Framing, Stream};
use super::suite::support::capture::{Capture, Request};
use super::world::{Arrival, World, number};

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

/// Starts the upstream of a server.
pub async fn start(world: &Arc<World>, server: Server) -> Capture {
    let capture = Capture::start(server.protocol()).await;
    if server == Server::Alpha {
        capture.read_slowly();
    }
    let world = Arc::clone(world);
    capture.always(move |request| answer(&world, server, request));
    capture
}

fn answer(world: &Arc<World>, server: Server, request: &Request) -> Answer {
    let refuse = |what: &str| {
        world.wrong(format!("{}: {what}: {} {}", server.name(), request.method, request.target));
        Answer::full(500, &[], "")
    };
    let Some(number) = request.values("traceparent").first().and_then(|trace| number(trace)) else {
        return refuse("nobody's request");
    };
    let Some(token) = token(world, server, request) else {
        return refuse("not exactly one credential of this server");
    };
    world.tokens.use_of(server, token);
    let arrival = Arrival { token, connection: request.connection, whole: request.whole };
    let Some((kind, times, over)) = world.arrive(number, server, arrival) else {
        return refuse("a request that no agent made");
    };
    // Of half a request nobody awaits an answer; whether it may have broken off is judged later.
    if over || !request.whole {
        return Answer::Raw(Vec::new(), End::Reset);
    }
    let call = Call { world, server, request, number, token, times };
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match kind {
        Kind::Stream(fate) if request.method == "GET" => call.stream(fate),
        Kind::Call(plan) if body["id"] == number => call.answer(plan),
        Kind::Message(stream) if body["id"] == number && request.target.ends_with(&format!("stream={stream}")) => {
            call.message(stream)
        }
        _ => refuse("another exchange's method, body or path"),
    }
}

/// Which of the server's credentials the request carries, if exactly one of its own.
fn token(world: &World, server: Server, request: &Request) -> Option<usize> {
    let [value] = request.values("authorization")[..] else { return None };
    let (owner, number) = world.tokens.owner(value.strip_prefix("Bearer ")?)?;
    (owner == server).then_some(number)
}

struct Call<'a> {
    world: &'a Arc<World>,
    server: Server,
    request: &'a Request,
    number: usize,
    token: usize,
    times: usize,
}

impl Call<'_> {
    fn draw(&self) -> Draw {
        Draw::new(self.world.seed, self.number as u64)
    }

    /// The result that belongs to this call and to no other.
    fn result(&self) -> String {
        let pad = "x".repeat(self.draw().between(0..3000) as usize);
        self.result_with(&format!(r#""pad":"{pad}""#))
    }

    fn result_with(&self, more: &str) -> String {
        let (id, server) = (self.number, self.server.name());
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"server":"{server}",{more}}}}}"#)
    }

    fn answer(&self, plan: Plan) -> Answer {
        let shared = self.server.protocol() == Protocol::H2;
        match plan {
            Plan::Plain | Plan::Big => Answer::full(200, &JSON, self.result()),
            Plan::Split if shared => self.pieces(1..2),
            Plan::Split => self.split(),
            Plan::Slow => self.pieces(5..40),
            Plan::Late => self.late(),
            Plan::Events => self.events(),
            Plan::Echo => Answer::full(200, &JSON, self.result_with(&format!(r#""echo":"{}""#, self.credential()))),
            Plan::ResetBeforeHead => Answer::Raw(Vec::new(), End::Reset),
            Plan::ResetMidBody => self.broken(Framing::Length(5000), End::Reset),
            Plan::Truncated => self.broken(Framing::Chunked, End::Close),
            Plan::Rejected => Answer::unauthorized(),
            Plan::Stale if self.times == 1 => self.stale(),
            Plan::Stale => Answer::full(200, &JSON, self.result()),
            Plan::Error(status) => Answer::full(status, &JSON, self.result()),
            Plan::CloseAfter => {
                self.world.closing(self.server);
                Answer::Raw(self.literal(), End::Close)
            }
            Plan::CloseAtReuse => {
                self.world.doom(self.server, self.request.connection);
                Answer::full(200, &JSON, self.result())
            }
            Plan::GoAway => {
                self.world.leave(self.server, self.request.connection);
                Answer::Raw(Vec::new(), End::Close)
            }
            Plan::Kill => {
                self.world.kill(self.server, self.request.connection);
                Answer::Raw(Vec::new(), End::Cut)
            }
            Plan::Cancel => Answer::Never,
            Plan::Unbound | Plan::BadJson => {
                self.world.wrong(format!("call {}: {plan:?} reached an upstream", self.number));
                Answer::full(500, &[], "")
            }
        }
    }

    fn credential(&self) -> &str {
        self.request.values("authorization")[0].trim_start_matches("Bearer ")
    }

    fn literal(&self) -> Vec<u8> {
        let body = self.result();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json";
        format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    /// A chunked answer whose bytes are parted anywhere.
    fn split(&self) -> Answer {
        let mut draw = self.draw();
        let mut text =
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        for chunk in draw.cut(Bytes::from(self.result()), 5) {
            text.push_str(&format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(&chunk)));
        }
        text.push_str("0\r\n\r\n");
        Answer::Pieces(draw.cut(Bytes::from(text), 12), End::KeepOpen)
    }

    /// Pieces of a body, with pauses of so many milliseconds.
    fn pieces(&self, pauses: std::ops::Range<u64>) -> Answer {
        let mut draw = self.draw();
        let (stream, answer) = Answer::stream(&JSON, Framing::Chunked);
        let pieces = draw.cut(Bytes::from(self.result()), 6);
        tokio::spawn(async move {
            for piece in pieces {
                stream.send(piece);
                sleep(Duration::from_millis(draw.between(pauses.clone()))).await;
            }
            stream.finish();
        });
        answer
    }

    fn late(&self) -> Answer {
        let (give, answer) = Answer::later();
        let (pause, late) = (self.draw().between(20..800), Answer::full(200, &JSON, self.result()));
        tokio::spawn(async move {
            sleep(Duration::from_millis(pause)).await;
            // The agent's side may be gone.
            drop(give.send(late));
        });
        answer
    }

    /// 401 once the sidecar is known to have a newer value. At the end of all calls nothing tells.
    fn stale(&self) -> Answer {
        let (give, answer) = Answer::later();
        let (world, server, token) = (Arc::clone(self.world), self.server, self.token);
        let late = Answer::full(200, &JSON, self.result());
        tokio::spawn(async move {
            let mut finale = world.finale.subscribe();
            let answer = tokio::select! {
                () = world.tokens.newer_than(server, token) => Answer::unauthorized(),
                _ = finale.wait_for(|finale| *finale) => late,
            };
            // The agent's side may be gone.
            drop(give.send(answer));
        });
        answer
    }

    fn events(&self) -> Answer {
        let mut draw = self.draw();
        let (stream, answer) = Answer::events();
        let note = r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#;
        let events = [note.to_owned(), note.to_owned(), self.result()];
        tokio::spawn(async move {
            for event in events {
                sleep(Duration::from_millis(draw.between(1..60))).await;
                let event = Bytes::from(format!("event: message\ndata: {event}\n\n"));
                draw.cut(event, 2).into_iter().for_each(|piece| stream.send(piece));
            }
            stream.finish();
        });
        answer
    }

    fn broken(&self, framing: Framing, end: End) -> Answer {
        let (stream, answer) = Answer::stream(&JSON, framing);
        stream.send(self.result());
        tokio::spawn(async move {
            sleep(Duration::from_millis(5)).await;
            stream.end(end);
        });
        answer
    }

    fn stream(&self, fate: Fate) -> Answer {
        if fate == Fate::Rejected {
            return Answer::unauthorized();
        }
        let (stream, answer) = Answer::events();
        let (posted, posts) = mpsc::unbounded_channel();
        if self.server == Server::Old {
            self.world.posts.lock().unwrap_or_else(PoisonError::into_inner).insert(self.number, posted);
        }
        let driver = Driver {
            world: Arc::clone(self.world),
            draw: self.draw(),
            server: self.server,
            number: self.number,
            stream,
            posts,
        };
        tokio::spawn(driver.run(fate));
        answer
    }

    /// A post of 2024-11-05: its answer goes to the stream.
    fn message(&self, stream: usize) -> Answer {
        let posts = self.world.posts.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = posts.get(&stream).is_some_and(|posts| {
            let result = self.result_with(&format!(r#""stream":{stream}"#));
            posts.send(format!("event: message\ndata: {result}\n\n")).is_ok()
        });
        if taken { Answer::full(202, &[], "Accepted") } else { Answer::full(404, &[], "") }
    }
}

/// Sends the events of one stream.
struct Driver {
    world: Arc<World>,
    draw: Draw,
    server: Server,
    number: usize,
    stream: Stream,
    posts: mpsc::UnboundedReceiver<String>,
}

impl Driver {
    async fn run(mut self, fate: Fate) {
        let mut finale = self.world.finale.subscribe();
        if self.server == Server::Old {
            self.stream.send(format!("event: endpoint\ndata: /messages?stream={}\n\n", self.number));
        }
        let (last, cut) = match fate {
            Fate::End(events) => (events, u64::MAX),
            Fate::Cut(events) => (u64::MAX, events),
            Fate::Leave(_) | Fate::Rejected => (u64::MAX, u64::MAX),
        };
        let mut sent = 0;
        while !self.stream.is_over() {
            let pause = Duration::from_millis(self.draw.between(100..1300));
            tokio::select! {
                () = sleep(pause) => {}
                Some(answer) = self.posts.recv() => { self.stream.send(answer); continue }
                _ = finale.wait_for(|finale| *finale) => break,
            }
            if sent == last {
                break;
            }
            if sent == cut {
                self.world.break_off(self.number);
                self.stream.send("id: ");
                return self.stream.end(End::Reset);
            }
            self.event(sent, false);
            sent += 1;
        }
        self.posts.close();
        while let Ok(answer) = self.posts.try_recv() {
            self.stream.send(answer);
        }
        self.event(sent, true);
        self.stream.finish();
    }

    fn event(&mut self, number: u64, last: bool) {
        let size = if self.draw.percent(2) { 40_000 } else { self.draw.between(0..600) };
        let (stream, server, pad) = (self.number, self.server.name(), "x".repeat(size as usize));
        let data = format!(r#"{{"stream":{stream},"server":"{server}","n":{number},"last":{last},"pad":"{pad}"}}"#);
        let event = Bytes::from(format!("id: {number}\ndata: {data}\n\n"));
        self.draw.cut(event, 3).into_iter().for_each(|piece| self.stream.send(piece));
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.world.posts.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
