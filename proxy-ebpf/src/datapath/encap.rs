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
    /// Destination MAC, source MAC.
    pub macs: [u8; 12],
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

/// The headers.
#[inline(always)]
pub fn outer(to: &Outer) -> [u8; OUTER_LEN] {
    let mut out = [0u8; OUTER_LEN];
    out[..12].copy_from_slice(&to.macs);
    out[12] = 0x08;
    let udp = to.inner_len + 16;
    out[14] = 0x45;
    out[15] = to.tos & 0x03;
    out[16..18].copy_from_slice(&(udp + 20).to_be_bytes());
    out[18..20].copy_from_slice(&to.id.to_be_bytes());
    out[22] = TUNNEL_TTL;
    out[23] = crate::abi::PROTO_UDP;
    out[26..30].copy_from_slice(&to.from_be.to_ne_bytes());
    out[30..34].copy_from_slice(&to.to_be.to_ne_bytes());
    let word = |n: u32| (n & 0xffff) + (n >> 16);
    let sum = 0x4500
        + u32::from(to.tos & 0x03)
        + u32::from(udp + 20)
        + u32::from(to.id)
        + (u32::from(TUNNEL_TTL) << 8 | u32::from(crate::abi::PROTO_UDP))
        + word(u32::from_be(to.from_be))
        + word(u32::from_be(to.to_be));
    out[24..26].copy_from_slice(&fold(sum).to_be_bytes());
    out[34..36].copy_from_slice(&to.source_port.to_be_bytes());
    out[36..38].copy_from_slice(&TUNNEL_PORT.to_be_bytes());
    out[38..40].copy_from_slice(&udp.to_be_bytes());
    // Checksum 0: none (RFC 7348 section 4.1). The I flag; the number of the network is the task.
    out[42] = 0x08;
    out[46..50].copy_from_slice(&(to.task << 8).to_be_bytes());
    out
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
            let out = outer(&Outer {
                macs: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
                from_be: u32::from_ne_bytes([192, 0, 2, 101]),
                to_be: u32::from_ne_bytes([255, 255, 255, 102]),
                task: 0xab_cdef,
                inner_len: 1400,
                tos: 0xff,
                id,
                source_port: 50_000,
            });
            let sum = out[14..34]
                .chunks(2)
                .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
                .sum();
            assert_eq!(fold(sum), 0);
            assert_eq!(out[12..16], [8, 0, 0x45, 3]);
            assert_eq!(u16::from_be_bytes([out[16], out[17]]), 1436);
            assert_eq!(out[26..34], [192, 0, 2, 101, 255, 255, 255, 102]);
            assert_eq!(out[36..40], [0x12, 0xb6, 0x05, 0x88]);
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
