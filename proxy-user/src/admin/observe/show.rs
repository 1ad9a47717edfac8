// SPDX-License-Identifier: MIT OR Apache-2.0
//! An event as people know it. The names of its fields are a contract (`docs/verbs.md`).

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use proxy_ebpf::abi::{Backend, Counter, Event};
use serde_json::{Value, json};

use crate::{
    admin::names::{Names, ip, protocol},
    daemon::{Shared, View},
    model::{Cookie, Tables, addr::ip6},
    reconcile::key::FrontKey,
};

/// An address of an event; none if it is not known.
pub(super) fn address(words: [u32; 4]) -> Option<IpAddr> {
    (words != [0; 4]).then(|| ip6(words).to_canonical())
}

/// Names for one observer, made anew when the tables change.
pub(super) struct Shower {
    shared: Arc<Shared>,
    tables: Arc<Tables>,
    names: Names,
}

impl Shower {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let view = shared.view.load_full();
        Self {
            names: Names::of(&view),
            tables: view.tables.clone(),
            shared,
        }
    }

    fn refresh(&mut self) {
        let view: Arc<View> = self.shared.view.load_full();
        if !Arc::ptr_eq(&view.tables, &self.tables) {
            self.names = Names::of(&view);
            self.tables = view.tables.clone();
        }
    }

    /// Whose address was used.
    pub(super) fn service(&mut self, event: &Event) -> Option<String> {
        self.refresh();
        let found = if event.network == 0 {
            let addr_be = event.to[3];
            self.names.used(addr_be, event.to_port_be, event.protocol)
        } else {
            let vip = |port_be, protocol| {
                FrontKey::vip(event.network, address(event.to)?, port_be, protocol).into()
            };
            let service = |key: Option<FrontKey>| self.names.service(&key?);
            service(vip(event.to_port_be, event.protocol)).or_else(|| service(vip(0, 0)))
        };
        found.map(str::to_owned)
    }

    pub(super) fn show(
        &self,
        event: &Event,
        counter: Counter,
        service: Option<&str>,
        backend: Option<&Backend>,
        at_ms: u64,
    ) -> Value {
        let path = match counter {
            Counter::FlowLocal => Some("local"),
            Counter::FlowRemote => Some("tunnel"),
            Counter::FlowDirect => Some("direct"),
            Counter::FlowTunnel => Some("from tunnel"),
            Counter::SockConnect | Counter::SockSendmsg => Some("socket"),
            Counter::FlowClosed | Counter::FlowReset if event.node_be == 0 => Some("local"),
            Counter::FlowClosed | Counter::FlowReset => Some("tunnel"),
            _ => None,
        };
        let kind = match counter {
            Counter::FlowClosed => "closed",
            Counter::FlowReset => "reset",
            counter if counter.is_drop() => "drop",
            _ => "opened",
        };
        let by = || if event.by_task == 0 { "client" } else { "task" };
        let known = |words, port_be| {
            let socket = |ip| SocketAddr::new(ip, u16::from_be(port_be)).to_string();
            address(words).map(socket)
        };
        let from = if event.namespace == 0 {
            known(event.from, event.from_port_be)
        } else if self
            .tables
            .scopes
            .get(&Cookie(event.namespace))
            .is_some_and(|scope| scope.host)
        {
            Some("host".into())
        } else {
            Some(format!("namespace {}", event.namespace))
        };
        json!({
            "at_ms": at_ms,
            "event": kind,
            "reason": counter.name(),
            "protocol": (event.protocol != 0).then(|| protocol(event.protocol)),
            "from": from,
            "to": known(event.to, event.to_port_be),
            "service": service,
            "backend": backend.map(|backend| self.names.backend(event.backend, backend)),
            "task_address": known(event.task, event.task_port_be),
            "path": path,
            "node": (event.node_be != 0).then(|| ip(event.node_be).to_string()),
            "namespace": (event.namespace != 0).then_some(event.namespace),
            "by": matches!(kind, "closed" | "reset").then(by),
            "interface": (event.ifindex != 0).then_some(event.ifindex),
            "tcp_flags": flags(event.tcp_flags),
        })
    }
}

/// As tcpdump writes them; nothing for what is no TCP.
fn flags(bits: u8) -> Option<String> {
    let all = [(0x02, 'S'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x10, '.')];
    let set: String = all
        .iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, letter)| letter)
        .collect();
    (bits != 0).then_some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_tcpdump_does() {
        assert_eq!(flags(0x12).as_deref(), Some("S."));
        assert_eq!(flags(0x19).as_deref(), Some("FP."));
        assert_eq!(flags(0), None);
    }
}
