// SPDX-License-Identifier: MIT OR Apache-2.0
//! What active checks have found of an upstream, of all workers: a service is down while every worker that asks finds
//! no task that is well.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Of one upstream. *Who writes it*: workers, each after a question of its own, so a lock is no cost.
#[derive(Debug, Default)]
pub struct Checks(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u64,
    took: Duration,
    asking: BTreeSet<usize>,
    down: BTreeSet<usize>,
    down_since: Option<Instant>,
    down_before: Duration,
}

/// What is shown of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Checks that failed.
    pub failures: u64,
    /// How long the last one took.
    pub took: Duration,
    /// Whether a task is well, as far as anybody asks.
    pub is_up: bool,
    /// How long none was.
    pub downtime: Duration,
}

impl Checks {
    /// A worker has asked a task, and now knows whether any of them is well.
    pub fn asked(&self, worker: usize, is_well: bool, took: Duration, any_is_up: bool) {
        let mut state = self.state();
        state.failures += u64::from(!is_well);
        state.took = took;
        state.asking.insert(worker);
        match any_is_up {
            true => state.down.remove(&worker),
            false => state.down.insert(worker),
        };
        state.settle(Instant::now());
    }

    /// A worker asks no more.
    pub fn ended(&self, worker: usize) {
        let mut state = self.state();
        state.asking.remove(&worker);
        state.down.remove(&worker);
        state.settle(Instant::now());
    }

    /// What is known now.
    pub fn seen(&self) -> Seen {
        let state = self.state();
        let now = state.down_since.map_or(Duration::ZERO, |since| since.elapsed());
        Seen {
            failures: state.failures,
            took: state.took,
            is_up: state.down_since.is_none(),
            downtime: state.down_before + now,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settle(&mut self, now: Instant) {
        let is_down = !self.asking.is_empty() && self.down == self.asking;
        match (is_down, self.down_since) {
            (true, None) => self.down_since = Some(now),
            (false, Some(since)) => {
                self.down_before += now - since;
                self.down_since = None;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_down_when_every_worker_says_so() {
        let checks = Checks::default();
        let took = Duration::from_millis(3);
        assert!(checks.seen().is_up, "nobody asks");
        checks.asked(0, false, took, false);
        assert!(!checks.seen().is_up);
        checks.asked(1, true, took, true);
        assert!(checks.seen().is_up, "one finds it well");
        checks.asked(1, false, took, true);
        assert!(checks.seen().is_up, "another task is");
        checks.asked(1, false, took, false);
        let seen = checks.seen();
        assert_eq!((seen.is_up, seen.failures, seen.took), (false, 3, took));
        checks.ended(0);
        assert!(!checks.seen().is_up);
        checks.ended(1);
        let seen = checks.seen();
        assert!(seen.is_up);
        assert_eq!(checks.seen().downtime, seen.downtime, "time that is over");
    }
}
