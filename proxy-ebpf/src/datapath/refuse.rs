// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers to packets that nobody serves: a TCP RST or an ICMP port unreachable, built from the packet itself.

use super::{
    checksum::fold,
    packet::{Bytes, ETH_LEN, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
};
use crate::abi::{PROTO_TCP, PROTO_UDP};

/// Ethernet, IPv4 and TCP header without options.
pub const RST_LEN: usize = ETH_LEN + 20 + 20;
/// Ethernet, IPv4, ICMP header, then the offending IPv4 header and 8 bytes (RFC 792).
pub const ICMP_LEN: usize = ETH_LEN + 20 + 8 + 28;

/// Time to live of an answer.
const TTL: u8 = 64;
const PROTO_ICMP: u8 = 1;

/// The RST for a segment (RFC 9293 section 3.5.2): its sequence number is the segment's acknowledgement, or 0
/// with everything that the segment occupied acknowledged.
#[inline(always)]
pub fn rst<B: Bytes>(frame: &B, l4: usize) -> Option<[u8; RST_LEN]> {
    let eth: [u8; ETH_LEN] = frame.load(0)?;
    let ip: [u8; 20] = frame.load(ETH_LEN)?;
    let tcp: [u8; 20] = frame.load(l4)?;
    let mut out = [0u8; RST_LEN];
    ethernet(&mut out, &eth);
    ipv4(&mut out, &ip, 40, PROTO_TCP);
    out[34..36].copy_from_slice(&tcp[2..4]);
    out[36..38].copy_from_slice(&tcp[0..2]);
    let flags = tcp[13];
    if flags & TCP_ACK != 0 {
        out[38..42].copy_from_slice(&tcp[8..12]);
        out[47] = TCP_RST;
    } else {
        let total = u32::from(u16::from_be_bytes([ip[2], ip[3]]));
        let headers = (l4 - ETH_LEN) as u32 + u32::from(tcp[12] >> 4) * 4;
        let mut occupied = total.saturating_sub(headers);
        occupied += u32::from(flags & TCP_SYN != 0) + u32::from(flags & TCP_FIN != 0);
        let ack = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(occupied);
        out[42..46].copy_from_slice(&ack.to_be_bytes());
        out[47] = TCP_RST | TCP_ACK;
    }
    out[46] = 5 << 4;
    // Pseudo header: addresses, protocol, TCP length.
    let mut sum = u32::from(PROTO_TCP) + 20;
    let mut i = 26;
    while i < RST_LEN {
        sum += u32::from(u16::from_be_bytes([out[i], out[i + 1]]));
        i += 2;
    }
    let check = fold(sum).to_be_bytes();
    out[50] = check[0];
    out[51] = check[1];
    Some(out)
}

/// ICMP destination unreachable, port unreachable (type 3 code 3, RFC 792), for a datagram whose IPv4 header
/// has no options (`None` otherwise: such a datagram is dropped).
#[inline(always)]
pub fn port_unreachable<B: Bytes>(frame: &B, l4: usize) -> Option<[u8; ICMP_LEN]> {
    if l4 != ETH_LEN + 20 {
        return None;
    }
    let eth: [u8; ETH_LEN] = frame.load(0)?;
    let offending: [u8; 28] = frame.load(ETH_LEN)?;
    let mut ip = [0u8; 20];
    ip.copy_from_slice(&offending[..20]);
    if ip[9] != PROTO_UDP {
        return None;
    }
    let mut out = [0u8; ICMP_LEN];
    ethernet(&mut out, &eth);
    ipv4(&mut out, &ip, 56, PROTO_ICMP);
    out[34] = 3;
    out[35] = 3;
    out[42..70].copy_from_slice(&offending);
    let mut sum = 0u32;
    let mut i = 34;
    while i < ICMP_LEN {
        sum += u32::from(u16::from_be_bytes([out[i], out[i + 1]]));
        i += 2;
    }
    let check = fold(sum).to_be_bytes();
    out[36] = check[0];
    out[37] = check[1];
    Some(out)
}

#[inline(always)]
fn ethernet(out: &mut [u8], eth: &[u8; ETH_LEN]) {
    out[0..6].copy_from_slice(&eth[6..12]);
    out[6..12].copy_from_slice(&eth[0..6]);
    out[12..14].copy_from_slice(&eth[12..14]);
}

/// The answer's IPv4 header: addresses swapped, no options, do not fragment.
#[inline(always)]
fn ipv4(out: &mut [u8], ip: &[u8; 20], total: u16, protocol: u8) {
    out[14] = 0x45;
    out[16..18].copy_from_slice(&total.to_be_bytes());
    out[20] = 0x40;
    out[22] = TTL;
    out[23] = protocol;
    out[26..30].copy_from_slice(&ip[16..20]);
    out[30..34].copy_from_slice(&ip[12..16]);
    let mut sum = 0u32;
    let mut i = 14;
    while i < 34 {
        sum += u32::from(u16::from_be_bytes([out[i], out[i + 1]]));
        i += 2;
    }
    let check = fold(sum).to_be_bytes();
    out[24] = check[0];
    out[25] = check[1];
}
