//! The report: figures, and what does not add up.

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What a run has to say.
#[derive(Default)]
pub struct Report {
    failures: Vec<String>,
    checks: usize,
}

impl Report {
    /// Tells a figure at once: a run takes minutes.
    pub fn figure(&self, name: &str, value: impl std::fmt::Display) {
        println!("  {name:<44} {value}");
    }

    pub fn part(&self, name: &str) {
        println!("{name}");
    }

    /// One thing that has to hold.
    pub fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds {
            self.failures.push(what());
        }
    }

    pub fn equal(&mut self, what: &str, one: f64, other: f64) {
        self.check(one == other, || format!("{what}: {one} is not {other}"));
    }

    pub fn tell(self) -> ExitCode {
        const SHOWN: usize = 40;
        for failure in self.failures.iter().take(SHOWN) {
            eprintln!("WRONG: {failure}");
        }
        if self.failures.len() > SHOWN {
            eprintln!("and {} more", self.failures.len() - SHOWN);
        }
        println!("{} checks, {} failed", self.checks, self.failures.len());
        if self.failures.is_empty() && self.checks > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Tells again and again, for as long as it is awaited, that something goes on.
pub async fn progress(what: impl Fn() -> String) {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(20)).await;
        println!("  ... {} s: {}", begun.elapsed().as_secs(), what());
    }
}
