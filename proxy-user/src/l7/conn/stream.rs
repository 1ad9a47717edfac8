// SPDX-License-Identifier: MIT OR Apache-2.0
//! One request on a connection of HTTP/2, and how long its client may keep an answer waiting.
//!
//! A client gives room for each answer and for all of them together, and others may go on while one gets none; so each
//! has a time of its own, and is reset alone. hyper polls an answer only when it has room for what it
//! got last, so time is for a piece of [`limits::H2_PIECE_BYTES_MAX`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::Instant;

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
        tokio::task::spawn_local(Bounded {
            future: Some(Box::pin(future)),
            streams: self.clone(),
            waits_since: None,
            alarm: Alarm::default(),
        });
    }
}

/// A request, and its answer until it is sent. In a box at once: a request has kilobytes, and the runtime moves what
/// it is given several times.
struct Bounded<F> {
    /// None when it is over.
    future: Option<Pin<Box<F>>>,
    streams: Streams,
    waits_since: Option<Instant>,
    alarm: Alarm,
}

impl<F: Future> Future for Bounded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let state = &this.streams.state;
        let Some(future) = &mut this.future else {
            return Poll::Ready(());
        };
        state.turn.store(UNASKED, Relaxed);
        if future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match state.turn.load(Relaxed) {
            GIVEN => this.waits_since = Some(clock::recent()),
            ASKED => this.waits_since = None,
            _ => {}
        }
        let Some(since) = this.waits_since else {
            return Poll::Pending;
        };
        if this.alarm.poll(cx, since + this.streams.limit).is_pending() {
            return Poll::Pending;
        }
        state.counters.refused(Refusal::ClientStalled);
        let because = Refusal::ClientStalled as usize + 1;
        let ended_for = state.ended_for.swap(because, Relaxed);
        this.future = None;
        // It is over, and did not leave.
        state.ended_for.store(ended_for, Relaxed);
        Poll::Ready(())
    }
}
