// SPDX-License-Identifier: MIT OR Apache-2.0
//! `POST /v1/trace`: what would happen to a client's first packet, or to the next one of a flow that is known.
//!
//! The decision is the programs' own code over the maps' content; nothing is written and nothing is sent.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use hyper::{Request, StatusCode, body::Incoming};
use proxy_ebpf::{
    abi::{
        Counter, FlowKey, Frontend, PROTO_TCP, PROTO_UDP,
        flow::{CLOSING, ENTRY},
        frontend::{DSR, FLOW_HASH, LEAST, MASQUERADE, RANDOM, SOURCE_HASH},
    },
    datapath::{
        Maps, Out, Packet, direct,
        flows::live,
        ip::{Ip, V6},
        packet::{Kind, TCP_SYN},
        published::{self, Env},
        sock::{self, Address, Caller, Verdict},
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::names::{Failure, Names, failure, ip, mirror, question, state};
use crate::{
    daemon::{Shared, View},
    kernel::{
        mirror::{Look, Mirror},
        netns,
    },
    model::{
        Place,
        addr::{be, be6, ip6},
    },
    reconcile::key::FrontKey,
};

/// What to follow.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// An address, with a port when a known flow is meant; or the name of a task of this node; or `host`.
    client: String,
    /// Where it connects to.
    to: SocketAddr,
    /// `tcp` or `udp`.
    #[serde(default)]
    protocol: Option<String>,
}

/// Source port of a client that named none.
const ANY_PORT: u16 = 50_000;

/// Status and body.
pub(super) async fn answer(request: Request<Incoming>, shared: &Arc<Shared>) -> (StatusCode, Value) {
    let asked: Question = match question(request).await {
        Ok(asked) => asked,
        Err(failure) => return failure,
    };
    let shared = shared.clone();
    match tokio::task::spawn_blocking(move || trace(&shared, &asked)).await {
        Ok(Ok(body)) => (StatusCode::OK, body),
        Ok(Err(failure)) => failure,
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// Who connects.
enum Client {
    /// Somebody outside, who comes in by an uplink.
    Outside(Ipv4Addr, Option<u16>),
    /// The same with an IPv6 address.
    Outside6,
    /// A process in a namespace of this node.
    Inside(u64),
}

fn trace(shared: &Shared, asked: &Question) -> Result<Value, Failure> {
    let broken = |error: std::io::Error| failure(StatusCode::INTERNAL_SERVER_ERROR, error);
    let protocol = match asked.protocol.as_deref().unwrap_or("tcp") {
        "tcp" => PROTO_TCP,
        "udp" => PROTO_UDP,
        other => {
            let why = format!("'{other}' is neither tcp nor udp");
            return Err(failure(StatusCode::BAD_REQUEST, why));
        }
    };
    let mirror = mirror(shared)?;
    let view = shared.view.load();
    let look = mirror.look().map_err(broken)?;
    let names = Names::of(&view);
    let port_be = asked.to.port().to_be();
    let mut told = match (client(&asked.client, &view)?, asked.to.ip()) {
        (Client::Outside(address, port), IpAddr::V4(to)) => {
            let addr = be(to);
            outside(
                mirror,
                &look,
                &names,
                (address, port),
                Address { addr, port_be },
                protocol,
            )
        }
        (Client::Outside(..), IpAddr::V6(_)) | (Client::Outside6, IpAddr::V4(_)) => {
            let why = "client and destination are of two kinds: one is an IPv4 address and one is not";
            return Err(failure(StatusCode::BAD_REQUEST, why));
        }
        (Client::Outside6, IpAddr::V6(_)) => {
            let key = FrontKey::published(port_be, protocol);
            let published = key.entry(&look).is_some();
            let (result, why) = if published {
                (
                    "refused",
                    "published ports are served to IPv4 clients (ICMPv6 port unreachable)",
                )
            } else {
                ("not ours", "nobody publishes this port")
            };
            json!({ "hook": "uplink", "service": names.service(&key), "result": result, "why": why })
        }
        (Client::Inside(namespace), IpAddr::V4(to)) => {
            let addr = be(to);
            inside(&look, &names, namespace, Address { addr, port_be }, protocol)
        }
        (Client::Inside(namespace), IpAddr::V6(to)) => {
            let addr = V6(be6(to));
            inside(&look, &names, namespace, Address { addr, port_be }, protocol)
        }
    };
    told["client"] = asked.client.clone().into();
    told["to"] = asked.to.to_string().into();
    told["protocol"] = super::names::protocol(protocol).into();
    let counted: Vec<&str> = look.counted().iter().map(|counter| counter.name()).collect();
    told["would_count"] = json!(counted);
    Ok(told)
}

/// A task of this node by name or by one of its addresses, the node itself, or somebody outside.
fn client(text: &str, view: &View) -> Result<Client, Failure> {
    let address: Option<IpAddr> = text.parse().ok();
    let tasks = view.tables.services.values().flat_map(|service| &service.tasks);
    let mut known = tasks.filter_map(|task| match &task.place {
        Place::Here { netns: Some(netns) } => Some((task, netns)),
        _ => None,
    });
    let found = known.find(|(task, _)| {
        task.name.as_str() == text
            || address.is_some_and(|address| task.networks.values().any(|own| own.0 == address))
    });
    let cookie = |path: &PathBuf| {
        netns::inspect(path)
            .map(|facts| facts.cookie)
            .map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error))
    };
    if let Some((_, netns)) = found {
        return Ok(Client::Inside(cookie(netns)?));
    }
    if text == "host" {
        return netns::own_cookie()
            .map(Client::Inside)
            .map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, error));
    }
    match address {
        Some(IpAddr::V4(address)) => return Ok(Client::Outside(address, None)),
        Some(IpAddr::V6(_)) => return Ok(Client::Outside6),
        None => {}
    }
    match text.parse::<SocketAddr>() {
        Ok(SocketAddr::V4(socket)) => Ok(Client::Outside(*socket.ip(), Some(socket.port()))),
        Ok(SocketAddr::V6(_)) => Ok(Client::Outside6),
        Err(_) => Err(failure(
            StatusCode::BAD_REQUEST,
            format!("'{text}' is no address, no task of this node, and not `host`"),
        )),
    }
}

/// A packet at an uplink.
fn outside(
    mirror: &Mirror,
    look: &Look,
    names: &Names,
    (client, port): (Ipv4Addr, Option<u16>),
    to: Address<u32>,
    protocol: u8,
) -> Value {
    let settings = mirror.settings();
    let env = Env {
        generation: 0,
        tunnel_ifindex: settings.tunnel_ifindex,
        uplink_ifindex: settings.uplink_ifindex,
        ifindex: settings.uplink_ifindex,
        now: Mirror::now(),
    };
    let mut packet = Packet {
        src_be: u32::from(client).to_be(),
        dst_be: to.addr,
        src_port_be: port.unwrap_or(ANY_PORT).to_be(),
        dst_port_be: to.port_be,
        protocol,
        tcp_flags: if protocol == PROTO_TCP { TCP_SYN } else { 0 },
        l4: 0,
        kind: Kind::Whole,
    };
    let key = FlowKey::new(ENTRY, protocol, packet.source(), packet.destination());
    let known = live(look, &env, &key).filter(|flow| flow.state != CLOSING);
    if known.is_some() && protocol == PROTO_TCP {
        packet.tcp_flags = proxy_ebpf::datapath::packet::TCP_ACK;
    }
    let port = FrontKey::published(to.port_be, protocol);
    let published = port.entry(look).filter(|_| look.is_local_addr(to.addr));
    let vip = || {
        let frontend = direct::frontend(look, &packet)?;
        let (key, _) = look.found();
        Some((key?, ip(to.addr).to_string(), frontend))
    };
    let used = published.map(|frontend| (port, "*".to_owned(), frontend));
    let Some((frontend_key, address, frontend)) = used.or_else(vip) else {
        let why = if look.is_local_addr(to.addr) {
            "nobody publishes this port"
        } else if settings.vip_network != 0 {
            "the address is neither this node's nor a VIP of its own network with this port"
        } else {
            "the address is none of this node's, and VIPs are not reached from outside (--serve-vips)"
        };
        return json!({ "hook": "uplink", "result": "not ours", "why": why });
    };
    let mut stage = published::Stage::default();
    let action = {
        let step = published::look_up(look, &env, &mut packet, &mut stage);
        match step {
            published::Step::Answer(action) => action,
            published::Step::Open => {
                let unserved = published::open(look, &env, &packet, &mut stage);
                match unserved.or_else(|| published::remember(look, &env, &packet, &mut stage)) {
                    Some(reason) => published::refuse(&packet, reason),
                    None => published::deliver(look, &env, &packet, &mut stage),
                }
            }
            published::Step::Deliver => published::deliver(look, &env, &packet, &mut stage),
        }
    };
    let (result, path) = path(&action.out, &stage.frontend);
    json!({
        "hook": "uplink",
        "service": names.service(&frontend_key),
        "frontend": format!("{address}:{}/{}", u16::from_be(to.port_be), super::names::protocol(protocol)),
        "why": known.map_or_else(
            || why(frontend, look),
            |flow| format!("a known flow, state {}", state(flow.state)),
        ),
        "backend": (stage.flow.backend != 0).then(|| names.backend(stage.flow.backend, &stage.backend)),
        "result": result,
        "path": path,
        "client_address": mode(frontend),
    })
}

/// How people write it.
trait Shown {
    fn shown(self) -> IpAddr;
}

impl Shown for u32 {
    fn shown(self) -> IpAddr {
        ip(self).into()
    }
}

impl Shown for V6 {
    fn shown(self) -> IpAddr {
        ip6(self.0).to_canonical()
    }
}

/// A socket that connects.
fn inside<A: Ip + Shown>(look: &Look, names: &Names, namespace: u64, to: Address<A>, protocol: u8) -> Value {
    let caller = Caller {
        namespace,
        socket: 0,
        protocol,
        now: Mirror::now(),
    };
    if look.scope(namespace).is_none() {
        let why = "the namespace has no scope: it is no task's of this node";
        return json!({ "hook": "connect", "result": "not ours", "why": why });
    }
    let verdict = sock::connect(look, caller, to);
    let (key, backend) = look.found();
    let frontend = key.and_then(|key| key.entry(look));
    let chosen = look.backend(backend).map(|value| names.backend(backend, value));
    let (result, used) = match verdict {
        Verdict::Pass => ("not ours", None),
        Verdict::Refuse => ("refused (ECONNREFUSED)", None),
        Verdict::Use(address) => ("translated", Some(address)),
    };
    json!({
        "hook": "connect",
        "service": key.and_then(|key| names.service(&key)),
        "why": frontend.map_or_else(
            || "no VIP of the namespace's networks, and no published port of the node".into(),
            |frontend| why(frontend, look),
        ),
        "backend": chosen,
        "result": result,
        "path": used.map(|address| format!(
            "the socket connects to {}; nothing is translated per packet",
            SocketAddr::new(address.addr.shown(), u16::from_be(address.port_be)),
        )),
    })
}

/// Why a new flow gets the backend that it gets.
fn why(frontend: &Frontend, look: &Look) -> String {
    if look.counted().contains(&Counter::AffinityKept) {
        return "affinity: the client had this backend lately".into();
    }
    if frontend.slots == 0 {
        return "no backend takes new flows".into();
    }
    let scheduler = match frontend.scheduler {
        RANDOM => "random: one of many possible answers",
        SOURCE_HASH => "source hash",
        FLOW_HASH => "flow hash",
        LEAST => "fewest open flows",
        _ if frontend.table_size != 0 => {
            "weighted round robin: the next in turn, if no other comes in between"
        }
        _ => "round robin: the next in turn, if no other comes in between",
    };
    if frontend.affinity != 0 {
        return "a new client with affinity: its hash over the table".into();
    }
    format!("a new flow, {scheduler}")
}

fn path(out: &Out, frontend: &Frontend) -> (&'static str, String) {
    match out {
        Out::Pass => ("passed", "to the node's own stack".into()),
        Out::Drop(reason) => ("dropped", reason.name().into()),
        Out::Refuse(reason) => ("refused", reason.name().into()),
        Out::Veth { ifindex, .. } => (
            "delivered",
            format!("into the task's veth {ifindex} on this node"),
        ),
        Out::Tunnel { node_be, .. } => {
            let back = if frontend.flags & DSR != 0 {
                "directly"
            } else {
                "through the tunnel and this node"
            };
            (
                "delivered",
                format!("through the tunnel to {}; replies come back {back}", ip(*node_be)),
            )
        }
        Out::Route { next_be: 0 } => {
            let back = if frontend.flags & MASQUERADE != 0 {
                "come back to this node"
            } else {
                "must have this node on their way"
            };
            ("delivered", format!("by the node's routes; replies {back}"))
        }
        Out::Route { .. } => {
            let how = "as it is, by the node's routes; the backend has the VIP and answers directly";
            ("delivered", how.to_owned())
        }
        Out::Neighbour { ifindex } => ("delivered", format!("out of interface {ifindex}")),
    }
}

fn mode(frontend: &Frontend) -> &'static str {
    if frontend.flags & MASQUERADE != 0 {
        "masquerade"
    } else if frontend.flags & DSR != 0 {
        "dsr"
    } else {
        "preserve"
    }
}
