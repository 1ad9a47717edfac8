// SPDX-License-Identifier: MIT OR Apache-2.0
//! A worker's engine, before and after a service has lost its last task.

use serde_json::json;

use super::*;
use crate::{
    model::{Cookie, FrontendAddr, Protocol, Writer},
    providers::docker::translate::translate,
};

fn engine() -> Engine {
    let task = |name: &str, ip: &str| json!({ "Name": name, "EndpointIP": ip, "Info": { "Host IP": "192.168.99.102" } });
    Engine {
        info: json!({ "Name": "node-1", "Swarm": { "NodeAddr": "192.168.99.101" } }),
        networks: vec![
            json!({ "Name": "ingress", "Id": "ing", "Ingress": true, "Services": {
                "web": { "VIP": "10.0.0.4", "Ports": ["Target: 8080, Publish: 80"],
                    "Tasks": [task("web.1.a", "10.0.0.6")] } } }),
            json!({ "Name": "proxy", "Id": "net", "Ingress": false,
                "Containers": { "c1": { "IPv4Address": "10.0.1.20/24" } },
                "Services": {
                    "web": { "VIP": "10.0.1.2", "Tasks": [task("web.1.a", "10.0.1.6")] },
                    "other": { "VIP": "10.0.1.3", "Tasks": [task("other.1.b", "10.0.1.7")] } } }),
        ],
        ..Engine::default()
    }
}

/// `docker service scale web=0`.
fn without_web() -> Engine {
    let mut engine = engine();
    for network in &mut engine.networks {
        network["Services"].as_object_mut().unwrap().remove("web");
    }
    engine
}

fn look(memory: &mut Memory, engine: &Engine, now: Instant) -> Snapshot {
    let mut snapshot = translate(engine);
    memory.recall(engine, &mut snapshot, now);
    snapshot
}

fn web(snapshot: &Snapshot) -> Option<&ServiceParams> {
    let found = snapshot.services.iter().find(|service| service.name == "web");
    found.map(|service| &**service)
}

/// What is left of `web` a second after an engine answered `after`.
fn left_after(after: &Engine) -> (usize, usize) {
    let (mut memory, start) = (Memory::default(), Instant::now());
    look(&mut memory, &engine(), start);
    let snapshot = look(&mut memory, after, start + Duration::from_secs(1));
    web(&snapshot).map_or((0, 0), |web| (web.vips.len(), web.ports.len()))
}

#[test]
fn a_service_that_vanished_keeps_its_addresses_without_backends() {
    let (mut memory, start) = (Memory::default(), Instant::now());
    let mut writer = Writer::new(Cookie(1));
    assert_eq!(writer.apply(&look(&mut memory, &engine(), start)), []);
    let before = writer.tables().frontends;
    for seconds in [1, 2, REMEMBER.as_secs()] {
        let snapshot = look(&mut memory, &without_web(), start + Duration::from_secs(seconds));
        assert!(web(&snapshot).unwrap().remembered);
        assert_eq!(writer.apply(&snapshot), []);
        let now = writer.tables().frontends;
        assert_eq!(now.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        for (address, frontend) in now.iter().filter(|(_, of)| of.service.as_str() == "web") {
            assert_eq!(frontend.backends, [], "{address}");
        }
    }
    let port = FrontendAddr::Published {
        port: 80,
        protocol: Protocol::Tcp,
    };
    assert!(writer.tables().frontends.contains_key(&port));

    let late = start + REMEMBER + Duration::from_secs(1);
    let snapshot = look(&mut memory, &without_web(), late);
    assert_eq!(web(&snapshot), None, "forgotten in the end");
    assert_eq!(snapshot, translate(&without_web()));
}

#[test]
fn a_service_that_comes_back_is_as_it_is_now() {
    let (mut memory, start) = (Memory::default(), Instant::now());
    look(&mut memory, &engine(), start);
    look(&mut memory, &without_web(), start);
    let mut back = engine();
    back.networks[0]["Services"]["web"]["Ports"] = json!(["Target: 8080, Publish: 81"]);
    back.networks[1]["Services"]["web"]["VIP"] = json!("10.0.1.9");
    let snapshot = look(&mut memory, &back, start);
    assert_eq!(snapshot, translate(&back));
    assert_eq!(memory.gone.len(), 0);
}

#[test]
fn an_address_or_port_that_somebody_else_has_is_forgotten() {
    assert_eq!(left_after(&without_web()), (1, 2));

    let mut no_network = without_web();
    no_network.networks.pop();
    assert_eq!(left_after(&no_network), (0, 2), "the network left the node");

    let mut recreated = without_web();
    recreated.networks[1]["Id"] = json!("net2");
    assert_eq!(left_after(&recreated), (0, 2), "another network of that name");

    let mut vip = without_web();
    vip.networks[1]["Services"]["new"] = json!({ "VIP": "10.0.1.2", "Tasks": [] });
    assert_eq!(left_after(&vip), (0, 2), "another service's VIP");

    let mut endpoint = without_web();
    endpoint.networks[1]["Services"][""] = json!({ "Tasks": [{ "EndpointIP": "10.0.1.2" }] });
    assert_eq!(left_after(&endpoint), (0, 2), "another endpoint's address");

    let mut container = without_web();
    container.networks[1]["Containers"]["c2"] = json!({ "IPv4Address": "10.0.1.2/24" });
    assert_eq!(left_after(&container), (0, 2), "a container's address");

    let mut published = without_web();
    published.networks[0]["Services"]["new"] = json!({ "Ports": ["Target: 1, Publish: 80"] });
    assert_eq!(left_after(&published), (1, 0), "another service publishes it");

    let mut host_port = without_web();
    host_port.host_ports.insert((80, "tcp".into()));
    assert_eq!(left_after(&host_port), (1, 1), "a container holds it itself");
}

#[test]
fn a_port_that_was_unpublished_is_not_served_by_the_tasks_that_are_left() {
    let mut unpublished = engine();
    unpublished.networks[0]["Services"] = json!({});
    assert_eq!(left_after(&unpublished), (1, 0), "tasks on the overlay only");
    unpublished.networks[0]["Services"] = json!({ "web": { "Ports": [], "Tasks": [] } });
    assert_eq!(left_after(&unpublished), (1, 0), "listed without ports");
}

#[test]
fn a_manager_knows_better() {
    let managed = Engine {
        services: Some(json!([])),
        ..without_web()
    };
    assert_eq!(left_after(&managed), (0, 0));
}

#[test]
fn the_memory_is_bounded() {
    let (mut memory, start) = (Memory::default(), Instant::now());
    let mut many = without_web();
    for i in 0..REMEMBERED_MAX {
        let vip = format!("10.9.{}.{}", i / 256, i % 256);
        many.networks[1]["Services"][format!("s{i}")] = json!({ "VIP": vip, "Tasks": [] });
    }
    look(&mut memory, &engine(), start);
    look(&mut memory, &without_web(), start);
    look(&mut memory, &many, start + Duration::from_secs(1));
    let snapshot = look(&mut memory, &without_web(), start + Duration::from_secs(2));
    assert_eq!(memory.gone.len(), REMEMBERED_MAX);
    assert_eq!(
        web(&snapshot).map(|web| web.vips.len()),
        None,
        "the first to go is the first to be forgotten"
    );
}
