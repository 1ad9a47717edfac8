// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of `portico service ls`.

use serde_json::Value;

use super::{
    super::{ask::cell, table},
    policy,
};

pub(super) fn render(services: &Value) -> String {
    let list = |value: &Value, show: &dyn Fn(&Value) -> String| -> String {
        value
            .as_array()
            .into_iter()
            .flatten()
            .map(show)
            .collect::<Vec<_>>()
            .join(",")
    };
    let rows: Vec<Vec<String>> = services
        .as_array()
        .into_iter()
        .flatten()
        .map(|service| {
            let tasks = service["tasks"].as_array().map_or(&[][..], Vec::as_slice);
            let count =
                |field: &str, wanted: &Value| tasks.iter().filter(|task| task[field] == *wanted).count();
            let remembered = service["remembered"] == true;
            let mut who = format!(
                "{} local, {} remote",
                count("place", &"local".into()),
                count("place", &"remote".into())
            );
            let draining = count("draining", &true.into());
            if draining > 0 {
                who.push_str(&format!(", {draining} draining"));
            }
            let plain = service["backends"].as_array().map_or(0, Vec::len);
            if plain > 0 {
                who.push_str(&format!(", {plain} plain"));
            }
            if remembered {
                who = "none listed any more".into();
            }
            let mut state = cell(&service["status"]);
            if service["health"]
                .as_str()
                .is_some_and(|health| health != "checked")
            {
                state.push_str(&format!(", {}", cell(&service["health"])));
            }
            if let Some(problem) = service["problem"].as_str() {
                state.push_str(&format!(": {problem}"));
            }
            vec![
                cell(&service["name"]),
                list(&service["vips"], &|vip| {
                    let mut text = cell(&vip["address"]);
                    if let Some(port) = vip["port"].as_object() {
                        if text.contains(':') {
                            text = format!("[{text}]");
                        }
                        text.push_str(&format!(":{}/{}", cell(&port["port"]), cell(&port["protocol"])));
                    }
                    format!("{text}@{}", cell(&vip["network"]))
                }),
                ports(&service["ports"]),
                policy::words(service),
                who,
                cell(&service["owner"]),
                state,
            ]
        })
        .collect();
    let mut out = table::render(
        &["SERVICE", "VIPS", "PORTS", "POLICY", "TASKS", "OWNER", "STATUS"],
        &rows,
    );
    let mut ports = services
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|of| of["ports"].as_array().into_iter().flatten());
    if ports.any(|port| port["guessed"] == true) {
        out.push_str("\n? a worker's engine does not say the protocol; what it may be is served\n");
    }
    out
}

/// `80->8080/tcp`; where the source does not say the protocol, one `80->8080/tcp|udp?` for what may be two.
fn ports(ports: &Value) -> String {
    let ports = ports.as_array().map_or(&[][..], Vec::as_slice);
    let mut shown: Vec<String> = Vec::new();
    let mut guesses: Vec<(&Value, &Value)> = Vec::new();
    for port in ports {
        let numbers = (&port["published"], &port["target"]);
        let mut protocol = cell(&port["protocol"]);
        if port["guessed"] == true {
            if guesses.contains(&numbers) {
                continue;
            }
            guesses.push(numbers);
            let same = ports.iter().filter(|other| {
                other["guessed"] == true && (&other["published"], &other["target"]) == numbers
            });
            let names: Vec<String> = same.map(|port| cell(&port["protocol"])).collect();
            protocol = format!("{}?", names.join("|"));
        }
        shown.push(format!("{}->{}/{protocol}", numbers.0, numbers.1));
    }
    shown.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_of_unknown_protocol_is_one_port_and_marked() {
        let port = |published: u16, protocol: &str, guessed: bool| json!({ "published": published, "target": 80, "protocol": protocol, "guessed": guessed });
        for (list, expected) in [
            (json!([]), ""),
            (
                json!([port(80, "tcp", false), port(53, "udp", false)]),
                "80->80/tcp,53->80/udp",
            ),
            (
                json!([port(80, "tcp", true), port(80, "udp", true)]),
                "80->80/tcp|udp?",
            ),
            (
                json!([port(80, "udp", true), port(81, "tcp", false)]),
                "80->80/udp?,81->80/tcp",
            ),
        ] {
            assert_eq!(ports(&list), expected);
        }
    }

    #[test]
    fn the_mark_is_explained_where_it_is_used() {
        let service = |guessed: bool, remembered: bool| {
            render(
                &json!([{ "name": "web", "vips": [{ "address": "10.0.1.2", "network": "proxy" }],
                "ports": [{ "published": 80, "target": 80, "protocol": "tcp", "guessed": guessed }],
                "tasks": [], "remembered": remembered, "status": "done" }]),
            )
        };
        assert!(!service(false, false).contains('?'));
        assert!(service(true, false).contains("\n? a worker's engine"));
        assert!(service(true, true).contains("none listed any more"));
    }
}
