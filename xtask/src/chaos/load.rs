// SPDX-License-Identifier: MIT OR Apache-2.0
//! The load: a thread for each way to go-demo, in the namespace where the way begins, at a steady pace.

use std::{
    fs::File,
    net::SocketAddr,
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::client::{Client, Failure};

/// Requests per second, of all lanes together: enough to meet a gap of some milliseconds in every event, few enough
/// to leave a machine with two processors to the cluster.
pub const RATE: u32 = 100;
/// Requests that are remembered: half an hour of them. Then the load ends, and the event with an error.
const RECORDS_MAX: usize = 30 * 60 * RATE as usize;

/// One way to go-demo.
#[derive(Clone, Debug)]
pub struct Lane {
    /// `proxy`, `port` or `vip`.
    pub way: &'static str,
    /// The node that it enters the cluster by.
    pub node: &'static str,
    pub keep: bool,
    /// Where it begins, as a path.
    pub namespace: String,
    pub target: SocketAddr,
}

impl std::fmt::Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kept = if self.keep {
            "kept"
        } else {
            "a connection per request"
        };
        write!(f, "{} through {}, {kept}", self.way, self.node)
    }
}

/// A request. Times are since the load began.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub lane: usize,
    pub start: Duration,
    pub took: Duration,
    pub failure: Option<Failure>,
}

/// A load that runs until it is dropped.
pub struct Load {
    origin: Instant,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    records: Mutex<Vec<Record>>,
}

impl Load {
    /// Starts all lanes.
    pub fn start(lanes: &[Lane]) -> Result<Load> {
        let mut load = Load {
            origin: Instant::now(),
            shared: Arc::default(),
            threads: Vec::new(),
        };
        let pace = Duration::from_secs(1) / RATE * u32::try_from(lanes.len())?;
        let (ready, started) = mpsc::channel();
        for (number, lane) in lanes.iter().cloned().enumerate() {
            let (shared, origin, ready) = (Arc::clone(&load.shared), load.origin, ready.clone());
            load.threads.push(thread::spawn(move || {
                let entered = enter(&lane.namespace);
                let go = entered.is_ok();
                // Without a receiver the start has failed, and the stop below is set.
                let _ = ready.send(entered.with_context(|| lane.namespace.clone()));
                if go {
                    let first = origin + Duration::from_secs(1) / RATE * u32::try_from(number).unwrap_or(0);
                    shared.drive(number, &lane, origin, first, pace);
                }
            }));
        }
        for _ in lanes {
            started.recv().map_err(|_| anyhow!("a lane has ended"))??;
        }
        Ok(load)
    }

    /// The time on the records' clock.
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Ends the load; every request until then.
    pub fn end(mut self) -> Result<Vec<Record>> {
        self.stop();
        let records =
            std::mem::take(&mut *self.shared.records.lock().unwrap_or_else(PoisonError::into_inner));
        if records.len() >= RECORDS_MAX {
            bail!("the load has ended after {RECORDS_MAX} requests, before the event did");
        }
        Ok(records)
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A lane that panicked has printed why; what it recorded counts.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn drive(&self, number: usize, lane: &Lane, origin: Instant, first: Instant, pace: Duration) {
        let mut client = Client::new(lane.target, lane.keep);
        let mut next = first;
        while !self.stop.load(Ordering::Relaxed) {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let start = origin.elapsed();
            let failure = client.ask().err();
            let took = origin.elapsed() - start;
            // What was missed in a long request is not made up for.
            next = (next + pace).max(Instant::now());
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            if records.len() >= RECORDS_MAX {
                return;
            }
            records.push(Record {
                lane: number,
                start,
                took,
                failure,
            });
        }
    }
}

/// Moves this thread, and with it every socket that it opens, into a network namespace.
fn enter(namespace: &str) -> Result<()> {
    let file = File::open(namespace)?;
    // SAFETY: the descriptor is open for the call, and setns touches no memory of this process.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error()).context("setns");
    }
    Ok(())
}
