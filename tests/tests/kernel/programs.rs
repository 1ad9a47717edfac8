// SPDX-License-Identifier: MIT OR Apache-2.0
//! The object as a whole.

use std::collections::BTreeSet;

use crate::support::{World, privileged};

/// Each program has a table in a file of this folder; a new program fails here until it has one.
const COVERED: [(&str, &str); 12] = [
    ("portico_connect4", "sock.rs"),
    ("portico_sendmsg4", "sock.rs"),
    ("portico_recvmsg4", "sock.rs"),
    ("portico_getpeername4", "sock.rs"),
    ("portico_connect6", "sock.rs"),
    ("portico_sendmsg6", "sock.rs"),
    ("portico_recvmsg6", "sock.rs"),
    ("portico_getpeername6", "sock.rs"),
    ("portico_uplink", "uplink.rs"),
    ("portico_task", "task.rs"),
    ("portico_tunnel", "tunnel.rs"),
    ("portico_xdp", "xdp.rs"),
];

#[test]
fn every_program_loads_and_has_a_table() {
    if !privileged("every_program_loads_and_has_a_table") {
        return;
    }
    let world = World::new(proxy_ebpf::abi::Settings::SMALL);
    let programs: BTreeSet<_> = world.ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    let covered: BTreeSet<_> = COVERED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(programs, covered);
}
