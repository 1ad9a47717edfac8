// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other replicas of the proxy: where they are, how to call them, and what they know.
//!
//! A replica that starts asks all of them at once for what they keep ([`Peers::copies`]) before it serves, so that one
//! that Swarm has moved to another node has its routes from the first request on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use super::client::{self, Call};
use super::limits;
use super::resolver::Resolver;
use super::settings::{Settings, Token};
use super::source::Kept;

/// Where a replica tells its certificates; the original's path.
pub const CERTS: &str = "/v1/docker-flow-proxy/certs";

/// Where a replica tells another what it keeps.
pub const COPY: &str = "/portico/v1/copy";

/// What a replica tells another.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Copy {
    /// Whether it sees the labels with its own eyes.
    pub sees_labels: bool,
    /// Services that it keeps to itself, because the caller has not proved who it is and they have secrets in them.
    pub withheld: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub kept: Kept,
}

/// All replicas, this one included.
pub struct Peers {
    resolver: Resolver,
    /// Names to resolve, each with a port if it has one of its own.
    names: Vec<(String, Option<u16>)>,
    is_named: bool,
    /// The port of the others' APIs, which is the port of ours.
    port: u16,
    token: Option<Token>,
    tls: Option<Arc<ClientConfig>>,
}

impl Peers {
    /// The replicas that PORTICO_SIBLINGS names, or else those of our Swarm service.
    pub fn new(settings: &Settings, port: u16) -> Self {
        let names = match settings.siblings.as_slice() {
            [] => vec![(format!("tasks.{}", settings.service_name), None)],
            named => named.to_vec(),
        };
        Peers {
            resolver: Resolver::new(&settings.nameservers),
            names,
            is_named: !settings.siblings.is_empty(),
            port,
            token: settings.admin.tokens.first().cloned(),
            tls: settings.admin.tls.as_ref().map(|tls| tls.client.clone()),
        }
    }

    /// For other names that are none of the request path's.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// What is resolved, for messages.
    pub fn describe(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }

    /// Whether there can be any: somebody named them, or Docker's own resolver answers for `tasks.<service>`. Anywhere
    /// else the name would only cost time at the start.
    pub fn can_exist(&self) -> bool {
        self.is_named || std::fs::read_to_string("/etc/resolv.conf").is_ok_and(|text| asks_docker(&text))
    }

    /// What the replicas that answer say of their certificates.
    pub async fn certificates(&self) -> Vec<Bytes> {
        let asked = self.addresses().await.into_iter().map(async |address| {
            let answer = {
                let timeout = limits::COPY_TIME_MAX;
                self.call(address, &Method::GET, CERTS, &Bytes::new(), timeout)
                    .await
            };
            match answer {
                Ok((StatusCode::OK, body)) => Some(body),
                Ok((status, _)) => {
                    tracing::warn!(%address, %status, "another replica gives no certificates");
                    None
                }
                // One of the addresses is our own, and nobody listens there yet.
                Err(error) => {
                    tracing::debug!(%address, error, "replica");
                    None
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Where they are now; empty when no name has an address.
    pub async fn addresses(&self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        for (name, port) in &self.names {
            let port = port.unwrap_or(self.port);
            let addresses = self.resolver.lookup(name).await;
            found.extend(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)));
        }
        found
    }

    /// One call; the answer's status and body.
    pub async fn call(
        &self,
        address: SocketAddr,
        method: &Method,
        target: &str,
        body: &Bytes,
        timeout: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        let token = self.token.as_ref();
        let call = Call {
            method,
            target,
            body,
            token,
            tls: self.tls.as_ref(),
            timeout,
        };
        client::call(address, call).await
    }

    /// What the replicas that answer know.
    pub async fn copies(&self) -> Vec<Copy> {
        let addresses = self.addresses().await;
        let asked = addresses.into_iter().map(async |address| {
            let timeout = limits::COPY_TIME_MAX;
            let answer = self.call(address, &Method::GET, COPY, &Bytes::new(), timeout).await;
            let copy = answer.and_then(|(status, body)| match status {
                StatusCode::OK => serde_json::from_slice::<Copy>(&body).map_err(|error| error.to_string()),
                status => Err(format!("status {}", status.as_u16())),
            });
            match copy {
                Ok(copy) => {
                    for service in &copy.withheld {
                        tracing::warn!(
                            %address, service,
                            "not copied: it has secrets in it, and they only travel with PORTICO_ADMIN_TOKEN_FILE or \
                             PORTICO_ADMIN_CA_FILE"
                        );
                    }
                    Some(copy)
                }
                // One of the addresses is our own, and nobody listens there yet.
                Err(error) => {
                    tracing::debug!(%address, error, "replica");
                    None
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

fn asks_docker(resolv_conf: &str) -> bool {
    let words = resolv_conf.lines().map(|line| line.split_whitespace());
    words
        .into_iter()
        .any(|mut words| words.next() == Some("nameserver") && words.next() == Some("127.0.0.11"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dockers_resolver_knows_replicas() {
        assert!(asks_docker("search x\nnameserver 127.0.0.11\noptions ndots:0\n"));
        assert!(!asks_docker("nameserver 127.0.0.53\n# nameserver 127.0.0.11\n"));
        assert!(!asks_docker(""));
    }
}
