//! What a proxy has used, with its children: processor time and memory, as the kernel says.

use std::fs;

/// One look at a tree of processes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time so far, in microseconds.
    pub cpu_us: f64,
    /// Memory now, of all processes together, in KiB. Pages that they share count for each.
    pub resident_kib: u64,
    /// The most that each ever had, added up, in KiB.
    pub peak_kib: u64,
}

impl Usage {
    /// Of this process and all below it.
    pub fn of(root: u32) -> Self {
        tree(root).into_iter().filter_map(one).fold(Self::default(), |sum, one| Self {
            cpu_us: sum.cpu_us + one.cpu_us,
            resident_kib: sum.resident_kib + one.resident_kib,
            peak_kib: sum.peak_kib + one.peak_kib,
        })
    }
}

/// The fields of /proc/PID/stat from the third on: the second is a name, which may hold anything.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = text.rsplit_once(')')?.1.split_whitespace();
    // The state is a letter, and some later fields are negative: none of them is of use here.
    Some(fields.map(|field| field.parse().unwrap_or(0)).collect())
}

fn one(pid: u32) -> Option<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    };
    let cpu_us = scheduled(pid).or_else(|| ticks(pid))?;
    Some(Usage { cpu_us, resident_kib: kib("VmRSS:"), peak_kib: kib("VmHWM:") })
}

/// The time that the scheduler gave to each thread, to the nanosecond. That of threads that have ended is not in it:
/// no proxy ends threads while it is measured.
fn scheduled(pid: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.filter_map(Result::ok);
    let of = |text: String| text.split(' ').next()?.parse::<f64>().ok();
    let times: Vec<f64> =
        threads.filter_map(|thread| of(fs::read_to_string(thread.path().join("schedstat")).ok()?)).collect();
    (!times.is_empty()).then(|| times.iter().sum::<f64>() / 1000.0)
}

/// The same in steps of 10 ms, where the kernel keeps no scheduler statistics: utime and stime, fields 14 and 15.
fn ticks(pid: u32) -> Option<f64> {
    let ticks: u64 = stat(pid)?.get(11..13)?.iter().sum();
    // USER_HZ is 100 on every Linux there is.
    Some(ticks as f64 * 10_000.0)
}

fn tree(root: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc can be read").filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u64)> = pids.filter_map(|pid| Some((pid, *stat(pid)?.get(1)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == u64::from(parent)).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}
