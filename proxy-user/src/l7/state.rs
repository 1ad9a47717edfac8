// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state directory: one file with the parameters of every service, replayed at the next start.
//!
//! Parameters are kept, not rules, so that a newer version reads them with what it has learned. Writing happens on
//! a thread of its own; changes that arrive meanwhile are written together (group commit). The file may hold what
//! parameters may hold, so only the owner can read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::params::Params;
use super::source::{Kept, KeptService, Source};

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
}

struct Job {
    kept: Kept,
    done: oneshot::Sender<Result<(), String>>,
}

/// Reads what was kept and starts the thread.
///
/// A directory that cannot be used means running without persistence; a file that cannot be read is moved aside.
pub fn open(dir: &Path) -> (Keeper, Kept) {
    if let Err(error) = fs::create_dir_all(dir).and_then(|()| probe(dir)) {
        tracing::warn!(dir = %dir.display(), %error, "state directory cannot be used; services are lost at a restart");
        return (Keeper { sender: None }, Kept::default());
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
    let (sender, jobs) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("state".into())
        .spawn(move || write_loop(&path, &jobs));
    match thread {
        Ok(_) => (Keeper { sender: Some(sender) }, kept),
        Err(error) => {
            tracing::warn!(%error, "no thread for the state file; services are lost at a restart");
            (Keeper { sender: None }, kept)
        }
    }
}

impl Keeper {
    /// Whether services survive a restart.
    pub fn is_persistent(&self) -> bool {
        self.sender.is_some()
    }

    /// Asks for `kept` to be kept; the receiver says when it is, or why it cannot be.
    pub fn keep(&self, kept: Kept) -> oneshot::Receiver<Result<(), String>> {
        let (done, receiver) = oneshot::channel();
        if let Some(sender) = &self.sender {
            // The thread lives as long as a sender does, so this cannot fail; if it did, `done` is dropped.
            let _ = sender.send(Job { kept, done });
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

fn write_loop(path: &Path, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let (mut waiting, mut kept) = (vec![first.done], first.kept);
        for job in jobs.try_iter() {
            waiting.push(job.done);
            kept = job.kept;
        }
        let outcome = write(path, kept).map_err(|error| error.to_string());
        if let Err(error) = &outcome {
            tracing::error!(file = %path.display(), %error, "state file cannot be written");
        }
        for done in waiting {
            let _ = done.send(outcome.clone());
        }
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
