// SPDX-License-Identifier: MIT OR Apache-2.0
//! The flow table and the maps as the operator's verbs see them, on pinned maps.

use aya::maps::{Array, Map, MapData};
use proxy_ebpf::{
    abi::{
        flow::{CLOSING, ENTRY, OPEN, SYN},
        tally::{FLOW, OPENED},
        *,
    },
    datapath::{Maps, table},
};
use proxy_user::kernel::mirror::{Mirror, Row};

use crate::{
    restart::{machine, started, unpin},
    support::*,
};

fn array<T: aya::Pod>(options: &proxy_user::kernel::Options, name: &str) -> Array<MapData, T> {
    let path = options.bpffs.join(format!("v{ABI_VERSION}/maps/{name}"));
    Array::try_from(Map::Array(MapData::from_pin(path).unwrap())).unwrap()
}

#[test]
fn flows_are_listed_found_and_flushed() {
    if !privileged("flows_are_listed_found_and_flushed") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let parts = started(&options);
        let mirror = parts.mirror.expect("a real kernel side");
        let mut flows: Array<_, Bucket> = array(&options, "FLOWS");
        let mut active: Array<_, u64> = array(&options, "ACTIVE");
        active.set(7, 2_u64, 0).unwrap();
        let mask = mirror.settings().flow_mask;
        let mut put = |port: u16, state: u8, seen: u32| {
            let key = flow_key(ENTRY, port, NODE, 80, PROTO_TCP);
            let flow = Flow {
                backend: 7,
                state,
                seen,
                ..Flow::default()
            };
            let place = table::place(&key, mask);
            let mut bucket = flows.get(&place.bucket, 0).unwrap();
            table::store(&mut bucket, place.tag, &key, &flow, |_| 1_000);
            flows.set(place.bucket, bucket, 0).unwrap();
            key
        };
        let now = Mirror::now();
        let open = put(1001, OPEN, now);
        let closing = put(1002, CLOSING, now);
        let long_ago = now.wrapping_sub(mirror.settings().timeouts[usize::from(SYN)] + 2);
        put(1003, SYN, long_ago);
        let all = |mirror: &Mirror| {
            let mut rows: Vec<Row> = Vec::new();
            mirror.flows(|row| rows.push(row)).unwrap();
            rows.sort_by_key(|row| u16::from_be(row.key.client_port_be));
            rows.iter().map(|row| row.key).collect::<Vec<_>>()
        };
        assert_eq!(all(&mirror), [open, closing], "what has timed out is no flow");
        assert_eq!(mirror.look().unwrap().flow(&open).unwrap().backend, 7);

        assert_eq!(mirror.flush(|row| row.key == open).unwrap(), 1);
        assert_eq!(all(&mirror), [closing]);
        assert!(mirror.look().unwrap().flow(&open).is_none());
        assert_eq!(
            active.get(&7, 0).unwrap(),
            1,
            "its backend has one open flow less"
        );
        assert_eq!(mirror.flush(|row| row.key == closing).unwrap(), 1);
        assert_eq!(
            active.get(&7, 0).unwrap(),
            1,
            "a closing one was not counted any more"
        );
        assert_eq!(mirror.flush(|_| true).unwrap(), 0);
        unpin(&options);
    });
}

#[test]
fn a_backends_number_begins_again_at_nothing_opened() {
    if !privileged("a_backends_number_begins_again_at_nothing_opened") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let mut parts = started(&options);
        let draining = Backend {
            flags: backend::LOCAL | backend::DRAINING,
            ..local_backend()
        };
        parts.datapath.set_backend(7, draining).unwrap();
        parts.datapath.set_backend(8, local_backend()).unwrap();
        let mut active: Array<_, u64> = array(&options, "ACTIVE");
        active.set(7, FLOW * 2 + OPENED, 0).unwrap();
        active.set(8, FLOW, 0).unwrap();
        let look = parts.mirror.as_ref().unwrap().look().unwrap();
        assert_eq!(look.draining(), [(7, draining)]);
        assert_eq!(look.tally_of(7), Tally { opened: 3, open: 2 });
        parts.datapath.delete_backend(7).unwrap();
        assert_eq!(
            look.tally_of(7),
            Tally { opened: 0, open: 2 },
            "flows that are open are counted out one by one"
        );
        assert_eq!(look.tally_of(8), Tally { opened: 1, open: 1 });
        unpin(&options);
    });
}

#[test]
fn a_look_changes_nothing() {
    if !privileged("a_look_changes_nothing") {
        return;
    }
    in_namespace(|| {
        let (_dir, options) = machine();
        let mut parts = started(&options);
        let key = published(80, PROTO_TCP);
        parts
            .datapath
            .set_local_addr(be(NODE), LocalAddr::default())
            .unwrap();
        parts.datapath.set_backend(1, local_backend()).unwrap();
        let slot = SlotKey {
            frontend: 3,
            index: 0,
        };
        parts.datapath.set_slot(slot, 1).unwrap();
        let frontend = Frontend {
            id: 3,
            slots: 1,
            ..Frontend::default()
        };
        parts.datapath.set_frontend(key.into(), frontend).unwrap();
        let look = parts.mirror.as_ref().unwrap().look().unwrap();
        assert!(look.is_local_addr(be(NODE)) && !look.is_local_addr(be(CLIENT)));
        assert_eq!(look.frontend(&key).unwrap().id, 3);
        assert_eq!(look.slot(&slot), Some(1));
        assert_eq!(look.backend(1), Some(&local_backend()));
        assert!(look.backend(2).is_none());
        assert_eq!(look.found(), (Some(key.into()), 1));
        assert_eq!(
            (look.next(3), look.next(3)),
            (0, 0),
            "the turn is looked at, not taken"
        );
        look.count(Counter::FlowLocal);
        assert_eq!(look.counted(), [Counter::FlowLocal]);
        let told = (parts.counters)();
        assert!(told.iter().all(|(_, value)| *value == 0), "{told:?}");
        unpin(&options);
    });
}
