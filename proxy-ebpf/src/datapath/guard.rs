// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is dropped at an uplink before anybody asks whose it is; each rule only where the operator wants it.
//!
//! XDP and tc both ask here, for the same packets: XDP drops early what is to be dropped, and tc, which sees all that
//! goes on, counts. So that each SYN is counted once, XDP leaves all of them to tc where their rate is limited.

use super::{
    Maps, Packet,
    packet::{Kind, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN},
};
use crate::abi::{
    Counter, FrontendKey, PROTO_TCP,
    frontend::PUBLISHED,
    settings::{DENY_LIST, IMPOSSIBLE},
};

/// The rules that are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// [`DENY_LIST`], [`IMPOSSIBLE`].
    pub flags: u32,
    /// SYNs to published ports that a prefix of clients may send in a tick; 0 = any number.
    pub syn_rate: u32,
    /// The bits of an address that make a prefix, network order.
    pub syn_mask_be: u32,
}

/// Why a packet is dropped, as far as it can be said without counting it.
#[inline(always)]
pub fn early<M: Maps>(maps: &M, rules: &Rules, packet: &Packet, now: u32) -> Option<Counter> {
    if rules.flags & DENY_LIST != 0 && maps.denied(packet.src_be) {
        return Some(Counter::Denied);
    }
    if rules.flags & IMPOSSIBLE != 0 && impossible(packet) {
        return Some(Counter::Impossible);
    }
    if is_limited(rules, packet) {
        let (tick, count) = maps.syns(packet.src_be & rules.syn_mask_be);
        if tick == now && count > rules.syn_rate && is_published(maps, packet) {
            return Some(Counter::SynRate);
        }
    }
    None
}

/// The same, and a SYN to a published port is counted.
#[inline(always)]
pub fn counted<M: Maps>(maps: &M, rules: &Rules, packet: &Packet, now: u32) -> Option<Counter> {
    let early = early(maps, rules, packet, now);
    if early.is_some() || !is_limited(rules, packet) || !is_published(maps, packet) {
        return early;
    }
    let count = maps.count_syn(packet.src_be & rules.syn_mask_be, now);
    (count > rules.syn_rate).then_some(Counter::SynRate)
}

/// Whether its rate is limited; XDP leaves it to tc.
#[inline(always)]
pub fn is_limited(rules: &Rules, packet: &Packet) -> bool {
    rules.syn_rate != 0 && matches!(packet.kind, Kind::Whole) && packet.is_syn()
}

#[inline(always)]
fn is_published<M: Maps>(maps: &M, packet: &Packet) -> bool {
    let key = FrontendKey {
        port_be: packet.dst_port_be,
        protocol: packet.protocol,
        kind: PUBLISHED,
        ..Default::default()
    };
    maps.is_local_addr(packet.dst_be) && maps.frontend(&key).is_some()
}

/// What no honest sender makes: sources that are nobody's (RFC 1122 section 3.2.1.3; 0.0.0.0 is who asks for an
/// address), the destination as the source, port 0 as a destination or of TCP, and flags of TCP that no state sends
/// (RFC 9293 section 3.10).
#[inline(always)]
fn impossible(packet: &Packet) -> bool {
    let source = u32::from_be(packet.src_be);
    if source >> 24 == 127 || source >> 28 == 0xe || source == u32::MAX || packet.src_be == packet.dst_be {
        return true;
    }
    if !matches!(packet.kind, Kind::Whole) {
        return false;
    }
    let tcp = packet.protocol == PROTO_TCP;
    if packet.dst_port_be == 0 || (tcp && packet.src_port_be == 0) {
        return true;
    }
    let flags = packet.tcp_flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST);
    let contradicts = flags & TCP_SYN != 0 && flags & (TCP_FIN | TCP_RST) != 0;
    tcp && (contradicts || flags == 0 || flags == TCP_FIN)
}
