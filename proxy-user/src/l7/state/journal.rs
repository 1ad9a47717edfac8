// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes since the state file was written: one line of JSON each.
//!
//! A line says what [`Kept`] says, of one service. Lines are read on top of the file, and because every word has its
//! time, a line that the file already holds changes nothing: a crash between writing the file and emptying the
//! journal does no harm. A crash while a line is written leaves a piece of it at the end, which is not read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::l7::source::Kept;

/// An open journal.
pub(super) struct Journal {
    file: File,
    bytes: u64,
    is_synced: bool,
}

impl Journal {
    /// Reads what its lines say on top of `kept`, and opens it behind the last whole line.
    pub fn open(path: &Path, kept: &mut Kept) -> io::Result<Self> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        // Whoever waited for a piece of a line was never told that it is kept.
        let whole = text
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        for line in text[..whole].split_inclusive(|&byte| byte == b'\n') {
            match serde_json::from_slice::<Kept>(line) {
                Ok(change) => {
                    kept.services.extend(change.services);
                    kept.removed.extend(change.removed);
                }
                Err(error) => {
                    tracing::error!(file = %path.display(), %error, "a line of the journal cannot be read");
                }
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        file.set_len(whole as u64)?;
        Ok(Journal {
            file,
            bytes: whole as u64,
            is_synced: true,
        })
    }

    /// Appends lines with one write. The kernel has them when it returns, so they outlive the process; they outlive
    /// the machine after [`Journal::sync`].
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.is_synced = false;
        let outcome = self.file.write_all(lines);
        match outcome {
            Ok(()) => self.bytes += lines.len() as u64,
            // Half a line in the middle would make the next one unreadable.
            Err(_) => self.file.set_len(self.bytes)?,
        }
        outcome
    }

    /// Waits for the disk, if there is something to wait for.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.is_synced {
            self.file.sync_data()?;
            self.is_synced = true;
        }
        Ok(())
    }

    /// Forgets everything, after the file has been written.
    pub fn empty(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        (self.bytes, self.is_synced) = (0, true);
        Ok(())
    }

    /// Length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
