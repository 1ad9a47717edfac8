// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections to one upstream, of one worker: even shares per request from balancing per connection.
//!
//! The kernel gives each new connection to a VIP to the next replica. A pool that reuses its most recent connection
//! would send all requests of a quiet client to one replica, so here:
//! up to [`limits::SPREAD`] connections are opened before any is reused; the one that has been idle longest is
//! reused first, so that all take turns; each is retired after about [`limits::UPSTREAM_AGE_MAX`], so that replicas
//! that came later have their share this soon; and an idle one is closed after [`limits::UPSTREAM_IDLE_MAX`].
//! As long as the load is modest, a connection also makes room after [`limits::UPSTREAM_TURN_REQUESTS`]: workers share
//! the kernel's rotation, and each would otherwise keep the uneven part of it that it happened to get.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::body::ToUpstream;
use super::compile::Upstream;
use super::limits;
use super::refusal::Refusal;
use super::worker::Worker;

/// The connections of one worker to one upstream.
pub struct Pool {
    /// Which of the upstreams that had this slot.
    pub generation: u64,
    idle: RefCell<VecDeque<Conn>>,
    live: Rc<Cell<usize>>,
    /// Stands in when the resolver fails later.
    addresses: RefCell<Vec<IpAddr>>,
    /// The resolver had no answer and is not asked until then.
    unresolved_until: Cell<Instant>,
    turns: Turns,
}

struct Conn {
    sender: SendRequest<ToUpstream>,
    retire_at: Instant,
    idle_since: Instant,
    served: u32,
    _live: Live,
}

/// Counts a connection for as long as it exists.
struct Live(Rc<Cell<usize>>);

impl Live {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Live(count.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// How often a healthy connection may still be replaced: a bucket that fills with time.
struct Turns {
    left: Cell<u32>,
    refilled: Cell<Instant>,
}

impl Turns {
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

/// A connection that one request has. Dropped without [`Lease::release`], it is closed.
pub struct Lease {
    conn: Conn,
    pool: Rc<Pool>,
    keep: bool,
    /// It has served another request before.
    pub is_reused: bool,
}

impl Lease {
    /// Sends a request; on an error that came before anything was written, the request is in it.
    pub async fn send(
        &mut self,
        request: Request<ToUpstream>,
    ) -> Result<Response<Incoming>, TrySendError<Request<ToUpstream>>> {
        self.conn.sender.try_send_request(request).await
    }

    /// The connection will not serve another request.
    pub fn retire(&mut self) {
        self.keep = false;
    }

    /// Gives the connection back, its response having been read to the end.
    pub fn release(self) {
        let Lease {
            mut conn, pool, keep, ..
        } = self;
        let now = Instant::now();
        conn.served += 1;
        if conn.served >= limits::UPSTREAM_TURN_REQUESTS && pool.turns.take(now) {
            return;
        }
        let mut idle = pool.idle.borrow_mut();
        let fits = idle.len() < limits::UPSTREAM_IDLE_COUNT_MAX;
        if keep && fits && now < conn.retire_at && !conn.sender.is_closed() {
            conn.idle_since = now;
            idle.push_back(conn);
        }
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(generation: u64) -> Self {
        Pool {
            generation,
            idle: RefCell::default(),
            live: Rc::default(),
            addresses: RefCell::default(),
            unresolved_until: Cell::new(Instant::now()),
            turns: Turns {
                left: Cell::new(limits::UPSTREAM_TURNS_MAX),
                refilled: Cell::new(Instant::now()),
            },
        }
    }

    /// A connection for one request. `fresh` asks for one that has served nothing.
    pub async fn acquire(
        self: &Rc<Self>,
        worker: &Worker,
        upstream: &Upstream,
        keep: bool,
        fresh: bool,
    ) -> Result<Lease, Refusal> {
        if !fresh
            && self.live.get() >= limits::SPREAD
            && let Some(conn) = self.take_idle()
        {
            return Ok(self.lease(conn, keep, true));
        }
        match self.open(worker, upstream).await {
            Ok(conn) => Ok(self.lease(conn, keep, false)),
            Err(refusal) => match self.take_idle() {
                Some(conn) if !fresh => Ok(self.lease(conn, keep, true)),
                _ => Err(refusal),
            },
        }
    }

    /// Closes what has been idle or alive too long. True if nothing is left.
    pub fn reap(&self) -> bool {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|conn| is_usable(conn, now));
        self.live.get() == 0
    }

    fn lease(self: &Rc<Self>, conn: Conn, keep: bool, is_reused: bool) -> Lease {
        Lease {
            conn,
            pool: self.clone(),
            keep,
            is_reused,
        }
    }

    /// The connection that has been idle longest. One whose response hyper has not quite put away yet stays.
    fn take_idle(&self) -> Option<Conn> {
        let now = Instant::now();
        let mut idle = self.idle.borrow_mut();
        let mut at = 0;
        while let Some(conn) = idle.get(at) {
            if !is_usable(conn, now) {
                idle.remove(at);
            } else if conn.sender.is_ready() {
                return idle.remove(at);
            } else {
                at += 1;
            }
        }
        None
    }

    async fn open(&self, worker: &Worker, upstream: &Upstream) -> Result<Conn, Refusal> {
        let live = Live::new(&self.live);
        let limit = worker.shared.settings.timeouts.connect;
        let stream = match tokio::time::timeout(limit, self.connect(worker, upstream)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(Refusal::UpstreamConnectTimeout),
        };
        worker.counters.upstream_connects.up();
        let _ = stream.set_nodelay(true);
        let handshake = http1::Builder::new()
            .max_buf_size(limits::HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream));
        let (sender, driver) = handshake.await.map_err(|_| Refusal::UpstreamUnreachable)?;
        tokio::task::spawn_local(async move {
            // Errors reach the request that is on the connection; between requests nobody waits for one.
            let _ = driver.with_upgrades().await;
        });
        let now = Instant::now();
        Ok(Conn {
            sender,
            retire_at: now + worker.jitter(limits::UPSTREAM_AGE_MAX),
            idle_since: now,
            served: 0,
            _live: live,
        })
    }

    async fn connect(&self, worker: &Worker, upstream: &Upstream) -> Result<TcpStream, Refusal> {
        let mut found = Vec::new();
        if Instant::now() >= self.unresolved_until.get() {
            found = worker.resolver.lookup(&upstream.host).await;
            if found.is_empty() {
                // A resolver that does not answer must not make every request wait for it.
                let until = Instant::now() + limits::DNS_NEGATIVE_TTL_MAX;
                self.unresolved_until.set(until);
            }
        }
        if found.is_empty() {
            found.clone_from(&self.addresses.borrow());
        } else {
            self.addresses.borrow_mut().clone_from(&found);
        }
        if found.is_empty() {
            return Err(Refusal::UpstreamUnresolved);
        }
        for attempt in 0..limits::CONNECT_ATTEMPTS_MAX.max(found.len()) {
            let address = SocketAddr::new(found[attempt % found.len()], upstream.port);
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    tracing::debug!(%address, %error, "connect");
                    if is_local(&error) {
                        break;
                    }
                }
            }
        }
        Err(Refusal::UpstreamUnreachable)
    }
}

/// Our own lack of files or ports: another attempt would only add to it.
fn is_local(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::EADDRNOTAVAIL)
    )
}

fn is_usable(conn: &Conn, now: Instant) -> bool {
    now < conn.retire_at && now - conn.idle_since < limits::UPSTREAM_IDLE_MAX && !conn.sender.is_closed()
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
