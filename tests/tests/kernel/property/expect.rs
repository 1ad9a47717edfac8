// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a frame must look like after an action: written from the RFCs, not from the object's code.

use proxy_ebpf::{
    abi::{Counter, PROTO_TCP},
    datapath::{
        Action, Bytes, Nat, Out, Packet,
        checksum::{replace16, replace32},
        packet::{Kind, find_mss},
        refuse::{port_unreachable, rst},
    },
};

use crate::support::{TC_ACT_OK, TC_ACT_REDIRECT, TC_ACT_SHOT};

/// A frame in memory.
pub struct Slice<'a>(pub &'a [u8]);

impl Bytes for Slice<'_> {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..offset + N)?.try_into().ok()
    }
}

/// What must come out, and what the carrying out must count.
pub struct Expected {
    pub verdict: u32,
    pub frame: Vec<u8>,
    pub counts: Vec<Counter>,
}

/// Carries an action out. `mss` is the tunnel's.
pub fn expect(frame: &[u8], packet: &Packet, action: &Action, mss: u32) -> Expected {
    let mut out = frame.to_vec();
    let mut counts = vec![];
    if action.out == Out::Pass {
        return Expected {
            verdict: TC_ACT_OK,
            frame: out,
            counts,
        };
    }
    if action.clamp_mss && clamp(&mut out, packet, mss) {
        counts.push(Counter::MssClamped);
    }
    let ends = match action.nat {
        Nat::None => [None, None],
        Nat::Source(addr, port) => [Some((addr, port)), None],
        Nat::Destination(addr, port) => [None, Some((addr, port))],
        Nat::Both(source, destination) => [Some(source), Some(destination)],
    };
    for (is_source, old, new) in [
        (true, packet.source(), ends[0]),
        (false, packet.destination(), ends[1]),
    ] {
        let Some(new) = new else { continue };
        match packet.kind {
            Kind::Error(inner) => translate_error(
                &mut out,
                packet,
                (inner.ip, inner.outer_src_be),
                is_source,
                old,
                new,
            ),
            _ => translate(&mut out, packet, is_source, old, new),
        }
    }
    if packet.is_error() {
        counts.push(Counter::IcmpError);
    }
    let verdict = match action.out {
        Out::Pass => unreachable!("answered above"),
        Out::Drop(reason) => {
            counts.push(reason);
            TC_ACT_SHOT
        }
        Out::Refuse(reason) => {
            counts.push(reason);
            let answer = if packet.protocol == PROTO_TCP {
                rst(&Slice(&out), packet.l4).map(|a| a.to_vec())
            } else {
                port_unreachable(&Slice(&out), packet.l4).map(|a| a.to_vec())
            };
            match answer {
                Some(answer) => {
                    out = answer;
                    TC_ACT_REDIRECT
                }
                None => {
                    counts.push(Counter::Malformed);
                    TC_ACT_SHOT
                }
            }
        }
        Out::Veth { mac, gateway_mac, .. } => {
            out[..6].copy_from_slice(&mac);
            out[6..12].copy_from_slice(&gateway_mac);
            TC_ACT_REDIRECT
        }
        Out::Tunnel { .. } | Out::Neighbour { .. } | Out::Route { .. } => TC_ACT_REDIRECT,
    };
    Expected {
        verdict,
        frame: out,
        counts,
    }
}

fn word(frame: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([frame[at], frame[at + 1]])
}

fn set_word(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}

/// RFC 9293 section 3.7.1, and RFC 1624 for the checksum.
fn clamp(frame: &mut [u8], packet: &Packet, max: u32) -> bool {
    let Some(mss) = find_mss(&Slice(frame), packet, max) else {
        return false;
    };
    let (mut old, mut new) = (mss.value.to_be(), (max as u16).to_be());
    frame[mss.offset..mss.offset + 2].copy_from_slice(&new.to_ne_bytes());
    if (mss.offset - packet.l4) % 2 == 1 {
        (old, new) = (old.swap_bytes(), new.swap_bytes());
    }
    let check = replace16(word(frame, packet.l4 + 16), old, new);
    set_word(frame, packet.l4 + 16, check);
    true
}

fn set_address(frame: &mut [u8], ip: usize, is_source: bool, old: u32, new: u32) {
    let check = replace32(word(frame, ip + 10), old, new);
    set_word(frame, ip + 10, check);
    let at = ip + if is_source { 12 } else { 16 };
    frame[at..at + 4].copy_from_slice(&new.to_ne_bytes());
}

fn translate(frame: &mut [u8], packet: &Packet, is_source: bool, old: (u32, u16), new: (u32, u16)) {
    let has_ports = !matches!(packet.kind, Kind::Later(_));
    let check_at = packet.l4 + if packet.protocol == PROTO_TCP { 16 } else { 6 };
    let is_udp = packet.protocol != PROTO_TCP;
    let change = |frame: &mut [u8], f: &dyn Fn(u16) -> u16| {
        let check = word(frame, check_at);
        // RFC 768: 0 is no checksum, and one that is 0 is sent as all ones.
        if is_udp && check == 0 {
            return;
        }
        let check = f(check);
        set_word(frame, check_at, if is_udp && check == 0 { 0xffff } else { check });
    };
    if old.0 != new.0 {
        if has_ports {
            change(frame, &|check| replace32(check, old.0, new.0));
        }
        set_address(frame, 14, is_source, old.0, new.0);
    }
    if old.1 != new.1 && has_ports {
        change(frame, &|check| replace16(check, old.1, new.1));
        set_word(frame, packet.l4 + if is_source { 0 } else { 2 }, new.1);
    }
}

/// RFC 5508 section 4: the packet inside went the other way.
fn translate_error(
    frame: &mut [u8],
    packet: &Packet,
    (inner, outer_src_be): (usize, u32),
    is_source: bool,
    old: (u32, u16),
    new: (u32, u16),
) {
    if old.0 != new.0 {
        set_address(frame, inner, !is_source, old.0, new.0);
        if !is_source || outer_src_be == old.0 {
            set_address(frame, 14, is_source, old.0, new.0);
        }
    }
    if old.1 != new.1 {
        let check = replace16(word(frame, packet.l4 + 2), old.1, new.1);
        set_word(frame, packet.l4 + 2, check);
        let l4 = inner + usize::from(frame[inner] & 0x0f) * 4;
        set_word(frame, l4 + if is_source { 2 } else { 0 }, new.1);
    }
}
