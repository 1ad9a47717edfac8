// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A frame in an skb: reading for the library's parser, and the writes that an [`Action`] asks for.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_F_PSEUDO_HDR, BPF_F_ZERO_CSUM_TX, bpf_fib_lookup as BpfFibLookup, bpf_tunnel_key},
    helpers::generated::{
        bpf_fib_lookup, bpf_skb_change_tail, bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key,
    },
    macros::map,
    maps::PerCpuArray,
    programs::TcContext,
};
use proxy_ebpf::{
    abi::PROTO_TCP,
    datapath::{
        Bytes, Packet,
        encap::TUNNEL_TTL,
        ipv6,
        packet::{ETH_LEN, Inner, Kind, find_mss},
        refuse::{ICMP_LEN, RST_LEN, port_unreachable, rst},
    },
};

/// An update of a UDP checksum of zero (none) must leave it zero (`BPF_F_MARK_MANGLED_0`).
const MARK_MANGLED_0: u64 = 1 << 5;
/// The tunnel key without its last member, the local address: the form that every kernel since 4.17 takes.
const TUNNEL_KEY_LEN: u32 = core::mem::offset_of!(bpf_tunnel_key, __bindgen_anon_3) as u32;

/// One end of a packet.
#[derive(Clone, Copy)]
pub enum End {
    /// Where it is from.
    Source,
    /// Where it goes.
    Destination,
}

impl End {
    /// Of address and port in their headers.
    #[inline(always)]
    fn offsets(self) -> (usize, usize) {
        match self {
            End::Source => (12, 0),
            End::Destination => (16, 2),
        }
    }

    #[inline(always)]
    fn other(self) -> End {
        match self {
            End::Source => End::Destination,
            End::Destination => End::Source,
        }
    }
}

/// Where an answer is built: it would be a quarter of the stack.
#[map]
static UNREACHABLE: PerCpuArray<[u8; ipv6::ANSWER_LEN]> = PerCpuArray::with_max_entries(1, 0);

/// A frame in an skb.
pub struct Frame<'a>(pub &'a TcContext);

impl Bytes for Frame<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.load(offset).ok()
    }
}

impl Frame<'_> {
    /// Rewrites address and port of one end, with checksums. Checksums of partial (offloaded) packets are handled by
    /// the helpers: the address change is marked as part of the pseudo header.
    #[inline(always)]
    pub fn translate(&self, packet: &Packet, end: End, old: (u32, u16), new: (u32, u16)) -> Result<(), i64> {
        if let Kind::Error(inner) = packet.kind {
            return self.translate_error(packet, inner, end, old, new);
        }
        let (addr_offset, port_offset) = end.offsets();
        let ports = !matches!(packet.kind, Kind::Later(_));
        let (check, flags) = if packet.protocol == PROTO_TCP {
            (packet.l4 + 16, 0)
        } else {
            (packet.l4 + 6, MARK_MANGLED_0)
        };
        if old.0 != new.0 {
            if ports {
                let pseudo = flags | u64::from(BPF_F_PSEUDO_HDR) | 4;
                self.0
                    .l4_csum_replace(check, u64::from(old.0), u64::from(new.0), pseudo)
                    .map_err(i64::from)?;
            }
            self.store_address(ETH_LEN, addr_offset, old.0, new.0)?;
        }
        if old.1 != new.1 && ports {
            self.0
                .l4_csum_replace(check, u64::from(old.1), u64::from(new.1), flags | 2)
                .map_err(i64::from)?;
            self.0
                .store(packet.l4 + port_offset, &new.1, 0)
                .map_err(i64::from)?;
        }
        Ok(())
    }

    /// An ICMP error has the flow's source as its inner destination and the other way round. The ICMP checksum sees
    /// only the port: an address and the inner header's checksum change by opposite amounts. The inner transport
    /// checksum stays wrong, as it may (RFC 5508 section 4.2: receivers do not look at it).
    #[inline(always)]
    fn translate_error(
        &self,
        packet: &Packet,
        inner: Inner,
        end: End,
        old: (u32, u16),
        new: (u32, u16),
    ) -> Result<(), i64> {
        let (addr_offset, port_offset) = end.other().offsets();
        if old.0 != new.0 {
            self.store_address(inner.ip, addr_offset, old.0, new.0)?;
            let (outer_offset, _) = end.offsets();
            // An error from a router in between keeps its own source.
            if matches!(end, End::Destination) || inner.outer_src_be == old.0 {
                self.store_address(ETH_LEN, outer_offset, old.0, new.0)?;
            }
        }
        if old.1 != new.1 {
            let header: [u8; 1] = self.load(inner.ip).ok_or(-1)?;
            let l4 = inner.ip + usize::from(header[0] & 0x0f) * 4;
            self.0
                .l4_csum_replace(packet.l4 + 2, u64::from(old.1), u64::from(new.1), 2)
                .map_err(i64::from)?;
            self.0.store(l4 + port_offset, &new.1, 0).map_err(i64::from)?;
        }
        Ok(())
    }

    /// An address in an IPv4 header, with the header's checksum.
    #[inline(always)]
    fn store_address(&self, ip: usize, offset: usize, old: u32, new: u32) -> Result<(), i64> {
        self.0
            .l3_csum_replace(ip + 10, u64::from(old), u64::from(new), 4)
            .map_err(i64::from)?;
        self.0.store(ip + offset, &new, 0).map_err(i64::from)
    }

    /// The interface that the packet is at.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context for the duration of the program.
        unsafe { (*self.0.skb.skb).ifindex }
    }

    /// The interface that leads to an address (network order), by the node's routes.
    #[inline(always)]
    pub fn interface_to(&self, addr_be: u32) -> Option<u32> {
        const AF_INET: u8 = 2;
        // SAFETY: plain integers; all zero is a valid query.
        let mut query: BpfFibLookup = unsafe { core::mem::zeroed() };
        query.family = AF_INET;
        query.ifindex = self.ifindex();
        query.__bindgen_anon_4.ipv4_dst = addr_be;
        let len = size_of::<BpfFibLookup>() as i32;
        // SAFETY: context and query are valid for the call.
        let result = unsafe { bpf_fib_lookup(self.0.as_ptr().cast(), &raw mut query, len, 0) };
        // 7: the route is there and the neighbour is not known yet.
        matches!(result, 0 | 7).then_some(query.ifindex)
    }

    /// Whether an IPv6 packet's destination is an address of the node itself, by its routes; or one that it has no way
    /// to, which the kernel does not tell apart. Not of frames that are somebody else's on the wire.
    #[inline(never)]
    pub fn is_for_this_node(&self) -> bool {
        const AF_INET6: u8 = 10;
        /// BPF_FIB_LKUP_RET_NOT_FWDED: the route is a local one. BPF_FIB_LKUP_RET_FWD_DISABLED: a node that does not
        /// forward IPv6 gets none but its own.
        const LOCAL: [i64; 2] = [4, 5];
        const PACKET_HOST: u32 = 0;
        // SAFETY: the kernel passes a valid context for the duration of the program.
        if unsafe { (*self.0.skb.skb).pkt_type } != PACKET_HOST {
            return false;
        }
        // SAFETY: plain integers; all zero is a valid query.
        let mut query: BpfFibLookup = unsafe { core::mem::zeroed() };
        query.family = AF_INET6;
        query.ifindex = self.ifindex();
        // They were read before; a value that only one branch has is one that the verifier of 6.1 loses.
        let words = |at: usize| self.0.load::<[u32; 4]>(ETH_LEN + at).unwrap_or_default();
        query.__bindgen_anon_3.ipv6_src = words(8);
        query.__bindgen_anon_4.ipv6_dst = words(24);
        let len = size_of::<BpfFibLookup>() as i32;
        // SAFETY: context and query are valid for the call.
        let result = unsafe { bpf_fib_lookup(self.0.as_ptr().cast(), &raw mut query, len, 0) };
        LOCAL.contains(&result)
    }

    /// Turns an IPv6 frame into the answer that nobody is at its destination port.
    #[inline(never)]
    pub fn become_unreachable(&self) -> Result<(), i64> {
        // SAFETY: this CPU's own until the program ends.
        let answer = unsafe { &mut *UNREACHABLE.get_ptr_mut(0).ok_or(-1_i64)? };
        ipv6::unreachable(self, answer).ok_or(-1_i64)?;
        self.resize(ipv6::ANSWER_LEN)?;
        self.0.store(0, &*answer, 0).map_err(i64::from)
    }

    /// Lowers the MSS option to `max`; whether it did.
    #[inline(always)]
    pub fn clamp_mss(&self, packet: &Packet, max: u32) -> Result<bool, i64> {
        let Some(mss) = find_mss(self, packet, max) else {
            return Ok(false);
        };
        let (old, new) = (mss.value.to_be(), (max as u16).to_be());
        // An MSS option at an odd offset changes two checksum words by the same amount in swapped bytes.
        let (from, to) = if (mss.offset - packet.l4) % 2 == 0 {
            (old, new)
        } else {
            (old.swap_bytes(), new.swap_bytes())
        };
        self.0
            .l4_csum_replace(packet.l4 + 16, u64::from(from), u64::from(to), 2)
            .map_err(i64::from)?;
        self.0.store(mss.offset, &new, 0).map_err(i64::from)?;
        Ok(true)
    }

    /// Destination and source MAC.
    #[inline(always)]
    pub fn set_macs(&self, macs: &[u8; 12]) -> Result<(), i64> {
        self.0.store(0, macs, 0).map_err(i64::from)
    }

    /// Turns the frame into the answer that refuses it: RST for TCP, port unreachable for UDP.
    #[inline(always)]
    pub fn become_refusal(&self, packet: &Packet) -> Result<(), i64> {
        if packet.protocol == PROTO_TCP {
            let answer = rst(self, packet.l4).ok_or(-1)?;
            self.resize(RST_LEN)?;
            self.0.store(0, &answer, 0).map_err(i64::from)
        } else {
            let answer = port_unreachable(self, packet.l4).ok_or(-1)?;
            self.resize(ICMP_LEN)?;
            self.0.store(0, &answer, 0).map_err(i64::from)
        }
    }

    #[inline(always)]
    fn resize(&self, len: usize) -> Result<(), i64> {
        // SAFETY: the context is valid; the helper invalidates packet pointers, and none are held.
        match unsafe { bpf_skb_change_tail(self.0.as_ptr().cast(), len as u32, 0) } {
            0 => Ok(()),
            e => Err(e),
        }
    }

    /// Where the tunnel device sends it: the node (network order) and the task.
    #[inline(always)]
    pub fn set_tunnel(&self, node_be: u32, task: u32) -> Result<(), i64> {
        // SAFETY: plain integers; all zero is a valid key.
        let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
        key.tunnel_id = task;
        key.tunnel_ttl = TUNNEL_TTL;
        // The helper takes the address in host order (bpf_skb_set_tunnel_key converts it).
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(node_be);
        // SAFETY: the context and the key are valid for the call.
        let result = unsafe {
            bpf_skb_set_tunnel_key(
                self.0.as_ptr().cast(),
                &raw mut key,
                TUNNEL_KEY_LEN,
                u64::from(BPF_F_ZERO_CSUM_TX),
            )
        };
        if result == 0 { Ok(()) } else { Err(result) }
    }

    /// Which task the tunnel named and which node (network order) sent it.
    #[inline(always)]
    pub fn tunnel(&self) -> Option<(u32, u32)> {
        // SAFETY: as above.
        let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
        // SAFETY: as above.
        let result =
            unsafe { bpf_skb_get_tunnel_key(self.0.as_ptr().cast(), &raw mut key, TUNNEL_KEY_LEN, 0) };
        // SAFETY: without the IPv6 flag the helper fills the IPv4 member.
        (result == 0).then(|| (key.tunnel_id, unsafe { key.__bindgen_anon_1.remote_ipv4 }.to_be()))
    }
}
