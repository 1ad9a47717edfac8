// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a frame: Ethernet, IPv4, TCP or UDP. Bounds are checked in one place, [`Bytes::load`].

use crate::abi::{PROTO_TCP, PROTO_UDP};

/// Length of an Ethernet header; the tunnel carries whole frames, so it is the same at every attachment.
pub const ETH_LEN: usize = 14;
/// EtherType of IPv4, host order.
pub const ETHERTYPE_IPV4: u16 = 0x0800;

/// TCP flags (RFC 9293 section 3.1), byte 13 of the header.
pub const TCP_FIN: u8 = 0x01;
/// Synchronize.
pub const TCP_SYN: u8 = 0x02;
/// Reset.
pub const TCP_RST: u8 = 0x04;
/// Acknowledgement.
pub const TCP_ACK: u8 = 0x10;

/// A frame's bytes.
pub trait Bytes {
    /// Copies `N` bytes at `offset` from the start of the frame; `None` when it is shorter.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

/// What the datapath wants to know of a TCP or UDP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source, network order.
    pub src_be: u32,
    /// Destination, network order.
    pub dst_be: u32,
    /// Source port, network order.
    pub src_port_be: u16,
    /// Destination port, network order.
    pub dst_port_be: u16,
    /// [`PROTO_TCP`] or [`PROTO_UDP`].
    pub protocol: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
    /// Offset of the TCP or UDP header in the frame.
    pub l4: usize,
}

impl Packet {
    /// Whether it opens a connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.protocol == PROTO_TCP && self.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN
    }

    /// Whether it carries an MSS option that counts: SYN or SYN-ACK.
    #[inline(always)]
    pub fn has_mss(&self) -> bool {
        self.protocol == PROTO_TCP && self.tcp_flags & TCP_SYN != 0
    }

    /// Whether it ends a connection, at least from one side.
    #[inline(always)]
    pub fn is_closing(&self) -> bool {
        self.protocol == PROTO_TCP && self.tcp_flags & (TCP_FIN | TCP_RST) != 0
    }
}

/// Parses a frame. `None` for everything that is not a whole, first-fragment IPv4 TCP or UDP packet: those
/// are not ours, whatever they are.
#[inline(always)]
pub fn parse<B: Bytes>(frame: &B) -> Option<Packet> {
    let ethertype: [u8; 2] = frame.load(12)?;
    if u16::from_be_bytes(ethertype) != ETHERTYPE_IPV4 {
        return None;
    }
    let ip: [u8; 20] = frame.load(ETH_LEN)?;
    let header = usize::from(ip[0] & 0x0f) * 4;
    if ip[0] >> 4 != 4 || header < 20 {
        return None;
    }
    // A later fragment (offset != 0) has no ports.
    if u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0 {
        return None;
    }
    let protocol = ip[9];
    let l4 = ETH_LEN + header;
    let tcp_flags = match protocol {
        PROTO_TCP => frame.load::<20>(l4)?[13],
        PROTO_UDP => 0,
        _ => return None,
    };
    // Eight bytes are the whole UDP header: what is translated later is there.
    let ports: [u8; 8] = frame.load(l4)?;
    Some(Packet {
        src_be: u32::from_ne_bytes([ip[12], ip[13], ip[14], ip[15]]),
        dst_be: u32::from_ne_bytes([ip[16], ip[17], ip[18], ip[19]]),
        src_port_be: u16::from_ne_bytes([ports[0], ports[1]]),
        dst_port_be: u16::from_ne_bytes([ports[2], ports[3]]),
        protocol,
        tcp_flags,
        l4,
    })
}

/// An MSS option that is larger than wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mss {
    /// Offset of the 16-bit value in the frame.
    pub offset: usize,
    /// The value found, host order.
    pub value: u16,
}

/// Finds the MSS option (kind 2, RFC 9293 section 3.7.1) of a SYN when it exceeds `max`.
///
/// Options are at most 40 bytes, and each but NOP takes 2 or more, so 40 steps see every legal list; a lying
/// length ends the search. The position is masked to 6 bits although the checks bound it already: the verifier
/// then sees the same range after every step and walks the loop once, not once per combination of options.
#[inline(always)]
pub fn find_mss<B: Bytes>(frame: &B, packet: &Packet, max: u32) -> Option<Mss> {
    let doff: [u8; 1] = frame.load(packet.l4 + 12)?;
    let len = (usize::from(doff[0] >> 4) * 4).saturating_sub(20);
    let mut at = 0usize;
    for _ in 0..40 {
        if at + 4 > len {
            return None;
        }
        let option: [u8; 4] = frame.load(packet.l4 + 20 + at)?;
        let step = match option[0] {
            0 => return None,
            1 => 1,
            2 if option[1] == 4 => {
                let value = u16::from_be_bytes([option[2], option[3]]);
                return (u32::from(value) > max).then_some(Mss {
                    offset: packet.l4 + 22 + at,
                    value,
                });
            }
            _ if option[1] < 2 || usize::from(option[1]) > len => return None,
            _ => usize::from(option[1]),
        };
        at = (at + step) & 0x3f;
    }
    None
}
