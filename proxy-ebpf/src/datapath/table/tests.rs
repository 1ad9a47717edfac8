// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buckets: who is found, who has to go.

use super::*;
use crate::abi::{
    PROTO_TCP,
    flow::{OPEN, TASK},
    settings::{Timeouts, ticks},
};

fn timeout(state: u8) -> u32 {
    Timeouts::DEFAULT.by_state()[usize::from(state)]
}

fn key(n: u32) -> FlowKey {
    FlowKey::new(ENTRY, PROTO_TCP, (n, n as u16), (7, 80))
}

fn flow(state: u8, seen: u32, backend: u32) -> Flow {
    Flow {
        state,
        seen,
        backend,
        ..Default::default()
    }
}

/// A bucket with these flows under tags 1, 2, …
fn full(flows: [Flow; WAYS]) -> Bucket {
    let mut bucket = Bucket::default();
    for (i, flow) in flows.iter().enumerate() {
        let stored = store(&mut bucket, i as u16 + 1, &key(i as u32), flow, timeout);
        assert_eq!(stored, Stored::default(), "there is room");
    }
    bucket
}

#[test]
fn what_goes_in_comes_out() {
    let mut bucket = Bucket::default();
    let stored = Flow {
        backend: 3,
        ifindex: 4,
        nat_addr_be: 5,
        node_be: 6,
        peer_be: 7,
        seen: 8,
        nat_port_be: 9,
        peer_port_be: 10,
        state: OPEN,
        flags: 3,
        generation: 0,
    };
    store(&mut bucket, 9, &key(1), &stored, timeout);
    let way = find(&bucket, 9, &key(1)).unwrap();
    assert_eq!(read(&bucket, way), stored);
    assert_eq!(find(&bucket, 9, &key(2)), None, "the same tag is not enough");
    let task = FlowKey { side: TASK, ..key(1) };
    assert_eq!(find(&bucket, 9, &task), None);
    let newer = Flow { seen: 20, ..stored };
    store(&mut bucket, 9, &key(1), &newer, timeout);
    assert_eq!(read(&bucket, way), newer);
    assert_eq!(
        bucket.tags.iter().filter(|t| **t != 0).count(),
        1,
        "not stored twice"
    );
}

#[test]
fn the_one_that_hurts_least_goes() {
    let now = 1_000_000;
    let open = flow(OPEN, now - 10, 1);
    let mut flows = [open; WAYS];
    // Each line is more welcome to go than the one before it.
    flows[1] = flow(OPEN, now - 11, 2);
    let gone = |flows: [Flow; WAYS]| {
        let mut bucket = full(flows);
        let stored = store(&mut bucket, 99, &key(99), &flow(SYN, now, 50), timeout);
        let gone = (0..WAYS).find(|i| find(&bucket, *i as u16 + 1, &key(*i as u32)).is_none());
        assert!(
            find(&bucket, 99, &key(99)).is_some(),
            "a new flow is always served"
        );
        (gone.unwrap(), stored.evicted, stored.backend)
    };
    assert_eq!(gone(flows), (1, true, 2), "silent longest");
    flows[2] = flow(SYN, now - 1, 3);
    assert_eq!(gone(flows), (2, true, 3), "half open");
    flows[3] = flow(CLOSING, now, 4);
    assert_eq!(
        gone(flows),
        (3, true, 0),
        "closing, and counted as gone when it closed"
    );
    flows[4] = flow(SYN, now - ticks(63) - 1, 5);
    assert_eq!(gone(flows), (4, false, 5), "timed out");
}

#[test]
fn established_flows_outlive_ipvs_and_a_clock_that_is_behind() {
    let now = ticks(100_000);
    assert!(!expired(now, now - ticks(901), timeout(OPEN)));
    assert!(!expired(now, now - ticks(86_400), timeout(OPEN)));
    assert!(expired(now, now - ticks(65), timeout(SYN)));
    assert!(!expired(now, now + 1, timeout(SYN)));
}

/// The share of flows that is forgotten early, by load: figures of `docs/performance.md`.
#[test]
fn a_table_that_is_full_to_the_brim_loses_an_eighth() {
    let mask = 4095;
    let places = (mask + 1) * WAYS as u32;
    for (percent, most) in [(50, 0.012), (75, 0.06), (95, 0.13)] {
        let mut buckets = vec![Bucket::default(); mask as usize + 1];
        let mut lost = 0;
        let flows = places * percent / 100;
        for n in 0..flows {
            let key = FlowKey::new(ENTRY, PROTO_TCP, (n, 5), (7, 80));
            let place = place(&key, mask);
            let bucket = &mut buckets[place.bucket as usize];
            lost += u32::from(store(bucket, place.tag, &key, &flow(OPEN, 1, 1), timeout).evicted);
        }
        let share = f64::from(lost) / f64::from(flows);
        println!("{percent} % full: {share:.4} of the flows forgotten");
        assert!(share < most, "{percent} %: {share}");
    }
}
