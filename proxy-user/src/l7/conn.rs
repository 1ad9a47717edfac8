// SPDX-License-Identifier: MIT OR Apache-2.0
//! One client connection: its phases, its timeouts, and the end of it.
//!
//! hyper's own header timeout also runs between requests and closes without an answer, so the socket is watched
//! here: a connection is fresh (nothing has arrived), idle (between requests), in a head, or busy with a request.
//! One timer per connection sleeps in steps of the shortest timeout and looks at the phase when it wakes; the
//! request path only stores a phase.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::limits;
use super::metrics::Counters;
use super::proxy_protocol::Peers;
use super::refusal::Refusal;
use super::request::{self, Client};
use super::settings::Timeouts;
use super::worker::Worker;

const FRESH: u8 = 0;
const IDLE: u8 = 1;
const HEAD: u8 = 2;
const BUSY: u8 = 3;

/// Phase of a connection. Atomic only because hyper wants the socket to be `Send`; one thread uses it.
pub struct ConnState {
    born: Instant,
    phase: AtomicU8,
    since_ms: AtomicU64,
    /// When a write first found no room, plus one; 0 while writes get through.
    stalled_ms: AtomicU64,
    /// The answer has no other end than that of the connection.
    ends_with_connection: AtomicBool,
}

enum Expired {
    Quietly,
    Head,
    Stalled,
}

impl ConnState {
    fn new() -> Self {
        ConnState {
            born: Instant::now(),
            phase: AtomicU8::new(FRESH),
            since_ms: AtomicU64::new(0),
            stalled_ms: AtomicU64::new(0),
            ends_with_connection: AtomicBool::new(false),
        }
    }

    /// Whether the answer that begins has no other end than that of the connection.
    pub fn ends_with_connection(&self, it_does: bool) {
        self.ends_with_connection.store(it_does, Relaxed);
    }

    /// A head is complete.
    pub fn request_began(&self) {
        self.phase.store(BUSY, Relaxed);
    }

    /// The response is written or given up.
    pub fn request_ended(&self) {
        self.enter(IDLE);
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Relaxed);
        self.since_ms.store(self.now_ms(), Relaxed);
    }

    fn now_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    fn bytes_arrived(&self) {
        if matches!(self.phase.load(Relaxed), FRESH | IDLE) {
            self.enter(HEAD);
        }
    }

    fn write_went(&self, went: bool) {
        if went {
            self.stalled_ms.store(0, Relaxed);
        } else if self.stalled_ms.load(Relaxed) == 0 {
            self.stalled_ms.store(self.now_ms() + 1, Relaxed);
        }
    }

    /// What has run out, or when to look again.
    fn check(&self, timeouts: &Timeouts) -> Result<Instant, Expired> {
        let now = Instant::now();
        let at = |ms: u64, limit: Duration| self.born + Duration::from_millis(ms) + limit;
        let since = self.since_ms.load(Relaxed);
        let (deadline, expired) = match self.phase.load(Relaxed) {
            FRESH => (at(since, timeouts.http_request), Expired::Quietly),
            IDLE => (at(since, timeouts.http_keep_alive), Expired::Quietly),
            HEAD => (at(since, timeouts.http_request), Expired::Head),
            _ => match self.stalled_ms.load(Relaxed) {
                0 => (now + step(timeouts), Expired::Quietly),
                stalled => (at(stalled, timeouts.client), Expired::Stalled),
            },
        };
        // A phase that begins while we sleep must not end before we wake.
        if now >= deadline {
            Err(expired)
        } else {
            Ok(deadline.min(now + step(timeouts)))
        }
    }
}

fn step(timeouts: &Timeouts) -> Duration {
    timeouts
        .http_request
        .min(timeouts.http_keep_alive)
        .min(timeouts.client)
}

/// The client's socket; what passes through it moves the phase.
struct Watched {
    stream: TcpStream,
    state: Arc<ConnState>,
    counters: Arc<Counters>,
}

impl Watched {
    fn wrote(&self, result: &Poll<std::io::Result<usize>>) {
        self.state.write_went(result.is_ready());
        if let Poll::Ready(Ok(bytes)) = result {
            self.counters.bytes_out.add(*bytes as u64);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            this.state.bytes_arrived();
            this.counters.bytes_in.add(read as u64);
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(&result);
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Serves a connection until it ends.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peers: Peers) {
    let state = Arc::new(ConnState::new());
    let timeouts = worker.shared.settings.timeouts;
    let client = Rc::new(Client::new(worker.clone(), peers, state.clone()));
    let io = TokioIo::new(Watched {
        stream,
        state: state.clone(),
        counters: worker.counters.clone(),
    });
    let service = service_fn(move |request| request::handle(client.clone(), request));
    let conn = http1::Builder::new()
        .half_close(true)
        .max_buf_size(limits::HEAD_BYTES_MAX)
        .max_header_size(limits::HEAD_BYTES_MAX)
        .serve_connection(io, service)
        .with_upgrades();
    let mut conn = Box::pin(conn);
    let mut drain = pin!(worker.drain.notified());
    let mut draining = worker.draining.get();
    if draining {
        conn.as_mut().graceful_shutdown();
    }
    let mut sleep = pin!(tokio::time::sleep(step(&timeouts)));

    let result = poll_fn(|cx| {
        if let Poll::Ready(result) = conn.as_mut().poll(cx) {
            return Poll::Ready(Ok(result));
        }
        if !draining && drain.as_mut().poll(cx).is_ready() {
            draining = true;
            conn.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        while sleep.as_mut().poll(cx).is_ready() {
            match state.check(&timeouts) {
                Ok(next) => sleep.as_mut().reset(next),
                Err(expired) => return Poll::Ready(Err(expired)),
            }
        }
        Poll::Pending
    })
    .await;

    match result {
        Ok(Ok(())) | Err(Expired::Quietly) => {}
        Ok(Err(error)) if error.is_parse_too_large() => worker.counters.refused(Refusal::HeadTooLarge),
        Ok(Err(error)) if error.is_parse() => worker.counters.refused(Refusal::HeadInvalid),
        Ok(Err(error)) => {
            tracing::debug!(%error, "client connection");
            // A plain end would make half an answer look like a whole one.
            if state.ends_with_connection.load(Relaxed)
                && let Some(parts) = Pin::into_inner(conn).into_parts()
            {
                let socket = parts.io.into_inner().stream;
                let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            }
        }
        Err(Expired::Stalled) => worker.counters.refused(Refusal::ClientStalled),
        Err(Expired::Head) => {
            worker.counters.refused(Refusal::HeadTimeout);
            worker.counters.responded(Refusal::HeadTimeout.status());
            if let Some(parts) = Pin::into_inner(conn).into_parts() {
                answer_head_timeout(parts.io.into_inner().stream, step(&timeouts)).await;
            }
        }
    }
}

async fn answer_head_timeout(mut stream: TcpStream, limit: Duration) {
    let page = Refusal::HeadTimeout.page();
    let answer = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len(),
    );
    // The client may be gone; it was told what could be told.
    let _ = tokio::time::timeout(limit, async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}
