// SPDX-License-Identifier: MIT OR Apache-2.0
//! From providers to control thread: only the latest of each, so that nothing can queue up.

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    model::{Snapshot, health::Down},
    providers::{Report, api::Wanted},
};

/// Room for one snapshot, one trouble and what the operator wants.
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
    /// What the operator's verbs want now, if that has changed.
    pub wanted: Option<Wanted>,
    /// Whose health checks fail now, if that has changed.
    pub down: Option<Down>,
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

    /// Replaces what the operator's verbs want.
    pub fn put_wanted(&self, wanted: Wanted) {
        self.lock().wanted = Some(wanted);
        self.arrived.notify_one();
    }

    /// Replaces the members whose health checks fail.
    pub fn put_down(&self, down: Down) {
        self.lock().down = Some(down);
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
            let news = mail.wanted.is_some() || mail.down.is_some();
            if mail.stop || news || !mail.report.is_empty() || wait == Duration::ZERO {
                return Mail {
                    report: std::mem::take(&mut mail.report),
                    wanted: mail.wanted.take(),
                    down: mail.down.take(),
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
        // Plain fields, whole at any moment.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
