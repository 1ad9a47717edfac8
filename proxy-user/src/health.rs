// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks backends and tasks whether they are well, and tells who is down.
//!
//! Life of a member: it is used from the moment that it is known. Its first check decides at once; from then on
//! `fall` bad checks in a row take it out and `rise` good ones bring it back. Who is down is remembered in the
//! state directory, so that a restart of the agent sends nobody to a member that was down before. A check that
//! changes (its path, its interval) keeps the member's state; a member that goes is forgotten.
//!
//! Data flows one way: the control thread says who is to be asked, and the verdict goes to it as one more input
//! of the Writer. Checks run on a thread of their own, so that neither a slow disk nor a busy API makes a member
//! look slow. Each member has a timer; at most [`CONCURRENT_MAX`] checks run at once, and one that waits for its
//! turn is counted, because then intervals are longer than asked for.

mod board;
mod probe;

pub use board::{Board, Standing};
pub use probe::probe;

use std::{
    collections::BTreeMap,
    fs,
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    task::AbortHandle,
};

use crate::model::{
    HealthCheck,
    health::{Down, MemberKey, Target},
};

/// Checks at one time: each has a socket and, where it leaves from another namespace, for a moment a thread. 16 384
/// members that are asked every 2 s and answer in 20 ms need 164.
pub const CONCURRENT_MAX: usize = 256;
/// An interval is this part longer or shorter, so that members that came together are not asked together.
const JITTER: f64 = 0.1;
/// The file in the state directory.
const FILE: &str = "health.json";

/// Who is to be asked.
pub type Targets = BTreeMap<MemberKey, Target>;

/// Checks and what came of them.
#[derive(Debug)]
pub struct Health {
    board: Mutex<Board>,
    targets: watch::Sender<Arc<Targets>>,
    memory: PathBuf,
    /// Checks that had to wait for others.
    waited: AtomicU64,
}

impl Health {
    /// Nobody is asked yet; who was down when the last agent ended is down.
    pub fn new(state: &Path) -> Arc<Self> {
        let memory = state.join(FILE);
        let down = fs::read(&memory).ok();
        let down = down.and_then(|text| serde_json::from_slice(&text).ok());
        Arc::new(Self {
            board: Mutex::new(Board::remembering(down.unwrap_or_default())),
            targets: watch::Sender::default(),
            memory,
            waited: AtomicU64::new(0),
        })
    }

    /// Says who is to be asked from now on, and returns who of them is down.
    pub fn set_targets(&self, targets: Targets) -> Down {
        let mut board = self.board();
        board.keep(&targets);
        let down = board.down();
        drop(board);
        self.targets.send_if_modified(|known| {
            let differ = **known != targets;
            if differ {
                *known = Arc::new(targets);
            }
            differ
        });
        down
    }

    /// What is known of everybody who is asked.
    pub fn standings(&self) -> BTreeMap<MemberKey, Standing> {
        self.board().standings()
    }

    /// Good checks, bad checks, changes of state, checks that had to wait.
    pub fn counts(&self) -> [u64; 4] {
        let [good, bad, changes] = self.board().counts;
        [good, bad, changes, self.waited.load(Ordering::Relaxed)]
    }

    /// Asks until it is dropped; tells whenever somebody's state has changed.
    pub async fn run(self: Arc<Self>, tell: impl Fn(Down) + Clone + Send + Sync + 'static) {
        let room = Arc::new(Semaphore::new(CONCURRENT_MAX));
        let mut running: BTreeMap<MemberKey, (Target, Asking)> = BTreeMap::new();
        let mut changes = self.targets.subscribe();
        loop {
            let targets = changes.borrow_and_update().clone();
            running.retain(|key, (target, _)| targets.get(key) == Some(target));
            for (key, target) in targets.iter() {
                running.entry(key.clone()).or_insert_with(|| {
                    let asking = self
                        .clone()
                        .ask(key.clone(), target.clone(), room.clone(), tell.clone());
                    (target.clone(), Asking(tokio::spawn(asking).abort_handle()))
                });
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn ask(self: Arc<Self>, key: MemberKey, target: Target, room: Arc<Semaphore>, tell: impl Fn(Down)) {
        let check = &target.check;
        loop {
            if room.available_permits() == 0 {
                self.waited.fetch_add(1, Ordering::Relaxed);
            }
            let Ok(permit) = room.acquire().await else { return };
            let outcome = tokio::time::timeout(check.timeout, probe(&target)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer in {:?}", check.timeout)));
            drop(permit);
            if let Some(down) = self.note(&key, outcome, check) {
                self.remember(&down);
                tell(down);
            }
            tokio::time::sleep(jittered(check.interval)).await;
        }
    }

    /// Takes in what came of a check; who is down now, if that has changed.
    fn note(&self, key: &MemberKey, outcome: Result<(), String>, check: &HealthCheck) -> Option<Down> {
        let mut board = self.board();
        let up = board.note(key, outcome, check.rise, check.fall)?;
        tracing::info!(service = %key.0, member = %key.1, up, why = board.why(key), "health");
        Some(board.down())
    }

    /// A crash of the machine may lose it: then nothing is in the kernel either.
    fn remember(&self, down: &Down) {
        let next = self.memory.with_extension("new");
        let listed: Vec<(String, Vec<String>)> = down
            .iter()
            .map(|(service, members)| {
                (
                    service.to_string(),
                    members.iter().map(ToString::to_string).collect(),
                )
            })
            .collect();
        let text = serde_json::to_vec(&listed).unwrap_or_default();
        if let Err(error) = fs::write(&next, text).and_then(|()| fs::rename(&next, &self.memory)) {
            tracing::warn!(file = %self.memory.display(), %error, "who is down is not remembered");
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // Every change of it is whole before anything can panic.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that ends when nobody wants it any more.
#[derive(Debug)]
struct Asking(AbortHandle);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The interval give or take [`JITTER`]. The standard hasher's keys are its only source of chance.
fn jittered(interval: Duration) -> Duration {
    let chance = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance)
}

#[cfg(test)]
mod tests;
