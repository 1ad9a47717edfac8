// SPDX-License-Identifier: MIT OR Apache-2.0
//! One request on a connection of HTTP/2, and how long its client may keep an answer waiting.
//!
//! A client gives room for each answer and for all of them together, and others may go on while one gets none; so each
//! has a time of its own, and is reset alone. hyper polls an answer only when it has room for what it
//! got last, so time is for a piece of [`limits::H2_PIECE_BYTES_MAX`].

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;

use super::{ASKED, ConnState, GIVEN, Relaxed, UNASKED};
use crate::l7::clock::{self, Alarm};
#[cfg(doc)]
use crate::l7::limits;
use crate::l7::refusal::Refusal;

/// Runs the requests of a connection on the worker that has it.
#[derive(Clone)]
pub struct Streams {
    /// The connection's.
    pub state: Arc<ConnState>,
    /// TIMEOUT_CLIENT.
    pub limit: Duration,
}

impl<F: Future + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(bounded(future, self.clone()));
    }
}

async fn bounded(future: impl Future, Streams { state, limit }: Streams) {
    let ended_for = {
        let mut future = pin!(future);
        let (mut waits_since, mut alarm) = (None, Alarm::default());
        let is_late = poll_fn(|cx| {
            state.turn.store(UNASKED, Relaxed);
            if future.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            match state.turn.load(Relaxed) {
                GIVEN => waits_since = Some(clock::recent()),
                ASKED => waits_since = None,
                _ => {}
            }
            match waits_since {
                Some(since) => alarm.poll(cx, since + limit).map(|()| true),
                None => Poll::Pending,
            }
        });
        if !is_late.await {
            return;
        }
        state.counters.refused(Refusal::ClientStalled);
        let because = Refusal::ClientStalled as usize + 1;
        state.ended_for.swap(because, Relaxed)
    };
    // It is over, and did not leave.
    state.ended_for.store(ended_for, Relaxed);
}
