//! Agents that call: many connections, kept and dropped, each call with an end of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::sleep;

use super::draw::Draw;
use super::plan::{Kind, Plan, Server, Sight};
use super::suite::support::agent::Agent;
use super::suite::support::message::{Message, Response};
use super::tokens::{LENGTH, MARK};
use super::world::{World, trace};

/// Where the sidecar is, and until when to go on.
#[derive(Clone)]
pub struct Scene {
    pub world: Arc<World>,
    pub endpoint: SocketAddr,
    pub stop: watch::Receiver<bool>,
    /// How many streams may be about to be opened: a busy machine gets less to do, not later.
    pub opening: Arc<Semaphore>,
}

impl Scene {
    pub fn is_over(&self) -> bool {
        *self.stop.borrow()
    }
}

/// Calls again and again, on average once in `pause`.
pub async fn call_on(scene: Scene, mut draw: Draw, pause: Duration) {
    let mut kept: Option<Agent> = None;
    while !scene.is_over() {
        sleep(pause.mul_f64(draw.between(0..2000) as f64 / 1000.0)).await;
        if draw.percent(10) {
            kept = None;
        }
        let mut agent = match kept.take() {
            Some(agent) => agent,
            None => Agent::connect(scene.endpoint).await,
        };
        let server = if draw.percent(50) { Server::Alpha } else { Server::Beta };
        let plan = Plan::draw(server, &mut draw);
        let number = scene.world.begin(server, Kind::Call(plan));
        let call = Call { scene: &scene, server, plan, number };
        if call.run(&mut agent, &mut draw).await {
            kept = Some(agent);
        }
    }
}

struct Call<'a> {
    scene: &'a Scene,
    server: Server,
    plan: Plan,
    number: usize,
}

impl Call<'_> {
    /// Makes the call; true if the connection can take another.
    async fn run(&self, agent: &mut Agent, draw: &mut Draw) -> bool {
        let world = &self.scene.world;
        let bytes = bytes::Bytes::from(self.message(draw).bytes("127.0.0.1"));
        // Some agents write slowly, or in odd pieces.
        let pieces = if draw.percent(20) { draw.cut(bytes, 4) } else { vec![bytes] };
        let slow = draw.percent(30);
        for piece in &pieces {
            agent.send(piece).await;
            if slow && pieces.len() > 1 {
                sleep(Duration::from_millis(draw.between(1..20))).await;
            }
        }
        let response = tokio::select! {
            response = agent.response() => response,
            () = self.patience() => {
                world.end(self.number, Sight::Left);
                return false;
            }
        };
        world.end(self.number, self.judge(&response));
        response.whole && response.header("connection") != Some("close")
    }

    /// Of an agent that is going to leave: until the upstream has its call.
    async fn patience(&self) {
        while self.plan != Plan::Cancel || !self.scene.world.has_arrived(self.number) {
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn message(&self, draw: &mut Draw) -> Message {
        let server = if self.plan == Plan::Unbound { "nobody" } else { self.server.name() };
        let size = if self.plan == Plan::Big { 200_000 } else { draw.between(0..2000) as usize };
        let params = json!({"name": "soak", "arguments": {"pad": "x".repeat(size)}});
        let mut body =
            json!({"jsonrpc": "2.0", "id": self.number, "method": "tools/call", "params": params}).to_string();
        if self.plan == Plan::BadJson {
            body.insert_str(1, r#""method":"tools/list","#);
        }
        Message::post(server, body).header("traceparent", &trace(self.number))
    }

    fn judge(&self, response: &Response) -> Sight {
        let (world, number) = (&self.scene.world, self.number);
        let text = response.text();
        if text.contains(MARK) || String::from_utf8_lossy(&response.head.raw).contains(MARK) {
            world.wrong(format!("call {number}: the agent was shown a credential"));
        }
        if let Some(reason) = response.reason() {
            let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
            // A body that cannot be trusted has no id to echo.
            if body["id"] != number && self.plan != Plan::BadJson {
                world.wrong(format!("call {number}: a refusal for another call: {text}"));
            }
            return Sight::Refused(reason.to_owned());
        }
        if !response.whole {
            return Sight::Broken;
        }
        let answer = if self.plan == Plan::Events && response.status == 200 {
            text.split("data: ").last().unwrap_or_default()
        } else {
            &text
        };
        let answer: Value = serde_json::from_str(answer.trim()).unwrap_or_default();
        if answer["id"] != number || answer["result"]["server"] != self.server.name() {
            world.wrong(format!("call {number} to {}: misattributed: {text}", self.server.name()));
        }
        let echo = if self.plan == Plan::Echo { Value::from("*".repeat(LENGTH)) } else { Value::Null };
        if answer["result"]["echo"] != echo {
            world.wrong(format!("call {number}: the echo is not masked as it should: {text}"));
        }
        Sight::Answer(response.status)
    }
}
