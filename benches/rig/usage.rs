//! What a process has used, with its children: processor time and memory, as the kernel says.

use std::collections::BTreeMap;
use std::fs;

/// One look at a tree of processes.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// What the scheduler gave each thread so far, in nanoseconds. That of threads that have ended is gone.
    pub threads: BTreeMap<u32, u64>,
    /// The same of all together, with ended threads, in steps of 10 ms: in microseconds.
    pub ticks_us: u64,
    /// Memory now, of all processes together, in KiB. Pages that they share count for each.
    pub resident_kib: u64,
    /// The most that each ever had, added up, in KiB.
    pub peak_kib: u64,
}

impl Usage {
    /// Of these processes together. To look at them takes much less time than to find them.
    pub fn of(processes: &[u32]) -> Self {
        let mut sum = Self::default();
        for one in processes.iter().copied().filter_map(one) {
            sum.threads.extend(one.threads);
            sum.ticks_us += one.ticks_us;
            sum.resident_kib += one.resident_kib;
            sum.peak_kib += one.peak_kib;
        }
        sum
    }

    /// Processor time since an earlier look, in microseconds. To the nanosecond, unless a thread has ended meanwhile,
    /// or the kernel does not count as finely.
    pub fn cpu_us_since(&self, before: &Self) -> f64 {
        let all_there = before.threads.keys().all(|thread| self.threads.contains_key(thread));
        if !all_there || self.threads.is_empty() {
            return self.ticks_us.saturating_sub(before.ticks_us) as f64;
        }
        let since = |(thread, time): (&u32, &u64)| time.saturating_sub(*before.threads.get(thread).unwrap_or(&0));
        self.threads.iter().map(since).sum::<u64>() as f64 / 1000.0
    }
}

/// The fields of /proc/PID/stat from the third on: the second is a name, which may hold anything.
pub fn stat(text: &str) -> Option<Vec<u64>> {
    let fields = text.rsplit_once(')')?.1.split_whitespace();
    // The state is a letter, and some later fields are negative: none of them is of use here.
    Some(fields.map(|field| field.parse().unwrap_or(0)).collect())
}

/// A size in /proc/PID/status, in KiB; nothing where there is none.
pub fn kib(status: &str, name: &str) -> u64 {
    let mut fields = status.lines().filter_map(|line| line.split_once(':'));
    let value = fields.find(|(field, _)| *field == name).map(|(_, value)| value.trim().trim_end_matches(" kB"));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// What all processes of the machine took of its cores so far, and what was taken from it as a whole, in microseconds.
pub fn machine_us() -> f64 {
    busy_us(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// The same, of what /proc/stat says: all but idle and waiting, and not what is in user time already.
pub fn busy_us(stat: &str) -> f64 {
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let times: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| times.get(*at)).sum::<u64>();
    busy as f64 * 10_000.0
}

fn stat_of(pid: u32) -> Option<Vec<u64>> {
    stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn one(pid: u32) -> Option<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // utime and stime, fields 14 and 15. USER_HZ is 100 on every Linux there is.
    let ticks_us = stat_of(pid)?.get(11..13)?.iter().sum::<u64>() * 10_000;
    let (resident_kib, peak_kib) = (kib(&status, "VmRSS"), kib(&status, "VmHWM"));
    Some(Usage { threads: scheduled(pid), ticks_us, resident_kib, peak_kib })
}

/// What each thread was given; of none, where the kernel keeps no such statistics.
fn scheduled(pid: u32) -> BTreeMap<u32, u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let time = |entry: fs::DirEntry| {
        let text = fs::read_to_string(entry.path().join("schedstat")).ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, text.split(' ').next()?.parse().ok()?))
    };
    threads.filter_map(time).collect()
}

/// A process and all below it.
pub fn tree(root: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc can be read").filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u64)> = pids.filter_map(|pid| Some((pid, *stat_of(pid)?.get(1)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == u64::from(parent)).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}
