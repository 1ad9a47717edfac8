// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frontends: the addresses that clients use. A frontend has slots, each naming a backend.

abi! {
    /// Where a frontend is reached.
    ///
    /// A VIP is looked up exactly first and then with `port_be` and `protocol` zero, because a Swarm VIP serves
    /// every port. A published port has `network` 0 and `addr_be` 0: any local address of the node.
    pub struct FrontendKey: 12 {
        /// Network that the VIP belongs to ([`super::Scope`]); 0 for published ports.
        network: u32,
        /// The VIP, network order; 0 for published ports.
        addr_be: u32,
        /// Port, network order; 0 = every port.
        port_be: u16,
        /// IP protocol; 0 = every protocol.
        protocol: u8,
        /// [`VIP`] or [`PUBLISHED`].
        kind: u8,
    }
}

abi! {
    /// Where a frontend with an IPv6 address is reached: as [`FrontendKey`]. Tables of their own, so that the keys of
    /// all others stay short.
    pub struct FrontendKey6: 24 {
        /// Network that the VIP belongs to.
        network: u32,
        /// The VIP, network order.
        addr: [u32; 4],
        /// Port, network order; 0 = every port.
        port_be: u16,
        /// IP protocol; 0 = every protocol.
        protocol: u8,
        /// [`VIP`].
        kind: u8,
    }
}

/// [`FrontendKey::kind`]: a virtual IP inside a network.
pub const VIP: u8 = 0;
/// [`FrontendKey::kind`]: a published port on the node's addresses.
pub const PUBLISHED: u8 = 1;

abi! {
    /// The master entry of a frontend. Written after everything it refers to, removed before.
    pub struct Frontend: 32 {
        /// Index of the frontend's slots and of its round-robin counter; < [`super::limits::FRONTENDS_MAX`].
        id: u32,
        /// Number of valid slots, from 0. With 0 a client gets an error at once.
        slots: u32,
        /// Its table ([`super::TableKey::table`]); 0 = none.
        table: u32,
        /// Entries of the table.
        table_size: u32,
        /// How long a client keeps its backend after its last new flow, in ticks; 0 = no affinity.
        affinity: u32,
        /// Port of the tasks, network order; 0 = as the client sent it.
        target_port_be: u16,
        /// [`ROUND_ROBIN`] to [`LEAST`].
        scheduler: u8,
        /// Leading bits of an address that make a client, 0 to 32.
        client_bits: u8,
        /// [`DSR`], [`MASQUERADE`].
        flags: u32,
        /// Its list of clients' prefixes ([`super::SourceKey::list`]); 0 = none, everyone may.
        sources: u32,
    }
}

/// [`Frontend::scheduler`]: in turn: over the table when there is one (weights), otherwise over the slots.
pub const ROUND_ROBIN: u8 = 0;
/// [`Frontend::scheduler`]: by chance, over the table or the slots.
pub const RANDOM: u8 = 1;
/// [`Frontend::scheduler`]: the client's address over the table.
pub const SOURCE_HASH: u8 = 2;
/// [`Frontend::scheduler`]: the client's address and port over the table.
pub const FLOW_HASH: u8 = 3;
/// [`Frontend::scheduler`]: fewest flows by weight, of up to [`super::limits::LEAST_LOOK`] slots.
pub const LEAST: u8 = 4;

/// [`Frontend::flags`]: a task's node answers the client itself.
pub const DSR: u32 = 1;
/// [`Frontend::flags`]: tasks see the node's address instead of the client's.
pub const MASQUERADE: u32 = 2;
