// SPDX-License-Identifier: MIT OR Apache-2.0
//! The L7 proxy: from an HTTP call that names a service to a request that reaches it.
//!
//! State flows one way: [`api`], [`source`]s and the state directory → [`table`] (the one writer) → [`router::Snapshot`] (one
//! atomic swap) → [`worker`]s. Nothing on the request path takes a lock that another worker can hold.
//!
//! The life of a request is [`request`], top to bottom: accept, parse, route, policy, upstream, response, log.
//! Everything beside it is a piece that can be explained without it: [`router`] orders and matches rules,
//! [`stream`] passes whole connections on (reqMode tcp and sni),
//! [`upstream`] chooses tasks and keeps connections to them, [`conn`] drives one client
//! connection and its timeouts, [`refusal`] names every reason for which a request is answered by the proxy.

pub mod limits;
pub mod settings;

pub mod tls;

pub mod environment;
pub mod params;
pub mod secret;
pub mod spec;

pub mod auth;
pub mod compile;
pub mod domain;
pub mod headers;
pub mod prefixes;
pub mod rewrite;
pub mod router;
pub mod snippets;

pub mod labels;
pub mod listener;
pub mod slots;
pub mod source;
pub mod state;
pub mod table;

pub mod api;
pub mod client;
pub mod distribute;
pub mod peers;

pub mod forwarded;
pub mod listen;
pub mod proxy_protocol;
pub mod stream;

pub mod access_log;
mod blocks;
pub mod body;
pub mod clock;
pub mod compress;
pub mod conn;
pub mod error_pages;
pub mod later;
pub mod metrics;
pub mod passage;
pub mod refusal;
pub mod request;
pub mod resolver;
pub mod stats;
pub mod tunnel;
pub mod upstream;
pub mod worker;

pub mod server;

#[cfg(test)]
mod tests;
