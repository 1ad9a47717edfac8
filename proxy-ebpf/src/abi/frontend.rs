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

/// [`FrontendKey::kind`]: a virtual IP inside a network.
pub const VIP: u8 = 0;
/// [`FrontendKey::kind`]: a published port on the node's addresses.
pub const PUBLISHED: u8 = 1;

abi! {
    /// The master entry of a frontend. Written after everything it refers to, removed before.
    pub struct Frontend: 12 {
        /// Index of the frontend's slots and of its round-robin counter; < [`super::limits::FRONTENDS_MAX`].
        id: u32,
        /// Number of valid slots, from 0. With 0 a client gets an error at once.
        slots: u32,
        /// Port of the tasks, network order; 0 = as the client sent it.
        target_port_be: u16,
        /// None yet; zero.
        flags: u16,
    }
}
