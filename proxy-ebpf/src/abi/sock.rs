// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the socket hooks remember per socket, so that a socket sees the address it asked for.

abi! {
    /// A socket and an address of one side of the translation.
    pub struct SockKey: 16 {
        /// Socket cookie.
        cookie: u64,
        /// [`REVERSE`]: the backend. [`AFFINITY`]: the VIP. Network order.
        addr_be: u32,
        /// Network order.
        port_be: u16,
        /// IP protocol.
        protocol: u8,
        /// [`REVERSE`] or [`AFFINITY`].
        side: u8,
    }
}

/// [`SockKey::side`]: backend -> what the application asked for (recvmsg, getpeername).
pub const REVERSE: u8 = 0;
/// [`SockKey::side`]: VIP -> the backend that this UDP socket uses until it goes away.
pub const AFFINITY: u8 = 1;

abi! {
    /// The other side of the translation.
    pub struct SockPeer: 12 {
        /// Network order.
        addr_be: u32,
        /// The backend's id, to notice that it is gone.
        backend: u32,
        /// Network order.
        port_be: u16,
        /// Zero.
        _pad: u16,
    }
}

abi! {
    /// As [`SockKey`], for what IPv6 sockets asked for.
    pub struct SockKey6: 32 {
        /// Socket cookie.
        cookie: u64,
        /// Network order.
        addr: [u32; 4],
        /// Network order.
        port_be: u16,
        /// IP protocol.
        protocol: u8,
        /// [`REVERSE`] or [`AFFINITY`].
        side: u8,
        /// Zero.
        _pad: u32,
    }
}

abi! {
    /// As [`SockPeer`].
    pub struct SockPeer6: 24 {
        /// Network order.
        addr: [u32; 4],
        /// The backend's id, to notice that it is gone.
        backend: u32,
        /// Network order.
        port_be: u16,
        /// Zero.
        _pad: u16,
    }
}
