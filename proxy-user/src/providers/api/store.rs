// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the operator's verbs have said, in memory and on the disk.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Edit, EditError, KIND, STATE_BYTES_MAX, Wanted, edit::Services};
use crate::{
    durable,
    model::{
        Cookie, Refusal, Snapshot, Writer,
        snapshot::{HOST, INGRESS, NetworkParams, ServiceParams},
    },
};

/// The form of the state file.
const VERSION: u32 = 1;
/// Its name in the state directory.
const FILE: &str = "api.json";

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    /// By name.
    pub services: Services,
}

/// Why the state cannot be used at the start.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or the file.
    #[error("{path}: {source}")]
    Disk {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text.
    #[error("{path}: {why}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What became of edits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// For each edit, whether it changed anything.
    pub changed: Vec<bool>,
    /// The state that has them.
    pub revision: u64,
}

/// The kept state.
///
/// *Who writes it:* the admin side, one request at a time. *Lifetime:* the machine's. *Limits:*
/// [`super::SERVICES_MAX`], [`super::BACKENDS_MAX`], [`STATE_BYTES_MAX`].
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// Held while a change is checked and written.
    state: Mutex<(Arc<State>, u64)>,
    revisions: watch::Sender<u64>,
}

impl Store {
    /// Reads what is kept in the directory; makes the directory if need be.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let disk = |path: &Path| {
            let path = path.into();
            |source| StoreError::Disk { path, source }
        };
        fs::create_dir_all(directory).map_err(disk(directory))?;
        let state = match fs::read(&path) {
            Ok(text) => read(&text).map_err(|why| StoreError::Broken {
                path: path.clone(),
                why,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State {
                version: VERSION,
                ..State::default()
            },
            Err(error) => return Err(disk(&path)(error)),
        };
        Ok(Self {
            path,
            state: Mutex::new((Arc::new(state), 0)),
            revisions: watch::Sender::new(0),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is kept now.
    pub fn state(&self) -> Arc<State> {
        self.lock().0.clone()
    }

    /// What the provider says now.
    pub fn wanted(&self) -> Wanted {
        let (state, revision) = self.lock().clone();
        Wanted {
            revision,
            services: state
                .services
                .iter()
                .map(|(name, spec)| spec.params(name))
                .collect(),
        }
    }

    /// Changes of [`Wanted::revision`].
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revisions.subscribe()
    }

    /// Does all edits or none. Blocks: it waits for the disk.
    pub fn apply(&self, edits: &[Edit]) -> Result<Done, EditError> {
        let mut held = self.lock();
        let mut next = State::clone(&held.0);
        let changed = edits.iter().map(|edit| edit.apply(&mut next.services));
        let changed: Vec<bool> = changed.collect::<Result<_, _>>()?;
        if next == *held.0 {
            return Ok(Done {
                changed,
                revision: held.1,
            });
        }
        check(&held.0, &next)?;
        let text = serde_json::to_vec_pretty(&next).map_err(|error| EditError::Wrong(error.to_string()))?;
        if text.len() > STATE_BYTES_MAX {
            return Err(EditError::Wrong(format!(
                "more than {STATE_BYTES_MAX} bytes (api::STATE_BYTES_MAX); describe the services in a file"
            )));
        }
        durable::replace(&self.path, &text)
            .map_err(|error| EditError::Disk(format!("{}: {error}", self.path.display())))?;
        *held = (Arc::new(next), held.1 + 1);
        self.revisions.send_replace(held.1);
        Ok(Done {
            changed,
            revision: held.1,
        })
    }

    fn lock(&self) -> MutexGuard<'_, (Arc<State>, u64)> {
        // Replaced as a whole, so whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(text: &[u8]) -> Result<State, String> {
    let state: State = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if state.version != VERSION {
        return Err(format!(
            "its version is {}, and this program knows {VERSION}",
            state.version
        ));
    }
    Ok(state)
}

/// Lets a Writer of its own judge the new state as a change of the old one. What the other provider has is not
/// known here: its networks are taken to exist, and its tasks are left out.
fn check(old: &State, new: &State) -> Result<(), EditError> {
    let texts: Vec<String> = refusals(old, new).iter().map(ToString::to_string).collect();
    if texts.is_empty() {
        Ok(())
    } else {
        Err(EditError::Wrong(
            texts
                .join("; ")
                .replace(" (the last good version stays in force)", ""),
        ))
    }
}

fn refusals(old: &State, new: &State) -> Vec<Refusal> {
    let mut writer = Writer::new(Cookie(0));
    writer.apply(&alone(old));
    writer.apply(&alone(new)).to_vec()
}

/// Which edits the state could not take, by position, and why, as far as that is known without the other provider.
pub fn trial(state: &State, edits: &[Edit]) -> BTreeMap<usize, String> {
    let mut next = state.clone();
    let mut wrong = BTreeMap::new();
    for (position, edit) in edits.iter().enumerate() {
        if let Err(error) = edit.apply(&mut next.services) {
            wrong.insert(position, error.to_string());
        }
    }
    for refusal in refusals(state, &next) {
        let same = |edit: &Edit| edit.service() == refusal.name;
        if let Some(position) = edits.iter().position(same) {
            let why = format!("{}: {}", refusal.field, refusal.problem);
            wrong.entry(position).or_insert(why);
        }
    }
    wrong
}

fn alone(state: &State) -> Snapshot {
    let mut snapshot = Snapshot {
        source: KIND.into(),
        ..Snapshot::default()
    };
    for (name, spec) in &state.services {
        let mut params = ServiceParams::clone(&spec.params(name));
        params.tasks.clear();
        for (network, _) in &params.vips {
            let known = [HOST, INGRESS].contains(&network.as_str())
                || snapshot.networks.iter().any(|other| other.name == *network);
            if !known {
                snapshot.networks.push(NetworkParams {
                    name: network.clone(),
                    key: network.clone(),
                    problems: Vec::new(),
                });
            }
        }
        snapshot.services.push(Arc::new(params));
    }
    snapshot
}
