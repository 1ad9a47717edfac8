// SPDX-License-Identifier: MIT OR Apache-2.0
//! Labels without a listener: `com.df.*` labels of Swarm services, read from a manager's engine.
//!
//! An event, or [`limits::LABELS_POLL`], wakes the watcher; it lists the services ([`read`]), compares with what the
//! table has from labels, and puts or withdraws what differs. What the event said does not matter, so none can be
//! missed for long. A service with bad labels keeps its last good version and is shown with the reason; no other
//! service notices. An engine that does not answer changes nothing.
//!
//! On a worker the engine refuses the list. Then the watcher asks the other replicas, and takes over the labels of one
//! that sees them ([`Peers::copies`](super::peers::Peers::copies)).
//!
//! `reconfigure?persist=true` goes the other way ([`write`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::Notify;

use super::api::Api;
use super::limits;
use super::params::Params;
use super::resolver::Resolver;
use super::settings::EngineHost;
use super::source::Source;
use crate::backoff::Backoff;
use crate::engine::{Address, Client, filters};

pub mod read;
pub mod write;

/// What is known of the labels. *Who writes it*: [`watch`]. *Who reads it*: the API.
#[derive(Default)]
pub struct State {
    up: AtomicBool,
    /// Asks for another look.
    pub wake: Notify,
    problem: std::sync::Mutex<Option<String>>,
}

impl State {
    /// Whether the last look saw the labels.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Why it did not.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().map_or(None, |problem| problem.clone())
    }

    fn set(&self, outcome: Result<(), String>) {
        let was_up = self.up.swap(outcome.is_ok(), Relaxed);
        if let Ok(mut problem) = self.problem.lock() {
            match (&outcome, was_up) {
                (Ok(()), false) => tracing::info!("labels are read"),
                (Err(error), _) if problem.as_ref() != Some(error) => {
                    tracing::warn!(error, "labels cannot be read; what they said last stays in force");
                }
                _ => {}
            }
            *problem = outcome.err();
        }
    }
}

/// Why there are no labels.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The engine's host name has no address.
    #[error("{0} has no address")]
    Unresolved(String),
    /// The engine.
    #[error("{0}")]
    Engine(#[from] crate::unix_http::Error),
}

impl LookError {
    /// The engine works, but is not a manager's.
    fn is_worker(&self) -> bool {
        matches!(self, LookError::Engine(crate::unix_http::Error::Refused { message, .. })
            if message.contains("not a swarm manager"))
    }
}

/// Connects to the engine that was configured.
pub async fn connect(host: &EngineHost, resolver: &Resolver) -> Result<Client, LookError> {
    let address = match host {
        EngineHost::Socket(path) => Address::Unix(path.clone()),
        EngineHost::Tcp(name, port) => {
            let found = resolver.lookup(name).await;
            let ip = *found.first().ok_or_else(|| LookError::Unresolved(name.clone()))?;
            Address::Tcp(std::net::SocketAddr::new(ip, *port))
        }
    };
    Ok(Client::connect(address).await?)
}

/// Looks forever.
pub async fn watch(api: Arc<Api>, host: EngineHost) {
    let mut backoff = Backoff::new(limits::LABELS_RETRY_FIRST, limits::LABELS_RETRY_LONGEST);
    let mut seen = Seen::default();
    let follow = async {
        loop {
            if let Ok(client) = connect(&host, api.peers.resolver()).await {
                // A change between the last look and the stream would have no event.
                follow_events(&client, &api.labels.wake).await;
            }
            tokio::time::sleep(limits::LABELS_RETRY_FIRST).await;
        }
    };
    let look = async {
        loop {
            let outcome = match connect(&host, api.peers.resolver()).await {
                Ok(client) => read::services(&client).await,
                Err(error) => Err(error),
            };
            let pause = match outcome {
                Ok(found) => {
                    backoff.succeeded();
                    api.labels.set(Ok(()));
                    apply(&api, &mut seen, found).await;
                    limits::LABELS_POLL
                }
                Err(error) => {
                    let is_worker = error.is_worker();
                    if is_worker && let Some(found) = from_replica(&api).await {
                        apply(&api, &mut seen, found).await;
                    }
                    api.labels.set(Err(error.to_string()));
                    match is_worker {
                        true => limits::LABELS_FOLLOW,
                        false => backoff.failed(),
                    }
                }
            };
            if tokio::time::timeout(pause, api.labels.wake.notified())
                .await
                .is_ok()
            {
                tokio::time::sleep(limits::LABELS_DEBOUNCE).await;
            }
        }
    };
    tokio::join!(follow, look);
}

async fn follow_events(client: &Client, wake: &Notify) {
    let query = filters(&json!({ "type": ["service"] }));
    if let Ok(mut response) = client.open(&format!("/events?{query}")).await
        && response.status().is_success()
    {
        wake.notify_one();
        while let Some(Ok(_)) = response.body_mut().frame().await {
            wake.notify_one();
        }
        // A stream that ends may be an engine that ends: that is shown now, not at the next poll.
        wake.notify_one();
    }
}

/// The labels that another replica sees.
async fn from_replica(api: &Api) -> Option<BTreeMap<String, Params>> {
    let copies = api.peers.copies().await;
    let copy = copies.into_iter().find(|copy| copy.sees_labels)?;
    let services = copy.kept.services.into_iter();
    let said = services
        .filter(|service| service.source == Source::Labels)
        .map(|service| {
            let name = service
                .params
                .scalar("serviceName")
                .unwrap_or_default()
                .to_owned();
            (name, Arc::unwrap_or_clone(service.params))
        });
    // What is withheld is not known to be gone.
    let withheld = copy.withheld.iter().filter_map(|name| {
        let table = api.table();
        let (_, params) = table.said(Source::Labels).find(|(said, _)| said == name)?;
        Some((name.clone(), params.clone()))
    });
    let withheld: Vec<_> = withheld.collect();
    Some(said.chain(withheld).collect())
}

/// What the last look found, also of services that could not be used.
#[derive(Default)]
struct Seen(BTreeMap<String, Params>);

/// Makes the table have from labels what was found, and nothing else.
async fn apply(api: &Api, seen: &mut Seen, found: BTreeMap<String, Params>) {
    let changed = {
        let mut table = api.table();
        let mut changed = false;
        let said: BTreeMap<String, Params> = (table.said(Source::Labels))
            .map(|(name, params)| (name.to_owned(), params.clone()))
            .collect();
        for name in said.keys().chain(seen.0.keys()) {
            if !found.contains_key(name) {
                changed |= table.withdraw(Source::Labels, name);
            }
        }
        for (name, params) in &found {
            // What was refused is not tried again until it changes; what is in force stays untouched.
            let is_known = seen.0.get(name) == Some(params) || said.get(name) == Some(params);
            if is_known {
                continue;
            }
            let (service, outcome) = api.put_from(&mut table, Source::Labels, params.clone());
            match outcome {
                Ok(is_changed) => changed |= is_changed,
                Err((_, problem)) => tracing::warn!(service, problem, "labels cannot be used"),
            }
        }
        changed
    };
    seen.0 = found;
    if changed {
        let kept = api.keep().await;
        if !kept.is_empty() {
            tracing::warn!("labels: {kept}");
        }
    }
}
