//! Watching the directory: one thread that reads everything again whenever something moves.
//!
//! Reading everything is what makes it robust: a `..data` swap, an atomic rename, a deletion and
//! a re-creation are all just "something moved", and no sequence of events can be misread.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::{Loaded, load_bindings, snapshot};
use crate::api::document::Problem;
use crate::core::name::{BindingId, CallerKey};
use crate::core::routes::Conflict;
use crate::core::secret::SecretFault;
use crate::credential::cache::{Cache, Credentials};
use crate::credential::source::{Entry, Missing, Snapshot};
use crate::credential::told::Told;
use crate::runtime::clock;

/// What to watch, for whom.
#[derive(Debug, Clone)]
pub struct WatchSettings {
    /// The directory.
    pub directory: PathBuf,
    /// Whose bindings.
    pub caller: CallerKey,
}

/// A write is many events; what follows within this time belongs to it.
const SETTLE: Duration = Duration::from_millis(25);
/// How long something may be missing before that counts: replacing a file is not revoking it.
const ABSENCE: Duration = Duration::from_millis(500);
/// Reads again without an event: file systems that tell nothing, events that got lost.
const POLL: Duration = Duration::from_secs(5);
/// The same where no watch can be had at all.
const POLL_ONLY: Duration = Duration::from_millis(500);

/// The watching thread; dropping it ends it.
pub struct FileWatch {
    stop: Sender<Wake>,
    thread: Option<JoinHandle<()>>,
}

enum Wake {
    Moved,
    Stop,
}

/// Told after each reading but the first: what is in force now, and how many problems there are.
pub type OnRead = Box<dyn FnMut(&Credentials, usize) + Send>;

impl FileWatch {
    /// Reads the directory once, and goes on watching. `Err` are the problems of the first
    /// reading: at start they are the user's to mend, later they only disable what they concern.
    pub fn start(settings: WatchSettings, on_read: OnRead) -> Result<(Self, Credentials), Vec<Problem>> {
        // Events name absolute paths, and are compared with this one.
        let directory = std::path::absolute(&settings.directory).unwrap_or(settings.directory);
        let settings = WatchSettings { directory, ..settings };
        let (stop, wakes) = channel();
        let mut watcher = Watcher::new(settings, stop.clone());
        watcher.follow();
        let loaded = load_bindings(&watcher.settings.directory);
        let problems = loaded.all_problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        watcher.take(&loaded);
        let credentials = watcher.cache.readers();
        let run = move || watcher.run(&wakes, on_read);
        let thread = std::thread::Builder::new().name("file-source".into()).spawn(run).ok();
        Ok((Self { stop, thread }, credentials))
    }
}

impl FileWatch {
    /// Reads again now, and logs what cannot be served.
    pub fn look_again(&self) {
        // An error means that the thread has ended.
        let _ended = self.stop.send(Wake::Moved);
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        // An error means that the thread has ended already.
        let _ended = self.stop.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

struct Watcher {
    settings: WatchSettings,
    cache: Cache,
    notify: Option<RecommendedWatcher>,
    /// The last good entry of each binding, and since when it is missing.
    last: HashMap<BindingId, (Entry, Option<Instant>)>,
    told: Told,
}

impl Watcher {
    fn new(settings: WatchSettings, wake: Sender<Wake>) -> Self {
        let directory = settings.directory.clone();
        let on_event = move |event: notify::Result<notify::Event>| {
            if event.as_ref().map_or(true, |event| matters(event, &directory)) {
                // An error means that the thread has ended.
                let _ended = wake.send(Wake::Moved);
            }
        };
        let notify = notify::recommended_watcher(on_event)
            .inspect_err(|error| tracing::warn!(%error, "no file watch can be had (inotify limits?); reading every 500 ms instead"))
            .ok();
        Self { settings, cache: Cache::default(), notify, last: HashMap::new(), told: Told::default() }
    }

    fn run(mut self, wakes: &Receiver<Wake>, mut on_read: OnRead) {
        let mut pause = POLL;
        loop {
            match wakes.recv_timeout(pause) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Wake::Moved) => {
                    if settle(wakes) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.follow();
            let loaded = load_bindings(&self.settings.directory);
            let problems = loaded.problems.len() + loaded.clashes.len();
            let (due, conflicts) = self.take(&loaded);
            let problems_now = loaded.all_problems();
            let wrong = problems_now.iter().map(ToString::to_string).chain(conflicts.iter().map(ToString::to_string));
            self.told.tell(wrong, &self.cache.readers().view());
            pause = match due {
                Some(due) => due.saturating_duration_since(clock::now()) + Duration::from_millis(1),
                None if self.notify.is_some() => POLL,
                None => POLL_ONLY,
            };
            on_read(&self.cache.readers(), problems);
        }
    }

    /// Watches every directory that matters; a directory that was re-created is a new one to
    /// the kernel, so this is done again before each reading.
    fn follow(&mut self) {
        let Some(notify) = &mut self.notify else { return };
        let directory = &self.settings.directory;
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut places = vec![parent.to_path_buf(), directory.clone()];
        for kind in ["secrets", "configmaps"] {
            let below = directory.join(kind);
            let inner = std::fs::read_dir(&below).into_iter().flatten().flatten();
            places.extend(inner.map(|entry| entry.path()).filter(|path| path.is_dir()));
            places.push(below);
        }
        for place in places {
            // What is not there cannot be watched; its parent is.
            let _absent = notify.watch(&place, RecursiveMode::NonRecursive);
        }
    }

    /// Puts what was read in force. Returns when to look again, if something is missing that may
    /// come back.
    fn take(&mut self, loaded: &Loaded) -> (Option<Instant>, Vec<Conflict>) {
        let mut fresh = consistent(&self.settings, loaded);
        let (single, mut conflicts) = self.cache.single_out(std::mem::take(&mut fresh.entries));
        fresh.entries = single;
        let now = clock::now();
        let mut due: Option<Instant> = None;
        let mut last = std::mem::take(&mut self.last);
        for entry in &mut fresh.entries {
            let before = last.remove(&entry.binding.id);
            if is_absent(entry) {
                self.bridge(before, Some(entry), now, &mut due);
            } else if entry.is_usable() {
                self.last.insert(entry.binding.id.clone(), (entry.clone(), None));
            }
        }
        for (_, before) in last {
            if let Some(kept) = self.bridge(Some(before), None, now, &mut due) {
                fresh.entries.push(kept);
            }
        }
        conflicts.extend(self.cache.apply(fresh, clock::wall()));
        (due, conflicts)
    }

    /// Keeps what is missing for a short while.
    fn bridge(
        &mut self,
        before: Option<(Entry, Option<Instant>)>,
        entry: Option<&mut Entry>,
        now: Instant,
        due: &mut Option<Instant>,
    ) -> Option<Entry> {
        let (good, since) = before?;
        let since = since.unwrap_or(now);
        let end = since + ABSENCE;
        if now >= end {
            return None;
        }
        *due = Some(due.map_or(end, |due| due.min(end)));
        self.last.insert(good.binding.id.clone(), (good.clone(), Some(since)));
        if let Some(entry) = entry {
            // The whole entry: a value must not come together with a binding it was not read for.
            *entry = good.clone();
        }
        Some(good)
    }
}

/// Whether an event can mean a change. Reading is none; and of the parent, only the directory
/// itself counts: a log file beside it would wake us with every line we write.
fn matters(event: &notify::Event, directory: &Path) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    let only_read = matches!(event.kind, EventKind::Access(AccessKind::Open(_) | AccessKind::Close(AccessMode::Read)));
    let ours = |path: &PathBuf| path.starts_with(directory) || path.file_name() == directory.file_name();
    !only_read && (event.paths.is_empty() || event.paths.iter().any(ours))
}

/// Waits until the events pause; `true` if it is time to stop.
fn settle(wakes: &Receiver<Wake>) -> bool {
    let begun = clock::now();
    loop {
        match wakes.recv_timeout(SETTLE) {
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
            // A file that is written to all the time must not keep everything else waiting.
            Ok(Wake::Moved) if clock::now().duration_since(begun) > ABSENCE / 2 => return false,
            Ok(Wake::Moved) => {}
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

/// Not there, or empty as a file is between truncation and writing.
fn is_absent(entry: &Entry) -> bool {
    matches!(&entry.value, Err(Missing::Absent(_) | Missing::Invalid(_, SecretFault::Empty)))
        || matches!(&entry.ca_bundle, Some(Err(Missing::Absent(_))))
}

/// Reads the values; once more if a `..data` link moved meanwhile, so that no snapshot holds
/// half of the old and half of the new.
fn consistent(settings: &WatchSettings, loaded: &Loaded) -> Snapshot {
    let mut before = links(&settings.directory);
    for _ in 0..4 {
        let read = snapshot(&settings.directory, &loaded.bindings, &settings.caller);
        let after = links(&settings.directory);
        if before == after {
            return read;
        }
        before = after;
    }
    snapshot(&settings.directory, &loaded.bindings, &settings.caller)
}

fn links(directory: &Path) -> Vec<Option<PathBuf>> {
    let below = ["secrets", "configmaps"].map(|kind| std::fs::read_dir(directory.join(kind)));
    let mut links: Vec<_> = below
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
        .map(|e| std::fs::read_link(e.path().join("..data")).ok())
        .collect();
    links.sort();
    links
}
