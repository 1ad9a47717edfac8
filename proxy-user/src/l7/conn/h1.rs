// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection of HTTP/1.1.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, Waker};
use std::time::Duration;

use hyper::Request;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, Sleep};

use super::waiting::{Came, wait};
use super::watched::{Transport, Watched};
use super::{ConnState, Expired, count_expired, step};
use crate::l7::limits;
use crate::l7::refusal::Refusal;
use crate::l7::request::{self, Client};
use crate::l7::worker::Worker;

enum End {
    Over(hyper::Result<()>),
    Expired(Expired),
    /// Nothing has happened for a while.
    Idle,
}

/// Serves a connection until it ends, or gives it back: it is HTTP/2's.
pub async fn serve<T: Transport>(
    worker: &Worker,
    mut stream: Watched<T>,
    client: Rc<Client>,
    state: &ConnState,
) -> Option<Watched<T>> {
    let mut drain = pin!(worker.drain.notified());
    let mut sleep = pin!(tokio::time::sleep(step(&worker.shared.settings.timeouts)));
    loop {
        match wait(worker, &mut stream, state, sleep.as_mut(), drain.as_mut()).await {
            Came::Head => {}
            Came::H2 => return Some(stream),
            Came::End => return None,
            Came::Expired(expired) => {
                expire(worker, state, expired, Some(stream)).await;
                return None;
            }
        }
        stream = speak(
            worker,
            stream,
            client.clone(),
            state,
            sleep.as_mut(),
            drain.as_mut(),
        )
        .await?;
    }
}

/// Lets hyper have it, until it ends or is idle; then it is given back.
async fn speak<T: Transport>(
    worker: &Worker,
    stream: Watched<T>,
    client: Rc<Client>,
    state: &ConnState,
    mut sleep: Pin<&mut Sleep>,
    mut drain: Pin<&mut Notified<'_>>,
) -> Option<Watched<T>> {
    let timeouts = worker.shared.settings.timeouts;
    let service = service_fn(move |request: Request<Incoming>| {
        // At once and not when the future is polled: hyper reads on before that, and may find the end.
        client.state.request_began();
        if !request.body().is_end_stream() {
            client.state.body_began();
        }
        request::handle(client.clone(), request)
    });
    let conn = http1::Builder::new()
        .max_buf_size(limits::HEAD_BYTES_MAX)
        .max_header_size(limits::HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut conn = Box::pin(conn);
    let mut draining = false;
    let mut waker: Option<Waker> = None;
    sleep
        .as_mut()
        .reset(Instant::now() + limits::PARK_AFTER.min(step(&timeouts)));

    let end = poll_fn(|cx| {
        if let Poll::Ready(result) = conn.as_mut().poll(cx) {
            return Poll::Ready(End::Over(result));
        }
        if state.end_is_due()
            && let Poll::Ready(result) = conn.as_mut().poll(cx)
        {
            return Poll::Ready(End::Over(result));
        }
        // Both know whom to wake from the first look on; after that, looking costs more than what they would say.
        let is_known = waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if !is_known {
            waker = Some(cx.waker().clone());
        }
        // Told after it was polled: what has been read of a head is not dropped.
        if !draining && (worker.draining.get() || !is_known && drain.as_mut().poll(cx).is_ready()) {
            draining = true;
            conn.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        while (!is_known || sleep.is_elapsed()) && sleep.as_mut().poll(cx).is_ready() {
            match state.check(&timeouts) {
                Ok(_) if !draining && state.is_quiet() => return Poll::Ready(End::Idle),
                Ok(next) => {
                    sleep
                        .as_mut()
                        .reset(next.min(Instant::now() + limits::PARK_AFTER));
                    // Registers, or rings at once.
                    if sleep.as_mut().poll(cx).is_pending() {
                        break;
                    }
                }
                Err(expired) => return Poll::Ready(End::Expired(expired)),
            }
        }
        Poll::Pending
    })
    .await;

    let parts = move || Pin::into_inner(conn).into_parts();
    match end {
        End::Over(Ok(())) => {}
        End::Over(Err(error)) if error.is_parse_too_large() => worker.counters.refused(Refusal::HeadTooLarge),
        End::Over(Err(error)) if error.is_parse() => worker.counters.refused(Refusal::HeadInvalid),
        End::Over(Err(error)) => {
            tracing::debug!(%error, "client connection");
            // A plain end would make half an answer look like a whole one.
            if state.ends_with_connection.load(Relaxed)
                && let Some(parts) = parts()
            {
                let socket = socket2::SockRef::from(parts.io.inner().stream.socket());
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
        }
        End::Expired(expired) => {
            // Before the answer is dropped, which would say that the client left.
            state.end_for(Refusal::ClientStalled);
            let stream = parts().map(|parts| parts.io.into_inner());
            expire(worker, state, expired, stream).await;
        }
        End::Idle => {
            worker.counters.parked.up();
            let parts = parts()?;
            let mut stream = parts.io.into_inner();
            // What hyper has read of a head, and then what it has not asked for.
            if !parts.read_buf.is_empty() {
                stream.before.splice(..0, parts.read_buf);
            }
            return Some(stream);
        }
    }
    None
}

async fn expire<T: Transport>(
    worker: &Worker,
    state: &ConnState,
    expired: Expired,
    stream: Option<Watched<T>>,
) {
    state.end_for(Refusal::ClientStalled);
    count_expired(worker, &expired);
    match (expired, stream) {
        (Expired::Head, Some(mut stream)) => {
            worker.counters.responded(Refusal::HeadTimeout.status());
            answer_timeout(worker, &mut stream).await;
        }
        // TLS says goodbye; a client that takes nothing does not hear it.
        (Expired::Quietly, Some(mut stream)) => {
            let _ = tokio::time::timeout(limits::GOODBYE_TIME_MAX, stream.shutdown()).await;
        }
        _ => {}
    }
}

async fn answer_timeout<T: Transport>(worker: &Worker, stream: &mut Watched<T>) {
    let page = Refusal::HeadTimeout.page();
    let answer = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}",
        page.len(),
    );
    // The client may be gone; it was told what could be told.
    let _ = tokio::time::timeout(step(&worker.shared.settings.timeouts), async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}
