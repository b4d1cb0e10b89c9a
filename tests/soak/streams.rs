//! Agents that listen: event streams, opened and closed again and again, those of 2024-11-05 with
//! their posts among them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::callers::Scene;
use super::draw::Draw;
use super::plan::{Fate, Kind, Server, Sight};
use super::suite::support::agent::{Agent, Piece};
use super::suite::support::message::Message;
use super::tokens::MARK;
use super::world::trace;

/// Keeps one stream open, one after the other.
pub async fn listen_on(scene: Scene, server: Server, mut draw: Draw, begin: Duration) {
    sleep(begin).await;
    while !scene.is_over() {
        let fate = Fate::draw(&mut draw);
        let opening = Arc::clone(&scene.opening).acquire_owned().await.expect("never closed");
        let number = scene.world.begin(server, Kind::Stream(fate));
        let mut listener = Listener {
            scene: &scene,
            server,
            number,
            draw: &mut draw,
            text: String::new(),
            path: None,
            awaited: HashSet::new(),
        };
        let seen = listener.listen(fate, opening).await;
        if seen == Sight::Answer(200) && !listener.awaited.is_empty() {
            scene.world.wrong(format!("stream {number}: ended without the answers to {:?}", listener.awaited));
        }
        scene.world.end(number, seen);
    }
}

struct Listener<'a> {
    scene: &'a Scene,
    server: Server,
    number: usize,
    draw: &'a mut Draw,
    /// What has come and is no whole event yet.
    text: String,
    /// Where to post, on a stream of 2024-11-05.
    path: Option<String>,
    /// Posts whose answers are to come.
    awaited: HashSet<usize>,
}

impl Listener<'_> {
    async fn listen(&mut self, fate: Fate, opening: OwnedSemaphorePermit) -> Sight {
        let mut agent = Agent::connect(self.scene.endpoint).await;
        let get = Message::get(self.server.name()).header("traceparent", &trace(self.number));
        let head = agent.open(get).await;
        drop(opening);
        if let Some(reason) = head.value("postern-reason").map(str::to_owned) {
            agent.rest_of(head).await;
            return Sight::Refused(reason);
        }
        let patience = if let Fate::Leave(events) = fate { events } else { u64::MAX };
        let mut events = 0;
        let mut last = false;
        loop {
            let piece = match agent.piece().await {
                Piece::Data(piece) => piece,
                Piece::End if last => return Sight::Answer(200),
                Piece::End => return Sight::CutShort,
                Piece::Broken => return Sight::Broken,
            };
            self.text.push_str(&String::from_utf8_lossy(&piece));
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if last {
                    self.wrong("an event after the last");
                }
                if let Some(is_last) = self.take(&event) {
                    events += 1;
                    last = is_last;
                }
            }
            if !last && events > 0 && self.path.is_some() && self.draw.percent(15) {
                self.post().await;
            }
            if events >= patience && !last {
                return Sight::Left;
            }
        }
    }

    fn wrong(&self, what: &str) {
        self.scene.world.wrong(format!("stream {} of {}: {what}", self.number, self.server.name()));
    }

    /// Takes one event; of a numbered one, says whether it is the last.
    fn take(&mut self, event: &str) -> Option<bool> {
        if event.contains(MARK) {
            self.wrong("the agent was shown a credential");
        }
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
        if event.starts_with("event: endpoint\n") {
            self.path = Some(data.to_owned());
            return None;
        }
        let value: Value = serde_json::from_str(data).unwrap_or_default();
        if event.starts_with("event: message\n") {
            let result = &value["result"];
            let number = value["id"].as_u64().unwrap_or_default() as usize;
            let own = result["stream"] == self.number && result["server"] == self.server.name();
            if !self.awaited.remove(&number) || !own {
                self.wrong(&format!("an answer that belongs elsewhere, or came twice: {data}"));
            }
            return None;
        }
        let expected = self.scene.world.event(self.number);
        let own = value["stream"] == self.number && value["server"] == self.server.name();
        if value["n"] != expected || !own || !event.starts_with(&format!("id: {expected}\n")) {
            self.wrong(&format!("expected event {expected}, got {}", event.chars().take(120).collect::<String>()));
        }
        Some(value["last"] == true)
    }

    /// Posts a call to the stream, on a connection of its own.
    async fn post(&mut self) {
        let Some(path) = &self.path else { return };
        let world = &self.scene.world;
        let number = world.begin(self.server, Kind::Message(self.number));
        let params = json!({"name": "soak", "arguments": {}});
        let body = json!({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params});
        let post =
            Message::post(self.server.name(), body.to_string()).target(path).header("traceparent", &trace(number));
        // The answer may be there before the 202.
        self.awaited.insert(number);
        let response = Agent::connect(self.scene.endpoint).await.ask(post).await;
        let seen = match response.reason() {
            Some(reason) => Sight::Refused(reason.to_owned()),
            None => Sight::Answer(response.status),
        };
        if seen != Sight::Answer(202) {
            self.awaited.remove(&number);
        }
        world.end(number, seen);
    }
}
