// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sources of intent. Each reads its source and reports; none learns what became of it. The command line chooses
//! one of `docker`, `file` and none; `api`, the operator's verbs, stands beside it.
//!
//! A provider produces whole snapshots. It reports either [`Report::Snapshot`] (this is everything there is) or
//! [`Report::Unreadable`] (the last snapshot stays, and status shows why). Wake-ups (a file's modification time,
//! an engine's event) only mean "look again".

pub mod api;
pub mod docker;
pub mod file;

use crate::{daemon::Mailbox, model::Snapshot};

/// What a provider has to say.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Everything there is.
    Snapshot(Snapshot),
    /// The source cannot be read at the moment.
    Unreadable(String),
}

/// The provider that the command line chose.
pub enum Provider {
    /// `portico.toml`.
    File {
        /// The watcher.
        watcher: Box<file::watch::Watcher>,
        /// The file.
        source: String,
        /// This node.
        node: String,
    },
    /// The node's Docker Engine.
    Docker(Box<docker::watch::Watcher>),
    /// Nothing but the operator's verbs.
    Alone {
        /// The file that keeps what they say.
        source: String,
        /// This node.
        node: String,
    },
}

impl Provider {
    /// Its name in `status`.
    pub fn kind(&self) -> &'static str {
        match self {
            Provider::File { .. } => "file",
            Provider::Docker(_) => "docker",
            Provider::Alone { .. } => api::KIND,
        }
    }

    /// Where it reads.
    pub fn source(&self) -> String {
        match self {
            Provider::File { source, .. } | Provider::Alone { source, .. } => source.clone(),
            Provider::Docker(watcher) => watcher.source(),
        }
    }

    /// This node's name as far as it is known.
    pub fn node(&self) -> &str {
        match self {
            Provider::File { node, .. } | Provider::Alone { node, .. } => node,
            Provider::Docker(watcher) => watcher.node(),
        }
    }

    /// Looks again and again, and puts what is new into the mailbox.
    pub async fn run(self, mailbox: std::sync::Arc<Mailbox>) {
        match self {
            Provider::File { mut watcher, .. } => {
                let mut bell = file::watch::Bell::new(watcher.path());
                loop {
                    if let Some(report) = watcher.look().await {
                        mailbox.put(report);
                    }
                    bell.ring().await;
                }
            }
            Provider::Docker(watcher) => watcher.run(|report| mailbox.put(report)).await,
            Provider::Alone { .. } => std::future::pending().await,
        }
    }
}
