// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in force, as JSON, and where each path leads. The JSON field names are a contract (`docs/verbs.md`).

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use serde_json::{Value, json};

use super::{
    edits, flows,
    observe::{self, Body, whole},
    stats, trace,
};
use crate::{
    daemon::{ProviderState, Shared, View},
    health::Standing,
    model::{
        FrontendAddr, Place, Refusal, Service,
        health::{Member, MemberKey},
    },
    providers::api::{KIND, State},
    reconcile::{Status, desired::frontend_key},
};

/// One request, one answer.
pub async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Body> {
    let view = shared.view.load_full();
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/status") => (StatusCode::OK, status(&view, &shared)),
        (&Method::GET, "/v1/services") => (StatusCode::OK, services(&view, &shared)),
        (&Method::GET, "/v1/kept") => (StatusCode::OK, json!(*shared.api.state())),
        (&Method::POST, "/v1/edits") => edits::answer(request, &shared).await,
        (&Method::POST, "/v1/flows") => flows::list(request, &shared).await,
        (&Method::POST, "/v1/flows/flush") => flows::flush(request, &shared).await,
        (&Method::POST, "/v1/observe") => match observe::answer(request, &shared).await {
            Ok(stream) => return stream,
            Err(failure) => failure,
        },
        (&Method::POST, "/v1/stats") => stats::answer(request, &shared).await,
        (&Method::POST, "/v1/trace") => trace::answer(request, &shared).await,
        (_, path @ ("/v1/status" | "/v1/services" | "/v1/kept")) => (
            StatusCode::METHOD_NOT_ALLOWED,
            json!({ "error": format!("{path} only answers GET") }),
        ),
        (
            _,
            path
            @ ("/v1/edits" | "/v1/flows" | "/v1/flows/flush" | "/v1/observe" | "/v1/stats" | "/v1/trace"),
        ) => (
            StatusCode::METHOD_NOT_ALLOWED,
            json!({ "error": format!("{path} only answers POST") }),
        ),
        (_, path) => (
            StatusCode::NOT_FOUND,
            json!({ "error": format!("there is no {path}") }),
        ),
    };
    let mut response = Response::new(whole(format!("{body:#}\n")));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The body of `/v1/status`.
pub fn status(view: &View, shared: &Shared) -> Value {
    let (state, problem) = match &view.state {
        ProviderState::Waiting => ("waiting", None),
        ProviderState::Ok => ("ok", None),
        ProviderState::Unreadable(why) => ("unreadable", Some(why)),
    };
    let count = |wanted: fn(&Status) -> bool| view.statuses.values().filter(|status| wanted(status)).count();
    let frontend_errors: Vec<Value> = view
        .tables
        .frontends
        .iter()
        .filter_map(
            |(address, frontend)| match view.statuses.get(&frontend_key(*address)) {
                Some(Status::Error(why)) => Some(json!({
                    "frontend": address.to_string(), "service": frontend.service.as_str(), "error": why,
                })),
                _ => None,
            },
        )
        .collect();
    let counters: serde_json::Map<String, Value> = (shared.counters)()
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    let refused: Vec<Value> = view
        .refusals
        .iter()
        .map(|refusal| {
            json!({
                "source": refusal.source,
                "kind": refusal.kind.as_str(),
                "name": refusal.name,
                "field": refusal.field,
                "problem": refusal.problem,
                "kept": refusal.kept,
                "message": refusal.to_string(),
            })
        })
        .collect();
    let sandboxes: Vec<Value> = view
        .sandboxes
        .iter()
        .map(|sandbox| json!({ "task": sandbox.task, "path": sandbox.path, "problem": sandbox.problem }))
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": view.node,
        "uptime_s": SystemTime::now().duration_since(view.started).unwrap_or_default().as_secs(),
        "provider": { "kind": view.provider, "source": view.source, "state": state, "problem": problem },
        "services": view.tables.services.len(),
        "policies": policies(view),
        "frontends": {
            "total": view.tables.frontends.len(),
            "done": count(|status| *status == Status::Done),
            "error": count(|status| matches!(status, Status::Error(_))),
            "pending": count(|status| *status == Status::Pending),
        },
        "backends": view.tables.frontends.values().map(|frontend| frontend.backends.len()).sum::<usize>(),
        "scopes": view.tables.scopes.len(),
        "local_tasks": view.tables.local_tasks.len(),
        "refused": refused,
        "frontend_errors": frontend_errors,
        "health": health_status(view, shared),
        "errors": view.errors,
        "sandboxes": sandboxes,
        "reconciler": {
            "passes": view.passes, "operations": view.operations, "failures": view.failures,
        },
        "observers": shared.observers.observers(),
        "counters": counters,
        "kernel": shared.info,
    })
}

/// How many services have which policy.
fn policies(view: &View) -> Value {
    let (mut schedulers, mut clients) = (BTreeMap::new(), BTreeMap::new());
    let (mut affinity, mut filtered) = (0, 0);
    for service in view.tables.services.values() {
        let policy = &service.policy;
        *schedulers.entry(policy.scheduler.as_str()).or_insert(0) += 1;
        *clients.entry(policy.client.as_str()).or_insert(0) += 1;
        affinity += usize::from(policy.affinity.is_some());
        filtered += usize::from(policy.is_filtered());
    }
    json!({ "scheduler": schedulers, "client": clients, "affinity": affinity, "filtered": filtered })
}

fn health_status(view: &View, shared: &Shared) -> Value {
    let standings = shared.health.standings();
    let count = |wanted: Option<bool>| {
        standings
            .values()
            .filter(|standing| standing.up == wanted)
            .count()
    };
    let [good, bad, changes, waited] = shared.health.counts();
    let all_down: Vec<&str> = view.all_down.iter().map(|name| name.as_str()).collect();
    json!({
        "up": count(Some(true)), "down": count(Some(false)), "unknown": count(None), "all_down": all_down,
        "checks_good": good, "checks_bad": bad, "changes": changes, "checks_waited": waited,
    })
}

/// The body of `/v1/services`.
pub fn services(view: &View, shared: &Shared) -> Value {
    let (kept, standings) = (shared.api.state(), shared.health.standings());
    let all = view.tables.services.values();
    all.map(|service| one(view, &kept, &standings, service)).collect()
}

/// What is known of everybody who is asked for their health.
pub(super) type Standings = BTreeMap<MemberKey, Standing>;

/// The provider that has a service. Of a name that two have, it is not the operator's verbs: their version is
/// refused for its name.
fn owner(view: &View, kept: &State, name: &str) -> &'static str {
    let hidden = |refusal: &Refusal| {
        (
            refusal.source.as_str(),
            refusal.name.as_str(),
            refusal.field.as_str(),
        ) == (KIND, name, "name")
    };
    if kept.services.contains_key(name) && !view.refusals.iter().any(hidden) {
        KIND
    } else {
        view.provider
    }
}

pub(super) fn one(view: &View, kept: &State, standings: &Standings, service: &Service) -> Value {
    let overdue = view.tables.overdue.get(&service.name);
    let drained = |member: &Member| overdue.is_some_and(|members| members.contains(member));
    let health = |member: &Member| -> Value {
        let Some(standing) = standings.get(&(service.name.clone(), member.clone())) else {
            return Value::Null;
        };
        let state = match standing.up {
            None => "unknown",
            Some(true) => "up",
            Some(false) => "down",
        };
        json!({ "state": state, "why": standing.why, "checks": standing.checks })
    };
    let all_down = view.all_down.contains(&service.name);
    let mut worst = &Status::Done;
    let pending = Status::Pending;
    let mut frontend = |address: FrontendAddr, mut value: Value| {
        let status = view.statuses.get(&frontend_key(address)).unwrap_or(&pending);
        if *worst == Status::Done || matches!(status, Status::Error(_)) {
            worst = status;
        }
        let backends = view
            .tables
            .frontends
            .get(&address)
            .map_or(&[][..], |frontend| &frontend.backends);
        value["active"] = backends.iter().filter(|backend| !backend.draining).count().into();
        value["draining"] = backends.iter().filter(|backend| backend.draining).count().into();
        value["status"] = word(status).into();
        value
    };
    let vips: Vec<Value> = service
        .vips
        .iter()
        .map(|vip| {
            let port = vip
                .port
                .map(|port| json!({ "port": port.port, "protocol": port.protocol.as_str() }));
            let value = json!({
                "network": vip.network_name,
                "address": vip.address.to_string(),
                "port": port,
            });
            frontend(vip.frontend(), value)
        })
        .collect();
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            let address = FrontendAddr::Published {
                port: port.published,
                protocol: port.protocol,
            };
            let value = json!({
                "published": port.published,
                "target": port.target,
                "protocol": port.protocol.as_str(),
                "guessed": port.guessed,
            });
            frontend(address, value)
        })
        .collect();
    let tasks: Vec<Value> = service
        .tasks
        .iter()
        .map(|task| {
            let (place, node) = match &task.place {
                Place::Here { .. } => ("local", None),
                Place::There { node } => ("remote", Some(node.to_string())),
            };
            json!({
                "name": task.name.as_str(),
                "place": place,
                "node": node,
                "address": task.ingress.to_string(),
                "weight": task.weight,
                "draining": task.draining,
                "drained": drained(&Member::Task(task.name.clone())),
                "health": health(&Member::Task(task.name.clone())),
            })
        })
        .collect();
    let backends: Vec<Value> = service
        .backends
        .iter()
        .map(|backend| {
            json!({
                "address": backend.address.to_string(),
                "port": backend.port,
                "weight": backend.weight,
                "draining": backend.draining,
                "drained": drained(&Member::Plain(backend.address, backend.port)),
                "health": health(&Member::Plain(backend.address, backend.port)),
            })
        })
        .collect();
    let problem = if let Status::Error(why) = worst {
        Some(why)
    } else {
        None
    };
    let policy = &service.policy;
    let texts = |prefixes: &[ipnet::Ipv4Net]| -> Value { prefixes.iter().map(ToString::to_string).collect() };
    json!({
        "name": service.name.as_str(),
        "owner": owner(view, kept, service.name.as_str()),
        "vips": vips,
        "ports": ports,
        "tasks": tasks,
        "backends": backends,
        "health": service.health.as_ref().map(|_| if all_down { "all down, all are used" } else { "checked" }),
        "scheduler": policy.scheduler.as_str(),
        "affinity": policy.affinity.map(|affinity| json!({ "seconds": affinity.seconds, "prefix": affinity.prefix })),
        "client": policy.client.as_str(),
        "allow": texts(&policy.allow),
        "deny": texts(&policy.deny),
        "drain": policy.drain,
        "remembered": service.remembered,
        "status": word(worst),
        "problem": problem,
    })
}

fn word(status: &Status) -> &'static str {
    match status {
        Status::Pending => "pending",
        Status::Done => "done",
        Status::Error(_) => "error",
    }
}
