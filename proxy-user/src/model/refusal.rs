// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the Writer did not take, and why.

use std::fmt;

/// The kind of object that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The source as a whole.
    Source,
    /// A node.
    Node,
    /// A network.
    Network,
    /// A task.
    Task,
    /// A service.
    Service,
}

impl Kind {
    /// The word used in messages and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Source => "source",
            Kind::Node => "node",
            Kind::Network => "network",
            Kind::Task => "task",
            Kind::Service => "service",
        }
    }
}

/// One wrong field of one object. Lives until the next snapshot of its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// File, or `docker`.
    pub source: String,
    /// What kind of object.
    pub kind: Kind,
    /// Its name, or its position when it has none.
    pub name: String,
    /// The field, as a path (`ports[0].published`).
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// Whether an earlier, good version stays in force.
    pub kept: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        if self.kind != Kind::Source {
            write!(f, "{} '{}': ", self.kind.as_str(), self.name)?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}", self.problem)?;
        if self.kept {
            write!(f, " (the last good version stays in force)")
        } else {
            Ok(())
        }
    }
}
