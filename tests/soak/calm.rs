//! An agent that behaves, while others do not: it calls again and again, on connections that it
//! keeps and on fresh ones, and writes down what it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::account::Report;
use super::suite::support::message::{Head, Message, rpc};

/// How long a call may take before it counts as lost. It bounds a hang and measures nothing: under an
/// attack, on a busy machine and unoptimised, everything takes long.
const PATIENCE: Duration = Duration::from_secs(120);

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Answered,
    /// `overloaded` with its `Retry-After`.
    Overloaded,
    /// Closed without a word.
    Dropped,
}

/// What it was told since the last look.
#[derive(Default)]
pub struct Told {
    pub answered: usize,
    pub overloaded: usize,
    pub dropped: usize,
    longest: Duration,
    wrong: Vec<String>,
}

#[derive(Clone, Default)]
struct Book {
    told: Arc<Mutex<Told>>,
    rounds: Arc<AtomicUsize>,
}

pub struct Calm {
    book: Book,
    task: JoinHandle<()>,
}

impl Calm {
    pub fn start(endpoint: SocketAddr) -> Self {
        let book = Book::default();
        Self { task: tokio::spawn(book.clone().call_on(endpoint)), book }
    }

    /// Awaits so many rounds of calls from now; fewer if it could not go on.
    pub async fn rounds(&self, count: usize) {
        let end = self.book.rounds.load(Ordering::Relaxed) + count;
        while !self.task.is_finished() && self.book.rounds.load(Ordering::Relaxed) < end {
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn was_overloaded(&self) -> bool {
        self.book.told().overloaded > 0
    }

    /// What it was told since the last time.
    pub fn tell(&self, when: &str, report: &mut Report) -> Told {
        let told = std::mem::take(&mut *self.book.told());
        report.figure(&format!("calm calls {when}: answered"), told.answered);
        report.figure("  overloaded / dropped", format!("{} / {}", told.overloaded, told.dropped));
        report.figure("  the longest took", format!("{:.1?}", told.longest));
        for wrong in &told.wrong {
            report.check(false, || format!("a calm call {when}: {wrong}"));
        }
        told
    }

    pub fn stop(self) {
        self.task.abort();
    }
}

impl Book {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call_on(self, endpoint: SocketAddr) {
        let servers = ["alpha", "beta"];
        let mut kept = Vec::new();
        for _ in servers {
            kept.push(TcpStream::connect(endpoint).await.expect("the sidecar listens"));
        }
        loop {
            for (server, kept) in servers.into_iter().zip(&mut kept) {
                let call = Message::post(server, rpc::call(1, "calm")).bytes("127.0.0.1");
                if self.timed(kept, &call).await != Some(Answer::Answered) {
                    return self.told().wrong.push(format!("{server}: a kept connection was not served"));
                }
                let mut fresh = TcpStream::connect(endpoint).await.expect("the sidecar listens");
                self.timed(&mut fresh, &call).await;
            }
            self.rounds.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn timed(&self, socket: &mut TcpStream, call: &[u8]) -> Option<Answer> {
        let begun = Instant::now();
        let answer = timeout(PATIENCE, ask(socket, call)).await;
        let mut told = self.told();
        told.longest = told.longest.max(begun.elapsed());
        let counter = match answer {
            Ok(Ok(Answer::Answered)) => &mut told.answered,
            Ok(Ok(Answer::Overloaded)) => &mut told.overloaded,
            Ok(Ok(Answer::Dropped)) => &mut told.dropped,
            Ok(Err(wrong)) => {
                told.wrong.push(wrong);
                return None;
            }
            Err(_) => {
                told.wrong.push(format!("no answer in {PATIENCE:?}"));
                return None;
            }
        };
        *counter += 1;
        answer.ok()?.ok()
    }
}

async fn ask(socket: &mut TcpStream, call: &[u8]) -> Result<Answer, String> {
    // It may have been closed at once: the read tells.
    drop(socket.write_all(call).await);
    let mut bytes = Vec::new();
    loop {
        if let Some(head) = Head::parse(&bytes)
            && bytes.len() >= head.raw.len() + head.content_length().unwrap_or(0)
        {
            let overloaded = (Some("overloaded"), Some("1"));
            return if head.first_line.starts_with("HTTP/1.1 200 ") {
                Ok(Answer::Answered)
            } else if (head.value("postern-reason"), head.value("retry-after")) == overloaded {
                Ok(Answer::Overloaded)
            } else {
                Err(String::from_utf8_lossy(&bytes).into_owned())
            };
        }
        if !matches!(socket.read_buf(&mut bytes).await, Ok(1..)) {
            return if bytes.is_empty() { Ok(Answer::Dropped) } else { Err("an answer that broke off".to_owned()) };
        }
    }
}
