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
use std::sync::mpsc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::params::Params;

const FILE: &str = "services.json";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    services: Vec<Vec<(String, String)>>,
}

/// Handle to the thread that writes the file.
#[derive(Clone)]
pub struct Keeper {
    sender: Option<mpsc::Sender<Job>>,
}

struct Job {
    services: Vec<Params>,
    done: oneshot::Sender<()>,
}

/// Reads what was kept and starts the thread.
///
/// A directory that cannot be used means running without persistence; a file that cannot be read is moved aside.
pub fn open(dir: &Path) -> (Keeper, Vec<Params>) {
    if let Err(error) = fs::create_dir_all(dir).and_then(|()| probe(dir)) {
        tracing::warn!(dir = %dir.display(), %error, "state directory cannot be used; services are lost at a restart");
        return (Keeper { sender: None }, Vec::new());
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
            Vec::new()
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

    /// Asks for `services` to be kept; the receiver resolves when they are (or cannot be).
    pub fn keep(&self, services: Vec<Params>) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        if let Some(sender) = &self.sender {
            // The thread lives as long as a sender does, so this cannot fail; if it did, `done` is dropped.
            let _ = sender.send(Job { services, done });
        }
        receiver
    }
}

fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!("{FILE}.probe"));
    File::create(&path)?;
    fs::remove_file(path)
}

fn read(path: &Path) -> io::Result<Vec<Params>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let document: Document = serde_json::from_slice(&text)?;
    if document.version != VERSION {
        return Err(io::Error::other(format!(
            "version {} is not {VERSION}",
            document.version
        )));
    }
    Ok(document.services.into_iter().map(Params).collect())
}

fn write_loop(path: &Path, jobs: &mpsc::Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let (mut waiting, mut services) = (vec![first.done], first.services);
        for job in jobs.try_iter() {
            waiting.push(job.done);
            services = job.services;
        }
        if let Err(error) = write(path, services) {
            tracing::error!(file = %path.display(), %error, "state file cannot be written");
        }
        for done in waiting {
            let _ = done.send(());
        }
    }
}

/// A reader sees the old file or the new one, whatever happens in between.
fn write(path: &Path, services: Vec<Params>) -> io::Result<()> {
    let document = Document {
        version: VERSION,
        services: services.into_iter().map(|params| params.0).collect(),
    };
    let text = serde_json::to_vec_pretty(&document)?;
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

    #[test]
    fn what_is_kept_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let (keeper, kept) = open(&dir.path().join("a/b"));
        assert!(keeper.is_persistent() && kept.is_empty());
        let params = Params::parse("serviceName=a&servicePath=/%C3%A9");
        keeper.keep(vec![params.clone()]).blocking_recv().unwrap();
        assert_eq!(open(&dir.path().join("a/b")).1, [params]);
    }

    #[test]
    fn a_corrupt_file_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["{", r#"{"version":99,"services":[]}"#, "\u{0}"] {
            fs::write(dir.path().join(FILE), text).unwrap();
            assert!(open(dir.path()).1.is_empty(), "{text}");
            assert_eq!(
                fs::read_to_string(dir.path().join("services.json.corrupt")).unwrap(),
                text
            );
        }
    }

    #[test]
    fn without_a_directory_nothing_is_kept_and_nothing_fails() {
        let (keeper, kept) = open(Path::new("/proc/nothing/here"));
        assert!(!keeper.is_persistent() && kept.is_empty());
        assert!(keeper.keep(Vec::new()).blocking_recv().is_err());
    }
}
