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

/// More flows than there is room for: `SMALL` has 1 024 buckets of eight, and a flow of a local task takes two places.
#[test]
fn a_full_flow_table_serves_every_new_flow() {
    /// Clients of one address.
    const FLOOD: u16 = 12_000;
    const KEPT: u16 = 100;
    if !privileged("a_full_flow_table_serves_every_new_flow") {
        return;
    }
    let mut world = World::node();
    let open = |world: &mut World, port: u16, entry: u16| {
        for segment in [SYN, ACK] {
            let (verdict, out) = world.run("portico_uplink", &tcp((CLIENT, port), (NODE, entry), segment));
            assert_eq!((verdict, see(&out).to), (TC_ACT_REDIRECT, (TASK, 8080)), "{port}");
        }
    };
    for port in 1..=KEPT {
        open(&mut world, port, 80);
    }
    for port in KEPT + 1..=KEPT + FLOOD {
        let (verdict, out) = world.run("portico_uplink", &tcp((CLIENT, port), (NODE, 80), SYN));
        assert_eq!((verdict, see(&out).to), (TC_ACT_REDIRECT, (TASK, 8080)), "{port}");
    }
    let forgotten = world.counter(Counter::FlowEvicted);
    let places = 8 * u64::from(Settings::SMALL.flow_mask + 1);
    let taken = 2 * u64::from(KEPT + FLOOD);
    assert!(forgotten >= taken - places, "{forgotten} of {taken} in {places}");
    // A flood of SYNs drives out SYNs: who has a connection keeps it.
    for port in 1..=KEPT {
        let (verdict, out) = world.run("portico_uplink", &tcp((CLIENT, port), (NODE, 80), ACK));
        assert_eq!((verdict, see(&out).to), (TC_ACT_REDIRECT, (TASK, 8080)), "{port}");
    }

    // Connections drive out connections, the most silent first. One that was forgotten is reset at its next segment,
    // so that its client connects again, or goes on where a hash says where.
    world.frontend(published(90, PROTO_TCP), 2, &[1], 8080);
    world.table(published(90, PROTO_TCP), frontend::FLOW_HASH, &[1]);
    let mut unlucky = 0;
    for port in 1..=FLOOD {
        let entry = if port % 2 == 0 { 80 } else { 90 };
        world.run("portico_uplink", &tcp((CLIENT, port), (NODE, entry), SYN));
        let (verdict, out) = world.run("portico_uplink", &tcp((CLIENT, port), (NODE, entry), ACK));
        assert_eq!(verdict, TC_ACT_REDIRECT, "{port}");
        // Both sides of a flow may fall into one bucket, where the first is then the only one that is not open yet.
        unlucky += u32::from(see(&out).to != (TASK, 8080));
    }
    assert!(unlucky < u32::from(FLOOD) / 200, "{unlucky}");
    let mut told = [0; 2];
    for port in 1..=FLOOD {
        let hashed = port % 2 == 1;
        let entry = if hashed { 90 } else { 80 };
        let (verdict, out) = world.run("portico_uplink", &tcp((CLIENT, port), (NODE, entry), ACK));
        assert_eq!(verdict, TC_ACT_REDIRECT, "{port}");
        let seen = see(&out);
        if hashed {
            assert_eq!(seen.to, (TASK, 8080), "{port}");
        } else if seen.to == (CLIENT, port) {
            assert!(seen.tcp().rst, "{port}");
        } else {
            assert_eq!(seen.to, (TASK, 8080), "{port}");
        }
        told[usize::from(seen.to == (TASK, 8080))] += 1;
    }
    let [reset, served] = told;
    assert!(
        reset > 0 && served > usize::from(FLOOD) / 2,
        "{reset} reset, {served} served"
    );
}
