// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a name to tasks, and again while the name is in use.
//!
//! A name in use is asked every [`limits::DISCOVERY_INTERVAL`] in the background, so that no request waits for it and a
//! task that Swarm takes away is noticed before it gets SIGTERM two seconds later. A name that nobody has used for a
//! while is not asked, and the next request waits for the answer: its address may be another service's by now. A
//! resolver that does not answer leaves the tasks as they are; one that says there are none takes them away.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::group::Group;
use super::target;
use crate::l7::limits;
use crate::l7::resolver::{Answer, Resolver};
use crate::l7::worker::Worker;

/// What is known of a name.
pub struct Discovery {
    /// The host is an address and needs no asking.
    literal: bool,
    is_fresh: Cell<bool>,
    is_asking: Cell<bool>,
    asked_at: Cell<Instant>,
    answered: Notify,
    /// `tasks.<name>` has had an answer once, so the name's own addresses are a VIP and no tasks.
    has_tasks: Cell<bool>,
}

impl Discovery {
    /// Nothing is known.
    pub fn new(now: Instant) -> Self {
        Discovery {
            literal: false,
            is_fresh: Cell::new(false),
            is_asking: Cell::new(false),
            asked_at: Cell::new(now),
            answered: Notify::new(),
            has_tasks: Cell::new(false),
        }
    }

    /// An address is its own answer, for ever.
    pub fn literal(now: Instant) -> Self {
        Discovery {
            literal: true,
            is_fresh: Cell::new(true),
            ..Discovery::new(now)
        }
    }

    /// What can be read from the clock: asks again, or forgets that the answer was fresh.
    pub fn tick(&self, group: &Rc<Group>, worker: &Rc<Worker>, now: Instant, is_used: bool) {
        if self.literal || self.is_asking.get() {
            return;
        }
        let age = now - self.asked_at.get();
        if is_used && age >= limits::DISCOVERY_INTERVAL {
            self.begin(group, worker);
        } else if age >= limits::DISCOVERY_AGE_MAX {
            self.is_fresh.set(false);
        }
    }

    fn begin(&self, group: &Rc<Group>, worker: &Rc<Worker>) {
        if !self.is_asking.replace(true) {
            tokio::task::spawn_local(ask(group.clone(), worker.clone()));
        }
    }
}

/// Waits until the tasks of a group are known well enough to use them.
pub async fn ensure(group: &Rc<Group>, worker: &Rc<Worker>) {
    if !group.discovery.is_fresh.get() {
        Box::pin(ask_and_wait(group, worker)).await;
    }
}

async fn ask_and_wait(group: &Rc<Group>, worker: &Rc<Worker>) {
    let discovery = &group.discovery;
    // Created before the question, so that its answer cannot be missed.
    let answered = discovery.answered.notified();
    discovery.begin(group, worker);
    let limit: Duration = match group.has_tasks() {
        true => limits::DISCOVERY_STALE_WAIT,
        false => limits::DNS_TIME_MAX + limits::DISCOVERY_STALE_WAIT,
    };
    // Without an answer the old tasks are better than none.
    let _ = tokio::time::timeout(limit, answered).await;
}

async fn ask(group: Rc<Group>, worker: Rc<Worker>) {
    let discovery = &group.discovery;
    let answer = match group.target.discovery {
        target::Discovery::Vip => worker.resolver.ask(&group.target.host).await,
        target::Discovery::Tasks => tasks(discovery, &worker.resolver, &group.target.host).await,
    };
    match answer {
        Answer::Found(addresses) => group.set_tasks(addresses, &worker),
        Answer::None => group.set_tasks(Vec::new(), &worker),
        Answer::Failed => worker.counters.discovery_failures.up(),
    }
    discovery.asked_at.set(Instant::now());
    discovery.is_fresh.set(true);
    discovery.is_asking.set(false);
    discovery.answered.notify_waiters();
}

/// `tasks.<host>` as Swarm has it; outside a Swarm, all addresses of the host itself.
async fn tasks(discovery: &Discovery, resolver: &Resolver, host: &str) -> Answer {
    let name = format!("tasks.{host}");
    if discovery.has_tasks.get() {
        return resolver.ask(&name).await;
    }
    let (tasks, plain) = tokio::join!(resolver.ask(&name), resolver.ask(host));
    match tasks {
        Answer::Found(addresses) => {
            discovery.has_tasks.set(true);
            Answer::Found(addresses)
        }
        Answer::None | Answer::Failed => plain,
    }
}

/// The address that a host is, if it is one.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}
