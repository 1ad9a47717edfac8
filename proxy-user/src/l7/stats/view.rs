// SPDX-License-Identifier: MIT OR Apache-2.0
//! All statistics as rows, for whoever shows them: the API and the statistics page.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::rates::Rates;
use super::rows::{self, Kind, Row};
use crate::l7::limits;
use crate::l7::metrics::Counters;
use crate::l7::router::Snapshot;

/// What rows are made from. *Lifetime*: the process's.
pub struct View {
    counters: Vec<Arc<Counters>>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    sessions_max: u64,
    rates: Mutex<Rates>,
}

impl View {
    /// A view of these workers and rules.
    pub fn new(counters: Vec<Arc<Counters>>, snapshot: Arc<ArcSwap<Snapshot>>, sessions_max: usize) -> Self {
        View {
            counters,
            snapshot,
            sessions_max: sessions_max as u64,
            rates: Mutex::default(),
        }
    }

    /// Everything that is counted now.
    pub fn rows(&self) -> Vec<Row> {
        let snapshot = self.snapshot.load_full();
        let rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rows::all(&self.counters, &snapshot, self.sessions_max, &rates)
    }

    /// Looks at all totals once a second.
    pub async fn count_rates(&self) {
        let mut tick = tokio::time::interval(limits::RATE_INTERVAL);
        loop {
            tick.tick().await;
            let rows = self.rows();
            let totals = rows.iter().filter(|row| row.kind != Kind::Backend).map(|row| {
                let key = (row.proxy.clone(), row.server.clone());
                (key, row.total)
            });
            self.rates
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .tick(totals);
        }
    }
}
