//! What a process has used.

use std::time::Duration;

/// CPU time and memory of a process.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub cpu: Duration,
    /// KiB.
    pub resident: u64,
}

impl Usage {
    /// Now.
    pub fn of(pid: u32) -> Self {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it runs");
        let stat = read("stat");
        // Behind the name, which may hold anything, in parentheses: utime and stime are fields 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks: u64 = fields.iter().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        let status = read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        let resident = line.trim().trim_end_matches(" kB").parse().expect("a number");
        // USER_HZ is 100 on every Linux that Postern runs on.
        Self { cpu: Duration::from_millis(ticks * 10), resident }
    }
}
