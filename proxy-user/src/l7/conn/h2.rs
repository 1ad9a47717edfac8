// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection of HTTP/2: the same requests, many at a time.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::stream::Streams;
use super::watched::{Transport, Watched};
use super::{ConnState, Expired, count_expired, step};
use crate::l7::limits;
use crate::l7::refusal::Refusal;
use crate::l7::request::{self, Client};
use crate::l7::worker::Worker;

/// Serves a connection until it ends.
pub async fn serve<T: Transport>(
    worker: &Worker,
    stream: Watched<T>,
    client: Rc<Client>,
    state: &Arc<ConnState>,
) {
    worker.counters.h2_connections.up();
    let timeouts = worker.shared.settings.timeouts;
    let service = service_fn(move |request| request::handle(client.clone(), request));
    let mut builder = http2::Builder::new(Streams {
        state: state.clone(),
        limit: timeouts.client,
    });
    builder
        .max_concurrent_streams(limits::H2_CLIENT_STREAMS_MAX)
        .max_header_list_size(limits::HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(limits::H2_STREAM_WINDOW)
        .initial_connection_window_size(limits::H2_CONNECTION_WINDOW)
        .max_frame_size(limits::H2_FRAME_BYTES_MAX)
        .max_send_buf_size(limits::H2_SEND_BUFFER_MAX)
        .max_pending_accept_reset_streams(limits::H2_RESETS_UNSEEN_MAX)
        .max_local_error_reset_streams(limits::H2_ERRORS_MAX);
    let mut conn = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut drain = pin!(worker.drain.notified());
    // GOAWAY was sent; what runs may end, and what does not end is cut.
    let mut is_leaving = worker.draining.get();
    if is_leaving {
        conn.as_mut().graceful_shutdown();
    }
    let mut was_idle = false;
    let mut sleep = pin!(tokio::time::sleep(step(&timeouts)));

    let end = poll_fn(|cx| {
        if let Poll::Ready(result) = conn.as_mut().poll(cx) {
            return Poll::Ready(Ok(result));
        }
        if !is_leaving && drain.as_mut().poll(cx).is_ready() {
            is_leaving = true;
            conn.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        while sleep.as_mut().poll(cx).is_ready() {
            match state.check(&timeouts) {
                Ok(next) => sleep.as_mut().reset(next),
                Err(Expired::Quietly) if !was_idle => {
                    was_idle = true;
                    if !is_leaving {
                        is_leaving = true;
                        conn.as_mut().graceful_shutdown();
                        cx.waker().wake_by_ref();
                    }
                    sleep.as_mut().reset(Instant::now() + limits::GOODBYE_TIME_MAX);
                }
                Err(expired) => return Poll::Ready(Err(expired)),
            }
        }
        Poll::Pending
    })
    .await;
    match end {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(%error, "client connection");
            if let Some(refusal) = state.ended_for().or_else(|| fault(&error, state.had_resets())) {
                worker.counters.refused(refusal);
            }
        }
        Err(expired) => {
            state.end_for(Refusal::ClientStalled);
            count_expired(worker, &expired);
        }
    }
}

/// What a client did that ended its connection. What it said with GOAWAY is no fault.
fn fault(error: &hyper::Error, had_resets: bool) -> Option<Refusal> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    if !error.is_go_away() || error.is_remote() {
        return None;
    }
    match error.reason() {
        // hyper has several limits, and does not say which it was.
        Some(h2::Reason::ENHANCE_YOUR_CALM) if had_resets => Some(Refusal::ResetFlood),
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Some(Refusal::FrameFlood),
        _ => Some(Refusal::FrameInvalid),
    }
}
