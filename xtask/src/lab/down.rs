// SPDX-License-Identifier: MIT OR Apache-2.0
//! Removing a lab: from its state, and from what it left when there is none.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    Engine, net,
    process::{self, CONTAINER_CGROUP},
    state::{self, State},
};
use crate::{cmd, progress::step};

/// Patience with an agent that closes its maps and sockets.
const AGENT_GRACE: Duration = Duration::from_secs(3);

/// Removes every trace of a lab. Given an engine, only if it is that lab that stands.
pub fn down(engine: Option<Engine>) -> Result<()> {
    let others = [Engine::Embedded, Engine::Docker]
        .into_iter()
        .filter(|other| Some(*other) != engine);
    if let Some(engine) = engine
        && !state::folder(engine).exists()
        && others.into_iter().any(|other| state::folder(other).exists())
    {
        step(format!("no {} lab to remove", engine.name()));
        return Ok(());
    }
    // A state file that cannot be read must not keep anything alive: the marks below find everything.
    if let Ok(Some(state)) = State::load(engine) {
        step("stop the agents");
        for (name, process) in &state.processes {
            if name.starts_with("agent") {
                process.stop(AGENT_GRACE)?;
            }
        }
    }
    if !process::marked().is_empty() {
        step("end tasks and engines");
        // At once, engines and containers: their data is thrown away, so nothing is gained by asking.
        process::kill_marked()?;
    }
    for mount in mounts()? {
        step(format!("unmount {}", mount.display()));
        cmd::text(cmd::lab("umount").arg(&mount))?;
    }
    for namespace in net::namespaces()? {
        net::delete_namespace(&namespace)?;
    }
    remove_cgroups()?;
    match fs::remove_dir_all(state::BASE) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context(state::BASE),
        _ => {}
    }
    let left = leftovers()?;
    if !left.is_empty() {
        bail!("left behind: {}", left.join(", "));
    }
    step("nothing of the lab is left");
    Ok(())
}

/// What is left of any lab; empty when nothing is.
pub fn leftovers() -> Result<Vec<String>> {
    let mut left: Vec<String> = process::marked()
        .iter()
        .map(|pid| format!("process {pid}"))
        .collect();
    left.extend(
        net::namespaces()?
            .into_iter()
            .map(|name| format!("namespace {name}")),
    );
    left.extend(
        mounts()?
            .into_iter()
            .map(|path| format!("mount {}", path.display())),
    );
    left.extend(
        cgroups()
            .into_iter()
            .map(|path| format!("cgroup {}", path.display())),
    );
    if Path::new(state::BASE).exists() {
        left.push(state::BASE.to_owned());
    }
    Ok(left)
}

/// Mounts below the lab's folder, innermost first.
fn mounts() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
    let base = format!("{}/", state::BASE);
    let mut mounts: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|path| path.starts_with(&base))
        .map(PathBuf::from)
        .collect();
    mounts.reverse();
    Ok(mounts)
}

/// The containers' cgroup in every hierarchy.
fn cgroups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()));
    std::iter::once(root.to_path_buf())
        .chain(below)
        .map(|folder| folder.join(CONTAINER_CGROUP))
        .filter(|folder| folder.is_dir())
        .collect()
}

fn remove_cgroups() -> Result<()> {
    cgroups().iter().try_for_each(|folder| remove_cgroup(folder))
}

/// A cgroup is removed as an empty folder, children first; its files are not files.
fn remove_cgroup(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            remove_cgroup(&path)?;
        }
    }
    // /sys/fs/cgroup may have two names for one hierarchy (cpu and cpu,cpuacct).
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}
