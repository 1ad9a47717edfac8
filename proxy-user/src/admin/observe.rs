// SPDX-License-Identifier: MIT OR Apache-2.0
//! `POST /v1/observe`: what happens, as it happens, one JSON object a line, until the client goes.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
};
use proxy_ebpf::abi::{Backend, Counter, Event, event::is_sampled};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

pub mod hub;
mod show;

use hub::{Observer, Told, Wants};
use show::{Shower, address};

use super::names::{Failure, failure, mirror, question};
use crate::daemon::Shared;

/// A body that is all there, or one that never ends.
pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A body that is all there.
pub(super) fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).boxed_unsync()
}

/// Which events; what is not named matches all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Filter {
    service: Option<String>,
    /// Address with prefix length; sockets have none.
    client: Option<ipnet::IpNet>,
    /// No flows, only what is dropped or refused.
    drops: bool,
    /// One of so many flows.
    sample: Option<u32>,
}

impl Filter {
    fn wants(&self) -> Wants {
        Wants {
            flows: if self.drops { 0 } else { self.sample.unwrap_or(1) },
            drops: true,
        }
    }

    fn matches(&self, event: &Event, service: Option<&str>) -> bool {
        let client = |net: &ipnet::IpNet| address(event.from).is_some_and(|ip| net.contains(&ip));
        (self.service.as_deref()).is_none_or(|wanted| service == Some(wanted))
            && self.client.as_ref().is_none_or(client)
    }
}

pub(super) async fn answer(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
) -> Result<Response<Body>, Failure> {
    let filter: Filter = question(request).await?;
    if filter.sample == Some(0) {
        return Err(failure(StatusCode::BAD_REQUEST, "sample: one of 0 flows is none"));
    }
    mirror(shared)?;
    let Some(observer) = shared.observers.join(filter.wants()) else {
        let text = format!("{} observe already", hub::OBSERVERS_MAX);
        return Err(failure(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let stream = Stream {
        observer,
        shower: Shower::new(shared.clone()),
        filter,
        begun: false,
    };
    let frames = futures_util::stream::unfold(stream, |mut stream| async {
        let line = stream.next().await?;
        let frame = Frame::data(Bytes::from(format!("{line}\n")));
        Some((Ok::<_, Infallible>(frame), stream))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

/// One observer's lines.
struct Stream {
    observer: Observer,
    shower: Shower,
    filter: Filter,
    begun: bool,
}

impl Stream {
    async fn next(&mut self) -> Option<Value> {
        loop {
            match self.observer.told.recv().await {
                Ok(Told::Event(event, backend, at_ms)) => {
                    if let Some(line) = self.event(&event, backend.as_ref(), at_ms) {
                        return Some(line);
                    }
                }
                Ok(Told::Observing) if self.begun => {}
                Ok(Told::Observing) => {
                    self.begun = true;
                    return Some(json!({ "event": "observing" }));
                }
                Ok(Told::Lost(events)) => {
                    return Some(json!({ "event": "lost", "events": events, "where": "kernel" }));
                }
                Ok(Told::Problem(problem)) => {
                    return Some(json!({ "event": "problem", "problem": *problem }));
                }
                Err(RecvError::Lagged(events)) => {
                    self.observer.has_missed(events);
                    return Some(json!({ "event": "lost", "events": events, "where": "agent" }));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn event(&mut self, event: &Event, backend: Option<&Backend>, at_ms: u64) -> Option<Value> {
        let counter = Counter::ALL
            .iter()
            .find(|counter| **counter as u32 == u32::from(event.reason))?;
        // Somebody else may want more flows than this one.
        let sample = self.filter.wants().flows;
        if !counter.is_drop() && (sample == 0 || !is_sampled(event.chance, sample)) {
            return None;
        }
        let service = self.shower.service(event);
        if !self.filter.matches(event, service.as_deref()) {
            return None;
        }
        Some(
            self.shower
                .show(event, *counter, service.as_deref(), backend, at_ms),
        )
    }
}

#[cfg(test)]
mod tests;
