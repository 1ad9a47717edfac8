// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection of HTTP/1.1 that asks nothing: the socket, and what has come of a head.
//!
//! hyper keeps 16 KiB and the room for a request for each connection that it has. So it gets one when a head is
//! complete, and gives it back when nothing has happened for [`limits::PARK_AFTER`]; whoever connects and says nothing,
//! or says it slowly, costs the bytes that he has sent.

use std::future::{Future, poll_fn};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::sync::futures::Notified;
use tokio::time::Sleep;

use super::watched::{PREFACE, Transport, Watched};
use super::{ConnState, Expired, Relaxed};
use crate::l7::limits;
use crate::l7::worker::Worker;

/// Why the waiting is over.
pub enum Came {
    /// A head, or what hyper has to see: the end inside of one, too much of one, or that the proxy stops.
    Head,
    /// The preface of HTTP/2.
    H2,
    /// The end, and nothing before it.
    End,
    Expired(Expired),
}

/// Waits for a head.
pub async fn wait<T: Transport>(
    worker: &Worker,
    stream: &mut Watched<T>,
    state: &ConnState,
    mut sleep: Pin<&mut Sleep>,
    mut drain: Pin<&mut Notified<'_>>,
) -> Came {
    let timeouts = worker.shared.settings.timeouts;
    poll_fn(|cx| {
        if worker.draining.get() {
            return Poll::Ready(Came::Head);
        }
        if let Poll::Ready(came) = stream.poll_head(cx) {
            return Poll::Ready(came);
        }
        if drain.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Came::Head);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            match state.check(&timeouts) {
                Ok(next) => sleep.as_mut().reset(next),
                Err(expired) => return Poll::Ready(Came::Expired(expired)),
            }
        }
        Poll::Pending
    })
    .await
}

impl<T: Transport> Watched<T> {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Came> {
        loop {
            let mut room = [MaybeUninit::uninit(); limits::WAITING_READ_BYTES];
            let mut buf = ReadBuf::uninit(&mut room);
            let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
            if outcome.is_err() || buf.filled().is_empty() {
                return Poll::Ready(match self.before.is_empty() {
                    true => Came::End,
                    false => Came::Head,
                });
            }
            self.state.bytes_arrived();
            let from = self.before.len().saturating_sub(BLANK.len() - 1);
            self.before.reserve_exact(buf.filled().len());
            self.before.extend_from_slice(buf.filled());
            if self.sniffs && begins_alike(&self.before) {
                if self.before.len() >= PREFACE.len() {
                    self.state.is_h2.store(true, Relaxed);
                    return Poll::Ready(Came::H2);
                }
                continue;
            }
            self.sniffs = false;
            if self.before.len() >= limits::HEAD_BYTES_MAX || has_blank_line(&self.before[from..]) {
                return Poll::Ready(Came::Head);
            }
        }
    }
}

const BLANK: &[u8] = b"\n\r\n";

/// hyper takes a line feed alone for the end of a line, too.
fn has_blank_line(bytes: &[u8]) -> bool {
    bytes.windows(BLANK.len()).any(|window| window == BLANK)
        || bytes.windows(2).any(|window| window == b"\n\n")
}

fn begins_alike(bytes: &[u8]) -> bool {
    let length = bytes.len().min(PREFACE.len());
    bytes[..length] == PREFACE[..length]
}
