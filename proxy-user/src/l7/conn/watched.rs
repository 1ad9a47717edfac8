// SPDX-License-Identifier: MIT OR Apache-2.0
//! The client's socket as hyper reads and writes it; what passes moves the connection's phase.
//!
//! What was read before hyper got the connection (`waiting`) comes first.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::meter::Meter;
use super::{ConnState, Relaxed};
use crate::l7::later::Later;
use crate::l7::limits;
use crate::l7::metrics::Counters;
use crate::l7::passage::stands_in;

/// What every connection of HTTP/2 begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream of bytes over a socket.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether its end has to be said before the socket is closed.
    const SAYS_GOODBYE: bool;

    /// The socket itself.
    fn socket(&self) -> &TcpStream;
}

impl Transport for TcpStream {
    const SAYS_GOODBYE: bool = false;

    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Transport for TlsStream<TcpStream> {
    const SAYS_GOODBYE: bool = true;

    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A watched stream.
pub struct Watched<T> {
    /// Itself.
    pub stream: T,
    pub(super) state: Arc<ConnState>,
    counters: Arc<Counters>,
    /// Nothing but a beginning of the preface of HTTP/2 has arrived, and it may be one.
    pub(super) sniffs: bool,
    /// Read, and not passed on yet.
    pub(super) before: Vec<u8>,
    meter: Option<Box<Meter>>,
    /// The first write of an answer.
    later: Later,
}

impl<T> Watched<T> {
    /// A stream of which nothing was read.
    pub fn new(
        stream: T,
        state: Arc<ConnState>,
        counters: Arc<Counters>,
        is_h2: bool,
        knows_before: bool,
    ) -> Self {
        Watched {
            stream,
            state,
            counters,
            sniffs: knows_before && !is_h2,
            before: Vec::new(),
            meter: None,
            later: Later::default(),
        }
    }

    /// The same, its frames counted from here.
    pub fn into_h2(mut self) -> Self {
        self.meter = Some(Box::default());
        self
    }
}

impl<T: Transport> Watched<T> {
    fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.before.len().min(buf.remaining());
        buf.put_slice(&self.before[..length]);
        match length == self.before.len() {
            true => self.before = Vec::new(),
            false => drop(self.before.drain(..length)),
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> AsyncRead for Watched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let from = buf.filled().len();
        ready!(this.read(cx, buf))?;
        let new = &mut buf.filled_mut()[from..];
        if !new.is_empty() {
            this.state.bytes_arrived();
            this.counters.bytes_in.add(new.len() as u64);
        } else if this.state.hides_end() {
            return Poll::Pending;
        }
        if let Some(meter) = &mut this.meter
            && let Err(refusal) = meter.read(new, &this.state)
        {
            this.state.end_for(refusal);
            return Poll::Ready(Err(io::Error::other(refusal.name())));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Transport> AsyncWrite for Watched<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.write_early(cx))?;
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(&result, &[io::IoSlice::new(buf)]);
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.write_early(cx))?;
        if this.state.is_flushed.swap(false, Relaxed) || this.later.waits() {
            ready!(this.later.poll(cx));
        }
        let bufs = match this.state.passage.holds() {
            true => this.before_pipe(bufs),
            false => bufs,
        };
        let length = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let result = if bufs.first().is_some_and(|buf| stands_in(buf)) {
            let poured = this.state.passage.poll_pour(cx, this.stream.socket(), length);
            if let Poll::Ready(Ok(bytes)) = poured {
                this.counters.bytes_passed.add(bytes as u64);
            }
            poured
        } else if length <= limits::WRITE_JOINED_MAX {
            let (mut joined, mut end) = ([0; limits::WRITE_JOINED_MAX], 0);
            for buf in bufs {
                joined[end..end + buf.len()].copy_from_slice(buf);
                end += buf.len();
            }
            Pin::new(&mut this.stream).poll_write(cx, &joined[..length])
        } else {
            Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
        };
        this.wrote(&result, bufs);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes when it has written everything.
        this.state.is_flushed.store(true, Relaxed);
        ready!(this.write_early(cx))?;
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.state.is_flushed.store(flushed.is_ready(), Relaxed);
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever shuts down closes next, which says the same; only a tunnel goes on in the other direction.
        if !T::SAYS_GOODBYE && !self.state.is_tunnel() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<T: Transport> Watched<T> {
    /// Writes what comes before the answer, if nothing of hyper's is half written.
    fn write_early(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.state.early.waits() || !self.state.is_flushed.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut bytes = self.state.early.take();
        while !bytes.is_empty() {
            let result = Pin::new(&mut self.stream).poll_write(cx, &bytes);
            self.note(&result);
            match result {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => bytes.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.state.early.put_back(bytes);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T> Watched<T> {
    /// What is to be written first: bytes, or one piece that is in the pipe.
    fn before_pipe<'a, 'b>(&self, bufs: &'a [io::IoSlice<'b>]) -> &'a [io::IoSlice<'b>] {
        let from = bufs.iter().position(|buf| !buf.is_empty()).unwrap_or(0);
        let bufs = &bufs[from..];
        match bufs.iter().position(|buf| !buf.is_empty() && stands_in(buf)) {
            Some(0) => &bufs[..1],
            Some(at) => &bufs[..at],
            None => bufs,
        }
    }

    fn wrote(&mut self, result: &Poll<io::Result<usize>>, bufs: &[io::IoSlice<'_>]) {
        self.state.is_flushed.store(false, Relaxed);
        self.note(result);
        if let (Some(meter), Poll::Ready(Ok(bytes))) = (&mut self.meter, result) {
            let (counters, state) = (&self.counters, &self.state);
            meter.wrote(bufs, *bytes, |refusal| {
                state.reset_passed();
                counters.refused(refusal);
            });
        }
    }

    fn note(&mut self, result: &Poll<io::Result<usize>>) {
        self.state.write_went(result.is_ready());
        if let Poll::Ready(Ok(bytes)) = result {
            self.counters.bytes_out.add(*bytes as u64);
        }
    }
}
