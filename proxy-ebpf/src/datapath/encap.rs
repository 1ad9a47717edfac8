// SPDX-License-Identifier: MIT OR Apache-2.0
//! The outer headers of the tunnel, for XDP: Ethernet, IPv4, UDP and VXLAN (RFC 7348), as the kernel's own device
//! would have written them.

use super::{
    checksum::fold,
    packet::{ETH_LEN, Packet},
};
use crate::abi::settings::TUNNEL_PORT;

/// Bytes that go before the frame.
pub const OUTER_LEN: usize = ETH_LEN + 20 + 8 + 8;
/// Hops of the outer header, as the tc program asks of the tunnel device.
pub const TUNNEL_TTL: u8 = 64;
/// First source port: the range is 49152-65535 (RFC 7348 section 5, RFC 6335 section 6).
const SOURCE_PORT_MIN: u16 = 49152;

/// Where a tunnelled frame goes.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Destination MAC, source MAC, as they lie in memory.
    pub macs: [u32; 3],
    /// This node, network order.
    pub from_be: u32,
    /// The task's node, network order.
    pub to_be: u32,
    /// The task; 24 bits.
    pub task: u32,
    /// Length of the frame inside.
    pub inner_len: u16,
    /// Traffic class of the inner header: its ECN bits go outside (RFC 6040 section 4.1, normal mode).
    pub tos: u8,
    /// Identification of the outer header: it may be fragmented on its way.
    pub id: u16,
    /// See [`source_port`].
    pub source_port: u16,
}

/// The headers, 8 bytes in each word and 2 in the last, as a little-endian machine has them in memory. Words and not
/// bytes: a program would write them one by one.
#[inline(always)]
pub fn outer(to: &Outer) -> ([u64; 6], u16) {
    let at = |value: u16, bit: u32| u64::from(value) << bit;
    let net = |value: u16| value.swap_bytes();
    let half = |word: u32, high: bool| (if high { word >> 16 } else { word }) as u16;
    let udp = to.inner_len + 16;
    let (from, node) = (u32::from_le(to.from_be), u32::from_le(to.to_be));
    // Version 4, five words; the ECN bits.
    let first = 0x45 | u16::from(to.tos & 0x03) << 8;
    let lasting = u16::from(TUNNEL_TTL) | u16::from(crate::abi::PROTO_UDP) << 8;
    // The sum is the same in any byte order, swapped (RFC 1071 section 2 B).
    let words = [first, net(udp + 20), net(to.id), lasting];
    let addresses = [
        half(from, false),
        half(from, true),
        half(node, false),
        half(node, true),
    ];
    let mut sum = 0;
    for word in words {
        sum += u32::from(word);
    }
    for word in addresses {
        sum += u32::from(word);
    }
    let task = (to.task << 8).swap_bytes();
    let macs = to.macs.map(u32::from_le);
    (
        [
            u64::from(macs[0]) | u64::from(macs[1]) << 32,
            // 0x0800: IPv4.
            u64::from(macs[2]) | at(0x0008, 32) | at(first, 48),
            // In between: no fragment.
            at(words[1], 0) | at(words[2], 16) | at(lasting, 48),
            at(fold(sum), 0) | u64::from(from) << 16 | at(addresses[2], 48),
            at(addresses[3], 0) | at(net(to.source_port), 16) | at(net(TUNNEL_PORT), 32) | at(net(udp), 48),
            // Checksum 0: none (RFC 7348 section 4.1). The I flag; the number of the network is the task.
            at(0x0008, 16) | at(half(task, false), 48),
        ],
        half(task, true),
    )
}

/// One source port for each flow, so that routers with several ways keep its packets on one of them.
#[inline(always)]
pub fn source_port(packet: &Packet) -> u16 {
    let ports = u32::from(packet.src_port_be) << 16 | u32::from(packet.dst_port_be);
    let mixed = (packet.src_be ^ packet.dst_be.rotate_left(16) ^ ports).wrapping_mul(0x9e37_79b1);
    SOURCE_PORT_MIN | (mixed >> 18) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_a_right_checksum_and_the_task() {
        for id in [0, 1, 0xffff, 0x8000] {
            let (words, last) = outer(&Outer {
                macs: [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]].map(u32::from_ne_bytes),
                from_be: u32::from_ne_bytes([192, 0, 2, 101]),
                to_be: u32::from_ne_bytes([255, 255, 255, 102]),
                task: 0xab_cdef,
                inner_len: 1400,
                tos: 0xff,
                id,
                source_port: 50_000,
            });
            let mut out: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            out.extend(last.to_le_bytes());
            assert_eq!(out.len(), OUTER_LEN);
            assert_eq!(out[..12], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
            let sum = out[14..34]
                .chunks(2)
                .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
                .sum();
            assert_eq!(fold(sum), 0);
            assert_eq!(out[12..16], [8, 0, 0x45, 3]);
            assert_eq!(u16::from_be_bytes([out[16], out[17]]), 1436);
            assert_eq!(out[26..34], [192, 0, 2, 101, 255, 255, 255, 102]);
            assert_eq!(out[34..40], [0xc3, 0x50, 0x12, 0xb6, 0x05, 0x88]);
            assert_eq!(out[40..50], [0, 0, 8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
        }
    }

    #[test]
    fn source_ports_of_flows_differ_and_stay_in_their_range() {
        let mut packet = Packet {
            src_be: 1,
            dst_be: 2,
            src_port_be: 0,
            dst_port_be: 80,
            protocol: 6,
            tcp_flags: 0,
            l4: 34,
            kind: crate::datapath::packet::Kind::Whole,
        };
        let mut ports = [0; 1000];
        for port in 0..1000u16 {
            packet.src_port_be = port;
            ports[usize::from(port)] = source_port(&packet);
        }
        assert!(ports.iter().all(|port| *port >= SOURCE_PORT_MIN));
        ports.sort_unstable();
        let different = ports.windows(2).filter(|two| two[0] != two[1]).count();
        assert!(different > 900, "{different}");
    }
}
