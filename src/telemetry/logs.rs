//! Two outputs: diagnostics on standard error, access lines on standard output.

use std::io::{self, IsTerminal as _, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use serde::Serialize;
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
    pub fn stdout() -> io::Result<Self> {
        Self::writing_to(io::stdout())
    }

    /// Writes to `out`.
    pub fn writing_to(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = sync_channel::<String>(WAITING_LINES);
        let write = move || {
            while let Ok(line) = waiting.recv() {
                // Whoever closed the other end does not want the lines.
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

/// One JSON object and a line feed, in printable ASCII: agents choose some of these texts, and a
/// terminal or viewer would obey what JSON lets pass (C1 controls, bidirectional overrides, U+2028).
pub(super) fn json_line(value: &impl Serialize) -> Option<String> {
    let mut line = Vec::with_capacity(512);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut line, Ascii)).ok()?;
    line.push(b'\n');
    String::from_utf8(line).ok()
}

struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // What lies below a space is escaped already.
        if fragment.bytes().all(|byte| byte < 0x7f) {
            return writer.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            if c < '\u{7f}' {
                write!(writer, "{c}")?;
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_printable_ascii_and_means_the_same() {
        let texts = ["plain \"quoted\" \\", "\u{1b}[2J\r\n\0", "\u{9b}31m\u{7f}", "\u{2028}\u{202e}é", "\u{1f600}"];
        let line = json_line(&texts).unwrap();
        assert!(line.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\n'), "{line:?}");
        assert_eq!(line.find('\n'), Some(line.len() - 1));
        assert_eq!(serde_json::from_str::<Vec<String>>(&line).unwrap(), texts);
    }

    #[test]
    fn there_are_five_levels() {
        for (text, level) in [("error", LevelFilter::ERROR), ("info", LevelFilter::INFO), ("trace", LevelFilter::TRACE)]
        {
            assert_eq!(LogSettings::level(text), Some(level));
        }
        for other in ["", "off", "OFF", "INFO", "Trace", "3", "warning", " info"] {
            assert_eq!(LogSettings::level(other), None, "{other:?}");
        }
    }
}
