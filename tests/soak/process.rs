//! What the kernel says of a process: memory, descriptors, threads, processor time.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// One look.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub at: Instant,
    pub rss_kib: u64,
    /// `None` where they may not be read: the sidecar is not dumpable, so that only root may.
    pub fds: Option<u64>,
    pub threads: u64,
    /// Processor time so far.
    pub cpu: Duration,
}

impl Sample {
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("proc(5)");
            line.split_whitespace().next().and_then(|value| value.parse().ok()).expect("proc(5)")
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
        Self {
            at: Instant::now(),
            rss_kib: field("VmRSS:"),
            fds: fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|entries| entries.count() as u64),
            threads: field("Threads:"),
            // USER_HZ is 100 on every Linux there is.
            cpu: Duration::from_millis(ticks * 10),
        }
    }
}

/// Looks at a process again and again.
pub struct Watch {
    samples: Arc<Mutex<Vec<Sample>>>,
    task: JoinHandle<()>,
}

impl Watch {
    pub fn start(pid: u32, every: Duration) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&samples);
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(every);
            loop {
                tick.tick().await;
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(Sample::of(pid));
            }
        });
        Self { samples, task }
    }

    pub fn stop(self) -> Vec<Sample> {
        self.task.abort();
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The mean of a figure over samples, and how much it grows by in an hour: the slope of the line
/// that fits best. A single sample tells how busy one moment was; a leak is in all of them.
pub fn trend(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> (f64, f64) {
    let Some(first) = samples.first() else { return (0.0, 0.0) };
    let points: Vec<(f64, f64)> =
        samples.iter().map(|sample| ((sample.at - first.at).as_secs_f64() / 3600.0, figure(sample))).collect();
    let count = points.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(&|p| p.0), mean(&|p| p.1));
    let spread = mean(&|p| (p.0 - mean_x).powi(2));
    let slope = if spread > 0.0 { mean(&|p| (p.0 - mean_x) * (p.1 - mean_y)) / spread } else { 0.0 };
    (mean_y, slope)
}
