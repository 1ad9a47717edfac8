// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prometheus text (exposition format 0.0.4).

use std::{fmt::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{CONNECTIONS_MAX, socket::serve_one};
use crate::{
    daemon::{ProviderState, Shared},
    process,
    reconcile::Status,
};

/// Serves `/metrics`; without a listener it waits forever.
pub async fn serve(listener: Option<TcpListener>, shared: Arc<Shared>) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    serve_one(stream, |request| std::future::ready(answer(&request, &shared))).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn answer(request: &Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let (status, body) = if request.uri().path() != "/metrics" {
        (StatusCode::NOT_FOUND, "only /metrics\n".into())
    } else if request.method() != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into())
    } else {
        (StatusCode::OK, text(shared))
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// All metrics.
pub fn text(shared: &Shared) -> String {
    let view = shared.view.load();
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, rows: &[(String, u64)]| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in rows {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let mut counters: Vec<(String, u64)> = (shared.counters)();
    for (name, _) in &mut counters {
        *name = format!("{{name=\"{name}\"}}");
    }
    family(
        "portico_datapath_events_total",
        "counter",
        "What the kernel programs counted.",
        &counters,
    );
    let count = |wanted: fn(&Status) -> bool| view.statuses.values().filter(|s| wanted(s)).count() as u64;
    family(
        "portico_frontends",
        "gauge",
        "Frontends by what became of them.",
        &[
            (
                "{status=\"done\"}".into(),
                count(|status| *status == Status::Done),
            ),
            (
                "{status=\"error\"}".into(),
                count(|status| matches!(status, Status::Error(_))),
            ),
            (
                "{status=\"pending\"}".into(),
                count(|status| *status == Status::Pending),
            ),
        ],
    );
    let [good, bad, changes, waited] = shared.health.counts();
    let result = |name: &str, value| (format!("{{result=\"{name}\"}}"), value);
    family(
        "portico_health_checks_total",
        "counter",
        "Health checks of backends and tasks.",
        &[result("good", good), result("bad", bad)],
    );
    let standings = shared.health.standings();
    let members = |wanted| {
        standings
            .values()
            .filter(|standing| standing.up == wanted)
            .count() as u64
    };
    let state = |name: &str, value| (format!("{{state=\"{name}\"}}"), value);
    family(
        "portico_health_members",
        "gauge",
        "Backends and tasks that are checked, by what is known of them.",
        &[
            state("up", members(Some(true))),
            state("down", members(Some(false))),
            state("unknown", members(None)),
        ],
    );
    let backends: usize = view
        .tables
        .frontends
        .values()
        .map(|frontend| frontend.backends.len())
        .sum();
    for (name, kind, help, value) in [
        (
            "portico_services",
            "gauge",
            "Services in force.",
            view.tables.services.len() as u64,
        ),
        (
            "portico_backends",
            "gauge",
            "Backends of all frontends.",
            backends as u64,
        ),
        (
            "portico_health_changes_total",
            "counter",
            "Members that went down or came back.",
            changes,
        ),
        (
            "portico_health_checks_waited_total",
            "counter",
            "Checks that had to wait for others.",
            waited,
        ),
        (
            "portico_health_services_all_down",
            "gauge",
            "Services that use all members because all are down.",
            view.all_down.len() as u64,
        ),
        (
            "portico_observers",
            "gauge",
            "Who observes.",
            shared.observers.observers() as u64,
        ),
        (
            "portico_observe_missed_total",
            "counter",
            "Events that observers were too slow for.",
            shared.observers.missed(),
        ),
        (
            "portico_scopes",
            "gauge",
            "Namespaces that may use VIPs.",
            view.tables.scopes.len() as u64,
        ),
        (
            "portico_local_tasks",
            "gauge",
            "Tasks of this node that publish.",
            view.tables.local_tasks.len() as u64,
        ),
        (
            "portico_refusals",
            "gauge",
            "Wrong fields in the last snapshot.",
            view.refusals.len() as u64,
        ),
        (
            "portico_sandbox_problems",
            "gauge",
            "Problems with the namespaces of tasks.",
            view.sandboxes.len() as u64,
        ),
        (
            "portico_provider_up",
            "gauge",
            "Source readable.",
            u64::from(view.state == ProviderState::Ok),
        ),
        (
            "portico_passes_total",
            "counter",
            "Passes of the reconciler.",
            view.passes,
        ),
        (
            "portico_operations_total",
            "counter",
            "Operations that the kernel did.",
            view.operations,
        ),
        (
            "portico_operation_failures_total",
            "counter",
            "Operations that it refused.",
            view.failures,
        ),
    ] {
        family(name, kind, help, &[(String::new(), value)]);
    }
    process::render(&mut out);
    out
}
