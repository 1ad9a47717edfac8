//! Sources of intent. Each reads its source and reports; none learns what became of it.
//!
//! A provider produces whole snapshots. It reports either [`Report::Snapshot`] (this is everything there is) or
//! [`Report::Unreadable`] (the last snapshot stays, and status shows why). Wake-ups (a file's modification time,
//! an engine's event) only mean "look again".

pub mod file;

use crate::model::Snapshot;

/// What a provider has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Everything there is.
    Snapshot(Snapshot),
    /// The source cannot be read at the moment.
    Unreadable(String),
}
