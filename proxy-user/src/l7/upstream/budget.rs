// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many requests may be sent again: a share of those that were sent once, and a few for a quiet service.
//!
//! Without it a service that fails under load would get every request three times.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::l7::limits;

/// A bucket of a worker for one upstream, in hundredths of a retry.
pub struct Budget {
    percent: u32,
    hundredths: Cell<u32>,
    refilled: Cell<Instant>,
}

/// What one retry costs.
const ONE: u32 = 100;

impl Budget {
    /// A full bucket, to which each request adds `percent` of a retry.
    pub fn new(percent: u32, now: Instant) -> Self {
        Budget {
            percent,
            hundredths: Cell::new(limits::RETRIES_SAVED_MAX * ONE),
            refilled: Cell::new(now),
        }
    }

    /// A request was sent for the first time.
    pub fn deposit(&self) {
        self.add(self.percent);
    }

    /// Takes a retry, if there is one.
    pub fn withdraw(&self, now: Instant) -> bool {
        let per_retry = Duration::from_secs(1) / limits::RETRIES_FLOOR_PER_SECOND;
        let gained = (now - self.refilled.get()).as_nanos() / per_retry.as_nanos();
        if gained > 0 {
            self.refilled.set(now);
            let gained = u32::try_from(gained).unwrap_or(u32::MAX);
            self.add(gained.saturating_mul(ONE));
        }
        match self.hundredths.get().checked_sub(ONE) {
            Some(left) => {
                self.hundredths.set(left);
                true
            }
            None => false,
        }
    }

    fn add(&self, hundredths: u32) {
        let max = limits::RETRIES_SAVED_MAX * ONE;
        self.hundredths
            .set(self.hundredths.get().saturating_add(hundredths).min(max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(percent: u32, now: Instant) -> Budget {
        let budget = Budget::new(percent, now);
        while budget.withdraw(now) {}
        budget
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_sent_again() {
        let now = Instant::now();
        let budget = empty(20, now);
        let retried = (0..100)
            .filter(|_| {
                budget.deposit();
                budget.withdraw(now)
            })
            .count();
        assert_eq!(retried, 20);
    }

    #[test]
    fn a_quiet_service_has_a_floor_and_savings_have_an_end() {
        let now = Instant::now();
        let budget = empty(0, now);
        let later = now + Duration::from_secs(1);
        let mut retried = 0;
        while budget.withdraw(later) {
            retried += 1;
        }
        assert_eq!(retried, limits::RETRIES_FLOOR_PER_SECOND);
        let much_later = later + Duration::from_secs(86_400);
        let mut retried = 0;
        while budget.withdraw(much_later) {
            retried += 1;
        }
        assert_eq!(retried, limits::RETRIES_SAVED_MAX);
    }
}
