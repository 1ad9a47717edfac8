// SPDX-License-Identifier: MIT OR Apache-2.0
//! Policies of services with real packets: what tasks see as the client, and who stays with whom, by every node.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::Cases;
use crate::{
    cmd,
    lab::{
        Lab, agent,
        net::{CLIENT_ADDRESS, NODES, node_address},
        spec,
    },
    tour,
};

/// Requests of one look, each with a connection of its own.
const REQUESTS: usize = 30;
/// Published ports, which nothing else in the lab uses.
const MASQUERADE: u16 = 8091;
const DSR: u16 = 8092;
const STICKY: u16 = 8093;

pub fn all(lab: &mut Lab, cases: &mut Cases<'_>) {
    cases.check("services_with_policies_start", || {
        for (name, port, key, value) in [
            ("masked", MASQUERADE, "client", "masquerade"),
            ("direct", DSR, "client", "dsr"),
            ("sticky", STICKY, "affinity", "10m"),
        ] {
            let service = spec::with_policy(name, port, key, value);
            lab.create_service(service)?;
            lab.wait_running(name, spec::REPLICAS)?;
        }
        lab.wait_agents()
    });
    for (i, node) in NODES.into_iter().enumerate() {
        let address = node_address(i).to_string();
        cases.check(
            &format!("tasks_of_a_masqueraded_service_see_the_entry_node_through_{node}"),
            || tour::eventually("masquerade", || sees(lab, node, MASQUERADE, &address)),
        );
        cases.check(
            &format!("tasks_that_answer_directly_see_the_client_through_{node}"),
            || tour::eventually("dsr", || sees(lab, node, DSR, CLIENT_ADDRESS)),
        );
    }
    // A node gives a new client a task of those that it knows, and keeps to it.
    cases.check("every_node_knows_all_tasks", || {
        NODES
            .into_iter()
            .try_for_each(|node| tour::eventually("tasks", || knows_all(lab, node)))
    });
    cases.check("a_client_keeps_its_task_through_every_node", || stays(lab));
    cases.check("services_with_policies_end", || {
        for name in ["masked", "direct", "sticky"] {
            lab.scale(name, 0)?;
        }
        lab.wait_agents()
    });
}

/// Every request is answered, by all tasks together, and all of them see this address.
fn sees(lab: &Lab, node: &str, port: u16, address: &str) -> Result<()> {
    let round = tour::round(lab, &format!("{node}:{port}"), REQUESTS)?;
    ensure!(
        round.answers == REQUESTS && round.replicas.len() == spec::REPLICAS,
        "expected {REQUESTS} answers of {} tasks through {node}, found {round:?}",
        spec::REPLICAS
    );
    let seen: Vec<&String> = round.clients.keys().collect();
    ensure!(
        seen == [address],
        "expected {address} through {node}, found {seen:?}"
    );
    Ok(())
}

fn knows_all(lab: &Lab, node: &str) -> Result<()> {
    let mut verb = agent::verb(lab.state.engine, node, &["service", "ls", "--json"]);
    let services: serde_json::Value = serde_json::from_str(&cmd::text(&mut verb)?)?;
    let services = services.as_array().map_or(&[][..], Vec::as_slice);
    let sticky = services.iter().find(|service| service["name"] == "sticky");
    let tasks = sticky.and_then(|service| service["tasks"].as_array());
    let known = tasks.map_or(0, Vec::len);
    ensure!(
        known == spec::REPLICAS,
        "expected {} tasks on {node}, found {known}",
        spec::REPLICAS
    );
    Ok(())
}

fn stays(lab: &Lab) -> Result<()> {
    let mut tasks = BTreeSet::new();
    for node in NODES {
        let round = tour::round(lab, &format!("{node}:{STICKY}"), REQUESTS)?;
        ensure!(
            round.answers == REQUESTS,
            "expected {REQUESTS} answers through {node}, found {round:?}"
        );
        tasks.extend(round.replicas.into_keys());
    }
    ensure!(tasks.len() == 1, "expected one task, found {tasks:?}");
    Ok(())
}
