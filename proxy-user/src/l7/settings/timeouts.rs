// SPDX-License-Identifier: MIT OR Apache-2.0
//! Timeouts of the whole proxy.

use std::time::Duration;

/// Timeouts, named as in docker-flow-proxy.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// TIMEOUT_CONNECT: name resolution and connect together.
    pub connect: Duration,
    /// TIMEOUT_CLIENT: a client that sends nothing in a body, or takes nothing.
    pub client: Duration,
    /// TIMEOUT_SERVER: an upstream that sends nothing.
    pub server: Duration,
    /// TIMEOUT_QUEUE: a request that waits for its turn at a service with a limit.
    pub queue: Duration,
    /// TIMEOUT_TUNNEL: an upgraded connection in which nothing moves.
    pub tunnel: Duration,
    /// TIMEOUT_HTTP_REQUEST: from the first byte of a head to its end.
    pub http_request: Duration,
    /// TIMEOUT_HTTP_KEEP_ALIVE: between requests.
    pub http_keep_alive: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(5),
            client: Duration::from_secs(20),
            server: Duration::from_secs(20),
            queue: Duration::from_secs(30),
            tunnel: Duration::from_secs(3600),
            http_request: Duration::from_secs(5),
            http_keep_alive: Duration::from_secs(15),
        }
    }
}
