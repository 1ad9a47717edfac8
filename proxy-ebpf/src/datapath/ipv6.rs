// SPDX-License-Identifier: MIT OR Apache-2.0
//! IPv6 clients of published ports: they are told at once that nobody is there.
//!
//! Tasks have IPv4 addresses. Without an answer of ours such a client may wait for ever: engines hold published ports
//! open on every address of the node, so that nobody else takes them, and answer nobody there. With one, a client that
//! knows both addresses of the node uses the other one immediately (RFC 8305 section 5).

use super::{
    Bytes, Maps,
    checksum::fold,
    packet::{ETH_LEN, TCP_ACK, TCP_SYN},
};
use crate::abi::{FrontendKey, PROTO_TCP, PROTO_UDP, frontend::PUBLISHED};

/// Ethernet type of IPv6 (RFC 2464).
const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
/// An IPv6 header (RFC 8200).
pub const IP_LEN: usize = 40;
/// Where in the frame the protocol stands.
pub const PROTOCOL: usize = ETH_LEN + 6;
/// Where the source address stands; the destination follows.
pub const SOURCE: usize = ETH_LEN + 8;
/// Of the packet that an answer is about: its header and as much as names the flow, with TCP's sequence number.
const ABOUT_LEN: usize = IP_LEN + 8;
/// Ethernet, IPv6 and ICMP header, and what it is about.
pub const ANSWER_LEN: usize = ETH_LEN + IP_LEN + 8 + ABOUT_LEN;

const PROTO_ICMP6: u8 = 58;
const HOP_LIMIT: u8 = 64;

/// Whether it is an IPv6 packet that wants to open a flow to a published port, if its destination is this node (which
/// the caller has to find out). Packets of link-local and group addresses are the stack's own business, as are those
/// with extension headers.
#[inline(always)]
pub fn opens_published<M: Maps, B: Bytes>(maps: &M, frame: &B) -> bool {
    let Some(ethertype) = frame.load::<2>(12) else {
        return false;
    };
    if ethertype != ETHERTYPE {
        return false;
    }
    let Some(ip) = frame.load::<IP_LEN>(ETH_LEN) else {
        return false;
    };
    let link_local = |at: usize| ip[at] == 0xfe && ip[at + 1] & 0xc0 == 0x80;
    if ip[24] == 0xff || link_local(8) || link_local(24) {
        return false;
    }
    let protocol = ip[6];
    let l4 = ETH_LEN + IP_LEN;
    match protocol {
        PROTO_TCP => match frame.load::<14>(l4) {
            Some(tcp) if tcp[13] & (TCP_SYN | TCP_ACK) == TCP_SYN => {}
            _ => return false,
        },
        PROTO_UDP => {}
        _ => return false,
    }
    let Some(ports) = frame.load::<8>(l4) else {
        return false;
    };
    let key = FrontendKey {
        port_be: u16::from_ne_bytes([ports[2], ports[3]]),
        protocol,
        kind: PUBLISHED,
        ..Default::default()
    };
    maps.frontend(&key).is_some()
}

/// ICMPv6 destination unreachable, port unreachable (type 1 code 4, RFC 4443 section 3.1) about the frame; nothing
/// when the frame is too short. In parts, because the programs' stack is small; `out` may have been used before.
#[inline(always)]
pub fn unreachable<B: Bytes>(frame: &B, out: &mut [u8; ANSWER_LEN]) -> Option<()> {
    let eth: [u8; ETH_LEN] = frame.load(0)?;
    out[0..6].copy_from_slice(&eth[6..12]);
    out[6..12].copy_from_slice(&eth[0..6]);
    out[12..14].copy_from_slice(&ETHERTYPE);
    let len = (8 + ABOUT_LEN) as u16;
    out[14..18].copy_from_slice(&[0x60, 0, 0, 0]);
    out[18..20].copy_from_slice(&len.to_be_bytes());
    out[20] = PROTO_ICMP6;
    out[21] = HOP_LIMIT;
    out[22..38].copy_from_slice(&frame.load::<16>(ETH_LEN + 24)?);
    out[38..54].copy_from_slice(&frame.load::<16>(ETH_LEN + 8)?);
    out[54..62].copy_from_slice(&[1, 4, 0, 0, 0, 0, 0, 0]);
    out[62..78].copy_from_slice(&frame.load::<16>(ETH_LEN)?);
    out[78..94].copy_from_slice(&frame.load::<16>(ETH_LEN + 16)?);
    out[94..110].copy_from_slice(&frame.load::<16>(ETH_LEN + 32)?);
    // Pseudo header (RFC 8200 section 8.1): addresses, length, next header.
    let mut sum = u32::from(len) + u32::from(PROTO_ICMP6);
    let mut i = 22;
    while i < ANSWER_LEN {
        sum += u32::from(u16::from_be_bytes([out[i], out[i + 1]]));
        i += 2;
    }
    let check = fold(sum).to_be_bytes();
    out[56] = check[0];
    out[57] = check[1];
    Some(())
}

const _: () = assert!(ANSWER_LEN == 110 && ABOUT_LEN == 48);
