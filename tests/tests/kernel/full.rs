// SPDX-License-Identifier: MIT OR Apache-2.0
//! A map that is full says so by the name of its limit, and what is in it stays.

use proxy_ebpf::abi::{
    limits::{LOCAL_TASKS_MAX, SCOPES_MAX},
    *,
};

use crate::{
    restart::{machine, started, unpin},
    support::*,
};

#[test]
fn a_full_map_is_named_with_its_limit_and_loses_nothing() {
    if !privileged("a_full_map_is_named_with_its_limit_and_loses_nothing") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let mut datapath = started(&options).datapath;
        let scope = |cookie: u64| Scope {
            count: 1,
            networks: [cookie as u32; limits::SCOPE_NETWORKS_MAX],
            ..Default::default()
        };
        for cookie in 0..u64::from(SCOPES_MAX) {
            datapath.set_scope(cookie, scope(cookie)).unwrap();
        }
        let beyond = u64::from(SCOPES_MAX);
        let error = datapath.set_scope(beyond, scope(beyond)).unwrap_err().to_string();
        assert_eq!(error, "map SCOPES is full (4096 entries, limits::SCOPES_MAX)");
        datapath.set_scope(7, scope(8)).unwrap();
        let scopes = datapath.dump().unwrap().scopes;
        assert_eq!(scopes.len(), SCOPES_MAX as usize);
        assert_eq!((scopes[&7], scopes[&6]), (scope(8), scope(6)));
        assert!(!scopes.contains_key(&beyond));
        datapath.delete_scope(7).unwrap();
        datapath.set_scope(beyond, scope(beyond)).unwrap();

        for id in 0..LOCAL_TASKS_MAX {
            datapath.set_local_task(id, LocalTask::default()).unwrap();
        }
        let error = datapath
            .set_local_task(LOCAL_TASKS_MAX, LocalTask::default())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "map LOCAL_TASKS is full (4096 entries, limits::LOCAL_TASKS_MAX)"
        );
        unpin(&options);
    });
}
