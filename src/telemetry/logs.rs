//! Two outputs: diagnostics on standard error, access lines on standard output.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::stamp::Stamp;
use crate::runtime::clock;

/// How diagnostics look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// What diagnostics there are and how they look.
#[derive(Debug, Clone, Copy)]
pub struct LogSettings {
    /// From which level on.
    pub level: LevelFilter,
    /// `None`: text on a terminal, JSON elsewhere.
    pub format: Option<Format>,
}

impl LogSettings {
    /// Reads a level's name: these five, in lower case.
    pub fn level(text: &str) -> Option<LevelFilter> {
        match text {
            "error" => Some(LevelFilter::ERROR),
            "warn" => Some(LevelFilter::WARN),
            "info" => Some(LevelFilter::INFO),
            "debug" => Some(LevelFilter::DEBUG),
            "trace" => Some(LevelFilter::TRACE),
            _ => None,
        }
    }
}

/// Sends diagnostics to standard error from now on; a second call changes nothing.
///
/// The level is that of our own code. Libraries stay at warnings: at trace level some of them
/// print bytes of the wire, and those hold credentials.
pub fn init(settings: LogSettings) {
    let libraries = settings.level.min(LevelFilter::WARN);
    let filter = Targets::new().with_default(libraries).with_target("postern", settings.level);
    let text = io::stderr().is_terminal();
    let format = settings.format.unwrap_or(if text { Format::Text } else { Format::Json });
    let base = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false).with_target(false);
    let layer = match format {
        Format::Text => base.compact().with_filter(filter).boxed(),
        Format::Json => {
            base.json().flatten_event(true).with_current_span(false).with_span_list(false).with_filter(filter).boxed()
        }
    };
    let _already_set = tracing_subscriber::registry().with(layer).try_init();
}

/// How many lines may wait for a slow reader of standard output,
const WAITING_LINES: usize = 8192;
/// and how many bytes.
const WAITING_BYTES: usize = 4 << 20;
/// What is written at once.
const PIECE: usize = 64 << 10;
/// What a pipe takes as a whole or not at all, on Linux.
const ATOMIC_PIECE: usize = 4096;
/// Lines that come within this time after others are written together: each write wakes the writer,
/// and whoever reads.
const GATHERING: Duration = Duration::from_millis(50);
/// So many bytes do not wait for more: with those that come before the writer has woken they are still one piece.
const ENOUGH: usize = 56 << 10;
/// How long nothing may move at the end before what still waits is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// The access log: a thread writes the lines, so that a slow reader never stalls an exchange.
#[derive(Debug)]
pub struct AccessLog {
    lines: Option<Arc<Lines>>,
    writer: Option<JoinHandle<()>>,
}

/// Lines on their way to the writer.
#[derive(Debug, Default)]
struct Lines {
    waiting: Mutex<Waiting>,
    /// For the writer: there are lines, there are enough, or there will be no more.
    wake: Condvar,
    /// For whoever waits for the end: something was written.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Where the last whole line ends: what a panic left behind it is not one.
    end: usize,
    lines: usize,
    /// What the writer has taken and not yet written, in lines and bytes.
    taken: (usize, usize),
    writer: Writer,
    /// There will be no more.
    closed: bool,
    stamp: Stamp,
}

/// What the writer does.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// Looks at the lines by itself before it waits again.
    #[default]
    Works,
    /// Waits for a line.
    Rests,
    /// Has waited for a line, and gives others the time to join it.
    Gathers,
    /// Has written everything, and is gone.
    Done,
}

impl AccessLog {
    /// Writes to standard output.
    pub fn stdout() -> io::Result<Self> {
        // Where diagnostics go the same way, they must not fall into the middle of a line.
        Self::start(io::stdout(), if is_shared().unwrap_or(true) { ATOMIC_PIECE } else { PIECE })
    }

    /// Writes to `out`.
    pub fn writing_to(out: impl Write + Send + 'static) -> io::Result<Self> {
        Self::start(out, PIECE)
    }

    fn start(mut out: impl Write + Send + 'static, piece: usize) -> io::Result<Self> {
        let lines = Arc::new(Lines::default());
        let waiting = Arc::clone(&lines);
        let write = move || waiting.write_all(&mut out, piece);
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(write)?;
        Ok(Self { lines: Some(lines), writer: Some(writer) })
    }

    /// Drops every line.
    pub fn discard() -> Self {
        Self { lines: None, writer: None }
    }

    /// Hands a line over, with its line feed; `false` if it had to be dropped because too many wait.
    pub fn write(&self, line: &[u8]) -> bool {
        self.append(|_, out| out.extend_from_slice(line))
    }

    /// Lets a line be written where it is to wait.
    pub(super) fn append(&self, line: impl FnOnce(&mut Stamp, &mut Vec<u8>)) -> bool {
        self.lines.as_ref().is_none_or(|lines| lines.append(line))
    }
}

impl Drop for AccessLog {
    /// Waits until every line is written, as long as somebody reads them.
    fn drop(&mut self) {
        if let Some(lines) = &self.lines
            && lines.close()
            && let Some(writer) = self.writer.take()
        {
            let _panicked = writer.join();
        }
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, line: impl FnOnce(&mut Stamp, &mut Vec<u8>)) -> bool {
        let mut waiting = self.lock();
        let Waiting { bytes, end, lines, taken, stamp, .. } = &mut *waiting;
        if *lines + taken.0 >= WAITING_LINES || *end + taken.1 >= WAITING_BYTES {
            return false;
        }
        bytes.truncate(*end);
        line(stamp, bytes);
        *end = bytes.len();
        *lines += 1;
        let wake = match waiting.writer {
            Writer::Rests => true,
            Writer::Gathers => waiting.end >= ENOUGH,
            Writer::Works | Writer::Done => false,
        };
        if wake {
            // Once is enough.
            waiting.writer = Writer::Works;
        }
        drop(waiting);
        if wake {
            self.wake.notify_one();
        }
        true
    }

    /// The writer's life.
    fn write_all(&self, out: &mut impl Write, piece: usize) {
        let (mut batch, mut last) = (Vec::new(), None);
        while self.take(&mut batch, last) {
            last = Some(clock::now());
            let mut rest = batch.as_slice();
            while let Some((now, later)) = split(rest, piece) {
                write(out, now);
                rest = later;
                self.lock().taken.1 = rest.len();
                self.moved.notify_all();
            }
        }
        self.moved.notify_all();
    }

    /// Exchanges what was written for what waits, once it is time to; `false` if there will be no more.
    fn take(&self, batch: &mut Vec<u8>, last: Option<Instant>) -> bool {
        if batch.capacity() > 2 * ENOUGH {
            // Many had to wait: their memory is given back.
            *batch = Vec::new();
        }
        batch.clear();
        let mut waiting = self.lock();
        waiting.taken = (0, 0);
        while waiting.end == 0 && !waiting.closed {
            waiting.writer = Writer::Rests;
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        while waiting.end < ENOUGH && !waiting.closed {
            let passed = last.map_or(GATHERING, |last| clock::now().duration_since(last));
            let Some(left) = GATHERING.checked_sub(passed).filter(|left| !left.is_zero()) else { break };
            waiting.writer = Writer::Gathers;
            waiting = self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let end = std::mem::take(&mut waiting.end);
        waiting.bytes.truncate(end);
        std::mem::swap(&mut waiting.bytes, batch);
        waiting.taken = (std::mem::take(&mut waiting.lines), end);
        waiting.writer = if end == 0 { Writer::Done } else { Writer::Works };
        end > 0
    }

    /// Waits until everything is written; `false` if nobody takes it.
    fn close(&self) -> bool {
        let mut waiting = self.lock();
        waiting.closed = true;
        self.wake.notify_one();
        while waiting.writer != Writer::Done {
            let before = (waiting.end, waiting.taken);
            let (now, result) = self.moved.wait_timeout(waiting, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            waiting = now;
            if result.timed_out() && before == (waiting.end, waiting.taken) {
                return waiting.writer == Writer::Done;
            }
        }
        true
    }
}

/// Whether standard output and standard error are the same file, pipe or terminal.
fn is_shared() -> io::Result<bool> {
    let (out, err) = (rustix::fs::fstat(io::stdout())?, rustix::fs::fstat(io::stderr())?);
    Ok((out.st_dev, out.st_ino) == (err.st_dev, err.st_ino))
}

/// Whole lines, of at most so many bytes unless one alone has more, and the rest; `None` if there is nothing.
fn split(lines: &[u8], most: usize) -> Option<(&[u8], &[u8])> {
    let within = lines.get(..most).unwrap_or(lines);
    let end =
        if within.len() == lines.len() { Some(lines.len()) } else { memchr::memrchr(b'\n', within).map(|at| at + 1) };
    let end = end.or_else(|| memchr::memchr(b'\n', lines).map(|at| at + 1)).unwrap_or(lines.len());
    lines.split_at_checked(end).filter(|(now, _)| !now.is_empty())
}

/// Writes all of it. Whoever closed the other end does not want the lines.
fn write(out: &mut impl Write, mut lines: &[u8]) {
    while !lines.is_empty() {
        match patiently(|| out.write(lines)) {
            Ok(written) if written > 0 => lines = lines.get(written..).unwrap_or_default(),
            _ => return,
        }
    }
    let _closed = patiently(|| out.flush());
}

/// Where another process has made the output one that does not block, the reader is slow, not gone.
fn patiently<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(GATHERING),
            done => return done,
        }
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
