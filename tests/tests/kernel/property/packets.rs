// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames by chance: of few clients and ports, so that they meet each other's flows; whole, in fragments, about
//! other packets, truncated, and with fields that lie.

use std::net::Ipv4Addr;

use super::chance::Chance;
use crate::support::*;

pub const SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 111);
pub const SECOND_TASK: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 6);
/// Published; 82 is not.
pub const PORTS: [u16; 3] = [80, 81, 82];
pub const TARGETS: [u16; 3] = [8080, 81, 80];

/// A frame as a client or a task would send it.
pub fn frame(chance: &mut Chance, from_task: bool) -> Vec<u8> {
    let wide = chance.one_in(4);
    let client = match wide {
        true => (
            Ipv4Addr::from(0xc612_0000 | chance.below(1 << 12) as u32),
            chance.next() as u16,
        ),
        false => (
            chance.pick(&[CLIENT, Ipv4Addr::new(192, 0, 2, 11), SECOND_TASK, TASK]),
            40_000 + chance.below(4) as u16,
        ),
    };
    let node = chance.pick(&[NODE, NODE, NODE, SECOND_ADDRESS, OTHER_NODE]);
    let (from, to) = if from_task {
        let task = chance.pick(&[TASK, SECOND_TASK, REMOTE_TASK]);
        let to = if chance.one_in(4) {
            (node, chance.pick(&[40_000, 40_001, 0x8000]))
        } else {
            client
        };
        ((task, chance.pick(&TARGETS)), to)
    } else {
        (client, (node, chance.pick(&PORTS)))
    };
    let mut frame = whole(chance, from, to);
    match chance.below(12) {
        0 => frame = error(chance, from, to, client.0),
        1 if frame.len() > 90 => {
            let (first, later) = in_two_fragments(&frame);
            frame = if chance.one_in(2) { first } else { later };
        }
        // A test run wants a whole IPv4 header.
        2 => frame.truncate(34 + chance.below(frame.len() - 33)),
        3 => {
            let at = 14 + chance.below(frame.len() - 14);
            frame[at] = chance.next() as u8;
        }
        _ => {}
    }
    frame
}

fn whole(chance: &mut Chance, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Vec<u8> {
    let payload = vec![chance.next() as u8; chance.pick(&[0, 1, 16, 100])];
    if chance.one_in(3) {
        let mut frame = udp(from, to, &payload);
        if chance.one_in(4) {
            frame[40..42].fill(0);
        }
        return frame;
    }
    let flags = chance.pick(&[
        0b0001, 0b0010, 0b0010, 0b0010, 0b0011, 0b0110, 0b1010, 0b0100, 0b0000,
    ]);
    let options = chance.pick(&[
        &[][..],
        &[2, 4, 0x05, 0xb4],
        &[1, 2, 4, 0x05, 0xb4, 1, 1, 0],
        &[1, 1, 1, 2, 4, 0x02, 0x18, 1],
        &[2, 4, 0x05, 0x82, 4, 2, 1, 1],
        &[5, 0, 2, 4, 0xff, 0xff, 1, 1],
        &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0xff, 0xff, 1, 1],
    ]);
    let segment = Tcp {
        syn: flags & 1 != 0,
        ack: flags & 2 != 0,
        fin: flags & 4 != 0,
        rst: flags & 8 != 0,
        options,
        payload: &payload,
    };
    tcp(from, to, segment)
}

/// An ICMP error about a packet that went the other way, from its receiver or from a router.
fn error(chance: &mut Chance, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), client: Ipv4Addr) -> Vec<u8> {
    let about = if chance.one_in(2) {
        udp(to, from, &[0; 40])
    } else {
        tcp(to, from, ACK)
    };
    let router = Ipv4Addr::new(203, 0, 113, 1);
    let sender = chance.pick(&[from.0, router, client]);
    too_long(sender, to.0, &about[14..])
}
