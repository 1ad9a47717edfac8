// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every limit of the kernel side, with its arithmetic.

use super::flow::WAYS;

/// Networks that one namespace can be in: a scope is one 64-byte cache line, 8 bytes of it header.
pub const SCOPE_NETWORKS_MAX: usize = 14;
/// Frontends per node: VIPs plus published ports (a protocol each). 100 000 services with one each, and the next power
/// of two, because the kernel rounds a hash map's list heads up to it. Unused they cost 16 bytes in each of the two
/// maps and 8 for the round-robin counter: 5 MiB.
pub const FRONTENDS_MAX: u32 = 131_072;
/// Slots over all frontends: 1 048 576 / 131 072 = 8 each on average, or 100 000 services of 10. Unused they cost a list
/// head of 16 bytes, 16 MiB; an entry is made when it is written.
pub const SLOTS_MAX: u32 = 1_048_576;
/// Backends over all frontends; as many as slots. Unused 16 bytes and 8 for what it has opened and has: 24 MiB.
pub const BACKENDS_MAX: u32 = SLOTS_MAX;
/// Namespaces with a scope: tasks of this node.
pub const SCOPES_MAX: u32 = 4_096;
/// The node's own addresses.
pub const LOCAL_ADDRS_MAX: u32 = 1_024;
/// Tasks of this node that publish ports.
pub const LOCAL_TASKS_MAX: u32 = 4_096;
/// Flows of published ports, unless the operator says otherwise.
pub const FLOWS_DEFAULT: u32 = 1_000_000;
/// Most that the operator may ask for: 6.4 GB of buckets.
pub const FLOWS_MAX: u32 = 1 << 26;
/// Buckets for a number of flows: each flow has up to two entries, a bucket has eight, and the next power of two
/// makes room for flows that are unevenly spread. For 1 000 000 flows 262 144 buckets of 384 bytes: 96 MiB,
/// allocated at the start, 96 to 100 bytes per flow.
pub const fn flow_buckets(flows: u32) -> u32 {
    let buckets = flows.saturating_mul(2).div_ceil(WAYS as u32);
    if buckets < 1024 {
        1024
    } else {
        buckets.next_power_of_two()
    }
}
/// Blocks of tables over all frontends: 262 144 of 16 entries, or 4 096 frontends with a table of 1 021 (16 MiB of
/// values, about 35 MiB with the kernel's overhead when full).
pub const TABLE_BLOCKS_MAX: u32 = 262_144;
/// Entries of one table: the largest prime that 4 096 blocks hold.
pub const TABLE_ENTRIES_MAX: u32 = 65_521;
/// Clients that keep a backend: 65 536 entries of 24 bytes and about 64 of the kernel's, 6 MiB, allocated at the
/// start. Beyond it the least recently seen clients choose again.
pub const AFFINITIES_MAX: u32 = 65_536;
/// Datagrams in fragments at one time: 8 192; beyond it the oldest lose their later fragments.
pub const FRAGMENTS_MAX: u32 = 8_192;
/// Slots that [`super::frontend::LEAST`] looks at: all of a service of 16 tasks. Of more, the best of 16 in a row
/// from a place that moves on: a look at all of them would cost a new flow 60 ns each.
pub const LEAST_LOOK: u32 = 16;
/// Ports that a masqueraded flow tries before it is refused: with half of all ports taken, one flow in 2^8.
pub const MASQUERADE_TRIES: u32 = 8;
/// Sockets with a translated address (UDP affinity and reverse entries, TCP reverse entries).
pub const SOCKS_MAX: u32 = 131_072;
/// The same of IPv6 sockets that asked for IPv6 addresses (those that asked for mapped IPv4 ones are above): half as
/// many, of 56 bytes and about 64 of the kernel's, 7.5 MiB, allocated at the start.
pub const SOCKS6_MAX: u32 = 65_536;
/// Events that wait for the agent: 524 288 bytes, of which each takes 88 and a header of 8: 5 461. The agent looks every
/// 20 ms, so 273 000 events a second fit: what 35 CPUs may tell ([`EVENTS_MAX`]).
pub const EVENT_RING_BYTES: u32 = 1 << 19;
/// Events that a CPU tells in a tick (1.07 s), about what people and a disk can follow: 8 192 of some 100 ns are a
/// thousandth of the CPU. The rest is counted.
pub const EVENTS_MAX: u32 = 8_192;
/// Prefixes that services allow and deny, over all: 4 each for all frontends of a full node is 16 times this;
/// a trie node takes about 100 bytes, so 1.6 MiB when full.
pub const SOURCES_MAX: u32 = 16_384;
/// Prefixes on the node's deny list; about 90 bytes each, so 6 MB when full.
pub const DENIED_MAX: u32 = 65_536;
/// Prefixes of clients whose SYNs are counted: 65 536 entries of 12 bytes and about 64 of the kernel's, 5 MB, allocated
/// at the start. Beyond it the least recently seen begin anew.
pub const SYN_SOURCES_MAX: u32 = 65_536;
