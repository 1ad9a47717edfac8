// SPDX-License-Identifier: MIT OR Apache-2.0
//! `POST /v1/flows` and `/v1/flows/flush`: flows of published ports on this node.
//!
//! A flow is shown once: as its entry node sees it, and on the node of its task as what came through the tunnel.

use std::{collections::HashMap, sync::Arc};

use hyper::{Request, StatusCode, body::Incoming};
use proxy_ebpf::{
    abi::{
        Backend, FlowKey,
        flow::{BACK, ENTRY, TASK},
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
            let seen = reader.see(&row);
            if let Some(seen) = seen.filter(|seen| filter.matches(seen, || reader.backend(seen))) {
                matching += 1;
                // Of a million flows all are counted, and few are written down.
                if rows.len() < limit {
                    rows.push(reader.show(&seen));
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
            let matches = |seen: Seen<'_>| filter.matches(&seen, || reader.backend(&seen));
            if !reader.see(&row).is_some_and(matches) {
                return;
            }
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
        })
        .map_err(failed)?;
    let entries = mirror.flush(|row| sides.contains_key(&row.key)).map_err(failed)?;
    Ok(json!({ "flushed": flows, "entries": entries }))
}

/// What a flow is about, as people know it; addresses and ports in network order.
struct Seen<'a> {
    row: &'a Row,
    /// Whether this node was asked; otherwise it came through the tunnel.
    entry: bool,
    /// What the client used.
    used: (u32, u16),
    task: (u32, u16),
    service: Option<&'a str>,
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
    fn see<'a>(&'a self, row: &'a Row) -> Option<Seen<'a>> {
        let (key, flow) = (&row.key, &row.flow);
        let entry = key.side == ENTRY;
        if flow.flags & BACK != 0 || (!entry && flow.node_be == 0) {
            return None;
        }
        let (local, nat) = (
            (key.local_be, key.local_port_be),
            (flow.nat_addr_be, flow.nat_port_be),
        );
        let (used, task) = if entry { (local, nat) } else { (nat, local) };
        let service = self.names.used(used.0, used.1, key.protocol);
        Some(Seen {
            row,
            entry,
            used,
            task,
            service,
        })
    }

    fn backend(&self, seen: &Seen<'_>) -> Value {
        let id = seen.row.flow.backend;
        let backend: Option<&Backend> = (seen.entry && id != 0).then(|| self.look.backend(id)).flatten();
        json!(backend.map(|backend| self.names.backend(id, backend)))
    }

    fn show(&self, seen: &Seen<'_>) -> Value {
        let (key, flow) = (&seen.row.key, &seen.row.flow);
        json!({
            "protocol": protocol(key.protocol),
            "client": address(key.client_be, key.client_port_be).to_string(),
            "used": address(seen.used.0, seen.used.1).to_string(),
            "service": seen.service,
            "task_address": address(seen.task.0, seen.task.1).to_string(),
            "backend": self.backend(seen),
            "state": state(flow.state),
            "idle_s": seen.row.idle_s,
            "side": if seen.entry { "entry" } else { "from tunnel" },
            "entry_node": (!seen.entry).then(|| ip(flow.node_be).to_string()),
            "masqueraded_as": (flow.peer_be != 0).then(|| address(flow.peer_be, flow.peer_port_be).to_string()),
        })
    }
}

impl Filter {
    /// `backend` names it, which is work that few questions need.
    fn matches(&self, seen: &Seen<'_>, backend: impl Fn() -> Value) -> bool {
        let key = &seen.row.key;
        let is_backend = |wanted: &String| {
            let task = address(seen.task.0, seen.task.1);
            let backend = backend();
            backend["task"] == **wanted
                || backend["address"] == **wanted
                || task.to_string() == *wanted
                || task.ip().to_string() == *wanted
        };
        let is = |wanted: &Option<String>, word: &str| wanted.as_ref().is_none_or(|wanted| wanted == word);
        (self.service.as_ref()).is_none_or(|wanted| seen.service == Some(wanted))
            && is(&self.state, state(seen.row.flow.state))
            && (self.protocol.is_none() || is(&self.protocol, &protocol(key.protocol)))
            && self.client.is_none_or(|net| net.contains(&ip(key.client_be)))
            && self.port.is_none_or(|wanted| wanted == u16::from_be(seen.used.1))
            && self.backend.as_ref().is_none_or(is_backend)
    }
}

#[cfg(test)]
mod tests {
    use proxy_ebpf::abi::{Flow, PROTO_TCP, flow::OPEN};
    use serde_json::from_value;

    use super::*;

    #[test]
    fn a_flow_matches_what_is_said_of_it_and_nothing_else() {
        let be = |text: &str| u32::from_ne_bytes(text.parse::<std::net::Ipv4Addr>().unwrap().octets());
        let [client, node, task] = ["10.0.1.2", "192.168.0.1", "172.18.0.5"].map(be);
        let [used, target] = [8080_u16, 80].map(u16::to_be);
        let row = Row {
            key: FlowKey::new(ENTRY, PROTO_TCP, (client, 4000_u16.to_be()), (node, used)),
            flow: Flow {
                state: OPEN,
                ..Flow::default()
            },
            idle_s: 0,
        };
        let seen = Seen {
            row: &row,
            entry: true,
            used: (node, used),
            task: (task, target),
            service: Some("web"),
        };
        let asked = std::cell::Cell::new(0);
        let matches = |filter: Value| {
            let filter: Filter = from_value(filter).unwrap();
            filter.matches(&seen, || {
                asked.set(asked.get() + 1);
                json!({ "task": "web.1", "address": "10.0.9.5" })
            })
        };
        assert!(matches(json!({})));
        let all = json!({ "service": "web", "client": "10.0.1.0/24", "state": "established", "protocol": "tcp",
            "port": 8080 });
        assert!(matches(all));
        for (field, other) in [
            ("service", json!("other")),
            ("client", json!("10.0.2.0/24")),
            ("state", json!("closing")),
            ("protocol", json!("udp")),
            ("port", json!(80)),
        ] {
            assert!(!matches(json!({ field: other })), "{field}");
        }
        assert_eq!(asked.get(), 0, "no backend was asked for");
        for name in ["web.1", "10.0.9.5", "172.18.0.5", "172.18.0.5:80"] {
            assert!(matches(json!({ "backend": name })), "{name}");
        }
        assert!(!matches(json!({ "backend": "web.2" })));
    }
}
