// SPDX-License-Identifier: MIT OR Apache-2.0
//! One HTTP/1.1 connection to a task: a request out, an answer in, by the task that has the request.
//!
//! Own code because a request over a connection that another task drives costs a channel, two wake-ups and a copy of
//! the head. Here the head is written into a buffer that the connection keeps, body and framing go out in one vectored
//! write, and what is read is cut into pieces without copying. [`head`] and [`decode`] are pure and know no socket.
//!
//! Sending and receiving overlap: an answer may come before the body has gone out, and a body goes on while the answer
//! is read. A connection is used again only after both have ended where the framing said.

pub mod decode;
pub mod head;

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hyper::Method;
use hyper::body::Body;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

use self::decode::{Decoder, Step};
use self::head::{Framing, Head};
use super::io::Stream;
use crate::l7::body::{BodyError, ToUpstream};
use crate::l7::later::Later;
use crate::l7::limits;
use crate::l7::refusal::Refusal;

/// A connection. *Lifetime*: as long as the pool or a request has it.
pub struct H1 {
    io: Stream,
    read: BytesMut,
    /// So many bytes of `read` are known to hold no whole head.
    scanned: usize,
    out: Out,
}

/// What is to be written: head or chunk size, data, and what ends a chunk.
#[derive(Default)]
struct Out {
    head: BytesMut,
    data: Bytes,
    tail: &'static [u8],
    has_written: bool,
    /// For the head.
    later: Later,
}

/// A request body on its way.
pub struct Sending {
    body: ToUpstream,
    framing: Framing,
    ended: bool,
    started: bool,
}

/// What went wrong with an exchange.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The client's body.
    #[error("request body: {}", .0.name())]
    Client(Refusal),
    /// The connection ended or failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The connection ended before the answer did.
    #[error("the answer broke off")]
    Truncated,
    /// HTTP/2's own reasons.
    #[error(transparent)]
    H2(#[from] hyper::Error),
    /// Not an answer that HTTP knows.
    #[error("invalid answer: {0}")]
    Invalid(&'static str),
}

/// What [`H1::poll_body`] found.
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// The fields after the last chunk.
    Trailers(HeaderMap),
    /// There is no more.
    End,
}

impl Sending {
    /// A body and how it is framed.
    pub fn new(body: ToUpstream, framing: Framing) -> Self {
        Sending {
            body,
            ended: matches!(framing, Framing::None | Framing::Length(0)),
            framing,
            started: false,
        }
    }

    /// Whether some of it has been taken, and is lost for another attempt.
    pub fn has_started(&self) -> bool {
        self.started
    }

    /// The body, for another attempt.
    pub fn into_body(self) -> ToUpstream {
        self.body
    }
}

impl H1 {
    /// A connection on which nothing has happened.
    pub fn new(io: Stream) -> Self {
        H1 {
            io,
            read: BytesMut::new(),
            scanned: 0,
            out: Out::default(),
        }
    }

    /// Whether nothing has arrived that belongs to no request.
    pub fn is_silent(&mut self) -> bool {
        self.read.is_empty() && self.io.is_silent()
    }

    /// Gives back what a large body has needed; hundreds of idle connections would keep it.
    pub fn trim(&mut self) {
        if self.read.is_empty() && self.read.capacity() > 2 * limits::UPSTREAM_READ_BYTES {
            self.read = BytesMut::new();
        }
    }

    /// The stream of an upgraded connection, and what was read of it already.
    pub fn into_stream(self) -> (Stream, Bytes) {
        (self.io, self.read.freeze())
    }

    /// Puts a request head in front of what is to be written.
    pub fn begin(&mut self, parts: &Parts, framing: Framing, upgrade: Option<&[u8]>) {
        self.out.head.clear();
        self.out.has_written = false;
        self.out.later = Later::default();
        head::encode(&mut self.out.head, parts, framing, upgrade);
    }

    /// Writes what there is, and asks the body for more. Ready when all of it has gone out.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, sending: &mut Sending) -> Poll<Result<(), Broken>> {
        loop {
            let has_room = self.out.data.is_empty() && self.out.tail.is_empty();
            let waits = has_room && !sending.ended && self.poll_fill(cx, sending)?.is_pending();
            if !self.out.is_empty() {
                if !self.out.has_written {
                    ready!(self.out.later.poll(cx));
                }
                ready!(self.out.poll_write(cx, &mut self.io))?;
            } else if waits {
                // What has been written must not wait in TLS's buffer for what may take long.
                ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                return Poll::Pending;
            } else if sending.ended {
                return Pin::new(&mut self.io).poll_flush(cx).map_err(Broken::Io);
            }
        }
    }

    /// Takes one piece of the body into `out`.
    fn poll_fill(&mut self, cx: &mut Context<'_>, sending: &mut Sending) -> Result<Poll<()>, Broken> {
        let frame = match Pin::new(&mut sending.body).poll_frame(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(frame) => frame,
        };
        sending.started = true;
        let frame = match frame {
            None => {
                self.end(sending, None)?;
                return Ok(Poll::Ready(()));
            }
            Some(Ok(frame)) => frame,
            Some(Err(BodyError::Client(refusal))) => return Err(Broken::Client(refusal)),
            Some(Err(_)) => return Err(Broken::Client(Refusal::BodyInvalid)),
        };
        match frame.into_data() {
            Ok(data) => {
                if let Framing::Length(left) = &mut sending.framing {
                    let len = data.len() as u64;
                    *left = left
                        .checked_sub(len)
                        .ok_or(Broken::Client(Refusal::BodyInvalid))?;
                    sending.ended = *left == 0;
                } else if !data.is_empty() {
                    head::encode_chunk_size(&mut self.out.head, data.len());
                    self.out.tail = b"\r\n";
                }
                self.out.data = data;
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.end(sending, Some(&trailers))?;
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    fn end(&mut self, sending: &mut Sending, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        sending.ended = true;
        match sending.framing {
            Framing::Chunked => head::encode_last_chunk(&mut self.out.head, trailers),
            // Fewer bytes than were announced: the task must not take the next request for the rest.
            Framing::Length(left) if left > 0 => return Err(Broken::Client(Refusal::BodyInvalid)),
            _ => {}
        }
        Ok(())
    }

    /// The next head, final or not. `recycled` lends its memory to the fields.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        recycled: &mut HeaderMap,
    ) -> Poll<Result<Head, Broken>> {
        loop {
            if self.may_hold_head() {
                match head::parse(&mut self.read, method, recycled)? {
                    Some(head) => {
                        self.scanned = 0;
                        return Poll::Ready(Ok(head));
                    }
                    None if self.read.len() >= limits::HEAD_BYTES_MAX => {
                        return Poll::Ready(Err(Broken::Invalid("the head is too large")));
                    }
                    None => self.scanned = self.read.len(),
                }
            }
            if ready!(self.poll_read(cx, limits::UPSTREAM_READ_BYTES))? == 0 {
                return Poll::Ready(Err(Broken::Truncated));
            }
        }
    }

    /// Whether it is worth while to parse: always at first, and then only when an empty line has come, so that a head
    /// that drips does not cost the square of its length.
    fn may_hold_head(&self) -> bool {
        if self.scanned == 0 {
            return !self.read.is_empty();
        }
        let tail = &self.read[self.scanned.saturating_sub(3)..];
        self.read.len() > self.scanned
            && (self.read.len() >= limits::HEAD_BYTES_MAX
                || tail.windows(2).any(|two| two == b"\n\n")
                || tail.windows(3).any(|three| three == b"\n\r\n"))
    }

    /// Whether a byte of the request has gone out.
    pub fn has_written(&self) -> bool {
        self.out.has_written
    }

    /// Whether a byte of an answer has arrived.
    pub fn has_answer_bytes(&self) -> bool {
        !self.read.is_empty()
    }

    /// The next piece of the answer's body.
    ///
    /// No read has room for more than `room_max`.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        decoder: &mut Decoder,
        room_max: usize,
    ) -> Poll<Result<Piece, Broken>> {
        loop {
            match decoder.decode(&mut self.read)? {
                Step::Data(data) => return Poll::Ready(Ok(Piece::Data(data))),
                Step::Trailers(fields) => return Poll::Ready(Ok(Piece::Trailers(fields))),
                Step::End => return Poll::Ready(Ok(Piece::End)),
                Step::More => {}
            }
            let room = decoder.expects().clamp(limits::UPSTREAM_READ_BYTES, room_max);
            if ready!(self.poll_read(cx, room))? == 0 {
                decoder.ended()?;
            }
        }
    }

    /// The socket, if what comes next of the body can be taken from it directly.
    pub fn socket(&self) -> Option<&TcpStream> {
        match &self.io {
            Stream::Plain(socket) if self.read.is_empty() => Some(socket),
            _ => None,
        }
    }

    /// Whether the answer has ended with what has been read already; hyper then need not ask again.
    pub fn ends_here(&mut self, decoder: &mut Decoder) -> bool {
        decoder.ends_with(&mut self.read)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        self.read.reserve(room);
        pin!(self.io.read_buf(&mut self.read)).poll(cx)
    }
}

impl Out {
    fn is_empty(&self) -> bool {
        self.head.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// One write.
    fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut Stream) -> Poll<io::Result<()>> {
        let mut slices = [IoSlice::new(&[]); 3];
        let mut count = 0;
        for part in [&self.head[..], &self.data[..], self.tail] {
            if !part.is_empty() {
                slices[count] = IoSlice::new(part);
                count += 1;
            }
        }
        let written = match count {
            1 => ready!(Pin::new(io).poll_write(cx, &slices[0]))?,
            _ => ready!(Pin::new(io).poll_write_vectored(cx, &slices[..count]))?,
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.has_written = true;
        self.advance(written);
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        let of_head = written.min(self.head.len());
        if of_head == self.head.len() {
            // Keeps the memory for the next head.
            self.head.clear();
        } else {
            self.head.advance(of_head);
        }
        written -= of_head;
        let of_data = written.min(self.data.len());
        self.data.advance(of_data);
        self.tail = &self.tail[written - of_data..];
    }
}

#[cfg(test)]
mod tests;
