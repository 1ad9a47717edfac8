// SPDX-License-Identifier: MIT OR Apache-2.0
//! A service's limit of requests at a time, and the line in front of it.
//!
//! Each worker has its part of the limit and of the queue, so that no request waits for another thread; a limit smaller
//! than the number of workers is one for each.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::l7::refusal::Refusal;

/// The limit of one worker for one upstream.
pub struct Queue {
    turns: Option<Arc<Semaphore>>,
    waiting: Rc<Cell<u32>>,
    waiting_max: u32,
    timeout: Duration,
}

/// A request's turn; it ends when this is dropped.
pub struct Turn(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

/// Counts a request that waits.
struct Waiting(Rc<Cell<u32>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Queue {
    /// A worker's part.
    pub fn new(requests_max: Option<u32>, queue_max: u32, timeout: Duration, workers: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        let turns = requests_max.map(|max| Arc::new(Semaphore::new((max / workers).max(1) as usize)));
        Queue {
            turns,
            waiting: Rc::default(),
            waiting_max: queue_max.div_ceil(workers),
            timeout,
        }
    }

    /// Waits for a turn; `waits` is called if there is none at once, and what it gives is kept until there is.
    pub async fn enter<W>(&self, waits: impl FnOnce() -> W) -> Result<Turn, Refusal> {
        let Some(turns) = &self.turns else {
            return Ok(Turn(None));
        };
        if let Ok(permit) = turns.clone().try_acquire_owned() {
            return Ok(Turn(Some(permit)));
        }
        let _waits = waits();
        Box::pin(self.wait(turns)).await
    }

    async fn wait(&self, turns: &Arc<Semaphore>) -> Result<Turn, Refusal> {
        if self.waiting.get() >= self.waiting_max {
            return Err(Refusal::QueueFull);
        }
        self.waiting.set(self.waiting.get() + 1);
        let _waiting = Waiting(self.waiting.clone());
        match tokio::time::timeout(self.timeout, turns.clone().acquire_owned()).await {
            // The semaphore is never closed.
            Ok(permit) => Ok(Turn(permit.ok())),
            Err(_) => Err(Refusal::QueueTimeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_beyond_the_limit_wait_then_are_refused() {
        let queue = Queue::new(Some(2), 1, Duration::from_millis(20), 1);
        let (first, _second) = (
            queue.enter(|| ()).await.unwrap(),
            queue.enter(|| ()).await.unwrap(),
        );
        let began = tokio::time::Instant::now();
        let (third, fourth) = tokio::join!(queue.enter(|| ()), queue.enter(|| ()));
        assert_eq!(third.err(), Some(Refusal::QueueTimeout));
        assert!(began.elapsed() >= Duration::from_millis(20));
        assert_eq!(fourth.err(), Some(Refusal::QueueFull));
        let waiting = queue.enter(|| ());
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        assert!(waiting.await.is_ok());
        assert_eq!(queue.waiting.get(), 0);
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits_and_a_small_one_is_one_for_each_worker() {
        let queue = Queue::new(None, 0, Duration::ZERO, 8);
        let turns: Vec<_> = futures_util::future::join_all((0..100).map(|_| queue.enter(|| ()))).await;
        assert!(turns.iter().all(Result::is_ok));
        let queue = Queue::new(Some(2), 0, Duration::ZERO, 8);
        let _turn = queue.enter(|| ()).await.unwrap();
        assert_eq!(queue.enter(|| ()).await.err(), Some(Refusal::QueueFull));
    }
}
