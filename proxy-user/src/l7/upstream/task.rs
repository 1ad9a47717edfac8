// SPDX-License-Identifier: MIT OR Apache-2.0
//! A task: one address of a service, the connections that a worker has to it, and what the worker knows of it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::balance::Candidate;
use super::h1::H1;
use super::h2::Shared;
use super::health::Health;
use super::outlier::Record;
use crate::l7::clock::{self, Alarm};
use crate::l7::limits;

/// A task as one worker sees it. *Who writes it*: the worker's thread. *Lifetime*: while it is in rotation, and after
/// that until its last request has ended.
pub struct Task {
    /// Where it listens.
    pub address: SocketAddr,
    /// What a sticky cookie calls it.
    pub token: u64,
    /// What active checks found.
    pub health: Health,
    /// What requests found.
    pub outlier: Record,
    /// HTTP/2 connections, each shared by many requests.
    pub shared: RefCell<Vec<Shared>>,
    idle: RefCell<VecDeque<Conn>>,
    live: Rc<Cell<usize>>,
    busy: Cell<u32>,
    /// When its share began to grow; none when it is whole.
    grows_since: Cell<Option<Instant>>,
    slow_start: Duration,
    is_gone: Cell<bool>,
    /// The choice that is being made leaves it out.
    pub is_passed_over: Cell<bool>,
    /// It did not answer a connect, and is not asked again until then.
    mute_until: Cell<Option<Instant>>,
    /// When it last took a connection.
    answered_at: Cell<Option<Instant>>,
}

/// An HTTP/1.1 connection that is idle or leased.
pub struct Conn {
    /// The connection.
    pub h1: Box<H1>,
    /// When it is to be replaced.
    pub retire_at: Instant,
    /// Since when nobody uses it.
    pub idle_since: Instant,
    /// Requests that it has served.
    pub served: u32,
    /// Rings when a request has waited for too long.
    pub alarm: Alarm,
    _live: Live,
}

/// Counts a connection for as long as it exists.
pub struct Live(Rc<Cell<usize>>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A request in flight, counted.
pub struct Busy(Rc<Task>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
    }
}

impl Busy {
    /// The task.
    pub fn task(&self) -> &Rc<Task> {
        &self.0
    }
}

impl Task {
    /// A task that nothing is known of. With `grows_since` its share grows from then on.
    pub fn new(address: SocketAddr, token: u64, slow_start: Duration, grows_since: Option<Instant>) -> Self {
        Task {
            address,
            token,
            health: Health::default(),
            outlier: Record::default(),
            shared: RefCell::default(),
            idle: RefCell::default(),
            live: Rc::default(),
            busy: Cell::new(0),
            grows_since: Cell::new(grows_since.filter(|_| !slow_start.is_zero())),
            slow_start,
            is_gone: Cell::new(false),
            is_passed_over: Cell::new(false),
            mute_until: Cell::new(None),
            answered_at: Cell::new(None),
        }
    }

    /// It is no longer one of the service's: nothing new, and idle connections end.
    pub fn leave(&self) {
        self.is_gone.set(true);
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
    }

    /// Counts a request.
    pub fn begin(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        Busy(self.clone())
    }

    /// It let a connect time out that began at a moment. If it has taken another one since, it is not mute: behind a
    /// virtual IP one of several replicas may be dead, and the next connection goes to another.
    pub fn let_time_out(&self, began: Instant, now: Instant) {
        if self.answered_at.get().is_none_or(|at| at < began) {
            self.mute_until.set(Some(now + limits::MUTE_TIME));
        }
    }

    /// It took a connection.
    pub fn answered(&self, now: Instant) {
        self.answered_at.set(Some(now));
        self.mute_until.set(None);
    }

    /// Whether a connect to it would be likely to wait in vain.
    pub fn is_mute(&self) -> bool {
        match self.mute_until.get() {
            None => false,
            Some(until) => {
                let is_mute = clock::recent() < until;
                if !is_mute {
                    self.mute_until.set(None);
                }
                is_mute
            }
        }
    }

    /// Whether it rests because requests failed.
    pub fn rests(&self) -> bool {
        self.outlier.is_ejected() && self.outlier.rests(clock::recent())
    }

    /// Connections that exist, idle or not.
    pub fn connections(&self) -> usize {
        self.live.get() + self.shared.borrow().len()
    }

    /// Counts a new connection.
    pub fn count_connection(&self) -> Live {
        self.live.set(self.live.get() + 1);
        Live(self.live.clone())
    }

    /// Wraps a new connection that is to be replaced at an age.
    pub fn conn(&self, h1: Box<H1>, live: Live, now: Instant, age: Duration) -> Conn {
        Conn {
            h1,
            retire_at: now + age,
            idle_since: now,
            served: 0,
            alarm: Alarm::default(),
            _live: live,
        }
    }

    /// An idle connection: the oldest, so that all take turns, or the one that was used last, so that others age.
    pub fn take_idle(&self, oldest: bool, idle_max: Duration) -> Option<Conn> {
        let mut idle = self.idle.borrow_mut();
        if idle.is_empty() {
            return None;
        }
        let now = clock::recent();
        while let Some(mut conn) = if oldest { idle.pop_front() } else { idle.pop_back() } {
            if conn.is_usable(now, idle_max) {
                return Some(conn);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    pub fn put_idle(&self, mut conn: Conn, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if !self.is_gone.get() && idle.len() < limits::UPSTREAM_IDLE_COUNT_MAX && now < conn.retire_at {
            conn.idle_since = now;
            conn.h1.trim();
            idle.push_back(conn);
        }
    }

    /// Closes what has been idle or alive too long, or has ended.
    pub fn reap(&self, now: Instant, idle_max: Duration) {
        self.idle
            .borrow_mut()
            .retain_mut(|conn| conn.is_usable(now, idle_max));
        self.shared
            .borrow_mut()
            .retain(|conn| conn.is_usable(now, idle_max));
    }
}

impl Conn {
    fn is_usable(&mut self, now: Instant, idle_max: Duration) -> bool {
        now < self.retire_at && now - self.idle_since < idle_max && self.h1.is_silent()
    }
}

impl Candidate for Rc<Task> {
    fn is_usable(&self) -> bool {
        !self.is_passed_over.get() && self.health.is_up() && !self.rests() && !self.is_mute()
    }

    fn load(&self) -> u32 {
        self.busy.get()
    }

    fn share(&self) -> u32 {
        let Some(since) = self.grows_since.get() else {
            return 100;
        };
        let percent = since.elapsed().as_millis() * 100 / self.slow_start.as_millis().max(1);
        if percent >= 100 {
            self.grows_since.set(None);
            return 100;
        }
        (percent as u32).max(limits::SLOW_START_PERCENT_MIN)
    }

    fn token(&self) -> u64 {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dead_replica_does_not_make_a_virtual_ip_mute() {
        let address = "10.0.1.2:80".parse().unwrap();
        let task = Task::new(address, 0, Duration::ZERO, None);
        let began = Instant::now();
        let second = Duration::from_secs(1);
        task.answered(began + second);
        task.let_time_out(began, began + second * 5);
        assert!(!task.is_mute(), "another connect was answered meanwhile");
        task.let_time_out(began + second * 2, began + second * 7);
        assert!(task.is_mute(), "nobody has answered since");
        task.answered(began + second * 7);
        assert!(!task.is_mute(), "and here somebody does");
    }
}
