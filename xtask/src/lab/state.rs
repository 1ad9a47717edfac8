// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `lab down`, `exec`, `scale` and `status` must know of a lab that another run made.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Engine, embedded::Cluster, process::Process};

/// Everything of labs is below this folder: state, logs, sockets, engines' data, bpffs.
pub const BASE: &str = "/run/portico-lab";

/// A lab, as `state.json` has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    pub engine: Engine,
    /// Engines and agents, by name (`dockerd node-1`, `agent node-1`).
    pub processes: BTreeMap<String, Process>,
    /// Services and tasks of the embedded cluster; Swarm keeps its own.
    pub cluster: Cluster,
}

impl State {
    /// A lab that has nothing yet.
    pub fn new(engine: Engine) -> State {
        State {
            engine,
            processes: BTreeMap::new(),
            cluster: Cluster::default(),
        }
    }

    /// The lab that stands: of `engine` or, without one, whichever does.
    pub fn load(engine: Option<Engine>) -> Result<Option<State>> {
        let candidates = engine.map_or_else(|| vec![Engine::Embedded, Engine::Docker], |engine| vec![engine]);
        for engine in candidates {
            let path = folder(engine).join("state.json");
            match fs::read(&path) {
                Ok(bytes) => {
                    return serde_json::from_slice(&bytes)
                        .with_context(|| path.display().to_string())
                        .map(Some);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        Ok(None)
    }

    /// Writes it; after a crash there is the old one or the new one.
    pub fn save(&self) -> Result<()> {
        write_atomically(
            &folder(self.engine).join("state.json"),
            &serde_json::to_vec_pretty(self)?,
        )
    }
}

/// The folder of an engine's lab.
pub fn folder(engine: Engine) -> PathBuf {
    Path::new(BASE).join(engine.name())
}

/// Temporary file beside it, then rename: a reader never sees half a file.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, content).with_context(|| temporary.display().to_string())?;
    fs::rename(&temporary, path).with_context(|| path.display().to_string())
}
