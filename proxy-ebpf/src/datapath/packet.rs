// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a frame: Ethernet, IPv4, TCP, UDP, ICMP errors. Bounds are checked in one place, [`Bytes::load`].

use crate::abi::{PROTO_ICMP, PROTO_TCP, PROTO_UDP};

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

/// What a packet is of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole one.
    Whole,
    /// The first fragment of a datagram with this identification (network order): has the ports.
    First(u16),
    /// A later fragment: its ports are 0 until somebody remembers them.
    Later(u16),
    /// An ICMP error about a packet of the other direction. Addresses and ports are those of the flow's packets in
    /// the error's own direction, whoever sent it.
    Error(Inner),
}

/// Where an ICMP error has the packet that it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Offset of the IPv4 header in the frame.
    pub ip: usize,
    /// Who the error is from, network order.
    pub outer_src_be: u32,
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
    /// TCP flags; 0 for UDP, fragments and errors.
    pub tcp_flags: u8,
    /// Offset of the TCP or UDP header in the frame (errors: of the ICMP header).
    pub l4: usize,
    /// Whether it is a whole packet.
    pub kind: Kind,
}

impl Packet {
    /// Whether it opens a connection.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.protocol == PROTO_TCP && self.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN
    }

    /// The answer to a SYN.
    #[inline(always)]
    pub fn is_syn_ack(&self) -> bool {
        self.protocol == PROTO_TCP
            && self.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN | TCP_ACK
            && self.can_open()
    }

    /// Whether it can begin a flow: errors and fragments without their first cannot.
    #[inline(always)]
    pub fn can_open(&self) -> bool {
        matches!(self.kind, Kind::Whole | Kind::First(_))
    }

    /// Whether it is an ICMP error.
    #[inline(always)]
    pub fn is_error(&self) -> bool {
        matches!(self.kind, Kind::Error(_))
    }

    /// Source address and port.
    #[inline(always)]
    pub fn source(&self) -> (u32, u16) {
        (self.src_be, self.src_port_be)
    }

    /// Destination address and port.
    #[inline(always)]
    pub fn destination(&self) -> (u32, u16) {
        (self.dst_be, self.dst_port_be)
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

/// Parses a frame. `None` for everything that is no IPv4 TCP or UDP packet, fragment of one or error about one:
/// those are not ours, whatever they are.
#[inline(always)]
pub fn parse<B: Bytes>(frame: &B) -> Option<Packet> {
    let mut packet = EMPTY;
    parse_into(frame, &mut packet)?;
    Some(packet)
}

/// A packet that has not been read yet.
const EMPTY: Packet = Packet {
    src_be: 0,
    dst_be: 0,
    src_port_be: 0,
    dst_port_be: 0,
    protocol: 0,
    tcp_flags: 0,
    l4: 0,
    kind: Kind::Whole,
};

/// [`parse`] in place: kernels before 6.3 refuse a program that copies the part of a [`Kind`] that it does not have.
#[inline(always)]
pub fn parse_into<B: Bytes>(frame: &B, packet: &mut Packet) -> Option<()> {
    let head: [u8; ETH_LEN + 20] = frame.load(0)?;
    if u16::from_be(half(&head, 12)) != ETHERTYPE_IPV4 {
        return None;
    }
    let header = header_len(head[ETH_LEN])?;
    let l4 = ETH_LEN + header;
    let protocol = head[ETH_LEN + 9];
    let fragment = u16::from_be(half(&head, ETH_LEN + 6));
    let (src_be, dst_be) = (word(&head, ETH_LEN + 12), word(&head, ETH_LEN + 16));
    if protocol == PROTO_ICMP {
        // An error that is itself in fragments is dropped by whom it concerns, if anybody.
        return if fragment & 0x3fff == 0 {
            error(frame, (src_be, dst_be), l4, packet)
        } else {
            None
        };
    }
    if protocol != PROTO_TCP && protocol != PROTO_UDP {
        return None;
    }
    packet.src_be = src_be;
    packet.dst_be = dst_be;
    packet.src_port_be = 0;
    packet.dst_port_be = 0;
    packet.protocol = protocol;
    packet.tcp_flags = 0;
    packet.l4 = l4;
    packet.kind = Kind::Whole;
    let id = half(&head, ETH_LEN + 4);
    if fragment & 0x1fff != 0 {
        packet.kind = Kind::Later(id);
        return Some(());
    }
    if fragment & 0x2000 != 0 {
        packet.kind = Kind::First(id);
    }
    // All of the header's fixed part, also of UDP: what is translated later is there.
    let ports = if protocol == PROTO_TCP {
        let tcp: [u8; 20] = frame.load(l4)?;
        packet.tcp_flags = tcp[13];
        word(&tcp, 0)
    } else {
        word(&frame.load::<8>(l4)?, 0)
    };
    (packet.src_port_be, packet.dst_port_be) = two(ports);
    Some(())
}

/// Length of an IPv4 header, from its first byte.
#[inline(always)]
fn header_len(first: u8) -> Option<usize> {
    let header = usize::from(first & 0x0f) * 4;
    (first >> 4 == 4 && header >= 20).then_some(header)
}

// Read at once: the compiler makes one load of it, and does not of four bytes that are put together.

/// Two bytes as they lie there.
#[inline(always)]
fn half<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |half| u16::from_ne_bytes(*half))
}

/// Four bytes as they lie there.
#[inline(always)]
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |word| u32::from_ne_bytes(*word))
}

/// The first and the second half of a word, as they lie there.
#[inline(always)]
fn two(word: u32) -> (u16, u16) {
    let bytes = word.to_ne_bytes();
    (half(&bytes, 0), half(&bytes, 2))
}

/// Destination unreachable (with "fragmentation needed", by which path MTU is found, RFC 1191), time exceeded and
/// parameter problem carry the header of the packet that they are about and eight bytes more (RFC 792).
#[inline(always)]
fn error<B: Bytes>(frame: &B, outer: (u32, u32), l4: usize, packet: &mut Packet) -> Option<()> {
    let icmp: [u8; 8] = frame.load(l4)?;
    if !matches!(icmp[0], 3 | 11 | 12) {
        return None;
    }
    let at = l4 + 8;
    let ip: [u8; 20] = frame.load(at)?;
    let header = header_len(ip[0])?;
    let protocol = ip[9];
    // About a later fragment nothing but the addresses can be known.
    if (protocol != PROTO_TCP && protocol != PROTO_UDP) || u16::from_be(half(&ip, 6)) & 0x1fff != 0 {
        return None;
    }
    let ports: [u8; 8] = frame.load(at + header)?;
    let inner_src = word(&ip, 12);
    // It is about a packet that its receiver sent; anything else is a forgery or a loop.
    if outer.1 != inner_src {
        return None;
    }
    packet.src_be = word(&ip, 16);
    packet.dst_be = inner_src;
    (packet.dst_port_be, packet.src_port_be) = two(word(&ports, 0));
    packet.protocol = protocol;
    packet.tcp_flags = 0;
    packet.l4 = l4;
    packet.kind = Kind::Error(Inner {
        ip: at,
        outer_src_be: outer.0,
    });
    Some(())
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
