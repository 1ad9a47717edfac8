// SPDX-License-Identifier: MIT OR Apache-2.0
//! `POST /v1/flows` and `/v1/flows/flush`: flows of published ports on this node.
//!
//! A flow is shown once: as its entry node sees it, and on the node of its task as what came through the tunnel.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use hyper::{Request, StatusCode, body::Incoming};
use proxy_ebpf::{
    abi::{
        Backend, FlowKey, FrontendKey,
        flow::{BACK, ENTRY, TASK},
        frontend::PUBLISHED,
    },
    datapath::Maps,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::names::{Failure, Names, address, failure, ip, mirror, protocol, question, state};
use crate::{
    daemon::Shared,
    kernel::mirror::{Look, Row},
};

/// Most flows in one answer, unless fewer are asked for.
const ANSWER_MAX: usize = 10_000;

/// Which flows; what is not named matches all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Filter {
    service: Option<String>,
    /// Address, or address with prefix length.
    client: Option<ipnet::Ipv4Net>,
    /// A backend's address, or a task's name.
    backend: Option<String>,
    state: Option<String>,
    protocol: Option<String>,
    /// The published port.
    port: Option<u16>,
    limit: Option<usize>,
}

/// Lists.
pub(super) async fn list(request: Request<Incoming>, shared: &Arc<Shared>) -> (StatusCode, Value) {
    act(request, shared, false).await
}

/// Forgets.
pub(super) async fn flush(request: Request<Incoming>, shared: &Arc<Shared>) -> (StatusCode, Value) {
    act(request, shared, true).await
}

async fn act(request: Request<Incoming>, shared: &Arc<Shared>, flush: bool) -> (StatusCode, Value) {
    let filter: Filter = match question(request).await {
        Ok(filter) => filter,
        Err(failure) => return failure,
    };
    let shared = shared.clone();
    // A table for a million flows is 96 MiB to look through: not on the thread that answers everybody.
    let done = tokio::task::spawn_blocking(move || {
        if flush {
            forget(&shared, &filter)
        } else {
            show(&shared, &filter)
        }
    });
    match done.await {
        Ok(Ok(body)) => (StatusCode::OK, body),
        Ok(Err(failure)) => failure,
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn show(shared: &Shared, filter: &Filter) -> Result<Value, Failure> {
    let mirror = mirror(shared)?;
    let reader = Reader::new(shared)?;
    let limit = filter.limit.unwrap_or(ANSWER_MAX).min(ANSWER_MAX);
    let (mut rows, mut matching) = (Vec::new(), 0_u64);
    mirror
        .flows(|row| {
            if let Some(value) = reader.read(&row).filter(|value| filter.matches(&row, value)) {
                matching += 1;
                if rows.len() < limit {
                    rows.push(value);
                }
            }
        })
        .map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    Ok(json!({ "flows": rows, "matching": matching }))
}

/// Both sides of a flow go, whichever of them the filter can name.
fn forget(shared: &Shared, filter: &Filter) -> Result<Value, Failure> {
    let mirror = mirror(shared)?;
    let reader = Reader::new(shared)?;
    let failed = |error| failure(StatusCode::INTERNAL_SERVER_ERROR, error);
    let mut sides: HashMap<FlowKey, ()> = HashMap::new();
    let mut flows = 0_u64;
    mirror
        .flows(|row| {
            let Some(value) = reader.read(&row).filter(|value| filter.matches(&row, value)) else {
                return;
            };
            flows += 1;
            sides.insert(row.key, ());
            if row.key.side == ENTRY {
                let (client, task) = (
                    (row.key.client_be, row.key.client_port_be),
                    (row.flow.nat_addr_be, row.flow.nat_port_be),
                );
                let masked = (row.flow.peer_be, row.flow.peer_port_be);
                let seen_as = if masked.0 == 0 { client } else { masked };
                sides.insert(FlowKey::new(TASK, row.key.protocol, seen_as, task), ());
                if masked.0 != 0 {
                    let local = (row.key.local_be, row.key.local_port_be);
                    sides.insert(FlowKey::new(ENTRY, row.key.protocol, masked, local), ());
                }
            }
            drop(value);
        })
        .map_err(failed)?;
    let entries = mirror.flush(|row| sides.contains_key(&row.key)).map_err(failed)?;
    Ok(json!({ "flushed": flows, "entries": entries }))
}

/// Makes a flow readable.
struct Reader {
    names: Names,
    look: Look,
}

impl Reader {
    fn new(shared: &Shared) -> Result<Self, Failure> {
        let look = mirror(shared)?.look();
        Ok(Self {
            names: Names::of(&shared.view.load()),
            look: look.map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error))?,
        })
    }

    /// Nothing for the sides that are not shown.
    fn read(&self, row: &Row) -> Option<Value> {
        let (key, flow) = (&row.key, &row.flow);
        let entry = key.side == ENTRY;
        if flow.flags & BACK != 0 || (!entry && flow.node_be == 0) {
            return None;
        }
        let used = if entry {
            (key.local_be, key.local_port_be)
        } else {
            (flow.nat_addr_be, flow.nat_port_be)
        };
        let frontend = FrontendKey {
            port_be: used.1,
            protocol: key.protocol,
            kind: PUBLISHED,
            ..FrontendKey::default()
        };
        let task = if entry {
            (flow.nat_addr_be, flow.nat_port_be)
        } else {
            (key.local_be, key.local_port_be)
        };
        let backend: Option<&Backend> = (entry && flow.backend != 0)
            .then(|| self.look.backend(flow.backend))
            .flatten();
        Some(json!({
            "protocol": protocol(key.protocol),
            "client": address(key.client_be, key.client_port_be).to_string(),
            "used": address(used.0, used.1).to_string(),
            "service": self.names.service(&frontend),
            "task_address": address(task.0, task.1).to_string(),
            "backend": backend.map(|backend| self.names.backend(flow.backend, backend)),
            "state": state(flow.state),
            "idle_s": row.idle_s,
            "side": if entry { "entry" } else { "from tunnel" },
            "entry_node": (!entry).then(|| ip(flow.node_be).to_string()),
            "masqueraded_as": (flow.peer_be != 0).then(|| address(flow.peer_be, flow.peer_port_be).to_string()),
        }))
    }
}

impl Filter {
    fn matches(&self, row: &Row, shown: &Value) -> bool {
        let is = |wanted: &Option<String>, value: &Value| {
            wanted
                .as_ref()
                .is_none_or(|wanted| value.as_str() == Some(wanted))
        };
        let client: Ipv4Addr = ip(row.key.client_be);
        let backend = |wanted: &String| {
            let task_address = shown["task_address"].as_str().unwrap_or_default();
            let address = task_address.rsplit_once(':').map_or("", |(address, _)| address);
            shown["backend"]["task"] == **wanted
                || shown["backend"]["address"] == **wanted
                || task_address == wanted
                || address == wanted
        };
        let port = shown["used"].as_str().and_then(|used| used.rsplit_once(':'));
        is(&self.service, &shown["service"])
            && is(&self.state, &shown["state"])
            && is(&self.protocol, &shown["protocol"])
            && self.client.is_none_or(|net| net.contains(&client))
            && self.backend.as_ref().is_none_or(backend)
            && self
                .port
                .is_none_or(|wanted| port.is_some_and(|(_, port)| port == wanted.to_string()))
    }
}
