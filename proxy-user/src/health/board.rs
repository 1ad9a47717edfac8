// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is up and who is down. Pure: it is told what came of each check.

use std::collections::{BTreeMap, BTreeSet};

use super::Targets;
use crate::model::health::{Down, MemberKey};

/// What is known of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether it is used; `None` before its first check.
    pub up: Option<bool>,
    /// Checks in a row that say the opposite of `up`.
    pub against: u32,
    /// Why the last check was bad; empty after a good one.
    pub why: String,
    /// Checks since the agent started or the member came.
    pub checks: u64,
}

/// Everybody who is asked.
#[derive(Debug, Default)]
pub struct Board {
    members: BTreeMap<MemberKey, Standing>,
    /// Who was down when the last agent ended, by the words that they were shown with.
    remembered: BTreeSet<(String, String)>,
    /// Good checks, bad checks, changes of state.
    pub counts: [u64; 3],
}

impl Board {
    /// A board that takes these members for down until a check says otherwise.
    pub fn remembering(down: Vec<(String, Vec<String>)>) -> Self {
        let pairs = down
            .into_iter()
            .flat_map(|(service, members)| members.into_iter().map(move |member| (service.clone(), member)));
        Self {
            remembered: pairs.collect(),
            ..Self::default()
        }
    }

    /// Forgets who is not asked any more, and takes in who is new.
    pub fn keep(&mut self, targets: &Targets) {
        self.members.retain(|key, _| targets.contains_key(key));
        for key in targets.keys() {
            let remembered = &mut self.remembered;
            self.members.entry(key.clone()).or_insert_with(|| Standing {
                up: remembered
                    .remove(&(key.0.to_string(), key.1.to_string()))
                    .then_some(false),
                ..Standing::default()
            });
        }
    }

    /// Takes in what came of a check; the new state if it has changed.
    pub fn note(
        &mut self,
        key: &MemberKey,
        outcome: Result<(), String>,
        rise: u32,
        fall: u32,
    ) -> Option<bool> {
        let standing = self.members.get_mut(key)?;
        let good = outcome.is_ok();
        self.counts[usize::from(!good)] += 1;
        standing.checks += 1;
        standing.why = outcome.err().unwrap_or_default();
        let needed = match standing.up {
            None => 1,
            Some(up) if up == good => {
                standing.against = 0;
                return None;
            }
            Some(true) => fall,
            Some(false) => rise,
        };
        standing.against += 1;
        if standing.against < needed {
            return None;
        }
        // A first good check confirms what was taken for granted.
        let changed = standing.up.is_some() || !good;
        standing.against = 0;
        standing.up = Some(good);
        self.counts[2] += u64::from(changed);
        changed.then_some(good)
    }

    /// Who is down.
    pub fn down(&self) -> Down {
        let mut down = Down::new();
        for ((service, member), _) in self.members.iter().filter(|(_, s)| s.up == Some(false)) {
            down.entry(service.clone()).or_default().insert(member.clone());
        }
        down
    }

    /// Why a member's last check was bad.
    pub fn why(&self, key: &MemberKey) -> String {
        self.members
            .get(key)
            .map(|standing| standing.why.clone())
            .unwrap_or_default()
    }

    /// Everybody.
    pub fn standings(&self) -> BTreeMap<MemberKey, Standing> {
        self.members.clone()
    }
}
