// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long members have been draining, and whose time is over.
//!
//! Life of an entry: its provider says that a member drains; from then on its service's `drain` runs; when that is
//! over it is overdue, no backend any more, until its provider drops it or takes it back. Times are this agent's
//! own: a restarted one counts anew, because a reset too late does less harm than one too early.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::model::{
    Service,
    health::{Down, Member, MemberKey},
};

/// Members that drain, with a deadline.
#[derive(Debug, Default)]
pub(super) struct Drains {
    since: BTreeMap<MemberKey, Instant>,
    due: Option<Instant>,
}

impl Drains {
    /// When the next member's time will be over.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whose time is over.
    pub(super) fn look<'a>(&mut self, services: impl Iterator<Item = &'a Service>, now: Instant) -> Down {
        let before = std::mem::take(&mut self.since);
        let mut overdue = Down::new();
        self.due = None;
        for service in services {
            let Some(seconds) = service.policy.drain else {
                continue;
            };
            let tasks = service.tasks.iter().filter(|task| task.draining);
            let tasks = tasks.map(|task| Member::Task(task.name.clone()));
            let plain = service.backends.iter().filter(|backend| backend.draining);
            let plain = plain.map(|backend| Member::Plain(backend.address, backend.port));
            for member in tasks.chain(plain) {
                let key = (service.name.clone(), member);
                let since = *before.get(&key).unwrap_or(&now);
                let end = since + Duration::from_secs(seconds.into());
                if end <= now {
                    let members = overdue.entry(key.0.clone()).or_default();
                    members.insert(key.1.clone());
                } else {
                    self.due = Some(self.due.map_or(end, |due| due.min(end)));
                }
                self.since.insert(key, since);
            }
        }
        overdue
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Policy, ServiceName, TaskAddr, service::PlainBackend};

    fn service(drain: Option<u32>, draining: &[bool]) -> Service {
        let backend = |(i, draining): (usize, &bool)| PlainBackend {
            address: TaskAddr::parse(&format!("10.0.0.{i}")).unwrap(),
            port: 80,
            weight: 1,
            draining: *draining,
        };
        Service {
            name: ServiceName::new("s"),
            vips: Vec::new(),
            ports: Vec::new(),
            tasks: Vec::new(),
            backends: draining.iter().enumerate().map(backend).collect(),
            health: None,
            policy: Arc::new(Policy {
                drain,
                ..Policy::default()
            }),
            remembered: false,
        }
    }

    #[test]
    fn a_member_is_overdue_when_its_time_is_over_and_begins_anew_when_it_comes_back() {
        let (mut drains, start) = (Drains::default(), Instant::now());
        let mut look = |service: &Service, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            let overdue = drains.look([service].into_iter(), now);
            let due = drains.due().map(|due| (due - start).as_secs());
            (overdue.values().map(|members| members.len()).sum::<usize>(), due)
        };
        assert_eq!(look(&service(Some(30), &[false, false]), 0), (0, None));
        assert_eq!(look(&service(Some(30), &[true, false]), 5), (0, Some(35)));
        assert_eq!(look(&service(Some(30), &[true, true]), 10), (0, Some(35)));
        assert_eq!(look(&service(Some(30), &[true, true]), 35), (1, Some(40)));
        // It stays so.
        assert_eq!(look(&service(Some(30), &[true, true]), 41), (2, None));
        assert_eq!(look(&service(Some(30), &[false, true]), 42), (1, None));
        assert_eq!(look(&service(Some(30), &[true, true]), 43), (1, Some(73)));
        assert_eq!(look(&service(None, &[true, true]), 99), (0, None));
        assert_eq!(look(&service(Some(0), &[true, false]), 100), (1, None));
    }
}
