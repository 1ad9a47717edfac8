// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to a cluster: its services are updated, its nodes are lost and come back.

use anyhow::{Context as _, Result};

use super::{Task, remove_tasks, scale, start_again, wait_listening, write_config};
use crate::lab::{agent, net, state::State};

/// A rolling update, one task after the other and the old one first, as Swarm does it by default.
pub fn update(state: &mut State, name: &str) -> Result<()> {
    let tasks = &state.cluster.service(name)?.tasks;
    let old: Vec<String> = tasks.iter().map(|task| task.name.clone()).collect();
    for task in &old {
        crate::signals::check()?;
        remove_tasks(state, name, std::slice::from_ref(task))?;
        scale(state, name, old.len())?;
    }
    Ok(())
}

/// The cluster takes a node for dead: its tasks leave every other node's file.
pub fn declare_lost(state: &mut State, node: &str) -> Result<()> {
    state.cluster.lost = Some(node.to_owned());
    state.save()?;
    write_config(&state.cluster)
}

/// The cluster takes it back.
pub fn declare_back(state: &mut State) -> Result<()> {
    state.cluster.lost = None;
    state.save()?;
    write_config(&state.cluster)
}

/// The node's power goes: its cable, its agent and its tasks, without a word to anybody.
pub fn power_off(state: &State, node: &str) -> Result<()> {
    net::set_link(node, false)?;
    let agent = state.processes.get(&agent::process_name(node));
    agent.context("no agent")?.kill()?;
    for (_, task) in of_node(state, node) {
        if let Some(process) = &task.process {
            process.kill()?;
        }
    }
    Ok(())
}

/// And comes back, with the tasks that it had.
pub fn power_on(state: &mut State, node: &str) -> Result<()> {
    net::set_link(node, true)?;
    for (service, mut task) in of_node(state, node) {
        start_again(state, &service, &mut task)?;
        wait_listening(&task)?;
    }
    agent::start(state, node)?;
    agent::wait_ready(state, node)
}

/// The tasks of a node, each with its service.
fn of_node(state: &State, node: &str) -> Vec<(String, Task)> {
    let services = state.cluster.services.iter();
    let tasks = services.flat_map(|service| {
        let named = |task: &Task| (service.spec.name.clone(), task.clone());
        service.tasks.iter().map(named).collect::<Vec<_>>()
    });
    tasks.filter(|(_, task)| task.node == node).collect()
}
