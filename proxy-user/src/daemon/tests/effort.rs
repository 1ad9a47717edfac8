// SPDX-License-Identifier: MIT OR Apache-2.0
//! What one change costs among many services, counted and not timed: entries that are looked at or copied, and bytes
//! that are allocated.

use super::*;
use crate::{
    daemon::mailbox::{Latest, Mail},
    model::{
        Snapshot,
        snapshot::{BackendParams, NodeParams, ServiceParams},
    },
    providers::api::{self, Wanted},
    shared_map::effort,
};

fn service(name: &str, vip: u32, network: &str, backends: u8) -> Arc<ServiceParams> {
    let address = std::net::Ipv4Addr::from(0x0a10_0000 + vip);
    let backend = |last: u8| BackendParams {
        address: format!("10.1.{}.{last}", vip % 200),
        port: 80,
        weight: None,
        // Somebody drains in every tenth.
        draining: last == 2 && vip % 10 == 3,
    };
    Arc::new(ServiceParams {
        name: name.into(),
        vips: vec![(network.into(), format!("{address}:80"))],
        backends: (1..=backends).map(backend).collect(),
        ..ServiceParams::default()
    })
}

fn snapshot(services: u32) -> Snapshot {
    Snapshot {
        source: "p.toml".into(),
        node: "n1".into(),
        nodes: vec![NodeParams {
            name: "n1".into(),
            address: "192.0.2.1".into(),
            problems: Vec::new(),
        }],
        services: (0..services)
            .map(|number| service(&format!("s{number}"), number, "host", 3))
            .collect(),
        ..Snapshot::default()
    }
}

/// Entries and bytes that a service costs which comes, changes and goes, by the verbs, beside so many others.
fn costs(services: u32) -> (usize, usize) {
    let (folder, kernel) = (tempfile::tempdir().unwrap(), Fake::default());
    let parts = parts(&kernel);
    let view = View::new("file", "p.toml", "n1");
    let api = Store::open(folder.path()).unwrap();
    let shared = Shared::new(view, api, parts.counters, parts.mirror, parts.info);
    let mut control = Control::start(
        parts.datapath,
        parts.own_cookie,
        parts.local_addrs,
        (parts.inspect, parts.reset, parts.echo),
        shared.clone(),
    )
    .unwrap();
    let mut turn = |snapshot: Option<Snapshot>, wanted: Vec<Arc<ServiceParams>>| {
        control.turn(Mail {
            report: Latest {
                snapshot,
                trouble: None,
            },
            wanted: Some(Wanted {
                revision: 0,
                services: wanted.into(),
            }),
            ..Mail::default()
        });
        let view = shared.view.load_full();
        assert_eq!(view.refusals, []);
        view
    };
    let one = |backends| vec![service("one", services + 7, "host", backends)];
    assert_eq!(
        turn(Some(snapshot(services)), Vec::new()).statuses.len(),
        services as usize
    );
    // Once before it counts: the file's services have not had another's beside them.
    turn(None, one(2));
    turn(None, Vec::new());
    let was = kernel.state().clone();
    effort::taken();
    let allocated = crate::allocated();
    for backends in [2, 3, 1] {
        let view = turn(None, one(backends));
        let one = view.tables.services.get("one").expect("it is in force");
        assert_eq!(one.backends.len(), usize::from(backends));
        assert_eq!(view.statuses.len(), services as usize + 1);
    }
    turn(None, Vec::new());
    let (entries, bytes) = (effort::taken(), crate::allocated() - allocated);
    let is = kernel.state().clone();
    assert_eq!((was.frontends, was.slots), (is.frontends, is.slots));
    assert_eq!(was.backends.len(), is.backends.len());
    (entries, bytes)
}

#[test]
fn a_change_costs_the_same_among_many_services() {
    assert_eq!(api::KIND, "api");
    let (few, many) = (costs(1_003), costs(20_003));
    println!("entries and bytes: {few:?} among 1 003 services, {many:?} among 20 003");
    // The places of what changes in their pieces are not the same.
    assert!(many.0 < few.0 + few.0 / 2, "{few:?}, {many:?}");
    // Lists of pieces are longer: a reference for each 64 services at most, in three maps, copied in each of four
    // changes. A list of all services would be 160 KiB at least.
    assert!(many.1 < few.1 + 64 * 1024, "{few:?}, {many:?}");
}
