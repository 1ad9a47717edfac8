// SPDX-License-Identifier: MIT OR Apache-2.0
//! Desired state: three tables (Service, Frontend, Backend), the namespaces that may use them, and the one
//! [`Writer`] through which everything comes in.
//!
//! Life of a change: a provider reads its source and hands over a whole [`Snapshot`] of unchecked text and
//! numbers. The Writer checks every object on its own. What is wrong is refused with a [`Refusal`] that names
//! source, object and field, and the last good version of that object stays in force; everything else is taken.
//! From what is in force, and from the facts about the namespaces of this node's tasks, the Writer derives
//! [`Tables`], an immutable picture that the reconciler compares with the kernel.
//!
//! This module knows nothing of Docker, TOML, HTTP or BPF system calls.

pub mod addr;
pub mod backend;
pub mod frontend;
pub mod health;
pub mod ids;
pub mod limits;
pub mod list;
pub mod policy;
pub mod refusal;
pub mod sandbox;
pub mod service;
pub mod snapshot;
pub mod tables;
pub mod writer;

pub use addr::{Family, NodeAddr, TaskAddr, VipAddr};
pub use backend::{Backend, Reach};
pub use frontend::{Frontend, FrontendAddr, Protocol, VipPort};
pub use health::HealthCheck;
pub use ids::{Cookie, NetworkId, ServiceName, TaskId, TaskName};
pub use list::List;
pub use policy::{Affinity, ClientMode, Policy, Scheduler};
pub use refusal::Refusal;
pub use sandbox::{Facts, Gateway};
pub use service::{Place, PlainBackend, PublishedPort, Service, Task, Vip};
pub use snapshot::Snapshot;
pub use tables::Tables;
pub use writer::Writer;
