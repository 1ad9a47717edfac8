// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker: one thread, one runtime, its own listeners, snapshot reference, upstream groups, resolver and counters.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::access_log::Sink;
use super::auth::Guard;
use super::compress::Encoders;
use super::listen::{Entry, Listener};
use super::metrics::Counters;
use super::proxy_protocol::Peers;
use super::refusal::Refusal;
use super::resolver::Resolver;
use super::router::Snapshot;
use super::settings::Settings;
use super::stats::view::View;
use super::stats::{Backend, InProgress, Ours};
use super::tls::Tls;
use super::upstream::Upstream;
use super::upstream::balance::Random;
use super::upstream::group::{Group, jittered};
use super::{conn, limits, proxy_protocol, stream};
use crate::memory;

/// What all workers see. Nothing in it is written on the request path.
pub struct Shared {
    /// Fixed at start.
    pub settings: Settings,
    /// TLS, if any port asks for it.
    pub tls: Option<Tls>,
    /// Swapped by the table.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What all workers have counted.
    pub view: Arc<View>,
}

/// A worker's own reference to the rules, so that requests do not write to a count that other workers share.
pub struct Rules(Arc<Snapshot>);

impl std::ops::Deref for Rules {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// The state of one worker.
pub struct Worker {
    /// Common to all.
    pub shared: Arc<Shared>,
    /// Its own.
    pub counters: Arc<Counters>,
    /// Its own.
    pub resolver: Resolver,
    /// Its own.
    pub guard: Guard,
    /// Its own.
    pub encoders: Encoders,
    /// Its own.
    pub streams: stream::State,
    /// Wakes every connection when the process is to end.
    pub drain: Notify,
    /// The process is to end.
    pub draining: Cell<bool>,
    rules: RefCell<Rc<Rules>>,
    groups: RefCell<Vec<Option<Rc<Group>>>>,
    backends: RefCell<Vec<Option<Rc<Ours>>>>,
    /// Its own end of the access log.
    pub log: Option<Sink>,
    /// Which of the workers.
    pub index: usize,
    open: Cell<usize>,
    ended: Notify,
    random: Cell<u32>,
}

/// Counts something that the end of the process waits for.
pub struct Open(Rc<Worker>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.connections_open.down();
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.ended.notify_one();
        }
    }
}

impl Worker {
    /// The rules in force.
    pub fn rules(&self) -> Rc<Rules> {
        let current = self.shared.snapshot.load();
        let mut cached = self.rules.borrow_mut();
        if !Arc::ptr_eq(&current, &cached.0) {
            *cached = Rc::new(Rules(Arc::clone(&current)));
        }
        cached.clone()
    }

    /// The tasks of an upstream.
    pub fn group(self: &Rc<Self>, upstream: &Arc<Upstream>) -> Rc<Group> {
        if let Some(Some(group)) = self.groups.borrow().get(upstream.slot)
            && group.generation == upstream.generation
        {
            return group.clone();
        }
        let group = Rc::new(Group::new(upstream, self));
        let mut groups = self.groups.borrow_mut();
        if groups.len() <= upstream.slot {
            groups.resize_with(upstream.slot + 1, || None);
        }
        groups[upstream.slot] = Some(group.clone());
        drop(groups);
        group.watch(self);
        group
    }

    /// Counts a request of a backend. The worker has a reference of its own, so that requests do not write to a count
    /// that other workers share.
    pub fn in_progress(&self, backend: &Arc<Backend>) -> InProgress {
        let mut backends = self.backends.borrow_mut();
        if backends.len() <= backend.slot {
            backends.resize_with(backend.slot + 1, || None);
        }
        let ours = match &backends[backend.slot] {
            Some(ours) if Arc::ptr_eq(&ours.0, backend) => ours.clone(),
            _ => {
                let ours = Rc::new(Ours(backend.clone()));
                backends[backend.slot] = Some(ours.clone());
                ours
            }
        };
        InProgress::begin(ours, self.index)
    }

    /// Marks something as open until the mark is dropped.
    pub fn open(self: &Rc<Self>) -> Open {
        self.counters.connections_open.up();
        self.open.set(self.open.get() + 1);
        let (open, max) = (
            self.counters.connections_open.get(),
            &self.counters.connections_open_max,
        );
        max.add(open.saturating_sub(max.get()));
        Open(self.clone())
    }

    /// A duration with jitter.
    pub fn jitter(&self, base: Duration) -> Duration {
        jittered(base, self.random())
    }

    /// A random number; xorshift is random enough to spread load.
    pub fn random(&self) -> u32 {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        self.random.set(random);
        random
    }

    fn tick(self: &Rc<Self>) {
        // A worker without requests lets go of an old snapshot here, and so of its upstream slots.
        drop(self.rules());
        // A backend whose rule is gone must not be counted for ever.
        for slot in self.backends.borrow_mut().iter_mut() {
            if slot
                .as_ref()
                .is_some_and(|backend| Rc::strong_count(backend) == 1)
            {
                *slot = None;
            }
        }
        let now = Instant::now();
        for slot in self.groups.borrow_mut().iter_mut() {
            // Requests in flight hold what they need themselves.
            if slot.as_ref().is_some_and(|group| !group.tick(self, now)) {
                *slot = None;
            }
        }
    }
}

impl Random for Worker {
    fn next(&self) -> u32 {
        self.random()
    }
}

/// Runs a worker until `stop` says so and its connections have ended or the deadline has passed.
pub async fn run(
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    index: usize,
    log: Option<SyncSender<Vec<u8>>>,
    mut listeners: mpsc::UnboundedReceiver<Listener>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let drain_limit = shared.settings.drain;
    let log = log.map(|sender| {
        let counters = counters.clone();
        Sink::new(sender, move |lines| counters.log_lines_dropped.add(lines))
    });
    let seed = std::process::id().wrapping_add(index as u32);
    let worker = Rc::new(Worker {
        rules: RefCell::new(Rc::new(Rules(shared.snapshot.load_full()))),
        counters,
        resolver: Resolver::new(&shared.settings.nameservers),
        guard: Guard::default(),
        encoders: Encoders::default(),
        streams: stream::State::default(),
        drain: Notify::new(),
        draining: Cell::new(false),
        groups: RefCell::default(),
        backends: RefCell::default(),
        index,
        log,
        open: Cell::new(0),
        ended: Notify::new(),
        random: Cell::new(seed.wrapping_mul(0x9E37_79B9) | 1),
        shared,
    });
    let logging = tokio::task::spawn_local({
        let worker = worker.clone();
        async move {
            match &worker.log {
                Some(log) => log.run().await,
                None => std::future::pending().await,
            }
        }
    });
    let reaper = tokio::task::spawn_local({
        let worker = worker.clone();
        async move {
            loop {
                tokio::time::sleep(limits::REAP_INTERVAL).await;
                worker.tick();
                memory::tidy();
            }
        }
    });
    let mut accepting = JoinSet::new();
    loop {
        tokio::select! {
            // The sender is only dropped when the process ends.
            _ = stop.wait_for(|stop| *stop) => break,
            Some(Listener { socket, entry }) = listeners.recv() => {
                let listener = TcpListener::from_std(socket)?;
                accepting.spawn_local(accept(worker.clone(), listener, entry));
            }
            Some(_) = accepting.join_next() => {}
        }
    }
    accepting.shutdown().await;
    worker.draining.set(true);
    worker.drain.notify_waiters();
    let drained = tokio::time::timeout(drain_limit, async {
        while worker.open.get() > 0 {
            worker.ended.notified().await;
        }
    });
    if drained.await.is_err() {
        tracing::warn!(
            connections = worker.open.get(),
            "connections cut at the end of the drain time"
        );
    }
    reaper.abort();
    logging.abort();
    if let Some(log) = &worker.log {
        log.flush();
    }
    Ok(())
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, entry: Entry) {
    let connections_max = (worker.shared.settings.connections_max / worker.shared.settings.workers).max(1);
    // Where every address is listened on, each connection has to be asked for its own.
    let local = listener
        .local_addr()
        .ok()
        .filter(|local| !local.ip().is_unspecified());
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The port is not wanted any more.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            Err(error) => {
                worker.counters.refused(Refusal::AcceptFailed);
                tracing::warn!(%error, "accept");
                // Out of files: a moment for others to end. An aborted connection costs the same moment.
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        worker.counters.connections.up();
        if worker.open.get() >= connections_max {
            worker.counters.refused(Refusal::ConnectionsMax);
            continue;
        }
        let open = worker.open();
        let local = (local.or_else(|| stream.local_addr().ok()))
            .unwrap_or_else(|| SocketAddr::new(worker.shared.settings.listen, entry.port));
        tokio::task::spawn_local(admit(open, stream, Peers { client, local }, entry));
    }
}

/// What a connection is, and who serves it. What few connections need is boxed: thousands that are idle hold the rest.
async fn admit(open: Open, mut stream: TcpStream, mut peers: Peers, entry: Entry) {
    let worker = &open.0;
    if entry.accept_proxy && worker.shared.settings.proxy_protocol.is_from(peers.client.ip()) {
        let limit = worker.shared.settings.timeouts.http_request;
        let told = tokio::time::timeout(limit, proxy_protocol::receive(&mut stream));
        match Box::pin(told).await.unwrap_or(Err(Refusal::ProxyHeaderTimeout)) {
            Ok(told) => peers = told.unwrap_or(peers),
            Err(refusal) => return worker.counters.refused(refusal),
        }
    }
    let has_streams = worker.rules().streams.get(entry.port).is_some();
    let stream = match has_streams || !entry.is_http {
        true => Box::pin(stream::serve(worker, stream, peers, entry)).await,
        false => Some(stream),
    };
    if let Some(stream) = stream {
        conn::serve(worker.clone(), stream, peers, entry).await;
    }
}
