// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who observes, and the one reader of the kernel's events that serves them all.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use proxy_ebpf::abi::{Backend, Event};
use tokio::{
    sync::{broadcast, watch},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::kernel::events::Source;

/// Observers at one time: each holds one of the socket's [`super::super::CONNECTIONS_MAX`] connections.
pub const OBSERVERS_MAX: usize = 8;
/// Events that an observer may be behind: about as many as the kernel's ring holds, of some 200 bytes, 0.8 MiB for all
/// observers together. What he misses is said to him and counted.
const BEHIND_MAX: usize = 4_096;
/// How often the ring is looked at while somebody observes (`limits::EVENT_RING_BYTES`).
const LOOK: Duration = Duration::from_millis(20);
/// How often the kernel is told again that somebody observes; it forgets after five ticks.
const RENEW: Duration = Duration::from_secs(1);

/// What an observer wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// One of so many flows; 0 = none.
    pub flows: u32,
    /// What is dropped or refused.
    pub drops: bool,
}

impl Wants {
    /// What serves all of them.
    fn of_all(all: &BTreeMap<u64, Wants>) -> Wants {
        let flows = all.values().map(|wants| wants.flows).filter(|flows| *flows != 0);
        Wants {
            flows: flows.min().unwrap_or_default(),
            drops: all.values().any(|wants| wants.drops),
        }
    }
}

/// What every observer is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// The kernel knows what is wanted.
    Observing,
    /// It happened at this time, in milliseconds of Unix time.
    Event(Event, Option<Backend>, u64),
    /// So many events could not be told.
    Lost(u64),
    /// The kernel's events cannot be read.
    Problem(Arc<str>),
}

/// The meeting point.
pub struct Hub {
    wants: watch::Sender<BTreeMap<u64, Wants>>,
    told: broadcast::Sender<Told>,
    next: AtomicU64,
    missed: AtomicU64,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            wants: watch::Sender::default(),
            told: broadcast::Sender::new(BEHIND_MAX),
            next: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }
}

/// Somebody who observes, until dropped.
pub struct Observer {
    hub: Arc<Hub>,
    id: u64,
    /// What he is told.
    pub told: broadcast::Receiver<Told>,
}

impl Observer {
    /// Counts events that he was too slow for.
    pub fn has_missed(&self, events: u64) {
        self.hub.missed.fetch_add(events, Ordering::Relaxed);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.hub.wants.send_modify(|all| {
            all.remove(&self.id);
        });
    }
}

impl Hub {
    /// One more observer, unless there are [`OBSERVERS_MAX`].
    pub fn join(self: &Arc<Self>, wants: Wants) -> Option<Observer> {
        // Listening before the kernel is told, so that nothing is missed.
        let told = self.told.subscribe();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let joined = self.wants.send_if_modified(|all| {
            let room = all.len() < OBSERVERS_MAX;
            if room {
                all.insert(id, wants);
            }
            room
        });
        joined.then(|| Observer {
            hub: self.clone(),
            id,
            told,
        })
    }

    /// How many observe.
    pub fn observers(&self) -> usize {
        self.wants.borrow().len()
    }

    /// Events that observers were too slow for, each counted for each of them.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Serves observers for ever; opens the source only while there are any.
    pub async fn run(&self, open: impl Fn() -> io::Result<Box<dyn Source>>) {
        let mut wants = self.wants.subscribe();
        while wants.wait_for(|all| !all.is_empty()).await.is_ok() {
            let pumped = match open() {
                Ok(source) => self.pump(source, &mut wants).await,
                Err(error) => Err(error),
            };
            if let Err(error) = pumped {
                tracing::warn!(%error, "events of the kernel");
                self.tell(Told::Problem(error.to_string().into()));
                sleep(RENEW).await;
            }
        }
    }

    /// Until nobody is left; the source takes the watch back when it is dropped.
    async fn pump(
        &self,
        mut source: Box<dyn Source>,
        wants: &mut watch::Receiver<BTreeMap<u64, Wants>>,
    ) -> io::Result<()> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut lost = source.lost()?;
        let mut told_kernel = Instant::now();
        wants.mark_changed();
        loop {
            if wants.has_changed().unwrap_or(false) || told_kernel.elapsed() >= RENEW {
                let all = wants.borrow_and_update().clone();
                if all.is_empty() {
                    return Ok(());
                }
                let wanted = Wants::of_all(&all);
                source.watch(wanted.flows, wanted.drops)?;
                told_kernel = Instant::now();
                self.tell(Told::Observing);
                let now = source.lost()?;
                if now > lost {
                    self.tell(Told::Lost(now - lost));
                    lost = now;
                }
            }
            let at_ms = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |time| time.as_millis() as u64);
            source.drain(&mut |event, backend| self.tell(Told::Event(event, backend, at_ms)));
            tokio::select! {
                _ = look.tick() => {}
                changed = wants.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    wants.mark_changed();
                }
            }
        }
    }

    fn tell(&self, told: Told) {
        // Nobody may be left by now.
        let _ = self.told.send(told);
    }
}
