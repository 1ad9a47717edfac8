// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statistics of backends, as the original's dashboards name them.
//!
//! A backend is one destination of a service; its name and its server's are HAProxy's in the original. Each worker has
//! a shard of its own, on cache lines of its own, and adds with a load and a store; a scrape adds the shards up.

use std::rc::Rc;
use std::sync::Arc;

use hyper::StatusCode;

use super::metrics::Cell;
use super::refusal::Refusal;
use super::slots::Slots;

pub mod checks;
pub mod csv;
pub mod page;
pub mod prometheus;
pub mod rates;
pub mod rows;
pub mod view;

/// Counters of one backend. *Who writes it*: workers, each its shard. *Lifetime*: as long as a rule names it, also
/// through changes of that rule.
#[derive(Debug)]
pub struct Backend {
    /// Index of the workers' references.
    pub slot: usize,
    /// `go-demo-be8080_0`.
    pub name: Box<str>,
    /// The service's name.
    pub server: Box<str>,
    shards: Box<[Shard]>,
}

/// What one worker counts of one backend.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Shard {
    /// Requests in progress.
    pub current: Cell,
    /// The most at a time.
    pub max: Cell,
    /// Requests.
    pub total: Cell,
    /// Bytes of request bodies.
    pub bytes_in: Cell,
    /// Bytes of response bodies.
    pub bytes_out: Cell,
    /// Requests that a policy refused.
    pub denied: Cell,
    /// Requests for which no connection could be had.
    pub connection_errors: Cell,
    /// Answers that were none.
    pub response_errors: Cell,
    /// By class: other, 1xx … 5xx.
    pub responses: [Cell; 6],
    /// Requests that wait for their turn.
    pub queue: Cell,
    /// The most at a time.
    pub queue_max: Cell,
    /// Requests that were sent, and connections that were tried, once more.
    pub retries: Cell,
    /// Those of them that went to another task.
    pub redispatches: Cell,
}

impl Backend {
    /// All shards.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }
}

/// A worker's own reference to a backend.
pub struct Ours(pub Arc<Backend>);

/// What one request's body adds to.
pub struct BytesIn(Rc<Ours>, usize);

impl BytesIn {
    /// So many bytes have arrived.
    pub fn add(&self, bytes: usize) {
        self.0.0.shards[self.1].bytes_in.add(bytes as u64);
    }
}

/// A request that a backend has, from the choice of the rule to the end of the answer.
pub struct InProgress {
    backend: Rc<Ours>,
    worker: usize,
}

impl InProgress {
    /// Counts a request that begins.
    pub fn begin(backend: Rc<Ours>, worker: usize) -> Self {
        let shard = &backend.0.shards[worker];
        shard.total.up();
        shard.current.up();
        let current = shard.current.get();
        if current > shard.max.get() {
            shard.max.add(current - shard.max.get());
        }
        InProgress { backend, worker }
    }

    /// The worker's counters.
    pub fn shard(&self) -> &Shard {
        &self.backend.0.shards[self.worker]
    }

    /// Counts a request that waits for its turn, until the result is dropped.
    pub fn waits(&self) -> Waits<'_> {
        let shard = self.shard();
        shard.queue.up();
        let waiting = shard.queue.get();
        shard.queue_max.add(waiting.saturating_sub(shard.queue_max.get()));
        Waits(shard)
    }

    /// Counts so many attempts more, to another task or not.
    pub fn tried_again(&self, times: usize, is_elsewhere: bool) {
        self.shard().retries.add(times as u64);
        if is_elsewhere {
            self.shard().redispatches.add(times as u64);
        }
    }

    /// What the request's body adds to.
    pub fn bytes_in(&self) -> BytesIn {
        BytesIn(self.backend.clone(), self.worker)
    }

    /// Counts an answer by its class.
    pub fn responded(&self, status: StatusCode) {
        self.shard().responses[class(status)].up();
    }

    /// Counts why there is none of the service's own.
    pub fn refused(&self, refusal: Refusal) {
        let shard = self.shard();
        match (refusal, refusal.status()) {
            (
                Refusal::UpstreamUnresolved | Refusal::UpstreamUnreachable | Refusal::UpstreamConnectTimeout,
                _,
            ) => shard.connection_errors.up(),
            (_, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) => shard.response_errors.up(),
            (_, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) => shard.denied.up(),
            _ => {}
        }
    }

    /// The backend's and the server's names.
    pub fn names(&self) -> (&str, &str) {
        (&self.backend.0.name, &self.backend.0.server)
    }
}

/// A request that waits for its turn.
pub struct Waits<'a>(&'a Shard);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.queue.down();
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.shard().current.down();
    }
}

/// Index in [`Shard::responses`].
pub fn class(status: StatusCode) -> usize {
    match status.as_u16() / 100 {
        class @ 1..=5 => usize::from(class),
        _ => 0,
    }
}

/// The backends that are in use.
pub struct Backends {
    workers: usize,
    slots: Slots<(Box<str>, Box<str>), Backend>,
}

impl Backends {
    /// None yet, for so many workers.
    pub fn new(workers: usize) -> Self {
        Backends {
            workers,
            slots: Slots::default(),
        }
    }

    /// The backend of this name that is in use, or a new one.
    pub fn intern(&mut self, name: String, server: &str) -> Arc<Backend> {
        let key = (name.into_boxed_str(), Box::from(server));
        if let Some(backend) = self.slots.get(&key) {
            return backend;
        }
        let (name, server) = key.clone();
        let shards = (0..self.workers).map(|_| Shard::default()).collect();
        self.slots.add(key, |slot| Backend {
            slot,
            name,
            server,
            shards,
        })
    }
}
