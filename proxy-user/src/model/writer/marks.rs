// SPDX-License-Identifier: MIT OR Apache-2.0
//! The few services that every change has to look at, so that it need not look at all in order to find them.

use std::collections::BTreeSet;

use super::super::{Service, ServiceName};

/// Names of services that are out of the ordinary.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Their members are asked for their health.
    pub(super) checked: BTreeSet<ServiceName>,
    /// A member drains.
    pub(super) draining: BTreeSet<ServiceName>,
}

impl Marks {
    /// Takes in a service that is in force from now on.
    pub(super) fn add(&mut self, service: &Service) {
        if service.health.is_some() {
            self.checked.insert(service.name.clone());
        }
        if drains(service) {
            self.draining.insert(service.name.clone());
        }
    }

    /// Forgets a service that was in force.
    pub(super) fn remove(&mut self, service: &Service) {
        self.checked.remove(&service.name);
        self.draining.remove(&service.name);
    }
}

fn drains(service: &Service) -> bool {
    service.tasks.iter().any(|task| task.draining) || service.backends.iter().any(|backend| backend.draining)
}
