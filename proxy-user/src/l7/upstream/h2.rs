// SPDX-License-Identifier: MIT OR Apache-2.0
//! HTTP/2 connections to a task. hyper drives them; here is which one a request takes.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::followed::Followed;
use super::io::Stream;
use crate::l7::body::ToUpstream;
use crate::l7::limits;

/// A connection that many requests share.
pub struct Shared {
    sender: SendRequest<ToUpstream>,
    streams: Rc<Cell<usize>>,
    idle_since: Rc<Cell<Instant>>,
    retire_at: Instant,
}

/// One request's part of a connection.
pub struct Part {
    /// Sends the request.
    pub sender: SendRequest<ToUpstream>,
    streams: Rc<Cell<usize>>,
    idle_since: Rc<Cell<Instant>>,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.streams.set(self.streams.get() - 1);
        self.idle_since.set(Instant::now());
    }
}

impl Shared {
    /// Begins to speak HTTP/2.
    pub async fn handshake(io: Stream, age: Duration) -> Result<Shared, hyper::Error> {
        let (sender, driver) = http2::Builder::new(OnThisThread)
            .timer(TokioTimer::new())
            .max_header_list_size(limits::HEAD_BYTES_MAX as u32)
            .keep_alive_interval(limits::H2_PING_INTERVAL)
            .keep_alive_timeout(limits::H2_PING_TIMEOUT)
            .handshake(TokioIo::new(Followed::new(io)))
            .await?;
        tokio::task::spawn_local(async move {
            // Errors reach the requests that are on the connection.
            if let Err(error) = driver.await {
                tracing::debug!(%error, "h2 upstream connection");
            }
        });
        let now = Instant::now();
        Ok(Shared {
            sender,
            streams: Rc::default(),
            idle_since: Rc::new(Cell::new(now)),
            retire_at: now + age,
        })
    }

    /// A part of this connection, if it has one to give.
    pub fn part(&self) -> Option<Part> {
        if self.sender.is_closed() || self.streams.get() >= limits::H2_STREAMS_MAX {
            return None;
        }
        self.streams.set(self.streams.get() + 1);
        Some(Part {
            sender: self.sender.clone(),
            streams: self.streams.clone(),
            idle_since: self.idle_since.clone(),
        })
    }

    /// Whether it is worth keeping. One that is given up serves its requests to the end.
    pub fn is_usable(&self, now: Instant, idle_max: Duration) -> bool {
        let is_idle = self.streams.get() == 0;
        !self.sender.is_closed()
            && now < self.retire_at
            && !(is_idle && now - self.idle_since.get() >= idle_max)
    }
}

/// hyper's own tasks stay on the worker's thread.
#[derive(Clone)]
struct OnThisThread;

impl<F: Future<Output = ()> + 'static> Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
