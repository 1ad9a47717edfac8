// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters: one numbered list of everything that the programs count. Numbers are never reused.

macro_rules! counters {
    ($($(#[$meta:meta])* $variant:ident = $n:literal, $name:literal, $drop:literal;)+) => {
        /// Index into the per-CPU counter array.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter { $($(#[$meta])* $variant = $n),+ }

        impl Counter {
            /// All counters, in order of their numbers.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant),+];

            /// Stable name, used in `status`, metrics and docs.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name),+ }
            }

            /// Whether it counts packets or connects that Portico refused or dropped.
            pub const fn is_drop(self) -> bool {
                match self { $(Counter::$variant => $drop),+ }
            }
        }
    };
}

counters! {
    /// connect() to a VIP that was given a backend.
    SockConnect = 0, "sock_connect", false;
    /// Datagram to a VIP from an unconnected socket.
    SockSendmsg = 1, "sock_sendmsg", false;
    /// connect() or sendmsg() to a VIP without backends: ECONNREFUSED.
    SockNoBackend = 2, "sock_no_backend", true;
    /// New flow of a published port, served by a task of this node.
    FlowLocal = 3, "flow_local", false;
    /// New flow of a published port, sent to a task of another node.
    FlowRemote = 4, "flow_remote", false;
    /// New flow that arrived through the tunnel for a task of this node.
    FlowTunnel = 5, "flow_tunnel", false;
    /// Published port without backends: RST or ICMP port unreachable.
    PublishedNoBackend = 6, "published_no_backend", true;
    /// The flow's backend is gone: RST, so that the client reconnects.
    FlowBackendGone = 7, "flow_backend_gone", true;
    /// Tunnelled packet for a task that this node does not have.
    TunnelUnknownTask = 8, "tunnel_unknown_task", true;
    /// Tunnelled reply for a flow that this node does not know.
    TunnelUnknownFlow = 9, "tunnel_unknown_flow", true;
    /// The frame could not be rewritten (too short, write failed).
    Malformed = 10, "malformed", true;
    /// A slot named a backend that does not exist.
    SlotWithoutBackend = 11, "slot_without_backend", true;
    /// MSS option lowered for a tunnelled flow.
    MssClamped = 12, "mss_clamped", false;
    /// Tunnelled packet that is no IPv4 TCP or UDP.
    TunnelNotOurs = 13, "tunnel_not_ours", true;
    /// TCP segment to a published port that belongs to no known flow and opens none: RST.
    FlowUnknown = 14, "flow_unknown", true;
    /// The flow's bucket was being changed by other CPUs for too long; the packet was forwarded, its flow is not
    /// remembered.
    FlowTableBusy = 15, "flow_table_busy", false;
    /// A remote task was chosen, but this agent runs without a tunnel.
    NoTunnel = 16, "no_tunnel", true;
    /// A flow that was still alive was forgotten to make room for a new one.
    FlowEvicted = 17, "flow_evicted", false;
    /// A segment of no known flow followed its hash: another entry node, or this one, knew the flow before.
    FlowAdopted = 18, "flow_adopted", false;
    /// A client with affinity came back to its backend.
    AffinityKept = 19, "affinity_kept", false;
    /// A masqueraded flow found no free port: refused.
    MasqueradeFull = 20, "masquerade_full", true;
    /// ICMP error about a flow, translated and sent on.
    IcmpError = 21, "icmp_error", false;
    /// Later fragment whose first was not seen.
    FragmentUnknown = 22, "fragment_unknown", true;
    /// Client outside the prefixes that the service allows, or inside those that it denies.
    SourceDenied = 23, "source_denied", true;
    /// IPv6 client of a published port, which tasks with IPv4 addresses serve: ICMPv6 port unreachable.
    PublishedIpv6 = 24, "published_ipv6", true;
    /// Packet of an address on the node's deny list.
    Denied = 25, "denied", true;
    /// Packet that no honest sender makes, where such are dropped.
    Impossible = 26, "impossible", true;
    /// SYN of a prefix that sends more of them than the node takes.
    SynRate = 27, "syn_rate", true;
    /// A client's SYN came again because nothing had answered it: another backend was chosen.
    FlowRetried = 28, "flow_retried", false;
    /// New flow of a VIP, from a client outside, sent to a backend by the node's routes.
    FlowDirect = 29, "flow_direct", false;
    /// Packet for another node's task, sent by the XDP program itself.
    XdpSent = 32, "xdp_sent", false;
    /// What nobody could be told: the CPU had told [`super::limits::EVENTS_MAX`] in this tick, or the ring was full.
    EventsLost = 33, "events_lost", false;
    /// Flow of a published port whose client or task sent the first FIN; at its entry node.
    FlowClosed = 34, "flow_closed", false;
    /// The same with RST.
    FlowReset = 35, "flow_reset", false;
}

/// Entries of the counter array; room for later numbers.
pub const COUNTERS_MAX: u32 = 64;
