// SPDX-License-Identifier: MIT OR Apache-2.0
//! A docker-flow-swarm-listener that is running: its list of services at the start, and asking it to send all again.
//!
//! One listener is asked until it has answered once, and then again if REPEAT_RELOAD says so; several are asked
//! RELOAD_ATTEMPTS times each. What it lists are calls like the ones that it makes itself. Services that it does not
//! list stay: a listener leaves out those whose tasks are not all running. An entry that cannot be used costs nobody
//! else anything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::{Method, StatusCode};

use super::api::Api;
use super::client::{self, Call};
use super::limits;
use super::params::Params;
use super::resolver::Resolver;
use super::settings::Listener;
use super::source::Source;

const SERVICES: &str = "/v1/docker-flow-swarm-listener/get-services";
const NOTIFY: &str = "/v1/docker-flow-swarm-listener/notify-services";
/// Where a listener listens unless its address says otherwise.
const PORT: u16 = 8080;

/// Asks every listener until it has done its part.
pub async fn watch(api: Arc<Api>, listener: Listener) {
    let is_single = listener.hosts.len() == 1;
    let asked = listener.hosts.iter().map(async |host| {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match fetch(host, api.peers.resolver()).await {
                Ok(services) => {
                    take_over(&api, host, services).await;
                    api.listener_answered.store(true, Relaxed);
                    if !(is_single && listener.repeat) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        listener = host.0,
                        error,
                        "the listener's services cannot be fetched"
                    );
                    if !is_single && attempts >= listener.attempts {
                        return tracing::error!(listener = host.0, attempts, "given up");
                    }
                }
            }
            tokio::time::sleep(listener.interval).await;
        }
    });
    join_all(asked).await;
}

/// Asks every listener to send its services again.
pub async fn renotify(listener: &Listener, resolver: &Resolver) -> Result<(), String> {
    for host in &listener.hosts {
        ask(host, NOTIFY, resolver)
            .await
            .map_err(|error| format!("{}: {error}", host.0))?;
    }
    Ok(())
}

async fn fetch(
    host: &(String, Option<u16>),
    resolver: &Resolver,
) -> Result<Vec<BTreeMap<String, String>>, String> {
    let body = ask(host, SERVICES, resolver).await?;
    serde_json::from_slice(&body).map_err(|error| format!("the answer is not a list of services: {error}"))
}

async fn ask(
    (host, port): &(String, Option<u16>),
    target: &str,
    resolver: &Resolver,
) -> Result<Bytes, String> {
    let addresses = resolver.lookup(host).await;
    let ip = addresses.first().ok_or("the name has no address")?;
    let call = Call {
        method: &Method::GET,
        target,
        body: &Bytes::new(),
        token: None,
        tls: None,
        timeout: limits::LISTENER_TIMEOUT,
    };
    match client::call(SocketAddr::new(*ip, port.unwrap_or(PORT)), call).await? {
        (StatusCode::OK, body) => Ok(body),
        (status, _) => Err(format!("status {}", status.as_u16())),
    }
}

async fn take_over(
    api: &Api,
    (listener, _): &(String, Option<u16>),
    services: Vec<BTreeMap<String, String>>,
) {
    let count = services.len();
    let changed = {
        let mut table = api.table();
        let mut changed = false;
        for service in services {
            let params = Params(service.into_iter().collect());
            match api.put_from(&mut table, Source::Call, params) {
                (_, Ok(is_changed)) => changed |= is_changed,
                (service, Err((_, problem))) => {
                    tracing::warn!(
                        listener,
                        service,
                        problem,
                        "a service of the listener cannot be used"
                    );
                }
            }
        }
        changed
    };
    if changed {
        api.keep().await;
        tracing::info!(listener, services = count, "the listener's services are in force");
    }
}
