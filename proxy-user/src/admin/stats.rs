// SPDX-License-Identifier: MIT OR Apache-2.0
//! `POST /v1/stats`: what frontends and backends were given so far, what is open, and what the node counted.

use std::{collections::HashMap, sync::Arc};

use hyper::{Request, StatusCode, body::Incoming};
use proxy_ebpf::{
    abi::{Backend, Counter, SlotKey, Tally},
    datapath::Maps,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::names::{Failure, Names, failure, mirror, question};
use crate::{
    daemon::{Shared, View},
    kernel::mirror::Look,
    model::{FrontendAddr, Service, Vip},
    reconcile::{
        desired::{Ident, frontend_key, ident, ident_of},
        key::FrontKey,
    },
};

/// Whose numbers; everybody's if nobody is named.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Question {
    service: Option<String>,
}

pub(super) async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> (StatusCode, Value) {
    let asked: Question = match question(request).await {
        Ok(asked) => asked,
        Err(failure) => return failure,
    };
    let shared = shared.clone();
    // Some system calls for each backend, of which there may be thousands: not on the thread that answers everybody.
    let done = tokio::task::spawn_blocking(move || read(&shared, &asked)).await;
    match done {
        Ok(Ok(body)) => (StatusCode::OK, body),
        Ok(Err(failure)) => failure,
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

fn read(shared: &Shared, asked: &Question) -> Result<Value, Failure> {
    let look = mirror(shared)?.look();
    let look = look.map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let view = shared.view.load();
    let services = services(&view, &look, asked.service.as_deref())?;
    let (drops, events): (Vec<_>, Vec<_>) = (shared.counters)()
        .into_iter()
        .partition(|(name, _)| is_drop(name));
    let by_name = |list: Vec<(String, u64)>| -> Map<String, Value> {
        list.into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect()
    };
    Ok(json!({
        "node": view.node, "services": services, "events": by_name(events), "drops": by_name(drops),
    }))
}

fn is_drop(name: &str) -> bool {
    let known = Counter::ALL.iter().find(|counter| counter.name() == name);
    known.is_some_and(|counter| counter.is_drop())
}

/// All that is asked of the maps.
trait Numbers {
    /// Backends that the slots of a frontend name.
    fn slots(&self, frontend: &FrontKey) -> Vec<(u32, Backend)>;
    /// Backends that no slot may name.
    fn draining(&self) -> Vec<(u32, Backend)>;
    /// What is counted of a backend.
    fn tally_of(&self, backend: u32) -> Tally;
}

impl Numbers for Look {
    fn slots(&self, frontend: &FrontKey) -> Vec<(u32, Backend)> {
        let Some(frontend) = frontend.entry(self) else {
            return Vec::new();
        };
        let ids = (0..frontend.slots).filter_map(|index| {
            let frontend = frontend.id;
            self.slot(&SlotKey { frontend, index })
        });
        ids.filter_map(|id| Some((id, *self.backend(id)?))).collect()
    }
    fn tally_of(&self, backend: u32) -> Tally {
        Look::tally_of(self, backend)
    }
    fn draining(&self) -> Vec<(u32, Backend)> {
        Look::draining(self)
    }
}

fn services(view: &View, maps: &impl Numbers, wanted: Option<&str>) -> Result<Vec<Value>, Failure> {
    let names = Names::of(view);
    let mut reader = Reader {
        view,
        maps,
        names,
        draining: None,
    };
    let all = view.tables.services.values();
    let found: Vec<Value> = all
        .filter(|service| wanted.is_none_or(|wanted| service.name.as_str() == wanted))
        .map(|service| reader.service(service))
        .collect();
    match wanted {
        Some(name) if found.is_empty() => Err(failure(
            StatusCode::NOT_FOUND,
            format!("there is no service '{name}'"),
        )),
        _ => Ok(found),
    }
}

struct Reader<'a, M> {
    view: &'a View,
    maps: &'a M,
    names: Names,
    /// Read when somebody is found who drains: a look through all backends.
    draining: Option<HashMap<Ident, Vec<(u32, Backend)>>>,
}

/// What is summed up.
#[derive(Default)]
struct Sum {
    opened: u64,
    /// Nothing is known of connections to VIPs.
    open: Option<u64>,
}

impl Sum {
    fn add(&mut self, other: &Sum) {
        self.opened += other.opened;
        if let Some(open) = other.open {
            *self.open.get_or_insert_default() += open;
        }
    }
}

impl<M: Numbers> Reader<'_, M> {
    fn service(&mut self, service: &Service) -> Value {
        let mut sum = Sum::default();
        let frontends: Vec<Value> = service
            .frontends()
            .map(|address| {
                let (value, part) = self.frontend(address, &service.vips);
                sum.add(&part);
                value
            })
            .collect();
        json!({
            "name": service.name.as_str(), "opened": sum.opened, "open": sum.open, "frontends": frontends,
        })
    }

    fn frontend(&mut self, address: FrontendAddr, vips: &[Vip]) -> (Value, Sum) {
        let published = matches!(address, FrontendAddr::Published { .. });
        let mut sum = Sum {
            opened: 0,
            open: published.then_some(0),
        };
        let mut backends = Vec::new();
        let slots = self.maps.slots(&frontend_key(address)).into_iter();
        let by_slot: HashMap<Ident, (u32, Backend)> = slots
            .map(|(id, backend)| (ident(&backend), (id, backend)))
            .collect();
        let view = self.view;
        for model in view
            .tables
            .frontends
            .get(&address)
            .map_or(&[][..], |f| &f.backends)
        {
            let ident = ident_of(model);
            let found = by_slot.get(&ident).copied().or_else(|| self.drained(ident));
            let mut value = match &found {
                Some((id, backend)) => self.names.backend(*id, backend),
                None => json!({ "id": null, "address": model.address.to_string() }),
            };
            let tally = found.map(|(id, _)| self.maps.tally_of(id));
            let part = tally.map(|tally| Sum {
                opened: tally.opened.into(),
                open: published.then_some(tally.open.max(0) as u64),
            });
            value["opened"] = json!(part.as_ref().map(|part| part.opened));
            value["open"] = json!(part.as_ref().and_then(|part| part.open));
            value["weight"] = model.weight.into();
            value["draining"] = model.draining.into();
            if let Some(part) = part {
                sum.add(&part);
            }
            backends.push(value);
        }
        let value = json!({
            "frontend": text(address, vips),
            "kind": if published { "published" } else { "vip" },
            "opened": sum.opened, "open": sum.open, "backends": backends,
        });
        (value, sum)
    }

    /// Who has none any more. If two frontends have equal ones, each gets one of them.
    fn drained(&mut self, wanted: Ident) -> Option<(u32, Backend)> {
        let draining = self.draining.get_or_insert_with(|| {
            let mut by_ident: HashMap<Ident, Vec<(u32, Backend)>> = HashMap::new();
            for (id, backend) in self.maps.draining() {
                by_ident.entry(ident(&backend)).or_default().push((id, backend));
            }
            by_ident
        });
        draining.get_mut(&wanted)?.pop()
    }
}

/// A frontend as the operator writes it.
fn text(address: FrontendAddr, vips: &[Vip]) -> String {
    match (address, vips.iter().find(|vip| vip.frontend() == address)) {
        (FrontendAddr::Vip { address, port, .. }, Some(vip)) => match port {
            Some(port) => format!("{}={address}:{port}", vip.network_name),
            None => format!("{}={address}", vip.network_name),
        },
        (address, _) => address.to_string(),
    }
}

#[cfg(test)]
mod tests;
