// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where services come from, and what is kept of them: the file of the state directory and the copies that replicas
//! give each other have the same content.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::params::Params;

/// Who speaks of a service, in the order in which they are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The API, which a listener uses as well.
    Call,
    /// Labels of Swarm services, read from the engine.
    Labels,
    /// Variables of the proxy itself.
    Environment,
}

impl Source {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Call => "call",
            Source::Labels => "labels",
            Source::Environment => "environment",
        }
    }
}

/// Everything that has to survive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What the sources said.
    pub services: Vec<KeptService>,
    /// Names that were removed by a call, and when.
    #[serde(default)]
    pub removed: Vec<(String, u64)>,
}

/// One source's word on one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptService {
    /// Who said it.
    pub source: Source,
    /// When, by the [`Clock`] of the replica that heard it.
    pub changed: u64,
    /// What was said; parameters and not rules, so that a newer version reads them with what it has learned.
    pub params: Arc<Params>,
}

/// Milliseconds since 1970 that never stand still or go back, also not behind what another replica has said.
#[derive(Debug, Default)]
pub struct Clock(u64);

impl Clock {
    /// Later than every answer before.
    pub fn now(&mut self) -> u64 {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        self.0 = wall.max(self.0 + 1);
        self.0
    }

    /// Somebody else's clock stood there. A clock that runs far ahead must not take ours along for good, so what lies
    /// further ahead than [`super::limits::CLOCK_SKEW_MAX`] is not followed.
    pub fn saw(&mut self, other: u64) {
        let ahead = other.saturating_sub(Clock::default().now());
        if ahead <= super::limits::CLOCK_SKEW_MAX.as_millis() as u64 {
            self.0 = self.0.max(other);
        }
    }
}
