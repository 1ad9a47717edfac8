// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the Writer, through the file format so that they read like an operator's mistakes.

use std::path::Path;

use super::*;
use crate::model::{FrontendAddr, Gateway, Protocol, Reach};

const HEAD: &str = r#"
node = "n1"
[[nodes]]
name = "n1"
address = "192.168.99.101"
[[nodes]]
name = "n2"
address = "192.168.99.102"
[[networks]]
name = "proxy"
[[tasks]]
name = "a.1"
node = "n1"
netns = "/ns/a1"
networks = { ingress = "10.0.0.5", proxy = "10.0.1.5" }
[[tasks]]
name = "a.2"
node = "n2"
netns = "/ns/a2"
networks = { ingress = "10.0.0.6", proxy = "10.0.1.6" }
"#;

const GOOD: &str = r#"
[[services]]
name = "good"
vips = { proxy = "10.0.1.2" }
ports = [ { published = 80, target = 8080 } ]
tasks = ["a.1", "a.2"]
"#;

fn snapshot(text: &str) -> Snapshot {
    crate::providers::file::parse("p.toml", text, None).unwrap()
}

fn writer(text: &str) -> (Writer, Vec<String>) {
    let mut writer = Writer::new(Cookie(1));
    let refusals = apply(&mut writer, text);
    (writer, refusals)
}

fn apply(writer: &mut Writer, text: &str) -> Vec<String> {
    writer
        .apply(&snapshot(text))
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn facts() -> Facts {
    Facts {
        cookie: Cookie(7),
        gateway: Some(Gateway {
            address: Ipv4Addr::new(172, 18, 0, 3),
            mac: [2; 6],
            host_ifindex: 12,
            gateway_mac: [3; 6],
        }),
    }
}

#[test]
fn a_good_file_gives_vip_and_published_port() {
    let (mut writer, refusals) = writer(&format!("{HEAD}{GOOD}"));
    assert_eq!(refusals, Vec::<String>::new());
    assert_eq!(
        writer.namespaces().keys().collect::<Vec<_>>(),
        [Path::new("/ns/a1")]
    );
    let port = FrontendAddr::Published {
        port: 80,
        protocol: Protocol::Tcp,
    };
    assert_eq!(
        writer.tables().frontends[&port].backends.len(),
        1,
        "a local task without facts is left out"
    );
    writer.set_facts([("/ns/a1".into(), facts())].into());
    let tables = writer.tables();
    let backends = &tables.frontends[&port].backends;
    assert!(matches!(backends[0].reach, Reach::Local { .. }), "{backends:?}");
    assert!(matches!(backends[1].reach, Reach::Remote { .. }), "{backends:?}");
    assert_eq!(tables.frontends.len(), 2);
    assert_eq!(tables.scopes[&Cookie(7)].networks.len(), 2);
    assert!(tables.scopes[&Cookie(1)].host);
    assert_eq!(tables.local_tasks.len(), 1);
    assert!(tables.prune);
}

#[test]
fn every_bad_service_is_named_and_alone() {
    for (bad, expected) in [
        (
            "vpis = { proxy = \"10.0.1.9\" }",
            "p.toml: service 'bad': vpis: unknown key",
        ),
        (
            "vips = { proxy = \"ten\" }",
            "p.toml: service 'bad': vips.proxy: 'ten' is not an address",
        ),
        (
            "vips = { proxy = \"fe80::1\" }",
            "vips.proxy: 'fe80::1' is a link-local address",
        ),
        (
            "vips = { proxy = 7 }",
            "vips.proxy: must be a string, or several in an array, not a number",
        ),
        (
            "vips = { nowhere = \"10.0.1.9\" }",
            "vips.nowhere: unknown network 'nowhere'",
        ),
        (
            "ports = [ { published = 0, target = 1 } ]",
            "ports[0].published: 0 is not a port",
        ),
        (
            "ports = [ { published = 81, target = 65536 } ]",
            "ports[0].target: 65536 is not a port",
        ),
        ("ports = [ { published = 81 } ]", "ports[0].target: is missing"),
        (
            "ports = [ { published = \"81\", target = 1 } ]",
            "ports[0].published: must be a number, not a string",
        ),
        (
            "ports = [ { published = 81, target = 1, x = 1 } ]",
            "ports[0].x: unknown key",
        ),
        (
            "ports = [ { published = 81, target = 1, protocol = \"sctp\" } ]",
            "ports[0].protocol: 'sctp'",
        ),
        (
            "ports = [ { published = 80, target = 1 } ]",
            "80/tcp is published by service 'good'",
        ),
        ("ports = 80", "ports: must be an array, not a number"),
        (
            "vips = { proxy = \"10.0.1.2\" }",
            "vips.proxy: 10.0.1.2 is the VIP of service 'good'",
        ),
        (
            "vips = { proxy = \"10.0.1.5\" }\ntasks = [\"a.1\"]",
            "is the address of one of its own backends",
        ),
        ("tasks = [\"ghost\"]", "tasks[0]: unknown task 'ghost'"),
        (
            "tasks = [\"a.1\", \"a.1\"]",
            "tasks[1]: task 'a.1' is listed twice",
        ),
        (
            "vips = { proxy = \"10.0.1.9\" }\nbackends = [{ address = \"10.9.0.1\", port = 1 }, { address = \"fd00::2\", port = 1 }]",
            "backends: IPv4 and IPv6 in one service",
        ),
        (
            "vips = { proxy = \"10.0.1.9\" }\nbackends = [{ address = \"fd00::2\", port = 1 }]",
            "vips.proxy: 10.0.1.9 is an IPv4 address and the backend fd00::2 is not",
        ),
        (
            "vips = { proxy = \"10.0.1.9\" }\nbackends = [{ address = \"10.9.0.1\", port = 0 }]",
            "backends[0].port: 0 is not a port",
        ),
    ] {
        let (mut writer, refusals) = writer(&format!("{HEAD}{GOOD}\n[[services]]\nname = \"bad\"\n{bad}\n"));
        assert_eq!(refusals.len(), 1, "{bad}: {refusals:?}");
        assert!(
            refusals[0].contains("p.toml: service 'bad': "),
            "{bad}: {refusals:?}"
        );
        assert!(refusals[0].contains(expected), "{bad}: {refusals:?}");
        let names: Vec<String> = writer.tables().services.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["good"], "{bad}");
        assert!(
            !writer.tables().prune,
            "an earlier agent may have had a good version: {bad}"
        );
    }
}

#[test]
fn the_last_good_version_stays_and_blocks_what_it_holds() {
    let (mut writer, _) = writer(&format!("{HEAD}{GOOD}"));
    let before = writer.tables();
    // The bad edit and, in the same edit, somebody else who wants the port that the kept version holds.
    let refusals = apply(
        &mut writer,
        &format!(
            "{HEAD}{}\n[[services]]\nname = \"aa\"\nports = [ {{ published = 80, target = 1 }} ]\n",
            GOOD.replace("10.0.1.2", "nonsense")
        ),
    );
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert!(
        refusals
            .iter()
            .any(|r| r.contains("'good'") && r.contains("last good version stays"))
    );
    assert!(
        refusals
            .iter()
            .any(|r| r.contains("'aa'") && r.contains("published by service 'good'"))
    );
    assert_eq!(writer.tables(), before);
}

#[test]
fn two_services_may_exchange_their_ports_in_one_edit() {
    let text = |a: u16, b: u16| {
        format!(
            "{HEAD}[[services]]\nname = \"a\"\nports = [{{ published = {a}, target = 1 }}]\n\
             [[services]]\nname = \"b\"\nports = [{{ published = {b}, target = 1 }}]\n"
        )
    };
    let (mut writer, _) = writer(&text(80, 81));
    assert_eq!(apply(&mut writer, &text(81, 80)), Vec::<String>::new());
    let port = FrontendAddr::Published {
        port: 80,
        protocol: Protocol::Tcp,
    };
    assert_eq!(writer.tables().frontends[&port].service.as_str(), "b");
}

#[test]
fn a_refused_task_is_named_in_the_service_that_needs_it() {
    let head = HEAD.replace("node = \"n2\"", "node = \"n9\"");
    let (mut writer, refusals) = writer(&format!("{head}{GOOD}"));
    assert_eq!(refusals.len(), 2, "{refusals:?}");
    assert_eq!(refusals[0], "p.toml: task 'a.2': node: unknown node 'n9'");
    assert!(refusals[1].contains("service 'good': tasks[1]: task 'a.2' is refused: node: unknown node 'n9'"));
    assert!(writer.tables().services.is_empty());
}

#[test]
fn a_nameless_service_removes_nothing() {
    let (mut writer, _) = writer(&format!("{HEAD}{GOOD}"));
    let refusals = apply(&mut writer, &format!("{HEAD}{}", GOOD.replace("name =", "nme =")));
    assert!(
        refusals[0].contains("p.toml: services[0].name: is missing"),
        "{refusals:?}"
    );
    assert_eq!(writer.tables().services.len(), 1);
    apply(&mut writer, HEAD);
    assert_eq!(writer.tables().services.len(), 0);
}

#[test]
fn the_second_of_two_names_is_refused() {
    let (mut writer, refusals) = writer(&format!("{HEAD}{GOOD}{}", GOOD.replace("80", "90")));
    assert_eq!(
        refusals,
        ["p.toml: service 'good': name: is used by an earlier service; the first one counts"]
    );
    assert_eq!(writer.tables().services.len(), 1);
}

#[test]
fn too_many_networks_are_refused_by_the_name_of_the_limit() {
    let mut text = HEAD.to_string();
    let mut networks = Vec::new();
    for i in 0..=limits::TASK_NETWORKS_MAX {
        text += &format!("[[networks]]\nname = \"w{i}\"\n");
        networks.push(format!("w{i} = \"10.1.{i}.1\""));
    }
    text += &format!(
        "[[tasks]]\nname = \"wide\"\nnode = \"n1\"\nnetworks = {{ {} }}\n",
        networks.join(", ")
    );
    let (_, refusals) = writer(&text);
    assert!(
        refusals[0].contains("task 'wide': networks: more than 14 (limits::SCOPE_NETWORKS_MAX)"),
        "{refusals:?}"
    );
}

#[test]
fn colliding_network_numbers_refuse_the_second() {
    // A known pair of FNV-1a (32 bit) collisions.
    assert_eq!(NetworkId::of("costarring"), NetworkId::of("liquid"));
    let (_, refusals) =
        writer("node = \"n\"\n[[networks]]\nname = \"costarring\"\n[[networks]]\nname = \"liquid\"\n");
    assert_eq!(
        refusals,
        ["p.toml: network 'liquid': name: its number collides with that of network 'costarring'"]
    );
}

#[test]
fn ports_of_one_vip_may_be_several_services_and_all_ports_only_one() {
    let service = |name: &str, vip: &str| {
        format!(
            "[[services]]\nname = \"{name}\"\nvips = {{ host = \"{vip}\" }}\nbackends = [ {{ address = \"10.9.9.9\", port = 1 }} ]\n"
        )
    };
    let (mut writer, refusals) = writer(&format!(
        "{HEAD}{}{}{}{}{}",
        service("web", "10.9.0.1:80"),
        service("dns", "10.9.0.1:80/udp"),
        service("same", "10.9.0.1:80/tcp"),
        service("all", "10.9.0.1"),
        service("other", "10.9.0.2"),
    ));
    assert_eq!(
        refusals,
        [
            "p.toml: service 'all': vips.host: 10.9.0.1 is the VIP of service 'web'",
            "p.toml: service 'same': vips.host: 10.9.0.1:80/tcp is the VIP of service 'web'",
        ]
    );
    let frontends = |writer: &mut Writer| -> Vec<String> {
        let tables = writer.tables();
        tables
            .frontends
            .keys()
            .map(|address| {
                address
                    .to_string()
                    .split('@')
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(
        frontends(&mut writer),
        ["10.9.0.1:80/tcp", "10.9.0.1:80/udp", "10.9.0.2"]
    );
    let refusals = apply(
        &mut writer,
        &format!(
            "{HEAD}{}{}",
            service("all", "10.9.0.1"),
            service("web", "10.9.0.1:80")
        ),
    );
    assert_eq!(
        refusals,
        ["p.toml: service 'all': vips.host: 10.9.0.1 is the VIP of service 'web'"],
        "what is in force keeps it"
    );
}

#[test]
fn a_plain_backend_can_drain() {
    let (mut writer, refusals) = writer(&format!(
        "{HEAD}[[services]]\nname = \"db\"\nvips = {{ host = \"10.9.0.1:80\" }}\nbackends = [ {{ address = \"10.9.9.9\", port = 1 }}, {{ address = \"10.9.9.8\", port = 1, draining = true }} ]\n"
    ));
    assert_eq!(refusals, Vec::<String>::new());
    let tables = writer.tables();
    let frontend = tables.frontends.values().next().expect("one frontend");
    let draining: Vec<bool> = frontend.backends.iter().map(|backend| backend.draining).collect();
    assert_eq!(draining, [false, true]);
}

#[test]
fn policies_and_weights_come_from_the_file_and_a_wrong_one_keeps_the_last() {
    let good = GOOD.replace(
        "tasks =",
        "scheduler = \"mh\"\naffinity = \"10m/24\"\nclient = \"dsr\"\nallow = [\"10.0.0.0/8\"]\ntasks =",
    );
    let head = HEAD.replace("netns = \"/ns/a2\"", "weight = 0");
    let (mut writer, refusals) = writer(&format!("{head}{good}"));
    assert_eq!(refusals, [""; 0]);
    let address = FrontendAddr::Published {
        port: 80,
        protocol: Protocol::Tcp,
    };
    let frontend = writer.tables().frontends[&address].clone();
    assert_eq!(frontend.policy.scheduler, super::super::Scheduler::Maglev);
    assert!(frontend.policy.is_filtered());
    let weightless = |frontend: &super::super::Frontend| frontend.backends.iter().all(|b| b.draining);
    assert!(weightless(&frontend), "weight 0 takes no new flow: {frontend:?}");

    let refusals = apply(&mut writer, &format!("{head}{}", good.replace("10m/24", "soon")));
    assert!(
        matches!(&refusals[..], [one] if one.contains("affinity: 'soon' is not a time") && one.contains("stays in force")),
        "{refusals:?}"
    );
    assert_eq!(writer.tables().frontends[&address], frontend);
    let refusals = apply(
        &mut writer,
        &format!("{}{good}", head.replace("weight = 0", "weight = 256")),
    );
    assert!(refusals[0].contains("256 is not a weight"), "{refusals:?}");
}

#[test]
fn each_vip_has_the_backends_of_its_own_family() {
    let text = format!(
        "{HEAD}\n[[tasks]]\nname = \"six.1\"\nnode = \"n1\"\nnetworks = {{ proxy = [\"10.0.1.30\", \"fd00::30\"] }}\n\
         [[tasks]]\nname = \"six.2\"\nnode = \"n1\"\nnetworks = {{ proxy = \"fd00::31\" }}\n\
         [[services]]\nname = \"six\"\nvips = {{ proxy = [\"10.0.1.40\", \"fd00::40\"] }}\ntasks = [\"six.1\", \"six.2\"]\n"
    );
    let (mut writer, refusals) = writer(&text);
    assert_eq!(refusals.len(), 0, "{refusals:?}");
    let tables = writer.tables();
    let of = |vip: &str| -> Vec<String> {
        let found = tables.frontends.iter().find(
            |(address, _)| matches!(address, FrontendAddr::Vip { address, .. } if address.to_string() == vip),
        );
        let backends = found.expect("the VIP").1.backends.iter();
        backends.map(|backend| backend.address.to_string()).collect()
    };
    assert_eq!(of("10.0.1.40"), ["10.0.1.30"]);
    assert_eq!(of("fd00::40"), ["fd00::30", "fd00::31"]);
}

#[test]
fn a_published_port_needs_tasks_with_ipv4_addresses() {
    let text = format!(
        "{HEAD}\n[[tasks]]\nname = \"six.1\"\nnode = \"n1\"\nnetns = \"/ns/six\"\nnetworks = {{ proxy = \"fd00::30\" }}\n\
         [[services]]\nname = \"six\"\nports = [{{ published = 81, target = 80 }}]\ntasks = [\"six.1\"]\n"
    );
    let (_, refusals) = writer(&text);
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert!(
        refusals[0].contains("task 'six.1' has no IPv4 address, which a published port needs"),
        "{}",
        refusals[0]
    );
}
