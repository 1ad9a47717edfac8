// SPDX-License-Identifier: MIT OR Apache-2.0
//! The node agents: one `portico node` per node, in the node's network namespace.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    Engine,
    net::{self, NODES},
    process::Process,
    state::{self, State},
};
use crate::{
    cmd, paths,
    progress::{Poll, wait},
};

/// How long an agent may take to program everything.
const READY: Duration = Duration::from_secs(30);

/// Starts the agents of all nodes and waits until they have programmed everything.
pub fn start_all(state: &mut State) -> Result<()> {
    for node in NODES {
        start(state, node)?;
    }
    NODES.into_iter().try_for_each(|node| wait_ready(state, node))
}

/// Starts the agent of one node.
pub fn start(state: &mut State, node: &str) -> Result<()> {
    let base = state::folder(state.engine);
    let bpffs = base.join("bpffs").join(node);
    let kept = base.join("agent").join(node);
    std::fs::create_dir_all(&bpffs).with_context(|| bpffs.display().to_string())?;
    std::fs::create_dir_all(&kept).with_context(|| kept.display().to_string())?;
    let mut command = cmd::lab("nsenter");
    command
        .arg(format!("--net={}", net::namespace_path(node)))
        .arg(paths::binary("portico"))
        .arg("node");
    match state.engine {
        Engine::Embedded => command
            .arg("--config")
            .arg(base.join(node).join("portico.toml"))
            .args(["--node", node]),
        Engine::Docker => command.arg("--docker").arg(super::docker::socket(node)),
    };
    command
        .args(["--uplink", "eth0", "--bpffs"])
        .arg(&bpffs)
        .arg("--state")
        .arg(&kept);
    command.arg("--socket").arg(socket(state.engine, node));
    let process = Process::spawn(&mut command, &log(state.engine, node))?;
    state.processes.insert(process_name(node), process);
    state.save()
}

/// Waits until the agent says that nothing is left to do.
pub fn wait_ready(state: &State, node: &str) -> Result<()> {
    let process = state
        .processes
        .get(&process_name(node))
        .with_context(|| format!("no agent on {node}"))?;
    wait(&format!("agent of {node} ready"), READY, || {
        if !process.is_alive() {
            bail!(
                "the agent of {node} has ended; {} says:\n{}",
                log(state.engine, node).display(),
                super::tail(&log(state.engine, node))
            );
        }
        let output = cmd::output(&mut verb(state.engine, node, &["status", "--json"]))?;
        if !output.status.success() {
            return Ok(Poll::Pending(
                String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            ));
        }
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        Ok(match pending(&status) {
            None => Poll::Ready(()),
            Some(what) => Poll::Pending(what),
        })
    })
}

/// What a status says is still to be done; unknown keys mean nothing.
pub fn pending(status: &Value) -> Option<String> {
    match status {
        Value::Object(map) => map.iter().find_map(|(key, value)| match (key.as_str(), value) {
            ("pending", Value::Number(number)) if number.as_f64() != Some(0.0) => {
                Some(format!("{number} pending"))
            }
            ("pending", Value::Array(list)) if !list.is_empty() => Some(format!("{} pending", list.len())),
            ("pending", Value::Bool(true)) => Some("pending".to_owned()),
            ("ready", Value::Bool(false)) => Some("not ready".to_owned()),
            (_, value) => pending(value),
        }),
        Value::Array(list) => list.iter().find_map(pending),
        _ => None,
    }
}

/// An operator's verb against the agent of a node.
pub fn verb(engine: Engine, node: &str, words: &[&str]) -> std::process::Command {
    let mut command = cmd::lab(&paths::binary("portico").to_string_lossy());
    command.args(words).arg("--socket").arg(socket(engine, node));
    command
}

/// The name under which the state remembers the agent.
pub fn process_name(node: &str) -> String {
    format!("agent {node}")
}

/// The agent's unix socket.
pub fn socket(engine: Engine, node: &str) -> PathBuf {
    state::folder(engine).join(node).join("agent.sock")
}

/// The agent's log.
pub fn log(engine: Engine, node: &str) -> PathBuf {
    state::folder(engine)
        .join("logs")
        .join(format!("agent-{node}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_mean_unready_does() {
        let check = |json: &str| pending(&serde_json::from_str(json).unwrap());
        assert_eq!(check(r#"{"pending": 0, "services": [{"name": "a"}]}"#), None);
        assert_eq!(
            check(r#"{"provider": {"pending": 2}}"#).as_deref(),
            Some("2 pending")
        );
        assert_eq!(check(r#"{"pending": ["x"]}"#).as_deref(), Some("1 pending"));
        assert_eq!(check(r#"{"whatever": true}"#), None);
    }
}
