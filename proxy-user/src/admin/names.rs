// SPDX-License-Identifier: MIT OR Apache-2.0
//! From numbers in the maps back to names: the other direction of what the Writer and the reconciler do.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use http_body_util::{BodyExt, Limited};
use hyper::{Request, StatusCode, body::Incoming};
use proxy_ebpf::abi::{Backend, PROTO_TCP, PROTO_UDP, backend::LOCAL, backend::REMOTE, flow};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    daemon::{Shared, View},
    kernel::mirror::Mirror,
    model::{NetworkId, snapshot::HOST},
    reconcile::{
        desired::{address_of, frontend_key},
        key::FrontKey,
    },
};

/// Bytes of a question.
const QUESTION_BYTES_MAX: usize = 64 * 1024;

/// An error and its status.
pub(super) type Failure = (StatusCode, Value);

/// A failure with its text.
pub(super) fn failure(status: StatusCode, text: impl ToString) -> Failure {
    (status, json!({ "error": text.to_string() }))
}

/// Reads a question that came as JSON.
pub(super) async fn question<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Failure> {
    let wrong = |text: String| failure(StatusCode::BAD_REQUEST, text);
    let body = Limited::new(request.into_body(), QUESTION_BYTES_MAX)
        .collect()
        .await;
    let body = body.map_err(|error| wrong(error.to_string()))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))
}

/// The maps, or why there are none.
pub(super) fn mirror(shared: &Shared) -> Result<&Mirror, Failure> {
    let none = || {
        let why = "this agent's data plane has no maps of Portico's to look at (with IPVS: ipvsadm -Lcn)";
        failure(StatusCode::INTERNAL_SERVER_ERROR, why)
    };
    shared.mirror.as_ref().ok_or_else(none)
}

/// An address and a port in network order.
pub(super) fn address(addr_be: u32, port_be: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ip(addr_be), u16::from_be(port_be))
}

/// An address in network order.
pub(super) fn ip(addr_be: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from_be(addr_be))
}

/// `tcp` or `udp`.
pub(super) fn protocol(number: u8) -> String {
    match number {
        PROTO_TCP => "tcp".into(),
        PROTO_UDP => "udp".into(),
        other => other.to_string(),
    }
}

/// The word for a flow's state.
pub(super) fn state(state: u8) -> &'static str {
    match state {
        flow::SYN => "syn",
        flow::ANSWERED => "answered",
        flow::OPEN => "established",
        flow::CLOSING => "closing",
        flow::DATAGRAM => "datagram",
        flow::STREAM => "stream",
        _ => "unknown",
    }
}

/// The names of one view.
pub(super) struct Names {
    services: HashMap<FrontKey, String>,
    tasks: HashMap<u32, String>,
}

impl Names {
    /// Reads a view once; each question is then a look into a table.
    pub(super) fn of(view: &View) -> Self {
        let frontends = view.tables.frontends.iter();
        let services =
            frontends.map(|(address, frontend)| (frontend_key(*address), frontend.service.to_string()));
        let tasks = view.tables.services.values().flat_map(|service| &service.tasks);
        let tasks = tasks.filter_map(|task| Some((task.id?.get(), task.name.to_string())));
        Self {
            services: services.collect(),
            tasks: tasks.collect(),
        }
    }

    /// The service of a frontend.
    pub(super) fn service(&self, key: &FrontKey) -> Option<&str> {
        self.services.get(key).map(String::as_str)
    }

    /// The service that a client outside used by this address and port (network order): a VIP's, or a published
    /// port's.
    pub(super) fn used(&self, addr_be: u32, port_be: u16, protocol: u8) -> Option<&str> {
        let network = NetworkId::of(HOST).get();
        let vip = |port_be, protocol| FrontKey::vip(network, ip(addr_be).into(), port_be, protocol);
        let vip = self
            .service(&vip(port_be, protocol))
            .or_else(|| self.service(&vip(0, 0)));
        vip.or_else(|| self.service(&FrontKey::published(port_be, protocol)))
    }

    /// A backend as people know it.
    pub(super) fn backend(&self, id: u32, backend: &Backend) -> Value {
        let place = match backend.flags & (LOCAL | REMOTE) {
            LOCAL => "local",
            REMOTE => "remote",
            _ => "direct",
        };
        let port = (backend.port_be != 0).then(|| u16::from_be(backend.port_be));
        json!({
            "id": id,
            "address": address_of(backend).to_string(),
            "port": port,
            "task": self.tasks.get(&backend.task).filter(|_| backend.task != 0),
            "place": place,
            "node": (backend.node_be != 0).then(|| ip(backend.node_be).to_string()),
        })
    }
}
