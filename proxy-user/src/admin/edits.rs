// SPDX-License-Identifier: MIT OR Apache-2.0
//! `POST /v1/edits`: the operator's verbs, as a list of which all are done or none.
//!
//! The answer comes when the edits are on the disk and either in force or known not to be: the edits themselves
//! go one way, through the provider, and what is told is what the next view shows.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Limited};
use hyper::{Request, StatusCode, body::Incoming};
use serde_json::{Value, json};

use super::api::one;
use crate::{
    daemon::{Shared, View},
    model::{Frontend, FrontendAddr, Protocol, Vip},
    providers::api::{Done, Edit, EditError, KIND, STATE_BYTES_MAX, ServiceSpec},
    reconcile::{Status, desired::frontend_key},
};

/// How long an answer waits for the kernel to follow: twice the longest time between two turns of the control
/// thread.
const EFFECT_WAIT: Duration = Duration::from_secs(2);
/// How long a client may take to send the edits.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// Status and body.
pub(super) async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> (StatusCode, Value) {
    match edit(request, shared).await {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (status(&error), json!({ "error": error.to_string() })),
    }
}

fn status(error: &EditError) -> StatusCode {
    match error {
        EditError::Wrong(_) => StatusCode::BAD_REQUEST,
        EditError::Missing(_) => StatusCode::NOT_FOUND,
        EditError::Exists(_) | EditError::Owned { .. } => StatusCode::CONFLICT,
        EditError::Disk(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn edit(request: Request<Incoming>, shared: &Arc<Shared>) -> Result<Value, EditError> {
    let wrong = |error: &dyn std::fmt::Display| EditError::Wrong(error.to_string());
    let body = Limited::new(request.into_body(), STATE_BYTES_MAX).collect();
    let body = match tokio::time::timeout(BODY_WAIT, body).await {
        Ok(body) => body.map_err(|error| EditError::Wrong(error.to_string()))?,
        Err(_) => return Err(EditError::Wrong("the edits did not arrive in time".into())),
    };
    let edits: Vec<Edit> = serde_json::from_slice(&body.to_bytes()).map_err(|error| wrong(&error))?;
    let names: BTreeSet<String> = edits.iter().map(|edit| edit.service().to_owned()).collect();
    allowed(&edits, shared)?;

    let working = shared.clone();
    let done = tokio::task::spawn_blocking(move || working.api.apply(&edits)).await;
    let done = done.map_err(|error| EditError::Disk(error.to_string()))??;
    tracing::info!(services = ?names, revision = done.revision, "the operator's verbs");
    let in_force = effect(shared, &done, &names).await;
    Ok(told(shared, &done, &names, in_force))
}

/// Whether the edits touch nothing that another provider has. What changes between this look and the edit is
/// refused later, by the Writer.
fn allowed(edits: &[Edit], shared: &Shared) -> Result<(), EditError> {
    let view = shared.view.load();
    let kept = shared.api.state();
    for edit in edits {
        let name = edit.service();
        if !kept.services.contains_key(name) && view.tables.services.contains_key(name) {
            return Err(EditError::Owned {
                service: name.into(),
                owner: view.provider.into(),
                how: match view.provider {
                    "docker" => "change it with `docker service`".into(),
                    _ => format!("edit {}", view.source),
                },
            });
        }
        if let Edit::AddService { spec, .. } = edit {
            claims(spec, name, &view, &kept)?;
        }
    }
    Ok(())
}

/// Whether another provider's service has one of the addresses or ports.
fn claims(
    spec: &ServiceSpec,
    name: &str,
    view: &View,
    kept: &crate::providers::api::State,
) -> Result<(), EditError> {
    let params = spec.params(name);
    let taken = |what: String, owner: Option<&Frontend>| {
        let other = owner.map_or("", |frontend| frontend.service.as_str());
        if other.is_empty() || other == name || kept.services.contains_key(other) {
            return Ok(());
        }
        Err(EditError::Wrong(format!(
            "{what} belongs to service '{other}' of the provider '{}'; choose another",
            view.provider
        )))
    };
    for (network, text) in &params.vips {
        if let Ok((address, port)) = Vip::parse(text) {
            for (vip, owner) in view.tables.owners_of_vip(network, address, port) {
                taken(format!("the VIP {vip}"), Some(owner))?;
            }
        }
    }
    for port in &params.ports {
        let address = u16::try_from(port.published)
            .ok()
            .zip(Protocol::parse(&port.protocol));
        let address = address.map(|(port, protocol)| FrontendAddr::Published { port, protocol });
        let owner = address.and_then(|address| view.tables.frontends.get(&address));
        taken(
            format!("the port {}/{}", port.published, port.protocol),
            owner.map(Arc::as_ref),
        )?;
    }
    Ok(())
}

/// Waits until the view has the edits and nothing of these services is pending.
async fn effect(shared: &Shared, done: &Done, names: &BTreeSet<String>) -> bool {
    let mut shown = shared.shown.subscribe();
    let waiting = async {
        loop {
            shown.borrow_and_update();
            let view = shared.view.load_full();
            if view.revision >= done.revision && !pending(&view, names) {
                return;
            }
            if shown.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    tokio::time::timeout(EFFECT_WAIT, waiting).await.is_ok()
}

fn pending(view: &View, names: &BTreeSet<String>) -> bool {
    let services = names
        .iter()
        .filter_map(|name| view.tables.services.get(name.as_str()));
    services.flat_map(|service| service.frontends()).any(|address| {
        matches!(
            view.statuses.get(&frontend_key(address)),
            None | Some(Status::Pending)
        )
    })
}

fn told(shared: &Shared, done: &Done, names: &BTreeSet<String>, in_force: bool) -> Value {
    let view = shared.view.load_full();
    let (kept, standings) = (shared.api.state(), shared.health.standings());
    let services: Vec<Value> = names
        .iter()
        .filter_map(|name| view.tables.services.get(name.as_str()))
        .map(|service| one(&view, &kept, &standings, service))
        .collect();
    let refused: Vec<String> = view
        .refusals
        .iter()
        .filter(|refusal| refusal.source == KIND && names.contains(&refusal.name))
        .map(ToString::to_string)
        .collect();
    json!({
        "changed": done.changed,
        "revision": done.revision,
        "in_force": in_force && refused.is_empty(),
        "refused": refused,
        "services": services,
    })
}
