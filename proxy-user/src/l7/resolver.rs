// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names to addresses without the C library, for a static binary in an empty image.
//!
//! Reads `/etc/resolv.conf` and `/etc/hosts` itself; both may be missing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};

use super::limits;

/// A resolver of one runtime; its sockets belong to that runtime.
pub struct Resolver {
    inner: Option<TokioResolver>,
}

/// What a resolver said.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses.
    Found(Vec<IpAddr>),
    /// The name has none.
    None,
    /// Nothing, or nothing in time.
    Failed,
}

impl Resolver {
    /// Asks these name servers, or without any those of the system's files.
    pub fn new(nameservers: &[SocketAddr]) -> Self {
        match nameservers {
            [] => Resolver::from_system(),
            nameservers => {
                let servers = nameservers.iter().map(|server| {
                    let mut config = NameServerConfig::udp_and_tcp(server.ip());
                    for connection in &mut config.connections {
                        connection.port = server.port();
                    }
                    config
                });
                let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
                Resolver::build(TokioResolver::builder_with_config(
                    config,
                    TokioRuntimeProvider::default(),
                ))
            }
        }
    }

    fn from_system() -> Self {
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::debug!(%error, "no /etc/resolv.conf; asking 127.0.0.1");
            let local = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![local]);
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        });
        Resolver::build(builder)
    }

    fn build(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Self {
        let options = builder.options_mut();
        // A VIP is IPv4; asking for AAAA first would cost a round trip per name.
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        options.positive_max_ttl = Some(limits::DNS_TTL_MAX);
        options.negative_max_ttl = Some(limits::DNS_NEGATIVE_TTL_MAX);
        options.timeout = std::time::Duration::from_secs(1);
        options.attempts = 2;
        match builder.build() {
            Ok(inner) => Resolver { inner: Some(inner) },
            Err(error) => {
                tracing::error!(%error, "no resolver; only addresses can be upstreams");
                Resolver { inner: None }
            }
        }
    }

    /// All addresses of a name; an address is its own.
    pub async fn ask(&self, host: &str) -> Answer {
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Answer::Found(vec![ip]);
        }
        let Some(inner) = &self.inner else {
            return Answer::Failed;
        };
        match tokio::time::timeout(limits::DNS_TIME_MAX, inner.lookup_ip(host)).await {
            Ok(Ok(found)) => Answer::Found(found.iter().collect()),
            Ok(Err(error)) if error.is_no_records_found() => Answer::None,
            Ok(Err(error)) => {
                tracing::debug!(host, %error, "name not resolved");
                Answer::Failed
            }
            Err(_) => {
                tracing::debug!(host, "name not resolved in time");
                Answer::Failed
            }
        }
    }

    /// All addresses of a name; empty when there are none.
    pub async fn lookup(&self, host: &str) -> Vec<IpAddr> {
        match self.ask(host).await {
            Answer::Found(addresses) => addresses,
            Answer::None | Answer::Failed => Vec::new(),
        }
    }
}
