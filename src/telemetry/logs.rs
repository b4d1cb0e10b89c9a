//! Two outputs: diagnostics on standard error, access lines on standard output.

use std::io::{IsTerminal as _, Write as _};
use std::str::FromStr;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    /// Reads a level's name.
    pub fn level(text: &str) -> Option<LevelFilter> {
        LevelFilter::from_str(text).ok()
    }
}

/// Sends diagnostics to standard error from now on; a second call changes nothing.
///
/// The level is that of our own code. Libraries stay at warnings: at trace level some of them
/// print bytes of the wire, and those hold credentials.
pub fn init(settings: LogSettings) {
    let libraries = settings.level.min(LevelFilter::WARN);
    let filter = Targets::new().with_default(libraries).with_target("postern", settings.level);
    let text = std::io::stderr().is_terminal();
    let format = settings.format.unwrap_or(if text { Format::Text } else { Format::Json });
    let base = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    let layer = match format {
        Format::Text => base.compact().with_filter(filter).boxed(),
        Format::Json => {
            base.json().flatten_event(true).with_current_span(false).with_span_list(false).with_filter(filter).boxed()
        }
    };
    let _already_set = tracing_subscriber::registry().with(layer).try_init();
}

/// How many lines may wait for a slow reader of standard output.
const WAITING_LINES: usize = 8192;

/// The access log: a thread that writes lines, so that a slow reader never stalls an exchange.
#[derive(Debug)]
pub struct AccessLog {
    lines: Option<SyncSender<String>>,
    writer: Option<JoinHandle<()>>,
}

impl AccessLog {
    /// Writes to standard output.
    pub fn stdout() -> std::io::Result<Self> {
        let (lines, waiting) = sync_channel::<String>(WAITING_LINES);
        let write = move || {
            while let Ok(line) = waiting.recv() {
                let mut out = std::io::stdout().lock();
                // Whoever closed our standard output does not want the lines.
                let _closed = out.write_all(line.as_bytes());
                while let Ok(line) = waiting.try_recv() {
                    let _closed = out.write_all(line.as_bytes());
                }
                let _closed = out.flush();
            }
        };
        let writer = std::thread::Builder::new().name("access-log".into()).spawn(write)?;
        Ok(Self { lines: Some(lines), writer: Some(writer) })
    }

    /// Drops every line.
    pub fn discard() -> Self {
        Self { lines: None, writer: None }
    }

    /// Hands a line over; `false` if it had to be dropped because too many wait.
    pub fn write(&self, line: String) -> bool {
        match &self.lines {
            Some(lines) => !matches!(lines.try_send(line), Err(TrySendError::Full(_))),
            None => true,
        }
    }
}

impl Drop for AccessLog {
    /// Waits until every line is written.
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            let _panicked = writer.join();
        }
    }
}
