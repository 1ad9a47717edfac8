// SPDX-License-Identifier: MIT OR Apache-2.0
//! One client connection: TLS or not, HTTP/1.1 or HTTP/2, its phases, its timeouts, and the end of it.
//!
//! hyper's own header timeout also runs between requests and closes without an answer, so the socket is watched
//! here: a connection is fresh (nothing has arrived), idle (between requests), in a head, or busy with requests.
//! One timer per connection sleeps in steps of the shortest timeout and looks at the phase when it wakes; the
//! request path only stores a phase.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::StatusCode;
use hyper::header::HeaderMap;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::clock;
use super::limits;
use super::listen::Entry;
use super::metrics::Counters;
use super::passage::Passage;
use super::proxy_protocol::Peers;
use super::refusal::Refusal;
use super::request::Client;
use super::settings::Timeouts;
use super::tls::Handshake;
use super::worker::Worker;

mod early;
mod h1;
mod h2;
mod meter;
mod sent;
mod stream;
mod waiting;
mod watched;

use early::Early;
#[cfg(test)]
pub use watched::PREFACE;
use watched::Transport;

const FRESH: u8 = 0;
const IDLE: u8 = 1;
const HEAD: u8 = 2;
const BUSY: u8 = 3;

/// In its turn, an answer of HTTP/2 was not asked for anything,
const UNASKED: u8 = 0;
/// was asked and has nothing yet,
const ASKED: u8 = 1;
/// or has given something.
const GIVEN: u8 = 2;

/// Phase of a connection. Atomic only because hyper wants the socket to be `Send`; one thread uses it.
pub struct ConnState {
    born: Instant,
    phase: AtomicU8,
    since_ms: AtomicU64,
    /// Requests that are not answered to their end.
    requests: AtomicU32,
    /// When a write first found no room, plus one; 0 while writes get through.
    stalled_ms: AtomicU64,
    /// The answer has no other end than that of the connection.
    ends_with_connection: AtomicBool,
    is_h2: AtomicBool,
    /// When a head began that is not complete, plus one; HTTP/2 only, where others may go on beside it.
    head_ms: AtomicU64,
    /// What the answer of HTTP/2 whose turn it is waits for.
    turn: AtomicU8,
    /// Streams of HTTP/2 were reset by the client, or for its mistakes.
    had_resets: AtomicBool,
    /// Why it is ended, as an index of [`Refusal::ALL`], plus one.
    ended_for: AtomicUsize,
    /// Bodies of requests of HTTP/1.1 that were not read to their end.
    open_bodies: AtomicU32,
    /// Everything that hyper had to write has been written.
    is_flushed: AtomicBool,
    /// The client sends no more, and hyper has not been told.
    end_is_hidden: AtomicBool,
    /// Bytes pass as they are.
    is_tunnel: AtomicBool,
    /// Whoever waits for more of a request's body.
    body_waits: AtomicWaker,
    /// Answers of class 1xx on their way.
    early: Early,
    knows_early: AtomicBool,
    /// Bytes leave as they are: there is no TLS.
    is_plain: bool,
    /// For large answers.
    pub passage: Passage,
    counters: Arc<Counters>,
}

enum Expired {
    Quietly,
    Head,
    Stalled,
}

impl ConnState {
    fn new(is_h2: bool, is_plain: bool, counters: Arc<Counters>) -> Self {
        ConnState {
            born: clock::recent(),
            phase: AtomicU8::new(FRESH),
            since_ms: AtomicU64::new(0),
            requests: AtomicU32::new(0),
            stalled_ms: AtomicU64::new(0),
            ends_with_connection: AtomicBool::new(false),
            is_h2: AtomicBool::new(is_h2),
            head_ms: AtomicU64::new(0),
            turn: AtomicU8::new(UNASKED),
            had_resets: AtomicBool::new(false),
            ended_for: AtomicUsize::new(0),
            open_bodies: AtomicU32::new(0),
            is_flushed: AtomicBool::new(true),
            end_is_hidden: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            body_waits: AtomicWaker::new(),
            early: Early::default(),
            knows_early: AtomicBool::new(false),
            is_plain,
            passage: Passage::default(),
            counters,
        }
    }

    /// Whether it speaks HTTP/2.
    pub fn is_h2(&self) -> bool {
        self.is_h2.load(Relaxed)
    }

    /// Whether an answer may pass through [`ConnState::passage`].
    pub fn passes(&self) -> bool {
        self.is_plain && !self.is_h2()
    }

    fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Relaxed)
    }

    /// Whether the answer that begins has no other end than that of the connection.
    pub fn ends_with_connection(&self, it_does: bool) {
        self.ends_with_connection.store(it_does, Relaxed);
    }

    /// A head is complete.
    pub fn request_began(&self) {
        self.requests.store(self.requests.load(Relaxed) + 1, Relaxed);
        self.phase.store(BUSY, Relaxed);
    }

    /// The response is written or given up.
    pub fn request_ended(&self) {
        let left = self.requests.load(Relaxed).saturating_sub(1);
        self.requests.store(left, Relaxed);
        if left == 0 {
            self.enter(IDLE);
        }
    }

    /// The client went away before its request was answered to its end.
    pub fn client_left(&self) {
        if self.ended_for().is_none() {
            self.counters.refused(Refusal::ClientLeft);
        }
    }

    /// The connection is no longer HTTP's.
    pub fn becomes_tunnel(&self) {
        self.is_tunnel.store(true, Relaxed);
    }

    /// Whether the request came in a protocol that knows answers before the answer; HTTP/1.0 does not (RFC 9110 §15.2).
    pub fn knows_early(&self, it_does: bool) {
        self.knows_early.store(it_does, Relaxed);
    }

    /// An answer of class 1xx for the client, if its protocol knows any. Only between [`ConnState::request_began`] and
    /// [`ConnState::answer_begins`].
    pub fn early_answer(&self, status: StatusCode, headers: &HeaderMap) {
        if self.knows_early.load(Relaxed) {
            self.early.push(status, headers);
        }
    }

    /// The answer itself is there. What could not be written before it is dropped: behind it, it would belong to the
    /// next request.
    pub fn answer_begins(&self) {
        if !self.is_flushed.load(Relaxed) {
            self.early.clear();
        }
    }

    /// Whether the client sends no more. `waker` is told when it does not.
    pub fn sends_no_more(&self, waker: &Waker) -> bool {
        self.body_waits.register(waker);
        self.end_is_hidden.load(Relaxed)
    }

    /// Whether hyper must not know that the client sends no more: it would take that for the end of everything, but a
    /// client may half-close and still wait for its answer (RFC 9112 §9.6). A reset is another matter.
    fn hides_end(&self) -> bool {
        let is_waited_for = self.phase.load(Relaxed) == BUSY || !self.is_flushed.load(Relaxed);
        let hides = is_waited_for && !self.is_h2() && !self.is_tunnel.load(Relaxed);
        if hides {
            self.end_is_hidden.store(true, Relaxed);
            self.body_waits.wake();
        }
        hides
    }

    /// Whether the end that was hidden can be told now; nobody else would.
    fn end_is_due(&self) -> bool {
        self.end_is_hidden.load(Relaxed)
            && self.phase.load(Relaxed) != BUSY
            && self.is_flushed.load(Relaxed)
            && self.end_is_hidden.swap(false, Relaxed)
    }

    /// An answer has given something and waits until the client can take more.
    pub fn answer_waits(&self) {
        self.turn.store(GIVEN, Relaxed);
    }

    /// It was asked for more.
    pub fn answer_goes_on(&self) {
        self.turn.store(ASKED, Relaxed);
    }

    fn reset_passed(&self) {
        self.had_resets.store(true, Relaxed);
    }

    fn had_resets(&self) -> bool {
        self.had_resets.load(Relaxed)
    }

    fn end_for(&self, refusal: Refusal) {
        self.ended_for.store(refusal as usize + 1, Relaxed);
    }

    fn ended_for(&self) -> Option<Refusal> {
        let index = self.ended_for.load(Relaxed).checked_sub(1)?;
        Refusal::ALL.get(index).copied()
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Relaxed);
        self.since_ms.store(self.now_ms(), Relaxed);
    }

    fn now_ms(&self) -> u64 {
        (clock::recent() - self.born).as_millis() as u64
    }

    fn bytes_arrived(&self) {
        if !self.is_h2() && matches!(self.phase.load(Relaxed), FRESH | IDLE) {
            self.enter(HEAD);
        }
    }

    /// A request has a body.
    fn body_began(&self) {
        self.open_bodies
            .store(self.open_bodies.load(Relaxed) + 1, Relaxed);
    }

    /// It was read to its end. One that was dropped before stays open for good: only hyper knows what comes next.
    pub fn body_ended(&self) {
        let left = self.open_bodies.load(Relaxed).saturating_sub(1);
        self.open_bodies.store(left, Relaxed);
    }

    /// Whether nothing has happened for [`limits::PARK_AFTER`], and what comes next is a head or more of one.
    fn is_quiet(&self) -> bool {
        let for_ms = self.now_ms().saturating_sub(self.since_ms.load(Relaxed));
        matches!(self.phase.load(Relaxed), IDLE | HEAD)
            && self.is_flushed.load(Relaxed)
            && self.open_bodies.load(Relaxed) == 0
            && for_ms >= limits::PARK_AFTER.as_millis() as u64
    }

    fn head_is_open(&self, is_open: bool) {
        let since = if is_open { self.now_ms() + 1 } else { 0 };
        self.head_ms.store(since, Relaxed);
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
        let head = self.head_ms.load(Relaxed);
        if head > 0 && now >= at(head, timeouts.http_request) {
            return Err(Expired::Head);
        }
        let (deadline, expired) = match self.phase.load(Relaxed) {
            // Browsers open connections of HTTP/2 in advance.
            FRESH if self.is_h2() => (at(since, timeouts.http_keep_alive), Expired::Quietly),
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

/// Serves a connection until it ends.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peers: Peers, entry: Entry) {
    let tls = worker.shared.tls.as_ref().filter(|tls| entry.tls && tls.is_on());
    let Some(tls) = tls else {
        return speak(worker, stream, peers, None).await;
    };
    // Boxed, so that the others do not hold room for it.
    match Box::pin(tls.accept(&worker, stream)).await {
        Ok(accepted) => {
            let handshake = Some(accepted.handshake);
            Box::pin(speak(worker.clone(), accepted.stream, peers, handshake)).await;
        }
        Err(refusal) => worker.counters.refused(refusal),
    }
}

/// HTTP/2 where ALPN says so, or where a client without TLS knows that it may.
async fn speak<T: Transport>(worker: Rc<Worker>, stream: T, peers: Peers, handshake: Option<Handshake>) {
    let is_h2 = handshake.is_some_and(|handshake| handshake.is_h2);
    let knows_before = handshake.is_none() && worker.shared.settings.tls.h2;
    let state = Arc::new(ConnState::new(
        is_h2,
        handshake.is_none(),
        worker.counters.clone(),
    ));
    let client = Rc::new(Client::new(worker.clone(), peers, handshake, state.clone()));
    let stream = watched::Watched::new(
        stream,
        state.clone(),
        worker.counters.clone(),
        is_h2,
        knows_before,
    );
    let left = match is_h2 {
        true => Some(stream),
        false => h1::serve(&worker, stream, client.clone(), &state).await,
    };
    if let Some(stream) = left {
        Box::pin(h2::serve(&worker, stream.into_h2(), client, &state)).await;
    }
}

fn count_expired(worker: &Worker, expired: &Expired) {
    match expired {
        Expired::Quietly => {}
        Expired::Stalled => worker.counters.refused(Refusal::ClientStalled),
        Expired::Head => worker.counters.refused(Refusal::HeadTimeout),
    }
}
