// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables that spread flows over backends, and which backend a client keeps.

/// Backend ids in one block: a cache line of them.
pub const BLOCK: usize = 16;

abi! {
    /// One block of a table. A frontend's table is never changed in place: a new one is written under another
    /// number, the frontend's master entry names it, then the old one goes.
    pub struct TableKey: 8 {
        /// [`super::Frontend::table`], never 0.
        table: u32,
        /// 0 .. (size + 15) / 16.
        block: u32,
    }
}

abi! {
    /// Backend ids. What is beyond the table's size is 0.
    pub struct TableBlock: 64 {
        /// In order.
        backends: [u32; BLOCK],
    }
}

abi! {
    /// A client of a frontend with affinity.
    pub struct AffinityKey: 16 {
        /// [`ADDRESS`]: the address, host order, cut to the frontend's bits. [`NAMESPACE`]: netns cookie.
        client: u64,
        /// [`super::Frontend::id`].
        frontend: u32,
        /// [`ADDRESS`] or [`NAMESPACE`].
        kind: u32,
    }
}

/// [`AffinityKey::kind`]: a client of a published port.
pub const ADDRESS: u32 = 0;
/// [`AffinityKey::kind`]: a namespace whose sockets connect to a VIP.
pub const NAMESPACE: u32 = 1;

abi! {
    /// The backend that a client keeps.
    pub struct Affinity: 8 {
        /// Its id.
        backend: u32,
        /// When the client's last new flow came, in ticks.
        seen: u32,
    }
}

abi! {
    /// A prefix of clients in a list; the value is [`crate::datapath::ALLOW`] or [`crate::datapath::DENY`] (`u32`).
    /// A list is never changed in place, as tables.
    pub struct SourceKey: 12 {
        /// [`super::Frontend::sources`], never 0.
        list: u32,
        /// Network order.
        addr_be: u32,
        /// Leading bits of the address that count.
        bits: u32,
    }
}

/// Bits of a list's number, which the kernel's trie has in front of the address.
pub const LIST_BITS: u32 = 32;

impl SourceKey {
    /// As the kernel's trie wants it: list and address, most significant byte first.
    #[inline(always)]
    pub const fn data(&self) -> [u8; 8] {
        let (l, a) = (self.list.to_be_bytes(), self.addr_be.to_ne_bytes());
        [l[0], l[1], l[2], l[3], a[0], a[1], a[2], a[3]]
    }

    /// The key of such bytes; `bits` with [`LIST_BITS`] in it.
    pub const fn from_data(d: [u8; 8], bits: u32) -> SourceKey {
        SourceKey {
            list: u32::from_be_bytes([d[0], d[1], d[2], d[3]]),
            addr_be: u32::from_ne_bytes([d[4], d[5], d[6], d[7]]),
            bits: bits.saturating_sub(LIST_BITS),
        }
    }
}

abi! {
    /// A datagram in fragments; what its first fragment told.
    pub struct FragmentKey: 12 {
        /// Source, network order.
        src_be: u32,
        /// Destination, network order.
        dst_be: u32,
        /// Identification, network order.
        id_be: u16,
        /// IP protocol.
        protocol: u8,
        /// Zero.
        _pad: u8,
    }
}

abi! {
    /// What later fragments lack.
    pub struct Fragment: 4 {
        /// Network order.
        src_port_be: u16,
        /// Network order.
        dst_port_be: u16,
    }
}
