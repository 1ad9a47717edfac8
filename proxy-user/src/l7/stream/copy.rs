// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bytes both ways between two sockets, with half-close, until both sides have ended or nothing moves.
//!
//! Bytes pass through one buffer of the worker, so a connection owns memory only while its receiver is slow.

use std::future::{Future, poll_fn};
use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::l7::limits;
use crate::l7::metrics::Cell;
use crate::l7::worker::Worker;

/// How it came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides said so.
    Whole,
    /// Nothing moved for too long.
    Idle,
    /// A side broke off.
    Broken,
}

/// Copies until the end; what it was, and how many bytes came from the client and from the service.
pub(super) async fn both(
    worker: &Worker,
    client: &TcpStream,
    upstream: &TcpStream,
    idle: Duration,
) -> (End, u64, u64) {
    let counters = &worker.counters;
    let mut up = Way::new(client, upstream, &counters.stream_bytes_in);
    let mut down = Way::new(upstream, client, &counters.stream_bytes_out);
    let mut sleep = pin!(tokio::time::sleep(idle));
    let mut moved = (0, Instant::now());
    let end = poll_fn(|cx| {
        let outcome = [up.poll(cx, worker), down.poll(cx, worker)];
        if outcome.iter().any(|o| matches!(o, Poll::Ready(Err(_)))) {
            return Poll::Ready(End::Broken);
        }
        if outcome.iter().all(Poll::is_ready) {
            return Poll::Ready(End::Whole);
        }
        let total = up.moved + down.moved;
        if total != moved.0 {
            moved = (total, Instant::now());
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= moved.1 + idle {
                return Poll::Ready(End::Idle);
            }
            sleep.as_mut().reset(moved.1 + idle);
        }
        Poll::Pending
    })
    .await;
    (end, up.bytes, down.bytes)
}

/// One direction.
struct Way<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    counter: &'a Cell,
    /// What the receiver has not taken yet, from `at` on.
    pending: Vec<u8>,
    at: usize,
    moved: u64,
    bytes: u64,
    /// `from` has ended.
    is_read: bool,
    /// `to` knows.
    is_shut: bool,
}

impl<'a> Way<'a> {
    fn new(from: &'a TcpStream, to: &'a TcpStream, counter: &'a Cell) -> Self {
        Way {
            from,
            to,
            counter,
            pending: Vec::new(),
            at: 0,
            moved: 0,
            bytes: 0,
            is_read: false,
            is_shut: false,
        }
    }

    /// Ready when this direction has ended.
    fn poll(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<io::Result<()>> {
        if self.is_shut {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..limits::STREAM_TURNS_MAX {
            ready!(self.poll_pending(cx))?;
            if self.is_read {
                // The other side may have gone meanwhile, and then need not be told.
                let _ = socket2::SockRef::from(self.to).shutdown(Shutdown::Write);
                self.is_shut = true;
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_pass(cx, &mut worker.streams.scratch.borrow_mut()))?;
        }
        // Others have their turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.pending.len() {
            ready!(self.to.poll_write_ready(cx))?;
            match self.to.try_write(&self.pending[self.at..]) {
                Ok(length) => self.at += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            self.moved += 1;
        }
        if self.at > 0 {
            (self.pending, self.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much of it as the receiver takes.
    fn poll_pass(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<()>> {
        let length = loop {
            ready!(self.from.poll_read_ready(cx))?;
            match self.from.try_read(scratch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other?,
            }
        };
        self.moved += 1;
        self.counter.add(length as u64);
        self.bytes += length as u64;
        if length == 0 {
            self.is_read = true;
            return Poll::Ready(Ok(()));
        }
        let written = match self.to.try_write(&scratch[..length]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            other => other?,
        };
        self.pending.extend_from_slice(&scratch[written..length]);
        Poll::Ready(Ok(()))
    }
}
