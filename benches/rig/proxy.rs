//! A proxy's process.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use super::subject::Program;

/// How long a proxy may take to end when told to.
const ENDING: Duration = Duration::from_secs(5);

/// A proxy at work; it ends with this.
pub struct Proxy {
    child: Child,
}

impl Proxy {
    /// Starts a command on one core.
    pub fn start(command: &[String], program: Option<&Program>, core: usize, directory: &Path) -> Self {
        let log = File::create(directory.join("stderr.log")).expect("the directory is ours");
        // taskset becomes the program: the process is the same.
        let mut child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .args(command)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LD_LIBRARY_PATH", program.map_or("", |program| &program.libraries))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("taskset starts");
        // Access lines go into a pipe that is read, as in a pod.
        let mut output = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while output.read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
        Self { child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Awaits that it ends of its own accord.
    pub async fn ended(&mut self) {
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The end of what a proxy said.
pub fn last_words(directory: &Path) -> String {
    let text = fs::read_to_string(directory.join("stderr.log")).unwrap_or_default();
    text.lines().rev().take(3).collect::<Vec<_>>().join(" | ")
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let asked = Instant::now();
        let told = Pid::from_raw(self.child.id() as i32).is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        while told && asked.elapsed() < ENDING {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A port that nothing listens at.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}
