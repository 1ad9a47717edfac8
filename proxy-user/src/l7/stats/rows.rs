// SPDX-License-Identifier: MIT OR Apache-2.0
//! One row for the frontend, each backend and each server: what CSV and Prometheus are made from.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Backend;
use super::checks::Seen;
use super::rates::{Rate, Rates};
use crate::l7::metrics::{Cell, Counters};
use crate::l7::router::Snapshot;
use crate::l7::upstream::Upstream;

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests as they come in.
    Frontend,
    /// A destination of a service.
    Backend,
    /// Who serves a backend.
    Server,
}

/// A row.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "HAProxy's columns by the names of the exporter's metrics"
)]
pub struct Row {
    pub kind: Kind,
    pub proxy: Box<str>,
    pub server: Box<str>,
    pub sessions: u64,
    pub sessions_max: u64,
    pub sessions_limit: Option<u64>,
    pub total: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub denied: u64,
    pub errors: u64,
    pub connection_errors: u64,
    pub response_errors: u64,
    pub rate: Rate,
    pub responses: [u64; 6],
    pub requests: u64,
    pub queue: u64,
    pub queue_max: u64,
    pub retries: u64,
    pub redispatches: u64,
    pub checks: Option<Seen>,
}

impl Row {
    /// Whether it can serve, as far as anybody asks.
    pub fn is_up(&self) -> bool {
        self.checks.is_none_or(|seen| seen.is_up)
    }

    /// HAProxy's word for it.
    pub fn status(&self) -> &'static str {
        match (self.kind, self.is_up()) {
            (Kind::Frontend, _) => "OPEN",
            (_, true) => "UP",
            (_, false) => "DOWN",
        }
    }
}

/// The only frontend for HTTP, as in the original.
pub const FRONTEND: &str = "services";

/// Rows of everything in the snapshot. `rates` has looked at the totals once a second.
pub fn all(counters: &[Arc<Counters>], snapshot: &Snapshot, sessions_limit: u64, rates: &Rates) -> Vec<Row> {
    let mut rows = vec![frontend(counters, sessions_limit, rates)];
    let mut streams: BTreeMap<&str, BTreeMap<(&str, &str), &Backend>> = BTreeMap::new();
    for dest in snapshot.services.iter().flat_map(|service| &service.streams) {
        let of_port = streams.entry(&dest.frontend).or_default();
        of_port.insert((&dest.stats.name, &dest.stats.server), &dest.stats);
    }
    rows.extend(
        streams
            .iter()
            .map(|(name, backends)| of_streams(name, backends.values(), rates)),
    );
    let mut backends: BTreeMap<(&str, &str), (&Backend, Option<&Upstream>)> = BTreeMap::new();
    for rule in snapshot.services.iter().flat_map(|service| &service.rules) {
        let key = (&*rule.stats.name, &*rule.stats.server);
        backends.insert(key, (&rule.stats, Some(&rule.upstream)));
    }
    let of_streams = streams.into_values().flatten();
    backends.extend(of_streams.map(|(key, backend)| (key, (backend, None))));
    for (backend, upstream) in backends.into_values() {
        let target = upstream.map(|upstream| &upstream.target);
        let row = Row {
            sessions_limit: target.and_then(|target| target.requests_max).map(u64::from),
            checks: upstream
                .filter(|upstream| upstream.target.check.is_some())
                .map(|upstream| upstream.checks.seen()),
            ..self::backend(backend, rates)
        };
        // One server stands for all tasks, as it does for the VIP in the original.
        rows.push(Row {
            kind: Kind::Server,
            server: backend.server.clone(),
            ..row.clone()
        });
        rows.push(row);
    }
    rows
}

fn frontend(counters: &[Arc<Counters>], sessions_limit: u64, rates: &Rates) -> Row {
    let sum = |value: &dyn Fn(&Counters) -> u64| counters.iter().map(|worker| value(worker)).sum();
    let responses: [u64; 6] = std::array::from_fn(|class| sum(&|worker| worker.responses(class)));
    Row {
        kind: Kind::Frontend,
        proxy: FRONTEND.into(),
        server: "FRONTEND".into(),
        sessions: sum(&|worker| worker.connections_open.get()),
        sessions_max: sum(&|worker| worker.connections_open_max.get()),
        sessions_limit: Some(sessions_limit),
        total: sum(&|worker| worker.connections.get()),
        bytes_in: sum(&|worker| worker.bytes_in.get()),
        bytes_out: sum(&|worker| worker.bytes_out.get()),
        denied: sum(&|worker| worker.refused_with(403)),
        errors: sum(&|worker| {
            [400, 408, 413, 414, 431]
                .iter()
                .map(|status| worker.refused_with(*status))
                .sum()
        }),
        connection_errors: 0,
        response_errors: 0,
        rate: rates.of(FRONTEND, "FRONTEND"),
        responses,
        requests: responses.iter().sum(),
        queue: 0,
        queue_max: 0,
        retries: 0,
        redispatches: 0,
        checks: None,
    }
}

/// A port of modes tcp and sni: everything that its destinations got.
fn of_streams<'a>(name: &str, backends: impl Iterator<Item = &'a &'a Backend>, rates: &Rates) -> Row {
    let rows: Vec<Row> = backends.map(|backend| self::backend(backend, rates)).collect();
    let sum = |value: fn(&Row) -> u64| rows.iter().map(value).sum();
    Row {
        kind: Kind::Frontend,
        proxy: name.into(),
        server: "FRONTEND".into(),
        sessions: sum(|row| row.sessions),
        sessions_max: sum(|row| row.sessions_max),
        sessions_limit: None,
        total: sum(|row| row.total),
        bytes_in: sum(|row| row.bytes_in),
        bytes_out: sum(|row| row.bytes_out),
        denied: 0,
        errors: 0,
        connection_errors: 0,
        response_errors: 0,
        rate: rates.of(name, "FRONTEND"),
        responses: [0; 6],
        requests: 0,
        queue: 0,
        queue_max: 0,
        retries: 0,
        redispatches: 0,
        checks: None,
    }
}

fn backend(backend: &Backend, rates: &Rates) -> Row {
    let sum = |value: &dyn Fn(&super::Shard) -> &Cell| -> u64 {
        backend.shards().iter().map(|shard| value(shard).get()).sum()
    };
    let total = sum(&|shard| &shard.total);
    Row {
        kind: Kind::Backend,
        proxy: backend.name.clone(),
        server: "BACKEND".into(),
        sessions: sum(&|shard| &shard.current),
        sessions_max: sum(&|shard| &shard.max),
        sessions_limit: None,
        total,
        bytes_in: sum(&|shard| &shard.bytes_in),
        bytes_out: sum(&|shard| &shard.bytes_out),
        denied: sum(&|shard| &shard.denied),
        errors: 0,
        connection_errors: sum(&|shard| &shard.connection_errors),
        response_errors: sum(&|shard| &shard.response_errors),
        rate: rates.of(&backend.name, &backend.server),
        responses: std::array::from_fn(|class| sum(&|shard| &shard.responses[class])),
        requests: total,
        queue: sum(&|shard| &shard.queue),
        queue_max: sum(&|shard| &shard.queue_max),
        retries: sum(&|shard| &shard.retries),
        redispatches: sum(&|shard| &shard.redispatches),
        checks: None,
    }
}
