// SPDX-License-Identifier: MIT OR Apache-2.0
//! One request to one task, or to another when that is harmless.
//!
//! What may be sent again: a request of which nothing was written; and, as long as not a byte of an answer has come, one
//! without a body whose method is idempotent (RFC 9110 §9.2.2). A kept connection that turns out to be dead says nothing
//! about its task, so that repetition is free and goes over a fresh connection; every other one is another task's, and
//! the budget's.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::{request, response};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::balance::{self, Balance, HashKey};
use super::group::{Group, Lease, Leased, Pick};
use super::h1::head::{Framing, Head};
use super::h1::{Broken, Sending};
use super::h2::Part;
use super::io::Stream;
use super::queue::Turn;
use super::response::{ResponseBody, Wait};
use super::task::{Busy, Task};
use crate::l7::body::{Opener, Progress, ToUpstream};
use crate::l7::clock::{self, Alarm};
use crate::l7::limits;
use crate::l7::proxy_protocol::Peers;
use crate::l7::refusal::Refusal;
use crate::l7::stats::InProgress;
use crate::l7::worker::Worker;

/// A request, ready to be sent.
pub struct Call<'a> {
    /// The worker whose request it is.
    pub worker: &'a Rc<Worker>,
    /// The head, without anything that belongs to a connection.
    pub head: request::Parts,
    /// The host that the client asked for, for HTTP/2.
    pub host: &'a str,
    /// The protocol that the client wants to change to.
    pub upgrade: Option<&'a HeaderValue>,
    /// The body; taken when it is sent.
    pub body: Option<ToUpstream>,
    /// What is known of the body, if there is one.
    pub progress: Option<Rc<Progress>>,
    /// Opens the body's gate.
    pub opener: Option<Opener>,
    /// The client, and the address that it used.
    pub peers: Peers,
    /// Whether connections are used for another request.
    pub keep_alive: bool,
    /// How long a task may be silent.
    pub timeout: Duration,
    /// Told of answers before the answer, but not of 100.
    pub early: &'a dyn Fn(StatusCode, &HeaderMap),
    /// Where it is counted.
    pub backend: Option<&'a InProgress>,
}

impl Call<'_> {
    fn tried_again(&self, group: &Group, times: usize, is_elsewhere: bool) {
        if let Some(backend) = self.backend.filter(|_| times > 0) {
            backend.tried_again(times, is_elsewhere && group.has_others());
        }
    }
}

/// What a task answered.
pub struct Reply {
    /// The head.
    pub parts: response::Parts,
    /// What follows it.
    pub rest: Rest,
    /// The task that the client's session belongs to from now on, if that has changed.
    pub session: Option<u64>,
}

/// What follows a head.
pub enum Rest {
    /// A body.
    Body(ResponseBody),
    /// The connection, for another protocol: its bytes, those that came already, and what counts it.
    Tunnel(Stream, Bytes, (Busy, Turn)),
}

/// Why there was no answer.
struct Failure {
    refusal: Refusal,
    /// No byte of the request was accepted.
    is_unsent: bool,
    /// A byte of an answer came, or the client is to blame: nothing may be repeated.
    is_final: bool,
}

/// Sends a request and waits for the head of the answer.
pub async fn send(group: &Rc<Group>, call: &mut Call<'_>) -> Result<Reply, Refusal> {
    let backend = call.backend;
    let waits = || backend.map(InProgress::waits);
    let turn = group.queue.enter(waits).await?;
    let pick = pick(group, call);
    group.budget.deposit();
    let (mut tried, mut fresh, mut retries) = (Vec::new(), false, 0);
    loop {
        let before = tried.len();
        let leased = group.lease(call.worker, pick, &mut tried, fresh).await;
        call.tried_again(group, tried.len() - before, true);
        let leased = leased?;
        let task = leased.task().clone();
        let was_reused = matches!(&leased, Leased::H1(lease) if lease.is_reused);
        if was_reused {
            call.worker.counters.upstream_reuses.up();
        }
        let outcome = match leased {
            Leased::H1(lease) => over_h1(lease, call, group).await,
            Leased::H2(part, busy) => Box::pin(over_h2(part, busy, call, group)).await,
        };
        let failure = match outcome {
            Ok(answered) => {
                group.judge(&task, is_well(answered.status()), call.worker);
                return answered.into_reply(turn, call, session(group, &pick, &task));
            }
            Err(failure) => failure,
        };
        let is_harmless = !failure.is_final
            && call.body.is_some()
            && (failure.is_unsent
                || matches!(call.body, Some(ToUpstream::Empty)) && call.head.method.is_idempotent());
        if was_reused && is_harmless {
            fresh = true;
            call.worker.counters.upstream_retries.up();
            call.tried_again(group, 1, false);
            continue;
        }
        if !matches!(failure.refusal, Refusal::BodyInvalid | Refusal::BodyTimeout) {
            group.judge(&task, false, call.worker);
        }
        if !is_harmless || retries >= group.target.retries {
            return Err(failure.refusal);
        }
        if !group.budget.withdraw(Instant::now()) {
            call.worker.counters.upstream_retries_denied.up();
            return Err(failure.refusal);
        }
        retries += 1;
        call.worker.counters.upstream_retries.up();
        call.tried_again(group, 1, true);
        tried.push(task);
    }
}

/// An answer that no healthy task gives.
fn is_well(status: StatusCode) -> bool {
    !matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

fn pick(group: &Group, call: &mut Call<'_>) -> Pick {
    let mut pick = Pick {
        peers: Some(call.peers),
        ..Pick::default()
    };
    if let Balance::Hash(key) = &group.target.balance {
        let field = match key {
            HashKey::Header(name) => call.head.headers.get(name),
            HashKey::Client => None,
        };
        pick.key = match (field, call.peers.client.ip().to_canonical()) {
            (Some(value), _) => balance::key(value.as_bytes()),
            (None, std::net::IpAddr::V4(ip)) => balance::key(&ip.octets()),
            (None, std::net::IpAddr::V6(ip)) => balance::key(&ip.octets()),
        };
    }
    if let Some(sticky) = &group.target.sticky {
        pick.session = sticky.take(&mut call.head.headers);
    }
    pick
}

/// The session that the client must be told of.
fn session(group: &Group, pick: &Pick, task: &Task) -> Option<u64> {
    let has_changed = group.target.sticky.is_some() && pick.session != Some(task.token);
    has_changed.then_some(task.token)
}

/// A head, and where the rest of the answer is.
enum Answered {
    H1(Head, Lease, Option<Box<Sending>>),
    H2(response::Parts, hyper::body::Incoming, Part, Busy),
}

impl Answered {
    fn status(&self) -> StatusCode {
        match self {
            Answered::H1(head, ..) => head.status,
            Answered::H2(parts, ..) => parts.status,
        }
    }

    fn into_reply(self, turn: Turn, call: &Call<'_>, session: Option<u64>) -> Result<Reply, Refusal> {
        let wait = Wait {
            timeout: call.timeout,
            progress: call.progress.clone(),
        };
        let (parts, rest) = match self {
            Answered::H2(parts, body, part, busy) => {
                (parts, Rest::Body(ResponseBody::h2(body, part, busy, turn, wait)))
            }
            Answered::H1(head, lease, sending) => {
                let (mut parts, ()) = Response::new(()).into_parts();
                parts.status = head.status;
                parts.headers = head.headers;
                let rest = if head.status == StatusCode::SWITCHING_PROTOCOLS {
                    if call.upgrade.is_none() {
                        return Err(Refusal::UpstreamInvalid);
                    }
                    let (stream, read, busy) = lease.into_stream();
                    Rest::Tunnel(stream, read, (busy, turn))
                } else {
                    let keeps = head.keeps && call.keep_alive;
                    Rest::Body(ResponseBody::h1(lease, head.body, sending, keeps, turn, wait))
                };
                (parts, rest)
            }
        };
        Ok(Reply { parts, rest, session })
    }
}

/// How a body of this size is framed. Methods that usually have one say so when there is none (RFC 9110 §8.6).
fn framing(method: &Method, body: &ToUpstream) -> Framing {
    let usually_has_body = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
    match body.size_hint().exact() {
        Some(0) if usually_has_body => Framing::Length(0),
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

async fn over_h1(mut lease: Lease, call: &mut Call<'_>, group: &Group) -> Result<Answered, Failure> {
    let body = call.body.take().unwrap_or(ToUpstream::Empty);
    let framing = framing(&call.head.method, &body);
    let upgrade = call.upgrade.map(HeaderValue::as_bytes);
    lease.conn.h1.begin(&call.head, framing, upgrade);
    let mut sending = Sending::new(body, framing);
    let mut alarm = std::mem::take(&mut lease.conn.alarm);
    let mut exchange = Exchange {
        lease: &mut lease,
        sending: &mut sending,
        is_sent: false,
        early_left: limits::EARLY_ANSWERS_MAX,
        recycled: HeaderMap::new(),
    };
    let limit = group.target.timeout_response.unwrap_or(call.timeout);
    let progress = call.progress.as_deref();
    let head = until_silent(|cx| exchange.poll(cx, call), progress, limit, &mut alarm).await;
    let is_sent = exchange.is_sent;
    let broken = match head {
        Some(Ok(head)) => {
            lease.conn.alarm = alarm;
            let rest = (!is_sent).then(|| Box::new(sending));
            return Ok(Answered::H1(head, lease, rest));
        }
        Some(Err(broken)) => broken,
        None => return Err(Failure::last(Refusal::UpstreamTimeout)),
    };
    tracing::debug!(%broken, "upstream");
    if let Broken::Client(refusal) = broken {
        return Err(Failure::last(refusal));
    }
    let failure = Failure {
        refusal: Refusal::UpstreamInvalid,
        is_unsent: !lease.conn.h1.has_written(),
        is_final: lease.conn.h1.has_answer_bytes() || matches!(broken, Broken::Invalid(_)),
    };
    if !sending.has_started() {
        call.body = Some(sending.into_body());
    }
    Err(failure)
}

impl Failure {
    fn last(refusal: Refusal) -> Self {
        Failure {
            refusal,
            is_unsent: false,
            is_final: true,
        }
    }
}

/// A request going out and an answer coming in.
struct Exchange<'a> {
    lease: &'a mut Lease,
    sending: &'a mut Sending,
    is_sent: bool,
    early_left: u32,
    recycled: HeaderMap,
}

impl Exchange<'_> {
    fn poll(&mut self, cx: &mut Context<'_>, call: &Call<'_>) -> Poll<Result<Head, Broken>> {
        let h1 = &mut self.lease.conn.h1;
        let mut unwritable = None;
        if !self.is_sent {
            match h1.poll_send(cx, self.sending) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.is_sent = true,
                Poll::Ready(Err(Broken::Client(refusal))) => {
                    return Poll::Ready(Err(Broken::Client(refusal)));
                }
                // It may have answered before it stopped to listen.
                Poll::Ready(Err(broken)) => unwritable = Some(broken),
            }
        }
        loop {
            let head = match h1.poll_head(cx, &call.head.method, &mut self.recycled) {
                Poll::Ready(Ok(head)) => head,
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(unwritable.unwrap_or(broken))),
                Poll::Pending => return unwritable.map_or(Poll::Pending, |broken| Poll::Ready(Err(broken))),
            };
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Ok(head));
            }
            if self.early_left == 0 {
                return Poll::Ready(Err(Broken::Invalid("too many answers before the answer")));
            }
            self.early_left -= 1;
            if head.status == StatusCode::CONTINUE {
                if let Some(opener) = &call.opener {
                    opener.open();
                }
            } else {
                (call.early)(head.status, &head.headers);
            }
        }
    }
}

async fn over_h2(
    mut part: Part,
    busy: Busy,
    call: &mut Call<'_>,
    group: &Group,
) -> Result<Answered, Failure> {
    let body = call.body.take().unwrap_or(ToUpstream::Empty);
    let is_empty = matches!(body, ToUpstream::Empty);
    let head = h2_head(&call.head, call.host, group)?;
    let request = Request::from_parts(head, body);
    let sent = {
        let mut answer = pin!(part.sender.try_send_request(request));
        let progress = call.progress.as_deref();
        let limit = group.target.timeout_response.unwrap_or(call.timeout);
        until_silent(
            |cx| answer.as_mut().poll(cx),
            progress,
            limit,
            &mut Alarm::default(),
        )
        .await
    };
    let mut error = match sent {
        Some(Ok(response)) => {
            let (parts, body) = response.into_parts();
            return Ok(Answered::H2(parts, body, part, busy));
        }
        Some(Err(error)) => error,
        None => return Err(Failure::last(Refusal::UpstreamTimeout)),
    };
    let unsent = error.take_message();
    let error = error.into_error();
    tracing::debug!(%error, "upstream");
    if let Some(refusal) = call.progress.as_ref().and_then(|progress| progress.failed.get()) {
        return Err(Failure::last(refusal));
    }
    let is_unsent = unsent.is_some();
    call.body = match unsent {
        Some(request) => Some(request.into_body()),
        None => is_empty.then_some(ToUpstream::Empty),
    };
    Err(Failure {
        refusal: Refusal::UpstreamInvalid,
        is_unsent,
        is_final: false,
    })
}

/// The head as HTTP/2 has it: the host in the target, and nothing of a connection.
fn h2_head(head: &request::Parts, host: &str, group: &Group) -> Result<request::Parts, Failure> {
    let wrong = || Failure::last(Refusal::HostInvalid);
    let host = match (head.headers.get(header::HOST), host) {
        (Some(host), _) => host.to_str().map_err(|_| wrong())?,
        (None, "") => &group.target.host,
        (None, host) => host,
    };
    let (mut parts, ()) = Request::new(()).into_parts();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    parts.uri = Uri::builder()
        .scheme(group.target.scheme())
        .authority(host)
        .path_and_query(target)
        .build()
        .map_err(|_| wrong())?;
    parts.method = head.method.clone();
    parts.version = Version::HTTP_2;
    parts.headers = head.headers.clone();
    parts.headers.remove(header::HOST);
    Ok(parts)
}

/// The output of `poll`, or none when the task has been silent for `limit`. A client that is slow with its body is not
/// the task's silence.
async fn until_silent<T>(
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    progress: Option<&Progress>,
    limit: Duration,
    alarm: &mut Alarm,
) -> Option<T> {
    let began = clock::recent();
    poll_fn(|cx| {
        if let Poll::Ready(output) = poll(cx) {
            return Poll::Ready(Some(output));
        }
        let since = match progress {
            Some(progress) if progress.awaits_client.get() => clock::recent(),
            Some(progress) => progress.last.get().max(began),
            None => began,
        };
        alarm.poll(cx, since + limit).map(|()| None)
    })
    .await
}
