// SPDX-License-Identifier: MIT OR Apache-2.0
//! Passive health: a task that fails requests in a row rests for a while, longer each time.
//!
//! It is judged by what real requests see: connections that fail, answers that do not come, and 502, 503 and 504. How
//! many may rest at once is limited, because when most tasks fail the fault is elsewhere, and the rest would drown.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// When a task rests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ejection {
    /// Failures in a row; 0 never ejects.
    pub errors: u32,
    /// The first rest; the n-th takes n times as long, up to [`Ejection::TIMES_MAX`].
    pub time: Duration,
    /// How many of a service's tasks may rest at once.
    pub percent_max: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Ejection {
            errors: 5,
            time: Duration::from_secs(10),
            percent_max: 50,
        }
    }
}

impl Ejection {
    /// Where a rest stops growing: at 10 s it is 5 minutes.
    pub const TIMES_MAX: u32 = 30;

    /// Whether another task may rest beside `resting` of `all`.
    pub fn admits(&self, resting: usize, all: usize) -> bool {
        (resting + 1) * 100 <= all * self.percent_max as usize
    }
}

/// What is remembered of one task.
#[derive(Default)]
pub struct Record {
    failures: Cell<u32>,
    times: Cell<u32>,
    until: Cell<Option<Instant>>,
}

impl Record {
    /// Whether it rests. A look after the end ends the rest.
    pub fn rests(&self, now: Instant) -> bool {
        match self.until.get() {
            Some(until) if now < until => true,
            Some(_) => {
                self.until.set(None);
                false
            }
            None => false,
        }
    }

    /// Whether it has been told to rest, and nobody has looked since the end of that.
    pub fn is_ejected(&self) -> bool {
        self.until.get().is_some()
    }

    /// A request went well.
    pub fn succeeded(&self) {
        // One good answer after a rest does not undo the memory of it; as many as it took to rest do.
        if self.failures.replace(0) == 0 && self.times.get() > 0 && self.until.get().is_none() {
            self.times.set(self.times.get() - 1);
        }
    }

    /// A request failed. True when it should rest from now on, if the service admits that.
    pub fn failed(&self, ejection: &Ejection) -> bool {
        let failures = self.failures.get().saturating_add(1);
        self.failures.set(failures);
        ejection.errors > 0 && failures >= ejection.errors && self.until.get().is_none()
    }

    /// It rests.
    pub fn eject(&self, ejection: &Ejection, now: Instant) {
        let times = (self.times.get() + 1).min(Ejection::TIMES_MAX);
        self.times.set(times);
        self.failures.set(0);
        self.until.set(Some(now + ejection.time * times));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_in_a_row_count_and_rests_grow() {
        let ejection = Ejection {
            errors: 3,
            time: Duration::from_secs(1),
            percent_max: 50,
        };
        let (task, now) = (Record::default(), Instant::now());
        assert!(!task.failed(&ejection) && !task.failed(&ejection));
        task.succeeded();
        assert!(!task.failed(&ejection) && !task.failed(&ejection) && task.failed(&ejection));
        task.eject(&ejection, now);
        assert!(task.rests(now) && !task.rests(now + Duration::from_millis(1001)));
        assert!(!task.failed(&ejection) && !task.failed(&ejection) && task.failed(&ejection));
        let again = now + Duration::from_secs(2);
        task.eject(&ejection, again);
        assert!(task.rests(again + Duration::from_millis(1999)));
        assert!(!task.rests(again + Duration::from_millis(2001)));
    }

    #[test]
    fn no_more_than_the_share_rests_and_zero_errors_never_eject() {
        let half = Ejection::default();
        assert!(!half.admits(0, 1), "the only task never rests");
        assert!(half.admits(0, 2) && !half.admits(1, 2));
        assert!(half.admits(1, 5) && !half.admits(2, 5));
        let never = Ejection { errors: 0, ..half };
        let task = Record::default();
        assert!((0..100).all(|_| !task.failed(&never)));
    }
}
