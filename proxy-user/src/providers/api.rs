// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `api` provider: what the operator's verbs say, kept in the agent's state directory.
//!
//! Life of a verb: the admin side receives edits as JSON and hands them to the [`Store`]; they are tried on a
//! copy of what is kept, the copy is checked with the Writer's own rules, written to the disk, and only then
//! it is what the provider says. An edit that fails changes nothing, and of several edits in one request all
//! are done or none. The provider stands beside `file` or `docker`: its services come after theirs, so a name
//! that both use is theirs; a service has one owner, and only its owner's tool changes it.

mod edit;
mod spec;
mod store;

pub use edit::{Edit, EditError};
pub use spec::{BackendSpec, ServiceSpec};
pub use store::{Done, State, Store, StoreError, trial};

use crate::model::{List, snapshot::ServiceParams};

/// The word that names this provider in `status` and in messages.
pub const KIND: &str = "api";
/// Services of the operator's verbs. Each change writes all of them to the disk: 4 096 services of 10 backends
/// are about 2 MiB. Whoever has more describes them in a file.
pub const SERVICES_MAX: usize = 4_096;
/// Backends of one such service.
pub const BACKENDS_MAX: usize = 4_096;
/// Bytes of the kept state and of one request: eight times what the sum above gives.
pub const STATE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the operator's verbs want, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Counts changes since the agent started.
    pub revision: u64,
    /// The services.
    pub services: List<ServiceParams>,
}

#[cfg(test)]
mod tests;
