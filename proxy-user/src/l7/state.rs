// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state directory: one file with the parameters of every service and a journal of what changed since, replayed
//! at the next start.
//!
//! Parameters are kept, not rules, so that a newer version reads them with what it has learned. Writing happens on
//! a thread of its own; changes that arrive meanwhile are written together (group commit). A change costs a line of
//! the journal; the file is written anew when the journal has grown, and for what a line cannot say.
//!
//! Who is told that something is kept can rely on it if this process dies, also by SIGKILL: the kernel has the bytes.
//! The disk has them at most [`limits::STATE_SYNC_INTERVAL`] later, so a machine that loses power may lose the changes
//! of that time. Waiting for the disk would cost every caller several milliseconds.
//!
//! The files may hold what parameters may hold, so only the owner can read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::limits;
use super::params::Params;
use super::source::{Kept, KeptService, Source};

mod journal;

use journal::Journal;

const JOURNAL: &str = "services.journal";
const FILE: &str = "services.json";
const VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    #[serde(flatten)]
    kept: Kept,
}

/// The first version: parameters only, all from calls.
#[derive(Deserialize)]
struct First {
    services: Vec<Params>,
}

/// Handle to the thread that writes the file.
#[derive(Clone)]
pub struct Keeper {
    sender: Option<mpsc::Sender<Job>>,
    /// The journal has grown, so the next thing to keep is everything.
    is_long: Arc<AtomicBool>,
}

struct Job {
    what: What,
    done: oneshot::Sender<Result<(), String>>,
}

enum What {
    /// Everything there is.
    All(Kept),
    /// What one service is now.
    Change(Kept),
}

/// Reads what was kept and starts the thread.
///
/// A directory that cannot be used means running without persistence; a file that cannot be read is moved aside.
pub fn open(dir: &Path) -> (Keeper, Kept) {
    if let Err(error) = fs::create_dir_all(dir).and_then(|()| probe(dir)) {
        tracing::warn!(dir = %dir.display(), %error, "state directory cannot be used; services are lost at a restart");
        return (Keeper::forgetful(), Kept::default());
    }
    let path = dir.join(FILE);
    let kept = match read(&path) {
        Ok(kept) => kept,
        Err(error) => {
            let aside = dir.join(format!("{FILE}.corrupt"));
            tracing::error!(file = %path.display(), %error, moved_to = %aside.display(), "state file cannot be read");
            if let Err(error) = fs::rename(&path, &aside) {
                tracing::error!(file = %path.display(), %error, "state file cannot be moved aside");
            }
            Kept::default()
        }
    };
    let mut kept = kept;
    let journal = match Journal::open(&dir.join(JOURNAL), &mut kept) {
        Ok(journal) => journal,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "no journal; services are lost at a restart");
            return (Keeper::forgetful(), kept);
        }
    };
    let (sender, jobs) = mpsc::channel();
    let is_long = Arc::new(AtomicBool::new(false));
    let writer = Writer {
        path,
        journal,
        is_long: is_long.clone(),
    };
    let thread = std::thread::Builder::new()
        .name("state".into())
        .spawn(move || writer.run(&jobs));
    let sender = Some(sender);
    match thread {
        Ok(_) => (Keeper { sender, is_long }, kept),
        Err(error) => {
            tracing::warn!(%error, "no thread for the state file; services are lost at a restart");
            (Keeper::forgetful(), kept)
        }
    }
}

impl Keeper {
    /// Keeps nothing.
    fn forgetful() -> Self {
        Keeper {
            sender: None,
            is_long: Arc::default(),
        }
    }

    /// Whether [`Keeper::keep`] is due instead of [`Keeper::keep_change`].
    pub fn wants_all(&self) -> bool {
        self.is_long.load(Ordering::Relaxed)
    }

    /// Asks for the present state of one service to be kept.
    pub fn keep_change(&self, change: Kept) -> oneshot::Receiver<Result<(), String>> {
        self.send(What::Change(change))
    }

    /// Whether services survive a restart.
    pub fn is_persistent(&self) -> bool {
        self.sender.is_some()
    }

    /// Asks for `kept` to be kept; the receiver says when it is, or why it cannot be.
    pub fn keep(&self, kept: Kept) -> oneshot::Receiver<Result<(), String>> {
        self.send(What::All(kept))
    }

    fn send(&self, what: What) -> oneshot::Receiver<Result<(), String>> {
        let (done, receiver) = oneshot::channel();
        if let Some(sender) = &self.sender {
            // The thread lives as long as a sender does, so this cannot fail; if it did, `done` is dropped.
            let _ = sender.send(Job { what, done });
        }
        receiver
    }
}

fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!("{FILE}.probe"));
    File::create(&path)?;
    fs::remove_file(path)
}

fn read(path: &Path) -> io::Result<Kept> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        Err(error) => return Err(error),
    };
    let document: serde_json::Value = serde_json::from_slice(&text)?;
    match document["version"].as_u64() {
        Some(1) => Ok(Kept {
            services: (serde_json::from_value::<First>(document)?.services.into_iter())
                .map(|params| KeptService {
                    source: Source::Call,
                    changed: 1,
                    params: Arc::new(params),
                })
                .collect(),
            removed: Vec::new(),
        }),
        Some(version) if version == u64::from(VERSION) => {
            Ok(serde_json::from_value::<Document>(document)?.kept)
        }
        version => Err(io::Error::other(format!("version {version:?} is not {VERSION}"))),
    }
}

/// The thread's own.
struct Writer {
    path: PathBuf,
    journal: Journal,
    is_long: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self, jobs: &mpsc::Receiver<Job>) {
        let mut sync_at: Option<Instant> = None;
        loop {
            let job = match sync_at {
                None => jobs.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(at) => jobs.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            match job {
                Ok(job) => {
                    self.commit(job, jobs);
                    sync_at.get_or_insert(Instant::now() + limits::STATE_SYNC_INTERVAL);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.sync();
                    sync_at = None;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.sync(),
            }
        }
    }

    /// Writes a job together with those that wait behind it.
    fn commit(&mut self, first: Job, jobs: &mpsc::Receiver<Job>) {
        let mut waiting = Vec::new();
        let (mut all, mut lines) = (None, Vec::new());
        for job in std::iter::once(first).chain(jobs.try_iter()) {
            waiting.push(job.done);
            match job.what {
                What::All(kept) => {
                    // It holds every change before it.
                    lines.clear();
                    all = Some(kept);
                }
                What::Change(kept) => push_line(&mut lines, &kept),
            }
        }
        let outcome = self.write(all, &lines).map_err(|error| error.to_string());
        if let Err(error) = &outcome {
            tracing::error!(file = %self.path.display(), %error, "state cannot be written");
        }
        for done in waiting {
            let _ = done.send(outcome.clone());
        }
    }

    fn write(&mut self, all: Option<Kept>, lines: &[u8]) -> io::Result<()> {
        if let Some(kept) = all {
            write(&self.path, kept)?;
            self.journal.empty()?;
        }
        if !lines.is_empty() {
            self.journal.append(lines)?;
        }
        let is_long = self.journal.bytes() > limits::JOURNAL_BYTES_MAX;
        self.is_long.store(is_long, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&mut self) {
        if let Err(error) = self.journal.sync() {
            tracing::error!(file = %self.path.display(), %error, "the journal is not on the disk");
        }
    }
}

fn push_line(lines: &mut Vec<u8>, change: &Kept) {
    // Strings and numbers can be written as JSON.
    if serde_json::to_writer(&mut *lines, change).is_ok() {
        lines.push(b'\n');
    }
}

/// A reader sees the old file or the new one, whatever happens in between.
fn write(path: &Path, kept: Kept) -> io::Result<()> {
    let document = Document {
        version: VERSION,
        kept,
    };
    let text = serde_json::to_vec(&document)?;
    let temporary: PathBuf = path.with_extension("json.new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Kept {
        Kept {
            services: vec![KeptService {
                source: Source::Labels,
                changed: 7,
                params: Arc::new(Params::parse("serviceName=a&servicePath=/%C3%A9")),
            }],
            removed: vec![("b".into(), 9)],
        }
    }

    #[test]
    fn what_is_kept_is_read_again_by_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (keeper, kept) = open(&dir.path().join("a/b"));
        assert!(keeper.is_persistent() && kept == Kept::default());
        keeper.keep(one()).blocking_recv().unwrap().unwrap();
        assert_eq!(open(&dir.path().join("a/b")).1, one());
        let mode = fs::metadata(dir.path().join("a/b").join(FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    fn service(port: u16, changed: u64) -> Kept {
        Kept {
            services: vec![KeptService {
                source: Source::Call,
                changed,
                params: Arc::new(Params::parse(&format!("serviceName=a&servicePath=/&port={port}"))),
            }],
            removed: Vec::new(),
        }
    }

    #[test]
    fn changes_are_read_on_top_of_the_file_and_a_torn_line_is_not() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (keeper, _) = open(dir.path());
        keeper.keep(one()).blocking_recv().unwrap().unwrap();
        for change in [service(1, 10), service(2, 11)] {
            keeper.keep_change(change).blocking_recv().unwrap().unwrap();
        }
        // No word of a process that is killed here.
        let (_, kept) = open(dir.path());
        let changed: Vec<u64> = kept.services.iter().map(|service| service.changed).collect();
        assert_eq!(changed, [7, 10, 11]);
        let path = dir.path().join(JOURNAL);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut text = fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"services\":[{\"sou");
        fs::write(&path, &text).unwrap();
        assert_eq!(open(dir.path()).1, kept);
        // Everything at once empties the journal.
        drop(keeper);
        let (keeper, _) = open(dir.path());
        keeper.keep(service(3, 12)).blocking_recv().unwrap().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(open(dir.path()).1, service(3, 12));
    }

    #[test]
    fn a_journal_that_has_grown_asks_for_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (keeper, _) = open(dir.path());
        let mut change = service(1, 1);
        let long = "x".repeat(usize::try_from(limits::JOURNAL_BYTES_MAX).unwrap());
        change.services[0].params = Arc::new(Params(vec![("serviceName".into(), long)]));
        assert!(!keeper.wants_all());
        keeper.keep_change(change).blocking_recv().unwrap().unwrap();
        assert!(keeper.wants_all());
        keeper.keep(one()).blocking_recv().unwrap().unwrap();
        assert!(!keeper.wants_all());
    }

    #[test]
    fn the_first_version_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"version":1,"services":[[["serviceName","a"],["port","1"]]]}"#;
        fs::write(dir.path().join(FILE), text).unwrap();
        let kept = open(dir.path()).1;
        assert_eq!(kept.services[0].source, Source::Call);
        assert_eq!(*kept.services[0].params, Params::parse("serviceName=a&port=1"));
    }

    #[test]
    fn a_corrupt_file_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["{", r#"{"version":99,"services":[]}"#, "\u{0}"] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert_eq!(open(dir.path()).1, Kept::default(), "{text}");
            assert_eq!(
                fs::read_to_string(dir.path().join("services.json.corrupt")).unwrap(),
                text
            );
        }
    }

    #[test]
    fn without_a_directory_nothing_is_kept_and_nothing_fails() {
        let (keeper, kept) = open(Path::new("/proc/nothing/here"));
        assert!(!keeper.is_persistent() && kept == Kept::default());
        assert!(keeper.keep(Kept::default()).blocking_recv().is_err());
    }
}
