// SPDX-License-Identifier: MIT OR Apache-2.0
//! From provider to control thread: only the latest report, so that nothing can queue up.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{model::Snapshot, providers::Report};

/// Room for one snapshot and one trouble.
#[derive(Debug, Default)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Condvar,
}

/// What has arrived.
#[derive(Debug, Default)]
pub struct Mail {
    /// The latest snapshot not taken yet, and what was said after it.
    pub report: Latest,
    /// Time to go.
    pub stop: bool,
}

/// At most one snapshot and one trouble that came after it.
#[derive(Debug, Default)]
pub struct Latest {
    /// The latest snapshot.
    pub snapshot: Option<Snapshot>,
    /// The trouble that came after it.
    pub trouble: Option<String>,
}

impl Latest {
    fn push(&mut self, report: Report) {
        match report {
            Report::Snapshot(snapshot) => {
                *self = Self {
                    snapshot: Some(snapshot),
                    trouble: None,
                }
            }
            Report::Unreadable(trouble) => self.trouble = Some(trouble),
        }
    }

    fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.trouble.is_none()
    }
}

impl Mailbox {
    /// Replaces what has not been taken yet: snapshots are whole, so only the latest counts, and a trouble that
    /// lasts is reported again.
    pub fn put(&self, report: Report) {
        self.lock().report.push(report);
        self.arrived.notify_one();
    }

    /// Tells the control thread to go.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.arrived.notify_one();
    }

    /// Waits for mail, not longer than `deadline`.
    pub fn take(&self, deadline: Instant, now: impl Fn() -> Instant) -> Mail {
        let mut mail = self.lock();
        loop {
            let wait = deadline.saturating_duration_since(now());
            if mail.stop || !mail.report.is_empty() || wait == Duration::ZERO {
                return Mail {
                    report: std::mem::take(&mut mail.report),
                    stop: mail.stop,
                };
            }
            mail = self
                .arrived
                .wait_timeout(mail, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        // The data is two plain fields, whole at any moment.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
