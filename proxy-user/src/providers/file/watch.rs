// SPDX-License-Identifier: MIT OR Apache-2.0
//! Notices that the file has changed, also by an atomic rename over it.
//!
//! The kernel says when something happens in the file's folder; the file is also looked at now and then, because
//! not every change is told of: a network file system, a link to somewhere else, a folder that is exchanged.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};

use super::{FileError, Reader, read_text};
use crate::providers::Report;

/// How often the file is looked at where the kernel does not tell of changes: one stat(2), some microseconds.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is looked at where the kernel tells.
pub const TOLD_INTERVAL: Duration = Duration::from_millis(500);
/// Bytes for what the kernel tells at once; a name has up to 255 bytes. What does not fit comes next.
const EVENTS_BYTES: usize = 4096;
/// How long a file that was written in place must stay as it is before it is taken.
pub const SETTLE: Duration = Duration::from_millis(30);

/// What tells one state of the file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    Ok(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.size(),
        modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
    })
}

/// What happens in a folder, as the kernel tells it.
pub struct Bell {
    events: Option<EventStream<[u8; EVENTS_BYTES]>>,
}

impl Bell {
    /// A bell for the folder that the file is in; one that never rings if that folder cannot be watched.
    pub fn new(file: &Path) -> Self {
        let folder = match file.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let events = Inotify::init().and_then(|inotify| {
            let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE;
            inotify.watches().add(folder, mask)?;
            inotify.into_event_stream([0; EVENTS_BYTES])
        });
        if let Err(error) = &events {
            tracing::info!(folder = %folder.display(), %error, "changes are not told of, only looked for");
        }
        Self { events: events.ok() }
    }

    /// Waits until something has happened or it is time to look anyway.
    pub async fn ring(&mut self) {
        let Some(events) = &mut self.events else {
            return tokio::time::sleep(LOOK_INTERVAL).await;
        };
        if let Ok(None | Some(Err(_))) = tokio::time::timeout(TOLD_INTERVAL, events.next()).await {
            self.events = None;
        }
    }
}

/// Watches one file.
#[derive(Debug)]
pub struct Watcher {
    path: PathBuf,
    reader: Reader,
    seen: Option<Stamp>,
    failed: bool,
}

impl Watcher {
    /// A watcher that reports at its first look.
    pub fn new(path: PathBuf, node: Option<String>) -> Self {
        Self {
            reader: Reader::new(path.display().to_string(), node),
            path,
            seen: None,
            failed: false,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks once; a report if there is something new to say.
    pub async fn look(&mut self) -> Option<Report> {
        let mut now = match stamp(&self.path) {
            Ok(stamp) => stamp,
            Err(source) => {
                self.seen = None;
                return self.unreadable(FileError::Unreadable {
                    path: self.path.display().to_string(),
                    source,
                });
            }
        };
        if self.seen == Some(now) {
            return None;
        }
        // Same inode: written in place, so perhaps half written. Another inode: renamed over, complete.
        if self
            .seen
            .is_some_and(|seen| (seen.device, seen.inode) == (now.device, now.inode))
        {
            loop {
                tokio::time::sleep(SETTLE).await;
                match stamp(&self.path) {
                    Ok(later) if later != now => now = later,
                    _ => break,
                }
            }
        }
        let text = match read_text(&self.path) {
            Ok(text) => text,
            Err(error) => {
                self.seen = Some(now);
                return self.unreadable(error);
            }
        };
        // Written again while it was read: the next look sees another stamp.
        self.seen = Some(now);
        if self.reader.text() == text && !self.failed {
            return None;
        }
        let report = match self.reader.read(text) {
            Ok(snapshot) => {
                self.failed = false;
                Report::Snapshot(snapshot)
            }
            Err(error) => {
                self.failed = true;
                Report::Unreadable(error.to_string())
            }
        };
        Some(report)
    }

    fn unreadable(&mut self, error: FileError) -> Option<Report> {
        let first = !self.failed;
        self.failed = true;
        first.then(|| Report::Unreadable(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_tells_of_a_rename_and_of_a_write() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("portico.toml");
        let mut bell = Bell::new(&file);
        std::fs::write(folder.path().join("next"), "node = \"a\"").unwrap();
        std::fs::rename(folder.path().join("next"), &file).unwrap();
        let events = bell.events.as_mut().unwrap();
        let mut seen = Vec::new();
        let deadline = Duration::from_secs(10);
        while !seen.contains(&Some("portico.toml".into())) {
            let event = tokio::time::timeout(deadline, events.next()).await;
            seen.push(event.expect("an event in time").unwrap().unwrap().name);
        }
    }

    #[tokio::test]
    async fn without_a_folder_it_is_only_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut bell = Bell::new(&folder.path().join("absent/portico.toml"));
        assert!(bell.events.is_none());
        bell.ring().await;
    }
}
