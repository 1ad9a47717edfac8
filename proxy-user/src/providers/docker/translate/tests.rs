// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fixtures in the shape that engine 20.10 answers with.

use serde_json::json;

use super::*;
use crate::model::{Cookie, FrontendAddr, Protocol, Reach, Writer};

fn engine() -> Engine {
    let task = |name: &str, ip: &str, host: &str| json!({ "Name": name, "EndpointID": "e", "EndpointIP": ip, "Info": { "Host IP": host } });
    Engine {
        info: json!({ "Name": "node-1", "Swarm": {
            "NodeID": "n1", "NodeAddr": "10.1.1.1", "LocalNodeState": "active", "ControlAvailable": false,
        } }),
        networks: vec![
            json!({ "Name": "my-ingress", "Id": "ing1", "Scope": "swarm", "Driver": "overlay", "Ingress": true,
                "Containers": { "ingress-sbox": { "Name": "ingress-endpoint", "IPv4Address": "10.0.0.2/24" } },
                "Services": {
                    "": { "VIP": "<nil>", "Ports": [], "LocalLBIndex": 0, "Tasks": [
                        task("ingress-endpoint", "10.0.0.2", "192.168.99.101"),
                        task("ingress-endpoint", "10.0.0.3", "192.168.99.102"),
                    ] },
                    "web": { "VIP": "10.0.0.4", "Ports": ["Target: 8080, Publish: 80"], "LocalLBIndex": 256,
                        "Tasks": [
                            task("web.1.aaa", "10.0.0.5", "192.168.99.101"),
                            task("web.2.bbb", "10.0.0.6", "192.168.99.102"),
                        ] },
                } }),
            json!({ "Name": "proxy", "Id": "net1", "Scope": "swarm", "Driver": "overlay", "Ingress": false,
                "Containers": {},
                "Services": {
                    "": { "VIP": "", "Tasks": [task("proxy-endpoint", "10.0.1.4", "192.168.99.101")] },
                    "web": { "VIP": "10.0.1.2", "Ports": [], "Tasks": [
                        task("web.1.aaa", "10.0.1.5", "192.168.99.101"),
                        task("web.2.bbb", "10.0.1.6", "192.168.99.102"),
                        task("web.9.old", "10.0.1.9", "192.168.99.101"),
                    ] },
                    "rr": { "VIP": "<nil>", "Ports": [], "Tasks": [task("rr.1.ccc", "10.0.1.7", "192.168.99.102")] },
                } }),
        ],
        containers: vec![Container {
            netns: Some("/proc/42/ns/net".into()),
            inspect: json!({ "Name": "/web.1.aaa", "Config": { "Labels": {
                    "com.docker.swarm.service.name": "web", "com.docker.swarm.task.name": "web.1.aaa",
                } },
                "NetworkSettings": { "SandboxKey": "/var/run/docker/netns/1", "Networks": {
                    "my-ingress": { "NetworkID": "ing1", "IPAddress": "10.0.0.5" },
                    "proxy": { "NetworkID": "net1", "IPAddress": "10.0.1.5" },
                } } }),
        }],
        host_ports: BTreeSet::new(),
        services: None,
        running: None,
        enabled: Enabled::new(),
    }
}

fn ports(snapshot: &Snapshot, service: &str) -> Vec<(i64, i64, String)> {
    let service = snapshot.services.iter().find(|s| s.name == service).unwrap();
    service
        .ports
        .iter()
        .map(|port| (port.published, port.target, port.protocol.clone()))
        .collect()
}

#[test]
fn a_worker_sees_vips_tasks_and_nodes() {
    let snapshot = translate(&engine());
    assert_eq!(snapshot.problems, []);
    assert_eq!(
        snapshot
            .nodes
            .iter()
            .map(|node| &node.name[..])
            .collect::<Vec<_>>(),
        ["192.168.99.102"]
    );
    let names: Vec<&str> = snapshot.tasks.iter().map(|task| &task.name[..]).collect();
    assert_eq!(
        names,
        ["rr.1.ccc", "web.1.aaa", "web.2.bbb"],
        "an own task without container is left out"
    );
    assert_eq!(
        ports(&snapshot, "web"),
        [(80, 8080, "tcp".into()), (80, 8080, "udp".into())]
    );
    assert_eq!(
        snapshot.services.iter().find(|s| s.name == "rr").unwrap().vips,
        []
    );

    let mut writer = Writer::new(Cookie(1));
    assert_eq!(writer.apply(&snapshot), []);
    let tables = writer.tables();
    let port = FrontendAddr::Published {
        port: 80,
        protocol: Protocol::Tcp,
    };
    let remote = &tables.frontends[&port].backends[0];
    assert_eq!(remote.address.to_string(), "10.0.0.6");
    assert!(matches!(remote.reach, Reach::Remote { node, .. } if node.to_string() == "192.168.99.102"));
    assert_eq!(tables.frontends.len(), 3, "the ingress VIP is no frontend");
    assert_eq!(writer.namespaces().len(), 1);
}

#[test]
fn the_data_path_address_is_this_node() {
    assert_eq!(own_address(&engine()).as_deref(), Some("192.168.99.101"));
    assert_eq!(
        own_address(&Engine {
            networks: Vec::new(),
            ..engine()
        })
        .as_deref(),
        Some("10.1.1.1")
    );
}

#[test]
fn a_manager_knows_protocols_and_who_leaves() {
    let snapshot = translate(&Engine {
        services: Some(json!([{ "Spec": { "Name": "web" }, "Endpoint": { "Ports": [
            { "Protocol": "tcp", "TargetPort": 8080, "PublishedPort": 80, "PublishMode": "ingress" } ] } }])),
        running: Some(json!([{ "ID": "aaa" }, { "ID": "ccc" }])),
        ..engine()
    });
    assert_eq!(ports(&snapshot, "web"), [(80, 8080, "tcp".into())]);
    let draining: Vec<&str> = snapshot
        .tasks
        .iter()
        .filter(|task| task.draining)
        .map(|task| &task.name[..])
        .collect();
    assert_eq!(draining, ["web.2.bbb"]);
}

fn listed(name: &str, vips: Value, ports: Value) -> Value {
    json!({ "Spec": { "Name": name }, "Endpoint": { "VirtualIPs": vips, "Ports": ports } })
}

#[test]
fn a_manager_knows_services_without_tasks() {
    let port = |published: u16, protocol: &str, mode: &str| json!({ "Protocol": protocol, "TargetPort": 8080, "PublishedPort": published, "PublishMode": mode });
    let mut engine = engine();
    engine
        .networks
        .push(json!({ "Name": "elsewhere", "Id": "net2", "Scope": "swarm" }));
    engine.services = Some(json!([
        listed(
            "idle",
            json!([
                { "NetworkID": "ing1", "Addr": "10.0.0.9/24" },
                { "NetworkID": "net1", "Addr": "10.0.1.30/24" },
                { "NetworkID": "net2", "Addr": "10.0.2.30/24" },
                { "NetworkID": "unknown", "Addr": "10.0.3.30/24" },
                { "NetworkID": "net1" },
            ]),
            json!([
                port(81, "udp", "ingress"),
                port(82, "tcp", "host"),
                port(0, "tcp", "ingress"),
                port(83, "sctp", "ingress"),
            ]),
        ),
        // As of now, whatever gossip has: another VIP, one port instead of another.
        listed(
            "web",
            json!([{ "NetworkID": "net1", "Addr": "10.0.1.99/24" }]),
            json!([port(90, "tcp", "ingress")])
        ),
        // Has the address of a service that gossip has not forgotten yet.
        listed(
            "next",
            json!([{ "NetworkID": "net1", "Addr": "10.0.1.8/24" }]),
            json!(null)
        ),
        json!({ "Spec": {} }),
    ]));
    engine.networks[1]["Services"]["removed"] = json!({ "VIP": "10.0.1.8", "Tasks": [] });
    let snapshot = translate(&engine);
    let vips = |name: &str| {
        let service = snapshot.services.iter().find(|s| s.name == name).unwrap();
        let vips = service.vips.iter();
        vips.map(|(network, vip)| format!("{vip}@{network}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        vips("idle"),
        ["10.0.1.30@proxy"],
        "neither ingress nor networks of other nodes"
    );
    assert_eq!(ports(&snapshot, "idle"), [(81, 8080, "udp".into())]);
    assert_eq!(vips("web"), ["10.0.1.99@proxy"]);
    assert_eq!(ports(&snapshot, "web"), [(90, 8080, "tcp".into())]);
    assert_eq!((vips("next").len(), vips("removed").len()), (1, 0));
    assert_eq!(
        snapshot.problems.len(),
        1,
        "SCTP is said: {:?}",
        snapshot.problems
    );

    let mut writer = Writer::new(Cookie(1));
    assert_eq!(writer.apply(&snapshot).len(), 1);
    let port = FrontendAddr::Published {
        port: 81,
        protocol: Protocol::Udp,
    };
    assert_eq!(writer.tables().frontends[&port].backends, []);
}

#[test]
fn one_port_with_two_targets_is_guessed_and_said() {
    let mut engine = engine();
    engine.networks[0]["Services"]["web"]["Ports"] = json!([
        "Target: 5353, Publish: 53",
        "Target: 5354, Publish: 53",
        "Target: 5353, Publish: 53"
    ]);
    let snapshot = translate(&engine);
    assert_eq!(
        ports(&snapshot, "web"),
        [(53, 5353, "tcp".into()), (53, 5354, "udp".into())]
    );
    assert_eq!(snapshot.problems.len(), 2, "{:?}", snapshot.problems);
}

#[test]
fn a_standalone_container_may_use_the_networks_vips() {
    let mut engine = engine();
    engine.containers.push(Container {
        netns: Some("/proc/43/ns/net".into()),
        inspect: json!({ "Name": "/shell", "Config": { "Labels": {} }, "NetworkSettings": { "Networks": {
            "proxy": { "NetworkID": "net1", "IPAddress": "10.0.1.20" },
            "bridge": { "NetworkID": "local", "IPAddress": "172.17.0.2" } } } }),
    });
    let snapshot = translate(&engine);
    let shell = snapshot.tasks.iter().find(|task| task.name == "shell").unwrap();
    assert_eq!(shell.networks, [("proxy".to_owned(), "10.0.1.20".to_owned())]);
}

#[test]
fn what_is_missing_or_strange_is_left_out_and_said() {
    let mut engine = engine();
    engine.networks[1]["Services"]["web"]["Tasks"][1]["Info"]["Host IP"] = json!("fd00::1");
    engine.networks[1]["Services"]["rr"]["Tasks"] = json!(null);
    engine.networks[0]["Services"]["web"]["Ports"] = json!(["nonsense", 7]);
    let snapshot = translate(&engine);
    assert_eq!(snapshot.problems.len(), 2, "{:?}", snapshot.problems);
    translate(&Engine::default());
    translate(&Engine {
        networks: vec![json!(null), json!([])],
        ..Engine::default()
    });
}

#[test]
fn labels_set_the_policy_and_a_manager_sees_those_of_the_service() {
    let mut engine = engine();
    let policy = |engine: &Engine| {
        let snapshot = translate(engine);
        let service = snapshot
            .services
            .iter()
            .find(|service| service.name == "web")
            .unwrap();
        (service.policy.clone(), snapshot.problems)
    };
    assert_eq!(*policy(&engine).0, PolicyParams::default());
    engine.containers[0].inspect["Config"]["Labels"]["portico.scheduler"] = json!("lc");
    engine.containers[0].inspect["Config"]["Labels"]["portico.client"] = json!("masquerade");
    let (worker, problems) = policy(&engine);
    assert_eq!(problems, []);
    assert_eq!(
        (worker.scheduler.as_deref(), worker.client.as_deref()),
        (Some("lc"), Some("masquerade"))
    );
    engine.services = Some(
        json!([{ "Spec": { "Name": "web", "Labels": { "portico.scheduler": "mh" } },
        "Endpoint": { "Ports": [{ "PublishedPort": 80, "TargetPort": 8080, "Protocol": "tcp" }] } }]),
    );
    let (manager, _) = policy(&engine);
    assert_eq!(
        (manager.scheduler.as_deref(), manager.client.as_deref()),
        (Some("mh"), Some("masquerade"))
    );
    // The Writer says what is wrong with a label, by its name.
    engine.services.as_mut().unwrap()[0]["Spec"]["Labels"]["portico.allow"] = json!("10.0.0.1/8");
    let mut writer = Writer::new(Cookie(1));
    let refusals = writer.apply(&translate(&engine)).to_vec();
    assert!(
        refusals.iter().any(|refusal| refusal.field == "allow[0]"),
        "{refusals:?}"
    );
}

#[test]
fn a_task_that_dns_does_not_name_takes_no_new_flow_on_any_network() {
    let mut engine = engine();
    let draining = |engine: &Engine| {
        let snapshot = translate(engine);
        let of_web = snapshot.tasks.iter().filter(|task| task.name.starts_with("web."));
        of_web
            .map(|task| (task.name.clone(), task.draining))
            .collect::<BTreeMap<_, _>>()
    };
    let find = |found: &BTreeMap<String, bool>, name: &str| found.get(name).copied();
    let found = draining(&engine);
    assert_eq!(find(&found, "web.1.aaa"), Some(false), "nothing was asked");
    let about = ("net1".to_owned(), "web".to_owned());
    let named = |addresses: &[&str]| addresses.iter().map(|address| (*address).to_owned()).collect();
    // The remote one is told to end: it is one task on two networks.
    engine.enabled.insert(about.clone(), named(&["10.0.1.5"]));
    let found = draining(&engine);
    assert_eq!(find(&found, "web.1.aaa"), Some(false));
    assert_eq!(find(&found, "web.2.bbb"), Some(true));
    // And this node's own.
    engine.enabled.insert(about, named(&["10.0.1.6"]));
    let found = draining(&engine);
    assert_eq!(find(&found, "web.1.aaa"), Some(true));
    assert_eq!(find(&found, "web.2.bbb"), Some(false));
}
