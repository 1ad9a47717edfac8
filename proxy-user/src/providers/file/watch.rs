// SPDX-License-Identifier: MIT OR Apache-2.0
//! Notices that the file has changed, also by an atomic rename over it.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{FileError, Reader, read_text};
use crate::providers::Report;

/// How often the file is looked at: one stat(2), some microseconds.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(50);
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
