// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `file` provider: `portico.toml`.
//!
//! Life of a change: the watcher sees another inode, size or modification time; it waits until two looks in a
//! row see the same (an editor that writes in place passes through states that nobody meant); what has changed
//! of the text is parsed, and a whole snapshot is reported. A text that is no TOML is reported as unreadable and changes nothing.

mod chunks;
mod parse;
pub mod watch;

pub use chunks::Reader;
pub use parse::{FileError, parse};

use std::path::Path;

use crate::model::Snapshot;

/// Bytes of a configuration file: 100 000 services of 10 backends, as many as the kernel side holds, are 49 MiB with
/// a line for each backend (`tests/scale.rs`).
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Reads and parses the file once.
pub fn read(path: &Path, node: Option<&str>) -> Result<Snapshot, FileError> {
    let text = read_text(path)?;
    parse(&path.display().to_string(), &text, node)
}

fn read_text(path: &Path) -> Result<String, FileError> {
    let unreadable = |source| FileError::Unreadable {
        path: path.display().to_string(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(FileError::TooLong {
            path: path.display().to_string(),
            bytes: metadata.len(),
        });
    }
    std::fs::read_to_string(path).map_err(unreadable)
}
