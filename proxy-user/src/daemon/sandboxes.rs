// SPDX-License-Identifier: MIT OR Apache-2.0
//! Facts about the namespaces of this node's tasks, with as few visits as possible.
//!
//! Life of an entry: a task names a path; it is visited at once; a visit that fails, or that finds no gateway
//! where one is needed, is repeated every second; a good one is repeated when the path leads to another
//! namespace, and now and then, because interfaces come and go and inode numbers are used again. Facts are
//! given up only when the namespace is gone, not when one visit fails.

use std::{
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::view::SandboxProblem;
use crate::{
    kernel::netns::{NamespaceFacts, NetnsError},
    kernel::parts::Inspect,
    model::{Cookie, Facts, Gateway, writer::Namespace},
};

/// How often a namespace that could not be used is visited again.
pub const RETRY: Duration = Duration::from_secs(1);
/// How often a good one is.
pub const REVISIT: Duration = Duration::from_secs(5);

/// The namespaces that are wanted.
pub(super) struct Sandboxes {
    inspect: Inspect,
    entries: BTreeMap<PathBuf, Entry>,
}

struct Entry {
    namespace: Namespace,
    identity: Option<(u64, u64)>,
    facts: Option<Facts>,
    problem: Option<String>,
    due: Instant,
}

impl Sandboxes {
    pub(super) fn new(inspect: Inspect) -> Self {
        Self {
            inspect,
            entries: BTreeMap::new(),
        }
    }

    /// Visits what is due.
    pub(super) fn refresh(&mut self, wanted: &BTreeMap<PathBuf, Namespace>, now: Instant) {
        self.entries.retain(|path, _| wanted.contains_key(path));
        for (path, namespace) in wanted {
            let entry = self.entries.entry(path.clone()).or_insert_with(|| Entry {
                namespace: namespace.clone(),
                identity: None,
                facts: None,
                problem: None,
                due: now,
            });
            if entry.namespace != *namespace {
                entry.namespace = namespace.clone();
                entry.due = now;
            }
            let identity = identity(path);
            if identity != entry.identity {
                // Another namespace: what was known of the old one is void.
                entry.identity = identity;
                entry.facts = None;
                entry.due = now;
            }
            if entry.due <= now {
                entry.visited((self.inspect)(path), now);
            }
        }
    }

    /// What is known.
    pub(super) fn facts(&self) -> BTreeMap<PathBuf, Facts> {
        self.entries
            .iter()
            .filter_map(|(path, entry)| Some((path.clone(), entry.facts?)))
            .collect()
    }

    /// What is wrong.
    pub(super) fn problems(&self) -> Vec<SandboxProblem> {
        let problem = |(path, entry): (&PathBuf, &Entry)| {
            Some(SandboxProblem {
                task: entry.namespace.task.to_string(),
                path: path.display().to_string(),
                problem: entry.problem.clone()?,
            })
        };
        self.entries.iter().filter_map(problem).collect()
    }
}

impl Entry {
    fn visited(&mut self, outcome: Result<NamespaceFacts, NetnsError>, now: Instant) {
        self.problem = match outcome {
            Ok(facts) => {
                self.facts = Some(translate(&facts));
                let needs = self.namespace.publishes && facts.gateway.is_none();
                needs.then(|| "has no default route yet, which published ports need".into())
            }
            Err(error) => {
                if self.identity.is_none() {
                    self.facts = None;
                }
                Some(error.to_string())
            }
        };
        self.due = now + if self.problem.is_some() { RETRY } else { REVISIT };
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path)
        .ok()
        .map(|metadata| (metadata.dev(), metadata.ino()))
}

fn translate(facts: &NamespaceFacts) -> Facts {
    Facts {
        cookie: Cookie(facts.cookie),
        gateway: facts.gateway.map(|gateway| Gateway {
            address: gateway.address,
            mac: gateway.mac,
            host_ifindex: gateway.host_ifindex,
            gateway_mac: gateway.gateway_mac,
        }),
    }
}
