// SPDX-License-Identifier: MIT OR Apache-2.0
//! The names that haproxy_exporter gives, which the original's dashboards use.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::rows::{Kind, Row};

type Value = fn(&Row) -> Option<u64>;

/// Metrics that a frontend, a backend and a server have, as far as they exist here.
const METRICS: &[(&str, &[Kind], Value)] = {
    use Kind::{Backend, Frontend, Server};
    const ALL: &[Kind] = &[Frontend, Backend, Server];
    const UPSTREAM: &[Kind] = &[Backend, Server];
    &[
        ("current_sessions", ALL, |row| Some(row.sessions)),
        ("max_sessions", ALL, |row| Some(row.sessions_max)),
        ("limit_sessions", ALL, |row| row.sessions_limit),
        ("connections_total", ALL, |row| Some(row.total)),
        ("bytes_in_total", ALL, |row| Some(row.bytes_in)),
        ("bytes_out_total", ALL, |row| Some(row.bytes_out)),
        ("requests_denied_total", &[Frontend], |row| Some(row.denied)),
        ("request_errors_total", &[Frontend], |row| Some(row.errors)),
        ("http_requests_total", &[Frontend], |row| Some(row.requests)),
        ("limit_session_rate", &[Frontend], |_| Some(0)),
        ("connection_errors_total", UPSTREAM, |row| {
            Some(row.connection_errors)
        }),
        ("response_errors_total", UPSTREAM, |row| Some(row.response_errors)),
        ("current_queue", UPSTREAM, |row| Some(row.queue)),
        ("max_queue", UPSTREAM, |row| Some(row.queue_max)),
        ("retry_warnings_total", UPSTREAM, |row| Some(row.retries)),
        ("redispatch_warnings_total", UPSTREAM, |row| {
            Some(row.redispatches)
        }),
        ("check_failures_total", &[Server], |row| {
            row.checks.map(|seen| seen.failures)
        }),
        ("check_duration_milliseconds", &[Server], |row| {
            row.checks.map(|seen| seen.took.as_millis() as u64)
        }),
        ("downtime_seconds_total", &[Server], |row| {
            row.checks.map(|seen| seen.downtime.as_secs())
        }),
        ("up", UPSTREAM, |row| Some(row.is_up().into())),
        ("weight", UPSTREAM, |_| Some(1)),
        ("current_session_rate", ALL, |row| Some(row.rate.now)),
        ("max_session_rate", ALL, |row| Some(row.rate.max)),
    ]
};

const CODES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// All rows, one family after the other. All are gauges, as the exporter of the original's day has them.
pub fn render(out: &mut String, rows: &[Row]) {
    for kind in [Kind::Frontend, Kind::Backend, Kind::Server] {
        let of_kind = || rows.iter().filter(move |row| row.kind == kind);
        for (name, kinds, value) in METRICS {
            if kinds.contains(&kind) && of_kind().any(|row| value(row).is_some()) {
                let name = format!("haproxy_{}_{name}", word(kind));
                // Writing to a string cannot fail.
                let _ = writeln!(out, "# TYPE {name} gauge");
                for row in of_kind() {
                    if let Some(value) = value(row) {
                        let _ = writeln!(out, "{name}{{{}}} {value}", labels(row));
                    }
                }
            }
        }
        if of_kind().next().is_some() {
            let name = format!("haproxy_{}_http_responses_total", word(kind));
            let _ = writeln!(out, "# TYPE {name} gauge");
            for row in of_kind() {
                for (code, value) in CODES.iter().zip(row.responses) {
                    let _ = writeln!(out, "{name}{{{},code=\"{code}\"}} {value}", labels(row));
                }
            }
        }
    }
    static SCRAPES: AtomicU64 = AtomicU64::new(0);
    let scrapes = SCRAPES.fetch_add(1, Relaxed) + 1;
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(
        out,
        "# TYPE haproxy_up gauge\nhaproxy_up 1\n\
         # TYPE haproxy_exporter_build_info gauge\nhaproxy_exporter_build_info{{version=\"{version}\"}} 1\n\
         # TYPE haproxy_exporter_csv_parse_failures counter\nhaproxy_exporter_csv_parse_failures 0\n\
         # TYPE haproxy_exporter_total_scrapes counter\nhaproxy_exporter_total_scrapes {scrapes}"
    );
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Frontend => "frontend",
        Kind::Backend => "backend",
        Kind::Server => "server",
    }
}

fn labels(row: &Row) -> String {
    let proxy = escaped(&row.proxy);
    match row.kind {
        Kind::Frontend => format!("frontend=\"{proxy}\""),
        Kind::Backend => format!("backend=\"{proxy}\""),
        Kind::Server => format!("backend=\"{proxy}\",server=\"{}\"", escaped(&row.server)),
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
