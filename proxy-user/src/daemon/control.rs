// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control thread: the only place where tables and kernel change.
//!
//! One turn: take the latest report; give it to the Writer; visit namespaces that are due; if anything
//! that goes into the tables has changed, or a retry or a check is due, let the reconciler make the kernel so; publish a
//! view. A turn happens when a report arrives and at least every second.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Mailbox, Shared,
    sandboxes::Sandboxes,
    view::{ProviderState, View},
};
use crate::{
    cli::Exit,
    kernel::parts::Inspect,
    model::{Cookie, Snapshot, Tables, Writer},
    reconcile::{Reconciler, Status, datapath::Datapath},
};

/// Longest time between two turns.
pub const TICK: Duration = Duration::from_secs(1);
/// How often the kernel is read back, in case somebody else changed it.
pub const RESYNC: Duration = Duration::from_secs(60);

/// The state of the control thread.
pub struct Control {
    writer: Writer,
    reconciler: Reconciler,
    sandboxes: Sandboxes,
    local_addrs: Box<dyn Fn() -> Vec<Ipv4Addr> + Send>,
    shared: Arc<Shared>,
    view: View,
    /// Whether the provider has ever said anything.
    spoken: bool,
    retry: Option<Instant>,
    resync: Instant,
    /// A snapshot has come since memory was last given back.
    untidy: bool,
}

/// Gives free memory back to the system.
#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: takes no pointer; the allocator locks what it touches.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

impl Control {
    /// Reads back what is in the kernel.
    pub fn start(
        datapath: Box<dyn Datapath>,
        own_cookie: u64,
        local_addrs: Box<dyn Fn() -> Vec<Ipv4Addr> + Send>,
        inspect: Inspect,
        shared: Arc<Shared>,
    ) -> Result<Self, Exit> {
        let reconciler = Reconciler::restore(datapath)
            .map_err(|error| Exit::Failed(format!("cannot read the maps back: {error}")))?;
        Ok(Self {
            writer: Writer::new(Cookie(own_cookie)),
            reconciler,
            sandboxes: Sandboxes::new(inspect),
            local_addrs,
            view: View::clone(&shared.view.load()),
            shared,
            spoken: false,
            retry: None,
            resync: Instant::now() + RESYNC,
            untidy: false,
        })
    }

    /// Turns until the mailbox says stop.
    pub fn run(mut self, mailbox: &Mailbox) {
        loop {
            let now = Instant::now();
            let deadline = self.retry.map_or(now + TICK, |retry| retry.min(now + TICK));
            let mail = mailbox.take(deadline, Instant::now);
            if mail.stop {
                return;
            }
            let snapshot = mail.report.snapshot;
            if let Some(snapshot) = &snapshot {
                for refusal in self.writer.apply(snapshot) {
                    tracing::warn!("{refusal}");
                }
                self.view.node.clone_from(&snapshot.node);
                self.view.refusals = self.writer.refusals().to_vec();
                self.view.state = ProviderState::Ok;
                self.spoken = true;
            }
            if let Some(trouble) = mail.report.trouble {
                tracing::warn!("{trouble}; the last state stays in force");
                self.view.state = ProviderState::Unreadable(trouble);
            }
            self.turn(snapshot.is_some());
            self.shared.view.store(Arc::new(self.view.clone()));
            self.tidy(snapshot);
        }
    }

    /// What can wait until the kernel is right. A snapshot is many small pieces, and so is what its provider
    /// read it from; the allocator keeps them until it is told that nobody needs them soon.
    fn tidy(&mut self, snapshot: Option<Snapshot>) {
        if snapshot.is_some() {
            self.untidy = true;
        } else if std::mem::take(&mut self.untidy) {
            trim();
        }
    }

    fn turn(&mut self, said: bool) {
        // Before the first word there is nothing to compare the kernel with.
        if !self.spoken {
            return;
        }
        let now = Instant::now();
        self.sandboxes.refresh(self.writer.namespaces(), now);
        self.view.sandboxes = self.sandboxes.problems();
        let facts = self.writer.set_facts(self.sandboxes.facts());
        let addresses = self.writer.set_local_addrs((self.local_addrs)());
        let resync = self.resync <= now;
        if resync {
            self.resync = now + RESYNC;
            if let Err(error) = self.reconciler.resync() {
                tracing::warn!(%error, "cannot read the maps back");
            }
        }
        let retry = self.retry.is_some_and(|retry| retry <= now);
        if said || facts || addresses || retry || resync {
            let tables = self.writer.tables();
            self.pass(tables);
        }
    }

    fn pass(&mut self, tables: Tables) {
        let pass = self.reconciler.pass(&tables);
        self.retry = pass.retry.map(|wait| Instant::now() + wait);
        self.view.passes += 1;
        self.view.operations += pass.done as u64;
        self.view.failures += pass.failed as u64;
        self.view.statuses.clone_from(self.reconciler.statuses());
        self.view.errors.clone_from(self.reconciler.errors());
        if pass.done + pass.failed > 0 {
            let wrong = self
                .view
                .statuses
                .values()
                .filter(|status| **status != Status::Done)
                .count();
            tracing::info!(
                operations = pass.done,
                failed = pass.failed,
                wrong,
                "kernel follows"
            );
        }
        self.view.tables = Arc::new(tables);
    }
}
