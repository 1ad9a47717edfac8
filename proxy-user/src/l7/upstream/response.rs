// SPDX-License-Identifier: MIT OR Apache-2.0
//! The body of an answer, as it comes from a task. At its end the connection goes back; dropped before that, the
//! connection is closed and the task notices.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::group::Lease;
use super::h1::decode::Decoder;
use super::h1::{Broken, Piece, Sending};
use super::h2::Part;
use super::queue::Turn;
use super::task::Busy;
use crate::l7::body::{BodyError, Progress};
use crate::l7::clock::{self, Alarm};
use crate::l7::conn::ConnState;
use crate::l7::limits;
use crate::l7::passage::{Passage, stand_in};

/// What follows the head of an answer.
pub struct ResponseBody {
    kind: Kind,
    wait: Wait,
    alarm: Alarm,
    /// Since when it is silent.
    silent_since: Option<Instant>,
    /// The request counts against the service's limit until its answer has ended.
    turn: Option<Turn>,
    /// The client's connection, where it may pass without being copied.
    passes: Option<Arc<ConnState>>,
    /// Why it broke off; told only after what came before has been written, which takes so many more turns.
    broken: Option<(BodyError, u32)>,
}

/// How long the task may be silent, and what of the request is still moving.
pub struct Wait {
    /// TIMEOUT_SERVER.
    pub timeout: Duration,
    /// The request body, if there is one.
    pub progress: Option<Rc<Progress>>,
}

enum Kind {
    Ended,
    H1 {
        lease: Option<Lease>,
        decoder: Decoder,
        /// What of the request body has not gone out.
        sending: Option<Box<Sending>>,
        keeps: bool,
        /// It may be read in large pieces.
        large: Option<Large>,
    },
    H2 {
        body: Incoming,
        #[expect(dead_code, reason = "held, not read")]
        held: (Part, Busy),
    },
}

/// One of the answers that a worker reads in large pieces.
struct Large;

thread_local! {
    static LARGE: Cell<usize> = const { Cell::new(0) };
}

impl Large {
    fn begin() -> Option<Self> {
        let count = LARGE.get();
        let admits = count < limits::LARGE_READS_MAX;
        admits.then(|| LARGE.set(count + 1)).map(|()| Large)
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        LARGE.set(LARGE.get() - 1);
    }
}

impl ResponseBody {
    /// Over an HTTP/1.1 connection.
    pub fn h1(
        lease: Lease,
        decoder: Decoder,
        sending: Option<Box<Sending>>,
        keeps: bool,
        turn: Turn,
        wait: Wait,
    ) -> Self {
        let mut body = ResponseBody {
            kind: Kind::H1 {
                lease: Some(lease),
                decoder,
                sending,
                keeps,
                large: None,
            },
            wait,
            alarm: Alarm::default(),
            silent_since: None,
            turn: Some(turn),
            passes: None,
            broken: None,
        };
        body.end_if_known();
        body
    }

    /// Large and as it is, it may pass to this client without being copied.
    pub fn passes_to(&mut self, client: &Arc<ConnState>) {
        if let Kind::H1 { decoder, .. } = &self.kind
            && decoder
                .exact()
                .is_some_and(|left| left >= limits::PASSES_FROM_BYTES)
            && client.passes()
            && client.passage.open()
        {
            self.passes = Some(client.clone());
        }
    }

    /// Over a part of an HTTP/2 connection.
    pub fn h2(body: Incoming, part: Part, busy: Busy, turn: Turn, wait: Wait) -> Self {
        let mut body = ResponseBody {
            kind: Kind::H2 {
                body,
                held: (part, busy),
            },
            wait,
            alarm: Alarm::default(),
            silent_since: None,
            turn: Some(turn),
            passes: None,
            broken: None,
        };
        body.end_if_known();
        body
    }

    /// The end may be known with the last data, and hyper then does not poll again.
    fn end_if_known(&mut self) {
        let is_over = match &mut self.kind {
            Kind::Ended => false,
            Kind::H1 { lease, decoder, .. } => match lease {
                Some(lease) => lease.conn.h1.ends_here(decoder),
                None => false,
            },
            Kind::H2 { body, .. } => body.is_end_stream(),
        };
        if is_over {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Kind::H1 {
            lease,
            sending: None,
            keeps: true,
            ..
        } = &mut self.kind
            && let Some(lease) = lease.take()
        {
            lease.release();
        }
        self.kind = Kind::Ended;
        if let Some(client) = self.passes.take() {
            client.passage.close();
        }
        self.turn = None;
        self.alarm = Alarm::default();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // hyper gives up its connection with what it has not written yet, so half an answer would be none.
        if let Some((error, turns)) = self.broken.take() {
            if turns == 0 {
                return Poll::Ready(Some(Err(error)));
            }
            self.broken = Some((error, turns - 1));
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = match &mut self.kind {
            Kind::Ended => return Poll::Ready(None),
            Kind::H2 { body, .. } => Pin::new(body)
                .poll_frame(cx)
                .map_err(|error| BodyError::Upstream(Broken::from(error))),
            Kind::H1 {
                lease,
                decoder,
                sending,
                keeps,
                large,
            } => {
                let Some(lease) = lease else {
                    return Poll::Ready(None);
                };
                let h1 = &mut lease.conn.h1;
                if let Some(rest) = sending {
                    match h1.poll_send(cx, rest) {
                        Poll::Pending => {}
                        Poll::Ready(Ok(())) => *sending = None,
                        Poll::Ready(Err(Broken::Client(refusal))) => {
                            return Poll::Ready(Some(Err(BodyError::Client(refusal))));
                        }
                        // It wants no more of the request, and may answer all the same.
                        Poll::Ready(Err(_)) => {
                            *sending = None;
                            *keeps = false;
                        }
                    }
                }
                let piece = match (&self.passes, h1.socket()) {
                    (Some(client), Some(socket)) if sending.is_none() => {
                        // While the client takes it, nobody waits for the task.
                        ready!(client.passage.poll_empty(cx));
                        pass(cx, &client.passage, socket, decoder)
                    }
                    _ => {
                        if large.is_none()
                            && self.passes.is_none()
                            && decoder.expects() > limits::UPSTREAM_BODY_READ_SMALL
                        {
                            *large = Large::begin();
                        }
                        let room_max = match large {
                            Some(_) => limits::UPSTREAM_BODY_READ_BYTES,
                            None => limits::UPSTREAM_BODY_READ_SMALL,
                        };
                        h1.poll_body(cx, decoder, room_max)
                    }
                };
                piece.map(|piece| match piece {
                    Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
                    Ok(Piece::Trailers(fields)) => Some(Ok(Frame::trailers(fields))),
                    Ok(Piece::End) => None,
                    Err(broken) => Some(Err(BodyError::Upstream(broken))),
                })
            }
        };
        if let Poll::Ready(frame) = polled {
            self.silent_since = None;
            match frame {
                None => self.end(),
                Some(Ok(_)) => self.end_if_known(),
                Some(Err(error)) => {
                    // In the first turn hyper is told to come later, in the second it writes.
                    self.broken = Some((error, 1));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            return Poll::Ready(frame);
        }
        loop {
            let silent_since = *self.silent_since.get_or_insert_with(clock::recent);
            ready!(self.alarm.poll(cx, silent_since + self.wait.timeout));
            // A client that still sends, slowly, is not the task's silence; it has a timeout of its own.
            let awaits_client =
                (self.wait.progress.as_ref()).is_some_and(|progress| progress.awaits_client.get());
            if !awaits_client {
                return Poll::Ready(Some(Err(BodyError::UpstreamTimeout)));
            }
            self.silent_since = None;
        }
    }
}

/// A piece of a body whose length is known goes into the pipe.
fn pass(
    cx: &mut Context<'_>,
    passage: &Passage,
    socket: &TcpStream,
    decoder: &mut Decoder,
) -> Poll<Result<Piece, Broken>> {
    if decoder.is_done() {
        return Poll::Ready(Ok(Piece::End));
    }
    let length = ready!(passage.poll_fill(cx, socket, decoder.expects()))?;
    if length == 0 {
        decoder.ended()?;
    }
    decoder.passed(length);
    Poll::Ready(Ok(Piece::Data(stand_in(length))))
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.get_mut().poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Ended => SizeHint::with_exact(0),
            Kind::H1 { decoder, .. } => decoder.exact().map(SizeHint::with_exact).unwrap_or_default(),
            Kind::H2 { body, .. } => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_reads_are_counted_and_come_back() {
        let all: Vec<_> = std::iter::from_fn(Large::begin)
            .take(limits::LARGE_READS_MAX + 1)
            .collect();
        assert_eq!(all.len(), limits::LARGE_READS_MAX);
        assert!(Large::begin().is_none());
        drop(all);
        assert!(Large::begin().is_some());
    }
}
