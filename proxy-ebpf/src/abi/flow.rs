// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flows of published ports: what a node remembers so that a client's packets keep their task and the task's
//! replies find their way back.
//!
//! The table is an array of [`Bucket`]s, a power of two of them; a flow lives in the bucket that its hash names.
//! Why no hash map of the kernel's: `docs/performance.md`.

abi! {
    /// A flow as seen from one side. Every flow of a published port has two entries where the task is local
    /// (one per side) and one ([`ENTRY`]) on a node that sends it through the tunnel. A masqueraded flow has
    /// one more [`ENTRY`], under the address that the task sees.
    pub struct FlowKey: 16 {
        /// The client, network order.
        client_be: u32,
        /// [`ENTRY`]: the node's address that the client used. [`TASK`]: the task's gateway address.
        local_be: u32,
        /// Network order.
        client_port_be: u16,
        /// [`ENTRY`]: the published port. [`TASK`]: the task's port. Network order.
        local_port_be: u16,
        /// IP protocol.
        protocol: u8,
        /// [`ENTRY`] or [`TASK`].
        side: u8,
        /// Zero; in an [`Entry`] the flow's [`Flow::generation`].
        spare: u16,
    }
}

impl FlowKey {
    /// The key of one side of a flow; addresses and ports in network order.
    #[inline(always)]
    pub const fn new(side: u8, protocol: u8, client: (u32, u16), local: (u32, u16)) -> FlowKey {
        FlowKey {
            client_be: client.0,
            local_be: local.0,
            client_port_be: client.1,
            local_port_be: local.1,
            protocol,
            side,
            spare: 0,
        }
    }
}

/// [`FlowKey::side`]: client -> node's address and published port.
pub const ENTRY: u8 = 0;
/// [`FlowKey::side`]: task -> client.
pub const TASK: u8 = 1;

abi! {
    /// What is known of a flow.
    pub struct Flow: 32 {
        /// The backend that serves it; on the task's node for a tunnelled flow 0.
        backend: u32,
        /// [`ENTRY`] side: the interface that the client's packets came in through; replies leave there.
        ifindex: u32,
        /// [`TASK`] side: the address that the client used, put back as the source of replies. Network order.
        /// [`ENTRY`] side: the task's address.
        nat_addr_be: u32,
        /// [`TASK`] side: the node that replies go to through the tunnel, 0 = they leave here. [`ENTRY`] side: the
        /// node of a task that the tunnel names by `nat_addr_be`, 0 = ask its backend. Network order.
        node_be: u32,
        /// Masqueraded flows. [`ENTRY`] side: what the task sees as the client. [`BACK`] and [`TASK`] side: the
        /// client. 0 otherwise. Network order.
        peer_be: u32,
        /// When the last packet from this side came, in ticks ([`super::settings::TICK_SHIFT`]); exact to one.
        seen: u32,
        /// [`TASK`] side: the published port. [`ENTRY`] side: the task's port. Network order.
        nat_port_be: u16,
        /// Port of `peer_be`, network order.
        peer_port_be: u16,
        /// [`SYN`] to [`ANSWERED`].
        state: u8,
        /// [`BACK`] to [`DIRECT`]; there is room for four.
        flags: u8,
        /// [`ENTRY`] side: the tables were these when frontend and backend were last found
        /// ([`GENERATION_MAX`]); 0 = unknown.
        generation: u16,
    }
}

/// Generations of the tables are numbered from 1 to this, and from 1 again: what was found under one is not looked
/// up again under the same. A flow counts as found only in the tick of its last packet, so a number means another
/// generation only if there are this many within a tick.
pub const GENERATION_MAX: u16 = u16::MAX;

/// [`Flow::state`]: TCP, nothing but the client's SYN was seen. When the SYN comes again, another backend is chosen.
pub const SYN: u8 = 1;
/// [`Flow::state`]: TCP, packets flow.
pub const OPEN: u8 = 2;
/// [`Flow::state`]: TCP, a FIN or RST was seen; a new SYN with the same addresses is a new flow.
pub const CLOSING: u8 = 3;
/// [`Flow::state`]: UDP, one datagram was seen.
pub const DATAGRAM: u8 = 4;
/// [`Flow::state`]: UDP, the client has sent more than one.
pub const STREAM: u8 = 5;
/// [`Flow::state`]: TCP, the task has answered the client's SYN, and the client has not yet answered that.
pub const ANSWERED: u8 = 6;
/// Room for states: the length of [`super::Settings::timeouts`].
pub const STATES: usize = 8;

/// [`Flow::flags`]: keyed by what the task sees as the client; `peer` is the client.
pub const BACK: u8 = 1;
/// [`Flow::flags`]: came through the tunnel and does not go back through it: the task's SYN-ACK must not promise
/// segments that the tunnel has no room for.
pub const CLAMP: u8 = 2;
/// [`Flow::flags`]: [`ENTRY`] side: the backend gets packets as they are, and answers the client itself.
pub const AS_IS: u8 = 4;
/// [`Flow::flags`]: [`TASK`] side: of a backend that is no task, whose replies come in through an uplink.
pub const DIRECT: u8 = 8;

/// Flows in a bucket.
pub const WAYS: usize = 8;

abi! {
    /// What a bucket keeps of one flow beside its header.
    pub struct Entry: 40 {
        /// The flow's key.
        key: FlowKey,
        /// [`Flow::backend`].
        backend: u32,
        /// [`Flow::ifindex`].
        ifindex: u32,
        /// [`Flow::nat_addr_be`].
        nat_addr_be: u32,
        /// [`Flow::node_be`].
        node_be: u32,
        /// [`Flow::peer_be`].
        peer_be: u32,
        /// [`Flow::nat_port_be`].
        nat_port_be: u16,
        /// [`Flow::peer_port_be`].
        peer_port_be: u16,
    }
}

abi! {
    /// Eight flows: a header of one cache line that is enough to find a flow or the one to forget, then the flows.
    pub struct Bucket: 384 {
        /// Not 0 while a CPU changes tags and entries.
        lock: u64,
        /// 16 bits of each flow's hash, never 0; 0 = free.
        tags: [u16; WAYS],
        /// [`Flow::seen`] of each.
        seen: [u32; WAYS],
        /// [`Flow::state`], and [`Flow::flags`] in the high four bits, of each.
        states: [u8; WAYS],
        /// The flows.
        entries: [Entry; WAYS],
    }
}
