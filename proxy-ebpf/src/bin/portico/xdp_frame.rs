// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! A frame before there is an skb: bounds are ours to check, checksums ours to keep.

use core::hint::black_box;

use crate::words;
use aya_ebpf::{
    EbpfContext,
    bindings::bpf_fib_lookup as BpfFibLookup,
    helpers::generated::{bpf_fib_lookup, bpf_xdp_adjust_head},
    programs::XdpContext,
};
use proxy_ebpf::datapath::{Bytes, Packet, checksum::replace16, encap::OUTER_LEN, packet::find_mss};

/// Headers lie below this: 14 + 60 of IPv4 + 60 of TCP, and the same again inside an ICMP error.
const OFFSET_MAX: usize = 0x1ff;

/// A frame of an XDP program.
pub struct XdpFrame<'a>(pub &'a XdpContext);

impl Bytes for XdpFrame<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let at = self.at::<N>(offset)?;
        // SAFETY: `at` has checked that N bytes are there.
        Some(unsafe { words::read(at) })
    }
}

impl XdpFrame<'_> {
    /// Where `N` bytes at `offset` are.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<*mut u8> {
        if offset > OFFSET_MAX {
            return None;
        }
        // The mask is what the verifier sees; the addition must stay one of its own, or the pointer that is checked
        // is not the one that is used.
        let at = black_box(self.0.data() + (black_box(offset) & OFFSET_MAX));
        (at + N <= self.0.data_end()).then_some(at as *mut u8)
    }

    /// Writes `N` bytes at `offset`.
    #[inline(always)]
    pub fn store<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        let at = self.at::<N>(offset)?;
        // SAFETY: as for `load`.
        unsafe { words::write(at, bytes) };
        Some(())
    }

    /// Writes the tunnel's headers at the start.
    #[inline(always)]
    pub fn store_outer(&self, (words, last): &([u64; 6], u16)) -> Option<()> {
        let at = self.at::<OUTER_LEN>(0)?;
        // SAFETY: as for `load`; six words and a half of one are OUTER_LEN.
        unsafe {
            for (number, word) in words.iter().enumerate() {
                words::store8(at.add(number * 8), *word);
            }
            words::store2(at.add(OUTER_LEN - 2), *last);
        }
        Some(())
    }

    /// Length of the frame.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    /// Lowers the MSS option to `max`; whether it did.
    #[inline(always)]
    pub fn clamp_mss(&self, packet: &Packet, max: u32) -> Option<bool> {
        let Some(mss) = find_mss(self, packet, max) else {
            return Some(false);
        };
        let (old, new) = (mss.value.to_be(), (max as u16).to_be());
        // See the tc program's: at an odd offset the option lies across two words.
        let (from, to) = if (mss.offset - packet.l4) % 2 == 0 {
            (old, new)
        } else {
            (old.swap_bytes(), new.swap_bytes())
        };
        let check = u16::from_ne_bytes(self.load(packet.l4 + 16)?);
        self.store(packet.l4 + 16, &replace16(check, from, to).to_ne_bytes())?;
        self.store(mss.offset, &new.to_ne_bytes())?;
        Some(true)
    }

    /// Destination and source MAC of the next hop to an address (network order), if it is reached through the
    /// interface that the frame came in by and the neighbour is known.
    #[inline(always)]
    pub fn next_hop(&self, from_be: u32, to_be: u32) -> Option<[u32; 3]> {
        const AF_INET: u8 = 2;
        // SAFETY: plain integers; all zero is a valid query.
        let mut query: BpfFibLookup = unsafe { core::mem::zeroed() };
        query.family = AF_INET;
        query.ifindex = self.0.ingress_ifindex() as u32;
        query.__bindgen_anon_3.ipv4_src = from_be;
        query.__bindgen_anon_4.ipv4_dst = to_be;
        let len = size_of::<BpfFibLookup>() as i32;
        // SAFETY: context and query are valid for the call.
        let result = unsafe { bpf_fib_lookup(self.0.as_ptr(), &raw mut query, len, 0) };
        if result != 0 || query.ifindex != self.0.ingress_ifindex() as u32 {
            return None;
        }
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (query.dmac, query.smac);
        Some([[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes))
    }

    /// Makes room in front of the frame for the outer headers; whether there is any. Pointers into the frame are void.
    #[inline(always)]
    pub fn grow(&self) -> bool {
        // SAFETY: the context is valid.
        unsafe { bpf_xdp_adjust_head(self.0.ctx, -(OUTER_LEN as i32)) == 0 }
    }
}
