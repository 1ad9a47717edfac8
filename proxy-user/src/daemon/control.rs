// SPDX-License-Identifier: MIT OR Apache-2.0
//! The control thread: the only place where tables and kernel change.
//!
//! One turn: take the latest of each provider; give both together to the Writer; visit namespaces that are due; if anything
//! that goes into the tables has changed, or a retry or a check is due, let the reconciler make the kernel so; publish a
//! view. A turn happens when a report arrives and at least every second.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Mailbox, Shared,
    drains::Drains,
    echoes,
    mailbox::Mail,
    sandboxes::Sandboxes,
    view::{ProviderState, SandboxProblem, View},
};
use crate::{
    cli::Exit,
    kernel::{
        echo::Echo,
        parts::{Engine, Inspect},
        reset::{Gone, Reset},
    },
    memory,
    model::{Cookie, Snapshot, Tables, Writer},
    providers::api::{self, Wanted},
    reconcile::{Follow, Reconciler, ipvs},
};

/// Longest time between two turns.
pub const TICK: Duration = Duration::from_secs(1);
/// How often the kernel is looked at, in case somebody else changed it.
pub const RESYNC: Duration = Duration::from_secs(60);

/// How long changes wait until the namespaces are told, so that many are told at once.
const ECHO_PAUSE: Duration = Duration::from_millis(300);

/// The state of the control thread.
pub struct Control {
    writer: Writer,
    reconciler: Box<dyn Follow>,
    sandboxes: Sandboxes,
    drains: Drains,
    reset: Reset,
    echo: Echo,
    /// When namespaces have to be told of other VIPs.
    echo_due: Option<Instant>,
    /// Whether what an earlier agent has not come to do has been done.
    caught_up: bool,
    local_addrs: Box<dyn Fn() -> Vec<Ipv4Addr> + Send>,
    shared: Arc<Shared>,
    view: View,
    /// What the chosen provider said last; nothing happens before it has spoken.
    base: Option<Snapshot>,
    /// What the operator's verbs want.
    wanted: Wanted,
    retry: Option<Instant>,
    resync: Instant,
    /// A snapshot has come since memory was last given back.
    untidy: bool,
}

impl Control {
    /// Reads back what is in the kernel.
    pub fn start(
        engine: impl Into<Engine>,
        own_cookie: u64,
        local_addrs: Box<dyn Fn() -> Vec<Ipv4Addr> + Send>,
        (inspect, reset, echo): (Inspect, Reset, Echo),
        shared: Arc<Shared>,
    ) -> Result<Self, Exit> {
        let reconciler: Box<dyn Follow> = match engine.into() {
            Engine::Maps(datapath) => Box::new(
                Reconciler::restore(datapath)
                    .map_err(|error| Exit::Failed(format!("cannot read the maps back: {error}")))?,
            ),
            Engine::Ipvs(kernel, options) => Box::new(
                ipvs::Keeper::restore(kernel, options)
                    .map_err(|error| Exit::Failed(format!("cannot read IPVS back: {error}")))?,
            ),
        };
        Ok(Self {
            writer: Writer::new(Cookie(own_cookie)),
            reconciler,
            sandboxes: Sandboxes::new(inspect),
            drains: Drains::default(),
            reset,
            echo,
            echo_due: None,
            caught_up: false,
            local_addrs,
            view: View::clone(&shared.view.load()),
            shared,
            base: None,
            wanted: Wanted::default(),
            retry: None,
            resync: Instant::now() + RESYNC,
            untidy: false,
        })
    }

    /// Turns until the mailbox says stop.
    pub fn run(mut self, mailbox: &Mailbox) {
        loop {
            let now = Instant::now();
            let soon = self
                .retry
                .into_iter()
                .chain(self.drains.due())
                .chain(self.echo_due);
            let deadline = soon.fold(now + TICK, Instant::min);
            let mail = mailbox.take(deadline, Instant::now);
            if mail.stop {
                return;
            }
            self.turn(mail);
        }
    }

    /// One turn.
    pub(super) fn turn(&mut self, mail: Mail) {
        let mut said = false;
        if let Some(wanted) = mail.wanted {
            self.wanted = wanted;
            said = true;
        }
        if let Some(snapshot) = mail.report.snapshot {
            self.view.node.clone_from(&snapshot.node);
            self.view.state = ProviderState::Ok;
            self.base = Some(snapshot);
            said = true;
        }
        if said {
            self.take();
        }
        if let Some(trouble) = mail.report.trouble {
            tracing::warn!("{trouble}; the last state stays in force");
            self.view.state = ProviderState::Unreadable(trouble);
        }
        if said {
            // The verdict on whoever stays comes back at once, so that no turn forgets it.
            let down = self.shared.health.set_targets(self.writer.targets());
            self.writer.set_down(down);
        }
        let health = mail.down.is_some_and(|down| self.writer.set_down(down));
        if said || health {
            self.look_at_health();
        }
        let overdue = self.look_at_drains(said);
        self.follow(said || health || overdue);
        self.look_at_echoes();
        self.shared.show(self.view.clone());
        self.tidy(said);
    }

    /// Gives the Writer what all providers say.
    fn take(&mut self) {
        let Some(base) = &self.base else { return };
        let refusals = if self.wanted.services.is_empty() {
            self.writer.apply(base)
        } else {
            self.writer.apply(&base.with(api::KIND, &self.wanted.services))
        };
        for refusal in refusals {
            tracing::warn!("{refusal}");
        }
        self.view.refusals = refusals.to_vec();
        self.view.revision = self.wanted.revision;
    }

    /// Says which services have nobody left, and so use everybody.
    fn look_at_health(&mut self) {
        let all_down = self.writer.all_down();
        for service in all_down.iter().filter(|name| !self.view.all_down.contains(name)) {
            tracing::warn!(%service, "all members are down: all are used");
        }
        self.view.all_down = all_down;
    }

    /// Whose time is over; true if that has changed.
    fn look_at_drains(&mut self, said: bool) -> bool {
        let now = Instant::now();
        if !said && self.drains.due().is_none_or(|due| now < due) {
            return false;
        }
        let overdue = self.drains.look(self.writer.draining(), now);
        self.writer.set_overdue(overdue)
    }

    /// Tells the namespaces which VIPs they answer for, some time after a change: it looks at all of them.
    fn look_at_echoes(&mut self) {
        if !self.echo.is_active() {
            return;
        }
        if self.echo_due.is_some_and(|due| due <= Instant::now()) {
            self.echo_due = None;
            let facts = self.sandboxes.facts();
            self.echo.want(echoes::wanted(&self.view.tables, &facts));
        }
        let names = self.writer.namespaces();
        let wrong = self.echo.problems().into_iter().filter_map(|(path, problem)| {
            Some(SandboxProblem {
                task: names.get(&path)?.task.to_string(),
                path: path.display().to_string(),
                problem,
            })
        });
        self.view.sandboxes.extend(wrong);
    }

    /// What can wait until the kernel is right. A snapshot is many small pieces, and so is what its provider
    /// read it from; the allocator keeps them until it is told that nobody needs them soon.
    fn tidy(&mut self, said: bool) {
        if said {
            self.untidy = true;
        } else if std::mem::take(&mut self.untidy) {
            memory::give_back();
        }
    }

    /// Lets the kernel follow, if anything has changed.
    fn follow(&mut self, said: bool) {
        // Before the first word there is nothing to compare the kernel with.
        if self.base.is_none() {
            return;
        }
        let now = Instant::now();
        self.sandboxes.refresh(self.writer.namespaces(), now);
        self.view.sandboxes = self.sandboxes.problems();
        let facts = self.writer.set_facts(self.sandboxes.facts());
        let addresses = self.writer.set_local_addrs((self.local_addrs)());
        if self.resync <= now {
            self.resync = now + RESYNC;
            if let Err(error) = self.reconciler.look() {
                tracing::warn!(%error, "cannot look at the maps");
            }
        }
        let disturbed = self.reconciler.disturbed().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the maps back");
            false
        });
        let retry = self.retry.is_some_and(|retry| retry <= now);
        if said || facts || addresses || retry || disturbed {
            let tables = self.writer.tables();
            self.pass(tables);
        }
    }

    fn pass(&mut self, tables: Tables) {
        let pass = self.reconciler.pass(&tables);
        self.retry = pass.retry.map(|wait| Instant::now() + wait);
        if pass.gone > 0 || !std::mem::replace(&mut self.caught_up, tables.prune) && tables.prune {
            let namespaces = self.writer.namespaces().keys().cloned().collect();
            let servers = self.writer.overdue_servers();
            (self.reset)(Gone { namespaces, servers });
        }
        self.view.passes += 1;
        self.view.operations += pass.done as u64;
        self.view.failures += pass.failed as u64;
        self.view.statuses = self.reconciler.statuses().clone();
        self.view.errors.clone_from(self.reconciler.errors());
        if pass.done + pass.failed > 0 {
            tracing::info!(
                operations = pass.done,
                failed = pass.failed,
                wrong = pass.wrong,
                "kernel follows"
            );
        }
        self.view.tables = Arc::new(tables);
        self.echo_due.get_or_insert(Instant::now() + ECHO_PAUSE);
    }
}
