// SPDX-License-Identifier: MIT OR Apache-2.0
//! Labels, read from and written to an engine that the test plays.

use std::sync::Condvar;

use serde_json::{Value, json};

use super::*;
use crate::l7::settings::EngineHost;

/// A manager's engine. Its services can be changed, and what it answers to updates.
#[derive(Default)]
pub(super) struct Engine {
    state: Mutex<Swarm>,
    changed: Condvar,
}

#[derive(Default)]
struct Swarm {
    services: Vec<Value>,
    events: u64,
    /// Everything is refused with this message.
    refuses: Option<&'static str>,
    /// So many updates are refused as out of sequence.
    conflicts: u32,
    updates: u32,
}

impl Engine {
    pub(super) fn start() -> (Arc<Engine>, EngineHost) {
        let engine = Arc::new(Engine::default());
        let played = engine.clone();
        let address = origin(move |_, wire| played.serve(wire));
        (engine, EngineHost::Tcp("127.0.0.1".into(), address.port()))
    }

    /// Changes something and makes an event.
    fn change(&self, change: impl FnOnce(&mut Swarm)) {
        let mut state = self.state.lock().unwrap();
        change(&mut state);
        state.events += 1;
        self.changed.notify_all();
    }

    pub(super) fn label(&self, name: &str, labels: Value) {
        self.change(|swarm| {
            swarm.services.retain(|service| service["Spec"]["Name"] != name);
            swarm.services.push(json!({
                "ID": format!("id-{name}"), "Version": { "Index": 1 },
                "Spec": { "Name": name, "Labels": labels, "TaskTemplate": { "ForceUpdate": 7 },
                    "Mode": { "Replicated": { "Replicas": 1 } } },
            }));
        });
    }

    fn labels(&self, name: &str) -> Value {
        let state = self.state.lock().unwrap();
        let service = state
            .services
            .iter()
            .find(|service| service["Spec"]["Name"] == name);
        service.unwrap()["Spec"]["Labels"].clone()
    }

    fn serve(&self, mut wire: Wire) {
        loop {
            let head = wire.head();
            let Some(target) = head.split(' ').nth(1).map(str::to_owned) else {
                return;
            };
            let body = wire.rest(head, true).text();
            let path = target.split('?').next().unwrap().trim_start_matches("/v1.44");
            if path == "/events" && self.state.lock().unwrap().refuses.is_none() {
                return self.serve_events(&mut wire);
            }
            let (status, answer) = self.answer(path, &target, &body);
            let answer = answer.to_string();
            let length = answer.len();
            wire.send(&format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{answer}"
            ));
        }
    }

    fn serve_events(&self, wire: &mut Wire) {
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut state = self.state.lock().unwrap();
        let mut told = state.events;
        loop {
            // Asked before the first wait too: it may have begun to refuse since the subscription came.
            if state.refuses.is_some() {
                return;
            }
            state = self.changed.wait(state).unwrap();
            if state.events > told {
                told = state.events;
                if wire.stream.get_mut().write_all(b"2\r\n{}\r\n").is_err() {
                    return;
                }
            }
        }
    }

    fn answer(&self, path: &str, target: &str, body: &str) -> (u16, Value) {
        let mut state = self.state.lock().unwrap();
        if path == "/version" {
            return (
                200,
                json!({ "Version": "29.0.1", "ApiVersion": "1.52", "MinAPIVersion": "1.44" }),
            );
        }
        if let Some(message) = state.refuses {
            return (503, json!({ "message": message }));
        }
        if path == "/services" {
            return (200, Value::Array(state.services.clone()));
        }
        let Some(id) = path
            .strip_prefix("/services/")
            .and_then(|rest| rest.strip_suffix("/update"))
        else {
            return (404, json!({ "message": "page not found" }));
        };
        state.updates += 1;
        let conflicts = state.conflicts > 0;
        let at = state
            .services
            .iter()
            .position(|service| service["ID"] == id)
            .unwrap();
        if conflicts {
            // Somebody else was faster.
            state.conflicts -= 1;
            let index = state.services[at]["Version"]["Index"].as_u64().unwrap();
            state.services[at]["Version"]["Index"] = json!(index + 1);
        }
        let version = format!("version={}", state.services[at]["Version"]["Index"]);
        if conflicts || !target.ends_with(&version) {
            return (
                500,
                json!({ "message": "rpc error: code = Unknown desc = update out of sequence" }),
            );
        }
        state.services[at]["Spec"] = serde_json::from_str(body).unwrap();
        state.events += 1;
        self.changed.notify_all();
        (200, json!({ "Warnings": null }))
    }
}

fn config(site: &Site) -> String {
    site.api("/v1/docker-flow-proxy/config").text()
}

fn has(site: &Site, name: &str) -> bool {
    let text = site.api("/v1/docker-flow-proxy/config?type=json").text();
    text.contains(&format!("\"ServiceName\":\"{name}\""))
}

#[test]
fn labels_are_routes_for_as_long_as_they_are_there() {
    let (engine, host) = Engine::start();
    let port = echo_origin().port().to_string();
    let labels = |path: &str| {
        json!({ "com.df.notify": "true", "com.df.servicePath.1": path, "com.df.port.1": port,
            "com.df.outboundHostname": "127.0.0.1" })
    };
    engine.label("web", labels("/one"));
    let mut site = Site::with(|settings| settings.docker = Some(host.clone()));
    eventually("a labelled service is routed", || site.get("/one").status == 200);
    assert!(
        config(&site).contains("service web # labels"),
        "{}",
        config(&site)
    );
    assert_eq!(site.metric("portico_proxy_source_up{source=\"labels\"}"), 1);

    engine.label("web", labels("/two"));
    eventually("a changed label is followed", || site.get("/two").status == 200);
    assert_eq!(site.get("/one").status, 503);

    // A bad update concerns nobody else, and the last good version stays.
    let mut bad = labels("/three");
    bad["com.df.backendExtra"] = "x".into();
    engine.label("web", bad);
    engine.label("other", labels("/other"));
    eventually("another service is routed", || site.get("/other").status == 200);
    assert_eq!(site.get("/two").status, 200);
    let text = config(&site);
    assert!(
        text.contains("# Not in force: web of labels: backendExtra"),
        "{text}"
    );
    assert_eq!(site.metric("portico_proxy_services_not_in_force"), 1);

    // The engine goes away: everything stays, also through a restart, and the reason is shown.
    engine.change(|swarm| swarm.refuses = Some("The swarm does not have a leader."));
    eventually("the loss is shown", || {
        config(&site).contains("does not have a leader")
    });
    assert_eq!(site.metric("portico_proxy_source_up{source=\"labels\"}"), 0);
    site.stop();
    let mut settings = settings(site.state.path());
    settings.docker = Some(host);
    site.proxy = Some(Proxy::start(settings).unwrap());
    assert_eq!((site.get("/two").status, site.get("/other").status), (200, 200));

    // What was removed meanwhile goes when the engine is back.
    engine.change(|swarm| {
        swarm.refuses = None;
        swarm
            .services
            .retain(|service| service["Spec"]["Name"] == "other");
        swarm.services[0]["Spec"]["Labels"]["com.df.servicePath.1"] = "/back".into();
    });
    eventually("the engine is back", || site.get("/back").status == 200);
    assert_eq!(site.get("/two").status, 503);
    assert!(!config(&site).contains("Not in force"));
    engine.change(|swarm| swarm.services[0]["Spec"]["Mode"]["Replicated"]["Replicas"] = json!(0));
    eventually("a service without tasks is gone", || !has(&site, "other"));
}

#[test]
fn without_an_engine_nothing_is_believed_that_only_an_engine_can_take_back() {
    let (engine, host) = Engine::start();
    engine.label(
        "web",
        json!({ "com.df.notify": "true", "com.df.servicePath": "/", "com.df.port": "1" }),
    );
    let mut site = Site::with(|settings| settings.docker = Some(host));
    eventually("labels are read", || has(&site, "web"));
    site.stop();
    site.proxy = Some(Proxy::start(settings(site.state.path())).unwrap());
    assert!(!has(&site, "web"));
}

#[test]
fn persist_writes_labels_and_fails_whole() {
    let (engine, host) = Engine::start();
    engine.label(
        "web",
        json!({ "keep": "me", "com.df.port": "1", "com.df.servicePath.2": "/old" }),
    );
    let site = Site::with(|settings| settings.docker = Some(host));
    let persist = |query: &str| site.reconfigure(&format!("{query}&persist=true"));
    for (query, status, part) in [
        (
            "serviceName=nobody&servicePath=/&port=1",
            404,
            "no Swarm service `nobody`",
        ),
        ("serviceName=web&servicePath=/&port=x", 400, "port: "),
        (
            "serviceName=web&servicePath=/&port=1&serviceCert=PEM",
            400,
            "serviceCert",
        ),
    ] {
        let reply = persist(query);
        assert_eq!(reply.status, status, "{}", reply.text());
        assert!(reply.text().contains(part), "{}", reply.text());
        assert!(!has(&site, "nobody") && !has(&site, "web"));
    }
    assert_eq!(engine.state.lock().unwrap().updates, 0);

    // Two others were faster; their changes are not lost.
    engine.change(|swarm| swarm.conflicts = 2);
    let reply = persist("serviceName=web&servicePath=/&port=80&aclName=01-web");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(engine.state.lock().unwrap().updates, 3);
    let want = json!({ "keep": "me", "com.df.notify": "true", "com.df.servicePath": "/", "com.df.port": "80",
        "com.df.aclName": "01-web" });
    assert_eq!(engine.labels("web"), want);
    let spec = engine.state.lock().unwrap().services[0]["Spec"].clone();
    assert_eq!(spec["TaskTemplate"]["ForceUpdate"], 7);
    assert!(
        config(&site).contains("service web # labels"),
        "{}",
        config(&site)
    );

    // Somebody who never stops, and an engine that cannot: nothing changes.
    engine.change(|swarm| swarm.conflicts = 100);
    assert_eq!(persist("serviceName=web&servicePath=/new&port=80").status, 409);
    engine.change(|swarm| swarm.refuses = Some("This node is not a swarm manager."));
    let reply = persist("serviceName=web&servicePath=/new&port=80");
    assert_eq!(reply.status, 503);
    assert!(reply.text().contains("not a swarm manager"), "{}", reply.text());
    assert_eq!(engine.labels("web"), want);
    assert!(!config(&site).contains("/new"));

    engine.change(|swarm| (swarm.refuses, swarm.conflicts) = (None, 0));
    let remove = "/v1/docker-flow-proxy/remove?serviceName=web&persist=true";
    assert_eq!(site.api(remove).status, 200);
    assert_eq!(engine.labels("web"), json!({ "keep": "me" }));
    assert!(!has(&site, "web"));
}

#[test]
fn persist_without_an_engine_is_refused() {
    let site = Site::start();
    let reply = site.reconfigure("serviceName=web&servicePath=/&port=1&persist=true");
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("PORTICO_DOCKER"), "{}", reply.text());
    assert!(!has(&site, "web"));
}

#[test]
fn a_call_wins_until_it_is_taken_back() {
    let (engine, host) = Engine::start();
    let labels = json!({ "com.df.notify": "true", "com.df.servicePath": "/", "com.df.port": "1" });
    engine.label("web", labels.clone());
    let site = Site::with(|settings| settings.docker = Some(host));
    eventually("labels are read", || has(&site, "web"));
    assert_eq!(
        site.reconfigure("serviceName=web&servicePath=/&port=2").status,
        200
    );
    assert!(config(&site).contains("service web # call"));
    // Removed is removed, whatever the labels say, until they change or everybody is asked again.
    assert_eq!(
        site.api("/v1/docker-flow-proxy/remove?serviceName=web").status,
        200
    );
    engine.label("other", labels.clone());
    eventually("labels are read again", || has(&site, "other"));
    assert!(!has(&site, "web"));
    assert_eq!(
        site.api("/v1/docker-flow-proxy/reload?fromListener=true").status,
        200
    );
    assert!(config(&site).contains("service web # labels"));
}

#[test]
fn a_proxy_on_a_worker_follows_a_replica_that_sees_the_labels() {
    let (manager, manager_host) = Engine::start();
    let (worker, worker_host) = Engine::start();
    worker.change(|swarm| {
        swarm.refuses = Some("This node is not a swarm manager. Worker nodes can't be used.")
    });
    let labels = json!({ "com.df.notify": "true", "com.df.servicePath": "/", "com.df.port": "1" });
    manager.label("web", labels.clone());
    let sees = Site::with(|settings| settings.docker = Some(manager_host));
    eventually("labels are read", || has(&sees, "web"));
    let api = sees.proxy.as_ref().unwrap().api;
    let follows = Site::with(|settings| {
        settings.docker = Some(worker_host);
        settings.siblings = vec![(api.ip().to_string(), Some(api.port()))];
    });
    eventually("the labels are taken over", || has(&follows, "web"));
    manager.label("later", labels);
    manager.change(|swarm| swarm.services.retain(|service| service["Spec"]["Name"] != "web"));
    eventually("changes are followed", || {
        has(&follows, "later") && !has(&follows, "web")
    });
}
