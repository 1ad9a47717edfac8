// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tasks of one upstream as one worker sees them, and which of them a request gets.
//!
//! Behind a virtual IP the kernel gives each new connection to the next replica. A pool that reuses its most recent
//! connection would send all requests of a quiet client to one replica, so there:
//! up to [`limits::SPREAD`] connections are opened before any is reused; the one that has been idle longest is
//! reused first, so that all take turns; each is retired after about [`limits::UPSTREAM_AGE_MAX`], so that replicas
//! that came later have their share this soon; and an idle one is closed early.
//! As long as the load is modest, a connection also makes room after [`limits::UPSTREAM_TURN_REQUESTS`]: workers share
//! the kernel's rotation, and each would otherwise keep the uneven part of it that it happened to get.
//! Where the tasks themselves are known none of this is needed: any connection will do, and the warmest is best.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::balance::{self, Candidate};
use super::budget::Budget;
use super::connect::{self, Connected};
use super::discovery::{self, Discovery};
use super::h1::H1;
use super::h2::{Part, Shared};
use super::health;
use super::io::Stream;
use super::queue::Queue;
use super::target::{self, Protocol, Target};
use super::task::{Busy, Conn, Task};
use super::{Upstream, sticky};
use crate::l7::clock;
use crate::l7::limits;
use crate::l7::proxy_protocol::{self, Peers};
use crate::l7::refusal::Refusal;
use crate::l7::worker::Worker;

/// What one worker knows of one upstream. *Lifetime*: while the upstream is in a snapshot and anybody uses it.
pub struct Group {
    /// Which of the upstreams that had this slot.
    pub generation: u64,
    /// How its tasks are used.
    pub target: Arc<Target>,
    /// Pays for repetitions.
    pub budget: Budget,
    /// The limit of requests at a time.
    pub queue: Queue,
    /// Where the tasks come from.
    pub discovery: Discovery,
    upstream: Weak<Upstream>,
    tasks: RefCell<Vec<Rc<Task>>>,
    /// Left the rotation with requests in flight.
    cursor: Cell<usize>,
    turns: Turns,
    is_used: Cell<bool>,
    used_at: Cell<Instant>,
}

/// What decides about the task of a request.
#[derive(Clone, Copy, Default)]
pub struct Pick {
    /// The task of the client's session.
    pub session: Option<u64>,
    /// For consistent hashing.
    pub key: u64,
    /// The client, for tasks that are told of it.
    pub peers: Option<Peers>,
}

/// A connection that one request has. Dropped without [`Lease::release`], it is closed.
pub struct Lease {
    /// The connection.
    pub conn: Conn,
    /// It has served another request before.
    pub is_reused: bool,
    busy: Busy,
    group: Rc<Group>,
}

/// What a request is sent over.
pub enum Leased {
    /// A connection of its own.
    H1(Lease),
    /// A part of one.
    H2(Part, Busy),
}

impl Leased {
    /// Who gets the request.
    pub fn task(&self) -> &Rc<Task> {
        match self {
            Leased::H1(lease) => lease.busy.task(),
            Leased::H2(_, busy) => busy.task(),
        }
    }
}

impl Lease {
    /// Gives the connection back, its exchange having ended as the framing said.
    pub fn release(self) {
        let Lease {
            mut conn,
            group,
            busy,
            ..
        } = self;
        let now = clock::recent();
        conn.served += 1;
        // Such a connection is its client's.
        let is_owned = group.target.proxy_protocol.is_some();
        let makes_room = group.target.discovery == target::Discovery::Vip
            && conn.served >= limits::UPSTREAM_TURN_REQUESTS
            && group.turns.take(now);
        if !makes_room && !is_owned {
            busy.task().put_idle(conn, now);
        }
    }

    /// The stream of an upgraded connection, what was read of it already, and what counts it.
    pub fn into_stream(self) -> (Stream, bytes::Bytes, Busy) {
        let (stream, read) = self.conn.h1.into_stream();
        (stream, read, self.busy)
    }

    /// The task that it leads to.
    pub fn task(&self) -> &Rc<Task> {
        self.busy.task()
    }

    /// Judges the task by a request.
    pub fn judge(&self, is_well: bool, worker: &Worker) {
        self.group.judge(self.busy.task(), is_well, worker);
    }
}

impl Group {
    /// A group of which nothing is known yet.
    pub fn new(upstream: &Arc<Upstream>, worker: &Worker) -> Self {
        let target = upstream.target.clone();
        let now = Instant::now();
        let literal = discovery::literal(&target.host);
        let group = Group {
            generation: upstream.generation,
            budget: Budget::new(target.retry_percent, now),
            queue: Queue::new(
                target.requests_max,
                target.queue_max,
                target.timeout_queue,
                worker.shared.settings.workers,
            ),
            discovery: match literal {
                Some(_) => Discovery::literal(now),
                None => Discovery::new(now),
            },
            upstream: Arc::downgrade(upstream),
            tasks: RefCell::default(),
            // Workers and proxies begin at different tasks.
            cursor: Cell::new(worker.random() as usize % 1024),
            turns: Turns::new(now),
            is_used: Cell::new(true),
            used_at: Cell::new(now),
            target,
        };
        if let Some(address) = literal {
            group.set_tasks(vec![address], worker);
        }
        group
    }

    /// Begins to ask after the health of its tasks, if it should.
    pub fn watch(self: &Rc<Self>, worker: &Rc<Worker>) {
        if let Some(check) = &self.target.check {
            let known = health::Known {
                worker: worker.index,
                upstream: self.upstream.clone(),
            };
            let watch = health::watch(Rc::downgrade(self), Rc::downgrade(worker), check.clone(), known);
            tokio::task::spawn_local(watch);
        }
    }

    /// Whether there is more than one task.
    pub fn has_others(&self) -> bool {
        self.tasks.borrow().len() > 1
    }

    /// The tasks in rotation.
    pub fn tasks(&self) -> Vec<Rc<Task>> {
        self.tasks.borrow().clone()
    }

    /// Whether there is any.
    pub fn has_tasks(&self) -> bool {
        !self.tasks.borrow().is_empty()
    }

    /// Takes over an answer of the resolver. Tasks that were known stay as they are.
    pub fn set_tasks(&self, mut addresses: Vec<IpAddr>, worker: &Worker) {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(limits::TASKS_MAX);
        let mut tasks = self.tasks.borrow_mut();
        let is_same = tasks.len() == addresses.len()
            && tasks
                .iter()
                .zip(&addresses)
                .all(|(task, address)| task.address.ip() == *address);
        if is_same {
            return;
        }
        // Tasks that were there from the beginning share at once; only a newcomer among others starts slowly.
        let grows_since = (!tasks.is_empty()).then(Instant::now);
        let mut old = std::mem::take(&mut *tasks);
        for ip in addresses {
            let known = old.iter().position(|task| task.address.ip() == ip);
            tasks.push(match known {
                Some(at) => old.swap_remove(at),
                None => {
                    let address = SocketAddr::new(ip, self.target.port);
                    let token = sticky::token(&worker.shared.settings.sticky_key, &self.target.host, address);
                    let slow_start = self.target.slow_start;
                    Rc::new(Task::new(address, token, slow_start, grows_since))
                }
            });
        }
        for gone in old {
            tracing::debug!(host = %self.target.host, task = %gone.address, "left the rotation");
            gone.leave();
        }
    }

    /// Looks at the clock. False when the group can be given up.
    pub fn tick(self: &Rc<Self>, worker: &Rc<Worker>, now: Instant) -> bool {
        if self.is_used.replace(false) {
            self.used_at.set(now);
        }
        let unused = now - self.used_at.get();
        let is_watched = self.target.check.is_some();
        let is_wanted = unused < limits::DISCOVERY_USED_MAX || is_watched;
        self.discovery.tick(self, worker, now, is_wanted);
        let mut live = 0;
        for task in self.tasks.borrow().iter() {
            task.reap(now, self.target.timeout_idle);
            live += task.connections();
        }
        let is_configured = self.upstream.strong_count() > 0;
        is_configured && (unused < limits::GROUP_IDLE_MAX || is_watched || live > 0)
    }

    /// Connects to a task, for whoever speaks something other than HTTP. The guard counts the connection as a request.
    pub async fn connect(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        pick: Pick,
    ) -> Result<(Stream, Busy), Refusal> {
        self.is_used.set(true);
        discovery::ensure(self, worker).await;
        let mut tried = Vec::new();
        loop {
            let task = self.choose(worker, pick, &tried)?;
            match self.open(worker, &task, pick).await {
                Ok(connected) => return Ok((connected.stream, task.begin())),
                Err(failed) if failed.is_final || tried.len() >= self.target.retries as usize => {
                    return Err(failed.refusal);
                }
                Err(_) => tried.push(task),
            }
        }
    }

    /// A connection for one request. `tried` have failed it already, and grow; `fresh` asks for a connection that has
    /// served nothing.
    pub async fn lease(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        pick: Pick,
        tried: &mut Vec<Rc<Task>>,
        fresh: bool,
    ) -> Result<Leased, Refusal> {
        self.is_used.set(true);
        discovery::ensure(self, worker).await;
        let mut failures = 0;
        loop {
            let task = self.choose(worker, pick, tried)?;
            if let Some(leased) = self.reuse(&task, fresh) {
                return Ok(leased);
            }
            let failed = match Box::pin(self.begin(worker, &task, pick)).await {
                Ok(leased) => return Ok(leased),
                Err(failed) => failed,
            };
            // Nothing was sent, so this is no repetition, and any method may go to another task.
            failures += 1;
            if let Some(conn) = task.take_idle(true, self.target.timeout_idle).filter(|_| !fresh) {
                return Ok(self.leased(conn, &task, true));
            }
            if failed.is_final || failures > self.target.retries {
                return Err(failed.refusal);
            }
            worker.counters.upstream_connect_retries.up();
            tried.push(task);
        }
    }

    /// Judges a task by a request or a connect.
    pub fn judge(&self, task: &Task, is_well: bool, worker: &Worker) {
        if is_well {
            return task.outlier.succeeded();
        }
        if !task.outlier.failed(&self.target.ejection) {
            return;
        }
        let tasks = self.tasks.borrow();
        let resting = tasks.iter().filter(|task| task.rests()).count();
        if self.target.ejection.admits(resting, tasks.len()) {
            task.outlier.eject(&self.target.ejection, Instant::now());
            worker.counters.ejections.up();
            tracing::info!(host = %self.target.host, task = %task.address, "ejected");
        }
    }

    fn choose(&self, worker: &Worker, pick: Pick, tried: &[Rc<Task>]) -> Result<Rc<Task>, Refusal> {
        let tasks = self.tasks.borrow();
        if tasks.is_empty() {
            return Err(Refusal::UpstreamUnresolved);
        }
        for task in tried {
            task.is_passed_over.set(true);
        }
        let of_session = pick
            .session
            .and_then(|token| tasks.iter().find(|task| task.token == token && task.is_usable()));
        let chosen = of_session
            .or_else(|| balance::choose(&self.target.balance, &tasks, &self.cursor, worker, pick.key));
        for task in tried {
            task.is_passed_over.set(false);
        }
        if let Some(task) = chosen {
            return Ok(task.clone());
        }
        // Better one that has failed this request than none, and better one that rests than that.
        let is_possible = |task: &&Rc<Task>| task.health.is_up() && !task.is_mute();
        let is_tried = |task: &Rc<Task>| tried.iter().any(|other| Rc::ptr_eq(other, task));
        let untried = tasks.iter().filter(is_possible).find(|task| !is_tried(task));
        match untried.or_else(|| tasks.iter().find(is_possible)) {
            Some(task) => Ok(task.clone()),
            None if tasks.iter().any(|task| task.health.is_up()) => Err(Refusal::UpstreamConnectTimeout),
            None => Err(Refusal::UpstreamDown),
        }
    }

    fn reuse(self: &Rc<Self>, task: &Rc<Task>, fresh: bool) -> Option<Leased> {
        if self.target.proxy_protocol.is_some() {
            return None;
        }
        if self.target.protocol != Protocol::Http1
            && let Some(part) = task.shared.borrow().iter().find_map(Shared::part)
        {
            return Some(Leased::H2(part, task.begin()));
        }
        let is_vip = self.target.discovery == target::Discovery::Vip;
        if fresh || is_vip && task.connections() < limits::SPREAD {
            return None;
        }
        let conn = task.take_idle(is_vip, self.target.timeout_idle)?;
        Some(self.leased(conn, task, true))
    }

    fn leased(self: &Rc<Self>, conn: Conn, task: &Rc<Task>, is_reused: bool) -> Leased {
        Leased::H1(Lease {
            conn,
            is_reused,
            busy: task.begin(),
            group: self.clone(),
        })
    }

    async fn begin(self: &Rc<Self>, worker: &Worker, task: &Rc<Task>, pick: Pick) -> Result<Leased, Failed> {
        let live = task.count_connection();
        let connected = self.open(worker, task, pick).await?;
        let age = worker.jitter(match self.target.discovery {
            target::Discovery::Vip => limits::UPSTREAM_AGE_MAX,
            target::Discovery::Tasks => limits::TASK_AGE_MAX,
        });
        if !connected.is_h2 {
            let h1 = Box::new(H1::new(connected.stream));
            let conn = task.conn(h1, live, Instant::now(), age);
            return Ok(self.leased(conn, task, false));
        }
        let failed = || Failed {
            refusal: Refusal::UpstreamUnreachable,
            is_final: false,
        };
        let shared = Shared::handshake(connected.stream, age).await;
        let shared = shared.map_err(|_| failed())?;
        let part = shared.part();
        if self.target.proxy_protocol.is_none() {
            task.shared.borrow_mut().push(shared);
        }
        part.map(|part| Leased::H2(part, task.begin())).ok_or_else(failed)
    }

    async fn open(&self, worker: &Worker, task: &Task, pick: Pick) -> Result<Connected, Failed> {
        let began = Instant::now();
        let attempt = async || connect::connect(task.address, &self.target, pick.peers.as_ref()).await;
        let connected = tokio::time::timeout(self.target.timeout_connect, async {
            match self.target.discovery {
                target::Discovery::Tasks => attempt().await,
                // Who does not answer is one of several.
                target::Discovery::Vip => {
                    let again = || worker.counters.upstream_connect_retries.up();
                    connect::staggered(limits::CONNECT_STAGGER, attempt, again).await
                }
            }
        });
        let (refusal, is_final) = match connected.await {
            Ok(Ok(connected)) => {
                task.answered(Instant::now());
                worker.counters.upstream_connects.up();
                return Ok(connected);
            }
            Ok(Err(error)) => {
                tracing::debug!(task = %task.address, %error, "connect");
                (Refusal::UpstreamUnreachable, connect::is_local(&error))
            }
            Err(_) => {
                task.let_time_out(began, Instant::now());
                // Where there is only one, another attempt would wait as long.
                (Refusal::UpstreamConnectTimeout, self.tasks.borrow().len() == 1)
            }
        };
        worker.counters.upstream_connect_failures.up();
        self.judge(task, false, worker);
        Err(Failed { refusal, is_final })
    }

    /// Wraps a connection as requests would have it.
    pub async fn secure(&self, mut stream: TcpStream) -> io::Result<Stream> {
        if let Some(version) = self.target.proxy_protocol {
            stream.write_all(proxy_protocol::local(version)).await?;
        }
        Ok(connect::secure(stream, &self.target).await?.stream)
    }
}

/// Why there is no connection.
struct Failed {
    refusal: Refusal,
    /// Another task would not help.
    is_final: bool,
}

/// How often a healthy connection may still be replaced: a bucket that fills with time.
struct Turns {
    left: Cell<u32>,
    refilled: Cell<Instant>,
}

impl Turns {
    fn new(now: Instant) -> Self {
        Turns {
            left: Cell::new(limits::UPSTREAM_TURNS_MAX),
            refilled: Cell::new(now),
        }
    }

    fn take(&self, now: Instant) -> bool {
        let millis = (now - self.refilled.get()).as_millis();
        let gained =
            (millis * u128::from(limits::UPSTREAM_TURNS_PER_SECOND) / 1000).min(u128::from(u32::MAX)) as u32;
        if gained > 0 {
            self.refilled.set(now);
            self.left.set(
                self.left
                    .get()
                    .saturating_add(gained)
                    .min(limits::UPSTREAM_TURNS_MAX),
            );
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

/// `base` give or take the jitter, from a random number.
pub fn jittered(base: Duration, random: u32) -> Duration {
    let span = 2 * limits::UPSTREAM_AGE_JITTER_PERCENT + 1;
    base * (100 - limits::UPSTREAM_AGE_JITTER_PERCENT + random % span) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_run_out_and_come_back_with_time() {
        let began = Instant::now();
        let turns = Turns {
            left: Cell::new(2),
            refilled: Cell::new(began),
        };
        assert_eq!(
            [turns.take(began), turns.take(began), turns.take(began)],
            [true, true, false]
        );
        let later = began + Duration::from_millis(1000 / u64::from(limits::UPSTREAM_TURNS_PER_SECOND) + 1);
        assert_eq!([turns.take(later), turns.take(later)], [true, false]);
        let much_later = later + Duration::from_secs(86_400);
        assert!(turns.take(much_later));
        assert_eq!(turns.left.get(), limits::UPSTREAM_TURNS_MAX - 1);
    }

    #[test]
    fn jitter_stays_within_a_quarter() {
        for random in 0..1000 {
            let age = jittered(Duration::from_secs(2), random);
            assert!(
                age >= Duration::from_millis(1500) && age <= Duration::from_millis(2500),
                "{age:?}"
            );
        }
    }
}
