// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bodies in both directions, streamed: what the client sends, and what the client gets.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use hyper::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};

use super::access_log::Record;
use super::clock::{self, Alarm};
use super::compress::Encoder;
use super::conn::ConnState;
use super::limits;
use super::refusal::Refusal;
use super::stats::{BytesIn, InProgress};
use super::upstream::h1::Broken;
use super::upstream::response::ResponseBody;

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's side.
    #[error("request body: {}", .0.name())]
    Client(Refusal),
    /// The upstream's side.
    #[error("response body")]
    Upstream(#[source] Broken),
    /// The upstream was silent for too long.
    #[error("response body: nothing arrived in time")]
    UpstreamTimeout,
    /// It cannot be compressed.
    #[error("response body: compression")]
    Encoding(#[source] std::io::Error),
}

/// What is known of a request body while somebody else polls it.
pub struct Progress {
    /// When something last moved.
    pub last: Cell<Instant>,
    /// Waiting for the client, so the upstream is not to blame.
    pub awaits_client: Cell<bool>,
    /// The client's fault, if there is one.
    pub failed: Cell<Option<Refusal>>,
}

/// The request body as the upstream connection sends it.
pub enum ToUpstream {
    /// There is none.
    Empty,
    /// Passed on as it arrives.
    Client(ClientBody),
}

/// Holds a body back until the upstream asks for it, or for [`limits::CONTINUE_WAIT_MAX`].
pub struct Gate {
    state: Arc<GateState>,
    sleep: Pin<Box<Sleep>>,
}

/// The upstream's side of a [`Gate`].
pub struct Opener(Arc<GateState>);

#[derive(Default)]
struct GateState {
    is_open: AtomicBool,
    waker: AtomicWaker,
}

impl Gate {
    /// A closed gate and what opens it.
    pub fn new() -> (Gate, Opener) {
        let state = Arc::new(GateState::default());
        let gate = Gate {
            state: state.clone(),
            sleep: Box::pin(tokio::time::sleep(limits::CONTINUE_WAIT_MAX)),
        };
        (gate, Opener(state))
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.state.waker.register(cx.waker());
        if self.state.is_open.load(Relaxed) {
            return Poll::Ready(());
        }
        self.sleep.as_mut().poll(cx)
    }
}

impl Opener {
    /// The upstream wants the body.
    pub fn open(&self) {
        self.0.is_open.store(true, Relaxed);
        self.0.waker.wake();
    }
}

/// The client's body, watched.
pub struct ClientBody {
    /// Closed while the upstream has not said that it wants the body.
    pub gate: Option<Gate>,
    /// From hyper's server side.
    pub inner: Incoming,
    /// Shared with the request.
    pub progress: Rc<Progress>,
    /// TIMEOUT_CLIENT.
    pub timeout: Duration,
    /// Rings when the client keeps us waiting.
    pub alarm: Alarm,
    /// Since when it does.
    pub waits_since: Option<Instant>,
    /// Counts what arrives.
    pub count: Option<BytesIn>,
    /// What it comes on.
    pub conn: Arc<ConnState>,
    /// It was read to its end.
    pub has_ended: bool,
}

impl Body for ToUpstream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ToUpstream::Empty => Poll::Ready(None),
            ToUpstream::Client(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ToUpstream::Empty => true,
            ToUpstream::Client(body) => body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ToUpstream::Empty => SizeHint::with_exact(0),
            ToUpstream::Client(body) => body.inner.size_hint(),
        }
    }
}

impl ClientBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
            self.progress.last.set(clock::recent());
        }
        let fail = |progress: &Progress, refusal| {
            progress.awaits_client.set(false);
            progress.failed.set(Some(refusal));
            Poll::Ready(Some(Err(BodyError::Client(refusal))))
        };
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waits_since = None;
                self.progress.awaits_client.set(false);
                self.progress.last.set(clock::recent());
                let is_whole = frame.is_none() || self.inner.is_end_stream();
                if is_whole && !std::mem::replace(&mut self.has_ended, true) {
                    self.conn.body_ended();
                }
                match frame {
                    Some(Ok(frame)) => {
                        if let (Some(count), Some(data)) = (&self.count, frame.data_ref()) {
                            count.add(data.len());
                        }
                        Poll::Ready(Some(Ok(frame)))
                    }
                    Some(Err(_)) => fail(&self.progress, Refusal::BodyInvalid),
                    None => Poll::Ready(None),
                }
            }
            Poll::Pending => {
                if self.conn.sends_no_more(cx.waker()) {
                    return fail(&self.progress, Refusal::BodyInvalid);
                }
                self.progress.awaits_client.set(true);
                let since = *self.waits_since.get_or_insert_with(clock::recent);
                ready!(self.alarm.poll(cx, since + self.timeout));
                fail(&self.progress, Refusal::BodyTimeout)
            }
        }
    }
}

/// The response body as the client's connection sends it. Dropping it ends the request.
pub struct Outgoing {
    kind: Kind,
    end: RequestEnd,
    /// Of a piece that is too large to be given at once.
    rest: Bytes,
}

enum Kind {
    Full(Bytes),
    Upstream(ResponseBody),
    Encoded(Box<Encoded>),
}

/// The upstream's body, compressed on its way.
struct Encoded {
    body: ResponseBody,
    encoder: Encoder,
    /// Come after the end of the compressed stream.
    trailers: Option<Frame<Bytes>>,
    has_ended: bool,
}

/// What happens when a request is over, however it ends.
pub struct RequestEnd {
    /// The connection becomes idle.
    pub conn: Arc<ConnState>,
    /// The access log's line.
    pub log: Option<Box<Record>>,
    /// What is counted of the backend that has it.
    pub backend: Option<InProgress>,
    /// Who is to blame if it ends now.
    pub cut_by: Option<Side>,
}

/// A side of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client went away.
    Client,
    /// The service broke off.
    Service,
}

impl Side {
    /// As the log has it.
    pub fn name(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Service => "service",
        }
    }
}

impl Drop for RequestEnd {
    fn drop(&mut self) {
        if self.cut_by == Some(Side::Client) {
            self.conn.client_left();
        }
        self.conn.request_ended();
        if let Some(mut log) = self.log.take() {
            log.cut_by = self.cut_by;
            log.write();
        }
    }
}

impl RequestEnd {
    fn count(&mut self, bytes: usize) {
        if let Some(backend) = &self.backend {
            backend.shard().bytes_out.add(bytes as u64);
        }
        if let Some(log) = &mut self.log {
            log.bytes += bytes as u64;
        }
    }
}

impl Outgoing {
    /// Counts the answer by its status.
    pub fn responded(&self, status: StatusCode) {
        if let Some(backend) = &self.end.backend {
            backend.responded(status);
        }
    }

    /// A body that is known whole.
    pub fn full(bytes: Bytes, end: RequestEnd) -> Self {
        Outgoing {
            kind: Kind::Full(bytes),
            end,
            rest: Bytes::new(),
        }
    }

    /// The upstream's body.
    pub fn upstream(body: ResponseBody, encoder: Option<Encoder>, end: RequestEnd) -> Self {
        let kind = match encoder {
            None => Kind::Upstream(body),
            Some(encoder) => Kind::Encoded(Box::new(Encoded {
                body,
                encoder,
                trailers: None,
                has_ended: false,
            })),
        };
        Outgoing {
            kind,
            end,
            rest: Bytes::new(),
        }
    }
}

impl Encoded {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let data = |bytes| Poll::Ready(Some(Ok(Frame::data(bytes))));
        while !self.has_ended {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => {
                        if let Some(out) = self.encoder.write(&bytes).map_err(BodyError::Encoding)? {
                            return data(out);
                        }
                    }
                    Err(trailers) => {
                        self.trailers = Some(trailers);
                        self.has_ended = true;
                    }
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => self.has_ended = true,
                // The service pauses: the client gets what there is.
                Poll::Pending => match self.encoder.flush().map_err(BodyError::Encoding)? {
                    Some(out) => return data(out),
                    None => return Poll::Pending,
                },
            }
        }
        match self.encoder.finish().map_err(BodyError::Encoding)? {
            Some(out) => data(out),
            None => Poll::Ready(self.trailers.take().map(Ok)),
        }
    }

    fn is_over(&self) -> bool {
        self.has_ended && self.encoder.is_finished() && self.trailers.is_none()
    }
}

impl Outgoing {
    /// What is given of it now. HTTP/1.1 takes any piece as it is; h2 queues what it gets however little the client
    /// takes, and is done with an answer when it has the last piece.
    fn portion(&mut self, mut data: Bytes) -> Bytes {
        if self.end.conn.is_h2() {
            self.end.conn.answer_waits();
            if data.len() > limits::H2_PIECE_BYTES_MAX {
                self.rest = data.split_off(limits::H2_PIECE_BYTES_MAX);
            }
        }
        data
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.is_end_stream() || matches!(self.kind, Kind::Full(_)) {
            self.end.cut_by = None;
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.end.conn.is_h2() {
            this.end.conn.answer_goes_on();
        }
        if !this.rest.is_empty() {
            let rest = std::mem::take(&mut this.rest);
            return Poll::Ready(Some(Ok(Frame::data(this.portion(rest)))));
        }
        let frame = match &mut this.kind {
            Kind::Full(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Kind::Full(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Kind::Upstream(body) => ready!(Pin::new(body).poll_frame(cx)),
            Kind::Encoded(body) => ready!(body.poll(cx)),
        };
        if let Some(Err(error)) = &frame
            && !matches!(error, BodyError::Client(_))
        {
            this.end.cut_by = Some(Side::Service);
        }
        let Some(Ok(frame)) = frame else {
            return Poll::Ready(frame);
        };
        this.end.count(frame.data_ref().map_or(0, Bytes::len));
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => Frame::data(this.portion(data)),
            Err(trailers) => trailers,
        })))
    }

    fn is_end_stream(&self) -> bool {
        let kind_has_ended = match &self.kind {
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Upstream(body) => body.is_end_stream(),
            Kind::Encoded(body) => body.is_over(),
        };
        kind_has_ended && self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Upstream(body) => body.size_hint(),
            Kind::Encoded(_) => SizeHint::default(),
        }
    }
}
