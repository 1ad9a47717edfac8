// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters: each worker has its own, a scrape adds them up.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::refusal::Refusal;
use super::stats;

/// What a worker counts. Only its worker writes, so an addition is a load and a store.
#[repr(align(128))]
#[derive(Default)]
pub struct Counters {
    refused: Refused,
    responses: [Cell; 6],
    /// Client connections that were accepted.
    pub connections: Cell,
    /// Client connections that are open.
    pub connections_open: Cell,
    /// The most that were open at a time.
    pub connections_open_max: Cell,
    /// Bytes from clients of HTTP, as they were on the connection.
    pub bytes_in: Cell,
    /// Bytes to them.
    pub bytes_out: Cell,
    /// Of these, the bytes of answers that were not copied on their way.
    pub bytes_passed: Cell,
    /// Lines of the access log that found no room.
    pub log_lines_dropped: Cell,
    /// Connections that were opened to upstreams.
    pub upstream_connects: Cell,
    /// Requests that went over a connection that had served another.
    pub upstream_reuses: Cell,
    /// Requests that were sent again.
    pub upstream_retries: Cell,
    /// Requests that were not sent again because the budget was spent.
    pub upstream_retries_denied: Cell,
    /// Connections to tasks that failed.
    pub upstream_connect_failures: Cell,
    /// Requests that went to another task because a connection failed.
    pub upstream_connect_retries: Cell,
    /// Times a task was told to rest.
    pub ejections: Cell,
    /// Health checks that a task failed.
    pub health_failures: Cell,
    /// Questions that no resolver answered.
    pub discovery_failures: Cell,
    /// Connections that became tunnels.
    pub upgrades: Cell,
    /// Handshakes of TLS.
    pub tls_handshakes: Cell,
    /// Of these, those that resumed a session.
    pub tls_resumed: Cell,
    /// Connections of HTTP/1.1 whose buffers were given back because they were quiet.
    pub parked: Cell,
    /// Connections that spoke HTTP/2.
    pub h2_connections: Cell,
    /// Connections that were passed on whole.
    pub streams: Cell,
    /// Of these, those that are open.
    pub streams_open: Cell,
    /// Bytes from their clients.
    pub stream_bytes_in: Cell,
    /// Bytes to their clients.
    pub stream_bytes_out: Cell,
}

/// One for each reason.
struct Refused([Cell; Refusal::ALL.len()]);

impl Default for Refused {
    fn default() -> Self {
        Refused(std::array::from_fn(|_| Cell::default()))
    }
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds one.
    pub fn up(&self) {
        self.add(1);
    }

    /// Adds some.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Takes one away.
    pub fn down(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Counters {
    /// Counts a refusal.
    pub fn refused(&self, refusal: Refusal) {
        self.refused.0[refusal as usize].up();
    }

    /// Counts an answer by its class.
    pub fn responded(&self, status: hyper::StatusCode) {
        self.responses[stats::class(status)].up();
    }

    /// Answers of a class: other, 1xx … 5xx.
    pub fn responses(&self, class: usize) -> u64 {
        self.responses[class].get()
    }

    /// Refusals with this status.
    pub fn refused_with(&self, status: u16) -> u64 {
        let with = Refusal::ALL
            .iter()
            .filter(|refusal| refusal.status().as_u16() == status);
        with.map(|refusal| self.refused.0[*refusal as usize].get()).sum()
    }
}

/// Prometheus text of all workers together.
pub fn render(workers: &[Arc<Counters>], services: usize, is_persistent: bool) -> String {
    let sum = |value: &dyn Fn(&Counters) -> u64| workers.iter().map(|w| value(w)).fold(0, u64::wrapping_add);
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let refused: Vec<_> = Refusal::ALL
        .iter()
        .map(|r| {
            (
                format!("{{reason=\"{}\"}}", r.name()),
                sum(&|w| w.refused.0[*r as usize].get()),
            )
        })
        .collect();
    family(
        "portico_proxy_refused_total",
        "counter",
        "Requests and connections refused, by reason.",
        &refused,
    );
    let responses: Vec<_> = (1..=5)
        .map(|class| {
            (
                format!("{{code=\"{class}xx\"}}"),
                sum(&|w| w.responses[class].get()),
            )
        })
        .collect();
    family(
        "portico_proxy_responses_total",
        "counter",
        "Responses to clients, by class.",
        &responses,
    );
    type Value = fn(&Counters) -> u64;
    let singles: [(&str, &str, &str, Value); 22] = [
        ("tls_handshakes_total", "counter", "TLS handshakes made.", |w| {
            w.tls_handshakes.get()
        }),
        (
            "tls_resumed_total",
            "counter",
            "TLS handshakes that resumed a session.",
            |w| w.tls_resumed.get(),
        ),
        (
            "connections_parked_total",
            "counter",
            "Times that a quiet connection gave its buffers back.",
            |w| w.parked.get(),
        ),
        (
            "h2_connections_total",
            "counter",
            "Client connections that spoke HTTP/2.",
            |w| w.h2_connections.get(),
        ),
        (
            "bytes_passed_total",
            "counter",
            "Bytes of answers that were not copied on their way.",
            |w| w.bytes_passed.get(),
        ),
        (
            "log_lines_dropped_total",
            "counter",
            "Lines of the access log that found no room.",
            |w| w.log_lines_dropped.get(),
        ),
        (
            "connections_total",
            "counter",
            "Client connections accepted.",
            |w| w.connections.get(),
        ),
        ("connections_open", "gauge", "Client connections open.", |w| {
            w.connections_open.get()
        }),
        (
            "upstream_connects_total",
            "counter",
            "Connections opened to upstreams.",
            |w| w.upstream_connects.get(),
        ),
        (
            "upstream_reuses_total",
            "counter",
            "Requests over a reused connection.",
            |w| w.upstream_reuses.get(),
        ),
        ("upstream_retries_total", "counter", "Requests sent again.", |w| {
            w.upstream_retries.get()
        }),
        (
            "upstream_retries_denied_total",
            "counter",
            "Requests not sent again because the budget was spent.",
            |w| w.upstream_retries_denied.get(),
        ),
        (
            "upstream_connect_failures_total",
            "counter",
            "Connections to tasks that failed.",
            |w| w.upstream_connect_failures.get(),
        ),
        (
            "upstream_connect_retries_total",
            "counter",
            "Requests that went to another task because a connection failed.",
            |w| w.upstream_connect_retries.get(),
        ),
        (
            "upstream_ejections_total",
            "counter",
            "Times a task was told to rest.",
            |w| w.ejections.get(),
        ),
        (
            "upstream_health_failures_total",
            "counter",
            "Health checks that a task failed.",
            |w| w.health_failures.get(),
        ),
        (
            "discovery_failures_total",
            "counter",
            "Questions that no resolver answered.",
            |w| w.discovery_failures.get(),
        ),
        (
            "upgrades_total",
            "counter",
            "Connections that became tunnels.",
            |w| w.upgrades.get(),
        ),
        (
            "streams_total",
            "counter",
            "Connections passed on in modes tcp and sni.",
            |w| w.streams.get(),
        ),
        ("streams_open", "gauge", "Of these, open.", |w| {
            w.streams_open.get()
        }),
        (
            "stream_bytes_in_total",
            "counter",
            "Bytes from clients in modes tcp and sni.",
            |w| w.stream_bytes_in.get(),
        ),
        (
            "stream_bytes_out_total",
            "counter",
            "Bytes to clients in modes tcp and sni.",
            |w| w.stream_bytes_out.get(),
        ),
    ];
    for (name, kind, help, value) in singles {
        family(
            &format!("portico_proxy_{name}"),
            kind,
            help,
            &[(String::new(), sum(&value))],
        );
    }
    family(
        "portico_proxy_services",
        "gauge",
        "Services in the table.",
        &[(String::new(), services as u64)],
    );
    let persistent = u64::from(is_persistent);
    family(
        "portico_proxy_state_persistent",
        "gauge",
        "1 if services survive a restart.",
        &[(String::new(), persistent)],
    );
    out
}
